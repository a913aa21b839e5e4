"""`caffe-port convert`: files of other formats, verified, with their certificate."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.commands.common import json_argument, loaded, located, model_arguments, print_json, read, say, tell
from caffe_port.errors import GraphError

if TYPE_CHECKING:
    from caffe_port.artifacts.form import Form
    from caffe_port.evidence import Evidence
    from caffe_port.net import Net
    from caffe_port.preprocessing import Manifest
    from caffe_port.sources import ModelFiles

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    model_arguments(command)
    command.add_argument(
        "-o", "--output", type=Path, default=Path("artifacts"), metavar="DIR", help="default: artifacts"
    )
    command.add_argument(
        "--to",
        action="append",
        metavar="FORMAT",
        help="onnx, ort, openvino, pytorch, pytorch-source, caffemodel or caffemodel-h5; repeat, or separate by commas "
        "(default: onnx,pytorch)",
    )
    command.add_argument("--name", help="name of the files, without suffix (default: the model's)")
    command.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="the model's preprocessing and labels: JSON, or a prototxt or solver with the data layer it was trained "
        "with (a released model's are known)",
    )
    command.add_argument(
        "--state", type=Path, metavar="SAFETENSORS", help="take the weights from a PyTorch state dict, fine-tuned say"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="only list everything that stands in the way; nothing is written"
    )
    form = command.add_argument_group("form")
    form.add_argument("--fold", action="store_true", help="fold BatchNorm, Scale, Bias and consecutive linear layers")
    form.add_argument(
        "--half",
        nargs="?",
        const="weights",
        choices=("weights", "all"),
        help="16-bit weights, or (all) 16-bit computation too; ONNX",
    )
    form.add_argument("--int8", action="store_true", help="8-bit quantization, folded; ONNX; see --calibrate")
    form.add_argument("--preprocess", action="store_true", help="picture in: the model's preprocessing inside; ONNX")
    form.add_argument("--opset", type=int, metavar="N", help="of ONNX (default: 17)")
    form.add_argument(
        "--batch", type=_batch, metavar="N|symbolic", help="a fixed batch, or an open one (default: open if it can be)"
    )
    form.add_argument(
        "--external-data",
        action="store_true",
        default=None,
        help="weights beside the .onnx file (default: from 2 GiB on)",
    )
    form.add_argument(
        "--detection",
        choices=("rows", "boxes"),
        default="rows",
        help="what a detection layer gives out: rows as in Caffe, or the boxes and scores that they are chosen from",
    )
    proof = command.add_argument_group("verification")
    proof.add_argument("--recording", action="append", type=Path, default=[], metavar="NPZ", help="of Caffe's outputs")
    proof.add_argument(
        "--input", action="append", type=Path, default=[], metavar="NPZ", help="further inputs to compare on; repeat"
    )
    proof.add_argument(
        "--images", type=Path, metavar="FOLDER", help="pictures to measure --half, --int8 and --preprocess on"
    )
    proof.add_argument(
        "--calibrate", type=Path, metavar="FOLDER|NPZ", help="pictures, or inputs, to calibrate --int8 with"
    )
    proof.add_argument(
        "--budget",
        type=float,
        metavar="SHARE",
        help="largest error of an output of --half, --int8, --preprocess, as a share of its largest magnitude "
        "(default: 0.001 for 16-bit weights and --preprocess, 0.01 for --half all, 0.05 for --int8)",
    )
    proof.add_argument("--no-verify", action="store_true", help="do not compare; the certificate says so")
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port.artifacts.form import DEFAULT_TARGETS, Form
    from caffe_port.conversion import convert

    files = located(args)
    targets = [target for given in args.to or [",".join(DEFAULT_TARGETS)] for target in given.split(",") if target]
    manifest = _manifest(args, files)
    if args.preprocess and manifest is None:
        raise GraphError("nothing is known of this model's preprocessing: give a manifest, --manifest FILE")
    form = Form(
        fold=args.fold,
        half=args.half,
        int8=args.int8,
        preprocessing=manifest.preprocessing if args.preprocess and manifest is not None else None,
        opset=args.opset,
        batch=args.batch,
        external_data=args.external_data,
        detection=args.detection,
    )
    if args.dry_run:
        return _dry_run(args, files, targets, form)
    form.check(targets)
    net = loaded(args, files)
    recordings = args.recording or ([] if args.state else files.recordings())
    if args.state:
        net = _with_state(net, args.state, args.allow_non_finite)
    if not recordings and not args.no_verify:
        say("note: there is no recording of Caffe for this model; it is compared with the NumPy float64 run")
    done = convert(
        net,
        args.output,
        args.name or files.name,
        targets,
        form=form,
        evidence=_evidence(args, net, recordings, manifest),
        manifest=manifest,
        budget=args.budget,
        verify=not args.no_verify,
        command=_repeating(args),
        say=say,
    )
    if args.json:
        print_json({"verdict": done.certificate.verdict, "files": [str(path) for path in done.files]})
    else:
        for path in done.files:
            tell(path)
        say(done.certificate.verdict)
    return 0


def _batch(text: str) -> int | str:
    if text == "symbolic":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'symbolic'") from None


def _with_state(net: Net, path: Path, allow_non_finite: bool) -> Net:
    """The net with the weights of a PyTorch state dict, which its sources then name."""
    from dataclasses import replace

    from caffe_port.converters.from_pytorch import read_safetensors, with_state_dict
    from caffe_port.net import Source

    state, table = read_safetensors(path)
    told = len(net.notes)
    net = with_state_dict(net, state, table, allow_non_finite=allow_non_finite)
    for note in net.notes[told:]:
        say(f"note: {note}")
    return replace(net, sources=(*net.sources, Source("state", path)))


def _manifest(args: argparse.Namespace, files: ModelFiles) -> Manifest | None:
    """What is known of a model's preprocessing and labels: from the file given, or because it is a released one."""
    from caffe_port.scoring.manifests import manifest_from, released_manifest

    if args.manifest is None:
        return None if files.released is None else released_manifest(files.released)
    manifest, notes = manifest_from(args.manifest, _of_any_weights(files))
    for note in notes:
        say(f"note: {note}")
    return manifest


def _of_any_weights(files: ModelFiles) -> Net:
    """The net, whatever is wrong with its weights: that is told where it is converted."""
    return files.load(allow_unknown=True, allow_missing_weights=True, allow_non_finite=True)


def _evidence(args: argparse.Namespace, net: Net, recordings: Sequence[Path], manifest: Manifest | None) -> Evidence:
    from caffe_port.evidence import gather

    evidence = gather(
        net,
        recordings,
        inputs=args.input,
        images=args.images,
        calibration=args.calibrate,
        preprocessing=None if manifest is None else manifest.preprocessing,
        pictures_needed=args.preprocess and not args.no_verify,
    )
    for reason in evidence.passed_over:
        say(f"note: passed over: {reason}")
    return evidence


def _dry_run(args: argparse.Namespace, files: ModelFiles, targets: Sequence[str], form: Form) -> int:
    from dataclasses import replace

    from caffe_port.obstacles import obstacles

    def load(with_weights: bool) -> Net:
        wanted = files if with_weights else replace(files, weights=())
        lenient = argparse.Namespace(**{**vars(args), "allow_missing_weights": True, "refuse_unused_weights": False})
        return read(lenient, wanted, allow_unknown=True)

    found = obstacles(load, targets, form)
    stopping = sum(one.stops for one in found)
    if args.json:
        print_json({"convertible": not stopping, "obstacles": [one.as_json() for one in found]})
    else:
        for one in found:
            tell(f"{'stops' if one.stops else 'note '}  {one.kind}: {one.text}")
        say(f"{stopping} stand in the way" if stopping else "nothing stands in the way")
    return 2 if stopping else 0


def _repeating(args: argparse.Namespace) -> str:
    """The command that repeats a conversion, run where its files lie; paths are no part of what is certified."""
    words = ["caffe-port", "convert", _base(args.model), *map(_base, args.weights)]
    skipped = {"run", "debug", "model", "weights", "output", "json", "offline", "dry_run"}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    defaults = {"limit": [], **vars(parser.parse_args([args.model, *args.weights]))}
    for option, value in sorted(vars(args).items()):
        if option in skipped or value == defaults[option]:
            continue
        name = f"--{option.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            words.append(name)
            if one is not True and one != "":
                words.append(_base(one))
    return shlex.join(words)


def _base(given: object) -> str:
    text = str(given)
    return Path(text).name if os.sep in text else text

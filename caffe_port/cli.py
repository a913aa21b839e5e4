"""The command `caffe-port`: one verb a function, which reads its arguments, calls the library and prints.

Exit codes: 0 well, 1 a verification failed or an image has no score, 2 bad input, 70 a fault of caffe_port itself, 130
interrupted. Errors go to standard error, one line a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port._version import __version__
from caffe_port.errors import CaffePortError, GraphError, ParityError

if TYPE_CHECKING:
    from caffe_port.artifacts.form import Form
    from caffe_port.calibration.choosing import Rule
    from caffe_port.calibration.data import Scored
    from caffe_port.calibration.report import Calibration
    from caffe_port.evidence import Evidence
    from caffe_port.net import Net
    from caffe_port.preprocessing import Manifest
    from caffe_port.proto.solverstate import SolverState
    from caffe_port.sources import ModelFiles
    from caffe_port.upgrading import SolverFile

__all__ = ["main"]

MODEL_HELP = "a released model (open_nsfw), a folder, a prototxt, or a caffemodel alone"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    debug = False
    try:
        parser = _parser()
        args = parser.parse_args(argv)
        if not hasattr(args, "run"):
            parser.print_help()
            return 2
        debug = args.debug
        for path in getattr(args, "plugin", ()):
            from caffe_port.registry import load_plugin

            load_plugin(path)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); Python would complain once more when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CaffePortError, KeyboardInterrupt, MemoryError, OSError) as error:
        if debug:
            raise
        message, code = _told(error)
        _say(f"caffe-port: {message}")
        return code
    except Exception as error:
        if debug:
            raise
        _say(f"caffe-port: internal error, please report it with what --debug prints: {type(error).__name__}: {error}")
        return 70


def _told(error: BaseException) -> tuple[str, int]:
    """An error in words for people, and the exit code for it."""
    if isinstance(error, CaffePortError):
        return str(error), 1 if isinstance(error, ParityError) else 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-done was left behind", 130
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", 2
    return "not enough memory", 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="caffe-port",
        description="Reads Caffe models without Caffe, proves that every layer computes the same, "
        "and exports them to PyTorch and ONNX.",
    )
    parser.add_argument("--version", action="version", version=f"caffe-port {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", title="commands")

    def verb(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=text, description=text)
        command.set_defaults(run=function)
        command.add_argument("--debug", action="store_true", help="give the traceback of an error")
        return command

    command = verb("fetch", _fetch, "get a released model into the cache and say where it is")
    command.add_argument("model", help="its name: open_nsfw")
    _offline(command)
    _json(command)

    command = verb("convert", _convert, "convert a model to ONNX, PyTorch, or back to Caffe, and verify the files")
    _model(command)
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
    _json(command)

    command = verb("verify", _verify, "compare a model, layer by layer, with what Caffe computed")
    _model(command)
    command.add_argument(
        "--recording", action="append", type=Path, default=[], metavar="NPZ", help="of Caffe's outputs"
    )
    command.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="numpy, numpy64, torch or onnxruntime (default: all installed)",
    )
    command.add_argument("--input", type=Path, metavar="NPZ", help="inputs, where the recording does not hold them")
    command.add_argument(
        "--isolated", action="store_true", help="run each layer from its recorded inputs, where they are complete"
    )
    command.add_argument(
        "--self",
        action="store_true",
        dest="among_themselves",
        help="without a recording: compare the backends with each other, which proves less",
    )
    command.add_argument("--certificate", type=Path, metavar="JSON", help="write the certificate there")
    command.add_argument("-v", "--verbose", action="store_true", help="a line for every blob")
    _json(command)

    command = verb("inspect", _inspect, "list the layers of a model, or what a solver or its state says")
    _model(command)
    command.add_argument("--splits", action="store_true", help="also the Split layers that Caffe inserts")
    command.add_argument("--dot", action="store_true", help="print the graph for Graphviz")
    command.add_argument("--svg", type=Path, metavar="FILE", help="draw the graph (needs Graphviz)")
    _json(command)

    command = verb("run", _run, "run a model on arrays: npz in, npz out")
    _model(command)
    command.add_argument("--input", type=Path, metavar="NPZ", help="an array for each input blob")
    command.add_argument(
        "--read-data", action="store_true", help="let the net's data layers read what they name; one batch"
    )
    command.add_argument(
        "--data-root", type=Path, default=Path(), metavar="DIR", help="what their paths are relative to (default: here)"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="NPZ")
    command.add_argument("--blob", action="append", metavar="NAME", help="which blobs (default: the outputs; 'all')")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32")

    command = verb("score", _score, "score images: the probability that they are not safe for work")
    _score_arguments(command)

    command = verb(
        "calibrate", _calibrate, "from labels and scores to a threshold: curves, confidence, bins, comparisons"
    )
    command.add_argument(
        "tables", nargs="*", type=Path, metavar="FILE", help="CSV or Parquet; several are of the same images"
    )
    given = command.add_argument_group("data")
    given.add_argument("--label", default="label", metavar="COLUMN", help="the column of labels (default: label)")
    given.add_argument(
        "--score", action="append", metavar="COLUMN", help="a column of scores, a model each; repeat (default: score)"
    )
    given.add_argument(
        "--key", metavar="COLUMN", help="match the rows of several files by this column, the image's name say"
    )
    given.add_argument("--positive-label", metavar="NAME", help="which label is positive (default: 1 or true)")
    given.add_argument(
        "--skip-unscored", action="store_true", help="leave rows without a score out, do not refuse them"
    )
    given.add_argument(
        "--positive", type=Path, metavar="FOLDER", help="instead of files: score these images now, positives"
    )
    given.add_argument("--negative", type=Path, metavar="FOLDER", help="and these, negatives")
    given.add_argument("--model", default="open_nsfw", help="what to score folders with (default: open_nsfw)")
    given.add_argument("--backend", choices=("onnxruntime", "torch", "numpy"), help="default: the first installed")
    _offline(given)
    rule = command.add_argument_group("threshold", "one rule; without any, the largest Youden index")
    one = rule.add_mutually_exclusive_group()
    one.add_argument(
        "--max-fpr", type=float, metavar="RATE", help="flag at most this share of negatives, with confidence"
    )
    one.add_argument(
        "--max-fnr", type=float, metavar="RATE", help="miss at most this share of positives, with confidence"
    )
    one.add_argument("--max-f1", action="store_true", help="largest F1")
    one.add_argument("--youden", action="store_true", help="largest recall less false positive rate")
    one.add_argument("--cost-fp", type=float, metavar="COST", help="least cost, with --cost-fn: of a false positive")
    rule.add_argument("--cost-fn", type=float, metavar="COST", help="of a false negative, in the same unit")
    rule.add_argument(
        "--prevalence", type=float, metavar="SHARE", help="of positives where it will be used (default: as in the data)"
    )
    rule.add_argument("--confidence", type=float, default=0.95, help="of bounds and intervals (default: 0.95)")
    rule.add_argument(
        "--threshold",
        action="append",
        type=float,
        default=[],
        metavar="VALUE",
        help="compare with this one too; repeat",
    )
    rule.add_argument(
        "--check",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="a threshold's file: does it hold on these data? Exit code 1 if not; repeat",
    )
    command.add_argument(
        "--bins",
        type=_bins,
        default=10,
        metavar="N|ENDS",
        help="how many score bins, or their ends: 0.2,0.8 (default: 10)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    command.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="write threshold, report, page and figures there"
    )
    command.add_argument(
        "--figures",
        type=lambda text: [] if text == "none" else text.split(","),
        metavar="FORMATS",
        help="png, svg, both (default with --output, where matplotlib is installed), or none",
    )
    _json(command)

    command = verb("record", _record, "record what a Caffe computes: the script for its machine, and a check")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", action="store_true", help="print the script; it needs pycaffe and NumPy alone")
    what.add_argument("--check", type=Path, metavar="NPZ", help="say whether a recording is whole")
    command.add_argument("--net", metavar="PROTOTXT", help="with --check: the net it must be of")
    _json(command)

    command = verb("layers", _layers, "list the layer types that are known, and what each can be converted to")
    _plugin(command)
    _json(command)

    command = verb(
        "upgrade", _upgrade, "write an old net (text or binary) or solver in today's form, as Caffe's tools do"
    )
    command.add_argument("source", type=Path, metavar="IN", help="prototxt, caffemodel or solver prototxt")
    command.add_argument("target", type=Path, metavar="OUT", help="text for text, binary for binary; may be IN itself")
    _json(command)
    return parser


def _offline(command: argparse._ActionsContainer) -> None:
    command.add_argument("--offline", action="store_true", help="never use the network")


def _plugin(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Python code with layer types; it is run",
    )


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON for programs")


def _model(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("weights", nargs="*", help="caffemodel files, loaded one after the other")
    command.add_argument("--phase", choices=("TEST", "TRAIN"), default="TEST", help="default: TEST")
    command.add_argument("--level", type=int, default=0, help="the level that include and exclude rules ask for")
    command.add_argument("--stage", action="append", default=[], help="a stage that rules ask for; repeat")
    command.add_argument(
        "--input-shape", action="append", default=[], metavar="BLOB=N,C,H,W", help="the shape of an input; repeat"
    )
    command.add_argument(
        "--refuse-unused-weights", action="store_true", help="make weights that no layer takes an error, not a note"
    )
    command.add_argument(
        "--allow-python-layers",
        action="store_true",
        help="run Python classes that the net names; only if trusted",
    )
    command.add_argument("--allow-missing-weights", action="store_true", help="let layers have no weights")
    _plugin(command)
    _offline(command)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _located(args: argparse.Namespace) -> ModelFiles:
    from caffe_port.models.fetch import TerminalProgress
    from caffe_port.sources import locate

    return locate(args.model, args.weights, offline=args.offline, progress=TerminalProgress())


def _read(args: argparse.Namespace, files: ModelFiles, *, allow_unknown: bool = False) -> Net:
    return files.load(
        phase=args.phase,
        level=args.level,
        stages=args.stage,
        input_shapes=_shapes(args.input_shape),
        allow_missing_weights=args.allow_missing_weights,
        allow_python_layers=args.allow_python_layers,
        refuse_unused_weights=args.refuse_unused_weights,
        allow_unknown=allow_unknown,
    )


def _loaded(args: argparse.Namespace, files: ModelFiles, *, allow_unknown: bool = False) -> Net:
    net = _read(args, files, allow_unknown=allow_unknown)
    for dialect in net.dialects:
        _say(f"note: in the dialect of {dialect}")
    for note in net.notes:
        _say(f"note: {note}")
    return net


def _shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in given:
        name, equals, dims = text.partition("=")
        try:
            shapes[name] = tuple(int(dim) for dim in dims.replace("x", ",").split(","))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise GraphError(f"--input-shape {text!r}: give it as BLOB=N,C,H,W")
    return shapes


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _fetch(args: argparse.Namespace) -> int:
    from caffe_port import models
    from caffe_port.models.fetch import TerminalProgress, fetch

    models.get(args.model)
    found = fetch(args.model, offline=args.offline, progress=TerminalProgress())
    if args.json:
        _print_json({"prototxt": str(found.prototxt), "caffemodel": str(found.caffemodel), "source": found.source})
    else:
        print(found.prototxt)
        print(found.caffemodel)
    return 0


def _batch(text: str) -> int | str:
    if text == "symbolic":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'symbolic'") from None


def _convert(args: argparse.Namespace) -> int:
    from caffe_port.artifacts.form import DEFAULT_TARGETS, Form
    from caffe_port.conversion import convert

    files = _located(args)
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
    )
    if args.dry_run:
        return _dry_run(args, files, targets, form)
    form.check(targets)
    net = _loaded(args, files)
    recordings = args.recording or ([] if args.state else files.recordings())
    if args.state:
        net = _with_state(net, args.state)
    if not recordings and not args.no_verify:
        _say("note: there is no recording of Caffe for this model; it is compared with the NumPy float64 run")
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
        say=_say,
    )
    if args.json:
        _print_json({"verdict": done.certificate.verdict, "files": [str(path) for path in done.files]})
    else:
        for path in done.files:
            print(path)
        _say(done.certificate.verdict)
    return 0


def _with_state(net: Net, path: Path) -> Net:
    """The net with the weights of a PyTorch state dict, which its sources then name."""
    from dataclasses import replace

    from caffe_port.converters.from_pytorch import read_safetensors, with_state_dict
    from caffe_port.net import Source

    state, table = read_safetensors(path)
    net = with_state_dict(net, state, table)
    return replace(net, sources=(*net.sources, Source("state", path)))


def _manifest(args: argparse.Namespace, files: ModelFiles) -> Manifest | None:
    """What is known of a model's preprocessing and labels: from the file given, or because it is a released one."""
    from caffe_port.scoring.classifier import manifest_from, released_manifest

    if args.manifest is None:
        return None if files.released is None else released_manifest(files.released)
    manifest, notes = manifest_from(args.manifest, files.load(allow_unknown=True, allow_missing_weights=True))
    for note in notes:
        _say(f"note: {note}")
    return manifest


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
        _say(f"note: passed over: {reason}")
    return evidence


def _dry_run(args: argparse.Namespace, files: ModelFiles, targets: Sequence[str], form: Form) -> int:
    from dataclasses import replace

    from caffe_port.obstacles import obstacles

    def load(with_weights: bool) -> Net:
        wanted = files if with_weights else replace(files, weights=())
        lenient = argparse.Namespace(**{**vars(args), "allow_missing_weights": True, "refuse_unused_weights": False})
        return _read(lenient, wanted, allow_unknown=True)

    found = obstacles(load, targets, form)
    stopping = sum(one.stops for one in found)
    if args.json:
        _print_json({"convertible": not stopping, "obstacles": [one.as_json() for one in found]})
    else:
        for one in found:
            print(f"{'stops' if one.stops else 'note '}  {one.kind}: {one.text}")
        _say(f"{stopping} stand in the way" if stopping else "nothing stands in the way")
    return 2 if stopping else 0


def _repeating(args: argparse.Namespace) -> str:
    """The command that repeats a conversion, run where its files lie; paths are no part of what is certified."""
    words = ["caffe-port", "convert", _base(args.model), *map(_base, args.weights)]
    skipped = {"run", "debug", "model", "weights", "output", "json", "offline", "dry_run"}
    defaults = vars(_parser().parse_args(["convert", args.model, *args.weights]))
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


def _verify(args: argparse.Namespace) -> int:
    from caffe_port import recording
    from caffe_port.arrays import read_npz
    from caffe_port.backends import make_backend
    from caffe_port.certificate import Certificate
    from caffe_port.conversion import verification_backends
    from caffe_port.verification import Reference, verify_isolated

    files = _located(args)
    net = _loaded(args, files)
    paths = args.recording or files.recordings()
    backends = [make_backend(name) for name in args.backend] if args.backend else verification_backends(net)
    inputs = read_npz(args.input) if args.input else None
    if args.among_themselves:
        return _verify_self(args, net, inputs)
    if args.isolated and not paths:
        raise GraphError("--isolated needs a recording")
    if not paths:
        _say("note: there is no recording of Caffe for this model; it is compared with the NumPy float64 run")
    reports = []
    for path in paths or [None]:
        recorded = None if path is None else recording.read(path)
        reference = None if args.isolated else Reference.make(net, recorded, inputs)
        for backend in backends:
            if reference is not None:
                report = reference.compare(backend)
            else:
                assert recorded is not None
                report = verify_isolated(net, recorded, backend, inputs=inputs)
            reports.append(report)
            if not args.json:
                if args.verbose:
                    for line in report.table():
                        print(line)
                print(report.explanation())
    certificate = Certificate(net, (), tuple(paths), tuple(reports))
    if args.certificate:
        certificate.write(args.certificate)
    if args.json:
        print(certificate.dumps(), end="")
    return 0 if certificate.ok else 1


def _verify_self(args: argparse.Namespace, net: Net, inputs: dict[str, Any] | None) -> int:
    from caffe_port.backends import make_backend
    from caffe_port.verification import verify_self

    if args.recording or args.isolated or args.certificate:
        raise GraphError("--self uses no recording and makes no certificate")
    backends = [make_backend(name) for name in args.backend] if args.backend else None
    compared = verify_self(net, inputs, backends)
    if args.json:
        _print_json(compared.as_json())
    else:
        for line in compared.lines():
            print(line)
    return 0 if compared.ok else 1


def _record(args: argparse.Namespace) -> int:
    from caffe_port import recorder

    if args.script:
        if args.net or args.json:
            raise GraphError("--net and --json go with --check")
        print(recorder.script(), end="")
        return 0
    checked = recorder.check(args.check, args.net)
    if args.json:
        _print_json(checked.as_json())
    else:
        for line in checked.lines():
            print(line)
    return 0 if checked.ok else 1


def _inspect(args: argparse.Namespace) -> int:
    from caffe_port.drawing import draw_svg
    from caffe_port.shapes import format_shape
    from caffe_port.summary import summarize, to_dot

    if not args.weights and (told := _inspected_file(args.model)) is not None:
        if args.json:
            _print_json(told.as_json())
        else:
            for line in told.table():
                print(line)
        return 0
    net = _loaded(args, _located(args), allow_unknown=True)
    for problem in net.unknown_problems():
        _say(f"note: not understood: {problem}")
    summary = summarize(net)
    if args.svg:
        draw_svg(net, args.svg)
        _say(f"wrote {args.svg}")
    if args.json:
        _print_json(summary.as_json())
    elif args.dot:
        print(to_dot(net), end="")
    elif not args.svg:
        for line in summary.table(splits=args.splits):
            print(line)
        for what, blobs in (("inputs", summary.inputs), ("outputs", summary.outputs)):
            print(f"{what}: " + ", ".join(f"{name} {format_shape(shape)}" for name, shape in blobs.items()))
    return 0


def _inspected_file(model: str) -> SolverFile | SolverState | None:
    """A solver or a solver's state, which are no nets; None for anything else."""
    from caffe_port.proto import solverstate
    from caffe_port.upgrading import kind_of, read_solver

    if not Path(model).is_file():
        return None
    kind = kind_of(model)
    if kind == "solver":
        solver = read_solver(model)
        for step in solver.steps:
            _say(f"note: upgraded: {step}")
        return solver
    return solverstate.read(model) if kind == "solverstate" else None


def _upgrade(args: argparse.Namespace) -> int:
    from caffe_port.upgrading import upgrade_file

    done = upgrade_file(args.source, args.target)
    for warning in done.warnings:
        _say(f"note: {warning}")
    if args.json:
        _print_json({"kind": done.kind, "steps": list(done.steps), "warnings": [str(w) for w in done.warnings]})
    else:
        print(f"{args.target}: {'; '.join(done.steps) or 'a file of today, nothing to upgrade'}")
    return 0


def _run(args: argparse.Namespace) -> int:
    from caffe_port.arrays import read_npz, write_npz
    from caffe_port.runtime import run

    if args.input is None and not args.read_data:
        raise GraphError("give the inputs: --input NPZ, or --read-data where the net has data layers")
    files = _located(args)
    inputs = {} if args.input is None else read_npz(args.input)
    if args.read_data:
        from caffe_port.datasets import open_sources

        batch = next(open_sources(files.definition, phase=args.phase, root=args.data_root))
        # What is given counts for more than what is read.
        inputs = {**batch, **inputs}
        args.input_shape += [f"{name}={','.join(map(str, batch[name].shape))}" for name in batch]
    net = _loaded(args, files)
    wanted = args.blob or list(net.outputs)
    blobs = run(net, inputs, dtype=args.dtype, outputs=None if wanted == ["all"] else wanted)
    write_npz(args.output, blobs)
    for name, value in blobs.items():
        print(f"{name} {'x'.join(map(str, value.shape)) or '()'} {value.dtype}")
    return 0


_SCORE_EPILOG = """\
examples:
  caffe-port score photo.jpg                              one image; 0 is safe for work, 1 is not
  caffe-port score -r photos -o scores.csv                a folder with all below it, into a table for spreadsheets
  caffe-port score -r photos -o scores.csv --resume       the same, going on where a run was interrupted
  caffe-port score -r photos --rank | head                the highest scores
  caffe-port score photos.zip shards/*.tar -o s.parquet   what is in archives, without unpacking them to disk
  find . -name '*.jpg' -print0 | caffe-port score -0 -    a list of files
  caffe-port score -r photos --threshold 0.8 --json       JSON, a line an image, with "flagged": true or false
  caffe-port score cat.jpg --model caffenet.onnx --top-k 5    the five likeliest labels of another classifier

An image that cannot be read is a row with the reason, and the others go on.
exit code: 0 every image has a score, 1 some have an error, 2 wrong usage, 130 interrupted.
docs/scoring.md has every column.
"""


def _score_arguments(command: argparse.ArgumentParser) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _SCORE_EPILOG
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="file, folder, archive (zip, tar, also compressed), pattern in quotes, or - for a list on standard input",
    )
    what = command.add_argument_group("what is scored")
    what.add_argument("-r", "--recursive", action="store_true", help="of folders, also what is in their subfolders")
    what.add_argument(
        "--all",
        action="store_true",
        help="of folders and archives every file, not only those that end as an image and are not hidden",
    )
    what.add_argument("-0", "--null", action="store_true", help="the names of a list end with a NUL byte, not a line")
    model = command.add_argument_group("with what")
    model.add_argument(
        "--model",
        default="open_nsfw",
        help="a released model, a prototxt, a caffemodel alone, a folder, or an ONNX file (default: open_nsfw)",
    )
    model.add_argument(
        "--weights", action="append", default=[], metavar="FILE", help="the caffemodel of a prototxt; repeat"
    )
    model.add_argument(
        "--manifest", metavar="FILE", help="how images become the model's input, where the model does not say it"
    )
    model.add_argument("--backend", choices=("onnxruntime", "torch", "numpy"), help="default: the first installed")
    model.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="int8: faster, and less exact (docs/scoring.md)",
    )
    model.add_argument("--draft", action="store_true", help="prepare images faster, and less exactly (docs/scoring.md)")
    model.add_argument("--batch-size", type=int, metavar="N", help="images computed at once")
    model.add_argument(
        "--workers", type=int, metavar="N", help="threads that read and compute (default: the processors)"
    )
    _offline(model)
    out = command.add_argument_group("what comes out")
    out.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=".csv, .jsonl, .parquet or .txt; it appears when all is scored (default: print)",
    )
    out.add_argument("--format", choices=("table", "csv", "jsonl", "parquet"), help="default: by FILE, else a table")
    out.add_argument("--json", action="store_const", dest="format", const="jsonl", help="the same as --format jsonl")
    out.add_argument("--rank", action="store_true", help="the highest score first, errors last; printed at the end")
    out.add_argument("--top-k", type=int, metavar="K", help="also the K likeliest labels")
    out.add_argument("--probabilities", action="store_true", help="also the probability of every label")
    out.add_argument("--threshold", type=float, metavar="X", help="say of each image whether its score is at least X")
    out.add_argument("--threshold-file", type=Path, metavar="FILE", help="as `caffe-port calibrate` writes it")
    out.add_argument("--quiet", action="store_true", help="no progress, no summary")
    again = command.add_argument_group("after an interruption")
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on where a run with the same --output stopped; begin if there was none",
    )
    again.add_argument("--retry-errors", action="store_true", help="with --resume: score again what had an error")
    cluster = command.add_argument_group("on a cluster (docs/spark.md)")
    cluster.add_argument(
        "--engine", choices=("local", "spark"), default="local", help="spark: folders, URLs and Parquet in, Parquet out"
    )
    cluster.add_argument("--master", metavar="URL", help="of Spark: local[2], yarn, … (default: Spark's configuration)")
    cluster.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help="a setting of Spark; repeat")
    cluster.add_argument(
        "--keep", action="append", default=[], metavar="COLUMN", help="a column of Parquet to take along; repeat"
    )
    cluster.add_argument("--overwrite", action="store_true", help="replace the output, with --engine spark")


def _score_spark(args: argparse.Namespace) -> int:
    from caffe_port.models.fetch import TerminalProgress
    from caffe_port.scoring.classifier import open_classifier
    from caffe_port.scoring.run import verdict
    from caffe_port.scoring.spark import score_paths, session

    others = ("rank", "resume", "retry_errors", "null", "workers")
    refused = [f"--{name.replace('_', '-')}" for name in others if getattr(args, name)]
    if refused or args.format not in (None, "parquet") or args.output is None or "-" in args.images:
        what = ", ".join(refused) or "it needs --output, writes Parquet, and takes no list on standard input"
        raise GraphError(f"--engine spark: {what}{' are for one machine' if refused else ''}")
    settings = dict(text.partition("=")[::2] for text in args.conf)
    options: dict[str, Any] = {"offline": args.offline, "progress": TerminalProgress()}
    model = args.model
    if args.weights or args.manifest:
        model = open_classifier(model, args.weights, args.manifest, **options)
    with session(args.master, settings) as spark:
        summary = score_paths(
            spark,
            args.images,
            args.output,
            model,
            overwrite=args.overwrite,
            all_files=args.all,
            keep=args.keep,
            backend=args.backend,
            precision=args.precision,
            draft=args.draft,
            batch_size=args.batch_size,
            top_k=args.top_k,
            probabilities=args.probabilities,
            flag=lambda model: verdict(args.threshold, args.threshold_file, model.name),
            **options,
        )
    if not args.quiet:
        _say(f"{args.output}: {summary}")
    if summary.failed:
        _say(f"caffe-port: {summary.failed:,} of {summary.scored + summary.failed:,} images could not be scored")
    return 0 if summary.ok else 1


def _score(args: argparse.Namespace) -> int:
    from caffe_port.models.fetch import TerminalProgress
    from caffe_port.scoring.classifier import open_classifier
    from caffe_port.scoring.run import Progress, score_all, verdict
    from caffe_port.scoring.scorer import Scorer
    from caffe_port.scoring.sinks import Columns, FileSink, RankedSink, StreamSink, format_of
    from caffe_port.scoring.sources import Sources

    if args.engine == "spark":
        return _score_spark(args)
    if args.master or args.conf or args.keep or args.overwrite:
        raise GraphError("--master, --conf, --keep and --overwrite are for --engine spark")
    # Not before: of s3a://b a Path would make s3a:/b.
    output = None if args.output is None else Path(args.output)
    form = format_of(output, args.format)
    if args.resume and output is None:
        raise GraphError("--resume goes on with a file: name it with --output")
    if args.retry_errors and not args.resume:
        raise GraphError("--retry-errors is for --resume")
    if args.resume and output is not None and FileSink.is_complete(output):
        _say(f"{output} is complete: no run to go on with; without --resume it is made anew")
        return 0
    sources = Sources(args.images, recursive=args.recursive, all_files=args.all, null=args.null)
    options: dict[str, Any] = {"offline": args.offline, "progress": TerminalProgress()}
    model = args.model
    if args.weights or args.manifest:
        model = open_classifier(model, args.weights, args.manifest, **options)
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(
            Scorer(model, backend=args.backend, precision=args.precision, draft=args.draft, **options)
        )
        model = scorer.model
        for note in model.notes:
            _say(f"note: {note}")
        flag = verdict(args.threshold, args.threshold_file, model.name)
        # Where no label is the score, a score without its label says nothing.
        top_k = int(model.score_index is None) if args.top_k is None else args.top_k
        columns = Columns(model.name, model.labels, model.score_index, top_k, args.probabilities, flag)
        sink: FileSink | StreamSink
        if output is not None:
            settings = {
                "model": model.identity,
                "backend": scorer.backend,
                "precision": scorer.precision,
                "draft": scorer.draft,
                "threshold": None if flag is None else flag.value,
                # Names can be relative to it.
                "folder": os.fsencode(Path.cwd()).decode(errors="backslashreplace"),
            }
            sink = FileSink(
                output,
                form,
                columns,
                settings=settings,
                rank=args.rank,
                resume=args.resume,
                retry_errors=args.retry_errors,
                note=lambda text: _say(f"note: {text}"),
            )
        else:
            sink = (RankedSink if args.rank else StreamSink)(sys.stdout.buffer, form, columns)
        stack.enter_context(sink)
        # Where rows go to the same terminal they are progress enough.
        seen = output is None and not args.rank and sys.stdout.isatty()
        progress = stack.enter_context(Progress(sources, quiet=args.quiet or seen))
        try:
            summary = score_all(
                sources, scorer, sink, batch_size=args.batch_size, workers=args.workers, progress=progress
            )
        except BaseException as error:
            stack.close()  # the line of progress, before what is said
            if not isinstance(sink, FileSink):
                raise
            kept = f"{sink.kept:,} rows are kept in {sink.journal}: the same command with --resume goes on"
            if isinstance(error, KeyboardInterrupt):
                _say(f"caffe-port: interrupted; {kept}")
                return 130
            _say(f"note: {kept}")
            raise
    if args.output is not None and not args.quiet:
        _say(f"{args.output}: {summary}")
    failed = summary.failed + summary.failed_before
    if failed:
        total = summary.scored + summary.failed + summary.skipped
        _say(f"caffe-port: {failed:,} of {total:,} images could not be scored")
    return 0 if summary.ok else 1


def _bins(text: str) -> int | list[float]:
    try:
        return [float(end) for end in text.split(",")] if "," in text or "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of bins nor their ends") from None


def _calibrate(args: argparse.Namespace) -> int:
    from caffe_port.calibration import threshold
    from caffe_port.calibration.data import read_tables
    from caffe_port.calibration.report import calibrate

    if (args.cost_fp is None) != (args.cost_fn is None):
        raise GraphError("--cost-fp and --cost-fn go together")
    if (args.positive is None) != (args.negative is None) or bool(args.tables) == (args.positive is not None):
        raise GraphError("give files of scores, or both --positive FOLDER and --negative FOLDER")
    checked = [(str(path), threshold.read(path)) for path in args.check]
    scored: Scored | None = None
    if args.tables:
        data = read_tables(
            args.tables,
            label=args.label,
            scores=args.score or ["score"],
            key=args.key,
            positive_label=args.positive_label,
            skip_unscored=args.skip_unscored,
        )
    else:
        scored = _scored_folders(args)
        data = scored.data
        for name, error in scored.failed:
            _say(f"caffe-port: {name}: {error}")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        if scored is not None:
            # Before anything can be refused: scoring is what takes long.
            scored.write_csv(args.output / "scores.csv")
    found = calibrate(
        data,
        rule=_rule(args, data.positives / len(data.labels)),
        thresholds=args.threshold,
        checked=checked,
        confidence=args.confidence,
        bins=args.bins,
        prevalence=args.prevalence,
        seed=args.seed,
    )
    if args.output:
        _write_calibration(args, found)
    if args.json:
        _print_json(found.as_json())
    else:
        for line in found.table():
            print(line)
    for note in found.notes:
        _say(f"note: {note}")
    return 0 if found.ok else 1


def _rule(args: argparse.Namespace, share: float) -> Rule:
    from caffe_port.calibration.choosing import Rule
    from caffe_port.calibration.threshold import Costs

    if args.cost_fp is not None:
        return Rule(
            "cost", costs=Costs(args.cost_fp, args.cost_fn, share if args.prevalence is None else args.prevalence)
        )
    for name, target in (("max-fpr", args.max_fpr), ("max-fnr", args.max_fnr)):
        if target is not None:
            return Rule(name, target)
    return Rule("f1" if args.max_f1 else "youden")


def _scored_folders(args: argparse.Namespace) -> Scored:
    from caffe_port.calibration.data import score_images
    from caffe_port.models.fetch import TerminalProgress
    from caffe_port.scoring.scorer import Scorer
    from caffe_port.scoring.sources import Sources

    folders = [str(args.positive), str(args.negative)]
    with Scorer(args.model, backend=args.backend, offline=args.offline, progress=TerminalProgress()) as scorer:
        if scorer.model.score_index is None:
            raise GraphError(f"{args.model}: no class of it is the score; score with a model that has one")
        positive, negative = (Sources([folder], recursive=True).items() for folder in folders)
        return score_images(
            positive,
            negative,
            scorer,
            score_index=scorer.model.score_index,
            model=args.model,
            source=", ".join(folders),
        )


def _write_calibration(args: argparse.Namespace, found: Calibration) -> None:
    from importlib.util import find_spec

    from caffe_port.calibration.figures import FORMATS, write_figures
    from caffe_port.pages.calibration import page
    from caffe_port.proto.files import replacing

    paths = found.write_thresholds(args.output)
    found.write_json(args.output / "calibration.json")
    with replacing(args.output / "calibration.html") as stream:
        stream.write(page(found).encode())
    formats = args.figures
    if formats is None:
        formats = FORMATS if find_spec("matplotlib") else []
        if not formats:
            _say("note: no figures, as matplotlib is not installed: pip install 'caffe_port[calibration]'")
    figures = write_figures(found, args.output, formats) if formats else []
    for path in [*paths, args.output / "calibration.json", args.output / "calibration.html", *figures]:
        _say(f"wrote {path}")


def _layers(args: argparse.Namespace) -> int:
    from caffe_port import layer_table

    if args.json:
        _print_json([row.as_json() for row in layer_table.layer_rows()])
        return 0
    for line in layer_table.as_text():
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

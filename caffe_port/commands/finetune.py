"""`caffe-port finetune`: a model and one's own images, to a model fine-tuned on them."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.commands.common import (
    MODEL_HELP,
    json_argument,
    offline_argument,
    plugin_argument,
    print_json,
    say,
    tell,
)
from caffe_port.errors import GraphError

if TYPE_CHECKING:
    from caffe_port.finetuning.recipe import Recipe

__all__ = ["add_arguments", "run"]

_EPILOG = """\
examples:
  caffe-port finetune open_nsfw --data photos -o tuned          a subfolder of photos for each class
  caffe-port finetune open_nsfw --data photos -o tuned --classes sfw,nsfw     the classes in this order, not by name
  caffe-port finetune open_nsfw --data labels.csv -o tuned      columns path, label and, if it has one, split
  caffe-port finetune open_nsfw --data photos -o tuned --freeze 'conv_1' --freeze '*stage[01]*' --class-weights balanced
  caffe-port finetune deploy.prototxt a.caffemodel --data photos -o tuned --manifest preprocessing.json

Ctrl-C ends after the current iteration, with a snapshot, from which --resume goes on; a second one at once, without.
exit code: 0 done, 1 a file that disagrees, 2 data, a model or options that cannot be used, 130 stopped by Ctrl-C.
docs/finetuning.md has the recipe.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _EPILOG
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("weights", nargs="*", help="caffemodel files, loaded one after the other")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a folder for all files")
    command.add_argument("--name", help="name of the files (default: the model's, and _finetuned)")
    command.add_argument("--resume", action="store_true", help="go on where a run into this folder was stopped")
    command.add_argument("--manifest", type=Path, metavar="FILE", help="the model's preprocessing and labels")
    data = command.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="FOLDER|CSV", help="images with their classes")
    data.add_argument(
        "--validation",
        default="0.2",
        metavar="SHARE|FOLDER|CSV",
        help="the share of each class that is held back, or other images to validate with (default: 0.2)",
    )
    data.add_argument("--classes", metavar="A,B,…", help="the names of the classes, in order")
    data.add_argument("--positive", metavar="CLASS", help="of two classes the one whose probability is the score")
    data.add_argument(
        "--class-weights",
        default="none",
        metavar="balanced|A,B,…",
        help="what an image of each class counts; balanced: the rarer the more",
    )
    net = command.add_argument_group("net")
    net.add_argument("--head", metavar="LAYER", help="the layer that is replaced (default: the one before the Softmax)")
    net.add_argument("--keep-head", action="store_true", help="go on with the model's own head")
    net.add_argument("--head-factor", type=float, metavar="X", help="its rate, in those of the others (default: 5)")
    net.add_argument(
        "--freeze", action="append", default=[], metavar="PATTERN", help="layers that do not learn, conv_1*; repeat"
    )
    net.add_argument(
        "--batch-statistics", action="store_true", help="BatchNorm normalizes by the batch and moves its statistics"
    )
    net.add_argument("--size", type=int, metavar="N", help="height and width of the input (default: the net's)")
    training = command.add_argument_group("training")
    training.add_argument("--epochs", type=float, metavar="X", help="how often each image is seen (default: 10)")
    training.add_argument("--iterations", type=int, metavar="N", help="instead of --epochs")
    training.add_argument("--batch", type=int, metavar="N", help="images of an iteration (default: 32)")
    training.add_argument("--base-lr", type=float, metavar="X", help="the rate (default: 0.001)")
    training.add_argument("--steps", type=int, metavar="N", help="how often the rate falls (default: 1)")
    training.add_argument("--gamma", type=float, metavar="X", help="what it then is multiplied by (default: 0.1)")
    training.add_argument("--momentum", type=float, metavar="X", help="default: 0.9")
    training.add_argument("--weight-decay", type=float, metavar="X", help="default: 0.0001")
    training.add_argument(
        "--scale", metavar="MIN,MAX", help="of the shorter side, in pixels (default: 256,480 for an input of 224)"
    )
    training.add_argument("--no-scale", action="store_true", help="resize as for use, without scale augmentation")
    training.add_argument("--no-mirror", action="store_true", help="do not mirror")
    training.add_argument(
        "--evaluate-every", type=int, metavar="N", help="iterations between two validations (default: an epoch)"
    )
    training.add_argument(
        "--patience", type=int, metavar="N", help="validations without a smaller loss that end it; 0: none (default: 5)"
    )
    training.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 0)")
    machine = command.add_argument_group("machine")
    machine.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (default: a GPU where there is one)")
    machine.add_argument("--threads", type=int, metavar="N", help="threads that compute (default: the processors)")
    machine.add_argument("--workers", type=int, metavar="N", help="processes that prepare images (0: none)")
    result = command.add_argument_group("result")
    result.add_argument(
        "--to", metavar="FORMATS", help="as of convert, separated by commas (default: onnx,pytorch,caffemodel)"
    )
    result.add_argument("--no-verify", action="store_true", help="do not compare the files; the certificate says so")
    command.add_argument("--quiet", action="store_true", help="do not print the log")
    json_argument(command)
    plugin_argument(command)
    offline_argument(command)


def run(args: argparse.Namespace) -> int:
    for name, least in (("threads", 1), ("workers", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise GraphError(f"--{name} must be at least {least}, it is {value}")
    recipe = _recipe(args)
    targets = _targets(args)
    from caffe_port.commands.train import chosen_device, outputs, signals
    from caffe_port.finetuning.finishing import finish
    from caffe_port.finetuning.report import summary
    from caffe_port.finetuning.run import Finetuning
    from caffe_port.models.progress import TerminalProgress
    from caffe_port.scoring.manifests import manifest_from
    from caffe_port.sources import locate
    from caffe_port.training.log import Log, ProgressLine

    files = locate(args.model, args.weights, offline=args.offline, progress=TerminalProgress())
    manifest = None
    if args.manifest is not None:
        manifest, notes = manifest_from(args.manifest, files.load(allow_missing_weights=True))
        for note in notes:
            say(f"note: {note}")
    device = chosen_device(args.device, args.threads)
    work = Finetuning(
        files,
        args.data,
        args.output,
        recipe,
        validation=_validation(args.validation),
        classes=None if args.classes is None else [name.strip() for name in args.classes.split(",")],
        positive=args.positive,
        manifest=manifest,
        name=args.name,
        threads=args.threads,
        resume=args.resume,
    )
    counts = zip(
        work.dataset.classes, *map(work.dataset.counts, (work.dataset.train, work.dataset.validation)), strict=True
    )
    for name, train, held in counts:
        say(f"{name}: {train} images to train with, {held} to validate with")
    before = work.before()
    for note in work.notes:
        say(f"note: {note}")
    progress = ProgressLine(sys.stderr)
    with outputs(args) as streams:
        log = Log(*streams, progress=progress)
        try:
            trained = work.train(device=device, workers=args.workers, log=log, progress=progress, around=signals)
        finally:
            progress.clear()
    if trained.stopped:
        best = "none yet" if trained.best is None else f"iteration {trained.best.iteration}"
        say(
            f"caffe-port: interrupted at iteration {trained.iteration}; snapshot {trained.snapshot}; best: {best}; "
            "--resume goes on"
        )
        return 130
    result = finish(
        work, targets, before=before, trained=trained, verify=not args.no_verify, command=_repeating(args), say=say
    )
    if args.json:
        import json

        print_json(json.loads((args.output / "report.json").read_text(encoding="utf-8")))
        return 0
    for line in summary(result):
        tell(line)
    for path in result.files:
        tell(path)
    if result.conversion is not None:
        say(result.conversion.certificate.verdict)
    return 0


def _targets(args: argparse.Namespace) -> tuple[str, ...]:
    """What is to be written. Checks, before hours of training, what only the end needs. Raises: GraphError;
    MissingDependency."""
    from caffe_port.artifacts.form import ONNX_TARGETS, Form
    from caffe_port.calibration import libraries  # noqa: F401
    from caffe_port.optional import require_onnxruntime, require_torch

    require_torch()
    from caffe_port.finetuning.finishing import TARGETS

    targets = TARGETS if args.to is None else tuple(name for name in args.to.split(",") if name)
    Form().check(targets)
    if any(target in ONNX_TARGETS for target in targets) and not args.no_verify:
        require_onnxruntime("leave verification out with --no-verify")
    return targets


def _recipe(args: argparse.Namespace) -> Recipe:
    from caffe_port.finetuning.recipe import Recipe

    given = {
        name: getattr(args, name)
        for name in (
            "epochs", "iterations", "batch", "base_lr", "steps", "gamma", "momentum", "weight_decay", "size", "head",
            "evaluate_every", "patience", "seed",
        )
        if getattr(args, name) is not None
    }  # fmt: skip
    if args.head_factor is not None:
        given["factor"] = args.head_factor
    if args.scale is not None:
        given["scale"] = _numbers("--scale", args.scale, int, 2)
    weights = args.class_weights
    return Recipe(
        **given,
        scale_augmentation=not args.no_scale,
        mirror=not args.no_mirror,
        keep_head=args.keep_head,
        freeze=tuple(args.freeze),
        batch_statistics=args.batch_statistics,
        class_weights=weights if weights in ("none", "balanced") else _numbers("--class-weights", weights, float),
    )


def _numbers(option: str, text: str, kind: type[int] | type[float], count: int | None = None) -> tuple[float, ...]:
    try:
        values = tuple(kind(word) for word in text.split(","))
    except ValueError:
        values = ()
    if not values or (count is not None and len(values) != count):
        raise GraphError(f"{option} {text!r}: {count or 'some'} numbers are needed, separated by commas")
    return values


def _validation(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _repeating(args: argparse.Namespace) -> str:
    """The command that repeats it, run where its files lie; paths are no part of what is certified."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    required = ["--data", args.data, "--output", os.fspath(args.output)]
    defaults = vars(parser.parse_args([args.model, *args.weights, *required]))
    skipped = {"run", "debug", "model", "weights", "data", "output", "json", "offline", "resume", "quiet", "device"}
    words = ["caffe-port", "finetune", Path(args.model).name, *(Path(name).name for name in args.weights)]
    words += ["--data", Path(args.data).name, "--output", args.output.name]
    for option, value in sorted(vars(args).items()):
        if option in skipped or option not in defaults or value == defaults[option]:
            continue
        for one in value if isinstance(value, list) else [value]:
            words.append(f"--{option.replace('_', '-')}")
            if one is not True:
                words.append(Path(one).name if os.sep in str(one) else str(one))
    return shlex.join(words)

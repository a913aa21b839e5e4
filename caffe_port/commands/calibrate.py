"""`caffe-port calibrate`: labels and scores to a threshold."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_port.commands.common import json_argument, offline_argument, print_json, say, tell
from caffe_port.errors import GraphError

if TYPE_CHECKING:
    from caffe_port.calibration.choosing import Rule
    from caffe_port.calibration.data import Scored
    from caffe_port.calibration.report import Calibration

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
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
    offline_argument(given)
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
    json_argument(command)


def run(args: argparse.Namespace) -> int:
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
            say(f"caffe-port: {name}: {error}")
    if args.output and scored is not None:
        # Before anything can be refused: scoring is what takes long.
        args.output.mkdir(parents=True, exist_ok=True)
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
        print_json(found.as_json())
    else:
        for line in found.table():
            tell(line)
    for note in found.notes:
        say(f"note: {note}")
    return 0 if found.ok else 1


def _bins(text: str) -> int | list[float]:
    try:
        return [float(end) for end in text.split(",")] if "," in text or "." in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of bins nor their ends") from None


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
    from caffe_port.models.progress import TerminalProgress
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
    from caffe_port.proto.files import move_together, replacing, workshop

    formats = args.figures
    if formats is None:
        formats = FORMATS if find_spec("matplotlib") else []
        if not formats:
            say("note: no figures, as matplotlib is not installed: pip install 'caffe_port[calibration]'")
    reports = ["calibration.json", "calibration.html"]
    with workshop(args.output) as made:
        written = [*found.write_thresholds(made), *(write_figures(found, made, formats) if formats else ())]
        found.write_json(made / reports[0])
        with replacing(made / reports[1]) as stream:
            stream.write(page(found).encode())
        names = [path.name for path in written]
        move_together(made, args.output, names, reports)
    for name in [*names, *reports]:
        say(f"wrote {args.output / name}")

"""`caffe-port score`: images to scores."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from caffe_port.commands.common import offline_argument, say
from caffe_port.errors import GraphError

__all__ = ["add_arguments", "run"]


_EPILOG = """\
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


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _EPILOG
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
    offline_argument(model)
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


def run(args: argparse.Namespace) -> int:
    from caffe_port.models.progress import TerminalProgress
    from caffe_port.scoring.classifier import open_classifier
    from caffe_port.scoring.columns import Columns
    from caffe_port.scoring.formats import format_of
    from caffe_port.scoring.run import Progress, score_all, verdict
    from caffe_port.scoring.scorer import Scorer
    from caffe_port.scoring.sinks import FileSink, RankedSink, StreamSink
    from caffe_port.scoring.sources import Sources

    if args.engine == "spark":
        return _run_spark(args)
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
        say(f"{output} is complete: no run to go on with; without --resume it is made anew")
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
            say(f"note: {note}")
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
                note=lambda text: say(f"note: {text}"),
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
                say(f"caffe-port: interrupted; {kept}")
                return 130
            say(f"note: {kept}")
            raise
    if args.output is not None and not args.quiet:
        say(f"{args.output}: {summary}")
    failed = summary.failed + summary.failed_before
    if failed:
        total = summary.scored + summary.failed + summary.skipped
        say(f"caffe-port: {failed:,} of {total:,} images could not be scored")
    return 0 if summary.ok else 1


def _run_spark(args: argparse.Namespace) -> int:
    from caffe_port.models.progress import TerminalProgress
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
        say(f"{args.output}: {summary}")
    if summary.failed:
        say(f"caffe-port: {summary.failed:,} of {summary.scored + summary.failed:,} images could not be scored")
    return 0 if summary.ok else 1

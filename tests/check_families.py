#!/usr/bin/env python3
"""Converts every deploy net of forks among the prototxts of public repositories, and compares what the results compute.

usage: check_families.py [--only PART]… [--log FILE] [--write FILE] [--jobs N] [--full-size] FOLDER

FOLDER has `prototxt/` with INDEX.tsv. A net is looked at if it uses a fork's layer or field, has no data layer and no
loss. It is built with the weights and inputs of `fill.py`, at a smaller input where it is large and the net allows
that; converted to ONNX, which is checked (standard domains only, full shape inference), and to PyTorch; and run layer
by layer under onnxruntime and PyTorch. Both are held against the NumPy run by its noise floor, as `caffe-port verify`
does. Layers that choose by values (rows of detections, the mask of a pooling) are run by themselves on the NumPy run's
values, and what follows them is given its choice (see choices.py). A blob that is further off than its floor allows
though its layer's inputs agree is looked into: PyTorch must then agree in float64, where no kernel's order of summing
counts (to a thousandth of what float32's floor allows); onnxruntime, which has no float64 for these operators, with
the layer by itself on NumPy's values, where no noise of its inputs counts. The verdict says so.

`--log` adds each verdict to a file of JSON lines, so that the whole can be done in pieces: what stands there is not
done again unless `--only` names it. `--write` puts the table of all verdicts between the markers of a Markdown file.
Exit code 1 if a net that can be built disagrees.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import fill
import numpy as np
from choices import cut
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.compare import BlobComparison
from caffe_port.layers.base import LayerDef
from caffe_port.layers.unknown import UnknownLayer
from caffe_port.net import Layer
from caffe_port.summary import summarize
from caffe_port.verification import Reference, single_layer

Arrays = dict[str, NDArray[np.float32]]

MARKERS = "<!-- families: made by tests/check_families.py -->", "<!-- /families -->"
LARGE = 1.5e9
"""Multiply-accumulates of a pass; a net of more is tried with a smaller input."""
DIALECTS = {
    "opencv__open_model_zoo": "opencv/open_model_zoo",
    "s9xie__hed": "s9xie/hed",
    "zeakey__DeepSkeleton": "zeakey/DeepSkeleton",
}
"""What has to be asked for, by the start of the file's name: nothing in these nets tells it."""
TINY = 1e-3
"""The share of a blob's bound (float32's) that PyTorch may use in float64."""
FORK_FILES = ("arrangement", "detection", "detection_loss", "fork_normalization", "mobile", "roi", "sequence")
FORK_FILES += ("upsampling", "yolo")


@dataclass(frozen=True)
class Verdict:
    """One net: what it is, whether it agrees, and how well, or why not."""

    family: str
    file: str
    layers: int
    inputs: str
    dialect: str
    kind: str
    text: str
    seconds: float = 0.0


def weights_of(net: cp.Net) -> dict[str, list[NDArray[np.float32]]]:
    """fill.py's values for every learned blob, those of its owner for a shared one; forks' types get those of
    upstream's that mean the same.
    """
    made: dict[int, NDArray[np.float32]] = {}
    weights: dict[str, list[NDArray[np.float32]]] = {}
    for layer in net.layers:
        for i, weight in enumerate(layer.weights):
            values = made.setdefault(id(weight.owner or weight), _values(layer, i, weight.shape))
            weights.setdefault(layer.name, []).append(values.reshape(weight.shape))
    return weights


def _values(layer: Any, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    kind = layer.type
    if kind in ("DepthwiseConvolution", "ConvolutionDepthwise"):
        kind = "Convolution"
    elif kind == "Normalize" or (kind == "BatchNorm" and index > 2) or (kind == "BN" and index < 2):
        kind, index = "Scale", index % 3 if kind == "BatchNorm" else index
    elif kind == "BN":
        kind, index = "BatchNorm", index - 2
    # A blob of no axes has one value; fill.py draws arrays.
    return fill.fill(layer.name, kind, index, shape or (1,)).reshape(shape)


def inputs_of(net: cp.Net) -> Arrays:
    """fill.py's inputs; what must be a shape or boxes is that of the net's picture."""
    shapes = net.input_shapes
    plane = next((shape[2:] for shape in shapes.values() if len(shape) == 4 and shape[2] > 1), (1, 1))
    return {name: _input(name, shape, plane) for name, shape in shapes.items()}


def _input(name: str, shape: tuple[int, ...], plane: tuple[int, ...]) -> NDArray[np.float32]:
    values = fill.input_data(name, shape)
    if name == "im_info":
        info = [*plane, 1.0] + [1.0] * (shape[-1] - 3)
        return np.broadcast_to(np.array(info, np.float32)[: shape[-1]], shape).copy()
    if name in ("rois", "proposals") and shape[1:2] == (5,):
        corners = np.abs(values[:, 1:]).reshape(len(values), 4) % (min(plane) / 2)
        boxes = np.concatenate([np.zeros((len(values), 1)), corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
        return boxes.astype(np.float32).reshape(shape)
    if name in ("cont", "clip", "seq_ind", "indicator"):
        return (values > 0).astype(np.float32)
    return values


def is_deploy(net: cp.Net) -> bool:
    """Whether all that the net is fed with comes from the caller, and it does not learn or measure."""
    makers = {"Input", "Parameter", "DummyData", "ContinuationIndicator"}
    return (
        bool(net.input_blobs)
        and all(layer.bottoms or layer.type in makers for layer in net.layers)
        and not any("Loss" in layer.type or "LOSS" in layer.type or layer.type == "Accuracy" for layer in net.layers)
    )


def is_of_fork(net: cp.Net) -> bool:
    return bool(net.dialects) or any(_is_of_fork(layer.definition) for layer in net.layers)


def _is_of_fork(definition: LayerDef) -> bool:
    return isinstance(definition, UnknownLayer) or type(definition).__module__.rpartition(".")[2] in FORK_FILES


def affordable(net: cp.Net) -> cp.Net:
    """The net with one item, at the largest plane that is not LARGE, else at the smallest that it allows."""
    single = {name: (1, *shape[1:]) for name, shape in net.input_shapes.items() if len(shape) == 4}
    best = _reshaped(net, single) or net
    pictures = {name: shape for name, shape in best.input_shapes.items() if len(shape) == 4 and min(shape[2:]) > 32}
    for part in (0.75, 0.5, 0.34, 0.25, 0.17):
        if not pictures or summarize(best).macs <= LARGE:
            break
        for whole, more in ((64, 0), (32, 0), (32, 1), (16, 1), (8, 1)):
            sizes = {
                name: (*shape[:2], *(max(whole, int(side * part) // whole * whole) + more for side in shape[2:]))
                for name, shape in pictures.items()
            }
            made = _reshaped(best, sizes)
            if made is not None:
                best = made
                break
    return best


def _reshaped(net: cp.Net, shapes: Mapping[str, tuple[int, ...]]) -> cp.Net | None:
    try:
        return net.with_input_shapes(shapes)
    except cp.CaffePortError:
        return None


def first_line(error: BaseException) -> str:
    """What is wrong, without where the file lies; of several problems the first two kinds, and how many."""
    problems = getattr(error, "problems", ()) or ()
    if problems:
        kinds = collections.Counter(problem.message.split(";")[0].split(" (")[0] for problem in problems)
        told = "; ".join(f"{text} ({number}x)" if number > 1 else text for text, number in kinds.most_common(2))
        return told + (f"; and {len(kinds) - 2} more kinds" if len(kinds) > 2 else "")
    return " ".join(str(error).split())[:200]


def check(path: Path, family: str, full_size: bool) -> Verdict | None:
    """The verdict on one file; None for what is no deploy net of a fork."""
    asked = next((name for start, name in DIALECTS.items() if path.name.startswith(start)), None)
    try:
        seen = cp.load(path, allow_unknown=True, allow_missing_weights=True, dialect=asked)
    except cp.CaffePortError:
        return None
    except Exception as error:  # noqa: BLE001 - no error but our own is to reach a user
        return Verdict(family, path.name, 0, "", "", "CRASH", f"{type(error).__name__}: {first_line(error)}")
    if not is_deploy(seen) or not is_of_fork(seen):
        return None
    shapes = ", ".join("x".join(map(str, shape)) for shape in seen.input_shapes.values())
    dialect = asked or (seen.dialects[0].repository if seen.dialects else "")
    own = (family, path.name, len(seen.layers), shapes, dialect)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            net, remark = loaded(path, asked, Path(folder))
            net = net.with_weights(weights_of(net))
        except cp.CaffePortError as error:
            return Verdict(*own, "not known", first_line(error))
        try:
            if not full_size:
                net = affordable(net)
            shapes = ", ".join("x".join(map(str, shape)) for shape in net.input_shapes.values())
            own = (family, path.name, len(net.layers), shapes, dialect)
            kind, text = compared(net)
            text += remark
        except cp.CaffePortError as error:
            kind, text = "refused", first_line(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this net's, and the others are to run
            kind, text = "CRASH", f"{type(error).__name__}: {first_line(error)}"
    return Verdict(*own, kind, text, time.monotonic() - started)


def loaded(path: Path, dialect: str | None, folder: Path) -> tuple[cp.Net, str]:
    """The net, and what of it was changed: one that draws random numbers in TEST cannot be compared."""
    prototxt = path.read_text(encoding="utf-8", errors="surrogateescape")
    sampling = "sample_weights_test: true"
    if sampling not in prototxt:
        return cp.load(path, allow_missing_weights=True, dialect=dialect), ""
    changed = folder / path.name
    text = prototxt.replace(sampling, "sample_weights_test: false")
    changed.write_text(text, encoding="utf-8", errors="surrogateescape")
    return cp.load(changed, allow_missing_weights=True, dialect=dialect), " (without sample_weights_test)"


def compared(net: cp.Net) -> tuple[str, str]:
    """Both targets against the NumPy run: the kind of the verdict, and the multiples of the floor, or what failed."""
    import onnx

    from caffe_port.backends import OnnxBackend, TorchBackend
    from caffe_port.converters.to_onnx import to_onnx

    model = to_onnx(net)
    domains = {node.domain for node in model.graph.node} | {entry.domain for entry in model.opset_import}
    if domains - {"", "ai.onnx"}:
        return "DISAGREES", f"operators of {', '.join(sorted(domains))}"
    onnx.checker.check_model(model, full_check=True)
    # Where layers choose by values, what follows them is given the NumPy run's choice.
    remains, inputs, chosen = cut(net, inputs_of(net))
    if remains is not net:
        net, model = remains, to_onnx(remains)
    reference = Reference.make(net, inputs=inputs)
    told, failed = [], []
    for name, backend in (("onnxruntime", OnnxBackend(model)), ("PyTorch", TorchBackend())):
        alone = OnnxBackend() if name == "onnxruntime" else backend
        failed += [f"{name}: {why}" for choice in chosen if (why := choice.disagreement(alone))]
        report = reference.compare(backend)
        if report.worst is not None:
            told.append(f"{name} {report.worst.of_bound:.2f}")
        if report.ok:
            continue
        causes = [one for one in report.failures() if not one.inputs_diverged]
        if name == "PyTorch":
            exact = reference.compare(TorchInFloat64())
            agrees = exact.ok and exact.worst is not None and exact.worst.of_bound <= TINY
            remark = "in float64 it agrees"
        else:
            agrees = not report.missing and not report.extra and all(alone_agrees(reference, one) for one in causes)
            remark = "by itself it agrees"
        if agrees:
            told[-1] += f" ({', '.join(one.top for one in causes)}; {remark})"
        else:
            failed.append(report.explanation())
    return ("DISAGREES", "; ".join(failed)) if failed else ("agrees", ", ".join(told))


@dataclass(frozen=True)
class TorchInFloat64:
    """The PyTorch module in float64: what it computes, without the rounding of float32's kernels."""

    name: str = "PyTorch in float64"
    outputs_only: bool = False

    def trace(
        self, net: cp.Net, inputs: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[Layer, tuple[NDArray[Any], ...]]]:
        import torch

        module: Any = cp.to_pytorch(net).double()
        with torch.no_grad():
            values = module.trace(*[torch.from_numpy(np.array(inputs[name], np.float64)) for name in net.inputs])
        for layer in net.layers:
            if not layer.definition.is_input and layer.type != "Split":
                yield layer, tuple(values[top].numpy() for top in layer.tops)


def alone_agrees(reference: Reference, diverged: BlobComparison) -> bool:
    """Whether onnxruntime agrees on the layer of a diverging blob, run by itself on the NumPy run's float32 values."""
    from caffe_port.backends import NumpyBackend, OnnxBackend

    for layer, bottoms, _ in NumpyBackend().trace_with_bottoms(reference.net, reference.inputs):
        if layer.index == diverged.index:
            alone = single_layer(layer)
            values = dict(zip(layer.bottoms, bottoms, strict=True))
            own = dict(zip(alone.inputs, values.values(), strict=True))
            return Reference.make(alone, inputs=own).compare(OnnxBackend()).ok
    return False


def table(verdicts: list[Verdict]) -> str:
    """The verdicts as Markdown: how many agree, family by family, and each net."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for one in verdicts:
        counts[one.family or "other"][one.kind] += 1
    lines = ["| family | nets | agree | not |", "|---|---|---|---|"]
    for family in sorted(counts, key=str.casefold):
        total = sum(counts[family].values())
        lines.append(f"| {family} | {total} | {counts[family]['agrees']} | {total - counts[family]['agrees']} |")
    lines += ["", "| family | file | layers | input | dialect | verdict |", "|---|---|---|---|---|---|"]
    for one in sorted(verdicts, key=lambda one: (one.family.casefold() or "zz", one.file)):
        said = f"{one.kind}: {one.text}".replace("|", "\\|")
        cells = (one.family or "other", f"`{one.file}`", one.layers, one.inputs, one.dialect, said)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Puts the text between the markers of a file."""
    before, found, rest = path.read_text(encoding="utf-8").partition(MARKERS[0])
    _, closing, after = rest.partition(MARKERS[1])
    if not found or not closing:
        raise SystemExit(f"{path}: no {MARKERS[0]} … {MARKERS[1]} in it")
    path.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="part of a file's name or family")
    parser.add_argument("--log", type=Path, metavar="FILE", help="verdicts so far, and where new ones are added")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a Markdown file with the markers")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--full-size", action="store_true", help="inputs as the files have them")
    args = parser.parse_args()
    folder = args.folder / "prototxt"
    with (folder / "INDEX.tsv").open(encoding="utf-8") as file:
        rows = [(folder / row["file"], row["family"]) for row in csv.DictReader(file, delimiter="\t")]
    verdicts = logged(args.log) if args.log and args.log.exists() else {}
    if args.only:
        rows = [row for row in rows if any(part in row[0].name or part == row[1] for part in args.only)]
    else:
        rows = [row for row in rows if row[0].name not in verdicts]
    with ProcessPoolExecutor(args.jobs) as pool:
        for verdict in pool.map(check, *zip(*rows, strict=True), [args.full_size] * len(rows)) if rows else ():
            if verdict is None:
                continue
            verdicts[verdict.file] = verdict
            print(
                f"{verdict.kind}: {verdict.file} ({verdict.inputs}; {verdict.seconds:.0f} s): {verdict.text}",
                flush=True,
            )
            if args.log:
                with args.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(asdict(verdict)) + "\n")
    if not verdicts:
        raise SystemExit("no deploy net of a fork among them")
    kinds = collections.Counter(verdict.kind for verdict in verdicts.values())
    print(f"{len(verdicts)} nets: {', '.join(f'{number} {kind}' for kind, number in kinds.most_common())}")
    if args.write:
        write(args.write, table(list(verdicts.values())))
    return 1 if kinds["DISAGREES"] or kinds["CRASH"] else 0


def logged(path: Path) -> dict[str, Verdict]:
    """The verdicts of earlier runs by file; of one that was done twice the last."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {one.file: one for one in (Verdict(**json.loads(line)) for line in lines)}


if __name__ == "__main__":
    sys.exit(main())

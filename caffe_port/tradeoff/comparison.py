"""Nets by name or file → a comparison: what each costs, how long it takes, how accurate it is published to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port import build
from caffe_port.errors import GraphError, Problems
from caffe_port.frontend import NetState, PlacedLayer
from caffe_port.models import RELEASED
from caffe_port.net import Net
from caffe_port.shapes import format_shape
from caffe_port.sources import locate
from caffe_port.tradeoff.counting import RULES, Cost, cost_of, of_one_picture
from caffe_port.tradeoff.published import Accuracy, published
from caffe_port.tradeoff.timing import RUNS, WARM_UP, Timing, time_forward

if TYPE_CHECKING:
    from caffe_port.models.progress import Progress

__all__ = ["ANNOUNCED", "Comparison", "Row", "compare", "parse_accuracy"]

ANNOUNCED = ("alexnet", "ms_ctc", "squeezenet_v1.0", "vgg16", "googlenet", "resnet50", "resnet50_1by2")
"""The architectures that the announcement of open_nsfw compares."""

GIVEN = "given on the command line"
"""The source of an accuracy that nobody published."""


@dataclass(frozen=True, slots=True)
class Row:
    """One net of a comparison.

    `name` is what it was asked for by, `title` what it is called in tables and figures. `accuracies` may be empty.
    """

    name: str
    title: str
    net: Net
    cost: Cost
    accuracies: tuple[Accuracy, ...] = ()
    timing: Timing | None = None

    @property
    def accuracy(self) -> Accuracy | None:
        """The result that tables and figures show: the first that has a top-1 accuracy."""
        return next((one for one in self.accuracies if one.top1 is not None), None)

    @property
    def top1(self) -> float | None:
        """A share from 0 to 1, of `accuracy`."""
        return None if self.accuracy is None else self.accuracy.top1

    @property
    def top5(self) -> float | None:
        """A share from 0 to 1, of `accuracy`."""
        return None if self.accuracy is None else self.accuracy.top5

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "inputs": {name: list(shape) for name, shape in self.net.input_shapes.items()},
            **self.cost.as_json(),
            "time": None if self.timing is None else self.timing.as_json(),
            "accuracy": [one.as_json() for one in self.accuracies],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Nets side by side, each for one picture."""

    rule: str
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "format": "caffe_port comparison 1",
            "rule": self.rule,
            "batch": 1,
            "nets": [row.as_json() for row in self.rows],
        }

    def table(self) -> Iterator[str]:
        """The lines of a table for people, and what the numbers mean."""
        timed = any(row.timing for row in self.rows)
        head = ["net", "input", "parameters", "MACs", "blobs", "at once", "caffemodel"]
        head += ["time", "ratio"] * timed + ["top-1", "top-5"]
        cells = [head, *(_cells(row, timed) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for i, line in enumerate(cells):
            left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
            yield "  ".join([*left, *right]).rstrip()
            if i == 0:
                yield "-" * (sum(widths) + 2 * (len(widths) - 1))
        yield ""
        yield from self.remarks()
        for row in self.rows:
            for one in row.accuracies:
                yield f"{row.title}: {told(one)}"

    def remarks(self) -> Iterator[str]:
        """What the numbers mean, a sentence or two each."""
        yield f"For one picture. Parameters and multiply-accumulates (MACs): {RULES[self.rule]}."
        yield (
            "Memory in float32: blobs as Caffe keeps them, each once; at once: those needed at the same time, without "
            "what a layer needs to compute."
        )
        if not all(row.cost.model_measured for row in self.rows):
            names = ", ".join(row.title for row in self.rows if not row.cost.model_measured)
            yield f"No caffemodel can be written of {names}: 4 bytes a parameter instead."
        timing = next((row.timing for row in self.rows if row.timing is not None), None)
        if timing is not None:
            threads = (
                "threads as NumPy's BLAS is set"
                if timing.threads is None
                else f"{timing.threads} thread{'s' * (timing.threads > 1)}"
            )
            yield (
                f"Time: {timing.backend}, {threads}, median of {timing.runs} passes after {WARM_UP} untimed ones, "
                f"in turns with {self.rows[0].title}, to which the ratio is. Weights that no file brings are random: "
                "the time does not depend on them."
            )


def told(one: Accuracy) -> str:
    """A result in words."""
    shares = [f"{name} {percent(value)}" for name, value in (("top-1", one.top1), ("top-5", one.top5)) if value]
    where = f" <{one.url}>" if one.url else ""
    return f"{', '.join(shares)} ({one.protocol}): {one.source}{where}"


def percent(share: float | None) -> str:
    """A share for people: `66.79 %`; nothing for None."""
    return "" if share is None else f"{round(100 * share, 2):.4g} %"


def megabytes(size: int) -> str:
    """Bytes in MB of a million."""
    return f"{size / 1e6:.1f} MB"


def milliseconds(timing: Timing | None) -> str:
    return "" if timing is None else f"{1000 * timing.seconds:.1f} ms"


def _cells(row: Row, timed: bool) -> list[str]:
    cost, timing = row.cost, row.timing
    return [
        row.title,
        ", ".join(format_shape(shape) for shape in row.net.input_shapes.values()),
        f"{cost.parameters:,}",
        f"{cost.macs:,}",
        megabytes(cost.activation_bytes),
        megabytes(cost.peak_activation_bytes),
        megabytes(cost.model_bytes),
        *([milliseconds(timing), f"{timing.ratio:.2f}" if timing else ""] if timed else []),
        percent(row.top1),
        percent(row.top5),
    ]


def compare(
    nets: Sequence[str] = ANNOUNCED,
    *,
    rule: str = "complete",
    accuracies: Mapping[str, Accuracy] | None = None,
    backend: str | None = None,
    timed: bool = False,
    threads: int = 1,
    runs: int = RUNS,
    offline: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Counts nets for one picture each, and joins what is published.

    - `nets`: an architecture's name (with its own number of classes), a released model, a prototxt, a caffemodel, or a
      folder with both; `NAME=NET` calls it so.
    - `rule`: of `RULES`. `accuracies`: of nets by name; they are shown before published ones.
    - `timed`: also time a forward pass; `backend`, `threads`, `runs` as `time_forward` has them.

    Raises: GraphError for unknown nets (all of them at once), for two nets of one name, and for an accuracy of no net;
    what loading, counting and timing raise.
    """
    given = dict(accuracies or {})
    specs = [_named(spec) for spec in nets]
    problems = Problems()
    for name, uses in Counter(name for name, _ in specs).items():
        if uses > 1:
            problems.add(GraphError, f"{uses} nets are called {name!r}", hint="tell them apart: NAME=NET")
    names = [name for name, _ in specs]
    for name in given:
        if name not in names:
            problems.add(GraphError, f"an accuracy is given of {name!r}; the nets are {', '.join(names)}")
    unknown = [net for _, net in specs if not _is_there(net)]
    if unknown:
        problems.add(GraphError, _not_found(unknown))
    problems.raise_if_any()
    rows = []
    for name, wanted in specs:
        net = of_one_picture(_open(wanted, offline, progress))
        found = published().get(wanted) if wanted in _architectures() else None
        title = found.title if found is not None and name == wanted else name
        known = () if found is None else found.results
        known = (given[name], *known) if name in given else known
        rows.append(Row(name, title, net, cost_of(net, rule), known))
    if not timed:
        return Comparison(rule, tuple(rows))
    timings = time_forward([row.net for row in rows], backend, threads=threads, runs=runs)
    return Comparison(rule, tuple(replace(row, timing=timing) for row, timing in zip(rows, timings, strict=True)))


def parse_accuracy(text: str) -> tuple[str, Accuracy]:
    """`NAME=TOP1` or `NAME=TOP1,TOP5`, shares from 0 to 1. Raises GraphError."""
    name, _, values = text.rpartition("=")
    try:
        shares = [float(value) for value in values.split(",")]
    except ValueError:
        shares = []
    if not name or len(shares) not in (1, 2) or not all(0 < share <= 1 for share in shares):
        raise GraphError(f"{text!r} is no accuracy: NAME=TOP1 or NAME=TOP1,TOP5, shares above 0 and at most 1")
    return name, Accuracy(shares[0], shares[1] if len(shares) > 1 else None, "as measured", GIVEN)


def _architectures() -> Mapping[str, Any]:
    from caffe_port.architectures import ARCHITECTURES

    return ARCHITECTURES


def _named(spec: str) -> tuple[str, str]:
    """What a net is called, and which it is."""
    name, equals, net = spec.partition("=")
    if equals and name and net and not Path(spec).exists():
        return name, net
    if spec in _architectures() or spec in RELEASED:
        return spec, spec
    path = Path(spec)
    return (path.resolve().name if path.is_dir() else path.stem) or spec, spec


def _is_there(net: str) -> bool:
    return net in _architectures() or net in RELEASED or Path(net).exists()


def _not_found(nets: Sequence[str]) -> str:
    known = ", ".join(dict.fromkeys([*_architectures(), *RELEASED]))
    return f"no net and no file is called {', '.join(map(repr, nets))}; known: {known}, and prototxts and caffemodels"


def _open(net: str, offline: bool, progress: Progress | None) -> Net:
    if net not in _architectures():
        return locate(net, offline=offline, progress=progress).load()
    from caffe_port.architectures import deploy

    message = deploy(net)
    layers = [PlacedLayer(layer, None, i) for i, layer in enumerate(message.layer)]
    return build.build(layers, name=message.name, state=NetState("TEST"))[0]

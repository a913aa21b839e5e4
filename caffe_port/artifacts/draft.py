"""What a writer gives back: the files, and every way to run them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caffe_port.backends import Backend
from caffe_port.budget import Runner
from caffe_port.certificate import Artifact
from caffe_port.layers.base import Array
from caffe_port.net import Blob, Layer, Net
from caffe_port.passes.fold_linear import fold_linear
from caffe_port.verification import computed_outputs

__all__ = ["DeployedFile", "Draft", "Survivors", "folded"]


@dataclass(slots=True)
class Draft:
    """Files in the workshop, and what verifies them.

    `exact` are held to the noise floor, `budgeted` (by the artifact's name) to a budget on the outputs. `checks` raise
    ParityError themselves. `changes` says in words what was done to the net; `measured` adds to it what pictures show.
    """

    artifacts: list[Artifact] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    exact: list[Backend] = field(default_factory=list)
    budgeted: list[tuple[str, Runner]] = field(default_factory=list)
    checks: list[Callable[[], None]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    measured: list[Callable[[Mapping[str, Array]], str]] = field(default_factory=list)

    def add(self, kind: str, path: Path, *beside: Path, **details: object) -> None:
        """Takes up a file, and those `beside` that it cannot be without."""
        self.artifacts.append(Artifact.of(kind, path, **details))
        self.artifacts += [Artifact.of(f"{kind}, data", one) for one in beside]
        self.files += [path, *beside]


@dataclass(frozen=True, slots=True)
class DeployedFile:
    """A file as users run it, with whatever its runtime does to it: only its outputs can be seen."""

    name: str
    run: Runner
    outputs_only: bool = True

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        values = self.run(inputs)
        names = computed_outputs(net)
        for layer in net.layers:
            if any(top in names for top in layer.tops):
                yield layer, tuple(_as_top(net, top, names.get(top), values) for top in layer.tops)


def _as_top(net: Net, top: Blob, output: str | None, values: Mapping[str, Array]) -> Array | None:
    """The value of an output in the shape of the top that made it; left to be found out if its own shape is wrong."""
    if output is None:
        return None
    value = values[output]
    return value.reshape(top.shape) if value.shape == net.blobs[output].shape else value


def folded(net: Net) -> Net:
    """The net as every writer folds it."""
    return fold_linear(net).net


@dataclass(slots=True)
class Survivors:
    """A backend for what a pass made of a net, seen as the layers of the net it came from.

    A pass leaves each blob that is still computed the same object, so a value belongs to the layer whose top it was. Of
    the layers that were folded away nothing can be seen.
    """

    backend: Backend
    change: Callable[[Net], Net]
    outputs_only: bool = True

    @property
    def name(self) -> str:
        return self.backend.name

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        maker = {top: layer for layer in net.layers for top in layer.tops}
        for changed, tops in self.backend.trace(self.change(net), inputs):
            values = dict(zip(changed.tops, tops, strict=True))
            layer = maker[changed.tops[0]]
            yield layer, tuple(values.get(top) for top in layer.tops)

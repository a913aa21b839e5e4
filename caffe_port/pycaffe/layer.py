"""Layers as scripts see them, and the base of layers written in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffe_port.layers.base import Array, LayerSpec, RunContext, WeightSpec
from caffe_port.layers.python import PythonLayer
from caffe_port.pycaffe.blobs import Blob, BlobVec
from caffe_port.shapes import Shape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Layer", "LivePythonLayer"]


class Layer:
    """A layer of a net: its `type` and its learned `blobs`.

    Layers written in Python derive from it, and have methods setup(bottom, top), reshape(bottom, top),
    forward(bottom, top) and backward(top, propagate_down, bottom). Before setup they have `param_str` (a string) and
    `phase` (0 TRAIN, 1 TEST); in setup they may call `blobs.add_blob(*shape)`.
    """

    type = "Python"
    blobs: BlobVec
    param_str: str = ""
    phase: int = 0

    def __new__(cls, *args: Any, **options: Any) -> Self:
        # Here, since a subclass may have an __init__ that does not call ours.
        layer = super().__new__(cls)
        layer.blobs = BlobVec()
        return layer

    def __init__(self, param: Any = None) -> None:
        """`param` is the layer's message in the prototxt."""


def built_layer(type_name: str, blobs: BlobVec) -> Layer:
    """A layer that is not written in Python."""
    layer = Layer()
    layer.type, layer.blobs = type_name, blobs
    return layer


@dataclass(frozen=True, slots=True, eq=False)
class LivePythonLayer(PythonLayer):
    """A Python layer whose object lives as long as its net: made and set up once, when the net is built.

    What the class raises is left as it is, so that it reaches the script.
    """

    instance: Any
    bottom_names: tuple[str, ...]
    top_names: tuple[str, ...]
    set_up_tops: list[Blob]
    """The tops that `setup` and `reshape` had; the net's own, unless they are in place."""

    @classmethod
    def make(cls, made_by: type[Any], spec: LayerSpec) -> LivePythonLayer:
        instance: Any = (
            made_by(spec.message) if issubclass(made_by, Layer) else made_by.__new__(made_by)  # type: ignore[call-overload]
        )
        if not hasattr(instance, "blobs"):
            instance.blobs = BlobVec()
        param_str = spec.params("python_param").text("param_str")
        instance.param_str = instance.param_str_ = param_str
        instance.phase = int(spec.phase == "TEST")
        return cls(
            made_by, param_str, spec.phase, spec.num_tops,
            instance, tuple(spec.message.bottom), tuple(spec.message.top), [],
        )  # fmt: skip

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if not self.set_up_tops:
            blobs = [Blob(*shape) for shape in bottoms]
            named = dict(zip(self.bottom_names, blobs, strict=True))
            self.set_up_tops.extend(named[name] if name in named else Blob(0) for name in self.top_names)
            self.instance.setup(blobs, self.set_up_tops)
            self.instance.reshape(blobs, self.set_up_tops)
        return [top.shape for top in self.set_up_tops]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        return [WeightSpec(blob.shape) for blob in self.instance.blobs]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        raise NotImplementedError("a live Python layer works on its net's own blobs")

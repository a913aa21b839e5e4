"""Where a net's data comes from, and where it goes.

For running and converting, each data source is an input whose tops the caller gives; Parameter and DummyData make
theirs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import GraphError, MissingDependency, ShapeError
from caffe_port.fillers import Filler
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, Params, RunContext, WeightSpec, refuse
from caffe_port.proto.files import replacing
from caffe_port.registry import layer
from caffe_port.shapes import Shape, check_shape, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Data",
    "DummyData",
    "HDF5Data",
    "HDF5Output",
    "ImageData",
    "Input",
    "MemoryData",
    "Parameter",
    "WindowData",
]


def read_shapes(params: Params, num_tops: int) -> tuple[Shape, ...]:
    """The `shape` entries of a message, spread over the tops: one for all or one each; () if there is none."""
    shapes = tuple(shape.integers("dim") for shape in params.messages("shape"))
    if len(shapes) == 1:
        return shapes * num_tops
    if len(shapes) not in (0, num_tops):
        raise GraphError(f"{len(shapes)} shapes for {num_tops} tops; give one, or one a top")
    return shapes


@layer("Input")
@dataclass(frozen=True, slots=True)
class Input(LayerDef):
    """An input of the net.

    Shapes: the tops have the shapes of `input_param.shape`, one for all or one each.
    Raises: GraphError for another number of shapes; ShapeError (at build) if there is none and the caller gives none.
    Source: BVLC/caffe @ 9b89154, input_layer.cpp.
    """

    bottoms = Count(0, 0)
    tops = Count(1, None)
    is_input = True

    shapes: tuple[Shape, ...] = ()

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(read_shapes(spec.params("input_param"), spec.num_tops))

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        return list(self.shapes) if self.shapes else [None] * num_tops


@dataclass(frozen=True, slots=True)
class Transform:
    """A `transform_param`: what becomes of an item on its way from the source to the top."""

    crop_size: int = 0
    mean_values: tuple[float, ...] = ()
    mean_file: str = ""
    scale: float = 1.0
    mirror: bool = False
    force_color: bool = False
    force_gray: bool = False

    @classmethod
    def parse(cls, spec: LayerSpec) -> Transform:
        params = spec.params("transform_param")
        return cls(
            crop_size=params.integer("crop_size"),
            mean_values=params.reals("mean_value"),
            mean_file=params.text("mean_file"),
            scale=params.real("scale"),
            mirror=params.flag("mirror"),
            force_color=params.flag("force_color"),
            force_gray=params.flag("force_gray"),
        )

    @property
    def channels(self) -> int | None:
        """The channels of an item, where the mean values tell them."""
        return len(self.mean_values) if len(self.mean_values) > 1 else None


class DataSource(LayerDef):
    """A layer that reads files. Here its tops are inputs; reading the source is not part of the net.

    `caffe_port.datasets` reads it where that is asked for.
    """

    bottoms = Count(0, 0)
    is_input = True


@layer("Data")
@dataclass(frozen=True, slots=True)
class Data(DataSource):
    """Items of a LevelDB or LMDB.

    Shapes: top[0] (batch_size, C, H, W), top[1] (batch_size,). C, H, W stand in the database; `crop_size` and a mean
    value a channel tell them without it.
    Source: BVLC/caffe @ 9b89154, data_layer.cpp.
    """

    tops = Count(1, 2)

    batch_size: int
    transform: Transform
    source: str = ""
    backend: str = "LEVELDB"

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("data_param")
        # Read by nobody in Caffe either: the V1 upgrade moves them to transform_param.
        params.inert("rand_skip", "scale", "mean_file", "crop_size", "mirror", "force_encoded_color")
        params.inert("prefetch")
        return cls(
            params.integer("batch_size"), Transform.parse(spec), params.text("source"), backend=params.enum("backend")
        )

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        crop, channels = self.transform.crop_size, self.transform.channels
        data = (self.batch_size, channels, crop, crop) if crop and channels else None
        shapes: list[Shape | None] = [data, (self.batch_size,)]
        return shapes[:num_tops]


@layer("ImageData")
@dataclass(frozen=True, slots=True)
class ImageData(DataSource):
    """Image files of a list.

    Shapes: top[0] (batch_size, 3 or 1, H, W), top[1] (batch_size,); H, W from crop_size, else new_height and new_width.
    Raises: UnsupportedParameter if only one of new_height and new_width is given.
    Source: BVLC/caffe @ 9b89154, image_data_layer.cpp.
    """

    tops = Count(2, 2)

    batch_size: int
    channels: int
    height: int
    width: int
    transform: Transform = Transform()
    source: str = ""
    root_folder: str = ""
    new_size: tuple[int, int] | None = None
    """Height and width every image is resized to."""
    shuffle: bool = False
    rand_skip: int = 0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("image_data_param")
        # Read by nobody in Caffe either: the V1 upgrade moves them to transform_param.
        params.inert("scale", "mean_file", "crop_size", "mirror")
        height, width = params.integer("new_height"), params.integer("new_width")
        if (height > 0) != (width > 0):
            raise refuse("new_height and new_width must be given together")
        transform = Transform.parse(spec)
        crop = transform.crop_size
        return cls(
            params.integer("batch_size"),
            channels=3 if params.flag("is_color") else 1,
            height=crop or height,
            width=crop or width,
            transform=transform,
            source=params.text("source"),
            root_folder=params.text("root_folder"),
            new_size=(height, width) if height > 0 else None,
            shuffle=params.flag("shuffle"),
            rand_skip=params.integer("rand_skip"),
        )

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        data = (self.batch_size, self.channels, self.height, self.width) if self.height else None
        return [data, (self.batch_size,)]


@layer("MemoryData")
@dataclass(frozen=True, slots=True)
class MemoryData(DataSource):
    """Arrays a program hands over.

    Shapes: top[0] (batch_size, channels, height, width), top[1] (batch_size,).
    Raises: UnsupportedParameter unless all four are positive.
    Source: BVLC/caffe @ 9b89154, memory_data_layer.cpp.
    """

    tops = Count(2, 2)

    shape: Shape

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("memory_data_param")
        Transform.parse(spec)
        shape = tuple(params.integer(name) for name in ("batch_size", "channels", "height", "width"))
        if min(shape) <= 0:
            raise refuse("batch_size, channels, height and width must all be given and positive")
        return cls(shape)

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        return [self.shape, self.shape[:1]]


@layer("HDF5Data")
@dataclass(frozen=True, slots=True)
class HDF5Data(DataSource):
    """Datasets of HDF5 files, named as the tops. Their shapes stand in the files alone.

    Shapes: → (batch_size, …) a top, the axes behind the first those of its dataset.
    Raises: UnsupportedParameter if there is a transform_param, as in Caffe.
    Source: BVLC/caffe @ 9b89154, hdf5_data_layer.cpp.
    """

    tops = Count(1, None)

    batch_size: int = 0
    source: str = ""
    shuffle: bool = False

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("hdf5_data_param")
        if spec.message.HasField("transform_param"):
            raise refuse("HDF5Data does not transform data: remove transform_param")
        return cls(params.integer("batch_size"), params.text("source"), params.flag("shuffle"))

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        return [None] * num_tops


@layer("WindowData")
@dataclass(frozen=True, slots=True)
class WindowData(DataSource):
    """Windows cut from the images of an R-CNN window file.

    Shapes: top[0] (batch_size, 3, crop_size, crop_size), top[1] (batch_size,); C is 3 for colour images.
    Raises: UnsupportedParameter without a crop_size.
    Source: BVLC/caffe @ 9b89154, window_data_layer.cpp.
    """

    tops = Count(2, 2)

    batch_size: int
    crop_size: int
    transform: Transform = Transform()
    source: str = ""
    root_folder: str = ""
    scale: float = 1.0
    """Of window_data_param: the one that counts here."""
    fg_threshold: float = 0.5
    bg_threshold: float = 0.5
    fg_fraction: float = 0.25
    context_pad: int = 0
    crop_mode: str = "warp"

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("window_data_param")
        params.inert("mean_file", "crop_size", "mirror", "cache_images")
        transform = Transform.parse(spec)
        if transform.crop_size <= 0:
            raise refuse("transform_param.crop_size must be given")
        return cls(
            params.integer("batch_size"),
            transform.crop_size,
            transform,
            source=params.text("source"),
            root_folder=params.text("root_folder"),
            scale=params.real("scale"),
            fg_threshold=params.real("fg_threshold"),
            bg_threshold=params.real("bg_threshold"),
            fg_fraction=params.real("fg_fraction"),
            context_pad=params.integer("context_pad"),
            crop_mode=params.text("crop_mode"),
        )

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        return [(self.batch_size, 3, self.crop_size, self.crop_size), (self.batch_size,)]


@layer("Parameter")
@dataclass(frozen=True, slots=True)
class Parameter(LayerDef):
    """A learned blob as a top. It starts as zeros.

    Shapes: no bottom → parameter_param.shape. Weights: the top itself.
    Source: BVLC/caffe @ 9b89154, parameter_layer.hpp.
    """

    bottoms = Count(0, 0)

    shape: Shape = ()

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        return cls(spec.params("parameter_param").message("shape").integers("dim"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.shape]

    def weight_specs(self, bottoms: Sequence[Shape]) -> list[WeightSpec]:
        return [WeightSpec(self.shape)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [weights[0]]


@layer("DummyData")
@dataclass(frozen=True, slots=True)
class DummyData(LayerDef):
    """Blobs made by fillers: a random one anew in every run, from the run's own stream of random numbers.

    Shapes: no bottom → the tops have the shapes of `shape`, or of the old num, channels, height and width; one for all
    or one each. Raises: GraphError for another number of shapes or fillers; UnsupportedParameter for both forms of the
    shape, and for a filler Caffe refuses; ShapeError for a filler that does not fit the shape.
    Source: BVLC/caffe @ 9b89154, dummy_data_layer.cpp.
    """

    bottoms = Count(0, 0)
    tops = Count(1, None)

    shapes: tuple[Shape, ...]
    fillers: tuple[Filler, ...]
    """One a top."""

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params, num_tops = spec.params("dummy_data_param"), spec.num_tops
        shapes = read_shapes(params, num_tops)
        old = {name: params.integers(name) for name in ("num", "channels", "height", "width")}
        if any(old.values()):
            if shapes:
                raise refuse("both shape and num, channels, height, width are given; give shape")
            for name, values in old.items():
                if len(values) not in (1, num_tops):
                    raise GraphError(f"{len(values)} {name} for {num_tops} tops; give one, or one a top")
            spread = [values * num_tops if len(values) == 1 else values for values in old.values()]
            shapes = tuple(zip(*spread, strict=True))
        if not shapes:
            raise GraphError(f"no shape for {num_tops} tops; give one, or one a top")
        fillers = tuple(Filler.parse(message) for message in params.raw("data_filler")) or (Filler(),)
        if len(fillers) not in (1, num_tops):
            raise GraphError(f"{len(fillers)} data_filler for {num_tops} tops; give one, one a top, or none")
        fillers = fillers * num_tops if len(fillers) == 1 else fillers
        for filler, shape in zip(fillers, shapes, strict=True):
            filler.check(check_shape(shape))
        return cls(shapes, fillers)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return list(self.shapes)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [filler.fill(shape, ctx.rng, ctx.dtype) for filler, shape in zip(self.fillers, self.shapes, strict=True)]


@layer("HDF5Output")
@dataclass(frozen=True, slots=True)
class HDF5Output(LayerDef):
    """Caffe writes its bottoms to a file, as the datasets data and label. A run here writes nothing: `save` does.

    A net that somebody else wrote shall not choose which file of ours to overwrite.
    Shapes: data (N, …), label (N, …) of up to 4 axes, no top. Raises: ShapeError if N differs or there are more axes;
    UnsupportedParameter without a file_name.
    Source: BVLC/caffe @ 9b89154, hdf5_output_layer.cpp, util/hdf5.cpp.
    """

    bottoms = Count(2, 2)
    tops = Count(0, 0)

    file_name: str

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        file_name = spec.params("hdf5_output_param").text("file_name")
        if not file_name:
            raise refuse("file_name must be given")
        return cls(file_name)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        if legacy_dim(bottoms[0], 0) != legacy_dim(bottoms[1], 0):
            raise ShapeError(f"bottoms differ in axis 0: {', '.join(map(format_shape, bottoms))}")
        return []

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return []

    @staticmethod
    def save(path: str | os.PathLike[str], data: Array, label: Array) -> None:
        """Writes what Caffe would: `data` and `label` as float32 of 4 axes. An existing file is replaced.

        Raises: ShapeError as the layer does; ArtifactError if the file cannot be written; MissingDependency without
        h5py.
        """
        try:
            import h5py
        except ImportError:
            raise MissingDependency("writing HDF5 needs h5py: pip install 'caffe_port[hdf5]'") from None
        HDF5Output(os.fspath(path)).top_shapes([data.shape, label.shape])
        with replacing(path) as stream, h5py.File(stream, "w") as file:
            for name, array in (("data", data), ("label", label)):
                shape = tuple(legacy_dim(array.shape, axis) for axis in range(4))
                file.create_dataset(name, data=np.asarray(array, np.float32).reshape(shape))

"""Images and Caffe's messages to arrays and back, as `caffe.io` does it.

What pycaffe left to scikit-image is done here with NumPy and Pillow, as scikit-image 0.9 to 0.14 did it, the versions
pycaffe ran with: `resize` with mode "constant" and no anti-aliasing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from caffe_port.errors import DataError, GraphError, MissingDependency, ShapeError, UnsupportedParameter
from caffe_port.image_files import Source, opened_image
from caffe_port.proto.schema import Message, message
from caffe_port.pycaffe.proto import caffe_pb2  # noqa: F401  old scripts reach it as caffe.io.caffe_pb2
from caffe_port.shapes import format_shape

__all__ = [
    "ArrayError",
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

Array = NDArray[Any]

_LEGACY = ("num", "channels", "height", "width")
_GREY = (0.2125, 0.7154, 0.0721)
"""What scikit-image's rgb2gray weighs red, green and blue with."""


class ArrayError(ShapeError, ValueError):
    """An array, or a message that holds one, of a shape that does not fit; a ValueError, as pycaffe's."""


def blobproto_to_array(blob: Message, return_diff: bool = False) -> Array:
    """The data (or the diff) of a BlobProto: float64, of its shape, or of (num, channels, height, width) where the
    message has any of these. Raises: ArrayError if the number of values is another."""
    values = blob.diff if return_diff else blob.data
    if not values:
        values = blob.double_diff if return_diff else blob.double_data
    shape = tuple(blob.shape.dim)
    if any(blob.HasField(name) for name in _LEGACY):
        shape = tuple(getattr(blob, name) for name in _LEGACY)
    return _shaped(np.array(values, np.float64), shape, "blob")


def array_to_blobproto(arr: Array, diff: Array | None = None) -> Message:
    """A BlobProto with an array's shape and values, and those of `diff`. Raises: ArrayError if the shapes differ."""
    blob = message("BlobProto")
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(np.asarray(arr, np.float64).ravel())
    if diff is not None:
        if diff.shape != arr.shape:
            raise ArrayError(f"a diff of {format_shape(diff.shape)} for data of {format_shape(arr.shape)}")
        blob.diff.extend(np.asarray(diff, np.float64).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[Array]) -> bytes:
    """The bytes of a BlobProtoVector with these arrays."""
    vector = message("BlobProtoVector")
    vector.blobs.extend([array_to_blobproto(array) for array in arraylist])
    return vector.SerializeToString()


arraylist_to_blobprotovecor_str = arraylist_to_blobprotovector_str
"""The name as early versions of pycaffe spelt it."""


def blobprotovector_str_to_arraylist(str: bytes) -> list[Array]:
    """The arrays of a BlobProtoVector's bytes. Raises: DataError if they are none."""
    vector = message("BlobProtoVector")
    _parse(vector, str, "BlobProtoVector")
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: Array, label: int | None = None) -> Message:
    """A Datum of a (channels, height, width) array: its bytes if it is uint8, else its values as floats.

    Raises: ArrayError for another number of axes.
    """
    if arr.ndim != 3:
        raise ArrayError(f"a datum has 3 axes (channels, height, width), not the shape {format_shape(arr.shape)}")
    datum = message("Datum")
    datum.channels, datum.height, datum.width = arr.shape
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(np.asarray(arr, np.float64).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Message) -> Array:
    """The (channels, height, width) array of a Datum: uint8 if it has bytes, else float64. The label is `datum.label`.

    Raises: ArrayError if the number of values is another; DataError for an encoded image (pycaffe took it for pixels).
    """
    if datum.encoded:
        raise DataError("the datum holds an encoded image: decode datum.data, for example with load_image")
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        return _shaped(np.frombuffer(datum.data, np.uint8).copy(), shape, "datum")
    return _shaped(np.array(datum.float_data, np.float64), shape, "datum")


def _shaped(values: Array, shape: Sequence[int], what: str) -> Array:
    if values.size != math.prod(shape):
        raise ArrayError(f"a {what} of shape {format_shape(shape)} has {values.size} values")
    return values.reshape(shape)


def _parse(into: Message, data: bytes, what: str) -> None:
    from google.protobuf.message import DecodeError

    try:
        into.ParseFromString(data)
    except DecodeError as error:
        raise DataError(f"not the bytes of a {what}: {error}") from None


class Transformer:
    """From an image to what a net takes, and back.

    inputs: the shapes of the net's inputs by name, (N, K, H, W). What is set for an input is applied to what is given
    for it; what is not set is left out. Errors name the input.
    Source: BVLC/caffe @ 9b89154, python/caffe/io.py.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: Array) -> NDArray[np.float32]:
        """An (H', W', K) array as an input takes it: float32, (K, H, W) if the transpose says so.

        To float32, resized to the input's (H, W), transposed, channels swapped, times the raw scale, minus the mean,
        times the input scale. `data` stays as it is (pycaffe wrote into a float32 array of the right size).
        Raises: GraphError for a name that is no input; ArrayError for a shape that does not fit.
        """
        size = self._shape(in_)[2:]
        result = np.asarray(data).astype(np.float32)
        if result.shape[:2] != size:
            result = resize_image(result, size)
        try:
            if in_ in self.transpose:
                result = result.transpose(self.transpose[in_])
            if in_ in self.channel_swap:
                result = result[list(self.channel_swap[in_])]
            if in_ in self.raw_scale:
                result *= self.raw_scale[in_]
            if in_ in self.mean:
                result -= self.mean[in_]
            if in_ in self.input_scale:
                result *= self.input_scale[in_]
        except (ValueError, IndexError) as error:
            raise ArrayError(f"input {in_!r} cannot be made of an array {_shape_of(data)}: {error}") from None
        return result

    def deprocess(self, in_: str, data: Array) -> Array:
        """What `preprocess` made, undone but for the size: (H, W, K), in the dtype of `data`, axes of 1 dropped."""
        self._shape(in_)
        result = np.array(data).squeeze()
        if in_ in self.input_scale:
            result /= self.input_scale[in_]
        if in_ in self.mean:
            result += self.mean[in_]
        if in_ in self.raw_scale:
            result /= self.raw_scale[in_]
        try:
            if in_ in self.channel_swap:
                result = result[np.argsort(self.channel_swap[in_])]
            if in_ in self.transpose:
                result = result.transpose(np.argsort(self.transpose[in_]))
        except (ValueError, IndexError) as error:
            raise ArrayError(f"input {in_!r} was not made into an array {_shape_of(data)}: {error}") from None
        return result

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of the axes: (2, 0, 1) makes (K, H, W) of (H, W, K)."""
        if len(order) != len(self._shape(in_)) - 1:
            raise ArrayError(f"input {in_!r}: a transpose of {len(order)} axes for {len(self.inputs[in_]) - 1}")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of the channels, the first axis after the transpose: (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise ArrayError(f"input {in_!r}: a channel swap of {len(order)} for {self.inputs[in_][1]} channels")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """What values are multiplied by before the mean: 255 for a net that knows pixels from 0 to 255."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """What is subtracted: (K,) a value a channel, or (K, H, W) or (H, W), resized where the size is another.

        In the order of the net's channels and the unit of the raw scale.
        """
        shape = self._shape(in_)
        mean = np.asarray(mean)
        if mean.ndim == 1:
            if mean.shape[0] != shape[1]:
                raise ArrayError(f"input {in_!r} has {shape[1]} channels, the mean {mean.shape[0]}")
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim not in (2, 3):
            raise ArrayError(f"input {in_!r}: a mean has 1 to 3 axes, not the shape {format_shape(mean.shape)}")
        else:
            mean = mean.reshape((-1, *mean.shape[-2:]))
            if mean.shape[0] not in (1, shape[1]):
                raise ArrayError(f"input {in_!r} has {shape[1]} channels, the mean {mean.shape[0]}")
            if mean.shape[1:] != shape[2:]:
                mean = _resized_mean(mean, shape[2:])
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """What values are multiplied by last, after the mean."""
        self._shape(in_)
        self.input_scale[in_] = scale

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise GraphError(f"{in_} is not one of the net inputs: {', '.join(self.inputs)}")
        return self.inputs[in_]


def _resized_mean(mean: Array, size: Sequence[int]) -> Array:
    # pycaffe brings the mean to [0, 1] here, and resize_image does so again; the second changes rounding only.
    low, high = mean.min(), mean.max()
    if not high > low:
        return np.full((mean.shape[0], *size), low, np.float32)
    unit = (mean - low) / (high - low)
    resized: Array = resize_image(unit.transpose(1, 2, 0), size).transpose(2, 0, 1) * (high - low) + low
    return resized


def load_image(filename: Source, color: bool = True) -> NDArray[np.float32]:
    """An image file as float32 from 0 to 1: (H, W, 3) in RGB, or (H, W, 1) in grey without `color`.

    filename: a path, an open file, bytes or an image of Pillow. Grey is tiled to three channels, alpha is dropped,
    EXIF orientation is ignored; of several frames the first is taken. 16-bit files keep their depth.
    Raises: ImageError with the file's name and the reason.
    Source: BVLC/caffe @ 9b89154, python/caffe/io.py; scikit-image 0.14, io/_plugins/pil_plugin.py, util/dtype.py.
    """
    with opened_image(filename) as image:
        pixels = np.asarray(_plain(image))
    # One division in float64, rounded once: what img_as_float and the cast after it give.
    largest = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    values: Array = pixels / np.float64(largest)
    if values.ndim == 3:
        values = values[:, :, :3]
        if not color:
            values = values @ np.array(_GREY)
    if values.ndim == 2:
        values = np.repeat(values[:, :, np.newaxis], 3 if color else 1, axis=2)
    return values.astype(np.float32)


def _plain(image: Image.Image) -> Image.Image | Array:
    """The image in a mode whose pixels are grey, RGB or RGBA."""
    if image.mode.startswith("I"):
        # Files of 16 bits; some versions of Pillow open them with 32.
        pixels = np.asarray(image)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise ValueError("pixels of more than 16 bits")
        return pixels.astype(np.uint16)
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "La", "RGBa"):
        return image.convert("RGBA")
    return image if image.mode in ("L", "F", "RGB", "RGBA", "RGBX") else image.convert("RGB")


def resize_image(im: Array, new_dims: Sequence[int] | Array, interp_order: int = 1) -> NDArray[np.float32]:
    """An (H, W, K) image in another size (height, width): float32.

    interp_order: 0 nearest pixel, 1 linear, 3 cubic. With 1 or 3 channels pixels are areas, their centres at half
    coordinates, and what lies outside has the image's smallest value, so that an enlarged image is darker at its edges;
    nothing is averaged where the image gets smaller. With other numbers of channels the corner pixels' centres are
    kept, as scipy.ndimage.zoom does it (orders 0 to 5; other than 1 need SciPy). A constant image stays constant.
    Raises: ArrayError for an array that is no (H, W, K); UnsupportedParameter for an order that is not known;
    MissingDependency without SciPy.
    Source: BVLC/caffe @ 9b89154, python/caffe/io.py; scikit-image 0.14, transform/_warps.py, _warps_cy.pyx;
    SciPy, ndimage.zoom.
    """
    height, width = (int(dim) for dim in new_dims)
    if im.ndim != 3 or not im.size or height < 1 or width < 1:
        raise ArrayError(f"an image {_shape_of(im)} cannot be resized to {height}x{width}: it has (H, W, K)")
    if im.shape[2] not in (1, 3):
        return _zoomed(im, height, width, interp_order)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((height, width, im.shape[2]), low, np.float32)
    unit = ((im - low) / (high - low)).astype(np.float64)
    rows = _taps(_half_pixel(im.shape[0], height), im.shape[0], interp_order)
    columns = _taps(_half_pixel(im.shape[1], width), im.shape[1], interp_order)
    resized = _interpolated(unit, rows, columns)
    if interp_order > 1:
        resized = resized.clip(0, 1)
    result: NDArray[np.float32] = (resized * (high - low) + low).astype(np.float32)
    return result


def _zoomed(im: Array, height: int, width: int, order: int) -> NDArray[np.float32]:
    if order != 1:
        try:
            from scipy.ndimage import zoom
        except ImportError:
            raise MissingDependency(
                f"SciPy is needed to resize {im.shape[2]} channels with interpolation order {order}: pip install scipy"
            ) from None
        factors = (height / im.shape[0], width / im.shape[1], 1)
        return np.asarray(zoom(im, factors, order=order)).astype(np.float32)
    taps = [
        _taps(np.linspace(0, old - 1, new) if new > 1 else np.zeros(1), old, 1)
        for old, new in zip(im.shape[:2], (height, width), strict=True)
    ]
    return _interpolated(im.astype(np.float64), *taps).astype(np.float32)


def _half_pixel(old: int, new: int) -> NDArray[np.float64]:
    """Where the centres of `new` pixels lie among `old` ones."""
    return (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5


_Taps = tuple[NDArray[np.intp], NDArray[np.float64]]
"""Along one axis, of each new pixel: the old ones it is made of, and their weights. Both (new, taps)."""


def _taps(places: NDArray[np.float64], size: int, order: int) -> _Taps:
    if order == 0:
        # Rounded half away from zero, as C rounds.
        first = np.floor(np.abs(places) + 0.5) * np.sign(places)
        weights = np.ones((len(places), 1))
    else:
        first = np.floor(places)
        x = places - first
        if order == 1:
            weights = np.stack([1 - x, x], 1)
        elif order == 3:
            # Catmull-Rom.
            first = first - 1
            weights = np.stack(
                [
                    x * (x * (1 - x / 2) - 0.5),
                    1 + x * x * (1.5 * x - 2.5),
                    x * (0.5 + x * (2 - 1.5 * x)),
                    x * x * (x - 1) / 2,
                ],
                1,
            )
        else:
            raise UnsupportedParameter(f"interpolation order {order}: 0 (nearest), 1 (linear) or 3 (cubic)")
    index = first.astype(np.intp)[:, None] + np.arange(weights.shape[1])
    outside = (index < 0) | (index >= size)
    return np.where(outside, 0, index), np.where(outside, 0.0, weights)


def _interpolated(image: NDArray[np.float64], rows: _Taps, columns: _Taps) -> NDArray[np.float64]:
    result = np.zeros((len(rows[0]), len(columns[0]), image.shape[2]))
    for row, row_weight in zip(rows[0].T, rows[1].T, strict=True):
        chosen = image[row]
        line = np.zeros_like(result)
        for column, weight in zip(columns[0].T, columns[1].T, strict=True):
            line += chosen[:, column] * weight[:, None]
        result += line * row_weight[:, None, None]
    return result


def oversample(images: Sequence[Array] | Array, crop_dims: Sequence[int] | Array) -> NDArray[np.float32]:
    """Ten crops of each (H, W, K) image: the corners, the centre, and their mirror images; (10 N, h, w, K).

    All images have the size of the first. Raises: ArrayError if they have not, or are smaller than the crop.
    """
    height, width = (int(dim) for dim in crop_dims)
    shape = images[0].shape
    if len(shape) != 3 or any(image.shape != shape for image in images):
        raise ArrayError("the images are not all of one shape (H, W, K)")
    down, right = shape[0] - height, shape[1] - width
    if down < 0 or right < 0:
        raise ArrayError(f"images of {shape[0]}x{shape[1]} are smaller than the crop, {height}x{width}")
    places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    crops = np.empty((len(images), 2, 5, height, width, shape[2]), np.float32)
    for i, image in enumerate(images):
        for j, (top, left) in enumerate(places):
            crops[i, :, j] = image[top : top + height, left : left + width]
    crops[:, 1] = crops[:, 1, :, :, ::-1].copy()
    return crops.reshape((-1, *crops.shape[3:]))


def _shape_of(array: Any) -> str:
    return format_shape(np.shape(array))

"""From a picture to a net's input, and what its output means: as data that converters, files and scoring share.

`Preprocessing` is what is done to a picture; `Manifest` adds the labels. `read_manifest` reads one from a small JSON
file, `Manifest.as_json` is what such a file holds. Nothing here touches a picture:
`caffe_port.scoring.preprocess.tensor` does, and `caffe_port.converters.to_onnx.preprocess` writes the same steps into
an ONNX model.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caffe_port.errors import CaffePortError, DataError, Location, Problems
from caffe_port.reading import parse_json, shown, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FORMAT", "OPEN_NSFW", "Manifest", "MeanImage", "Preprocessing", "manifest_of", "read", "read_manifest"]

FORMAT = "caffe_port preprocessing 1"
"""What the key `format` of a manifest says."""

_LARGEST = 3.4e38
"""Means and scales work in float32."""

_ITEM_SIZE = {"float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class MeanImage:
    """A mean for each pixel of each channel.

    - `shape`: channels, height, width; the channels in the order of the net's input.
    - `dtype`: "float32" or "float64", as the file had it; the arithmetic is the same.
    - `values`: the bytes of the array, little-endian, C order; a value that hashes and compares.

    Raises: DataError if these are not one array of finite numbers.
    """

    shape: tuple[int, int, int]
    dtype: Literal["float32", "float64"]
    values: bytes = field(repr=False)

    def __post_init__(self) -> None:
        sizes = isinstance(self.shape, (list, tuple)) and all(type(size) is int and size > 0 for size in self.shape)
        if not sizes or len(self.shape) != 3 or self.dtype not in tuple(_ITEM_SIZE):
            told = f"{shown(self.shape)} of {shown(self.dtype)}"
            raise DataError(f"a mean image has channels, height and width, not {told}")
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.values) != math.prod(self.shape) * _ITEM_SIZE[self.dtype]:
            raise DataError(f"a mean image of {_times(self.shape)} {self.dtype} has not {len(self.values)} bytes")
        import numpy as np

        if not np.isfinite(self.array()).all():
            raise DataError("a mean image has finite values only")

    def array(self) -> NDArray[np.float32] | NDArray[np.float64]:
        """(channels, height, width), read-only."""
        import numpy as np

        values: NDArray[Any] = np.frombuffer(self.values, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)
        return values

    def as_json(self) -> dict[str, Any]:
        encoded = base64.b64encode(self.values).decode("ascii")
        return {"shape": list(self.shape), "dtype": self.dtype, "base64": encoded}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture (RGB, 8 bits, any size) becomes the input blob of a net: steps in the order told here.

    - `input_blob`: the net's input.
    - `channel_order`: of its channels. "grey" makes one channel, before anything else: Pillow's "L", that is
      (19595 R + 38470 G + 7471 B + 32768) >> 16.
    - `resize`: (height, width) in pixels, whatever the picture's proportions; None leaves the size.
    - `interpolation`: how it is resized. "pillow": by Pillow's BILINEAR filter (a triangle as wide as the picture is
      reduced: it does not alias), rows first, rounded to 8 bits, then columns. "opencv": by OpenCV's INTER_LINEAR, as
      Caffe's own tools and layers resize: between the two nearest pixels each way, also where the picture gets smaller;
      a pixel may be one level off, see `caffe_port.datasets.images`.
    - `jpeg_round_trip`: encode as JPEG with Pillow's defaults and decode again, as open_nsfw's script did.
    - `crop`: (height, width) in pixels of the centre that is taken; None takes all.
    - `raw_scale`: what pixels from 0 to 1 are multiplied by; 255 for pixels as Caffe reads them.
    - `mean`: subtracted then: one number for all channels, one for each in `channel_order`, or a mean image as large as
      `resize`, of which the centre is cropped too (as Caffe's DataTransformer does), or as large as the result.
    - `scale`: what the difference is multiplied by.

    The result is float32, (`channels`, height, width).
    Raises: DataError naming every field that cannot be meant.
    """

    input_blob: str = "data"
    resize: tuple[int, int] | None = None
    interpolation: Literal["pillow", "opencv"] = "pillow"
    jpeg_round_trip: bool = False
    crop: tuple[int, int] | None = None
    channel_order: Literal["BGR", "RGB", "grey"] = "BGR"
    raw_scale: float = 255.0
    mean: tuple[float, ...] | MeanImage = (0.0,)
    scale: float = 1.0

    def __post_init__(self) -> None:
        problems = Problems()
        _check(_fields_of(self), problems, None)
        problems.raise_if_any()
        for name in ("resize", "crop", "mean"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

    @property
    def channels(self) -> int:
        return 1 if self.channel_order == "grey" else 3

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the result; None where they are the picture's own."""
        return self.crop or self.resize

    def mean_array(self) -> NDArray[np.float64]:
        """What is subtracted: (channels, 1, 1) or, of a mean image, (channels, height, width) of the result."""
        import numpy as np

        if not isinstance(self.mean, MeanImage):
            return np.broadcast_to(np.array(self.mean, np.float64), (self.channels,))[:, None, None]
        assert self.size is not None
        (_, rows, columns), (height, width) = self.mean.shape, self.size
        top, left = (rows - height) // 2, (columns - width) // 2
        return self.mean.array()[:, top : top + height, left : left + width].astype(np.float64)

    def as_json(self) -> dict[str, Any]:
        """A manifest without labels: `format` and every field, as JSON has it."""
        fields = _fields_of(self)
        if isinstance(self.mean, MeanImage):
            fields["mean"] = self.mean.as_json()
        return {"format": FORMAT, **json.loads(json.dumps(fields))}


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that scoring with a classifier needs to know beside its net.

    - `preprocessing`: what makes a picture its input.
    - `output_blob`: (N, labels), or with further axes of size 1; None where the net has one output only.
    - `labels`: the classes in the blob's order; () where their names are not known.
    - `score`: the number, from 0, of the label whose value is the model's score; None for a model of many classes.

    Raises: DataError naming every field that cannot be meant.
    """

    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing())
    output_blob: str | None = None
    labels: tuple[str, ...] = ()
    score: int | None = None

    def __post_init__(self) -> None:
        problems = Problems()
        _check_labels({name: getattr(self, name) for name in _LABEL_FIELDS}, problems, None)
        problems.raise_if_any()
        object.__setattr__(self, "labels", tuple(self.labels))

    def as_json(self) -> dict[str, Any]:
        """What a manifest holds, complete in itself: a mean image and the labels are in it."""
        own = {"output_blob": self.output_blob, "labels": list(self.labels), "score": self.score}
        return {**self.preprocessing.as_json(), **own}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the manifest as a file, which appears complete or not at all. Raises: ArtifactError."""
        from caffe_port.proto.files import replacing

        content = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        with replacing(path) as stream:
            # Half of a surrogate pair has no UTF-8; JSON can escape it.
            stream.write(content.encode(errors="backslashreplace") + b"\n")


def read(path: str | os.PathLike[str]) -> Preprocessing:
    """The preprocessing of a manifest. Raises: DataError, as `read_manifest`."""
    return read_manifest(path).preprocessing


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads a manifest: a JSON object with `format` and any of the fields of Preprocessing and Manifest.

    A field that is left out has its default. `mean` and `labels` may be the path of a file, relative to the manifest:
    see docs/preprocessing.md. Raises: DataError for a file that cannot be read, and one naming every key that is
    unknown and every value that cannot be meant.
    """
    name = os.fspath(path)
    try:
        content = text_of(path)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{name}: no JSON that can be read: {error}") from None
    return manifest_of(content, name, Path(path).parent)


def manifest_of(content: str, name: str, folder: Path | None = None) -> Manifest:
    """The manifest that is written in `content`.

    `name`: what errors call it. `folder`: where the files it names are; None refuses them, for a text that came with a
    model. Raises: DataError.
    """
    try:
        document = parse_json(content)
    except ValueError as error:
        raise DataError(f"{name}: no JSON that can be read: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{name}: a manifest is a JSON object")
    where, problems = Location(name), Problems()
    if document.pop("format", None) != FORMAT:
        problems.add(DataError, f"'format' must be {json.dumps(FORMAT)}", location=where)
    fields: dict[str, Any] = {one.name: one.default for one in dataclasses.fields(Preprocessing)}
    known = (*fields, *_LABEL_FIELDS)
    for key in (key for key in document if key not in known):
        problems.add(DataError, f"unknown key {shown(key)}", location=where, hint=f"known: format, {', '.join(known)}")
    # A mistake in a known field is reported beside those above.
    values = {key: document.get(key, default) for key, default in fields.items()}
    own = {key: document.get(key, default) for key, default in _LABEL_FIELDS.items()}
    try:
        values["mean"] = _mean_of(values["mean"], folder)
    except CaffePortError as error:
        problems.add(DataError, f"'mean': {error}", location=where)
        values["mean"] = fields["mean"]
    try:
        own["labels"] = _labels_of(own["labels"], folder)
        if isinstance(own["score"], str):
            own["score"] = _number_of(own["score"], own["labels"])
    except DataError as error:
        problems.add(DataError, str(error), location=where)
        own |= {"labels": (), "score": None}
    _check(values, problems, where)
    _check_labels(own, problems, where)
    problems.raise_if_any()
    return Manifest(Preprocessing(**values), **own)


def _mean_of(given: Any, folder: Path | None) -> Any:
    """Numbers as they are; a mean image that is written out, or the mean in a file."""
    if isinstance(given, str):
        given = {"file": given}
    if not isinstance(given, dict):
        return given
    if set(given) == {"shape", "dtype", "base64"}:
        try:
            values = base64.b64decode(given["base64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise DataError(f"no base64: {error}") from None
        return MeanImage(given["shape"], given["dtype"], values)
    file, averaged = given.get("file"), given.get("per_channel", False)
    if set(given) - {"file", "per_channel"} or not isinstance(file, str) or not isinstance(averaged, bool):
        raise DataError('an object has "file", a path, and may have "per_channel", true or false')
    return mean_from_file(_beside(folder, file), per_channel=averaged)


def mean_from_file(path: str | os.PathLike[str], *, per_channel: bool = False) -> tuple[float, ...] | MeanImage:
    """The mean in a .binaryproto or .npy file: a number a channel, or a mean image.

    `per_channel` makes a number a channel of an image, the average over its pixels, as Caffe's C++ example does.
    Raises: WeightsError, DataError.
    """
    import numpy as np

    from caffe_port.scoring.mean import Mean

    mean = Mean.read(path)
    if per_channel:
        mean = mean.per_channel()
    if mean.size is None:
        return tuple(map(float, mean.values))
    dtype: Literal["float32", "float64"] = "float64" if mean.values.dtype == np.float64 else "float32"
    array = np.ascontiguousarray(mean.values, np.dtype(dtype).newbyteorder("<"))
    return MeanImage((mean.channels, *mean.size), dtype, array.tobytes())


def _labels_of(given: Any, folder: Path | None) -> Any:
    if not isinstance(given, str):
        return given
    path = _beside(folder, given)
    try:
        lines = text_of(path).splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror or error if isinstance(error, OSError) else "it is not in UTF-8"
        raise DataError(f"'labels': {path}: cannot be read: {why}") from None
    labels = [line.strip() for line in lines]
    while labels and not labels[-1]:
        labels.pop()
    if not all(labels):
        raise DataError(f"'labels': {path}: line {labels.index('') + 1} is empty; a label has a line")
    if not labels:
        raise DataError(f"'labels': {path}: no label in it")
    return labels


def _beside(folder: Path | None, name: str) -> Path:
    if folder is None:
        raise DataError(f"the file {name!r} cannot be named here: what it holds must be written out")
    if not name or "\0" in name:
        raise DataError(f"{name!r} is no path")
    return folder / name


def _number_of(label: str, labels: Any) -> int | str:
    """Of a label its number; the label itself where there are no good labels, which is another problem."""
    if not isinstance(labels, (list, tuple)) or not labels:
        return label
    places = [number for number, one in enumerate(labels) if one == label]
    if len(places) != 1:
        what = f"is there {len(places)} times: give its number, from 0" if places else "is none of the labels"
        raise DataError(f"'score': {label!r} {what}")
    return places[0]


def _fields_of(steps: Preprocessing) -> dict[str, Any]:
    return {one.name: getattr(steps, one.name) for one in dataclasses.fields(steps)}


def _check(values: Mapping[str, Any], problems: Problems, where: Location | None) -> None:
    def require(good: bool, field: str, what: str) -> bool:
        if not good:
            problems.add(DataError, f"{field!r} must be {what}, not {shown(values[field])}", location=where)
        return good

    require(_is_name(values["input_blob"]), "input_blob", "the name of a blob")
    sizes = [
        require(values[field] is None or _is_size(values[field]), field, "null, or height and width in pixels")
        for field in ("resize", "crop")
    ]
    require(_is_one_of(values["interpolation"], "pillow", "opencv"), "interpolation", '"pillow" or "opencv"')
    require(isinstance(values["jpeg_round_trip"], bool), "jpeg_round_trip", "true or false")
    order, mean = values["channel_order"], values["mean"]
    ordered = require(_is_one_of(order, "BGR", "RGB", "grey"), "channel_order", '"BGR", "RGB" or "grey"')
    require(_is_number(values["raw_scale"]) and values["raw_scale"] > 0, "raw_scale", "a number above 0")
    channels = 1 if order == "grey" else 3
    if not isinstance(mean, MeanImage):
        good = isinstance(mean, (list, tuple)) and len(mean) in (1, channels) and all(map(_is_number, mean))
        require(good, "mean", "one number" if channels == 1 else "one number, or three, one a channel")
    require(_is_number(values["scale"]) and values["scale"] != 0, "scale", "a number other than 0")
    resize, crop = values["resize"], values["crop"]
    if not all(sizes):
        return
    if resize and crop and (crop[0] > resize[0] or crop[1] > resize[1]):
        what = f"'crop' {_times(crop)} does not lie in 'resize' {_times(resize)} (height x width)"
        problems.add(DataError, what, location=where)
    elif isinstance(mean, MeanImage) and ordered:
        fitting = [(channels, *size) for size in dict.fromkeys(tuple(size) for size in (resize, crop) if size)]
        if mean.shape not in fitting:
            shapes = " or ".join(map(_times, fitting)) or "as large as 'resize' or 'crop', and there is neither"
            hint = 'give another, or its averages: {"file": …, "per_channel": true}'
            what = f"'mean' is an image of {_times(mean.shape)}; it must be {shapes}"
            problems.add(DataError, what, location=where, hint=hint)


_LABEL_FIELDS: dict[str, Any] = {"output_blob": None, "labels": (), "score": None}


def _check_labels(values: Mapping[str, Any], problems: Problems, where: Location | None) -> None:
    def require(good: bool, field: str, what: str) -> None:
        if not good:
            problems.add(DataError, f"{field!r} must be {what}, not {shown(values[field])}", location=where)

    labels, score = values["labels"], values["score"]
    require(values["output_blob"] is None or _is_name(values["output_blob"]), "output_blob", "null, or a blob's name")
    good = isinstance(labels, (list, tuple)) and all(map(_is_name, labels))
    require(good, "labels", "a list of names, or the path of a file of them")
    count = len(labels) if good and labels else None
    numbered = type(score) is int and score >= 0 and (count is None or score < count)
    what = "null, or the number, from 0, of a label" if count is None else f"null, a label, or from 0 to {count - 1}"
    require(score is None or numbered, "score", what)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_one_of(value: Any, *known: str) -> bool:
    return isinstance(value, str) and value in known


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _times(shape: Any) -> str:
    return "x".join(map(str, shape))


OPEN_NSFW = Preprocessing(
    input_blob="data",
    resize=(256, 256),
    jpeg_round_trip=True,
    crop=(224, 224),
    channel_order="BGR",
    mean=(104.0, 117.0, 123.0),
)
"""What classify_nsfw.py of yahoo/open_nsfw does."""

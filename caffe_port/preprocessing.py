"""From a picture to a net's input: what is done to it, as data that converters, files and scoring share.

`read` reads it from a manifest, a small JSON file; `Preprocessing.as_json` is what such a file holds. Nothing here
touches a picture: `caffe_port.scoring.preprocess.tensor` does, and `caffe_port.converters.to_onnx.preprocess` writes
the same steps into an ONNX model.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from caffe_port.errors import DataError, Location, Problems

__all__ = ["FORMAT", "OPEN_NSFW", "Preprocessing", "read"]

FORMAT = "caffe_port preprocessing 1"
"""What the key `format` of a manifest says."""

_LARGEST = 3.4e38
"""Means and scales work in float32."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture (RGB, 8 bits, any size) becomes the input blob of a net: steps in the order of the fields.

    - `resize`: (height, width) in pixels, whatever the picture's proportions, by Pillow's BILINEAR filter (a triangle
      as wide as the picture is reduced: it does not alias), rows first, rounded to 8 bits, then columns; None leaves
      the size.
    - `jpeg_round_trip`: encode as JPEG with Pillow's defaults and decode again, as open_nsfw's script did.
    - `crop`: (height, width) in pixels of the centre that is taken; None takes all.
    - `channel_order`: of the blob's three channels.
    - `mean`: of each channel, in `channel_order`, subtracted from values 0 … 255.
    - `scale`: what the difference is multiplied by.

    The result is float32, (3, height, width).
    Raises: DataError naming every field that cannot be meant.
    """

    input_blob: str = "data"
    resize: tuple[int, int] | None = None
    jpeg_round_trip: bool = False
    crop: tuple[int, int] | None = None
    channel_order: Literal["BGR", "RGB"] = "BGR"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        problems = Problems()
        _check({field.name: getattr(self, field.name) for field in dataclasses.fields(self)}, problems, None)
        problems.raise_if_any()
        for name in ("resize", "crop", "mean"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the result; None where they are the picture's own."""
        return self.crop or self.resize

    def as_json(self) -> dict[str, Any]:
        """The manifest: `format` and every field, as JSON has it."""
        return {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(self)))}


def read(path: str | os.PathLike[str]) -> Preprocessing:
    """Reads a manifest: a JSON object with `format` and any of the fields of Preprocessing.

    A field that is left out has its default. Raises: DataError for a file that cannot be read, and one naming every
    key that is unknown and every value that cannot be meant.
    """
    name = os.fspath(path)
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_object)
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: no JSON that can be read: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{name}: a manifest is a JSON object")
    where, problems = Location(name), Problems()
    if document.pop("format", None) != FORMAT:
        problems.add(DataError, f"'format' must be {json.dumps(FORMAT)}", location=where)
    fields = {field.name: field.default for field in dataclasses.fields(Preprocessing)}
    for key in (key for key in document if key not in fields):
        problems.add(DataError, f"unknown key {key!r}", location=where, hint=f"known: format, {', '.join(fields)}")
    # A mistake in a known field is reported beside those above.
    values = {key: document.get(key, default) for key, default in fields.items()}
    _check(values, problems, where)
    problems.raise_if_any()
    return Preprocessing(**values)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _check(values: Mapping[str, Any], problems: Problems, where: Location | None) -> None:
    def require(good: bool, field: str, what: str) -> bool:
        if not good:
            problems.add(DataError, f"{field!r} must be {what}, not {values[field]!r}", location=where)
        return good

    blob, order = values["input_blob"], values["channel_order"]
    require(isinstance(blob, str) and blob != "", "input_blob", "the name of a blob")
    sizes = [
        require(values[field] is None or _is_size(values[field]), field, "null, or height and width in pixels")
        for field in ("resize", "crop")
    ]
    require(isinstance(values["jpeg_round_trip"], bool), "jpeg_round_trip", "true or false")
    require(isinstance(order, str) and order in ("BGR", "RGB"), "channel_order", '"BGR" or "RGB"')
    mean = values["mean"]
    good = isinstance(mean, (list, tuple)) and len(mean) == 3 and all(map(_is_number, mean))
    require(good, "mean", "three numbers, one a channel")
    require(_is_number(values["scale"]) and values["scale"] != 0, "scale", "a number other than 0")
    resize, crop = values["resize"], values["crop"]
    if all(sizes) and resize and crop and (crop[0] > resize[0] or crop[1] > resize[1]):
        what = f"'crop' {crop[0]}x{crop[1]} does not lie in 'resize' {resize[0]}x{resize[1]} (height x width)"
        problems.add(DataError, what, location=where)


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(v) is int and v > 0 for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


OPEN_NSFW = Preprocessing(
    input_blob="data",
    resize=(256, 256),
    jpeg_round_trip=True,
    crop=(224, 224),
    channel_order="BGR",
    mean=(104.0, 117.0, 123.0),
)
"""What classify_nsfw.py of yahoo/open_nsfw does."""

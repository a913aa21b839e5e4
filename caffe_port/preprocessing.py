"""From a picture to a net's input: what is done to it, as data that converters, files and scoring share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["OPEN_NSFW", "Preprocessing"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture (RGB, 8 bits, any size) becomes the input blob of a net: steps in the order of the fields.

    - `resize`: (height, width) in pixels, whatever the picture's proportions, by Pillow's BILINEAR filter (a triangle
      as wide as the picture is reduced: it does not alias); None leaves the size.
    - `jpeg_round_trip`: encode as JPEG with Pillow's defaults and decode again, as open_nsfw's script did.
    - `crop`: (height, width) in pixels of the centre that is taken; None takes all.
    - `channel_order`: of the blob's three channels.
    - `mean`: of each channel, in `channel_order`, subtracted from values 0 … 255.
    - `scale`: what the difference is multiplied by.

    The result is float32, (3, height, width).
    """

    input_blob: str = "data"
    resize: tuple[int, int] | None = None
    jpeg_round_trip: bool = False
    crop: tuple[int, int] | None = None
    channel_order: Literal["BGR", "RGB"] = "BGR"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0


OPEN_NSFW = Preprocessing(
    input_blob="data",
    resize=(256, 256),
    jpeg_round_trip=True,
    crop=(224, 224),
    channel_order="BGR",
    mean=(104.0, 117.0, 123.0),
)
"""What classify_nsfw.py of yahoo/open_nsfw does."""

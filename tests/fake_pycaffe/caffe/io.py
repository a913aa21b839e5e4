"""caffe.io as far as record.py uses it, with Pillow in place of scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def load_image(filename: str, color: bool = True) -> np.ndarray:
    """float32 from 0 to 1, (H, W, 3) in RGB or (H, W, 1)."""
    with Image.open(filename) as opened:
        pixels = np.asarray(opened.convert("RGB" if color else "L"))
    return (pixels / 255.0).astype(np.float32).reshape(*pixels.shape[:2], -1)


def resize_image(im: np.ndarray, new_dims: tuple[int, int], interp_order: int = 1) -> np.ndarray:
    height, width = new_dims
    planes = [
        Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR) for plane in np.moveaxis(im, 2, 0)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def blobproto_to_array(blob: Any) -> np.ndarray:
    return np.array(blob.data).reshape(blob.num, blob.channels, blob.height, blob.width)


class Transformer:
    """Resizes, transposes, swaps channels, scales, subtracts the mean, scales again; each only if set."""

    def __init__(self, inputs: dict[str, tuple[int, ...]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Any] = {}
        self.channel_swap: dict[str, Any] = {}
        self.raw_scale: dict[str, Any] = {}
        self.mean: dict[str, Any] = {}
        self.input_scale: dict[str, Any] = {}

    def set_transpose(self, in_: str, order: tuple[int, ...]) -> None:
        assert len(order) == len(self.inputs[in_]) - 1
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: tuple[int, ...]) -> None:
        assert len(order) == self.inputs[in_][1]
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        self.raw_scale[in_] = scale

    def set_input_scale(self, in_: str, scale: float) -> None:
        self.input_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        if mean.ndim == 1:
            if mean.shape[0] != self.inputs[in_][1]:
                raise ValueError("Mean channels incompatible with input.")
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.shape != self.inputs[in_][1:]:
            raise ValueError("Mean shape incompatible with input shape.")
        self.mean[in_] = mean

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        made = data.astype(np.float32, copy=False)
        if made.shape[:2] != self.inputs[in_][2:]:
            made = resize_image(made, self.inputs[in_][2:])
        if in_ in self.transpose:
            made = made.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            made = made[self.channel_swap[in_], :, :]
        if in_ in self.raw_scale:
            made *= self.raw_scale[in_]
        if in_ in self.mean:
            made -= self.mean[in_]
        if in_ in self.input_scale:
            made *= self.input_scale[in_]
        return made

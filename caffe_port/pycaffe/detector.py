"""`caffe.Detector`: a net that scores windows of images, as R-CNN does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_port.errors import MissingDependency, ShapeError
from caffe_port.image_files import Source
from caffe_port.pycaffe import TEST
from caffe_port.pycaffe.classifier import image_transformer
from caffe_port.pycaffe.io import load_image, resize_image
from caffe_port.pycaffe.net import Net

__all__ = ["Detector"]

Array = NDArray[Any]


class Detector(Net):
    """A net in phase TEST whose first input is a batch of square windows.

    context_pad: pixels of the net's input, at each side, that show what is around the window; 0 or None: the window
    alone. What lies outside the image there has the mean. The other options are those of
    `caffe_port.pycaffe.io.Transformer`.
    Source: BVLC/caffe @ 9b89154, python/caffe/detector.py.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pretrained_file, TEST)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Sets `context_pad`, and what a window with context is laid on: the mean, as an unprocessed image.

        Raises: ShapeError if the net's input is not square, or has no room for the context.
        """
        name = self.inputs[0]
        channels, height, width = self.blobs[name].data.shape[1:]
        self.context_pad = context_pad
        self.crop_dims = np.array((height, width, channels))
        self.crop_mean = np.zeros((height, width, channels), np.float32)
        if not context_pad:
            return
        if height != width or 2 * context_pad >= width:
            raise ShapeError(f"a context of {context_pad} pixels at each side of an input of {height}x{width}")
        # Without the input scale: that comes after the mean.
        mean = np.broadcast_to(self.transformer.mean.get(name, np.float32(0)), (channels, height, width))
        if name in self.transformer.channel_swap:
            mean = mean[np.argsort(self.transformer.channel_swap[name])]
        self.crop_mean = (mean / self.transformer.raw_scale.get(name, 1)).transpose(1, 2, 0).astype(np.float32)

    def crop(self, im: Array, window: Sequence[float]) -> Array:
        """A window of an (H, W, K) image, with its context where that is asked for; then of the size of the input.

        window: top, left, bottom, right in pixels; bottom and right are not part of it without context, and are with
        it, as in pycaffe. Raises: ShapeError if nothing of the window is inside the image.
        """
        box = np.array(window, np.float64)
        if not self.context_pad:
            top, left, bottom, right = box.astype(int)
            cut: Array = im[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
            if not cut.size:
                raise ShapeError(
                    f"window {_listed(window)} is empty, or outside an image of {im.shape[0]}x{im.shape[1]}"
                )
            return cut
        size = int(self.crop_dims[0])
        # The window grown about its centre, so that its own part of the input is `context_pad` smaller at each side.
        half = (box[2:] - box[:2] + 1) / 2
        centre = box[:2] + half
        grown = half * (size / (size - 2.0 * self.context_pad))
        box = np.round(np.concatenate([centre - grown, centre + grown]))
        scale = size / (box[2:] - box[:2] + 1)
        pad = np.round(np.maximum(0, -box[:2]) * scale).astype(int)
        box = np.clip(box, 0, [*im.shape[:2], *im.shape[:2]])
        inside = im[int(box[0]) : int(box[2]), int(box[1]) : int(box[3])]
        shown = np.minimum(np.round((box[2:] - box[:2] + 1) * scale).astype(int), size - pad)
        if not inside.size or (shown < 1).any():
            raise ShapeError(f"window {_listed(window)} is outside an image of {im.shape[0]}x{im.shape[1]}")
        result: Array = self.crop_mean.copy()
        result[pad[0] : pad[0] + shown[0], pad[1] : pad[1] + shown[1]] = resize_image(inside, shown)
        return result

    def detect_windows(
        self, images_windows: Iterable[tuple[Source, Iterable[Sequence[float]]]]
    ) -> list[dict[str, Any]]:
        """Scores windows of images: one dict a window, with `window`, `prediction` and `filename`.

        images_windows: of each image its file and its windows (top, left, bottom, right).
        Raises: ImageError, ShapeError.
        """
        name = self.inputs[0]
        found: list[dict[str, Any]] = []
        inputs = []
        for filename, windows in images_windows:
            image = load_image(filename)
            for window in windows:
                inputs.append(self.transformer.preprocess(name, self.crop(image, window)))
                found.append({"window": window, "filename": filename})
        if not inputs:
            return []
        predictions = self.forward_all(**{name: np.stack(inputs)})[self.outputs[0]]
        for entry, prediction in zip(found, predictions, strict=True):
            entry["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Iterable[str]) -> list[dict[str, Any]]:
        """Raises MissingDependency: the windows of pycaffe's selective search came from a MATLAB program."""
        raise MissingDependency(
            "detect_selective_search ran selective search in MATLAB, which is not part of this package: "
            "give windows of your own to detect_windows"
        )


def _listed(window: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in window) + ")"

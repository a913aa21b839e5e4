"""Training images as the recipe has them: at random scales, cropped and mirrored at random.

Crop, mirror, mean and scale are those of Caffe's DataTransformer, with its random numbers. What Caffe has not is the
scale: the shorter side of each image gets a random length, as in He et al., Deep Residual Learning for Image
Recognition, 2015, section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from caffe_port.datasets.items import Items, Ticket
from caffe_port.datasets.transform import RandomStream, Transformer
from caffe_port.finetuning.data import LabelledImage
from caffe_port.finetuning.nets import transform_of
from caffe_port.image_files import rgb_pixels
from caffe_port.layers.base import Array
from caffe_port.layers.data import Transform
from caffe_port.preprocessing import Preprocessing

__all__ = ["AugmentedImages"]


class AugmentedImages(Items):
    """Images without end, each time around in another order.

    - `steps`: the net's preprocessing, whose size is that of the crop.
    - `scale`: the least and the largest length of the shorter side, in pixels; the proportions stay. None: each image
      is resized to `steps.resize` as it is for validation.
    - `seed`: of order, scale, crop and mirror.

    A ticket's item is its place among `images`; its numbers are one for the scale, then those of the transformer.
    Raises: DataError, GraphError for steps that Caffe's DataTransformer cannot do; ImageError when one is loaded.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        steps: Preprocessing,
        *,
        batch_size: int,
        scale: tuple[int, int] | None,
        mirror: bool = True,
        seed: int = 0,
    ) -> None:
        fields = transform_of(steps)
        transform = Transform(
            crop_size=fields["crop_size"],
            mean_values=tuple(fields["mean_value"]),
            scale=fields.get("scale", 1.0),
            mirror=mirror,
        )
        super().__init__(batch_size, Path("training images"), Transformer(transform, "TRAIN", seed=seed))
        self.images, self._steps, self._scale, self._seed = images, steps, scale, seed

    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        rng, scales = np.random.default_rng(self._seed), RandomStream(self._seed + 1)
        count, at = len(self.images), skip
        order = rng.permutation(count)
        self.transformer.skip(skip)
        scales.skip(skip)
        while True:
            while at >= count:
                at -= count
                order = rng.permutation(count)
            yield int(order[at]), (scales.draw(), *self.transformer.draw())
            at += 1

    def load(self, ticket: Ticket) -> tuple[Array, int]:
        index, (scale, *numbers) = ticket
        image = self.images[index]
        picture = Image.fromarray(rgb_pixels(image.path))
        if self._steps.channel_order == "grey":
            picture = picture.convert("L")
        size = self._size(picture.size, scale)
        if size is not None:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        if pixels.ndim == 2:
            planes = pixels[None]
        else:
            planes = pixels[:, :, ["RGB".index(letter) for letter in self._steps.channel_order]].transpose(2, 0, 1)
        return self.transformer(planes, numbers), image.label

    def _size(self, size: tuple[int, int], number: int) -> tuple[int, int] | None:
        """Width and height that a picture of `size` is resized to."""
        if self._scale is None:
            return None if self._steps.resize is None else self._steps.resize[::-1]
        least, largest = self._scale
        shorter = least + number % (largest - least + 1)
        width, height = size
        if width <= height:
            return shorter, max(shorter, round(height * shorter / width))
        return max(shorter, round(width * shorter / height)), shorter

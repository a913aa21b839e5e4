"""ImageData: image files of a list, or of a folder of folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from caffe_port.datasets import images
from caffe_port.datasets.items import LARGEST_LABEL, Batches, Items, Root, Ticket, list_lines, transformed
from caffe_port.datasets.transform import RandomStream, Transformer, resolved
from caffe_port.errors import DataError
from caffe_port.layers import data as layers
from caffe_port.layers.base import Array
from caffe_port.scoring.sources import image_suffixes

__all__ = ["ImageItems", "image_batches"]


def image_batches(layer: layers.ImageData, *, phase: str = "TEST", root: Root = ".", seed: int = 0) -> Batches:
    """Image files of a list of lines `path label`, resized if the layer says so, transformed, and their labels.

    Raises: as ImageItems.
    """
    yield from ImageItems(layer, phase=phase, root=root, seed=seed).batches()


class ImageItems(Items):
    """An ImageData layer. A ticket's item is its place in the list.

    Paths are `root_folder` and the line's path joined as text, as in Caffe, and that relative to `root`. A source that
    is a folder, which Caffe would refuse, is a list of the images in its subfolders and below, by their names; the
    subfolders, by theirs, are the classes 0, 1, …. `shuffle` permutes by numpy's generator of that seed, not in Caffe's
    order.
    Raises: DataError; ImageError for an image that cannot be decoded.
    Source: BVLC/caffe @ 9b89154, image_data_layer.cpp.
    """

    def __init__(self, layer: layers.ImageData, *, phase: str = "TEST", root: Root = ".", seed: int = 0) -> None:
        source = resolved(root, layer.source)
        super().__init__(layer.batch_size, source, Transformer(layer.transform, phase, seed=seed, root=root))
        self._layer, self._root, self._seed = layer, root, seed
        if source.is_dir():
            if layer.root_folder:
                raise DataError(f"{source}: is a folder, and root_folder is set; one of the two says where images are")
            self.listed = [(f"{layer.source}/{name}", label) for name, label in _images_below(source)]
        else:
            lines = enumerate(list_lines(source), 1)
            self.listed = [_listed_image(line, f"{source}:{number}") for number, line in lines if line.strip()]
        if not self.listed:
            raise DataError(f"{source}: lists no image")

    def tickets(self, skip: int = 0) -> Iterator[Ticket]:
        layer, count = self._layer, len(self.listed)
        rng = np.random.default_rng(self._seed)

        def order() -> Array:
            return rng.permutation(count) if layer.shuffle else np.arange(count)

        # Caffe permutes what is permuted already.
        current, at = order(), 0
        if layer.rand_skip:
            at = RandomStream(self._seed).below(layer.rand_skip)
            if at >= count:
                raise DataError(f"{self.source}: lists {count} images, of which rand_skip skips {at}")
        self.transformer.skip(skip)
        at += skip
        while True:
            while at >= count:
                at -= count
                current = current[order()]
            yield int(current[at]), self.transformer.draw()
            at += 1

    def load(self, ticket: Ticket) -> tuple[Array, int]:
        index, numbers = ticket
        name, label = self.listed[index]
        path = resolved(self._root, self._layer.root_folder + name)
        item = images.read_image(path, color=self._layer.channels == 3)
        if self._layer.new_size is not None:
            item = images.resize(item, *self._layer.new_size)
        return transformed(self.transformer, item, str(path), numbers), label


def _images_below(folder: Path) -> Iterator[tuple[str, int]]:
    """The images of each subfolder, relative to the folder, and the number of the subfolder; hidden ones left out."""
    suffixes = image_suffixes()
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for label, name in enumerate(classes):
        found = sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file())
        images_here = [
            path
            for path in found
            if Path(path).suffix.lower() in suffixes and not path.rpartition("/")[2].startswith(".")
        ]
        if not images_here:
            raise DataError(f"{folder / name}: has no image, so class {label} would be empty")
        yield from ((path, label) for path in images_here)


def _listed_image(line: str, where: str) -> tuple[str, int]:
    """A line is split at its last space; paths may have spaces."""
    name, space, label = line.rpartition(" ")
    try:
        number = int(label)
    except ValueError:
        space = ""
    if not space or not name or abs(number) > LARGEST_LABEL:
        raise DataError(f"{where}: is not `path label`: {line[:200]!r}")
    return name, number

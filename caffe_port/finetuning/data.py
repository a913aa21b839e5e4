"""Images with labels: from a folder or a CSV file, each looked at once, and split into training and validation."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from caffe_port.errors import DataError, ImageError, Location, Problems
from caffe_port.image_files import rgb_pixels
from caffe_port.reading import lines_of
from caffe_port.scoring.sources import image_suffixes

__all__ = ["LEAST", "Dataset", "LabelledImage", "read_dataset"]

LEAST = 2
"""Images of each class in training, and in validation, where no variance could be had of fewer."""

MOST_NAMED = 20
"""Problems named in one report; the others are counted."""

_SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image file and the number of its class. digest: SHA-256 of its size and its RGB pixels."""

    path: Path
    label: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images to train with and images to validate with, which have no content in common.

    classes: names, by number. notes: what a user should know of how they were read.
    """

    classes: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    notes: tuple[str, ...] = ()

    def counts(self, images: Sequence[LabelledImage]) -> list[int]:
        """How many images each class has."""
        found = Counter(image.label for image in images)
        return [found[label] for label in range(len(self.classes))]


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a folder or a CSV file says of one image. where: its line."""

    path: Path
    label: str
    split: str = ""
    where: Location | None = None


def read_dataset(
    source: str | os.PathLike[str],
    *,
    validation: float | str | os.PathLike[str] = 0.2,
    classes: Sequence[str] | None = None,
    preferred: Sequence[str] = (),
    seed: int = 0,
    threads: int | None = None,
) -> Dataset:
    """Reads images with labels, decodes each once, and splits them.

    - `source`: a folder with a subfolder for each class; or a CSV file with a header and the columns `path` (relative
      to the file; `image` will do), `label`, and, if it likes, `split` (train, validation, test; test is left out).
    - `validation`: the share of each class that is held back, or a folder or CSV file with the images to validate
      with. Without effect where the CSV file has a column `split`.
    - `classes`: their names in order; labels of a CSV file may also be their numbers. Without them they are the names
      that are there: in the order of `preferred` where these are the same names, else sorted, numbers from 0 on.
    - `seed`: of the split. It goes by content: images with the same pixels come to the same side, and neither names
      nor order matter.

    Raises: DataError, with all that is wrong of one kind together: no images, images that are not there or cannot be
    decoded, unknown labels, one class only, fewer than LEAST of a class on a side, one image with two labels or on
    both sides.
    """
    entries, notes = _read(Path(source))
    given: list[_Entry] = []
    if not isinstance(validation, float):
        given, more = _read(Path(validation))
        notes += more
        if any(entry.split for entry in entries):
            raise DataError(f"{source}: has a column split, and validation images are given; one of the two")
    elif not 0 < validation < 1:
        raise DataError(f"the share held back for validation lies between 0 and 1, not {validation:g}")
    names, numeric = _classes([*entries, *given], classes, preferred, Path(source))
    tests = sum(entry.split == "test" for entry in entries)
    if tests:
        notes.append(f"{tests} images of split test are left out")
    entries = [entry for entry in entries if entry.split != "test"]
    images = _decoded([*entries, *given], names, numeric, threads)
    of_source, of_given = images[: len(entries)], images[len(entries) :]
    _require_one_label(images, names)
    if any(entry.split for entry in entries):
        train = [image for image, entry in zip(of_source, entries, strict=True) if entry.split == "train"]
        held = [image for image, entry in zip(of_source, entries, strict=True) if entry.split == "validation"]
    elif not isinstance(validation, float):
        train, held = of_source, of_given
    else:
        train, held = _split(of_source, validation, seed)
    _require_apart(train, held)
    dataset = Dataset(names, tuple(train), tuple(held), tuple(notes))
    _require_enough(dataset, Path(source))
    return dataset


# Reading


def _read(source: Path) -> tuple[list[_Entry], list[str]]:
    if source.is_dir():
        return _of_folder(source)
    if not source.exists():
        raise DataError(f"{source}: no such folder or file")
    return _of_csv(source), []


def _of_folder(folder: Path) -> tuple[list[_Entry], list[str]]:
    suffixes = image_suffixes()

    def images_in(place: Path, pattern: str) -> Iterator[Path]:
        for path in sorted(place.glob(pattern)):
            if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
                yield path

    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not subfolders:
        raise DataError(f"{folder}: has no subfolders; the images of each class belong in a subfolder of their own")
    entries = [_Entry(path, place.name) for place in subfolders for path in images_in(place, "**/*")]
    empty = [place.name for place in subfolders if not any(entry.label == place.name for entry in entries)]
    if empty:
        raise DataError(f"{folder}: no image in {', '.join(empty)}")
    beside = len(list(images_in(folder, "*")))
    return entries, [f"{folder}: {beside} images beside the subfolders have no class and are left out"] * bool(beside)


def _of_csv(file: Path) -> list[_Entry]:
    problems = _Problems()
    entries = []
    try:
        # utf-8-sig: spreadsheets begin their files with a byte order mark.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(lines_of(stream), strict=True)
            columns = reader.fieldnames or []
            column = next((name for name in ("path", "image") if name in columns), None)
            if column is None or "label" not in columns:
                raise DataError(
                    f"{file}:1: columns path and label are needed; there are {', '.join(columns) or 'none'}"
                )
            for row in reader:
                where = Location(os.fspath(file), reader.line_num)
                name, label, split = (row.get(key) or "" for key in (column, "label", "split"))
                if None in row or not name.strip() or not label.strip():
                    problems.add("a path and a label are needed, and no more fields than the header has", where)
                elif "split" in columns and split.strip().lower() not in _SPLITS:
                    problems.add(f"split is {split!r}; it can be train, validation or test", where)
                else:
                    entries.append(
                        _Entry(file.parent / name, label.strip(), _SPLITS.get(split.strip().lower(), ""), where)
                    )
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (csv.Error, ValueError) as error:
        raise DataError(f"{file}: no CSV that can be read: {error}") from None
    problems.raise_if_any()
    if not entries:
        raise DataError(f"{file}: has no rows")
    return entries


class _Problems:
    """Problems of which only the first are named."""

    def __init__(self) -> None:
        self._problems, self._more = Problems(), 0

    def add(self, text: str, where: Location | None = None, hint: str = "") -> None:
        if len(self._problems.found) < MOST_NAMED:
            self._problems.add(DataError, text, location=where, hint=hint)
        else:
            self._more += 1

    def raise_if_any(self) -> None:
        if self._more:
            self._problems.add(DataError, f"and {self._more} more")
        self._problems.raise_if_any()


def _number(label: str) -> int | None:
    # No number of a class has more digits, and Python takes its time for thousands of them.
    return int(label) if label.isascii() and label.isdigit() and len(label) < 10 else None


def _classes(
    entries: Sequence[_Entry], given: Sequence[str] | None, preferred: Sequence[str], source: Path
) -> tuple[tuple[str, ...], bool]:
    """The classes in order, and whether labels may be their numbers. Raises: DataError."""
    labels = {entry.label for entry in entries}
    if given is not None:
        names = tuple(given)
        if len(set(names)) < len(names):
            raise DataError(f"a class is named twice: {', '.join(names)}")
        problems = _Problems()
        for entry in entries:
            number = _number(entry.label)
            if entry.label not in names and (number is None or number >= len(names)):
                known = f"{', '.join(names)}, or 0 to {len(names) - 1}"
                problems.add(f"{entry.path}: label {entry.label!r} is out of range: {known}", entry.where)
        problems.raise_if_any()
    elif labels == set(preferred):
        names = tuple(preferred)
    elif all(_number(label) is not None for label in labels):
        numbers = sorted({number for label in labels if (number := _number(label)) is not None})
        if numbers != list(range(len(numbers))):
            found = ", ".join(map(str, numbers[:MOST_NAMED]))
            raise DataError(f"{source}: labels are {found}, and not the numbers from 0 on; name all classes (classes)")
        names = tuple(map(str, numbers))
    else:
        names = tuple(sorted(labels))
    if len(names) < 2:
        raise DataError(f"{source}: all images are of one class, {names[0]!r}; nothing can be told apart")
    return names, given is not None


def _decoded(
    entries: Sequence[_Entry], names: Sequence[str], numeric: bool, threads: int | None
) -> list[LabelledImage]:
    def look(entry: _Entry) -> LabelledImage | str:
        try:
            pixels = rgb_pixels(entry.path)
        except ImageError as error:
            return str(error)
        digest = hashlib.sha256(f"{pixels.shape}".encode())
        digest.update(pixels.tobytes())
        # A name goes before a number: classes may be called "1" and "0".
        number = names.index(entry.label) if entry.label in names or not numeric else int(entry.label)
        return LabelledImage(entry.path.resolve(), number, digest.hexdigest())

    problems, images = _Problems(), []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for entry, found in zip(entries, pool.map(look, entries), strict=True):
            if isinstance(found, str):
                problems.add(found, entry.where)
            else:
                images.append(found)
    problems.raise_if_any()
    return images


# Splitting


def _split(images: Sequence[LabelledImage], share: float, seed: int) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """The images of each class by a keyed hash of their content: the first ones are held back."""
    alike: dict[int, dict[str, list[LabelledImage]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        alike[image.label][image.digest].append(image)
    held: set[str] = set()
    for groups in alike.values():
        total = sum(map(len, groups.values()))
        wanted = min(max(LEAST, round(share * total)), total - LEAST)
        taken = 0
        for digest in sorted(groups, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest()):
            if taken >= wanted:
                break
            held.add(digest)
            taken += len(groups[digest])
    return [i for i in images if i.digest not in held], [i for i in images if i.digest in held]


def _by_digest(images: Iterable[LabelledImage]) -> dict[str, LabelledImage]:
    return {image.digest: image for image in images}


def _require_one_label(images: Sequence[LabelledImage], names: Sequence[str]) -> None:
    problems, first = _Problems(), _by_digest(reversed(images))
    for image in images:
        other = first[image.digest]
        if other.label != image.label:
            problems.add(
                f"{image.path} is {names[image.label]!r}, and {other.path}, the same picture, {names[other.label]!r}"
            )
    problems.raise_if_any()


def _require_apart(train: Sequence[LabelledImage], held: Sequence[LabelledImage]) -> None:
    problems, trained = _Problems(), _by_digest(train)
    for image in held:
        if image.digest in trained:
            problems.add(
                f"{image.path}, to validate with, is the same picture as {trained[image.digest].path}, to train with",
                hint="take one of them away",
            )
    problems.raise_if_any()


def _require_enough(dataset: Dataset, source: Path) -> None:
    problems = _Problems()
    for images, what in ((dataset.train, "train"), (dataset.validation, "validate")):
        for name, count in zip(dataset.classes, dataset.counts(images), strict=True):
            if count < LEAST:
                problems.add(
                    f"{source}: class {name!r} has {count} image{'' if count == 1 else 's'} to {what} with, "
                    f"at least {LEAST} are needed"
                )
    problems.raise_if_any()

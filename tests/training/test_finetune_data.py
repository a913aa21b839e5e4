"""Folders and CSV files of labelled images, and how they are split."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caffe_port.errors import DataError
from caffe_port.finetuning.data import read_dataset


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folder(place: Path, counts: dict[str, int]) -> Path:
    number = 0
    for name, count in counts.items():
        for _ in range(count):
            picture(place / name / f"{number}.png", number)
            number += 1
    return place


def names(images: object) -> set[str]:
    return {image.path.name for image in images}  # type: ignore[attr-defined]


def test_a_folder(tmp_path: Path) -> None:
    place = folder(tmp_path / "data", {"b": 20, "a": 10, ".hidden": 3})
    picture(place / "beside.png", 99)
    (place / "a" / "notes.txt").write_text("no image")
    picture(place / "a" / "deeper" / "x.png", 100)
    found = read_dataset(place)
    assert found.classes == ("a", "b")
    assert found.counts(found.train) == [9, 16] and found.counts(found.validation) == [2, 4]
    assert not names(found.train) & names(found.validation)
    assert "x.png" in names(found.train) | names(found.validation)
    assert found.notes == (f"{place}: 1 images beside the subfolders have no class and are left out",)


def test_the_split_goes_by_content_and_seed(tmp_path: Path) -> None:
    place = folder(tmp_path / "data", {"a": 30, "b": 30})
    first = read_dataset(place, seed=1)
    held = {image.digest for image in first.validation}
    # Other names, the same pictures.
    for path in sorted(place.rglob("*.png")):
        path.rename(path.with_name(f"z{1000 - int(path.stem)}.png"))
    renamed = read_dataset(place, seed=1)
    assert {image.digest for image in renamed.validation} == held
    assert {image.digest for image in read_dataset(place, seed=2).validation} != held


def test_copies_stay_together(tmp_path: Path) -> None:
    """The same pixels, as PNG and BMP, under several names: all on one side, for every seed."""
    place = folder(tmp_path / "data", {"a": 8, "b": 8})
    for path in sorted(place.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
        with Image.open(path) as opened:
            opened.save(path.with_suffix(".bmp"))
    for seed in range(5):
        found = read_dataset(place, seed=seed, validation=0.25)
        sides = [{image.digest for image in images} for images in (found.train, found.validation)]
        assert not sides[0] & sides[1]
        assert len(found.train) + len(found.validation) == 48
        assert found.counts(found.validation) == [6, 6]


def write_csv(path: Path, *rows: str, head: str = "path,label") -> Path:
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_csv_file(tmp_path: Path) -> None:
    folder(tmp_path / "im", {"a": 6, "b": 6})
    images = sorted((tmp_path / "im").rglob("*.png"), key=lambda path: int(path.stem))
    rows = [f"im/{path.parent.name}/{path.name},{'yes' if i < 6 else 'no'}" for i, path in enumerate(images)]
    found = read_dataset(write_csv(tmp_path / "a.csv", *rows))
    assert found.classes == ("no", "yes") and found.counts(found.train) == [4, 4]
    # The order of the model's own labels, where they are the same names.
    assert read_dataset(tmp_path / "a.csv", preferred=("yes", "no")).classes == ("yes", "no")
    numbered = write_csv(tmp_path / "n.csv", *[row.replace("yes", "1").replace("no", "0") for row in rows])
    assert read_dataset(numbered).classes == ("0", "1")
    named = read_dataset(numbered, classes=["safe", "unsafe"])
    assert named.classes == ("safe", "unsafe") and named.counts(named.train) == [4, 4]
    assert {image.label for image in named.train if "/a/" in image.path.as_posix()} == {1}
    sides = ["train", "validation", "val", "train", "test", "Training"] * 2
    split = write_csv(
        tmp_path / "s.csv", *[f"{row},{side}" for row, side in zip(rows, sides, strict=True)], head="path,label,split"
    )
    found = read_dataset(split)
    assert found.counts(found.train) == [3, 3] and found.counts(found.validation) == [2, 2]
    assert found.notes == ("2 images of split test are left out",)


def test_given_validation_images(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", {"a": 3, "b": 3})
    for name in "ab":
        for number in (50, 51):
            picture(tmp_path / "val" / name / f"{number}.png", number + 10 * ord(name))
    found = read_dataset(train, validation=tmp_path / "val")
    assert found.counts(found.train) == [3, 3] and found.counts(found.validation) == [2, 2]
    shutil.copy(train / "a" / "0.png", tmp_path / "val" / "a" / "leak.png")
    with pytest.raises(DataError, match=r"leak\.png, to validate with, is the same picture as .*0\.png, to train with"):
        read_dataset(train, validation=tmp_path / "val")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or file"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="has no subfolders"):
        read_dataset(tmp_path)
    place = folder(tmp_path / "one", {"a": 5})
    with pytest.raises(DataError, match="all images are of one class, 'a'"):
        read_dataset(place)
    (place / "b").mkdir()
    with pytest.raises(DataError, match="no image in b"):
        read_dataset(place)
    for number in range(3):
        picture(place / "b" / f"{number}.png", 50 + number)
    with pytest.raises(DataError, match="class 'b' has 1 image to validate with, at least 2 are needed"):
        read_dataset(place)
    with pytest.raises(DataError, match="lies between 0 and 1, not 1"):
        read_dataset(place, validation=1.0)


def test_bad_images(tmp_path: Path) -> None:
    place = folder(tmp_path / "data", {"a": 5, "b": 5})
    (place / "a" / "0.png").write_bytes((place / "a" / "0.png").read_bytes()[:60])
    (place / "b" / "text.jpg").write_text("no picture")
    with pytest.raises(DataError) as caught:
        read_dataset(place)
    assert "a/0.png" in str(caught.value) and "text.jpg" in str(caught.value)
    for name in ("a/0.png", "b/text.jpg"):
        (place / name).unlink()
    shutil.copy(place / "a" / "1.png", place / "b" / "same.png")
    with pytest.raises(DataError, match=r"same\.png is 'b', and .*1\.png, the same picture, 'a'"):
        read_dataset(place)


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        ("file,label", ["x.png,1"], "columns path and label are needed; there are file, label"),
        ("path,label", [], "has no rows"),
        ("path,label", ["x.png,"], "a.csv:2: a path and a label are needed"),
        ("path,label", ["x.png,1,2"], "a.csv:2: a path and a label are needed"),
        ("path,label,split", ["x.png,1,some"], "a.csv:2: split is 'some'; it can be train, validation or test"),
        ("path,label", ["x.png,1", "y.png,3"], "labels are 1, 3, and not the numbers from 0 on"),
        ("path,label", ["x.png,0", "y.png,1"], "x.png: no such file"),
    ],
)
def test_bad_tables(tmp_path: Path, head: str, rows: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_dataset(write_csv(tmp_path / "a.csv", *rows, head=head))
    assert said in str(caught.value)


def test_labels_out_of_range(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "a.csv", "x.png,0", "y.png,2", "z.png,maybe")
    with pytest.raises(DataError) as caught:
        read_dataset(table, classes=["no", "yes"])
    for line, label in ((3, "2"), (4, "maybe")):
        assert f"a.csv:{line}: " in str(caught.value) and f"label {label!r} is out of range" in str(caught.value)

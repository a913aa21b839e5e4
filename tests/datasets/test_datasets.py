"""Data sources that are really read. Expected values are worked out by hand, or from Caffe's own runs on the data."""

from __future__ import annotations

import io
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import CONFORMANCE

import caffe_port as cp
from caffe_port import registry
from caffe_port.datasets import images, open_source, open_sources
from caffe_port.datasets.transform import RandomStream, Transformer
from caffe_port.errors import CaffePortError, DataError, ImageError
from caffe_port.layers.base import LayerSpec
from caffe_port.layers.data import Transform
from caffe_port.proto import schema, text
from caffe_port.scoring.mean import Mean

RUNS = CONFORMANCE / "solver"


def definition(layer: str, phase: str = "TEST") -> Any:
    """The declaration of the one layer in a prototxt."""
    message = text.parse(layer)[0].layer[0]
    found = registry.find_layer(message.type)
    assert found is not None
    return found.parse(LayerSpec(message, phase, None))


def source(layer: str, root: Path, phase: str = "TEST", **options: Any) -> Any:
    tops = list(text.parse(layer)[0].layer[0].top)
    return open_source(definition(layer, phase), tops, phase=phase, root=root, **options)


# Random numbers and the transformer


def test_the_generator_is_mt19937() -> None:
    # The C++ standard, [rand.predef]: the 10000th number of a std::mt19937 with its default seed 5489 is 4123659995.
    stream = RandomStream(5489)
    numbers = [stream.draw() for _ in range(10000)]
    assert numbers[0] == 3499211612 and numbers[-1] == 4123659995


ITEM = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
"""Value of channel c, row y, column x: 20 c + 5 y + x."""


def test_the_middle_is_cropped_in_test() -> None:
    # (4 - 3) // 2 = 0 and (5 - 3) // 2 = 1: rows 0 to 2, columns 1 to 3; minus (1, 2), times 0.5.
    got = Transformer(Transform(crop_size=3, mean_values=(1, 2), scale=0.5), "TEST")(ITEM)
    assert got.dtype == np.float32
    assert got[0].tolist() == [[0, 0.5, 1], [2.5, 3, 3.5], [5, 5.5, 6]]
    assert got[1].tolist() == [[9.5, 10, 10.5], [12, 12.5, 13], [14.5, 15, 15.5]]


def test_draws_are_mirror_then_row_then_column() -> None:
    # In TRAIN with mirror: of the raw numbers a, b, c: a % 2 mirrors, b % 2 is the row of 4 - 3 + 1, c % 3 the column.
    transformer = Transformer(Transform(crop_size=3, mirror=True), "TRAIN", seed=5)
    stream = RandomStream(5)
    seen = set()
    for _ in range(40):
        mirror, top, left = stream.below(2), stream.below(2), stream.below(3)
        want = ITEM[:, top : top + 3, left : left + 3].astype(np.float32)
        assert np.array_equal(transformer(ITEM), want[:, :, ::-1] if mirror else want)
        seen.add((mirror, top, left))
    assert len(seen) == 12


def test_mirroring_is_random_in_test_too() -> None:
    transformer, stream = Transformer(Transform(mirror=True), "TEST", seed=9), RandomStream(9)
    mirrored = [bool(np.array_equal(transformer(ITEM), ITEM[:, :, ::-1])) for _ in range(20)]
    assert mirrored == [bool(stream.below(2)) for _ in range(20)] and len(set(mirrored)) == 2


def test_the_mean_image_is_taken_at_the_crop_before_mirroring(tmp_path: Path) -> None:
    mean = np.arange(2 * 4 * 5, dtype=np.float32).reshape(2, 4, 5)
    Mean(mean).write(tmp_path / "mean.binaryproto")
    transform = Transform(crop_size=3, mirror=True, mean_file="mean.binaryproto", scale=2)
    transformer = Transformer(transform, "TRAIN", seed=1, root=tmp_path)
    # Each pixel is its own place plus 7, the mean its own place: wherever it is cut or mirrored, 14 is left of each.
    for _ in range(10):
        assert np.array_equal(transformer(ITEM + 7), np.full((2, 3, 3), 14))
    with pytest.raises(DataError, match="the mean image is 2x4x5, an item 2x4x4"):
        transformer(ITEM[:, :, :4])


def test_transforms_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="smaller than crop_size 5"):
        Transformer(Transform(crop_size=5), "TEST")(ITEM)
    with pytest.raises(DataError, match="3 mean_value for 2 channels"):
        Transformer(Transform(mean_values=(1, 2, 3)), "TEST")(ITEM)
    with pytest.raises(DataError, match="both mean_file and mean_value"):
        Transformer(Transform(mean_values=(1,), mean_file="m"), "TEST")
    assert Transformer(Transform(mean_values=(3,)), "TEST")(ITEM)[1, 0, 0] == 17


# Images


def test_images_are_blue_first(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    picture.putpixel((2, 0), (1, 2, 3))
    picture.save(tmp_path / "a.png")
    got = images.read_image(tmp_path / "a.png")
    assert got.shape == (3, 2, 3) and got[:, 0, 0].tolist() == [30, 20, 10] and got[:, 0, 2].tolist() == [3, 2, 1]
    # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
    assert images.read_image(tmp_path / "a.png", color=False)[:, 0, 0].tolist() == [18]
    with pytest.raises(ImageError, match="no such file"):
        images.read_image(tmp_path / "b.png")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_native_channels(mode: str, channels: int) -> None:
    encoded = io.BytesIO()
    Image.new(mode, (4, 3), 7 if mode == "L" else (1, 2, 3, 4)[:channels]).save(encoded, "PNG")
    got = images.decode(encoded.getvalue())
    assert got[:, 0, 0].tolist() == {1: [7], 3: [3, 2, 1], 4: [3, 2, 1, 4]}[channels]
    assert images.decode(encoded.getvalue(), color=True).shape == (3, 3, 4)
    assert images.decode(encoded.getvalue(), color=False).shape == (1, 3, 4)


def test_resizing() -> None:
    row = np.array([[[0, 100, 200, 40]]], np.uint8)
    # 4 to 2: new centres lie at (0.5, 1.5) * 2 - 0.5 = 0.5 and 2.5: (0 + 100) / 2 and (200 + 40) / 2; no smoothing.
    assert images.resize(row, 1, 2).tolist() == [[[50, 120]]]
    # 4 to 8: centres -0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25; the ends repeat.
    assert images.resize(row, 1, 8).tolist() == [[[0, 25, 75, 125, 175, 160, 80, 40]]]
    # 4 to 1: centre 1.5, halfway between 100 and 200; downwards the same.
    assert images.resize(row, 1, 1).tolist() == [[[150]]]
    assert images.resize(row.transpose(0, 2, 1), 2, 1).tolist() == [[[50], [120]]]
    assert images.resize(row, 1, 4) is row


# HDF5Data

HDF5 = """layer { name: "d" type: "HDF5Data" top: "data" top: "label"
                  hdf5_data_param { source: "list.txt" batch_size: 4 %s } }"""


def hdf5_files(folder: Path, sizes: tuple[int, ...] = (3, 2)) -> None:
    """Item i of all files in order has the data (i, -i) and the label 10 i."""
    h5py: Any = pytest.importorskip("h5py")
    start = 0
    for number, size in enumerate(sizes):
        with h5py.File(folder / f"{number}.h5", "w") as file:
            items = np.arange(start, start + size)
            file["data"] = np.stack([items, -items], 1).astype("f4")
            file["label"] = (10 * items).astype("i4")
        start += size
    (folder / "list.txt").write_text("0.h5\n\n 1.h5\n")


def test_hdf5_batches_run_over_the_ends(tmp_path: Path) -> None:
    hdf5_files(tmp_path)
    batches = list(islice(source(HDF5 % "", tmp_path), 3))
    order = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    for number, batch in enumerate(batches):
        items = order[4 * number : 4 * number + 4]
        assert batch["label"].tolist() == [10 * i for i in items] and batch["label"].dtype == np.float32
        assert batch["data"].tolist() == [[i, -i] for i in items]


def test_hdf5_shuffled(tmp_path: Path) -> None:
    hdf5_files(tmp_path, (12, 8))
    rows = np.concatenate([b["label"] for b in islice(source(HDF5 % "shuffle: true", tmp_path, seed=3), 10)]) / 10
    assert sorted(rows[:20]) == list(range(20)) == sorted(rows[20:])
    assert rows[:20].tolist() != sorted(rows[:20]) and rows[:20].tolist() != rows[20:].tolist()


def test_hdf5_that_does_not_fit(tmp_path: Path) -> None:
    hdf5_files(tmp_path)
    h5py: Any = pytest.importorskip("h5py")
    for write, want in (
        ({"data": np.zeros((3, 2))}, "dataset 'label' is not there"),
        ({"data": np.zeros((3, 2)), "label": np.zeros(4)}, "different numbers of rows: data 3, label 4"),
        ({"data": np.zeros((3, 2)), "label": np.float32(0)}, "'label' has no axis"),
        ({"data": np.zeros((3, 5)), "label": np.zeros(3)}, "items differ from those of the files before"),
    ):
        with h5py.File(tmp_path / "1.h5", "w") as file:
            for name, values in write.items():
                file[name] = values
        with pytest.raises(DataError, match=want):
            list(islice(source(HDF5 % "", tmp_path), 2))
    (tmp_path / "1.h5").write_bytes(b"no")
    with pytest.raises(DataError, match="is no HDF5 file"):
        list(islice(source(HDF5 % "", tmp_path), 2))
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(DataError, match="lists no HDF5 file"):
        next(source(HDF5 % "", tmp_path))
    with pytest.raises(DataError, match=r"nothing\.txt: cannot be read"):
        next(source((HDF5 % "").replace("list", "nothing"), tmp_path))


@pytest.mark.skipif(not RUNS.is_dir(), reason="no recordings here")
@pytest.mark.parametrize("run", sorted(path.name for path in RUNS.iterdir()) if RUNS.is_dir() else [])
def test_what_caffe_read(run: str) -> None:
    """The loss of Caffe's first pass over its first batch: that of its initial weights on the batch we read."""
    folder = RUNS / run
    batch = next(open_sources(folder / "net.prototxt", phase="TRAIN", root=folder))
    assert batch["data"].shape == (6, 2, 7, 8) and len(batch["label"]) == 6
    shapes = {name: array.shape for name, array in batch.items()}
    net = cp.load(folder / "net.prototxt", folder / "initial.caffemodel", phase="TRAIN", input_shapes=shapes)
    solver = text.read(folder / "solver.prototxt", "SolverParameter")[0]
    batches = open_sources(folder / "net.prototxt", phase="TRAIN", root=folder)
    last = list(islice(batches, solver.iter_size))[-1]
    got = cp.run(net, last)["loss"]
    with np.load(folder / "run.npz") as recorded:
        # Caffe reports the top, before its loss_weight.
        assert float(got) == pytest.approx(float(recorded["loss_last_pass"].reshape(-1)[0]), rel=1e-5)


# Data

LMDB = """layer { name: "d" type: "Data" top: "data" top: "label" transform_param { crop_size: 2 mean_value: 1 %s }
                  data_param { source: "db" batch_size: 2 backend: LMDB } }"""


def database(folder: Path, *datums: Any) -> None:
    lmdb: Any = pytest.importorskip("lmdb")
    with lmdb.open(str(folder / "db"), map_size=1 << 20) as opened, opened.begin(write=True) as transaction:
        # Put in backwards: the order is that of the keys.
        for number, datum in reversed(list(enumerate(datums))):
            transaction.put(f"{number:08d}".encode(), datum if isinstance(datum, bytes) else datum.SerializeToString())


def datum(pixels: Any, label: int) -> Any:
    made = schema.message("Datum")
    made.channels, made.height, made.width = pixels.shape
    made.label = label
    if pixels.dtype == np.uint8:
        made.data = pixels.tobytes()
    else:
        made.float_data.extend(pixels.reshape(-1).tolist())
    return made


def test_lmdb(tmp_path: Path) -> None:
    # Centre 2x2 of 4x4: rows and columns 1 and 2. Of item i all pixels are 10 i but the corner (1, 1), 100; the mean
    # is 1.
    items = []
    for number in range(3):
        pixels = np.full((1, 4, 4), 10 * number, np.uint8)
        pixels[0, 1, 1] = 100
        items.append(datum(pixels.astype(np.float32) if number == 2 else pixels, number))
    database(tmp_path, *items)
    first, second = islice(source(LMDB % "", tmp_path), 2)
    assert first["data"].shape == (2, 1, 2, 2)
    assert first["data"].reshape(2, 4).tolist() == [[99, -1, -1, -1], [99, 9, 9, 9]]
    assert first["label"].tolist() == [0, 1]
    # The third, then from the start again.
    assert second["data"].reshape(2, 4).tolist() == [[99, 19, 19, 19], [99, -1, -1, -1]]
    assert second["label"].tolist() == [2, 0]


def test_lmdb_of_encoded_images(tmp_path: Path) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (2, 3), (10, 20, 30)).save(encoded, "PNG")
    made = schema.message("Datum")
    made.encoded, made.data, made.label = True, encoded.getvalue(), 4
    database(tmp_path, made)
    batch = next(source(LMDB % "", tmp_path))
    assert batch["data"].shape == (2, 3, 2, 2) and batch["data"][1, :, 0, 0].tolist() == [29, 19, 9]
    assert next(source(LMDB % "force_gray: true", tmp_path))["data"].shape == (2, 1, 2, 2)
    with pytest.raises(DataError, match="both force_color and force_gray"):
        next(source(LMDB % "force_gray: true force_color: true", tmp_path))


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ([b"\xff\xff"], "item b'00000000': is no Datum"),
        ([datum(np.zeros((1, 1, 4), np.uint8), 0)], "smaller than crop_size 2"),
        ([datum(np.zeros((c, 2, 2), np.uint8), 0) for c in (1, 3)], "items of one batch differ: 1x2x2 and 3x2x2"),
        ([], "the database is empty"),
    ],
)
def test_databases_that_do_not_fit(tmp_path: Path, content: list[Any], want: str) -> None:
    database(tmp_path, *content)
    with pytest.raises(DataError, match=want):
        next(source(LMDB % "", tmp_path))


def test_no_database(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="LEVELDB, which cannot be read here"):
        next(source(LMDB.replace("backend: LMDB", "") % "", tmp_path))
    pytest.importorskip("lmdb")
    with pytest.raises(DataError, match="no such database"):
        next(source(LMDB % "", tmp_path))
    (tmp_path / "db").write_bytes(bytes(5000))
    with pytest.raises(DataError, match="cannot be read"):
        next(source(LMDB % "", tmp_path))
    wrong = datum(np.zeros((1, 2, 2), np.uint8), 0)
    wrong.width = 3
    (tmp_path / "db").unlink()
    database(tmp_path, wrong)
    with pytest.raises(DataError, match="has 4 values for channels, height, width 1x2x3"):
        next(source(LMDB % "", tmp_path))


# ImageData

IMAGES = """layer { name: "d" type: "ImageData" top: "data" top: "label" transform_param { scale: 0.5 }
                    image_data_param { source: "list.txt" root_folder: "im/" batch_size: 2 %s } }"""


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (2, 2)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, color).save(path)


def test_image_lists(tmp_path: Path) -> None:
    for number, name in enumerate(["a b.png", "c.png", "d.png"]):
        picture(tmp_path / "im" / name, (number, 20, 30))
    (tmp_path / "list.txt").write_text("a b.png 7\nc.png -1\nd.png 9\n")
    first, second = islice(source(IMAGES % "", tmp_path), 2)
    assert first["data"].shape == (2, 3, 2, 2) and first["data"][1, :, 1, 1].tolist() == [15, 10, 0.5]
    assert (first["label"].tolist(), second["label"].tolist()) == ([7, -1], [9, 7])
    large = next(source(IMAGES % "new_height: 3 new_width: 5 is_color: false", tmp_path))
    assert large["data"].shape == (2, 1, 3, 5)
    # rand_skip: the first number of the stream, modulo 3, is where it starts.
    start = RandomStream(2).below(3)
    skipped = next(source(IMAGES % "rand_skip: 3", tmp_path, seed=2))["label"]
    assert skipped.tolist() == [[7, -1, 9][start], [7, -1, 9][(start + 1) % 3]]
    shuffled = np.concatenate([b["label"] for b in islice(source(IMAGES % "shuffle: true", tmp_path), 3)])
    assert sorted(shuffled[:3]) == [-1, 7, 9] == sorted(shuffled[3:])


def test_image_lists_that_do_not_fit(tmp_path: Path) -> None:
    picture(tmp_path / "im" / "a.png", (1, 2, 3))
    picture(tmp_path / "im" / "b.png", (1, 2, 3), (4, 2))
    for listed, want in (
        ("a.png 1\nb.png 2", "items of one batch differ: 3x2x2 and 3x2x4"),
        ("a.png", r"list\.txt:1: is not `path label`"),
        ("a.png x", r"list\.txt:1: is not `path label`"),
        ("none.png 1", "no such file"),
        ("", "lists no image"),
    ):
        (tmp_path / "list.txt").write_text(listed)
        with pytest.raises(CaffePortError, match=want):
            next(source(IMAGES % "", tmp_path))


# MemoryData


def test_memory() -> None:
    layer = """layer { name: "d" type: "MemoryData" top: "data" top: "label"
                       memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }"""
    data, labels = np.arange(12).reshape(4, 1, 1, 3), np.array([5, 6, 7, 8])
    batches = list(islice(source(layer, Path(), arrays=(data, labels)), 3))
    assert [batch["label"].reshape(-1).tolist() for batch in batches] == [[5, 6], [7, 8], [5, 6]]
    assert batches[1]["data"].reshape(-1).tolist() == [6, 7, 8, 9, 10, 11] and batches[0]["label"].shape == (2, 1, 1, 1)
    with pytest.raises(DataError, match="3 items are no multiple of batch_size 2"):
        next(source(layer, Path(), arrays=(data[:3], labels[:3])))
    with pytest.raises(DataError, match="given are 4x1x1x3 and 3"):
        next(source(layer, Path(), arrays=(data, labels[:3])))
    with pytest.raises(DataError, match="MemoryData has no file"):
        source(layer, Path())


# WindowData

WINDOWS = """layer { name: "d" type: "WindowData" top: "data" top: "label"
    transform_param { crop_size: 4 scale: 100 mean_value: 10 %s }
    window_data_param { source: "w.txt" batch_size: 4 fg_fraction: 0.5 scale: 2 %s } }"""


def windows(folder: Path, listed: str, size: tuple[int, int] = (8, 6)) -> None:
    """An image of 8 columns and 6 rows; the value at row y, column x is 10 y + x in all channels."""
    pixels = np.add.outer(10 * np.arange(size[1]), np.arange(size[0])).astype(np.uint8)
    Image.fromarray(np.repeat(pixels[:, :, None], 3, 2)).save(folder / "a.png")
    (folder / "w.txt").write_text(listed)


LISTED = "# 0\na.png\n3\n6\n8\n3\n7 0.9 2 1 5 4\n3 0.1 0 0 3 3\n5 0.6 4 2 7 5\n"
"""Foreground: labels 7 and 5. Background: the second, in spite of its label 3. All are 4x4, so nothing is warped."""


def test_windows(tmp_path: Path) -> None:
    windows(tmp_path, LISTED)
    pixels = np.add.outer(10 * np.arange(6), np.arange(8)).astype(np.float32)
    # Caffe draws one number a window for which, in background first, then foreground. transform_param.scale is unused.
    stream = RandomStream(4)
    draws = [stream.draw() for _ in range(4)]
    want = [pixels[0:4, 0:4]] * 2 + [[pixels[1:5, 2:6], pixels[2:6, 4:8]][draw % 2] for draw in draws[2:]]
    batch = next(source(WINDOWS % ("", ""), tmp_path, seed=4))
    assert batch["data"].shape == (4, 3, 4, 4)
    for got, expected in zip(batch["data"], want, strict=True):
        assert np.array_equal(got[1], (expected - 10) * 2)
    assert batch["label"].tolist() == [0, 0] + [[7, 5][draw % 2] for draw in draws[2:]]


def test_windows_are_mirrored(tmp_path: Path) -> None:
    windows(tmp_path, LISTED)
    stream = RandomStream(0)
    batch = next(source(WINDOWS % ("mirror: true", ""), tmp_path))
    seen = set()
    for got in batch["data"][:2]:
        stream.draw()
        mirror = stream.draw() % 2
        row = [-20, -18, -16, -14]
        assert got[0, 0].tolist() == (row[::-1] if mirror else row)
        seen.add(mirror)


def test_context_beyond_the_edge(tmp_path: Path) -> None:
    # Box (0, 0) to (1, 1) with context_pad 1 in crop_size 4: it grows by 4 / (4 - 2) = 2. Half sides are 1, the centre
    # is (1, 1): from round(1 - 2) = -1 to round(1 + 2) = 3, 5 places, one beyond the edge. Clipped to 0 … 3 it is 4
    # places, warped to round(4 * 4 / 5) = 3, with round(1 * 4 / 5) = 1 of zeros before.
    windows(tmp_path, "# 0 a.png 3 6 8 2 1 0.1 0 0 1 1  1 0.9 0 0 1 1")
    batch = next(source(WINDOWS % ("", "context_pad: 1"), tmp_path))
    got = batch["data"][0, 0]
    assert not got[0].any() and not got[:, 0].any()
    # 4 places to 3: centres (0.5, 1.5, 2.5) * 4 / 3 - 0.5 = 1/6, 1.5, 2 + 5/6. Value 10 y + x, rounded: y = 1/6, x =
    # 1/6 gives 11/6 = 1.83, 2; x = 1.5 gives 3.17, 3; x = 2.83 gives 4.5, up to 5 (its binary value may lie just
    # below).
    first = got[1, 1:] / 2 + 10
    assert first[:2].tolist() == [2, 3] and first[2] in (4, 5)
    # y = 1.5: 15 + 1/6, 16.5, 17.83.
    assert (got[2, 1:] / 2 + 10)[[0, 2]].tolist() == [15, 18]


def test_square_windows_and_a_mean_image(tmp_path: Path) -> None:
    # Box of 2 columns, 4 rows around the centre (4, 3): with crop_mode square both half sides are 2, no growth: columns
    # round(4 - 2) = 2 to round(4 + 2) = 6, rows 1 to 5: 5x5 to 4x4. A mean image of 6x6 is taken from row and column 1.
    windows(tmp_path, "# 0 a.png 3 6 8 2 1 0.1 3 1 4 4  1 0.9 3 1 4 4")
    Mean(np.arange(108, dtype=np.float32).reshape(3, 6, 6)).write(tmp_path / "m")
    layer = (WINDOWS % ('mean_file: "m"', 'crop_mode: "square"')).replace("mean_value: 10", "")
    got = next(source(layer, tmp_path))["data"][0, 2]
    # 5 to 4: centres 0.125, 1.375, 2.625, 3.875; the corner is row 1.125, column 2.125: 13.375, so 13. Its mean in
    # channel 2 is 72 + 6 * 1 + 1 = 79.
    assert got[0, 0] == (13 - 79) * 2
    assert got[3, 3] == (np.floor(10 * 4.875 + 5.875 + 0.5) - (72 + 6 * 4 + 4)) * 2


@pytest.mark.parametrize(
    ("listed", "want"),
    [
        ("# 0 a.png 3 6 8 1 1 0.9 0 0 1 1", "has no background window"),
        ("# 0 a.png 3 6 8 1 1 0.1 0 0 1 1", "has no foreground window"),
        ("# 1 a.png 3 6 8 0", "`# 0` expected"),
        ("# 0 a.png 3 6 8 1 1 0.9 0 0 1", "ends early"),
        ("# 0 a.png 3 6 x 1", "ends early, or has a word"),
        ("# 0 a.png 3 6 8 2 0 0.9 0 0 1 1 0 0.1 0 0 1 1", "label of the background"),
        ("# 0 a.png 3 6 8 2 1 0.9 0 0 1 1 0 0.1 0 0 9 1", "does not lie in the image of 8x6"),
        ("# 0 a.png 1 6 8 2 1 0.9 0 0 1 1 0 0.1 0 0 1 1", "has not the channels"),
    ],
)
def test_window_files_that_do_not_fit(tmp_path: Path, listed: str, want: str) -> None:
    windows(tmp_path, listed)
    with pytest.raises(DataError, match=want):
        next(source(WINDOWS % ("", ""), tmp_path))


# Whole nets


def test_the_state_decides_which_sources_are_opened(tmp_path: Path) -> None:
    hdf5_files(tmp_path)
    train = (HDF5 % "").replace('name: "d"', 'name: "train" include { phase: TRAIN }').replace("list", "none")
    test = (HDF5 % "").replace('name: "d"', 'name: "test" include { phase: TEST }')
    (tmp_path / "net.prototxt").write_text(train + test)
    assert next(open_sources(tmp_path / "net.prototxt", root=tmp_path))["label"].tolist() == [0, 10, 20, 30]
    with pytest.raises(DataError, match=r"layer 'train': .*none\.txt: cannot be read"):
        next(open_sources(tmp_path / "net.prototxt", phase="TRAIN", root=tmp_path))
    (tmp_path / "net.prototxt").write_text('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    with pytest.raises(DataError, match="no layer of the net reads data in phase TEST"):
        open_sources(tmp_path / "net.prototxt")
    with pytest.raises(DataError, match="ReLU reads no data"):
        open_source(definition('layer { name: "r" type: "ReLU" }'), [])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from caffe_port import cli

    hdf5_files(tmp_path)
    definition_file, out = tmp_path / "net.prototxt", tmp_path / "out.npz"
    definition_file.write_text(
        HDF5 % "" + 'layer { name: "p" type: "Power" bottom: "data" top: "y" power_param { scale: 2 } }'
    )
    assert cli.main(["run", str(definition_file), "-o", str(out)]) == 2
    assert "--read-data where the net has data layers" in capsys.readouterr().err
    arguments = ["run", str(definition_file), "--read-data", "--data-root", str(tmp_path), "-o", str(out)]
    assert cli.main(arguments) == 0
    with np.load(out) as arrays:
        assert arrays["y"].tolist() == [[2 * i, -2 * i] for i in range(4)]
    # What is given goes first.
    np.savez(tmp_path / "in.npz", data=np.ones((4, 2), np.float32))
    assert cli.main([*arguments, "--input", str(tmp_path / "in.npz")]) == 0
    with np.load(out) as arrays:
        assert arrays["y"].tolist() == [[2, 2]] * 4 and arrays["label"].tolist() == [0, 10, 20, 30]
    (tmp_path / "list.txt").unlink()
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert "layer 'd': " in err and "cannot be read" in err


def test_lmdb_is_read_without_lmdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database(tmp_path, datum(np.ones((1, 2, 2), np.uint8), 5))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert next(source(LMDB % "", tmp_path))["label"].tolist() == [5, 5]

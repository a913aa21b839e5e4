"""Batches for training: the same however many processes make them, and from wherever they are taken up."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import toys

from caffe_port.errors import CaffePortError, DataError, ImageError
from caffe_port.training.data import _items, feed, known_labels, require_classes, sources_of
from caffe_port.training.settings import NetFile

LMDB = """layer { name: "d" type: "Data" top: "data" top: "label"
                  transform_param { crop_size: 9 mirror: true mean_value: 7 }
                  data_param { source: "db" batch_size: 4 backend: LMDB } }"""


def batches(folder: Path, count: int, **options: Any) -> list[dict[str, Any]]:
    sources = sources_of(NetFile("net", folder / "net.prototxt", "TRAIN"), seed=5)
    return [{k: v.copy() for k, v in batch.items()} for batch in islice(feed(sources, folder, **options), count)]


@pytest.fixture(params=["images", "lmdb"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    toys.image_problem(tmp_path)
    if request.param == "lmdb":
        toys.database(tmp_path)
        (tmp_path / "net.prototxt").write_text(LMDB)
    return tmp_path


def assert_equal(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert set(one) == set(other) == {"data", "label"}
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_workers_change_nothing(folder: Path) -> None:
    alone = batches(folder, 9)
    assert alone[0]["data"].dtype == np.float32 and alone[0]["data"].shape[:2] == (4, 3)
    # 36 items of 11: more than three rounds. Each item comes at least three times, cut and mirrored at random.
    assert len({batch["data"].tobytes() for batch in alone}) == 9
    assert_equal(batches(folder, 9, workers=2), alone)
    assert_equal(batches(folder, 3, workers=1, skip=6), alone[6:])
    assert_equal(batches(folder, 3, skip=6), alone[6:])


def test_what_a_worker_gets_can_travel(folder: Path) -> None:
    """Where processes are not forked, the layer and the tickets are pickled."""
    (source,) = sources_of(NetFile("net", folder / "net.prototxt", "TRAIN"), seed=5)
    items = _items(source, folder)
    assert items is not None
    tickets = list(islice(items.tickets(), 3))
    here = items.batch(tickets)
    there = pickle.loads(pickle.dumps(items)).batch(pickle.loads(pickle.dumps(tickets)))
    assert all(np.array_equal(one, other) for one, other in zip(here, there, strict=True))


def test_another_seed_gives_other_batches(folder: Path) -> None:
    sources = sources_of(NetFile("net", folder / "net.prototxt", "TRAIN"), seed=6)
    assert not np.array_equal(next(feed(sources, folder))["data"], batches(folder, 1)[0]["data"])


def test_two_sources_read_one_database(tmp_path: Path) -> None:
    toys.database(tmp_path)
    (tmp_path / "net.prototxt").write_text(LMDB + LMDB.replace('"d"', '"e"').replace('top: "', 'top: "other_'))
    (batch,) = batches(tmp_path, 1)
    assert np.array_equal(batch["label"], batch["other_label"])
    assert not np.array_equal(batch["data"], batch["other_data"]), "each has random numbers of its own"


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_arrive_as_they_are(tmp_path: Path, workers: int) -> None:
    toys.image_problem(tmp_path)
    (tmp_path / "im" / "7.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"^layer 'train': .*7\.png: "):
        batches(tmp_path, 3, workers=workers)
    (tmp_path / "im" / "7.png").unlink()
    with pytest.raises(ImageError, match=r"^layer 'train': .*7\.png: no such file"):
        batches(tmp_path, 3, workers=workers)
    (tmp_path / "train.txt").unlink()
    with pytest.raises(DataError, match=r"train\.txt: cannot be read"):
        batches(tmp_path, 1, workers=workers)


def test_hdf5_is_taken_up_in_the_middle(tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = np.arange(10).reshape(5, 2), np.arange(5)
    (tmp_path / "list.txt").write_text("a.h5\n")
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "HDF5Data" top: "data" top: "label" '
        'hdf5_data_param { source: "list.txt" batch_size: 2 } }'
    )
    (source,) = sources_of(NetFile("net", tmp_path / "net.prototxt", "TRAIN"), seed=0)
    rows = [batch["label"].tolist() for batch in islice(feed([source], tmp_path, workers=2, skip=2), 2)]
    assert rows == [[4, 0], [1, 2]]
    assert [labels.tolist() for labels in known_labels(source, "label", tmp_path)] == [[0, 1, 2, 3, 4]]
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["label"] = np.zeros(3)
    (tmp_path / "list.txt").write_text("a.h5\nb.h5\n")
    require_classes(source, "label", tmp_path)
    (tmp_path / "list.txt").write_text("b.h5\nb.h5\n")
    with pytest.raises(DataError, match="layer 'd': all 6 labels are 0: one class only"):
        require_classes(source, "label", tmp_path)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    toys.image_problem(tmp_path, 4)
    names = {"b/1.png": 1, "b/deep/3.PNG": 3, "a/x y.png": 0, "a/.hidden.png": 2, ".c/0.png": 0, "a/notes.txt": 0}
    for name, number in names.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / "im" / f"{number}.png").read_bytes())
    layer = """layer { name: "d" type: "ImageData" top: "data" top: "label"
                       image_data_param { source: "photos" batch_size: 3 %s } }"""
    net = tmp_path / "net.prototxt"
    net.write_text(layer % "")
    (batch,) = batches(tmp_path, 1)
    assert batch["label"].tolist() == [0, 1, 1]
    for got, number in zip(batch["data"], (0, 1, 3), strict=True):
        assert np.array_equal(got, toys.pixels(number))
    net.write_text(layer % 'root_folder: "photos/"')
    with pytest.raises(DataError, match="is a folder, and root_folder is set"):
        batches(tmp_path, 1)
    net.write_text(layer % "")
    (tmp_path / "photos" / "empty").mkdir()
    with pytest.raises(DataError, match="empty: has no image, so class 2 would be empty"):
        batches(tmp_path, 1)


def test_labels_of_a_database_are_not_known(tmp_path: Path) -> None:
    toys.database(tmp_path)
    (tmp_path / "net.prototxt").write_text(LMDB)
    (source,) = sources_of(NetFile("net", tmp_path / "net.prototxt", "TRAIN"), seed=0)
    assert list(known_labels(source, "label", tmp_path)) == []


def test_a_net_in_the_solver_itself(tmp_path: Path) -> None:
    from caffe_port.proto import text

    message, _ = text.parse(LMDB)
    toys.database(tmp_path)
    (source,) = sources_of(NetFile("net_param", None, "TRAIN", message=message), seed=0)
    assert next(feed([source], tmp_path))["data"].shape == (4, 3, 9, 9)
    with pytest.raises(CaffePortError):
        next(feed([source], tmp_path / "nowhere"))

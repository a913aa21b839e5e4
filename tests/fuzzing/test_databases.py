"""LMDB databases, HDF5 data and Parquet tables from strangers."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_port.calibration.data import read_tables
from caffe_port.datasets import open_source
from caffe_port.datasets.lmdb_file import LMDBFile
from caffe_port.errors import CaffePortError, DataError
from caffe_port.layers.data import HDF5Data, ImageData
from caffe_port.training.parquet import ParquetItems
from tests.fuzzing.hostile import in_little_memory, refused

# LMDB


def lmdb_file(path: Path, items: dict[bytes, bytes], **options: Any) -> Path:
    lmdb: Any = pytest.importorskip("lmdb")
    with lmdb.open(str(path), map_size=1 << 26, **options) as opened:
        for start in range(0, len(items), 1000):
            with opened.begin(write=True) as transaction:
                for key, value in islice(items.items(), start, start + 1000):
                    transaction.put(key, value)
    return path


def many(count: int) -> dict[bytes, bytes]:
    rng = random.Random(1)
    keys = [f"{rng.randrange(10**9):09d}_{number}".encode() + b"k" * rng.randrange(200) for number in range(count)]
    return {key: rng.randbytes(rng.choice([0, 1, 100, 1900, 3000, 20_000])) for key in keys}


@pytest.mark.parametrize("count", [0, 1, 7, 3000])
def test_an_lmdb_is_read_as_liblmdb_reads_it(tmp_path: Path, count: int) -> None:
    lmdb: Any = pytest.importorskip("lmdb")
    path = lmdb_file(tmp_path / "db", many(count))
    database = LMDBFile(path)
    with lmdb.open(str(path), readonly=True, lock=False) as opened, opened.begin() as transaction:
        expected = list(transaction.cursor())
    assert database.entries == len(expected)
    assert list(database.keys()) == [key for key, _ in expected]
    assert all(bytes(database.get(key) or b"") == value for key, value in expected)
    for start in (1, 5, 2999, 5000):
        assert list(database.keys(start)) == [key for key, _ in expected][start:]
    for key in (b"", b"5", b"\xff" * 20, b"000000000_0"):
        assert database.get(key) == dict(expected).get(key)


def test_a_database_that_was_changed(tmp_path: Path) -> None:
    """Pages are used again, and the first of the two meta pages is the later one in its turn."""
    lmdb: Any = pytest.importorskip("lmdb")
    items = {f"{number:04d}".encode(): b"x" * 300 for number in range(200)}
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as opened:
        for number, (key, value) in enumerate(items.items()):
            with opened.begin(write=True) as transaction:
                transaction.put(key, value)
                if number % 3 == 0:
                    transaction.delete(key)
            kept = [k for n, k in enumerate(items) if n <= number and n % 3]
            if number % 20 == 0:
                assert list(LMDBFile(tmp_path / "db").keys()) == kept


def test_a_damaged_lmdb_is_an_error(tmp_path: Path) -> None:
    """liblmdb ends the process at a quarter of such files (SIGBUS, SIGSEGV)."""
    whole = (lmdb_file(tmp_path / "db", many(200)) / "data.mdb").read_bytes()
    rng, refusals = random.Random(2), 0
    path = tmp_path / "data.mdb"
    for number in range(150):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[rng.randrange(len(content)) :]
        for _ in range(0 if number % 3 == 0 else 300):
            content[rng.randrange(0 if number % 3 == 1 else 8192, len(content))] = rng.randrange(256)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        try:
            database = LMDBFile(path)
            for key in database.keys():  # noqa: SIM118 - it is no dict
                database.get(key)
        except DataError as error:
            assert str(path) in str(error)
            refusals += 1
    assert refusals > 75


def test_lmdb_pages_that_lead_in_circles(tmp_path: Path) -> None:
    items = {b"%05d" % number: b"v" * 200 for number in range(600)}
    path = lmdb_file(tmp_path / "db", items) / "data.mdb"
    content = bytearray(path.read_bytes())
    database = LMDBFile(path)
    root = database._root
    _, nodes = database._page(root)
    for node in nodes:  # every child is the page itself
        content[node : node + 6] = root.to_bytes(6, "little")
    del database
    path.unlink()
    path.write_bytes(content)
    refused(lambda: list(LMDBFile(path).keys()), "in circles")
    refused(lambda: LMDBFile(path).get(b"00003"), "in circles")


# HDF5


def test_hdf5_data_that_is_elsewhere(tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.ones((2, 2), np.float32)
    external = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")
    links = {
        "data": external,
        "zero": h5py.ExternalLink("/dev/zero", "data"),
        "soft": h5py.SoftLink("/data"),
        "group": h5py.ExternalLink(str(tmp_path / "other.h5"), "/"),
    }
    with h5py.File(tmp_path / "links.h5", "w") as file:
        for name, link in links.items():
            file[name] = link
        file["inner/data"] = np.ones((2, 2), np.float32)
    (tmp_path / "files.txt").write_text("links.h5")
    layer = HDF5Data(batch_size=1, source="files.txt")
    for top in ("data", "zero", "soft", "group/data"):
        refused(lambda top=top: next(open_source(layer, [top], root=tmp_path)), "a link, which is not followed")  # type: ignore[misc]
    assert next(open_source(layer, ["inner/data"], root=tmp_path))["inner/data"].tolist() == [[1, 1]]


# Parquet


def parquet(path: Path, columns: Any, **options: Any) -> Path:
    pa: Any = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    writer.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def test_a_run_of_rows_that_takes_no_bytes(tmp_path: Path) -> None:
    pa: Any = pytest.importorskip("pyarrow")
    rows = 20_000_000
    labels = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["1"]))
    path = parquet(tmp_path / "t.parquet", {"label": labels, "score": labels}, row_group_size=rows)
    assert path.stat().st_size < 200_000
    refused(lambda: read_tables([path]), "would unpack to 320,000,000")
    layer = ImageData(batch_size=1, channels=3, height=2, width=2, source="t.parquet")
    content = pa.table({"label": pa.array(np.zeros(rows, np.int8)), "content": pa.nulls(rows, pa.binary())})
    parquet(path, content, row_group_size=rows)
    refused(lambda: ParquetItems(layer, phase="TEST", root=tmp_path), "would unpack to 160,000,000", 64 * 2**20)


def test_a_long_text_that_all_rows_have(tmp_path: Path) -> None:
    pa: Any = pytest.importorskip("pyarrow")
    rows = 10_000
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array(["a" * 2**20]))
    scores = pa.array(np.linspace(0, 1, rows))
    path = parquet(tmp_path / "t.parquet", {"label": text, "score": scores})
    setup = f"from caffe_port.calibration.data import read_tables; import numpy, pyarrow.parquet; path = {str(path)!r}"
    # 10 GB, were it there once a row. pyarrow's allocator sets addresses aside by the GiB.
    done = in_little_memory(setup, "read_tables([path], positive_label='b')", 3 * 2**30)
    assert "no label is 'b'" in done


def test_tables_of_other_types(tmp_path: Path) -> None:
    pa: Any = pytest.importorskip("pyarrow")
    path, scores = tmp_path / "t.parquet", pa.array([0.5, 0.25])
    for labels in ([[1], [0]], [{"a": 1}, {"a": 2}]):
        parquet(path, {"label": pa.array(labels), "score": scores})
        refused(lambda: read_tables([path]), r"column 'label' has (list|struct).*, not values")
    parquet(path, pa.Table.from_arrays([scores, scores, scores], names=["label", "label", "score"]))
    refused(lambda: read_tables([path]), "2 columns are called 'label'")
    damaged = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    parquet(path, {"label": damaged, "score": scores})
    refused(lambda: read_tables([path]), "no Parquet that can be read")
    for columns, message in (
        ({"label": [0], "content": ["/etc/passwd"]}, "column content is string, not encoded images"),
        ({"label": [0], "path": [b"a"]}, "column path is binary, not paths"),
        ({"label": [0.5], "path": ["a"]}, "column label is double, not whole numbers"),
        ({"label": [[0]], "path": ["a"]}, "not whole numbers"),
    ):
        parquet(path, columns)
        layer = ImageData(batch_size=1, channels=3, height=2, width=2, source="t.parquet")
        refused(lambda layer=layer: ParquetItems(layer, phase="TEST", root=tmp_path), message)  # type: ignore[misc]


def test_a_damaged_table(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"label": ["1", "0"] * 20, "score": [0.5, 0.25] * 20})
    whole, rng = path.read_bytes(), random.Random(4)
    for number in range(150):
        content = bytearray(whole)
        if number % 3:
            for _ in range(4):
                content[rng.randrange(len(content))] = rng.randrange(256)
        else:
            del content[rng.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            read_tables([path])
        except CaffePortError as error:
            assert str(path) in str(error)

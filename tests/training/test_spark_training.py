"""Training as tasks of a real Spark of two threads, on Parquet, beside one process."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import runs
import toys

from caffe_port import cli
from caffe_port.datasets import Batch
from caffe_port.errors import CaffePortError
from caffe_port.training.data import feed, sources_of
from caffe_port.training.settings import read_settings
from caffe_port.training.solver import Solver

TABLE = toys.IMAGES.replace('"train.txt"', '"train.parquet"').replace('"test.txt"', '"test.parquet"')
PLAIN = "\n".join(line for line in toys.NET.splitlines() if '"drop"' not in line and '"bn"' not in line)


def write_tables(folder: Path, column: str = "content") -> None:
    """The lists of a toy as Parquet: that of training a folder of two files, with row groups of three."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in ("train", "test"):
        listed = [line.rsplit(" ", 1) for line in (folder / f"{name}.txt").read_text().splitlines()]
        values = [path if column == "path" else (folder / path).read_bytes() for path, _ in listed]
        table = arrow.table({column: values, "label": [int(label) for _, label in listed]})
        if name == "test":
            parquet.write_table(table, folder / "test.parquet")
            continue
        (folder / "train.parquet").mkdir()
        (folder / "train.parquet" / "_SUCCESS").touch()
        parquet.write_table(table[:7], folder / "train.parquet" / "part-0.parquet", row_group_size=3)
        parquet.write_table(table[7:], folder / "train.parquet" / "part-1.parquet", row_group_size=3)


def problem(folder: Path, batch: int = 4, column: str = "content") -> Path:
    solver = toys.image_problem(folder, net=PLAIN % TABLE)
    net = folder / "net.prototxt"
    net.write_text(net.read_text().replace("batch_size: 4", f"batch_size: {batch}"))
    write_tables(folder, column)
    return solver


def read(folder: Path, count: int, **options: Any) -> list[Batch]:
    sources = sources_of(read_settings(folder / "solver.prototxt", folder).train, 1)
    batches = feed(sources, folder, **options)
    return [next(batches) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.xdist_group("spark")
@pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")
def test_spark_and_one_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyspark")
    pytest.importorskip("pandas")
    if shutil.which("java") is None:
        pytest.skip("Java is not there")
    two, one = problem(tmp_path / "two"), problem(tmp_path / "one", batch=8)
    common = ["train", "--engine", "spark", "--root", str(two.parent), "--solver", str(two), "--workers", "0"]
    before = logging.getLogger().handlers[:]
    log = tmp_path / "log"
    assert cli.main([*common, "--master", "local[2]", "--processes", "2", "-o", str(log)]) == 0
    out, err = capfd.readouterr()
    assert out == f"iteration 10, loss {out.split()[3]} snapshot {two.parent}/snap_iter_10.solverstate\n"
    # What worker 0 logs is seen here too.
    assert "Training with 2 workers; this is worker 0" in err and "Optimization Done." in err
    logged = (log / "train.log").read_text()
    assert logged.count("Testing net (#0)") == 3
    single = Solver(read_settings(one, one.parent), workers=0)
    single.solve()
    resumed = Solver(read_settings(two, two.parent), workers=0, snapshot=two.parent / "snap_iter_10.solverstate")
    got, want = runs.values(resumed), runs.values(single)
    assert len(want) == 4 and all(runs.off(got[label], value) < 1e-5 for label, value in want.items())
    assert float(out.split()[3].rstrip(";")) == pytest.approx(single.loss, rel=1e-3)
    assert logging.getLogger().handlers == before


@pytest.mark.parametrize(("master", "slots"), [("local[1]", 1), ("local", 1), ("local[1, 4]", 1)])
def test_too_few_slots(tmp_path: Path, capsys: pytest.CaptureFixture[str], master: str, slots: int) -> None:
    """Told at once, where Spark would wait."""
    pytest.importorskip("pyarrow")
    solver = problem(tmp_path / "case")
    arguments = ["train", "--engine", "spark", "--root", str(solver.parent), "--solver", str(solver)]
    assert cli.main([*arguments, "--master", master, "--processes", "2"]) == 2
    assert f"2 processes at once need as many slots; {master} has {slots}" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["content", "path"])
def test_the_same_batches_as_from_a_list(tmp_path: Path, column: str) -> None:
    pytest.importorskip("pyarrow")
    problem(tmp_path, column=column)
    net = tmp_path / "net.prototxt"
    net.write_text(net.read_text().replace("shuffle: true", ""))
    table = read(tmp_path, 7)
    net.write_text(net.read_text().replace("train.parquet", "train.txt"))
    listed = read(tmp_path, 7)
    assert all(np.array_equal(a[top], b[top]) for a, b in zip(table, listed, strict=True) for top in ("data", "label"))


def test_shuffled_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    problem(tmp_path)
    net = tmp_path / "net.prototxt"
    changes = {"batch_size: 4": "batch_size: 11", "mirror: true": "", "crop_size: 8": ""}
    text = net.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    net.write_text(text)
    batches = read(tmp_path, 3)
    rounds = [[item.tobytes() for item in batch["data"]] for batch in batches]
    # Each row once a round, in another order in each.
    assert len({frozenset(items) for items in rounds}) == 1 and len(set(rounds[0])) == 11
    assert len(set(map(tuple, rounds))) == 3
    # However they are made, and where one begins.
    for options in ({"workers": 2}, {"part": (0, 1), "workers": 1}):
        assert all(
            np.array_equal(a["data"], b["data"]) for a, b in zip(batches, read(tmp_path, 3, **options), strict=True)
        )
    assert np.array_equal(read(tmp_path, 1, skip=2)[0]["data"], batches[2]["data"])


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    problem(tmp_path)
    part = tmp_path / "train.parquet" / "part-1.parquet"
    image = (tmp_path / "im" / "0.png").read_bytes()

    def fails(table: dict[str, Any]) -> str:
        parquet.write_table(arrow.table(table), part)
        with pytest.raises(CaffePortError) as caught:
            read(tmp_path, 3)
        return str(caught.value)

    assert "needs the columns label, and content or path; there are: content" in fails({"content": [image]})
    assert "column label is string, not whole numbers" in fails({"content": [image], "label": ["cat"]})
    assert "row 1 of row group 0: label is null" in fails({"content": [image, image], "label": [0, None]})
    assert "row 0 of row group 0: content is null" in fails({"content": arrow.array([None], "binary"), "label": [0]})
    assert "row 0 of row group 0: " in fails({"content": [b"no image"], "label": [0]})
    for file in part.parent.glob("part*"):
        file.unlink()
    with pytest.raises(CaffePortError, match="has no row"):
        read(tmp_path, 1)
    part.write_bytes(b"PAR1 but no more")
    with pytest.raises(CaffePortError, match="cannot be read"):
        read(tmp_path, 1)
    shutil.rmtree(part.parent)
    with pytest.raises(CaffePortError, match="no such file"):
        read(tmp_path, 1)
    net = tmp_path / "net.prototxt"
    net.write_text(net.read_text().replace("shuffle: true", "rand_skip: 3"))
    with pytest.raises(CaffePortError, match="rand_skip is for image lists"):
        read(tmp_path, 1)

"""JSON, CSV, lists, logs and scripts from strangers."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from caffe_port import preprocessing, reading
from caffe_port.calibration import threshold
from caffe_port.calibration.data import read_tables
from caffe_port.datasets import open_source
from caffe_port.errors import CaffePortError, DataError
from caffe_port.finetuning.data import read_dataset
from caffe_port.layers.data import HDF5Data, ImageData, WindowData
from caffe_port.limits import limits
from caffe_port.loading import load
from caffe_port.migration.opencv import read_script
from caffe_port.migration.plan import plan
from caffe_port.proto import solverstate, text, wire
from caffe_port.pycaffe.python2 import translate
from caffe_port.scoring.manifests import manifest_from
from caffe_port.scoring.sources import Sources
from caffe_port.sources import locate
from caffe_port.training.log import read_log
from tests.fuzzing.hostile import refused

HEAD = f'{{"format": "{preprocessing.FORMAT}", '

JSON = {
    "arrays": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "closed": "[" * 500 + "]" * 500,
    "digits": '{"value": ' + "9" * 100_000 + "}",
    "nan": '{"value": NaN}',
    "twice": '{"a": 1, "a": 2}',
    "text": "\udcff",
    "nothing": "",
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_no_reader_means(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(JSON[name].encode("utf-8", "surrogateescape"))
    for read in (preprocessing.read_manifest, threshold.read):
        refused(lambda read=read: read(path), r"a\.json: no JSON that can be read: ")  # type: ignore[misc]


@pytest.mark.parametrize(
    "fields",
    [
        '"resize": [1e400, 2]',
        '"resize": ' + "[" * 60 + "]" * 60,
        '"labels": ' + json.dumps(["a" * 10_000] * 100) + ', "score": 1e300',
        '"mean": {"shape": [100000000000, 100000000000, 3], "dtype": "float64", "base64": ""}',
        '"mean": {"shape": [1, 1, 1], "dtype": ["float32"], "base64": "AAAAAA=="}',
        '"mean": {"shape": [1, 1, 1], "dtype": {}, "base64": 5}',
        '"mean": {"file": "\\ud800"}',
        '"mean": {"file": "/dev/zero"}',
        '"labels": "/dev/zero"',
        '"labels": "\\ud800"',
        '"labels": "."',
        '"' + "k" * 100_000 + '": 1',
    ],
)
def test_a_manifest_that_asks_for_too_much(tmp_path: Path, fields: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"{HEAD}{fields}}}")
    refused(lambda: preprocessing.read_manifest(path), r"a\.json", 16 * 2**20)
    with pytest.raises(DataError) as caught:
        preprocessing.read_manifest(path)
    assert len(str(caught.value)) < 4000


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "a.json").write_text(f'{HEAD}"labels": "fifo"}}')
    (tmp_path / "list.txt").write_text("fifo 1\n")
    (tmp_path / "files.txt").write_text("fifo\n")
    image = ImageData(batch_size=1, channels=3, height=2, width=2, source="list.txt")
    for read in (
        lambda: preprocessing.read_manifest(tmp_path / "a.json"),
        lambda: threshold.read(tmp_path / "fifo"),
        lambda: read_script(tmp_path / "fifo"),
        lambda: next(open_source(image, ["a", "b"], root=tmp_path)),
        lambda: next(open_source(ImageData(1, 3, 2, 2, source="fifo"), ["a", "b"], root=tmp_path)),
        lambda: next(open_source(WindowData(1, 2, source="fifo"), ["a", "b"], root=tmp_path)),
        lambda: next(open_source(HDF5Data(1, source="fifo"), ["a"], root=tmp_path)),
        lambda: reading.contents(tmp_path / "fifo"),
        lambda: load(tmp_path / "fifo"),
        lambda: text.read(tmp_path / "fifo"),
        lambda: wire.looks_binary(tmp_path / "fifo"),
        lambda: wire.read(tmp_path / "fifo"),
        lambda: wire.read_blob(tmp_path / "fifo"),
        lambda: solverstate.read(tmp_path / "fifo"),
        lambda: manifest_from(tmp_path / "fifo"),
    ):
        with pytest.raises((CaffePortError, OSError), match="a FIFO"):
            read()


def test_models_that_are_pipes(tmp_path: Path) -> None:
    """As of `caffe-port convert <(…)`."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "net.prototxt").write_text("layer {}")
    for model, weights in (("fifo", []), ("fifo", ["net.prototxt"]), ("net.prototxt", ["fifo"])):
        with pytest.raises(CaffePortError, match=r"fifo: a pipe or a device, not a file: save what it gives to a file"):
            locate(str(tmp_path / model), [tmp_path / name for name in weights])


@pytest.mark.parametrize("name", ["/dev/zero", "list.txt", ".", "\udc80"])
def test_lists_that_name_devices_folders_and_themselves(tmp_path: Path, name: str) -> None:
    pytest.importorskip("h5py")
    content = f"{name} 1\n".encode("utf-8", "surrogateescape")
    (tmp_path / "list.txt").write_bytes(content)
    (tmp_path / "files.txt").write_bytes(name.encode("utf-8", "surrogateescape"))
    image = ImageData(batch_size=1, channels=3, height=2, width=2, source="list.txt")
    refused(lambda: next(open_source(image, ["a", "b"], root=tmp_path)), ".")
    refused(lambda: next(open_source(HDF5Data(1, source="files.txt"), ["a"], root=tmp_path)), ".")


@pytest.mark.parametrize(
    "content",
    [
        "a.png " + "9" * 5000,
        "a.png 99999999999",
        " 1",
        "a.png",
        "a\0b.png 1",
        "# 0 a.png 3 4 4 1 1 0.9 0 0 99999999999999999999 1",
        "# 0 a.png 3 4 4 999999999999 1 1 1 1 1 1",
        "# 0",
        "# " + "1" * 5000,
    ],
)
def test_lists_of_images_and_windows(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    image = ImageData(batch_size=1, channels=3, height=2, width=2, source="list.txt")
    refused(lambda: next(open_source(image, ["a", "b"], root=tmp_path)), r"list\.txt|no path|no such")
    window = WindowData(batch_size=1, crop_size=2, source="list.txt", fg_threshold=0.5)
    refused(lambda: next(open_source(window, ["a", "b"], root=tmp_path)), r"list\.txt|no such")


# CSV


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"label,score\n1," + b"1" * 2**20, "no CSV: field larger than field limit"),
        (b'label,score\n1,"' + b"a,\n" * 2**18, "no CSV: "),
        (b"label,score\n1,\x00\n", "."),
        (b"\xff\xfel\x00a\x00b\x00e\x00l\x00", "."),
        (b"label,score\n\xff,0.5\n0,1\n", "no label|label '"),
        (b"label,label,score\n1,1,1\n", "2 columns are called 'label'"),
        (b"label,score\n1,1e999\n0,1\n", "no finite number"),
        (b"\xef\xbb\xbf\n", "."),
        (b"\r" * 1000, "."),
        (b'"', "no CSV"),
    ],
)
def test_tables_in_csv(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    refused(lambda: read_tables([path]), message, 8 * len(content) + 2**20)
    path.write_bytes(content.replace(b"score", b"path"))
    refused(lambda: read_dataset(path), ".", 8 * len(content) + 2**20)


def test_a_line_without_an_end() -> None:
    with limits.adjusted(line_bytes=2**20):
        with pytest.raises(
            DataError, match=r"/dev/zero:.*no CSV: a line of more than 1,048,576 .*--limit line_bytes=N"
        ):
            read_tables(["/dev/zero"])
        assert list(reading.lines_of(io.StringIO("a\nb", newline=""))) == ["a\n", "b"]


def test_a_label_of_very_many_digits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.png," + "1" * 5000 + "\nb.png,0\n")
    refused(lambda: read_dataset(tmp_path / "t.csv"), r"a\.png: no such file")
    with pytest.raises(DataError, match="out of range"):
        read_dataset(tmp_path / "t.csv", classes=["a", "b"])


def test_names_on_standard_input() -> None:
    for content in (b"a" * (2 * 2**20), b"a\0b\n"):
        with pytest.raises(DataError, match="standard input"):
            list(Sources(["-"], stdin=io.BytesIO(content)).items())
    names = [item.name for item in Sources(["-"], stdin=io.BytesIO(b"/dev/zero\n\xff\n-\n")).items()]
    assert names == ["/dev/zero", "\udcff", "-"]


# Logs and scripts


def test_a_log_with_very_long_numbers(tmp_path: Path) -> None:
    many = "1" * 100_000
    (tmp_path / "log").write_text(
        f"Iteration {many}, loss = {many}\nIteration 3, loss = {many}\nIteration 4, Testing net (#{many})\n"
        f"    Test net output #0: {'x' * 100_000}\n"
    )
    (record,) = read_log(tmp_path / "log")
    assert record.iteration == 3 and record.loss == float("inf")


SCRIPTS = {
    "nested": b"x = " + b"(" * 10_000 + b")" * 10_000,
    "unary": b"x = " + b"-" * 100_000 + b"1",
    "chain": b"x = a" + b".b" * 50_000,
    "sum": b"import cv2\nnet = cv2.dnn.readNetFromCaffe('a', 'b')\nx = 1" + b" + 1" * 50_000,
    "calls": b"x = a" + b"()" * 20_000,
    "deep": b"import cv2\nnet = cv2.dnn.readNetFromCaffe(a" + b".b" * 900 + b", 'b')\n",
    "blocks": b"".join(b" " * i + b"if x:\n" for i in range(120)),
    "digits": b"x = " + b"1" * 5000,
    "rot13": b"# coding: rot13\nx = 1\n",
    "idna": b"# coding: idna\nx = '\xff" + b"a" * 100 + b"'\n",
    "unknown": b"# coding: nothing\nx = 1\n",
    "nul": b"x = 1\0",
    "bytes": b"\xff\xfe\x00",
    "surrogate": b"x = '\\ud800'\nopen('\\ud800')\n",
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_scripts(tmp_path: Path, name: str) -> None:
    path = tmp_path / "script.py"
    path.write_bytes(SCRIPTS[name])
    with pytest.raises(DataError, match=r"script\.py"):
        plan(path)
    for python2 in (False, True):
        try:
            translate(SCRIPTS[name], "script.py", python2=python2)
        except CaffePortError as error:
            assert "script.py" in str(error)


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    with (tmp_path / "list.txt").open("wb") as stream:
        stream.truncate(2**40)
    image = ImageData(batch_size=1, channels=3, height=2, width=2, source="list.txt")
    refused(lambda: next(open_source(image, ["a", "b"], root=tmp_path)), r"1,099,511,627,776 bytes; at most")
    refused(lambda: preprocessing.read_manifest(tmp_path / "list.txt"), "at most")
    refused(lambda: read_script(tmp_path / "list.txt"), "at most")


def test_json_is_shown_short() -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    for value in (deep, "x" * 10**6, [1] * 10**6, 10**3000, {"a": deep}):
        assert len(reading.shown(value)) <= 60

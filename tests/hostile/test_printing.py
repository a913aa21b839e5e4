"""What people read: nothing in a name steers a terminal, and no name adds a line."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import small
from command import caffe_port as command_line
from hypothesis import given, settings
from hypothesis import strategies as st
from names import FILE_NAMES, HARMLESS, NAMES, STEERING, assert_steers_nothing, every_name, prototxt

import caffe_port as cp
from caffe_port import cli, recording
from caffe_port.arrays import read_npz, write_npz
from caffe_port.errors import ArtifactError, CaffePortError, Location, Problem, Problems
from caffe_port.printing import printable, printable_json
from caffe_port.runtime import run_layers
from caffe_port.scoring.columns import Columns, written_name
from caffe_port.scoring.items import Row
from caffe_port.scoring.sinks import RankedSink, StreamSink
from caffe_port.training.log import Log

ALL = {**FILE_NAMES, "NUL": "a\0b"}
NETS = list(every_name())


@settings(deadline=None)
@given(st.text())
def test_printable_is_one_line_and_done_once(text: str) -> None:
    shown = printable(text)
    assert_steers_nothing(shown)
    assert len(shown.splitlines()) <= 1 and "\t" not in shown
    assert printable(shown) == shown
    shown.encode()


def test_letters_of_all_scripts_stay() -> None:
    text = "naïve Größe 日本語 \u3000 \u0637\u0628 e\u0301 😀 a\\b"
    assert printable(text) == text
    assert printable("a\nb\tc", keep="\n\t") == "a\nb\tc"


@settings(max_examples=30, deadline=None)
@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_is_printable_and_the_same(value: object) -> None:
    text = printable_json(value)
    assert text.isascii() and text.isprintable()
    assert json.loads(text) == value


@pytest.mark.parametrize("label", ALL)
def test_errors(label: str) -> None:
    name = ALL[label]
    problems = Problems()
    for _ in range(2):
        problems.add(CaffePortError, f"blob {name} is missing", layer=name, location=Location(name, 3), hint=name)
    with pytest.raises(CaffePortError) as caught:
        problems.raise_if_any()
    assert str(caught.value).count("\n") == 2
    for error in (caught.value, CaffePortError(name), Problem(CaffePortError, name)):
        assert_steers_nothing(str(error))


@pytest.fixture(scope="module", params=range(len(NETS)))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small.write_model(tmp_path_factory.mktemp("hostile"), NETS[request.param])


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small.write_model(tmp_path_factory.mktemp("harmless"), HARMLESS)


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    assert cli.main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    for text in (out, err):
        assert_steers_nothing(text)
    return out, err


COMMANDS = {
    "inspect": ("inspect", "{model}"),
    "inspect --splits": ("inspect", "--splits", "{model}"),
    "inspect --json": ("inspect", "--json", "{model}"),
    "inspect --dot": ("inspect", "--dot", "{model}"),
    "upgrade": ("upgrade", "{model}", "{folder}/new.prototxt"),
    "convert --dry-run": ("convert", "--dry-run", "{model}", "{weights}"),
    "verify": ("verify", "{model}", "{weights}", "--backend", "numpy", "--verbose"),
    "verify --json": ("verify", "{model}", "{weights}", "--backend", "numpy", "--json"),
    "compare": ("compare", "{model}"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_name_adds_a_line(
    command: str,
    model: tuple[Path, Path],
    harmless: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = []
    for definition, weights in (model, harmless):
        places = {"model": definition, "weights": weights, "folder": tmp_path}
        printed.append(shown(capsys, *(word.format(**places) for word in COMMANDS[command])))
    for hostile, usual in zip(*printed, strict=True):
        assert hostile.count("\n") == usual.count("\n")
    if command.endswith("--json"):
        document, usual = (json.loads(out) for out, _ in printed)
        assert shape(document) == shape(usual)


def shape(value: object) -> object:
    """A JSON document with only its numbers of things."""
    if isinstance(value, dict):
        return sorted((str(len(value)), str(shape(one))) for one in value.values())
    return [shape(one) for one in value] if isinstance(value, list) else type(value).__name__


def test_run(model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What can stand in an npz file comes out of it under its own name; the rest is refused."""
    net = cp.load(*model)
    (name,) = net.inputs
    given_ = tmp_path / "in.npz"
    if is_storable(name):
        write_npz(given_, {name: np.zeros(net.input_shapes[name], np.float32)})
    for blob in net.blobs if given_.exists() else ():
        output = tmp_path / "out.npz"
        words = ("run", *model, "--input", given_, "-o", output, f"--blob={blob}")
        if is_storable(blob):
            out, _ = shown(capsys, *words)
            assert out.count("\n") == 1 and list(read_npz(output)) == [blob]
            output.unlink()
        else:
            _, err = shown(capsys, *words, code=2)
            assert "the name" in err and not output.exists()
    assert list(tmp_path.iterdir()) in ([], [given_])


def is_storable(name: str) -> bool:
    return ".." not in f"{name}.npy".replace("\\", "/").split("/") and len(name) < 60_000


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..\\x", "x/..\\y", "a\0b", "\udcff", "e" * 70_000])
def test_names_that_no_archive_gets(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the name"):
        write_npz(tmp_path / "x.npz", {name: np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_recordings(model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = cp.load(*model)
    path = tmp_path / "r.npz"
    recorded = recording_of(net)
    if not all(map(is_storable, [*net.blobs, *(layer.name for layer in net.layers)])):
        # The names of a layer and a blob are one with others in the archive's.
        with pytest.raises(ArtifactError, match="the name"):
            recording.write(path, recorded)
        assert list(tmp_path.iterdir()) == []
        return
    recording.write(path, recorded)
    again = recording.read(path)
    assert [(one.layer, one.top) for one in again.layers] == [(one.layer, one.top) for one in recorded.layers]
    out, _ = shown(capsys, "record", "--check", path, "--net", model[0])
    assert out.endswith(f"whole, and of the net {model[0].name}\n")
    shown(capsys, "verify", *model, "--recording", path, "--backend", "numpy", "--verbose")


def recording_of(net: cp.Net) -> recording.Recording:
    """What NumPy computes, as a recording."""
    inputs = small.inputs_of(net)
    layers, last = [], {}
    for layer, tops in run_layers(net, inputs):
        if layer.definition.is_input:
            continue
        for blob, value in tops.items():
            flat = value.reshape(-1)
            exact = flat.astype(np.float64)
            stats = np.array([exact.min(), exact.max(), exact.mean(), np.sqrt(exact @ exact)])
            sample = flat[recording.sample_indices(flat.size, 64)]
            last[blob.name] = value
            layers.append(
                recording.RecordedLayer(layer.index, layer.name, layer.type, blob.name, value.shape, sample, stats)
            )
    return recording.Recording(
        layers=layers,
        inputs=inputs,
        input_shapes=net.input_shapes,
        finals={name: last[name] for name in net.outputs},
        input_names=net.inputs,
        output_names=net.outputs,
        limit=64,
    )


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", ["table", "csv", "jsonl"])
@pytest.mark.parametrize("sink", [StreamSink, RankedSink])
def test_scores(kind: str, sink: type[StreamSink]) -> None:
    names = list(FILE_NAMES.values())
    rows = [Row(name, (0.25, 0.75)) for name in names] + [Row(name, error=f"{name}: broken {name}") for name in names]
    labels = (NAMES["escape"], NAMES["turned"])
    columns = Columns(NAMES["return"], labels, 1, top_k=2, probabilities=True)
    seen, piped = Terminal(), io.BytesIO()
    for stream in (seen, piped):
        with sink(stream, kind, columns) as rows_out:
            for row in rows:
                rows_out.write(row)
            rows_out.finish()
    assert_steers_nothing(seen.getvalue().decode())
    text = piped.getvalue().decode()
    if kind == "table":
        assert text.count("\n") == len(rows)
        assert_steers_nothing(text)
    elif kind == "jsonl":
        assert_steers_nothing(text)
        images = [json.loads(line)["image"] for line in text.splitlines()]
        assert sorted(images) == sorted(2 * list(map(written_name, names)))
    else:
        # For programs, which get the names as they are.
        _, *lines = csv.reader(io.StringIO(text, newline=""))
        assert sorted(line[0] for line in lines) == sorted(2 * list(map(written_name, names)))


def test_the_log_of_training() -> None:
    stream = io.StringIO()
    for name in ALL.values():
        Log(stream)(f"Train net output #0: {name} = 0.5")
    assert_steers_nothing(stream.getvalue())


def test_arguments_and_files_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in filter(STEERING.search, ALL.values()):
        shown(capsys, "inspect", tmp_path / f"absent{name}"[:200], code=2)
        with pytest.raises(SystemExit):
            cli.main(["inspect", f"--x{name}".replace(" ", ""), str(tmp_path)])
        assert_steers_nothing(capsys.readouterr().err)


def test_a_terminal_without_the_letters(tmp_path: Path) -> None:
    text = prototxt("n", ["größe", *"abcdefgh"], ["größe", *"1234567"])
    (tmp_path / "net.prototxt").write_text(text, encoding="utf-8")
    done = command_line(
        "inspect", tmp_path / "net.prototxt", "--allow-missing-weights", env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0 and r"gr\xf6\xdfe" in done.stdout

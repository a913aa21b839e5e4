"""What record.py writes with a pycaffe is a whole recording that verifies, and what is wrong is told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
import small
from places import CONFORMANCE
from recorders import NETS, TRAINED, Recorder, agrees_everywhere, arrays_of, meta_of, picture, run_script

import caffe_port as cp
from caffe_port import recording
from caffe_port.proto import text, wire
from caffe_port.recorder import check, record, script

MODELS = CONFORMANCE / "models"


# What it records.


def test_a_recording_made_by_the_script_alone(tmp_path: Path) -> None:
    """As a user runs it: the printed text in a file of its own, in another process."""
    prototxt, weights = small.write_model(tmp_path)
    (tmp_path / "record.py").write_text(script())
    done = run_script(tmp_path, "record.py", prototxt, weights, "-o", "r.npz", "--seed", "3", "--samples", "50")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "r.npz: 5 tops of 5 layers, at most 50 values of each",
        "inputs: data 2x3x8x7",
        "outputs: prob 2x5",
        "next, where caffe-port is: caffe-port record --check r.npz --net small.prototxt",
    ]
    recorded = recording.read(tmp_path / "r.npz")
    assert recorded.limit == 50 and recorded.inputs["data"].std() > 30
    net = cp.load(prototxt, weights)
    agrees_everywhere(net, recorded)
    told = check(tmp_path / "r.npz", net)
    assert told.ok and not told.notes and (told.layers, told.tops, told.full) == (5, 5, 2)
    assert told.made_by["caffe"] == "1.0.0-fake" and told.made_by["inputs"] == ["--seed 3"]
    assert [file["sha256"] for file in told.made_by["weights"]] == [
        s.sha256() for s in net.sources if s.role == "weights"
    ]


def test_each_top_is_as_it_was_right_after_its_layer(made: Recorder) -> None:
    """The ReLU works in place: the convolution's top is recorded before it, and so is what the ReLU made of it."""
    recorded = recording.read(made(small.CONV_NET, "--full"))
    before, after = recorded.layers[0], recorded.layers[1]
    assert [(e.layer, e.top, e.index) for e in (before, after)] == [("conv1", "conv1", 1), ("relu1", "conv1", 2)]
    assert before.value is not None and after.value is not None
    assert (before.value < 0).any() and np.array_equal(np.maximum(before.value, 0), after.value)


def test_the_statistics(made: Recorder) -> None:
    for entry in recording.read(made(small.CONV_NET, "--full")).layers:
        wide = entry.sample.astype(np.float64)
        want = [wide.min(), wide.max(), wide.mean(), np.linalg.norm(wide)]
        assert entry.stats is not None and np.allclose(entry.stats, want, rtol=1e-14, atol=0)


def test_the_same_options_give_the_same_bytes(made: Recorder) -> None:
    first = made(small.CONV_NET, "--seed", "1").read_bytes()
    assert made(small.CONV_NET, "--seed", "1").read_bytes() == first
    assert made(small.CONV_NET, "--seed", "2").read_bytes() != first


@pytest.mark.parametrize("age", ["", "2015"])
def test_what_real_caffe_recorded_of_the_same_net(
    pycaffe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    """Layers, indices, shapes, inputs and outputs are those that Caffe 1.0 had; old Caffes do not count the inputs.

    Of the three fully connected layers with their 300 MB only shapes are compared, of all before them the values.
    """
    monkeypatch.setenv("FAKE_PYCAFFE", age)
    real = NETS / "ms_ctc.npz"
    prototxt = NETS / "ms_ctc.prototxt"
    net = cp.load(prototxt)
    # A caffemodel without those layers: Caffe leaves them as they start.
    message, _ = text.parse(prototxt.read_text(), file=prototxt.name)
    kept = [layer for layer in message.layer if layer.type != "InnerProduct"]
    weights = [
        [small.blob(fill.fill(w.layer, layer.type, i, w.shape)) for i, w in enumerate(net.layer(layer.name).weights)]
        for layer in kept
    ]
    del message.layer[:]
    message.layer.extend(kept)
    caffemodel = tmp_path / "part.caffemodel"
    wire.write(caffemodel, message, weights)
    data = fill.input_data("data", net.input_shapes["data"])
    np.savez(tmp_path / "in.npz", data=data)
    path = tmp_path / "r.npz"
    options = ["-o", str(path), "--input", str(tmp_path / "in.npz"), "--samples", "256"]
    assert record.main([str(prototxt), str(caffemodel), *options]) == 0
    mine, theirs = recording.read(path), recording.read(real)
    shift = 1 if age else 0
    assert [(e.index + shift, e.layer, e.type, e.top, e.shape) for e in mine.layers] == [
        (e.index, e.layer, e.type, e.top, e.shape) for e in theirs.layers
    ]
    assert (mine.input_names, mine.output_names, mine.limit) == (theirs.input_names, theirs.output_names, 256)
    assert mine.inputs["data"].tobytes() == data.tobytes()
    assert mine.finals["prob"].shape == theirs.finals["prob"].shape
    if not age:
        assert arrays_of(path).keys() == arrays_of(real).keys()
    convolutions = next(index for index, e in enumerate(theirs.layers) if e.type == "InnerProduct")
    assert convolutions > 30
    for got, want in zip(mine.layers[:convolutions], theirs.layers[:convolutions], strict=True):
        assert got.stats is not None and want.stats is not None
        scale = np.abs(want.stats[:2]).max()
        assert np.allclose(got.sample, want.sample, rtol=0, atol=1e-5 * scale), got.key
        assert np.allclose(got.stats, want.stats, rtol=1e-5, atol=1e-5 * scale), got.key
    for recorded in (path, real):
        assert check(recorded, net).ok and check(recorded, prototxt).ok


@pytest.mark.parametrize("name", ["lenet", "mtcnn_det1", "mtcnn_det2"])
def test_small_models_against_recordings_of_caffe(pycaffe: None, tmp_path: Path, name: str) -> None:
    folder = MODELS / name
    if not folder.exists():
        pytest.skip(f"{name} belongs to another project and is not here")
    want = recording.read(folder / "recording.npz")
    np.savez(tmp_path / "in.npz", **{blob: fill.input_data(blob, shape) for blob, shape in want.input_shapes.items()})
    files = [str(folder / "net.prototxt"), str(folder / "weights.caffemodel")]
    output = tmp_path / "r.npz"
    assert record.main([*files, "-o", str(output), "--input", str(tmp_path / "in.npz"), "--samples", "512"]) == 0
    got, real = meta_of(output), meta_of(folder / "recording.npz")
    assert {key: got[key] for key in ("layers", "inputs", "outputs")} == real
    agrees_everywhere(cp.load(*files), recording.read(output))


def test_a_top_that_nobody_named(
    made: Recorder, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = made(TRAINED.replace(' top: "loss"', ""))
    assert recording.read(path).layers[-1].top == "(automatic)"
    assert check(path, tmp_path / "model" / "small.prototxt").ok
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        del sys.modules[name]
    monkeypatch.setenv("FAKE_PYCAFFE", "2015")
    assert "give every layer of the prototxt a top" in refused(prototxt=TRAINED.replace(' top: "loss"', ""))


def test_phase_level_and_stages(made: Recorder, tmp_path: Path) -> None:
    rule = small.CONV_NET + (
        'layer { name: "top" type: "Power" bottom: "prob" top: "top" include { phase: TRAIN min_level: 2 stage: "s" } }'
    )
    options = ["--phase", "TRAIN", "--level", "2", "--stage", "s"]
    assert recording.read(made(rule)).output_names == ("prob",)
    path = made(rule, *options)
    assert recording.read(path).output_names == ("top",)
    prototxt = tmp_path / "model" / "small.prototxt"
    assert check(path, prototxt).ok
    told = check(path, cp.load(prototxt))
    assert "recorded in phase TRAIN, the net is of phase TEST" in told.problems
    assert "output top is none of the net's" in told.problems


def test_nan_is_recorded_and_told(pycaffe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = small.one_input(1, 6, name="x") + 'layer { name: "l" type: "Log" bottom: "x" top: "l" }'
    prototxt, _ = small.write_model(tmp_path, root)
    path = tmp_path / "r.npz"
    assert record.main([str(prototxt), "-o", str(path)]) == 0
    assert "note: 1:l:l has NaN" in capsys.readouterr().err
    told = check(path)
    assert told.ok and told.notes == ("NaN in 1:l:l: nothing agrees with that",)
    assert not cp.verify(cp.load(prototxt), recording.read(path)).ok


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--input", "{tmp}/absent.npz"], "absent.npz: no such file"),
        (["--input", "{tmp}"], "a folder"),
        (["--images", "{tmp}/absent.png"], "absent.png: no such file"),
        (["--input", "{tmp}/text"], "no npz file that can be read"),
        (["--images", "{tmp}/text"], "cannot be read as a picture"),
        (["--input", "{tmp}/other.npz"], "other.npz: y: the net's inputs are data"),
        (["--input", "{tmp}/empty.npz"], "no value for input data"),
        (["--input", "{tmp}/words.npz"], "data is no array of numbers"),
        (["--input", "{tmp}/nan.npz"], "not finite"),
        (["--input-shape", "y=1,2"], "the net's inputs are data"),
        (["--input-shape", "data=1,b"], "numbers separated by commas"),
        (["--samples", "0"], "at least 1"),
        (["--images", "{tmp}/a.png", "--mean", "1,2"], "is 2, the input 3x8x7"),
        (["--images", "{tmp}/a.png", "--mean", "grey"], "neither numbers nor"),
        (["--images", "{tmp}/a.png", "--mean", "{tmp}/absent.npy"], "no such file"),
        (["--images", "{tmp}/a.png", "--mean", "{tmp}/mean.npy"], "give --mean=1,2,3"),
        (["--images", "{tmp}/a.png", "--channel-swap", "2,1"], "each of the 3 channels"),
        (["--images", "{tmp}/a.png", "--resize", "4,4"], "at least the input's 8,7"),
        (["--images", "{tmp}/a.png", "--image-blob", "x"], "choose of data"),
    ],
)
def test_wrong_options(refused: Callable[..., str], tmp_path: Path, options: list[str], words: str) -> None:
    (tmp_path / "text").write_text("no array, no picture")
    np.savez(tmp_path / "other.npz", y=np.zeros(3))
    np.savez(tmp_path / "empty.npz")
    np.savez(tmp_path / "words.npz", data=np.array(["a"]))
    np.savez(tmp_path / "nan.npz", data=np.full((2, 3, 8, 7), np.nan))
    np.save(tmp_path / "mean.npy", np.broadcast_to(np.array([1.0, 2, 3])[:, None, None], (3, 9, 9)))
    picture(tmp_path / "a.png", 8, 7)
    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    assert words in refused(*given, prototxt=small.CONV_NET)


def test_files_that_are_not_there(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "absent.prototxt: no such file" in refused(str(tmp_path / "absent.prototxt"))


def test_learned_layers_without_weights(refused: Callable[..., str]) -> None:
    assert "give their caffemodel" in refused(prototxt=small.CONV_NET, weights=False)


def test_a_layer_that_a_program_feeds(refused: Callable[..., str]) -> None:
    net = (
        'layer { name: "m" type: "MemoryData" top: "d" top: "l" '
        "memory_data_param { batch_size: 1 channels: 1 height: 2 width: 2 } }"
    )
    assert "use a deploy prototxt" in refused(prototxt=net, weights=False)


def test_an_old_caffe_has_no_levels(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PYCAFFE", "2015")
    assert "too old for --level and --stage" in refused("--level", "1", prototxt=small.CONV_NET)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "cannot import caffe"),
        ("", "it is not pycaffe"),
        ("class Net:\n def __init__(self, *a): pass\ndef set_mode_cpu(): pass\n", "its Net has no copy_from"),
    ],
)
def test_no_pycaffe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str | None, words: str
) -> None:
    prototxt, weights = small.write_model(tmp_path)
    if module is None:
        monkeypatch.setitem(sys.modules, "caffe", None)
    else:
        (tmp_path / "caffe.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert record.main([str(prototxt), str(weights), "-o", str(tmp_path / "r.npz")]) == 2
    finally:
        sys.modules.pop("caffe")
    assert words in capsys.readouterr().err


def test_more_than_can_be_read_again(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_BYTES", 1000)
    assert "fewer --samples" in refused(prototxt=small.CONV_NET)


def test_where_caffe_ends_the_process_the_old_file_stays(tmp_path: Path) -> None:
    prototxt, weights = small.write_model(tmp_path)
    (tmp_path / "r.npz").write_text("as it was")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run_script(tmp_path, record.__file__, prototxt, weights, "-o", "r.npz", "--input-shape", "data=1,3,2,2")
    assert done.returncode == 134 and "Check failed" in done.stderr
    assert (tmp_path / "r.npz").read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_fault_in_between_leaves_nothing(
    pycaffe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prototxt, weights = small.write_model(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    arguments = [str(prototxt), str(weights), "-o", str(tmp_path / "r.npz")]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "r.npz")

    monkeypatch.setattr(record.os, "chmod", full)
    assert record.main(arguments) == 2
    assert capsys.readouterr().err == "record.py: r.npz: No space left on device\n"

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(record, "run", broken)
    assert record.main(arguments) == 70
    assert capsys.readouterr().err == "record.py: ZeroDivisionError: oh (--debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        record.main([*arguments, "--debug"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before

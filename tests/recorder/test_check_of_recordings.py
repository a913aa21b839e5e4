"""`record --check`, and what a recording of another model is told by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from recorders import NETS, Recorder, arrays_of

import caffe_port as cp
from caffe_port import recording
from caffe_port.errors import PrototxtError
from caffe_port.recorder import check


def test_another_model_does_not_verify(made: Recorder) -> None:
    recorded = recording.read(made(small.CONV_NET))
    net = small.filled(small.CONV_NET)
    assert cp.verify(net, recorded).ok
    weights = [np.array(weight.data) for weight in net.layer("fc").weights]
    weights[0][0, np.argmax(np.abs(weights[0][0]))] *= np.float32(1.01)
    report = cp.verify(net.with_weights({"fc": weights}, partial=True), recorded)
    assert not report.ok and report.first_divergence is not None and report.first_divergence.layer == "fc"
    without = small.filled(small.CONV_NET.replace('type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.1 }'))
    report = cp.verify(without, recorded)
    assert not report.ok and report.first_divergence is not None and report.first_divergence.layer == "relu1"


# check.


@pytest.fixture
def whole(made: Recorder) -> dict[str, Any]:
    return arrays_of(made(small.CONV_NET))


def with_meta(arrays: dict[str, Any], **changes: Any) -> dict[str, Any]:
    meta = {**json.loads(arrays["meta"].tobytes()), **changes}
    return {**arrays, "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def test_check_tells_all_problems_of_a_file_together(whole: dict[str, Any], tmp_path: Path) -> None:
    del whole["sample:1:conv1:conv1"], whole["in:data"]
    whole["extra"] = np.zeros(1)
    told = check(saved(tmp_path / "r.npz", whole), small.built(small.CONV_NET))
    assert not told.ok and told.recording is None and told.tops == 0
    assert told.problems == (
        "layer 'conv1': sample of top 'conv1' missing",
        "input 'data' missing",
        "array 'extra' is not in the list of layers, inputs and outputs",
    )
    assert [line for line in told.lines() if not line.startswith("wrong: ")] == [
        f"{tmp_path / 'r.npz'}: no whole recording"
    ]
    assert told.as_json()["ok"] is False


def test_check_of_what_is_no_recording(tmp_path: Path) -> None:
    assert check(tmp_path / "absent.npz").problems == ("No such file or directory",)
    (tmp_path / "text").write_text("x")
    assert "not an npz file" in check(tmp_path / "text").problems[0]


def test_check_of_shapes_only(tmp_path: Path) -> None:
    told = check(NETS / "ms_ctc.npz")
    assert told.ok and not told.made_by
    assert told.notes == ("input data has only its shape in it: verify needs the values (--input)",)
    answer = told.as_json()
    assert answer["inputs"] == {
        "data": {"shape": list(recording.read(NETS / "ms_ctc.npz").input_shapes["data"]), "values": False}
    }
    assert answer["sample_limit"] == 256 and answer["tops"] == 42 and answer["recorder"] is None
    json.dumps(answer, allow_nan=False)
    assert list(told.lines())[-1] == "whole"


def test_check_against_the_net(whole: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "r.npz", whole)
    net = small.built(small.CONV_NET)
    assert list(check(path, net).lines())[-1] == "whole, and of the net small"

    def problems(old: str, new: str) -> tuple[str, ...]:
        return check(path, small.built(small.CONV_NET.replace(old, new))).problems

    assert problems('name: "fc"', 'name: "fc8"') == (
        "1 tops of the net are not recorded: fc8 (InnerProduct):fc",
        "1 recorded tops are none of the net's: fc (InnerProduct):fc",
    )
    assert problems("num_output: 5", "num_output: 6") == (
        "layer 'fc': top 'fc' is recorded as 2x5, the net makes 2x6",
        "layer 'prob': top 'prob' is recorded as 2x5, the net makes 2x6",
    )
    assert problems('"prob"', '"p"')[:2] == ("output p of the net is not in it", "output prob is none of the net's")
    assert problems('"data"', '"x"')[0].startswith("the net does not take the recorded inputs: ")
    (tmp_path / "x.prototxt").write_text(small.CONV_NET.replace('"data"', '"x"'))
    assert "does not take the recorded inputs" in check(path, tmp_path / "x.prototxt").problems[0]
    (tmp_path / "x.prototxt").write_text("layer {")
    with pytest.raises(PrototxtError):
        check(path, tmp_path / "x.prototxt")


def test_check_of_layers_in_another_order(made: Recorder, tmp_path: Path) -> None:
    power = 'layer {{ name: "{0}" type: "Power" bottom: "x" top: "{0}" }}\n'
    path = made(small.one_input(1, 4) + power.format("a") + power.format("b"), weights=False)
    other = small.built(small.one_input(1, 4) + power.format("b") + power.format("a"))
    assert check(path, other).problems == ("the layers were recorded in another order than the net has them",)


def test_check_tells_other_weights(made: Recorder, tmp_path: Path) -> None:
    path = made(small.CONV_NET)
    prototxt = tmp_path / "model" / "small.prototxt"
    other = {
        name: [blob * 2 for blob in blobs] for name, blobs in small.weights_of(small.built(small.CONV_NET)).items()
    }
    small.write_caffemodel(tmp_path / "other.caffemodel", small.CONV_NET, other)
    told = check(path, cp.load(prototxt, tmp_path / "other.caffemodel"))
    assert told.ok and told.notes == ("recorded with other weight files (small.caffemodel) than other.caffemodel",)


@pytest.mark.parametrize("told", [None, 1, [], {}, {"phase": "TEST"}, {"phase": "TEST", "level": 0, "stages": [1]}])
def test_check_does_not_rely_on_who_made_it(whole: dict[str, Any], tmp_path: Path, told: Any) -> None:
    path = saved(tmp_path / "r.npz", with_meta(whole, recorder=told))
    (tmp_path / "net.prototxt").write_text(small.CONV_NET)
    answer = check(path, tmp_path / "net.prototxt")
    assert answer.ok and answer.made_by == {} and answer.as_json()["recorder"] is None
    assert len(list(answer.lines())) == 4

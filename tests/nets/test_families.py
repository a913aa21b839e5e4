"""A few deploy nets of forks, as check_families.py has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_families import check, first_line, table
from places import CONFORMANCE

import caffe_port as cp

PROTOTXT = CONFORMANCE / "prototxt"
FILES = (
    "TimoSaemann__ENet__prototxts_enet_deploy_final",
    "farmingyard__ShuffleNet__shufflenet_v2_1x_deploy",
    "junhyukoh__caffe-lstm__examples_lstm_sequence_lstm_short",
    "yalecyu__crnn.caffe__examples_crnn_deploy",
    "alexgkendall__SegNet-Tutorial__Example_Models_segnet_pascal",
)


@pytest.mark.parametrize("name", FILES)
def test_a_net_of_a_fork(name: str) -> None:
    path = PROTOTXT / f"{name}.prototxt"
    if not path.exists():
        pytest.skip("the prototxts of public repositories are not here")
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    verdict = check(path, "some", False)
    assert verdict is not None and verdict.kind == "agrees", verdict


def test_what_is_no_deploy_net_of_a_fork_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    assert check(path, "", False) is None
    path.write_text(path.read_text() + 'layer { name: "l" type: "Sideways" bottom: "x" top: "y" }')
    verdict = check(path, "", False)
    assert verdict is not None and (verdict.kind, verdict.text) == ("not known", "unknown layer type 'Sideways'")
    assert "| other | 1 | 0 | 1 |" in table([verdict])


def test_kinds_of_problems_are_counted() -> None:
    layers = "".join(f'layer {{ name: "{name}" type: "{kind}" top: "{name}" }}\n' for name, kind in ("aA", "bA", "cB"))
    message = first_line(_error(layers))
    assert message == "unknown layer type 'A' (2x); unknown layer type 'B'"


def _error(prototxt: str) -> cp.CaffePortError:
    from small import built

    with pytest.raises(cp.CaffePortError) as caught:
        built(prototxt)
    return caught.value

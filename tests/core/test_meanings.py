"""Where forks mean different things by the same words: what decides, what is said, and how another is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import one_input

import caffe_port as cp
from caffe_port.errors import UnsupportedParameter
from caffe_port.net import Net
from caffe_port.proto import dialects
from caffe_port.proto.dialects import Meaning, find_dialect, meaning

INTERP = (
    one_input(1, 2, 5, 3) + 'layer { name: "L" type: "Interp" bottom: "x" top: "y" interp_param { zoom_factor: 4 } }'
)


def load(folder: Path, prototxt: str, dialect: str | None = None) -> Net:
    path = folder / "net.prototxt"
    path.write_text(prototxt)
    return cp.load(path, dialect=dialect)


def notes(net: Net) -> list[str]:
    return [note.message for note in net.notes]


def test_a_meaning_that_nothing_tells_is_the_default_and_noted(tmp_path: Path) -> None:
    net = load(tmp_path, INTERP)
    assert net.blobs["y"].shape == (1, 2, 17, 9)
    (note,) = notes(net)
    assert note.startswith(
        "Interp's zoom_factor is read as n cells become (n - 1) * zoom_factor + 1 (xmyqsh/deeplab-v2)"
    )
    assert "n cells become n * zoom_factor" in note and "--dialect" in note


def test_a_dialect_that_is_asked_for_decides_and_nothing_is_noted(tmp_path: Path) -> None:
    net = load(tmp_path, INTERP, "open_model_zoo")
    assert net.blobs["y"].shape == (1, 2, 20, 12)
    assert not notes(net)
    assert net.dialects[0].repository == "opencv/open_model_zoo" and net.dialects[0].tells == ("asked for",)
    assert [one.repository for one in net.dialects[1:]] == ["xmyqsh/deeplab-v2"]


def test_a_dialect_that_has_no_say_leaves_it_to_the_rest(tmp_path: Path) -> None:
    net = load(tmp_path, INTERP, "yahoo/caffe")
    assert net.blobs["y"].shape == (1, 2, 17, 9)
    assert len(notes(net)) == 1


def test_one_note_for_many_layers(tmp_path: Path) -> None:
    more = INTERP.splitlines()[1].replace('"L"', '"M"').replace('"y"', '"z"')
    assert len(notes(load(tmp_path, f"{INTERP}\n{more}"))) == 1


BN = 'layer { name: "%s" type: "BN" bottom: "x" top: "%s" %s }\n'
FIELDS = {
    "scale_filler { } shift_filler { } bn_mode: INFERENCE": ("segnet", 2),
    "slope_filler { } bias_filler { } frozen: true": ("pspnet", 4),
    "decay: 0.5 scale_filler { }": ("averaged", 4),
    "scale_filler { } shift_filler { }": ("segnet", 2),
}


@pytest.mark.parametrize("fields", FIELDS)
def test_the_fields_of_a_bn_tell_which_it_is(tmp_path: Path, fields: str) -> None:
    net = load(tmp_path, one_input(1, 2, 3, 3) + BN % ("a", "a", f"bn_param {{ {fields} }}"))
    kind, blobs = FIELDS[fields]
    assert net.layers[1].definition.kind == kind and len(net.layers[1].weights) == blobs  # type: ignore[attr-defined]


def test_the_net_tells_what_a_bare_bn_is(tmp_path: Path) -> None:
    """A layer whose own fields do not tell is of the fork that the rest of the net is of."""
    bare = BN % ("b", "b", "")
    for fields, blobs in (("bn_mode: LEARN", 2), ("slope_filler { } frozen: true", 4)):
        net = load(tmp_path, one_input(1, 2, 3, 3) + BN % ("a", "a", f"bn_param {{ {fields} }}") + bare)
        assert len(net.layers[3].weights) == blobs
    with pytest.raises(UnsupportedParameter, match=r"(?s)a BN layer without bn_param means.*PSPNet.*--dialect"):
        load(tmp_path, one_input(1, 2, 3, 3) + bare)
    assert len(load(tmp_path, one_input(1, 2, 3, 3) + bare, "hszhao/PSPNet").layers[1].weights) == 4


def test_normalize_without_a_scale_is_not_known(tmp_path: Path) -> None:
    prototxt = one_input(1, 2, 3, 3) + 'layer { name: "L" type: "Normalize" bottom: "x" top: "y" }'
    assert load(tmp_path, prototxt, "SSD (weiliu89 ssd)").layers[1].weights[0].shape == ()
    with pytest.raises(UnsupportedParameter, match="happynear's Normalize"):
        load(tmp_path, prototxt, "happynear/caffe-windows")


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("hszhao/PSPNet", "hszhao/PSPNet"),
        ("PSPNET", "hszhao/PSPNet"),
        ("ssd chuanqi305", "chuanqi305/ssd"),
        ("deeplab-v2", "xmyqsh/deeplab-v2"),
    ],
)
def test_a_dialect_has_a_name_a_repository_and_parts(name: str, repository: str) -> None:
    assert find_dialect(name).repository == repository


@pytest.mark.parametrize(
    ("name", "message"), [("SSD", "part of several names.*chuanqi305"), ("mxnet", "none that is known")]
)
def test_a_dialect_that_is_not_found_is_told_what_there_is(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedParameter, match=message):
        load(tmp_path, INTERP, name)


def test_every_repository_of_a_meaning_is_a_dialect() -> None:
    """Or nobody could ask for it by that name."""
    from caffe_port.layers import fork_normalization, sequence, upsampling

    known = {one.repository for one in dialects._dialects()}
    tables = (fork_normalization.BARE, fork_normalization.NORMALIZE, sequence.ROWS, upsampling.ZOOM)
    for own in (one for table in tables for one in table.values()):
        assert set(own.repositories) <= known


def test_what_most_of_the_net_tells_decides(tmp_path: Path) -> None:
    """Lstm's fields are of both forks; those of Reverse are of one."""
    lstm = 'layer { name: "L" type: "Lstm" bottom: "x" top: "y" lstm_param { num_output: 2 } }\n'
    assert load(tmp_path, one_input(4, 3, 5) + lstm).blobs["y"].shape == (4, 2)
    reverse = 'layer { name: "R" type: "Reverse" bottom: "y" top: "z" reverse_param { axis: 0 } }'
    net = load(tmp_path, one_input(4, 3, 5) + lstm + reverse)
    assert net.blobs["z"].shape == (4, 3, 2)
    (note,) = notes(net)
    assert note.startswith("the bottom of an Lstm layer is read as axis 0 of the bottom is time, axis 1 the streams")


def test_outside_of_a_net_nothing_is_told() -> None:
    table = {"a": Meaning("this", ("hszhao/PSPNet",)), "b": Meaning("that", ("tianzhi0549/CTPN",))}
    assert meaning("it", table, "a") == "a"
    with pytest.raises(
        UnsupportedParameter, match=r"it means .*: this \(hszhao/PSPNet\); or that \(tianzhi0549/CTPN\)"
    ):
        meaning("it", table)

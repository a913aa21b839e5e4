"""Crop layers of forks before upstream's: where they cut follows from the net."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import CONFORMANCE
from small import one_input

import caffe_port as cp
from caffe_port.errors import GraphError, ShapeError
from caffe_port.net import Net

PROTOTXT = CONFORMANCE / "prototxt"


def conv(name: str, bottom: str, parameters: str, kind: str = "Convolution") -> str:
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" '
        f"convolution_param {{ num_output: 2 {parameters} }} }}\n"
    )


POOL = 'layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }\n'
CROP = 'layer { name: "crop" type: "Crop" bottom: "%s" bottom: "%s" top: "y" }\n'
UP = "kernel_size: 4 stride: 2"


def load(folder: Path, prototxt: str, dialect: str | None = "s9xie/hed") -> Net:
    path = folder / "net.prototxt"
    path.write_text(prototxt)
    return cp.load(path, dialect=dialect)


def offset(net: Net) -> tuple[int, ...]:
    (layer,) = (layer for layer in net.layers if layer.type == "Crop")
    return layer.definition.offset  # type: ignore[attr-defined, no-any-return]


def test_pooled_and_upsampled_again(tmp_path: Path) -> None:
    # Pooled cell i lies at 2 i + 1/2; upsampled cell j at (j - 3/2) / 2 of those, so at j - 1: the net begins at j = 1.
    net = (
        one_input(1, 1, 10, 12)
        + conv("conv", "x", "kernel_size: 3 pad: 1")
        + POOL
        + conv("up", "pool", UP, "Deconvolution")
    )
    assert offset(load(tmp_path, net + CROP % ("up", "x"))) == (1, 1)


def test_padding_is_cut_off_again(tmp_path: Path) -> None:
    # With a pad of 10 cell i of conv lies at i - 9: the picture's first at 9, by rows; by columns the pad is 5.
    net = one_input(1, 1, 10, 12) + conv("conv", "x", "kernel_size: 3 pad_h: 10 pad_w: 5")
    made = load(tmp_path, net + CROP % ("conv", "x"))
    assert offset(made) == (9, 4) and made.blobs["y"].shape == (1, 2, 10, 12)
    dilated = net.replace("kernel_size: 3", "kernel_size: 3 dilation: 2")
    assert offset(load(tmp_path, dilated + CROP % ("conv", "x"))) == (8, 3)


def test_a_crop_is_a_step_too(tmp_path: Path) -> None:
    net = one_input(1, 1, 10, 12) + conv("conv", "x", "kernel_size: 3 pad: 10") + CROP % ("conv", "x")
    twice = conv("more", "y", "kernel_size: 1 pad: 4") + CROP.replace('"crop"', '"again"').replace('"y"', '"z"') % (
        "more",
        "x",
    )
    made = load(tmp_path, net + twice)
    assert [layer.definition.offset for layer in made.layers if layer.type == "Crop"] == [(9, 9), (4, 4)]  # type: ignore[attr-defined]


def test_without_the_dialect_it_is_upstreams_and_noted(tmp_path: Path) -> None:
    net = one_input(1, 1, 10, 12) + conv("conv", "x", "kernel_size: 3 pad: 10") + CROP % ("conv", "x")
    made = load(tmp_path, net, None)
    assert offset(made) == ()
    (note,) = made.notes
    assert (
        "Crop layer without crop_param is read as cut from the first row" in note.message
        and "s9xie/hed" in note.message
    )


def test_written_offsets_are_kept(tmp_path: Path) -> None:
    net = one_input(1, 1, 10, 12) + conv("conv", "x", "kernel_size: 3 pad: 10")
    crop = (CROP % ("conv", "x")).replace('"y" }', '"y" crop_param { offset: 2 } }')
    assert offset(load(tmp_path, net + crop)) == (2,)


def test_what_cannot_be_aligned(tmp_path: Path) -> None:
    net = one_input(1, 1, 10, 12) + one_input(1, 1, 4, 4, name="other") + conv("conv", "x", "kernel_size: 3")
    with pytest.raises(GraphError, match="cannot be traced to one blob"):
        load(tmp_path, net + CROP % ("conv", "other"))
    with pytest.raises(GraphError, match="grids of 1 and 2 cells"):
        load(tmp_path, net + POOL + CROP % ("conv", "pool"))
    with pytest.raises(ShapeError, match="begins 1 cells before"):
        load(tmp_path, net + CROP % ("conv", "x"))


def test_fcn_8s_before_and_after_upstream_had_crop() -> None:
    """The offsets its authors wrote into the net when upstream's Crop needed them."""
    old = PROTOTXT / "HyeonwooNoh__DeconvNet__model_FCN_fcn-8s-pascal-deploy.prototxt"
    new = PROTOTXT / "shelhamer__fcn.berkeleyvision.org__voc-fcn8s_deploy.prototxt"
    if not old.exists():
        pytest.skip("the prototxts of public repositories are not here")
    offsets = [
        [layer.definition.offset for layer in cp.load(path).layers if layer.type == "Crop"]  # type: ignore[attr-defined]
        for path in (old, new)
    ]
    assert offsets == [[(5, 5), (9, 9), (31, 31)], [(5,), (9,), (31,)]]


def test_hole_is_dilation(tmp_path: Path) -> None:
    net = load(tmp_path, one_input(1, 1, 10, 12) + conv("conv", "x", "kernel_size: 3 hole: 2"), None)
    assert net.blobs["conv"].shape == (1, 2, 6, 8)

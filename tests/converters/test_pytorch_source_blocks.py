"""What a net repeats becomes a class of its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_sources import assert_computes, layer
from small import filled, one_input

pytest.importorskip("torch")
pytest.importorskip("safetensors.numpy")

RESIDUAL = """
layer { name: "N_conv" type: "Convolution" bottom: "FROM" top: "N_conv" convolution_param { num_output: C kernel_size: 3 pad: 1 bias_term: false } }
layer { name: "N_bn" type: "BatchNorm" bottom: "N_conv" top: "N_conv" }
layer { name: "N_scale" type: "Scale" bottom: "N_conv" top: "N_conv" scale_param { bias_term: true } }
layer { name: "N_relu" type: "ReLU" bottom: "N_conv" top: "N_conv" }
layer { name: "N_add" type: "Eltwise" bottom: "SHORT" bottom: "N_conv" top: "N_add" }
"""  # noqa: E501

PROJECTION = """
layer { name: "N_proj" type: "Convolution" bottom: "FROM" top: "N_proj" convolution_param { num_output: C kernel_size: 1 } }
"""  # noqa: E501


def residual(blocks: list[tuple[str, int, bool]]) -> str:
    """A net of residual blocks: name, channels, whether there is a projection."""
    text, previous = one_input(1, 4, 5, 5), "x"
    for name, channels, projected in blocks:
        block = (PROJECTION if projected else "") + RESIDUAL
        short = "N_proj" if projected else "FROM"
        text += (
            block.replace("SHORT", short)
            .replace("FROM", previous)
            .replace("N_", f"{name}_")
            .replace(": C", f": {channels}")
        )
        previous = f"{name}_add"
    return text


def test_blocks_with_and_without_projection_are_one_class(tmp_path: Path) -> None:
    net = filled(residual([("s1_b1", 4, False), ("s1_b2", 4, False), ("s2_b1", 6, True), ("s2_b2", 6, False)]))
    source = assert_computes(net, tmp_path)
    assert source.source.count("class ") == 2 and source.source.count("ResidualBlock(") == 5
    assert "b1=ResidualBlock(4, 6, projection=True)" in source.source
    assert {"s1.b1.conv", "s2.b1.proj", "s2.b1", "s2"} <= source.hooks.keys()
    assert source.blobs["s2.b1.proj.bias"] == {"layer": "s2_b1_proj", "blob": 1, "as": "same"}


def test_blocks_without_a_pattern_in_their_names(tmp_path: Path) -> None:
    text = residual([("one", 4, False), ("two", 4, False)])
    text = text.replace('name: "one_conv"', 'name: "alpha"').replace('name: "two_conv"', 'name: "omega"')
    source = assert_computes(filled(text), tmp_path)
    assert source.source.count("ResidualBlock(") == 3 and "self.one_add = ResidualBlock()" in source.source
    assert "# alpha to one_bn" in source.source


def test_what_is_there_once_is_no_class(tmp_path: Path) -> None:
    source = assert_computes(filled(residual([("one", 4, False)])), tmp_path)
    assert source.source.count("class ") == 1


def test_a_block_with_an_output_inside_is_left_open(tmp_path: Path) -> None:
    text = residual([("b1", 4, False), ("b2", 4, False), ("b3", 4, False)])
    text += layer("TanH", "", "t", "b2_conv", "t")
    source = assert_computes(filled(text), tmp_path)
    assert source.source.count("ResidualBlock(") == 3 and "self.b2_conv" in source.source

"""The overlay of what forks added to the schema, and the union of upstream and forks that reads their prototxts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from places import SHARED

from caffe_port.errors import PrototxtError, WeightsError
from caffe_port.proto import compile_dialects, dialects, schema, text, upgrade, wire

FACTS = SHARED / "caffe" / "caffe_schema.json"


@pytest.mark.skipif(not FACTS.exists(), reason="the recorded schemas are not here")
def test_the_overlay_is_what_the_facts_give() -> None:
    made = compile_dialects.make_overlay(json.loads(FACTS.read_text()))
    assert compile_dialects.dumps(made) == compile_dialects.DATA.read_text()


def test_the_union_has_all_of_upstream() -> None:
    for name in schema.message_names():
        ours, union = schema.descriptor(name), dialects.union_descriptor(name)
        for field in ours.fields:
            other = union.fields_by_name[field.name]
            assert (other.number, other.type, schema.is_repeated(other), other.default_value) == (
                field.number,
                field.type,
                schema.is_repeated(field),
                field.default_value,
            ), f"{name}.{field.name}"
        assert all(f.number >= dialects.FIRST_NUMBER for f in union.fields if f.name not in ours.fields_by_name)


def test_what_upstream_can_read_is_of_upstream() -> None:
    message, _ = text.parse('layer { name: "a" type: "ReLU" }')
    assert type(message) is schema.message_class("NetParameter")
    assert not dialects.is_union(message) and dialects.detect(message) == () and dialects.fork_paths(message) == {}


SSD = """
layer { name: "n" type: "Normalize" bottom: "x" top: "n"
        norm_param { across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false } }
layer { name: "p" type: "PriorBox" bottom: "n" bottom: "x" top: "p"
        prior_box_param { min_size: 30 max_size: 60 aspect_ratio: 2 flip: true clip: false variance: [0.1, 0.2] } }
"""


def test_ssd() -> None:
    message, where = text.parse(SSD, file="f")
    assert dialects.is_union(message)
    assert not message.layer[0].norm_param.across_spatial and message.layer[0].norm_param.scale_filler.value == 20
    assert list(message.layer[1].prior_box_param.variance) == pytest.approx([0.1, 0.2])
    assert where.location(("layer", 1, "prior_box_param", "flip")).line == 5
    (found,) = dialects.detect(message)
    assert (found.name, found.repository) == ("SSD (weiliu89 ssd)", "weiliu89/caffe")
    assert found.tells == ("norm_param", "prior_box_param")
    assert str(found) == "SSD (weiliu89 ssd): norm_param, prior_box_param"
    assert text.parse(text.dumps(message))[0] == message


def test_fields_and_values_of_forks_in_messages_of_upstream() -> None:
    message, _ = text.parse(
        'layer { name: "a" type: "Pooling" pooling_param { pool: MAX ceil_mode: false kernel_size: 2 } }'
        'layer { name: "b" type: "Convolution" convolution_param { engine: MKL2017 } }'
    )
    paths = dialects.fork_paths(message)
    assert set(paths) == {"layer[0].pooling_param.ceil_mode", "layer[1].convolution_param.engine: MKL2017"}
    assert "intel" in paths["layer[1].convolution_param.engine: MKL2017"]
    told = {tell for dialect in dialects.detect(message) for tell in dialect.tells}
    assert told == {"pooling_param.ceil_mode", "convolution_param.engine: MKL2017"}


def test_a_number_stands_for_an_enum_value_only_where_it_is_one_everywhere() -> None:
    """ColorConv is one fork's, so its numbers are its own; 3 of MKL2017 could be anything in another fork."""
    message, _ = text.parse('layer { name: "c" type: "ColorConv" color_conv_param { input: 0 } }')
    assert message.layer[0].color_conv_param.input == 0
    with pytest.raises(PrototxtError, match="unknown value '3' for 'engine'"):
        text.parse('layer { name: "b" convolution_param { engine: 3 } norm_param { } }')


def test_an_unknown_field_is_compared_with_those_of_forks_too() -> None:
    with pytest.raises(
        PrototxtError, match=r"f:1:9: unknown field 'nrom_param' in LayerParameter \(did you mean 'norm_"
    ):
        text.parse("layer { nrom_param { } }", file="f")
    with pytest.raises(PrototxtError, match="unknown field 'norm_param'"):
        text.parse("layer { norm_param { } }", forks=False)


def test_v1_types_and_fields_of_forks_are_carried_over() -> None:
    message, where = text.parse(
        'layers { name: "a" type: SEG_ACCURACY bottom: "x" top: "y" seg_accuracy_param { ignore_label: 255 } }'
        'layers { name: "b" type: RELU bottom: "x" top: "y" blobs_lr: 1 strict_dim: false }'
    )
    made = upgrade.upgrade_net(message, where)
    first, second = made.net.layer
    assert (first.type, list(first.seg_accuracy_param.ignore_label)) == ("SEG_ACCURACY", [255])
    assert (second.type, second.strict_dim, second.param[0].lr_mult) == ("ReLU", False, 1)
    assert [found.name for found in dialects.detect(made.net)] == ["DeepLab v1 (TheLegendAli)"]


def test_forks_of() -> None:
    assert dialects.forks_of("LayerParameter", "norm_param").startswith("SSD (weiliu89 ssd) / ")
    assert dialects.forks_of("LayerParameter", "convolution_param") == ""
    assert "SSD (weiliu89 ssd)" in dialects.forks_of_type("PriorBox")
    assert "DeepLab v1" in dialects.forks_of_type("SEG_ACCURACY")
    assert dialects.forks_of_type("Convolution") == dialects.forks_of_type("Sideways") == ""
    assert any(entry.startswith("norm_param (SSD") for entry in dialects.forks_of_number("LayerParameter", 206))
    # A number of upstream's that means something else to a fork.
    assert any(entry.startswith("interp_param (PSPNet") for entry in dialects.forks_of_number("LayerParameter", 143))


def test_no_invented_number_gets_into_a_file(tmp_path: Path) -> None:
    message, _ = text.parse(SSD)
    with pytest.raises(WeightsError, match="only forks of Caffe have"):
        wire.write(tmp_path / "x.caffemodel", message, [[], []])
    assert not list(tmp_path.iterdir())

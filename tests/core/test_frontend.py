"""State rules and Split layers, as net.cpp and insert_splits.cpp have them."""

from __future__ import annotations

from typing import Any

import pytest
from small import one_input, placed

from caffe_port.errors import GraphError, Problems
from caffe_port.frontend import NetState, PlacedLayer, filter_by_state, insert_splits

TRAIN, TEST = NetState("TRAIN"), NetState("TEST")


def kept(rules: str, state: NetState) -> bool:
    problems = Problems()
    result = filter_by_state(placed(f'layer {{ name: "a" type: "ReLU" {rules} }}'), state, problems)
    assert not problems
    return bool(result)


@pytest.mark.parametrize(
    ("rules", "state", "stays"),
    [
        ("", TEST, True),
        # An empty rule always matches.
        ("include { }", TEST, True),
        ("exclude { }", TEST, False),
        ("include { phase: TRAIN }", TRAIN, True),
        ("include { phase: TRAIN }", TEST, False),
        ("exclude { phase: TRAIN }", TRAIN, False),
        ("exclude { phase: TRAIN }", TEST, True),
        # Any rule of the kind is enough.
        ("include { phase: TRAIN } include { phase: TEST }", TEST, True),
        ("exclude { phase: TRAIN } exclude { phase: TEST }", TEST, False),
        # The level's bounds are inclusive, and level 0 is one like any other.
        ("include { min_level: 2 }", NetState(level=2), True),
        ("include { min_level: 2 }", NetState(level=1), False),
        ("include { max_level: 2 }", NetState(level=2), True),
        ("include { max_level: 2 }", NetState(level=3), False),
        ("include { min_level: 1 }", TEST, False),
        ("include { max_level: -1 }", TEST, False),
        ("exclude { min_level: -3 max_level: 3 }", NetState(level=-2), False),
        # All stages must be there, and none of not_stage.
        ('include { stage: "a" }', NetState(stages=("a", "b")), True),
        ('include { stage: "a" stage: "c" }', NetState(stages=("a", "b")), False),
        ('include { stage: "a" stage: "b" }', NetState(stages=("b", "a")), True),
        ('include { not_stage: "a" }', NetState(stages=("b",)), True),
        ('include { not_stage: "a" not_stage: "c" }', NetState(stages=("b", "c")), False),
        ('exclude { not_stage: "a" }', TEST, False),
        # All set fields of one rule must hold.
        ('include { phase: TEST stage: "a" }', NetState("TRAIN", stages=("a",)), False),
        ('include { phase: TEST stage: "a" }', NetState("TEST", stages=("a",)), True),
        ("exclude { phase: TEST min_level: 1 }", TEST, True),
    ],
)
def test_state_rules(rules: str, state: NetState, stays: bool) -> None:
    assert kept(rules, state) is stays


def test_include_and_exclude_together() -> None:
    problems = Problems()
    layers = placed('layer { name: "a" type: "ReLU" include { phase: TEST } exclude { phase: TRAIN } }')
    assert filter_by_state(layers, TEST, problems) == []
    with pytest.raises(GraphError, match=r"net.prototxt:1:1: layer 'a': has both include and exclude"):
        problems.raise_if_any()


def split(prototxt: str) -> list[PlacedLayer]:
    problems = Problems()
    result = insert_splits(placed(prototxt), problems)
    problems.raise_if_any()
    return result


def outline(layers: list[PlacedLayer]) -> list[tuple[str, str, list[str], list[str]]]:
    return [(p.name, p.message.type, list(p.message.bottom), list(p.message.top)) for p in layers]


def relu(name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" {more} }}\n'


def test_no_split_for_one_use() -> None:
    assert [p.name for p in split(one_input(2) + relu("a", "x", "y"))] == ["x", "a"]


def test_split_stands_behind_its_producer_and_counts_uses_in_order() -> None:
    layers = split(one_input(2) + relu("a", "x", "y") + relu("b", "x", "z") + relu("c", "x", "w"))
    name = "x_x_0_split"
    assert outline(layers) == [
        ("x", "Input", [], ["x"]),
        (name, "Split", ["x"], [f"{name}_0", f"{name}_1", f"{name}_2"]),
        ("a", "ReLU", [f"{name}_0"], ["y"]),
        ("b", "ReLU", [f"{name}_1"], ["z"]),
        ("c", "ReLU", [f"{name}_2"], ["w"]),
    ]
    assert [p.automatic for p in layers] == [False, True, False, False, False]
    assert [p.source_index for p in layers] == [0, -1, 1, 2, 3]


def test_split_is_named_by_blob_layer_and_top_index() -> None:
    layers = split(
        'layer { name: "in" type: "Input" top: "x" top: "label" }\n'
        + relu("a", "label", "p")
        + relu("b", "label", "q")
        + relu("c", "x", "r")
    )
    assert outline(layers)[1] == ("label_in_1_split", "Split", ["label"], ["label_in_1_split_0", "label_in_1_split_1"])
    assert list(layers[4].message.bottom) == ["x"]


def test_several_tops_are_split_in_their_order() -> None:
    layers = split(
        'layer { name: "in" type: "Input" top: "x" top: "y" }\n'
        'layer { name: "s" type: "Eltwise" bottom: "y" bottom: "x" top: "s" }\n'
        'layer { name: "t" type: "Eltwise" bottom: "x" bottom: "y" top: "t" }\n'
    )
    assert [p.name for p in layers] == ["in", "x_in_0_split", "y_in_1_split", "s", "t"]
    assert list(layers[3].message.bottom) == ["y_in_1_split_0", "x_in_0_split_0"]
    assert list(layers[4].message.bottom) == ["x_in_0_split_1", "y_in_1_split_1"]


def test_one_layer_may_use_a_blob_twice() -> None:
    layers = split(one_input(2) + 'layer { name: "s" type: "Eltwise" bottom: "x" bottom: "x" top: "s" }')
    assert list(layers[2].message.bottom) == ["x_x_0_split_0", "x_x_0_split_1"]


def test_a_layer_in_place_is_a_new_producer() -> None:
    """x is used once as the input makes it, and twice as the ReLU leaves it."""
    layers = split(one_input(2) + relu("r", "x", "x") + relu("a", "x", "y") + relu("b", "x", "z"))
    assert outline(layers) == [
        ("x", "Input", [], ["x"]),
        ("r", "ReLU", ["x"], ["x"]),
        ("x_r_0_split", "Split", ["x"], ["x_r_0_split_0", "x_r_0_split_1"]),
        ("a", "ReLU", ["x_r_0_split_0"], ["y"]),
        ("b", "ReLU", ["x_r_0_split_1"], ["z"]),
    ]


def test_a_use_before_a_layer_in_place_makes_it_one_no_more() -> None:
    layers = split(one_input(2) + relu("a", "x", "y") + relu("r", "x", "x"))
    assert outline(layers)[3] == ("r", "ReLU", ["x_x_0_split_1"], ["x"])


def test_a_loss_weight_is_one_more_use() -> None:
    """The weight moves to the first top of the Split, and the layer's own list is cleared."""
    layers = split(one_input(2) + relu("a", "x", "y", "loss_weight: 2.5") + relu("b", "y", "z"))
    assert outline(layers)[1:] == [
        ("a", "ReLU", ["x"], ["y"]),
        ("y_a_0_split", "Split", ["y"], ["y_a_0_split_0", "y_a_0_split_1"]),
        ("b", "ReLU", ["y_a_0_split_1"], ["z"]),
    ]
    assert list(layers[1].message.loss_weight) == []
    assert list(layers[2].message.loss_weight) == [2.5, 0]


def test_a_loss_weight_alone_makes_no_split() -> None:
    layers = split(one_input(2) + relu("a", "x", "y", "loss_weight: 2.5"))
    assert [p.name for p in layers] == ["x", "a"] and list(layers[1].message.loss_weight) == [2.5]


def test_a_loss_weight_of_0_is_no_use() -> None:
    layers = split(one_input(2) + relu("a", "x", "y", "loss_weight: 0") + relu("b", "y", "z"))
    assert [p.name for p in layers] == ["x", "a", "b"] and list(layers[1].message.loss_weight) == [0]


def test_the_messages_given_stay_as_they_are() -> None:
    layers = placed(one_input(2) + relu("a", "x", "y", "loss_weight: 1") + relu("b", "y", "z") + relu("c", "y", "w"))
    before: list[Any] = [layer.message.SerializeToString() for layer in layers]
    problems = Problems()
    insert_splits(layers, problems)
    assert [layer.message.SerializeToString() for layer in layers] == before


def test_split_layers_written_by_caffe_are_not_split_again() -> None:
    """What insert_splits makes of its own result is that result."""
    once = split(one_input(2) + relu("a", "x", "y", "loss_weight: 3") + relu("b", "y", "z") + relu("c", "x", "w"))
    problems = Problems()
    twice = insert_splits(once, problems)
    assert not problems and outline(twice) == outline(once)
    assert [list(p.message.loss_weight) for p in twice] == [list(p.message.loss_weight) for p in once]


def test_unknown_bottom() -> None:
    with pytest.raises(GraphError, match=r"net.prototxt:2:1: layer 'a': unknown bottom 'z'"):
        split(one_input(2) + relu("a", "z", "y"))


def test_a_bottom_that_a_later_layer_makes() -> None:
    with pytest.raises(GraphError, match=r"layer 'a': unknown bottom 'z' \(it is made by a later layer"):
        split(one_input(2) + relu("a", "z", "y") + relu("b", "x", "z"))


def test_a_layer_cannot_read_its_own_top() -> None:
    with pytest.raises(GraphError, match="unknown bottom 'y'"):
        split(relu("a", "y", "y"))

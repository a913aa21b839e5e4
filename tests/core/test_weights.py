"""Weight files into nets, by Caffe's rules of names, counts and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import CONV_NET, blob, built, filled, inputs_of, one_input, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port.errors import CaffePortError, GraphError, WeightsError
from caffe_port.net import Net
from caffe_port.proto import text, wire
from caffe_port.weights import same_bits

FC = one_input(2, 3) + (
    'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 5 } }\n'
)
"""Learned: 5x3 and 5."""

WEIGHT = np.arange(15, dtype=np.float32).reshape(5, 3) - 6
BIAS = np.arange(5, dtype=np.float32) * 10


def files(folder: Path, prototxt: str, blobs: dict[str, Sequence[Any]], saved: str | None = None) -> tuple[Path, Path]:
    """A prototxt, and a caffemodel of its layers, or of those of the net `saved`."""
    definition = folder / "net.prototxt"
    definition.write_text(prototxt)
    return definition, write_caffemodel(folder / "net.caffemodel", prototxt if saved is None else saved, blobs)


def loaded(folder: Path, weight: Any, bias: Any) -> Net:
    return cp.load(*files(folder, FC, {"fc": [weight, bias]}))


def data(net: Net, layer: str, index: int = 0) -> np.ndarray[Any, Any]:
    values = net.layer(layer).weights[index].data
    assert values is not None
    return values


# Shapes


@pytest.mark.parametrize("shape", [(1, 1, 5, 3)])
def test_a_legacy_blob_fits_from_the_last_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    net = loaded(tmp_path, blob(WEIGHT, shape, legacy=True), blob(BIAS, (1, 1, 1, 5), legacy=True))
    assert np.array_equal(data(net, "fc"), WEIGHT) and np.array_equal(data(net, "fc", 1), BIAS)
    # y = x W^T + b for x = (1, 0, 0), (0, 1, 1): W's column 0 is -6 -3 0 3 6, columns 1 + 2 are -9 -3 3 9 15.
    y = cp.run(net, {"x": np.float32([[1, 0, 0], [0, 1, 1]])})["y"]
    assert np.array_equal(y, [[-6, 7, 20, 33, 46], [-9, 7, 23, 39, 55]])


@pytest.mark.parametrize("shape", [(5, 3, 1, 1), (1, 5, 3, 1), (1, 1, 3, 5), (1, 5, 1, 3)])
def test_a_legacy_blob_aligned_otherwise_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        WeightsError, match=r"layer 'fc': learned blob 0 is 5x3 in the net, .*\(num, channels, height, width\)"
    ):
        loaded(tmp_path, blob(WEIGHT, shape, legacy=True), BIAS)


def test_a_legacy_blob_of_a_convolution(tmp_path: Path) -> None:
    definition, weights = files(
        tmp_path,
        CONV_NET,
        {
            "conv1": [
                blob(np.zeros(108), (4, 3, 3, 3), legacy=True),
                blob(np.zeros(4), (1, 1, 1, 4), legacy=True),
            ],
            "fc": weights_of(built(CONV_NET))["fc"],
        },
    )
    assert data(cp.load(definition, weights), "conv1").shape == (4, 3, 3, 3)


def test_a_legacy_blob_fits_no_five_axes(tmp_path: Path) -> None:
    prototxt = one_input(2, 3, 4, 5, 6) + (
        'layer { name: "c" type: "Convolution" bottom: "x" top: "y" '
        "convolution_param { num_output: 2 kernel_size: 1 bias_term: false } }"
    )
    definition, weights = files(tmp_path, prototxt, {"c": [blob(np.zeros(6), (2, 3, 1, 1), legacy=True)]})
    with pytest.raises(WeightsError, match="learned blob 0 is 2x3x1x1x1 in the net"):
        cp.load(definition, weights)
    definition, weights = files(tmp_path, prototxt, {"c": [np.zeros((2, 3, 1, 1, 1))]})
    assert not cp.load(definition, weights).missing_weights()


@pytest.mark.parametrize("shape", [(3, 5), (15,), (1, 1, 5, 3), (5, 3, 1, 1)])
def test_a_blob_of_today_has_exactly_the_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match="layer 'fc': learned blob 0 is 5x3 in the net"):
        loaded(tmp_path, blob(WEIGHT, shape), BIAS)


def test_float64_values_stay_float64(tmp_path: Path) -> None:
    values = WEIGHT.astype(np.float64) / 3
    net = loaded(tmp_path, blob(values, dtype=np.float64), BIAS)
    assert data(net, "fc").dtype == np.float64 and np.array_equal(data(net, "fc"), values)
    y = cp.run(net, {"x": np.eye(2, 3)}, dtype="float64")["y"]
    assert np.array_equal(y, values.T[:2] + BIAS.astype(np.float64))


# Numbers and names


def test_wrong_number_of_blobs(tmp_path: Path) -> None:
    definition, weights = files(tmp_path, FC, {"fc": [WEIGHT]})
    with pytest.raises(
        WeightsError, match=r"layer 'fc': InnerProduct has 2 learned blobs, net.caffemodel has 1 for it"
    ):
        cp.load(definition, weights)
    with pytest.raises(WeightsError, match=r"has 2 learned blobs, net.caffemodel has 1"):
        cp.load(definition, weights, allow_missing_weights=True)


def test_a_layer_without_learned_blobs_takes_none(tmp_path: Path) -> None:
    prototxt = one_input(2, 3) + 'layer { name: "fc" type: "ReLU" bottom: "x" top: "y" }'
    definition, weights = files(tmp_path, prototxt, {"fc": [WEIGHT, BIAS]}, saved=FC)
    with pytest.raises(
        WeightsError, match=r"layer 'fc': ReLU has 0 learned blobs, net.caffemodel has 2 .*InnerProduct"
    ):
        cp.load(definition, weights)


SECOND = 'layer { name: "fc2" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 4 } }'


def test_missing_and_unused_layers_in_one_report(tmp_path: Path) -> None:
    """The file has fc and other, the net fc and fc2."""
    other = FC + SECOND.replace('"fc2"', '"other"')
    values = {"fc": [WEIGHT, BIAS], "other": [np.ones((4, 5)), np.ones(4)]}
    definition, weights = files(tmp_path, FC + SECOND, values, saved=other)
    with pytest.raises(WeightsError) as caught:
        cp.load(definition, weights)
    report = str(caught.value)
    assert report.startswith("2 problems:")
    assert "layer 'other': net.caffemodel has 2 learned blobs for it, and no layer of the net has this name" in report
    assert "layer 'fc2': net.caffemodel has no weights for it (4x5, 4 needed)" in report


def test_unused_weights_are_passed_over_and_noted(tmp_path: Path) -> None:
    """As Caffe does; a strict caller refuses them."""
    other = FC + SECOND.replace('"fc2"', '"other"')
    values = {"fc": [WEIGHT, BIAS], "other": [np.ones((4, 5)), np.ones(4)]}
    definition, weights = files(tmp_path, FC, values, saved=other)
    net = cp.load(definition, weights)
    assert [note.layer for note in net.notes] == ["other"]
    assert not net.missing_weights()
    with pytest.raises(WeightsError, match=r"layer 'other': .* no layer of the net has this name"):
        cp.load(definition, weights, refuse_unused_weights=True)


def test_the_weights_of_another_net_are_one_clear_line(tmp_path: Path) -> None:
    other = FC.replace('"fc"', '"other"')
    definition, weights = files(tmp_path, FC, {"other": [WEIGHT, BIAS]}, saved=other)
    with pytest.raises(WeightsError, match=r"holds the weights of another net: none of its 1 layers .*\(other\)"):
        cp.load(definition, weights)
    net = cp.load(definition, weights, allow_missing_weights=True)
    assert len(net.missing_weights()) == 2
    with pytest.raises(WeightsError, match="layer 'fc': learned blob 0 of shape 5x3 has no values"):
        cp.run(net, {"x": np.zeros((2, 3))})


def test_a_wrong_shape_is_not_also_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        loaded(tmp_path, WEIGHT.T.copy(), BIAS)
    assert "\n" not in str(caught.value)


def test_layers_of_the_file_without_blobs_do_not_matter(tmp_path: Path) -> None:
    saved = FC + 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "y" top: "l" }'
    definition, weights = files(tmp_path, FC, {"fc": [WEIGHT, BIAS]}, saved=saved)
    assert not cp.load(definition, weights).missing_weights()


def test_the_type_is_not_compared(tmp_path: Path) -> None:
    """Caffe matches by name, number and shape alone: a 1x1 convolution's blobs may come from any layer."""
    saved = FC.replace("InnerProduct", "Convolution").replace("inner_product_param", "convolution_param")
    definition, weights = files(tmp_path, FC, {"fc": [WEIGHT, BIAS]}, saved=saved)
    assert np.array_equal(data(cp.load(definition, weights), "fc"), WEIGHT)


TWICE = (
    one_input(2, 3)
    + """
layer { name: "same" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 3 bias_term: false } }
layer { name: "same" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 3 bias_term: false } }
"""
)


def test_of_two_layers_of_one_name_the_first_gets_the_weights(tmp_path: Path) -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    saved = one_input(2, 3) + TWICE.splitlines()[2]
    definition, weights = files(tmp_path, TWICE, {"same": [square]}, saved=saved)
    with pytest.raises(WeightsError, match=r"net.prototxt:4:1: layer 'same': .* has no weights for it \(3x3 needed\)"):
        cp.load(definition, weights)
    net = cp.load(definition, weights, allow_missing_weights=True)
    first, second = net.layers[1], net.layers[2]
    assert first.weights[0].data is not None and np.array_equal(first.weights[0].data, square)
    assert second.weights[0].data is None


def test_of_two_layers_of_one_name_in_the_file_the_last_wins(tmp_path: Path) -> None:
    """Caffe copies both, one after the other, into the same target."""
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    single = one_input(2, 3) + TWICE.splitlines()[2]
    message, _ = text.parse(TWICE)
    wire.write(tmp_path / "w.caffemodel", message, [[], [blob(square)], [blob(square + 100)]])
    (tmp_path / "net.prototxt").write_text(single)
    net = cp.load(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    assert np.array_equal(data(net, "same"), square + 100)


# Shared blobs

SHARED = one_input(2, 3) + "".join(
    f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" param {{ name: "w" }} '
    "inner_product_param { num_output: 5 bias_term: false } }\n"
    for name in ("a", "b")
)


def test_a_shared_blob_is_stored_with_each_layer(tmp_path: Path) -> None:
    net = cp.load(*files(tmp_path, SHARED, {"a": [WEIGHT], "b": [WEIGHT]}))
    assert np.array_equal(data(net, "a"), WEIGHT) and np.shares_memory(data(net, "a"), data(net, "b"))


def test_of_different_values_for_a_shared_blob_the_last_is_it(tmp_path: Path) -> None:
    """One memory, written twice: what Caffe reads last stays."""
    net = cp.load(*files(tmp_path, SHARED, {"a": [WEIGHT], "b": [WEIGHT + 1]}))
    assert np.array_equal(data(net, "a"), WEIGHT + 1) and np.array_equal(data(net, "b"), WEIGHT + 1)


def test_a_shared_blob_that_the_file_has_with_the_later_layer_only(tmp_path: Path) -> None:
    net = cp.load(*files(tmp_path, SHARED, {"b": [WEIGHT]}, saved=SHARED.replace('"a"', '"q"')))
    assert np.array_equal(data(net, "a"), WEIGHT)


# Several files


def test_files_are_loaded_one_after_the_other(tmp_path: Path) -> None:
    values = weights_of(built(CONV_NET))
    definition, _ = files(tmp_path, CONV_NET, values)
    message, _ = text.parse(CONV_NET)

    def part(name: str, **blobs: list[Any]) -> Path:
        """A file with these layers alone."""
        kept = [layer for layer in message.layer if layer.name in blobs]
        net = type(message)(layer=kept)
        wire.write(tmp_path / name, net, [[blob(array) for array in blobs[layer.name]] for layer in kept])
        return tmp_path / name

    conv = part("1.caffemodel", conv1=values["conv1"])
    both = part("2.caffemodel", conv1=[a + 1 for a in values["conv1"]], fc=values["fc"])
    fc = part("3.caffemodel", fc=[a + 2 for a in values["fc"]])
    net = cp.load(definition, [conv, both, fc])
    assert np.array_equal(data(net, "conv1"), values["conv1"][0] + 1)
    assert np.array_equal(data(net, "fc", 1), values["fc"][1] + 2)
    assert [(s.role, s.path.name) for s in net.sources] == [
        ("definition", "net.prototxt"),
        ("weights", "1.caffemodel"),
        ("weights", "2.caffemodel"),
        ("weights", "3.caffemodel"),
    ]
    assert np.array_equal(data(cp.load(definition, [both, conv]), "conv1"), values["conv1"][0])
    with pytest.raises(WeightsError, match=r"layer 'fc': 1.caffemodel has no weights for it"):
        cp.load(definition, [conv])
    with pytest.raises(WeightsError, match=r"layer 'conv1': 3.caffemodel has no weights for it"):
        cp.load(definition, [fc, fc])


def test_a_layer_that_the_file_has_without_blobs_does_not_fit(tmp_path: Path) -> None:
    """Caffe compares the numbers of blobs, 0 too."""
    definition, weights = files(tmp_path, FC, {})
    with pytest.raises(
        WeightsError, match=r"layer 'fc': InnerProduct has 2 learned blobs, net.caffemodel has 0 for it"
    ):
        cp.load(definition, weights, allow_missing_weights=True)


# A caffemodel alone

SAVED = """
name: "saved"
layer { name: "data" type: "Data" top: "data" top: "label" phase: TRAIN include { phase: TRAIN }
        transform_param { crop_size: 7 mean_value: 1 mean_value: 2 mean_value: 3 } data_param { batch_size: 2 } }
layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" phase: TRAIN exclude { phase: TEST }
        dropout_param { dropout_ratio: 0.5 } }
layer { name: "drop_drop_0_split" type: "Split" bottom: "drop" top: "drop_drop_0_split_0" top: "drop_drop_0_split_1"
        phase: TRAIN }
layer { name: "fc" type: "InnerProduct" bottom: "drop_drop_0_split_0" top: "fc" phase: TRAIN
        inner_product_param { num_output: 4 } }
layer { name: "side" type: "Power" bottom: "drop_drop_0_split_1" top: "side" phase: TRAIN power_param { scale: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" loss_weight: 1 phase: TRAIN }
"""
"""As a solver saves it: rules and Splits applied already, phases written, the data layer in it."""


def test_a_caffemodel_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = [rng.standard_normal((4, 147)).astype(np.float32), rng.standard_normal(4).astype(np.float32)]
    path = write_caffemodel(tmp_path / "saved.caffemodel", SAVED, {"fc": values})
    net = cp.load(path)
    assert (net.name, net.phase) == ("saved", "TEST")
    assert [entry.name for entry in net.layers] == ["data", "drop", "drop_drop_0_split", "fc", "side", "loss"]
    assert {entry.phase for entry in net.layers} == {"TEST"}
    assert net.input_shapes == {"data": (2, 3, 7, 7), "label": (2,)} and net.outputs == ("loss", "side")
    assert [entry.automatic for entry in net.layers] == [False, False, True, False, False, False]
    assert np.array_equal(data(net, "fc"), values[0]) and not net.missing_weights()
    x = rng.standard_normal((2, 3, 7, 7)).astype(np.float32)
    blobs = cp.run(net, {"data": x, "label": np.zeros(2)})
    # In TEST the Dropout does nothing.
    assert np.array_equal(blobs["side"], 2 * x)
    assert [(s.role, s.path) for s in net.sources] == [("definition", path), ("weights", path)]
    assert cp.load(path, phase="TRAIN").layer("drop").phase == "TRAIN"


def test_a_caffemodel_alone_names_its_file_in_errors(tmp_path: Path) -> None:
    path = write_caffemodel(tmp_path / "saved.caffemodel", FC.replace("InnerProduct", "InnerProdukt"), {})
    with pytest.raises(CaffePortError, match=r"^saved.caffemodel: layer 'fc': unknown layer type 'InnerProdukt'"):
        cp.load(path)


def test_a_caffemodel_with_another_files_weights(tmp_path: Path) -> None:
    """The net of the one, the weights of both, the later ones on top."""
    first = write_caffemodel(tmp_path / "1.caffemodel", FC, {"fc": [WEIGHT, BIAS]})
    second = write_caffemodel(tmp_path / "2.caffemodel", FC, {"fc": [WEIGHT * 2, BIAS]})
    assert np.array_equal(data(cp.load(first, second), "fc"), WEIGHT * 2)


def test_prototxt_and_weights_the_wrong_way_round(tmp_path: Path) -> None:
    definition, weights = files(tmp_path, FC, {"fc": [WEIGHT, BIAS]})
    with pytest.raises(WeightsError, match=r"net.prototxt: this is no caffemodel but text; the prototxt comes first"):
        cp.load(weights, definition)


def test_missing_files(tmp_path: Path) -> None:
    definition, weights = files(tmp_path, FC, {"fc": [WEIGHT, BIAS]})
    with pytest.raises(CaffePortError, match=r"nowhere.prototxt"):
        cp.load(tmp_path / "nowhere.prototxt", weights)
    with pytest.raises(CaffePortError, match=r"nowhere.caffemodel"):
        cp.load(definition, tmp_path / "nowhere.caffemodel")
    with pytest.raises(GraphError, match="phase must be TRAIN or TEST, not 'test'"):
        cp.load(definition, phase="test")


# Blobs in the prototxt


def inline(values: Any, shape: Sequence[int]) -> str:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return "blobs { shape { " + dims + " } " + " ".join(f"data: {v}" for v in np.ravel(values)) + " }"


def test_blobs_inside_a_prototxt(tmp_path: Path) -> None:
    prototxt = FC.replace("inner_product_param", f"{inline(WEIGHT, (5, 3))} {inline(BIAS, (5,))} inner_product_param")
    path = tmp_path / "net.prototxt"
    path.write_text(prototxt)
    net = cp.load(path)
    assert np.array_equal(data(net, "fc"), WEIGHT) and np.array_equal(data(net, "fc", 1), BIAS)
    assert not data(net, "fc").flags.writeable
    # A file's are loaded after the net is built, so they win.
    weights = write_caffemodel(tmp_path / "w.caffemodel", FC, {"fc": [WEIGHT * 3, BIAS]})
    assert np.array_equal(data(cp.load(path, weights), "fc"), WEIGHT * 3)


def test_legacy_and_float64_blobs_inside_a_prototxt(tmp_path: Path) -> None:
    values = " ".join(f"double_data: {v / 3!r}" for v in WEIGHT.ravel().astype(float).tolist())
    weight = f"blobs {{ num: 1 channels: 1 height: 5 width: 3 {values} }}"
    path = tmp_path / "net.prototxt"
    path.write_text(FC.replace("inner_product_param", f"{weight} {inline(BIAS, (5,))} inner_product_param"))
    assert np.array_equal(data(cp.load(path), "fc"), WEIGHT.astype(np.float64) / 3)


def test_wrong_blobs_inside_a_prototxt(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    for blobs, message in [
        (inline(WEIGHT, (5, 3)), "layer 'fc': InnerProduct has 2 learned blobs, net.prototxt has 1"),
        (
            inline(WEIGHT, (3, 5)) + inline(BIAS, (5,)),
            "layer 'fc': learned blob 0 is 5x3 in the net, 3x5 in net.prototxt",
        ),
        (inline(WEIGHT, (5, 3)) + inline(BIAS[:4], (5,)), "layer 'fc': learned blob 1 has 4 values for shape 5"),
    ]:
        path.write_text(FC.replace("inner_product_param", f"{blobs} inner_product_param"))
        with pytest.raises(WeightsError, match=message):
            cp.load(path)


def test_blobs_in_the_prototxt_belong_to_their_own_layer_not_to_its_name(tmp_path: Path) -> None:
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    lines = TWICE.splitlines()
    lines[2] = lines[2].replace("inner_product_param", f"{inline(square, (3, 3))} inner_product_param")
    lines[3] = lines[3].replace("inner_product_param", f"{inline(square + 50, (3, 3))} inner_product_param")
    path = tmp_path / "net.prototxt"
    path.write_text("\n".join(lines))
    first, second = cp.load(path).layers[1:]
    assert first.weights[0].data is not None and np.array_equal(first.weights[0].data, square)
    assert second.weights[0].data is not None and np.array_equal(second.weights[0].data, square + 50)


# Memory


def test_weights_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    net = cp.load(definition, weights)
    saved = wire.read(weights)
    assert np.array_equal(data(net, "conv1"), saved.blobs[1][0].data.reshape(4, 3, 3, 3))
    for weight in net.weights():
        assert weight.data is not None and not weight.data.flags.writeable and not weight.data.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            weight.data[...] = 0


def test_no_weight_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net's arrays are the very memory that `wire.read` gave out."""
    definition, weights = write_model(tmp_path)
    reads: list[wire.WeightFile] = []

    def read(path: Any, **options: Any) -> wire.WeightFile:
        reads.append(original(path, **options))
        return reads[-1]

    original = wire.read
    monkeypatch.setattr(wire, "read", read)
    net = cp.load(definition, weights)
    (saved,) = reads
    given = [entry.data for layer in saved.blobs for entry in layer]
    taken = [weight.data for weight in net.weights()]
    assert len(given) == len(taken) == 4
    for mine, theirs in zip(taken, given, strict=True):
        assert mine is not None and np.shares_memory(mine, theirs)
    # Other shapes of the input, another copy of the net: still no copy of a weight.
    other = net.with_input_shapes({"data": (5, 3, 8, 7)})
    assert all(a.data is b.data for a, b in zip(net.weights(), other.weights(), strict=True))


def test_a_loaded_net_computes_what_the_weights_say(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    net, by_hand = cp.load(definition, weights), filled(CONV_NET)
    x = inputs_of(net)
    assert np.array_equal(cp.run(net, x)["prob"], cp.run(by_hand, x)["prob"])


def test_the_same_bits() -> None:
    """-0 is not 0, one NaN is not another, and a value is not that of another precision."""
    a = np.array([[0.0, 1.5], [np.nan, -2.0]], np.float32)
    assert same_bits(a, a.reshape(-1)) and same_bits(a.T, np.ascontiguousarray(a.T))
    other_nan = a.copy()
    other_nan.view(np.uint32)[1, 0] ^= 1
    for b in (a * np.float32(-1), other_nan, np.nextafter(a, np.float32(9)), a.astype(np.float64), a[:1]):
        assert not same_bits(a, b)

"""The forms of ONNX that are deployed: 16-bit weights, int8, other opsets, external data, ORT format, OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from cases import all_cases, assert_agrees, load_case, run_onnx
from numpy.typing import NDArray

import caffe_port as cp
from caffe_port.converters.to_onnx import OPSET, quantize, to_onnx, value_names
from caffe_port.converters.to_onnx.files import run_openvino, run_ort, write_onnx, write_openvino, write_ort
from caffe_port.converters.to_onnx.half import to_half
from caffe_port.converters.to_onnx.opset import NEWEST_OPSET, OLDEST_OPSET, RULES, at_opset
from caffe_port.errors import ArtifactError, GraphError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def net() -> cp.Net:
    return small.filled(small.CONV_NET)


@pytest.fixture(scope="module")
def model(net: cp.Net) -> Any:
    return to_onnx(net)


def largest_error(model: Any, reference: Any, inputs: Arrays) -> float:
    got, want = run_onnx(model, inputs), run_onnx(reference, inputs)
    assert list(got) == list(want)
    assert all(value.dtype == want[name].dtype for name, value in got.items())
    return max(float(np.abs(got[name] - want[name]).max()) for name in want)


def signature(model: Any) -> list[Any]:
    """What a user of the model sees of it, besides its values."""
    return [*model.graph.input, *model.graph.output, *model.metadata_props, model.producer_name, model.producer_version]


# Opsets


@pytest.mark.parametrize("opset", [OLDEST_OPSET, 13, 15, 18, 21, NEWEST_OPSET])
def test_recorded_layers_agree_at_other_opsets(opset: int) -> None:
    """The first recorded case of every layer type; which types have rules of their own is in `RULES`."""
    seen: set[str] = set()
    rewritten: set[str] = set()
    for name, case in sorted(all_cases().items()):
        if case.rejected or name.rsplit("_", 1)[0] in seen:
            continue
        net = load_case(case)
        model = to_onnx(net)
        seen.add(name.rsplit("_", 1)[0])
        made = at_opset(model, opset)
        assert signature(made) == signature(model)
        assert [entry.version for entry in made.opset_import] == [opset]
        outputs = run_onnx(made, case.inputs)
        names = value_names(net)
        for blob in net.output_blobs:
            assert_agrees(outputs[names[blob]], case.outputs[blob.name], f"{name}: {blob.name}", 2e-5)
        rewritten |= {node.op_type for node in model.graph.node if node.op_type in RULES}
    assert len(seen) > 40
    assert {"Reshape", "ReduceSum", "Squeeze", "Unsqueeze", "Split", "Shape", "Softmax"} <= rewritten


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_softmax_below_13_keeps_its_axis(axis: int) -> None:
    """onnx's own converter keeps the attribute, which then means another function."""
    text = small.one_input(2, 3, 4) + (
        f'layer {{ name: "s" type: "Softmax" bottom: "x" top: "s" softmax_param {{ axis: {axis} }} }}'
    )
    net = small.filled(text)
    model = to_onnx(net)
    assert largest_error(at_opset(model, 11), model, small.inputs_of(net)) <= 1e-7


def test_ir_version_suits_the_opset(model: Any) -> None:
    assert [at_opset(model, opset).ir_version for opset in (11, 13, 15, 17, 21)] == [6, 7, 8, 8, 10]
    assert at_opset(model, OPSET).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("opset", [OLDEST_OPSET - 1, NEWEST_OPSET + 1, 0])
def test_opsets_out_of_range_are_refused(model: Any, opset: int) -> None:
    with pytest.raises(ArtifactError, match=f"opset {opset} cannot be written: {OLDEST_OPSET} to {NEWEST_OPSET} can"):
        at_opset(model, opset)


def test_what_an_opset_cannot_express_is_named() -> None:
    """All of it at once: a Dropout that drops, and an operator nobody here has looked at."""
    text = small.one_input(2, 3) + 'layer { name: "d" type: "Dropout" bottom: "x" top: "d" }'
    model = to_onnx(small.filled(text, phase="TRAIN"))
    model.graph.node.append(onnx.helper.make_node("HardSwish", ["d"], ["h"], name="swish"))
    model.graph.node.append(onnx.helper.make_node("Trilu", ["h"], ["t"], name="triangle"))
    with pytest.raises(ArtifactError) as caught:
        at_opset(model, 11)
    assert "node 'd/Dropout' (Dropout) cannot be at opset 11" in str(caught.value)
    assert "node 'swish' (HardSwish) cannot be at opset 11: it is not there yet" in str(caught.value)
    assert "node 'triangle' (Trilu)" in str(caught.value)
    assert [entry.version for entry in at_opset(to_onnx(small.filled(text, phase="TRAIN")), 12).opset_import] == [12]


def test_computed_axes_are_no_attribute(model: Any) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node.append(onnx.helper.make_node("Shape", ["prob"], ["dims"], name="dims"))
    changed.graph.node.append(onnx.helper.make_node("Squeeze", ["prob", "dims"], ["y"], name="squeeze"))
    with pytest.raises(ArtifactError, match=r"'squeeze'.*'dims' is computed"):
        at_opset(changed, 12)


# Weights of 16 bits


def test_half_weights(net: cp.Net, model: Any) -> None:
    """fc.weight is 240 of 361 values; what is together below 2 % of them stays float32."""
    made = to_half(model)
    onnx.checker.check_model(made, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types["fc.weight:stored"] == types["conv1.weight:stored"] == onnx.TensorProto.FLOAT16
    assert types["conv1.bias"] == onnx.TensorProto.FLOAT
    assert signature(made) == signature(model)
    # A value is off by at most 2^-11 of itself; the softmax of sums of up to 240 of them by less than this.
    assert 0 < largest_error(made, model, small.inputs_of(net)) <= 2e-3


GROUPED_NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 6 dim: 9 dim: 9 } } }
layer { name: "grouped" type: "Convolution" bottom: "x" top: "grouped"
        convolution_param { num_output: 8 kernel_size: 3 group: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "grouped" top: "fc" inner_product_param { num_output: 5 } }
"""


def test_the_mean_error_of_rounded_weights_is_taken_out_of_the_biases() -> None:
    """Of inputs far from 0, whose mean is most of them; in a grouped Conv and a Gemm."""
    net = small.filled(GROUPED_NET)
    model = to_onnx(net)
    rng = np.random.default_rng(0)
    inputs = [{"x": (rng.standard_normal((1, 6, 9, 9)) * 0.1 + 5).astype(np.float32)} for _ in range(3)]
    plain, corrected = to_half(model), to_half(model, calibration=inputs)
    onnx.checker.check_model(corrected, full_check=True)
    for feeds in inputs:
        assert 0 < largest_error(corrected, model, feeds) < largest_error(plain, model, feeds) / 3


def test_half_activations(net: cp.Net, model: Any) -> None:
    made = to_half(model, activations=True)
    onnx.checker.check_model(made, full_check=True)
    assert signature(made)[2:] == signature(model)[2:]
    assert [value.name for value in (*made.graph.input, *made.graph.output)] == ["data", "prob"]
    casts = {node.output[0] for node in made.graph.node if node.op_type == "Cast"}
    (softmax,) = (node for node in made.graph.node if node.op_type == "Softmax")
    assert softmax.input[0] in casts
    assert 0 < largest_error(made, model, small.inputs_of(net)) <= 5e-3


@pytest.mark.parametrize("activations", [False, True])
def test_an_input_that_is_given_out_as_it_comes(activations: bool) -> None:
    net = small.filled(small.CONV_NET + small.one_input(2, name="q"))
    model = to_onnx(net, batch=2)
    made = to_half(model, activations=activations)
    assert signature(made) == signature(model)
    inputs = {
        name: np.random.default_rng(1).random(shape).astype(np.float32) for name, shape in net.input_shapes.items()
    }
    inputs["q"] += 1e-4  # nothing that float16 could hold
    assert np.array_equal(run_onnx(made, inputs)["q"], inputs["q"])
    assert largest_error(made, model, inputs) < 0.01


@pytest.mark.parametrize("activations", [False, True])
def test_values_beyond_float16_are_named(net: cp.Net, activations: bool) -> None:
    weights = small.weights_of(net)
    weights["fc"][0][1, 2] = -70000.0
    weights["conv1"][0][0, 0, 0, 0] = 65519.0  # rounds to 65504, the largest there is
    large = to_onnx(net.with_weights(weights))
    with pytest.raises(ArtifactError, match=r"constant 'fc.weight' of fc/Gemm has values up to 70000; .* 65504"):
        to_half(large, activations=activations)
    weights["fc"][0][1, 2] = 0
    to_half(to_onnx(net.with_weights(weights)), activations=activations)


# Files


def test_external_data(net: cp.Net, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file where it fits, two where it does not, the same values, the same bytes each time."""
    from caffe_port.converters.to_onnx import files

    monkeypatch.setattr(files, "EXTERNAL_FROM", 64)
    size = model.ByteSize()
    one = tmp_path / "one.onnx"
    assert write_onnx(model, one, largest=size) == [one]
    with pytest.raises(ArtifactError, match="larger than the 100 bytes"):
        write_onnx(model, one, external_data=False, largest=100)
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        path = folder / "two.onnx"
        assert write_onnx(model, path, largest=size - 1) == [path, folder / "two.onnx.data"]
        made.append([file.read_bytes() for file in sorted(folder.iterdir())])
        assert sorted(file.name for file in folder.iterdir()) == ["two.onnx", "two.onnx.data"]
    assert made[0] == made[1]
    loaded = onnx.load(tmp_path / "a" / "two.onnx")
    assert all(
        np.array_equal(onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b))
        for a, b in zip(loaded.graph.initializer, model.graph.initializer, strict=True)
    )
    places = onnx.load(tmp_path / "a" / "two.onnx", load_external_data=False).graph.initializer
    outside = [tensor for tensor in places if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert [tensor.name for tensor in outside] == ["conv1.weight", "fc.weight"]
    assert [int(entry.value) for tensor in outside for entry in tensor.external_data if entry.key == "offset"] == [
        0,
        files.ALIGNMENT,
    ]
    inputs = small.inputs_of(net)
    results = [run_ort(path, inputs)["prob"] for path in (one, tmp_path / "a" / "two.onnx")]
    assert np.array_equal(results[0], results[1])
    onnx.checker.check_model(str(tmp_path / "a" / "two.onnx"), full_check=True)
    assert len(write_onnx(model, one, external_data=True)) == 2


def test_external_data_leaves_nothing_half_written(model: Any, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_onnx(model, tmp_path / "x.onnx", external_data=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_onnx(model, tmp_path / "absent" / "x.onnx")


def test_ort_format(net: cp.Net, model: Any, tmp_path: Path) -> None:
    (source,) = write_onnx(model, tmp_path / "m.onnx")
    made = tmp_path / "m.ort"
    assert write_ort(source, made) == [made]
    assert made.read_bytes()[4:8] == b"ORTM"
    inputs = {"data": np.concatenate([small.inputs_of(net)["data"]] * 2)}
    got = run_ort(made, inputs)
    assert list(got) == ["prob"]
    assert np.abs(got["prob"] - run_ort(source, inputs)["prob"]).max() <= 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.ort"]


def test_openvino(net: cp.Net, model: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (source,) = write_onnx(model, tmp_path / "m.onnx")
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "m.xml"
        assert write_openvino(source, path) == [path, path.with_suffix(".bin")]
        made.append([file.read_bytes() for file in sorted(path.parent.iterdir())])
    assert len(made[0]) == 2
    assert made[0] == made[1]
    for batch in (1, 3):
        inputs = {"data": np.concatenate([small.inputs_of(net)["data"]] * batch)}
        got = run_openvino(tmp_path / "a" / "m.xml", inputs)
        assert list(got) == ["prob"]
        assert np.abs(got["prob"] - run_ort(source, inputs)["prob"]).max() <= 1e-6


def test_what_a_runtime_does_not_take(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x08junk")
    with pytest.raises(ArtifactError, match=r"broken.onnx: onnxruntime does not take the model"):
        write_ort(broken, tmp_path / "m.ort")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_ort(broken, tmp_path / "absent" / "m.ort")
    if pytest.importorskip("openvino"):
        with pytest.raises(ArtifactError, match=r"broken.onnx: OpenVINO does not take the model"):
            write_openvino(broken, tmp_path / "m.xml")
        with pytest.raises(ArtifactError, match=r"cannot end in \.bin"):
            write_openvino(broken, tmp_path / "m.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]


# int8


def calibration(net: cp.Net, count: int = 12) -> list[Arrays]:
    return [{name: value[:1] for name, value in small.inputs_of(net, seed).items()} for seed in range(count)]


def test_int8(net: cp.Net, model: Any) -> None:
    """Every node int8, the result within what 256 levels leave, the batch as open as it was."""
    inputs = calibration(net)
    result = quantize.quantize(model, inputs)
    onnx.checker.check_model(result.model, full_check=True)
    assert signature(result.model) == signature(model)
    assert (result.quantized, result.float_nodes) == (("conv1/Conv", "fc/Gemm"), ())
    assert result.error == result.full_error
    types = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    assert types["conv1.weight_quantized"] == types["fc.weight_quantized"] == onnx.TensorProto.INT8
    largest = max(largest_error(result.model, model, feeds) for feeds in inputs)
    scale = max(float(np.abs(run_onnx(model, feeds)["prob"]).max()) for feeds in inputs)
    assert result.error.largest == pytest.approx(largest / scale, rel=0.2, abs=1e-4)
    assert 0 < result.error.mean < result.error.largest < 0.1
    fresh = {"data": np.concatenate([small.inputs_of(net, 99)["data"]] * 3)}
    assert largest_error(result.model, model, fresh) < 0.1


def test_int8_is_the_same_each_time(net: cp.Net, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing in the folder of temporary files."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = model.SerializeToString()
    made = [quantize.quantize(model, calibration(net)).model.SerializeToString(deterministic=True) for _ in range(2)]
    assert made[0] == made[1]
    assert model.SerializeToString() == before
    assert not list(tmp_path.iterdir())


def test_biases_take_in_what_quantizing_shifts(net: cp.Net, model: Any) -> None:
    """Channel by channel the mean over the calibration is the float model's."""
    inputs = calibration(net)
    work = quantize._Workbench(model, inputs, inputs, reduce_range=False)

    def shift(made: Any) -> float:
        opened = onnx.ModelProto()
        opened.CopyFrom(made)
        (conv,) = (node for node in opened.graph.node if node.op_type == "Conv")
        opened.graph.output.append(onnx.ValueInfoProto(name=conv.output[0]))
        means = [quantize._channel_mean(run_onnx(opened, feeds)[conv.output[0]]) for feeds in inputs]
        return float(np.abs(np.mean(means, axis=0) - work.means["conv1/Conv"]).max())

    # The biases' own step is that of the input times that of the weights.
    assert shift(work.corrected(())) < 2e-4 < shift(work.written(()))


@pytest.mark.parametrize("which", ["conv1/Conv", "fc/Gemm"])
def test_nodes_asked_for_stay_float(net: cp.Net, model: Any, which: str) -> None:
    result = quantize.quantize(model, calibration(net), float_nodes=[which])
    assert result.float_nodes == (which,)
    types = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    assert types[f"{which.split('/')[0]}.weight"] == onnx.TensorProto.FLOAT


def uneven() -> tuple[cp.Net, list[Arrays]]:
    """fc1's first input is a thousand times the others, and counts as much as they do by its small weights."""
    text = small.one_input(1, 8) + (
        'layer { name: "fc1" type: "InnerProduct" bottom: "x" top: "fc1" inner_product_param { num_output: 6 } }'
        'layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }'
        'layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" inner_product_param { num_output: 3 } }'
    )
    net = small.built(text)
    weights = small.weights_of(net)
    weights["fc1"][0][:, 0] /= 1000
    net = net.with_weights(weights)
    inputs = calibration(net, 24)
    for feeds in inputs:
        feeds["x"][:, 0] *= 1000
    return net, inputs


def test_a_budget_leaves_what_is_sensitive_in_float() -> None:
    net, inputs = uneven()
    model = to_onnx(net)
    free = quantize.quantize(model, inputs)
    assert free.error.largest > 0.1
    bound = quantize.quantize(model, inputs, budget=0.05)
    assert bound.full_error == free.error
    assert (bound.quantized, bound.float_nodes) == (("fc2/Gemm",), ("fc1/Gemm",))
    assert bound.tried["fc1/Gemm"] == bound.error.largest <= 0.05 < 0.1 < bound.tried["fc2/Gemm"]
    other = quantize.quantize(model, inputs, budget=1.5)
    assert (other.float_nodes, other.tried) == ((), {})
    checked = quantize.quantize(model, inputs, check=inputs[:1])
    assert checked.error.largest < free.error.largest


def test_a_budget_that_cannot_be_met() -> None:
    net, inputs = uneven()
    with pytest.raises(ArtifactError, match=r"cannot be within 1e-09 .* with 1 of 2 nodes in float"):
        quantize.quantize(to_onnx(net), inputs, budget=1e-9)


def test_the_best_range_clips_what_is_rare() -> None:
    counts = np.zeros(1000, np.int64)
    counts[500:600] = 10_000  # 0 to 20 of -100 to 100
    counts[999] = 1
    low, high = quantize.best_range(counts, -100.0, 100.0)
    assert low == -20.0
    assert 20 <= high < 100
    assert quantize.best_range(np.full(1000, 7), 0.0, 1.0) == (0.0, 1.0)


def test_int8_of_what_has_none() -> None:
    net = small.filled(small.one_input(2, 3) + 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }')
    with pytest.raises(GraphError, match="no Conv, Gemm, MatMul with constant weights"):
        quantize.quantize(to_onnx(net), calibration(net))


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], {}, "needs inputs"),
        ([{"wrong": np.zeros(1, np.float32)}], {}, r"has \['wrong'\]; the model takes \['data'\]"),
        (None, {"check": []}, "needs inputs"),
        (None, {"budget": 0.0}, "above 0"),
        (None, {"float_nodes": ["nobody"]}, "is named nobody"),
        (None, {"float_nodes": ["conv1/Conv", "fc/Gemm"]}, "every node"),
    ],
)
def test_what_int8_refuses(
    net: cp.Net, model: Any, inputs: Sequence[Arrays] | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        quantize.quantize(model, calibration(net) if inputs is None else inputs, **options)


def test_values_that_are_not_finite_are_refused(net: cp.Net, model: Any) -> None:
    bad = calibration(net, 2)
    bad[1]["data"][0, 0, 0, 0] = np.nan
    with pytest.raises(GraphError, match="'data' is not finite"):
        quantize.quantize(model, bad)


def test_int8_below_opset_13_is_refused(net: cp.Net, model: Any) -> None:
    with pytest.raises(GraphError, match="needs opset 13"):
        quantize.quantize(at_opset(model, 12), calibration(net))

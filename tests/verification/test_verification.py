"""Verification must pass what Caffe computed, and fail everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fill
import numpy as np
import pytest
from places import REFERENCE

import caffe_port as cp
from caffe_port import recording
from caffe_port.backends import BACKENDS, NumpyBackend, make_backend
from caffe_port.errors import ParityError, RecordingError, ShapeError
from caffe_port.layers import pooling
from caffe_port.layers.base import Array
from caffe_port.net import Layer, Net
from caffe_port.recording import RecordedLayer, Recording
from caffe_port.verification import Reference, verify, verify_isolated

NETS = REFERENCE / "nets"


def with_filled_weights(net: Net) -> Net:
    return net.with_weights(
        {
            layer.name: [fill.fill(layer.name, layer.type, i, w.shape) for i, w in enumerate(layer.weights)]
            for layer in net.layers
            if layer.weights
        }
    )


@pytest.fixture(scope="module")
def ms_ctc() -> tuple[Net, Recording, dict[str, Array]]:
    """The one recorded net whose prototxt is the project's own: 42 layers, ceil pooling, a Concat."""
    net = with_filled_weights(cp.load(NETS / "ms_ctc.prototxt"))
    inputs = {name: fill.input_data(name, shape) for name, shape in net.input_shapes.items()}
    return net, recording.read(NETS / "ms_ctc.npz"), inputs


@pytest.fixture(scope="module")
def reference(ms_ctc: tuple[Net, Recording, dict[str, Array]]) -> Reference:
    return Reference.make(*ms_ctc)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_agrees_with_caffe(reference: Reference, backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    report = reference.compare(make_backend(backend))
    assert report.ok, report.explanation()
    assert len(report.comparisons) == 42
    assert report.worst is not None
    # An agreement that needs the whole bound would be one by luck.
    assert report.worst.of_bound < 1


def perturbed_weight(net: Net, layer: str) -> Net:
    """The net with one of a layer's weights times 1.001: one of the larger ones of its first output channel."""
    weights = [np.array(weight.data) for weight in net.layer(layer).weights]
    row = weights[0][0].reshape(-1)
    at = np.argsort(np.abs(row))[row.size * 3 // 4]
    if layer.startswith("fc"):
        # Half of the inputs of a fully connected layer are 0 behind its ReLU: one that is not.
        inputs = fill.input_data("data", (1, 3, 224, 224))
        bottom = net.layer(layer).bottoms[0].name
        row_input = cp.run(net, {"data": inputs}, outputs=[bottom])[bottom].reshape(-1)
        at = np.argmax(np.abs(row * row_input))
    row[at] *= np.float32(1.001)
    return net.with_weights({layer: weights}, partial=True)


def swapped_channels(net: Net, layer: str) -> Net:
    weights = [np.array(weight.data) for weight in net.layer(layer).weights]
    for array in weights:
        array[[0, 1]] = array[[1, 0]]
    return net.with_weights({layer: weights}, partial=True)


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnxruntime"])
@pytest.mark.parametrize(
    ("mutate", "layer"),
    [(perturbed_weight, "conv1"), (perturbed_weight, "conv6"), (perturbed_weight, "fc14"), (swapped_channels, "conv5"),
     (swapped_channels, "fc14")],
)  # fmt: skip
def test_a_wrong_backend_is_caught(
    reference: Reference, backend: str, mutate: Callable[[Net, str], Net], layer: str
) -> None:
    """Backend and reference disagree: the converted net has another weight than the one that was proven."""
    if backend == "torch":
        pytest.importorskip("torch")
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    mutated = mutate(reference.net, layer)

    class Mutated:
        name = "mutated"
        outputs_only = False

        def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
            by_name = {layer.name: layer for layer in net.layers}
            for layer, tops in make_backend(backend).trace(mutated, inputs):
                yield by_name[layer.name], tops

    report = reference.compare(Mutated())
    assert not report.ok
    first = report.first_divergence
    assert first is not None
    # A single weight may first be seen behind the layer it is in: only some of the blob's values are recorded.
    assert first.index >= net_index(reference.net, layer)
    if mutate is swapped_channels:
        assert first.layer == layer
        assert not first.inputs_diverged


def net_index(net: Net, layer: str) -> int:
    return net.layer(layer).index


@pytest.mark.parametrize("layer", ["conv1", "conv6", "fc12", "fc14"])
@pytest.mark.parametrize("backend", ["numpy", "numpy64"])
def test_a_wrong_net_is_caught_even_if_the_floor_is_measured_with_it(
    ms_ctc: tuple[Net, Recording, dict[str, Array]], layer: str, backend: str
) -> None:
    """The net is wrong, and with it the float64 run: the recording is then further off than rounding explains."""
    net, recorded, inputs = ms_ctc
    report = verify(perturbed_weight(net, layer), recorded, backend, inputs=inputs)
    assert not report.ok
    assert report.first_divergence is not None
    assert report.first_divergence.index >= net_index(net, layer)


def test_floor_instead_of_ceil_is_caught(
    tmp_path: Path, ms_ctc: tuple[Net, Recording, dict[str, Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AlexNet's pool1 on 56 rows: 3x3, stride 2, is 28 with ceil and 27 with floor."""
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 56 dim: 58 } } }
    layer { name: "pool" type: "Pooling" bottom: "x" top: "y" pooling_param { kernel_size: 3 stride: 2 } }
    """
    file = tmp_path / "pool.prototxt"
    file.write_text(text)
    net = cp.load(file)
    x = np.random.default_rng(1).standard_normal((2, 3, 56, 58)).astype(np.float32)
    # A recording by hand: every window's maximum, windows starting at 0, 2, …, 54, the last one cut off.
    y = np.stack([[x[..., i : i + 3, j : j + 3].max(axis=(2, 3)) for j in range(0, 57, 2)] for i in range(0, 55, 2)])
    y = y.transpose(2, 3, 0, 1)
    assert y.shape == (2, 3, 28, 29)
    recorded = one_layer_recording("pool", "Pooling", {"x": x}, "y", y)
    for backend in BACKENDS:
        assert verify(net, recorded, backend).ok
    definition = net.layer("pool").definition
    assert isinstance(definition, pooling.Pooling)
    floored = cp.load(file)
    wrong = dataclasses.replace(definition, round_mode="FLOOR")
    floored = dataclasses.replace(
        floored, layers=(floored.layers[0], dataclasses.replace(floored.layers[1], definition=wrong))
    ).with_input_shapes({"x": x.shape})
    report = verify(floored, recorded, "numpy")
    assert not report.ok
    assert "shape 2x3x27x28, Caffe has 2x3x28x29" in report.explanation()


def one_layer_recording(name: str, kind: str, inputs: dict[str, Array], top: str, value: Array) -> Recording:
    value = value.astype(np.float32)
    indices = recording.sample_indices(value.size, 256)
    exact = value.astype(np.float64)
    stats = np.array([exact.min(), exact.max(), exact.mean(), np.sqrt((exact**2).sum())])
    return Recording(
        layers=[RecordedLayer(1, name, kind, top, value.shape, value.reshape(-1)[indices], stats)],
        inputs=inputs,
        input_shapes={key: array.shape for key, array in inputs.items()},
        finals={top: value},
        input_names=tuple(inputs),
        output_names=(top,),
        limit=256,
        source="by hand",
    )


def batch_norm_case(tmp_path: Path) -> tuple[Net, Recording]:
    """BatchNorm with a factor of 2, worked out by hand: y = (x - m/2) / sqrt(v/2 + eps)."""
    file = tmp_path / "bn.prototxt"
    file.write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 5 dim: 2 } } }'
        'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" }'
    )
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 3, 5, 2)).astype(np.float32)
    mean, variance = np.float32([0.5, -1.0, 2.0]), np.float32([1.0, 2.0, 0.5])
    net = cp.load(file).with_weights({"bn": [mean * 2, variance * 2, np.float32([2.0])]})
    y = (x - mean[:, None, None]) / np.sqrt(variance + np.float32(1e-5))[:, None, None]
    return net, one_layer_recording("bn", "BatchNorm", {"x": x}, "y", y)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignoring_the_factor_of_batch_norm_is_caught(tmp_path: Path, backend: str) -> None:
    net, recorded = batch_norm_case(tmp_path)
    assert verify(net, recorded, backend).ok
    mean, variance, _ = (np.array(weight.data) for weight in net.layer("bn").weights)
    ignoring = net.with_weights({"bn": [mean, variance, np.float32([1.0])]})
    report = verify(ignoring, recorded, backend)
    assert not report.ok
    assert "bn" in report.explanation()


def test_a_dropped_layer_is_caught(tmp_path: Path, ms_ctc: tuple[Net, Recording, dict[str, Array]]) -> None:
    text = (NETS / "ms_ctc.prototxt").read_text()
    line = 'layer { name: "relu_conv7" type: "ReLU" bottom: "conv7" top: "conv7" }\n'
    assert line in text
    file = tmp_path / "dropped.prototxt"
    file.write_text(text.replace(line, ""))
    _, recorded, inputs = ms_ctc
    report = verify(with_filled_weights(cp.load(file)), recorded, "numpy", inputs=inputs)
    assert not report.ok
    assert report.missing == ("relu_conv7 (ReLU):conv7",)
    with pytest.raises(ParityError, match="relu_conv7"):
        report.raise_if_failed()


def test_an_extra_layer_is_caught(tmp_path: Path, ms_ctc: tuple[Net, Recording, dict[str, Array]]) -> None:
    file = tmp_path / "extra.prototxt"
    file.write_text(
        (NETS / "ms_ctc.prototxt").read_text() + 'layer { name: "more" type: "ReLU" bottom: "prob" top: "more" }'
    )
    _, recorded, inputs = ms_ctc
    report = verify(with_filled_weights(cp.load(file)), recorded, "numpy", inputs=inputs)
    assert not report.ok
    assert report.extra == ("more (ReLU):more",)


def test_a_backend_that_computes_nothing_fails(reference: Reference) -> None:
    class Silent:
        name = "silent"
        outputs_only = False

        def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
            return iter(())

    report = reference.compare(Silent())
    assert not report.ok
    assert "nothing was compared" in report.explanation()
    assert len(report.missing) == 42


def test_nan_fails_wherever_it_is(reference: Reference) -> None:
    class Spoiled:
        name = "spoiled"
        outputs_only = False

        def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
            for layer, tops in NumpyBackend().trace(net, inputs):
                if layer.name == "pool2":
                    tops = (tops[0].copy(),)
                    # No sampled place: the statistics over all values see it.
                    tops[0].reshape(-1)[1] = np.nan
                yield layer, tops

    report = reference.compare(Spoiled())
    assert [failure.layer for failure in report.failures()] == ["pool2"]
    assert "NaN" in report.explanation()


def test_inputs_that_had_diverged_are_named(reference: Reference) -> None:
    class Off:
        name = "off"
        outputs_only = False

        def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
            moved = {name: array * np.float32(1.01) for name, array in inputs.items()}
            return NumpyBackend().trace(net, moved)

    report = reference.compare(Off())
    failures = list(report.failures())
    assert failures[0].layer == "conv1"
    assert failures[0].inputs_diverged == ()
    assert failures[1].inputs_diverged == ("conv1",)


def test_each_layer_alone_from_recorded_inputs(tmp_path: Path) -> None:
    net, recorded = batch_norm_case(tmp_path)
    for backend in BACKENDS:
        report = verify_isolated(net, recorded, backend)
        assert report.ok, report.explanation()
        assert [comparison.layer for comparison in report.comparisons] == ["bn"]


def test_isolated_with_nothing_recorded_in_full_fails(ms_ctc: tuple[Net, Recording, dict[str, Array]]) -> None:
    net, recorded, _ = ms_ctc
    # Only samples were recorded, and none of the blobs is as small as that.
    cut = dataclasses.replace(recorded, layers=[entry for entry in recorded.layers if not entry.full])
    report = verify_isolated(net, cut)
    assert not report.ok


def test_recordings_of_other_inputs_are_refused(ms_ctc: tuple[Net, Recording, dict[str, Array]]) -> None:
    net, recorded, inputs = ms_ctc
    with pytest.raises(RecordingError, match="data"):
        Reference.make(net, recorded)
    with pytest.raises(ShapeError):
        Reference.make(net, recorded, {"data": np.zeros((2, 3, 224, 224), np.float32)})
    other = {"data": inputs["data"][:, ::-1].copy()}
    report = verify(net, recorded, "numpy", inputs=other)
    assert not report.ok
    assert report.first_divergence is not None
    assert report.first_divergence.layer == "conv1"

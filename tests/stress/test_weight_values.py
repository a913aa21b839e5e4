"""Weights that are no finite numbers, or hardly any: what loading says of them, and what is done with them then."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import CONV_NET, blob, built, inputs_of, one_input, weights_of, write_caffemodel, write_model

import caffe_port as cp
from caffe_port import cli
from caffe_port.certificate import Certificate
from caffe_port.errors import DataError, WeightsError, WeightValuesError
from caffe_port.loading import with_weight_file
from caffe_port.preprocessing import OPEN_NSFW, Manifest, read_manifest
from caffe_port.proto import wire
from caffe_port.scoring.mean import Mean
from caffe_port.verification import Reference, verify
from caffe_port.weight_values import BLOCK, SAMPLE, look_at

SHARED = f"""{one_input(2, 3)}
layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" param {{ name: "w" }} param {{ name: "b" }}
        inner_product_param {{ num_output: 3 }} }}
layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" param {{ name: "w" }} param {{ name: "b" }}
        inner_product_param {{ num_output: 3 }} }}
"""


def spoiled(folder: Path, changes: dict[tuple[str, int, int], float]) -> tuple[Path, Path]:
    """CONV_NET with weights, of which some are others: by layer, blob and index."""
    definition, weights = write_model(folder)
    values = weights_of(built(CONV_NET))
    for (layer, index, at), value in changes.items():
        values[layer][index].reshape(-1)[at] = value
    return definition, write_caffemodel(weights, CONV_NET, values)


THREE = {
    ("conv1", 0, 30): np.nan,
    ("conv1", 0, 40): np.inf,
    ("conv1", 0, 41): np.nan,
    ("conv1", 1, 2): -np.inf,
    ("fc", 1, 4): np.nan,
}
TOLD = [
    "layer 'conv1': learned blob 0 (4x3x3x3) has values that are not finite: 2 NaN, 1 inf, the first at [1, 0, 1, 0]",
    "layer 'conv1': learned blob 1 (4) has values that are not finite: 1 -inf, the first at [2]",
    "layer 'fc': learned blob 1 (5) has values that are not finite: 1 NaN, the first at [4]",
]


def test_every_blob_that_is_not_finite_is_named_and_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightValuesError) as caught:
        cp.load(*spoiled(tmp_path, THREE))
    problems = [str(problem) for problem in caught.value.problems]
    assert [text.partition(" (a damaged file")[0] for text in problems] == TOLD
    assert all("allow_non_finite=True, --allow-non-finite" in text for text in problems)
    assert isinstance(caught.value, WeightsError)


def test_where_that_is_allowed_they_are_notes(tmp_path: Path) -> None:
    net = cp.load(*spoiled(tmp_path, THREE), allow_non_finite=True)
    assert [str(note) for note in net.notes] == TOLD
    stored = net.layer("conv1").weights[0].data
    assert stored is not None
    assert np.isnan(stored.reshape(-1)[[30, 41]]).all()
    assert json.loads(Certificate(net, (), (), ()).dumps())["net"]["notes"] == TOLD


def test_a_blob_that_layers_share_is_told_once(tmp_path: Path) -> None:
    matrix, bias = np.eye(3, dtype=np.float32), np.array([0, np.nan, 0], np.float32)
    weights = write_caffemodel(tmp_path / "n.caffemodel", SHARED, {"a": [matrix, bias], "b": [matrix, bias]})
    definition = tmp_path / "n.prototxt"
    definition.write_text(SHARED)
    with pytest.raises(WeightValuesError, match=r"^layer 'a': learned blob 1 .* \[1\]") as caught:
        cp.load(definition, weights)
    assert len(caught.value.problems) == 1


def test_a_value_that_a_later_file_replaces_counts_for_nothing(tmp_path: Path) -> None:
    definition, bad = spoiled(tmp_path / "bad", THREE)
    _, good = write_model(tmp_path / "good")
    assert not cp.load(definition, [bad, good]).notes
    with pytest.raises(WeightValuesError):
        cp.load(definition, [good, bad])


def test_a_further_file_is_looked_at_alone(tmp_path: Path) -> None:
    definition, bad = spoiled(tmp_path / "bad", {("fc", 1, 0): np.nan})
    net = cp.load(definition, bad, allow_non_finite=True)
    head = 'layer { name: "conv1" type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 } }'
    conv = weights_of(built(CONV_NET))["conv1"]
    part = write_caffemodel(tmp_path / "part.caffemodel", head, {"conv1": conv})
    assert len(with_weight_file(net, part, allow_missing=True).notes) == 1  # of fc, told before
    conv[1][0] = np.inf
    with pytest.raises(WeightValuesError, match="layer 'conv1': learned blob 1"):
        with_weight_file(net, write_caffemodel(part, head, {"conv1": conv}), allow_missing=True)


@pytest.mark.parametrize(("value", "told"), [(1e300, "1 beyond float32"), (np.nan, "1 NaN"), (-np.inf, "1 -inf")])
def test_float64_weights_are_held_against_float32(tmp_path: Path, value: float, told: str) -> None:
    values: dict[str, Any] = {name: [blob(one) for one in own] for name, own in weights_of(built(CONV_NET)).items()}
    bias = np.array([1, 2, value, 4])
    values["conv1"][1] = wire.BlobData((4,), False, bias)
    definition, weights = write_model(tmp_path)
    write_caffemodel(weights, CONV_NET, values)
    with pytest.raises(WeightValuesError, match=rf"{told}, the first at \[2\]"):
        cp.load(definition, weights)
    bias[2] = 3.4e38
    assert not cp.load(definition, write_caffemodel(weights, CONV_NET, values)).notes


def test_weights_in_the_prototxt_are_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "inline.prototxt"
    bias = 'layer { name: "l" type: "Bias" bottom: "x" top: "y" blobs { shape { dim: 2 } data: 0 data: %s } }'
    file.write_text(one_input(1, 2) + bias % "nan")
    with pytest.raises(WeightValuesError, match="layer 'l': learned blob 0"):
        cp.load(file)
    file.write_text(one_input(1, 2) + bias % "1")
    cp.load(file)


def test_many_subnormal_weights_are_a_note(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    values = weights_of(built(CONV_NET))
    values["fc"][0][:2] = 1e-39
    assert [str(note) for note in cp.load(definition, write_caffemodel(weights, CONV_NET, values)).notes] == [
        "layer 'fc': 40% of learned blob 0 (5x48) is subnormal (nearer to 0 than 1.2e-38), which OpenVINO takes for 0 "
        "and other runtimes are slower with"
    ]
    values["fc"][0][:] = 0
    values["fc"][0][0, :10] = 1e-39
    assert not cp.load(definition, write_caffemodel(weights, CONV_NET, values)).notes


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_every_value_is_looked_at_wherever_blocks_end(size: int, dtype: str) -> None:
    values = np.ones(size, dtype)
    assert look_at(values).not_finite() == ""
    for at in {0, size // 2, size - 1} if size else set():
        values[at] = -np.inf
        found = look_at(values)
        assert (found.negative, found.nan, found.positive, found.first) == (1, 0, 0, (at,))
        values[at] = 1
    values[-1:] = np.nan
    values[:1] = np.inf
    assert look_at(values).nan + look_at(values).positive == min(2, size)


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4097])
def test_a_mapped_file_is_looked_at_as_it_lies_and_given_back(tmp_path: Path, offset: int) -> None:
    """Blobs lie anywhere in a file: nothing may need them aligned, and pages that others hold too stay right."""
    values = np.random.default_rng(0).standard_normal(3 * SAMPLE).astype(np.float32)
    values[7], values[-1] = np.nan, np.inf
    path = tmp_path / "values"
    path.write_bytes(bytes(offset) + values.tobytes() + b"behind")
    with path.open("rb") as stream:
        view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    mapped = np.frombuffer(view, "<f4", values.size, offset)
    found = look_at(mapped.reshape(3, -1))
    assert (found.nan, found.positive, found.first) == (1, 1, (0, 7))
    np.testing.assert_array_equal(mapped, values)
    assert bytes(view[-6:]) == b"behind"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mean_file_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    wire.write_blob(tmp_path / "mean.binaryproto", blob(np.array([1, value, 3]), (1, 3, 1, 1), legacy=True))
    np.save(tmp_path / "mean.npy", np.array([1, value, 3]))
    for name in ("mean.binaryproto", "mean.npy"):
        with pytest.raises(WeightsError, match=f"{name}: a mean has finite values only"):
            Mean.read(tmp_path / name)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_manifest_with_what_is_no_number_is_refused(tmp_path: Path, value: str) -> None:
    Manifest(OPEN_NSFW).write(tmp_path / "m.json")
    text = (tmp_path / "m.json").read_text()
    (tmp_path / "m.json").write_text(text.replace("104.0", value))
    assert value in (tmp_path / "m.json").read_text()
    with pytest.raises(DataError, match=r"m\.json"):
        read_manifest(tmp_path / "m.json")


# What comes of them


def test_nan_in_the_weights_fails_every_verification(tmp_path: Path) -> None:
    """Even where the reference has NaN in the same places: no value can be said to agree."""
    net = cp.load(*spoiled(tmp_path, {("fc", 1, 0): np.nan}), allow_non_finite=True)
    report = verify(net)
    assert [one.top for one in report.failures()] == ["fc", "prob"]
    assert "the reference has NaN" in report.explanation()


def test_infinite_weights_pass_where_they_do_the_same(tmp_path: Path) -> None:
    """A bias of -inf that a ReLU takes away: the blobs behind are numbers, and the infinities in front are equal."""
    net = cp.load(*spoiled(tmp_path, {("conv1", 1, 2): -np.inf}), allow_non_finite=True)
    for backend in ("numpy", "torch", "onnxruntime"):
        pytest.importorskip({"numpy": "numpy"}.get(backend, backend))
        report = verify(net, backend=backend)
        assert report.ok, report.explanation()


def test_a_number_is_no_infinity(tmp_path: Path) -> None:
    """Where the reference overflows, its floor is no measure of how far a backend may be."""
    net = cp.load(*spoiled(tmp_path, {("conv1", 1, 2): np.inf}), allow_non_finite=True)
    finite = cp.load(*write_model(tmp_path / "finite"))

    class Other:
        name, outputs_only = "another net", False

        def trace(self, net: cp.Net, inputs: Any) -> Any:
            from caffe_port.backends import NumpyBackend

            yield from NumpyBackend("float32").trace(finite, inputs)

    report = Reference.make(net, None, inputs_of(net)).compare(Other())
    first = report.first_divergence
    assert first is not None
    assert first.top == "conv1"
    assert "what is infinite must be so in both" in first.reason


def test_overflow_that_float64_does_not_have_fails() -> None:
    text = one_input(1, 4) + 'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { power: 3 } }'
    report = verify(built(text), inputs={"x": np.array([[1, 2, 3, 1e20]], np.float32)})
    assert not report.ok
    assert "value 3 of 4 sampled is inf" in report.explanation()


# The command


def test_the_command_refuses_and_allows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(path) for path in spoiled(tmp_path, {("fc", 1, 0): np.nan})]
    given = tmp_path / "x.npz"
    np.savez(given, **inputs_of(built(CONV_NET)))  # type: ignore[arg-type]
    out = tmp_path / "out"
    verbs = {
        "inspect": ["inspect", *files],
        "run": ["run", *files, "--input", str(given), "-o", str(tmp_path / "y.npz")],
        "verify": ["verify", *files, "--backend", "numpy"],
        "convert": ["convert", *files, "--to", "onnx", "-o", str(out), "--no-verify"],
        "dry run": ["convert", *files, "--to", "onnx", "--dry-run"],
    }
    for verb, words in verbs.items():
        assert cli.main(words) == 2, verb
        assert "learned blob 1 (5) has values that are not finite: 1 NaN" in "".join(capsys.readouterr()), verb
    assert not out.exists()
    for verb, words in verbs.items():
        code = cli.main([*words, "--allow-non-finite"])
        said = "".join(capsys.readouterr())
        assert code == (1 if verb == "verify" else 0), said
        assert "learned blob 1 (5) has values that are not finite" in said, verb
    assert "1 NaN" in next(out.glob("*.json")).read_text()


def test_a_state_dict_is_looked_at_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    definition, weights = write_model(tmp_path)
    state = cp.to_pytorch(cp.load(definition, weights)).state_dict()
    key = next(name for name in state if name.startswith("fc") and state[name].dim() == 1)
    state[key] = torch.full_like(state[key], float("nan"))
    save(state, tmp_path / "tuned.safetensors")
    words = ["convert", str(definition), str(weights), "--to", "caffemodel", "--no-verify", "-o", str(tmp_path / "out")]
    words += ["--state", str(tmp_path / "tuned.safetensors")]
    assert cli.main(words) == 2
    assert "layer 'fc': learned blob 1 (5) has values that are not finite: 5 NaN" in capsys.readouterr().err
    assert cli.main([*words, "--allow-non-finite"]) == 0
    assert "note: layer 'fc': learned blob 1" in capsys.readouterr().err

"""Files are verified as they are: whatever shape the outputs of a net take."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded import recorded_as
from small import CONV_NET, inputs_of, write_model

import caffe_port as cp
from caffe_port.artifacts.form import Form
from caffe_port.conversion import Conversion, convert
from caffe_port.errors import ArtifactError, GraphError, ParityError
from caffe_port.evidence import Evidence, generated_pictures
from caffe_port.net import Net
from caffe_port.preprocessing import Preprocessing
from caffe_port.sessions import make_session

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 8 } } }\n'

NETS = {
    "one top of a layer is an output, the other is used": """
        layer { name: "pool" type: "Pooling" bottom: "x" top: "y" top: "mask"
          pooling_param { kernel_size: 2 stride: 2 } }
        layer { name: "relu" type: "ReLU" bottom: "y" top: "z" }""",
    "the outputs are a Split's": """
        layer { name: "power" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
        layer { name: "split" type: "Split" bottom: "y" top: "a" top: "b" }""",
    "an output shares the memory of a blob overwritten in place": """
        layer { name: "power" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
        layer { name: "split" type: "Split" bottom: "y" top: "a" top: "b" }
        layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }""",
}


@pytest.mark.parametrize("what", sorted(NETS))
def test_every_kind_of_output_is_verified(what: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    file = tmp_path / "net.prototxt"
    file.write_text(INPUT + NETS[what])
    net = cp.load(file)
    done = convert(net, tmp_path / "out", "net")
    assert done.certificate.ok
    assert all(report.comparisons and not report.missing for report in done.certificate.reports)
    assert len(done.certificate.reports) == 6


# Forms and targets

PREPROCESSING = Preprocessing(resize=(8, 8), crop=(7, 7), mean=(1.0, 2.0, 3.0))

PICTURE_NET = CONV_NET.replace("dim: 8 dim: 7", "dim: 7 dim: 7")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Net:
    return cp.load(*write_model(tmp_path_factory.mktemp("model"), PICTURE_NET))


@pytest.fixture(autouse=True)
def needs_runtimes() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("fold", [False, True])
def test_every_target_at_once(model: Net, tmp_path: Path, fold: bool) -> None:
    targets = ["onnx", "ort", "pytorch", "pytorch-source", *([] if fold else ["caffemodel", "caffemodel-h5"])]
    evidence = Evidence([recorded_as(model, tmp_path / "recorded.npz")])
    done = convert(model, tmp_path / "out", "small", targets, form=Form(fold=fold), evidence=evidence)
    assert done.certificate.verdict == "verified against Caffe"
    stem = "small_folded" if fold else "small"
    suffixes = [".onnx", ".ort", ".pt2", ".safetensors", ".py", ".weights.safetensors"]
    suffixes += [] if fold else [".caffemodel", ".caffemodel.h5"]
    expected = {f"{stem}{suffix}" for suffix in (*suffixes, ".certificate.json", ".certificate.html")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == expected
    backends = {report.backend for report in done.certificate.reports}
    assert {"onnxruntime, its own format", "torch, the source as it is", "torch, the exported program"} <= backends


def test_the_same_twice_is_the_same_bytes(model: Net, tmp_path: Path) -> None:
    # Not ort: onnxruntime orders a table in it by chance.
    targets = ["onnx", "pytorch", "pytorch-source", "caffemodel", "caffemodel-h5"]
    for folder in ("a", "b"):
        convert(model, tmp_path / folder, "small", targets, command="caffe-port convert …")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    differing = [f for f in files if (tmp_path / "a" / f).read_bytes() != (tmp_path / "b" / f).read_bytes()]
    assert len(files) == 9 and differing == []


def test_no_file_holds_a_pickle_or_a_local_path(model: Net, tmp_path: Path) -> None:
    done = convert(model, tmp_path / "out", "small", ["onnx", "pytorch", "pytorch-source", "caffemodel"])
    here = str(Path(cp.__file__).parent).encode()
    for path in done.files:
        members = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [archive.read(name) for name in archive.namelist()]
        for content in members:
            assert here not in content and str(tmp_path).encode() not in content, path
            # Protocol 2 and later begin so; an archive of torch.save is a zip with data.pkl.
            assert not content.startswith(b"\x80") and b"data.pkl" not in content, path


@pytest.mark.parametrize(
    ("form", "budget", "ok"),
    [
        (Form(half="weights"), None, True),
        (Form(half="weights"), 1e-9, False),
        (Form(half="all"), None, True),
        (Form(half="all"), 1e-9, False),
        (Form(int8=True), None, True),
        (Form(int8=True), 1e-9, False),
    ],
)
def test_reduced_precision_is_held_to_its_budget(
    model: Net, tmp_path: Path, form: Form, budget: float | None, ok: bool
) -> None:
    calibration = [inputs_of(model, seed) for seed in range(4)]
    evidence = Evidence([recorded_as(model, tmp_path / "recorded.npz")], calibration=calibration)

    def done() -> Conversion:
        return convert(model, tmp_path / "out", "small", ["onnx"], form=form, evidence=evidence, budget=budget)

    if not ok:
        with pytest.raises(
            (ParityError, ArtifactError),
            match=r"beyond the budget of 1e-07 %: 'prob' off by at most|int8 cannot be within 1e-09 of",
        ):
            done()
        assert not (tmp_path / "out").exists()
        return
    certificate = done().certificate
    (report,), (artifact,) = certificate.budgets, certificate.artifacts
    assert report.ok and report.outputs[0].largest > 0
    assert artifact.name == f"small{form.suffix}.onnx"
    precision = "int8" if form.int8 else {"weights": "float16 weights", "all": "float16"}[str(form.half)]
    assert artifact.details["precision"] == precision


def test_int8_needs_something_to_calibrate_with(model: Net, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="--calibrate FOLDER"):
        convert(model, tmp_path / "out", "small", ["onnx"], form=Form(int8=True))
    assert not (tmp_path / "out").exists()


def test_a_picture_goes_in(model: Net, tmp_path: Path) -> None:
    form = Form(preprocessing=PREPROCESSING)
    with pytest.raises(GraphError, match="verified with pictures"):
        convert(model, tmp_path / "out", "small", ["onnx"], form=form)
    evidence = Evidence(pictures=generated_pictures(), preprocessing=PREPROCESSING)
    done = convert(model, tmp_path / "out", "small", ["onnx"], form=form, evidence=evidence)
    (report,) = done.certificate.budgets
    assert report.ok and len(report.cases) == 6
    assert any("0 % of the values of the net's input differ" in change for change in done.certificate.changes)
    session = make_session(str(tmp_path / "out" / "small_image.onnx"))
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("image", "tensor(uint8)")


def test_a_picture_preprocessed_in_another_way_is_found_out(
    model: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_port.converters.to_onnx import preprocess

    right = preprocess.with_preprocessing
    swapped = replace(PREPROCESSING, mean=PREPROCESSING.mean[::-1])
    monkeypatch.setattr(preprocess, "with_preprocessing", lambda made, _: right(made, swapped))
    evidence = Evidence(pictures=generated_pictures(), preprocessing=PREPROCESSING)
    form = Form(preprocessing=PREPROCESSING)
    with pytest.raises(ParityError, match="beyond the budget"):
        convert(model, tmp_path / "out", "small", ["onnx"], form=form, evidence=evidence, budget=1e-6)


def test_a_batch_that_was_not_recorded(model: Net, tmp_path: Path) -> None:
    evidence = Evidence([recorded_as(model, tmp_path / "recorded.npz")])
    done = convert(
        model, tmp_path / "out", "small", ["onnx", "pytorch", "pytorch-source"], form=Form(batch=3), evidence=evidence
    )
    assert done.certificate.verdict == "verified against the float64 run, and that against Caffe"
    assert onnx_dims(tmp_path / "out" / "small_batch3.onnx") == [3, 3, 7, 7]
    details = {artifact.name: artifact.details for artifact in done.certificate.artifacts}
    assert details["small_batch3.pt2"]["batch"] == "fixed"


def onnx_dims(path: Path) -> list[int]:
    import onnx

    return [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]


def test_a_batch_that_the_net_fixes(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(
        INPUT
        + 'layer { name: "s" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 4 dim: 9 dim: 8 } } }'
    )
    net = cp.load(file)
    for target in ("onnx", "pytorch"):
        with pytest.raises(GraphError, match="the net fixes its batch"):
            convert(net, tmp_path / "out", "net", [target], form=Form(batch="symbolic"))
    assert convert(net, tmp_path / "out", "net", ["onnx", "pytorch"]).certificate.ok


def test_further_inputs_are_compared(model: Net, tmp_path: Path) -> None:
    given = {"data": np.full((5, 3, 7, 7), 0.5, np.float32)}
    done = convert(model, tmp_path / "out", "small", ["onnx"], evidence=Evidence(inputs={"mine.npz": given}))
    assert {report.reference for report in done.certificate.reports} > {"mine.npz"}
    with pytest.raises(GraphError, match="input"):
        convert(model, tmp_path / "o", "small", ["onnx"], form=Form(half="all"), evidence=Evidence(inputs={"m": {}}))


@pytest.mark.parametrize("opset", [13, 21])
def test_another_opset(model: Net, tmp_path: Path, opset: int) -> None:
    import onnx

    done = convert(model, tmp_path / "out", "small", ["onnx"], form=Form(opset=opset))
    assert done.certificate.ok
    assert onnx.load(tmp_path / "out" / f"small_opset{opset}.onnx").opset_import[0].version == opset


def test_weights_beside_the_file(model: Net, tmp_path: Path) -> None:
    done = convert(model, tmp_path / "out", "small", ["onnx"], form=Form(external_data=True))
    names = [path.name for path in done.files]
    assert names == ["small.onnx", "small.onnx.data", "small.certificate.json", "small.certificate.html"]
    (tmp_path / "elsewhere").mkdir()
    for name in names:
        (tmp_path / "out" / name).rename(tmp_path / "elsewhere" / name)
    x = np.zeros((2, 3, 7, 7), np.float32)
    (got,) = make_session(str(tmp_path / "elsewhere" / "small.onnx")).run(None, {"data": x})
    assert np.allclose(got, cp.run(model, {"data": x})["prob"], atol=1e-6)


def test_a_source_that_computes_something_else_is_found_out(
    model: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_port.converters import to_pytorch_source as package

    right = package.to_pytorch_source

    def wrong(*args: object) -> object:
        made = right(*args)  # type: ignore[arg-type]
        return replace(made, source=made.source.replace("F.relu", "torch.abs"))

    monkeypatch.setattr(package, "to_pytorch_source", wrong)
    with pytest.raises(ParityError, match="torch, the source as it is against"):
        convert(model, tmp_path / "out", "small", ["pytorch-source"])
    assert not (tmp_path / "out").exists()


def test_a_caffemodel_that_is_read_back_otherwise_is_found_out(
    model: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caffe_port.converters import to_caffemodel

    right = to_caffemodel.write_caffemodel

    def wrong(net: Net, path: Path) -> None:
        weights = {layer.name: [np.array(w.data) for w in layer.weights] for layer in net.layers if layer.weights}
        weights["fc"][0][0, 0] = np.nextafter(weights["fc"][0][0, 0], np.float32(9))
        right(net.with_weights(weights), path)

    monkeypatch.setattr(to_caffemodel, "write_caffemodel", wrong)
    with pytest.raises(ParityError, match="layer 'fc': learned blob 0 is not read back as it was"):
        convert(model, tmp_path / "out", "small", ["caffemodel"])

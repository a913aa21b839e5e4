"""Detection layers that stop before they choose: the pass, and `convert --detection boxes`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small
from detections import rows_by_loops
from fork_layers import F32
from numpy.typing import NDArray
from recorded import recorded_as

import caffe_port as cp
from caffe_port import recording
from caffe_port.artifacts.form import Form
from caffe_port.cli import main
from caffe_port.conversion import convert
from caffe_port.errors import GraphError, ParityError
from caffe_port.evidence import Evidence
from caffe_port.net import Net
from caffe_port.passes.detection_boxes import detection_boxes

OPTIONS = {"background": 0, "confidence": 0.3, "nms": 0.45, "eta": 1.0, "top_k": 400, "keep_top_k": 20}
CLASSES, SIDE = 3, 4
PRIORS = 2 * SIDE * SIDE


def head(name: str, outputs: int) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "c" top: "{name}" convolution_param {{ '
        f'num_output: {outputs} kernel_size: 1 weight_filler {{ type: "gaussian" std: 0.4 }} }} }}\n'
        f'layer {{ name: "{name}p" type: "Permute" bottom: "{name}" top: "{name}p" '
        "permute_param { order: 0 order: 2 order: 3 order: 1 } }\n"
        f'layer {{ name: "{name}f" type: "Flatten" bottom: "{name}p" top: "{name}f" }}\n'
    )


def detector(shared: bool = True, more: str = "") -> str:
    """A single-shot detector of one map, with a class for the background and two others."""
    return (
        small.one_input(2, 3, SIDE, SIDE)
        + 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 5 kernel_size: 3 '
        'pad: 1 weight_filler { type: "gaussian" std: 0.2 } } }\n'
        + head("loc", 8 if shared else 8 * CLASSES)
        + head("conf", 2 * CLASSES)
        + 'layer { name: "r" type: "Reshape" bottom: "conff" top: "r" reshape_param { shape { dim: 0 dim: -1 dim: '
        f"{CLASSES} }} }} }}\n"
        + 'layer { name: "s" type: "Softmax" bottom: "r" top: "s" softmax_param { axis: 2 } }\n'
        + 'layer { name: "sf" type: "Flatten" bottom: "s" top: "sf" }\n'
        + 'layer { name: "prior" type: "PriorBox" bottom: "c" bottom: "x" top: "prior" '
        "prior_box_param { min_size: 1 max_size: 2 } }\n"
        + 'layer { name: "found" type: "DetectionOutput" bottom: "locf" bottom: "sf" bottom: "prior" top: "found" '
        f"detection_output_param {{ num_classes: {CLASSES} share_location: {str(shared).lower()} "
        "code_type: CENTER_SIZE keep_top_k: 20 confidence_threshold: 0.3 nms_param { nms_threshold: 0.45 top_k: 400 "
        f"}} }} }}\n{more}"
    )


YOLO = {
    "YoloDetectionOutput": "yolo_detection_output_param { num_classes: 3 num_box: 2 confidence_threshold: 0.2 "
    "biases: 1 biases: 2 biases: 2 biases: 0.5 }",
    "Yolov3DetectionOutput": "yolov3_detection_output_param { num_classes: 3 num_box: 2 confidence_threshold: 0.2 "
    "biases: 10 biases: 14 biases: 23 biases: 27 mask: 0 mask: 1 anchors_scale: 32 mask_group_num: 1 }",
}


def yolo(kind: str) -> str:
    return (
        small.one_input(2, 16, 3, 3)
        + f'layer {{ name: "found" type: "{kind}" bottom: "x" top: "found" {YOLO[kind]} }}\n'
    )


def everywhere(net: Net, inputs: dict[str, NDArray[np.float32]]) -> dict[str, dict[str, NDArray[np.float32]]]:
    return {
        "numpy": small.through_numpy(net, inputs),
        "torch": small.through_torch(net, inputs),
        "onnx": small.through_onnx(net, inputs),
    }


def written(folder: Path, prototxt: str) -> tuple[Path, Path]:
    """The model's files. The caffemodel has only layers with weights: forks' fields have no number all would read."""
    (folder / "ssd.prototxt").write_text(prototxt)
    net = small.built(prototxt)
    layers = "".join(f'layer {{ name: "{one.name}" type: "{one.type}" }}\n' for one in net.layers if one.weights)
    return folder / "ssd.prototxt", small.write_caffemodel(folder / "ssd.caffemodel", layers, small.weights_of(net))


@pytest.mark.parametrize("shared", [True, False])
def test_the_rows_are_chosen_from_them(shared: bool) -> None:
    """The fork's choice, written as loops, makes of boxes and scores the rows that the net gave before."""
    net = small.filled(detector(shared))
    changed = detection_boxes(net)
    inputs = small.inputs_of(net, 3)
    rows = cp.run(net, inputs)["found"]
    assert rows.shape[2] > 4
    classes = 1 if shared else CLASSES - 1
    for backend, made in everywhere(changed, inputs).items():
        boxes, scores = made["found.boxes"], made["found.scores"]
        assert (boxes.shape, scores.shape) == ((2, classes, PRIORS, 4), (2, CLASSES - 1, PRIORS))
        conf = np.concatenate([np.zeros((2, PRIORS, 1), F32), scores.transpose(0, 2, 1)], axis=2)
        by_class = boxes.transpose(0, 2, 1, 3)
        if not shared:
            by_class = np.concatenate([np.zeros_like(by_class[:, :, :1]), by_class], axis=2)
        chosen = rows_by_loops(by_class, conf, OPTIONS)
        assert chosen.shape == rows.shape, backend
        np.testing.assert_allclose(chosen, rows, rtol=1e-5, atol=1e-6, err_msg=backend)


@pytest.mark.parametrize("kind", YOLO)
def test_yolo_chooses_from_them(kind: str) -> None:
    """Every row is one of the boxes, with its confidence for the row's class."""
    net = small.built(yolo(kind))
    inputs = {"x": np.random.default_rng(1).standard_normal((2, 16, 3, 3)).astype(F32)}
    rows = cp.run(net, inputs)["found"][0, 0]
    assert len(rows) > 3
    for backend, made in everywhere(detection_boxes(net), inputs).items():
        boxes, scores = made["found.boxes"], made["found.scores"]
        assert (boxes.shape, scores.shape) == ((2, 1, 18, 4), (2, 3, 18))
        for _, label, confidence, *box in rows:
            near = np.isclose(boxes[:, 0], box, rtol=1e-5, atol=1e-6).all(axis=2)
            np.testing.assert_allclose(scores[:, int(label) - 1][near], confidence, rtol=1e-5, err_msg=backend)
            assert near.sum() == 1, backend


def test_everything_else_is_the_same_object() -> None:
    net = small.filled(detector())
    changed = detection_boxes(net)
    assert changed.outputs == ("found.boxes", "found.scores")
    assert all(a is b for a, b in zip(net.layers[:-1], changed.layers[:-1], strict=True))
    assert changed.layers[-1].bottoms == net.layers[-1].bottoms
    assert set(net.blobs) ^ set(changed.blobs) == {"found", "found.boxes", "found.scores"}
    assert changed.with_input_shapes({"x": (5, 3, SIDE, SIDE)}).blobs["found.scores"].shape == (5, 2, PRIORS)


@pytest.mark.parametrize(
    ("prototxt", "told"),
    [
        (small.CONV_NET, "no layer that gives detections"),
        (detector(more='layer { name: "p" type: "Power" bottom: "found" top: "p" }'), "'p' reads the rows"),
        (
            detector(more='layer { name: "p" type: "Power" bottom: "x" top: "found.boxes" }'),
            "a blob 'found.boxes' already",
        ),
    ],
)
def test_what_cannot_stop(prototxt: str, told: str) -> None:
    with pytest.raises(GraphError, match=told):
        detection_boxes(small.filled(prototxt))


def test_a_conversion_is_verified_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NumPy against Caffe's rows, and the files, boxes and scores among them, against the float64 run."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    prototxt, caffemodel = written(tmp_path, detector())
    recorded = recorded_as(cp.load(prototxt, caffemodel), tmp_path / "caffe.npz")
    arguments = [str(prototxt), str(caffemodel), "-o", str(tmp_path / "out"), "--detection", "boxes"]
    assert main(["convert", *arguments, "--to", "onnx,ort,pytorch", "--recording", str(recorded)]) == 0
    names = {line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()}
    assert names == {
        f"ssd_boxes.{end}" for end in ("onnx", "ort", "pt2", "safetensors", "certificate.json", "certificate.html")
    }
    document = json.loads((tmp_path / "out" / "ssd_boxes.certificate.json").read_text())
    assert document["form"] == {"detection": "boxes"}
    assert document["changes"] == ["found (DetectionOutput) stops before suppression: found.boxes and found.scores"]
    assert "--detection boxes" in document["command"]
    seen = {
        (report["backend"], report["reference"]): {one["top"] for one in report["layers"]}
        for report in document["verification"]
    }
    of_caffe = {backend for backend, reference in seen if reference == "caffe.npz"}
    assert of_caffe == {"numpy float64", "numpy float32"}
    assert all("found" in tops for (_, reference), tops in seen.items() if reference == "caffe.npz")
    files = {backend: tops for (backend, reference), tops in seen.items() if reference != "caffe.npz"}
    assert len(files) == 5
    assert all({"found.boxes", "found.scores"} <= tops for tops in files.values())


def test_a_fault_in_what_stands_for_the_rows_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from caffe_port.converters.to_pytorch.modules.detection import DetectionBoxes, DetectionOutput

    def moved(self: DetectionOutput, *bottoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes, scores = self.boxes_and_scores(*bottoms)
        return boxes + 1e-4, scores

    monkeypatch.setattr(DetectionBoxes, "forward", moved)
    net = small.filled(detector())
    # Seeded inputs are large, and the sizes of boxes grow with their exponential.
    evidence, form = Evidence(inputs={"small": small.inputs_of(net)}), Form(detection="boxes")
    with pytest.raises(ParityError, match=r"top 'found\.boxes'"):
        convert(net, tmp_path / "out", "ssd", ["pytorch"], form=form, evidence=evidence)
    assert not (tmp_path / "out").exists()


def test_with_another_form(tmp_path: Path) -> None:
    """Rounded weights are measured on the recorded inputs, against boxes and scores."""
    pytest.importorskip("onnxruntime")
    prototxt, caffemodel = written(tmp_path, detector())
    net = cp.load(prototxt, caffemodel)
    evidence = Evidence((recorded_as(net, tmp_path / "caffe.npz"),))
    form = Form(detection="boxes", half="weights", fold=True, batch=3)
    done = convert(net, tmp_path / "out", "ssd", ["onnx"], form=form, evidence=evidence)
    assert done.files[0].name == "ssd_folded_fp16weights_batch3_boxes.onnx"
    (report,) = done.certificate.budgets
    assert {one.output for one in report.outputs} == {"found.boxes", "found.scores"}
    assert recording.read(evidence.recordings[0]).finals.keys() == {"found"}


@pytest.mark.parametrize(
    ("prototxt", "target", "told"),
    [(small.CONV_NET, "onnx", "no layer that gives detections"), (detector(), "caffemodel", "no batch, no boxes")],
)
def test_what_stands_in_the_way(
    prototxt: str, target: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(path) for path in written(tmp_path, prototxt)]
    arguments = ["convert", *files, "-o", str(tmp_path / "out"), "--to", target, "--detection", "boxes"]
    assert main([*arguments, "--dry-run"]) == 2
    assert told in capsys.readouterr().out
    assert main(arguments) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

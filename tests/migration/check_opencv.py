"""Migrates scripts of OpenCV's sample models and runs them before (OpenCV 4) and after (OpenCV 4 and 5): a table.

    python tests/migration/check_opencv.py --opencv4 PYTHON --opencv5 PYTHON [--keep FOLDER] [NAME ...]

PYTHON is an interpreter that has that OpenCV and NumPy. The weights are those of tests/fill.py, the last ones scaled
so that scores are neither all alike nor all 0 and 1; the prototxts are read where the conformance folder is. The
picture is noise. Each script runs as `caffe-port migrate` made it. The error is the largest distance of an output's
values from what OpenCV 4's Caffe importer gives, as a share of the largest magnitude; of detections, how many rows
have a partner within 1e-4.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
import small

import caffe_port as cp
from caffe_port.migration.plan import plan, write_script
from caffe_port.net import Net

PROTOTXTS = Path(__file__).parents[3] / "shared" / "conformance" / "prototxt"


@dataclass(frozen=True)
class Sample:
    """A model of OpenCV's samples, with the call of blobFromImage that goes with it."""

    name: str
    prototxt: str
    blob: str
    image: str = "image"


SAMPLES = (
    Sample("MobileNet-SSD", "chuanqi305__MobileNet-SSD__deploy.prototxt", "0.007843, (300, 300), (127.5,) * 3"),
    Sample(
        "VGG16-SSD",
        "intel__caffe__models_intel_optimized_models_ssd_VGGNet_VOC0712_SSD_300x300_deploy.prototxt",
        "1.0, (300, 300), (104, 117, 123)",
    ),
    Sample(
        "age",
        "GilLevi__AgeGenderDeepLearning__age_net_definitions_deploy.prototxt",
        "1.0, (227, 227), (78.4263377603, 87.7689143744, 114.895847746), swapRB=False",
    ),
    Sample(
        "gender",
        "GilLevi__AgeGenderDeepLearning__gender_net_definitions_deploy.prototxt",
        "1.0, (227, 227), (78.4263377603, 87.7689143744, 114.895847746), swapRB=False",
    ),
    Sample(
        "colorization",
        "tonyyangToBeNo1__colorization_flow_caffe__models_colorization_deploy_v2.prototxt",
        "",
        "cv2.resize(cv2.cvtColor(image.astype('float32') / 255, cv2.COLOR_BGR2LAB), (224, 224))[:, :, 0] - 50",
    ),
    Sample(
        "OpenPose, COCO",
        "CMU-Perceptual-Computing-Lab__openpose__models_pose_coco_pose_deploy_linevec.prototxt",
        "1.0 / 255, (184, 184), (0, 0, 0), swapRB=False, crop=False",
    ),
    Sample(
        "OpenPose, MPI",
        "CMU-Perceptual-Computing-Lab__openpose__models_pose_mpi_pose_deploy_linevec_faster_4_stages.prototxt",
        "1.0 / 255, (184, 184), (0, 0, 0), swapRB=False, crop=False",
    ),
    Sample("FCN-8s", "shelhamer__fcn.berkeleyvision.org__voc-fcn8s_deploy.prototxt", "1.0, (160, 160)"),
    Sample("GoogLeNet", "BVLC__caffe__models_bvlc_googlenet_deploy.prototxt", "1.0, (224, 224), (104, 117, 123)"),
    Sample("SqueezeNet 1.1", "forresti__SqueezeNet__SqueezeNet_v1.1_deploy.prototxt", "1.0, (227, 227), (0, 0, 0)"),
)

SCRIPT = """import cv2
import numpy as np

net = cv2.dnn.readNetFromCaffe("net.prototxt", "net.caffemodel")
image = np.load("image.npy")
blob = cv2.dnn.blobFromImage({image}{blob})
net.setInput(blob)
out = net.forward()
np.save("out.npy", out)
"""


def tempered(net: Net) -> tuple[Net, dict[str, list[NDArray[np.float32]]]]:
    """The net with weights, the last scaled: what goes into a Softmax has a deviation of 2.5, locations one of 1."""
    weights = small.weights_of(net)
    net = net.with_weights(weights)
    noise = np.random.default_rng(1)
    inputs = {name: noise.normal(0, 40, shape).astype(np.float32) for name, shape in net.input_shapes.items()}
    detector = any(layer.type == "DetectionOutput" for layer in net.layers)
    if detector:
        wanted = {"mbox_conf": 2.5, "mbox_loc": 1.0}
        heads = {blob: [name for name in weights if name.endswith(f"_{blob}")] for blob in wanted}
    elif softmax := next((layer for layer in net.layers if layer.type == "Softmax"), None):
        blob = softmax.bottoms[0].name
        wanted = {blob: 2.5}
        heads = {blob: [[name for name in weights if not name.startswith(("class8", "conv8_313_rh"))][-1]]}
    else:
        return net, weights
    values = cp.run(net, inputs, outputs=list(wanted))
    for blob, deviation in wanted.items():
        for name in heads[blob]:
            weights[name] = [array * np.float32(deviation / values[blob].std()) for array in weights[name]]
    return net.with_weights(weights), weights


def make(sample: Sample, folder: Path) -> None:
    """Writes the model as Caffe has it, the script, and what `migrate` makes of both."""
    import onnx

    prototxt = PROTOTXTS / sample.prototxt
    (folder / "net.prototxt").write_bytes(prototxt.read_bytes())
    script = folder / "script.py"
    script.write_text(SCRIPT.format(image=sample.image, blob=f", {sample.blob}" if sample.blob else ""))
    migration = plan(script)
    write_script(migration, folder / "script_onnx.py", overwrite=True)
    (conversion,) = migration.conversions
    shapes = None if conversion.input_shape is None else dict([conversion.input_shape])
    if shapes is None and sample.name == "colorization":
        shapes = {"data_l": (1, 1, 224, 224)}
    net, weights = tempered(cp.load(prototxt, allow_missing_weights=True, input_shapes=shapes))
    layers = "".join(f'layer {{ name: "{one.name}" type: "{one.type}" }}\n' for one in net.layers if one.weights)
    small.write_caffemodel(folder / "net.caffemodel", layers, weights)
    onnx.save(cp.to_onnx(net, batch=1, extra_outputs=conversion.extra_outputs), folder / conversion.onnx)
    np.save(folder / "image.npy", np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8))


def run(python: str, script: str, folder: Path) -> NDArray[np.float32] | str:
    (folder / "out.npy").unlink(missing_ok=True)
    done = subprocess.run([python, script], cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        return f"exit code {done.returncode}: {lines[-1][:120] if lines else 'no message'}"
    values: NDArray[np.float32] = np.load(folder / "out.npy")
    return values


def distance(reference: NDArray[np.float32], values: NDArray[np.float32] | str) -> str:
    if isinstance(values, str):
        return values
    if reference.shape[-1] == 7 and reference.ndim == 4:
        before, after = (one.reshape(-1, 7)[one.reshape(-1, 7)[:, 2] > 0] for one in (reference, values))
        near = [min(np.abs(after - row).max(axis=1), default=1.0) < 1e-4 for row in before]
        return f"{sum(near)} of {len(before)} rows ({len(after)} after)"
    if reference.shape != values.shape:
        return f"shape {values.shape}, not {reference.shape}"
    return f"{np.abs(reference - values).max() / max(np.abs(reference).max(), 1e-30):.1e}"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--opencv4", required=True)
    parser.add_argument("--opencv5", required=True)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    print("| model | ONNX in OpenCV 4 | ONNX in OpenCV 5 |\n|---|---|---|")
    for sample in SAMPLES:
        if (args.names and sample.name not in args.names) or not (PROTOTXTS / sample.prototxt).is_file():
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.keep / sample.name.replace(" ", "_") if args.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                make(sample, folder)
            except cp.CaffePortError as error:
                print(f"| {sample.name} | {str(error).splitlines()[0][:150]} | |", flush=True)
                continue
            before = run(args.opencv4, "script.py", folder)
            if isinstance(before, str):
                print(f"| {sample.name} | before: {before} | |", flush=True)
                continue
            after = [distance(before, run(one, "script_onnx.py", folder)) for one in (args.opencv4, args.opencv5)]
            print(f"| {sample.name} | {after[0]} | {after[1]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

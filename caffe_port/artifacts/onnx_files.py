"""ONNX and what is made of it: the model in the form asked for, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.artifacts.draft import DeployedFile, Draft, Survivors, folded
from caffe_port.artifacts.form import Form
from caffe_port.backends import Backend, OnnxBackend
from caffe_port.budget import Runner, percent
from caffe_port.errors import GraphError
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.passes.fold_linear import fold_linear
from caffe_port.preprocessing import Manifest, Preprocessing
from caffe_port.sessions import make_session

if TYPE_CHECKING:
    import onnx

__all__ = ["write_onnx_files"]


def write_onnx_files(
    net: Net,
    workshop: Path,
    name: str,
    targets: Sequence[str],
    form: Form,
    *,
    manifest: Manifest | None = None,
    calibration: Sequence[Mapping[str, Array]] = (),
    budget: float | None = None,
) -> Draft:
    """Writes the `targets` of ONNX_TARGETS as `name` into `workshop`.

    `manifest` goes into the model's metadata. `calibration`: inputs like the real ones, each a mapping by blob name:
    int8 needs them, and rounded weights are made up for with them; `budget` for int8, as `budget.held_to` has it.
    Raises: GraphError for int8 without calibration inputs, and for a symbolic batch that the net does not allow;
    ArtifactError for an opset the model cannot have, or a file that cannot be written; MissingDependency.
    """
    from caffe_port.converters.to_onnx.files import run_openvino, run_ort, write_onnx, write_openvino, write_ort

    draft = Draft()
    model, values, details = _model(net, form, manifest, calibration, budget, draft)
    # The other formats are made from the file, which is then only on the way.
    onnx_path = workshop / (f"{name}.onnx" if "onnx" in targets else f".{name}.onnx")
    written = write_onnx(model, onnx_path, values=values, external_data=form.external_data)
    batch = "symbolic" if _is_symbolic(model) else "fixed"
    if "onnx" in targets:
        draft.add("onnx", onnx_path, *written[1:], opset=model.opset_import[0].version, batch=batch, **details)
        if not form.changes_numbers:
            draft.exact.append(_traced(OnnxBackend(onnx_path), form))
        _deployed(draft, form, onnx_path.name, "onnxruntime, the file as it is", _session_runner(onnx_path, net))
    if "ort" in targets:
        path = workshop / f"{name}.ort"
        write_ort(onnx_path, path)
        draft.add("onnxruntime format", path, batch=batch, **details)
        _deployed(draft, form, path.name, "onnxruntime, its own format", lambda inputs: run_ort(path, inputs))
    if "openvino" in targets:
        xml = workshop / f"{name}.xml"
        write_openvino(onnx_path, xml)
        draft.add("OpenVINO IR", xml, xml.with_suffix(".bin"), batch=batch, **details)
        _deployed(draft, form, xml.name, "OpenVINO", lambda inputs: run_openvino(xml, inputs))
    if "onnx" not in targets:
        draft.files += written
    return draft


def _model(
    net: Net,
    form: Form,
    manifest: Manifest | None,
    calibration: Sequence[Mapping[str, Array]],
    budget: float | None,
    draft: Draft,
) -> tuple[onnx.ModelProto, Mapping[str, Array] | None, dict[str, Any]]:
    """The model, its initializers' values where they are not in it, and what a user must know of it.

    A float model under way to another is verified as well.
    """
    from caffe_port.converters.to_onnx import to_onnx
    from caffe_port.converters.to_onnx.export import model_and_values

    if form.folds:
        result = fold_linear(net)
        draft.changes += [f"{taken} folded into {into}" for into, names in result.folded.items() for taken in names]
        net = result.net
    batch = "symbolic" if form.batch is None else form.batch
    # Where nothing looks at the values, they stay where they are: in the mapped file.
    model, values = (to_onnx(net, batch=batch), None) if _rewritten(form) else model_and_values(net, batch=batch)
    if form.batch == "symbolic" and not _is_symbolic(model):
        raise GraphError("the net fixes its batch (a layer depends on it): give --batch N, or change the prototxt")
    if form.opset:
        from caffe_port.converters.to_onnx.opset import at_opset

        model = at_opset(model, form.opset)
    details: dict[str, Any] = {}
    if form.changes_numbers:
        draft.exact.append(_traced(OnnxBackend(model, "onnxruntime, before its precision is reduced"), form))
    if form.half:
        from caffe_port.converters.to_onnx.half import lost_to_zero, to_half

        if lost := lost_to_zero(model, activations=form.half == "all"):
            draft.changes.append(lost)
        model = to_half(model, activations=form.half == "all", calibration=calibration)
        details["precision"] = "float16 weights" if form.half == "weights" else "float16"
    if form.int8:
        from caffe_port.converters.to_onnx.quantize import quantize

        if not calibration:
            raise GraphError(
                "int8 needs inputs to calibrate with, and nothing is known of the model's preprocessing: "
                "--calibrate FOLDER of pictures with --manifest FILE, or --calibrate NPZ"
            )
        quantized = quantize(model, calibration, budget=budget)
        model = quantized.model
        details |= {"precision": "int8", "calibrated_on": len(calibration), "float_layers": list(quantized.float_nodes)}
    if manifest is not None:
        from caffe_port.converters.to_onnx.preprocess import embed

        embed(model, manifest)
    if form.preprocessing:
        from caffe_port.converters.to_onnx.preprocess import with_preprocessing

        outside, preprocessing = model, form.preprocessing
        inside = model = with_preprocessing(outside, preprocessing)
        details["input"] = "image: uint8, height x width x RGB"
        draft.measured.append(lambda pictures: _deviation(preprocessing, outside, inside, pictures))
    return model, values, details


def _deviation(
    preprocessing: Preprocessing, outside: onnx.ModelProto, inside: onnx.ModelProto, pictures: Mapping[str, Array]
) -> str:
    """How far the preprocessing inside is from the bit-exact one, in words."""
    from PIL import Image

    from caffe_port.converters.to_onnx.preprocess import deviation

    found = deviation(preprocessing, outside, map(Image.fromarray, pictures.values()), inside=inside)
    outputs = ", ".join(f"{name} by at most {largest:.3g}" for name, largest in found.outputs.items())
    return (
        f"preprocessing inside, on {found.pictures} pictures: {percent(found.tensor_share)} of the values of the net's "
        f"input differ from the bit-exact ones, by at most {found.tensor:.3g}; outputs of the same model: {outputs}"
    )


def _rewritten(form: Form) -> bool:
    """Whether the model is made into another."""
    return bool(form.opset or form.changes_numbers or form.preprocessing)


def _traced(backend: Backend, form: Form) -> Backend:
    return Survivors(backend, folded) if form.folds else backend


def _deployed(draft: Draft, form: Form, artifact: str, name: str, run: Runner) -> None:
    if form.changes_numbers:
        draft.budgeted.append((artifact, run))
    else:
        draft.exact.append(DeployedFile(name, run))


def _is_symbolic(model: onnx.ModelProto) -> bool:
    return any(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)


def _session_runner(path: Path, net: Net) -> Runner:
    made: list[Any] = []

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if not made:
            made.append(make_session(str(path)))
        session = made[0]
        given = {value.name: np.asarray(inputs[value.name]) for value in session.get_inputs()}
        names = [value.name for value in session.get_outputs()]
        return dict(zip(net.outputs, session.run(names, given), strict=True))

    return run

"""What a script takes out of a net, by OpenCV 4's names and order, as OpenCV 5 gives it of the ONNX file."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from caffe_port.migration.conversion import Conversion
from caffe_port.migration.opencv import Forward, Reading
from caffe_port.migration.work import Work

if TYPE_CHECKING:
    from caffe_port.net import Net

__all__ = ["change_forward", "change_other", "note_detections", "outputs_of"]

_ORDER = "the ONNX file has its outputs in the order of their names, Caffe's were in that of the layers"


def outputs_of(work: Work, reading: Reading, conversion: Conversion) -> dict[Forward, list[str]]:
    """The ONNX names of what each forward gives, in its order; without those that are not certain.

    What is inside the net is noted for export: all of it, before the first line is changed.
    """
    net = conversion.net
    if net is None:
        return {}
    wanted: dict[Forward, list[str]] = {}
    for forward in reading.forwards:
        asked = forward.names
        if forward.of_all is not None:
            wanted[forward] = _unconnected(net)
        elif asked.known and asked.value is None:
            wanted[forward] = [_last_top(net)]
        elif asked.known:
            layers = asked.value if isinstance(asked.value, tuple) else (asked.value,)
            values = [_value_of(work, str(one), forward.call, net) for one in layers]
            if None not in values:
                wanted[forward] = [one for one in values if one is not None]
    inside = [one for names in wanted.values() for one in names if one not in net.outputs]
    conversion.extra_outputs = list(dict.fromkeys(inside))
    return wanted


def _value_of(work: Work, layer_name: str, call: ast.Call, net: Net) -> str | None:
    """The ONNX name of what a layer gives: OpenCV goes by names of layers."""
    from caffe_port.converters.to_onnx.export import value_names

    layer = next((layer for layer in _own_layers(net) if layer.name == layer_name), None)
    if layer is None:
        work.note(call.lineno, f"the net has no layer {layer_name!r}")
        return None
    return value_names(net)[layer.tops[0]]


def change_forward(work: Work, forward: Forward, wanted: list[str] | None, conversion: Conversion) -> None:
    net, call = conversion.net, forward.call
    if wanted is None:
        _unsettled(work, forward, net)
        return
    assert net is not None
    file_outputs = [*net.outputs, *conversion.extra_outputs]
    asked = forward.names.value if forward.of_all is None else ()
    if not isinstance(asked, tuple):
        if asked is None and len(file_outputs) > 1:
            work.edits.set_arguments(call, repr(wanted[0]), "forward() gives another output in OpenCV 5 than in 4")
        elif asked is not None and wanted[0] != asked:
            work.edits.set_arguments(call, repr(wanted[0]), "OpenCV names layers, an ONNX file blobs")
        return
    rest = [one for one in file_outputs if one not in wanted]
    if rest:
        new = f"{work.edits.source(call.func)}({[*wanted, *rest]!r})[:{len(wanted)}]"
        work.edits.replace(call, new, "OpenCV 5 gives one output of a file, or all")
    elif forward.of_all is None and list(asked) != wanted:
        work.edits.set_arguments(call, repr(wanted), "OpenCV names layers, an ONNX file blobs")
    elif forward.of_all is not None and wanted != file_outputs:
        work.edits.replace(forward.of_all, repr(wanted), _ORDER)


def _unsettled(work: Work, forward: Forward, net: Net | None) -> None:
    call, asked = forward.call, forward.names
    if forward.of_all is not None:
        work.note(call.lineno, f"getUnconnectedOutLayersNames(): {_ORDER}; compare if the model has several")
    elif asked.known and asked.value is None:
        text = "forward() gives the last layer in OpenCV 4, the file's first output in OpenCV 5: name it if"
        work.note(call.lineno, f"{text} the model has several")
    elif net is None or not asked.known:
        why = f" ({asked.unknown})" if not asked.known else ""
        text = f"{' '.join(work.edits.source(call).split())}: a name must be that of an output of the ONNX file{why};"
        work.note(call.lineno, f"{text} for another one OpenCV 5 gives wrong values and no error")


def _all_outputs(work: Work, call: ast.Call, conversion: Conversion) -> None:
    """getUnconnectedOutLayersNames, where it is no argument of forward."""
    net = conversion.net
    if net is None:
        work.note(call.lineno, f"getUnconnectedOutLayersNames(): {_ORDER}; compare if the model has several")
    elif [*net.outputs, *conversion.extra_outputs] != _unconnected(net):
        work.edits.replace(call, repr(_unconnected(net)), _ORDER)


def note_detections(work: Work, reading: Reading, conversion: Conversion) -> None:
    net = conversion.net
    layers = [] if net is None else [layer for layer in net.layers if layer.type == "DetectionOutput"]
    lines = [line for forward in reading.forwards for line in forward.detections]
    conversion.detections = bool(layers or (net is None and lines))
    if not conversion.detections:
        return
    line = min(lines, default=reading.line)
    text = "rows of detections (1, 1, N, 7) stay: image, class, confidence, left, top, right, bottom; but they are in"
    text += " Caffe's order, by class and then by confidence, where OpenCV 4 had them by confidence alone, and one row"
    work.note(
        line,
        f"{text} of -1 says that there are none; OpenCV 4's ONNX importer does not run such a file, 5's does; both "
        "run one of `convert --detection boxes`, which leaves suppression to the script",
    )


def change_other(work: Work, method: str, call: ast.Call, conversion: Conversion) -> None:
    text = " ".join(work.edits.source(call).split())
    if method in ("setPreferableBackend", "setPreferableTarget"):
        _backend(work, call, text)
    elif method == "getUnconnectedOutLayersNames":
        if not any(forward.of_all is call for reading in work.script.readings for forward in reading.forwards):
            _all_outputs(work, call, conversion)
    elif method == "getUnconnectedOutLayers":
        _by_number(work, call, conversion, text)
    elif method in ("getLayerId", "getLayerNames"):
        work.note(call.lineno, f"{text}: an ONNX file's layers have other names and another order")
    elif method in ("getLayer", "getParam", "setParam"):
        what = "an ONNX file's layers are others; weights that the script sets belong into the"
        work.note(call.lineno, f"{text}: {what} caffemodel before it is converted (docs/opencv-migration.md)")
    elif method != "getPerfProfile":
        work.note(call.lineno, f"{text}: not known to work alike on an ONNX file; try it")


def _backend(work: Work, call: ast.Call, text: str) -> None:
    value = work.script.names.value(call.args[0] if call.args else None)
    kept = ("cv2.dnn.DNN_BACKEND_OPENCV", "cv2.dnn.DNN_BACKEND_DEFAULT", "cv2.dnn.DNN_TARGET_CPU")
    if value.known and value.value in kept:
        return
    if value.known and value.value == "cv2.dnn.DNN_BACKEND_HALIDE":
        work.note(call.lineno, f"{text}: OpenCV 5 has no Halide; take the line out")
        return
    what = "OpenCV 5's own engine computes on the CPU and only warns;"
    work.note(call.lineno, f"{text}: {what} readNetFromONNX(file, cv2.dnn.ENGINE_CLASSIC) has the other backends")


def _by_number(work: Work, call: ast.Call, conversion: Conversion, text: str) -> None:
    """[names[i - 1] for i in net.getUnconnectedOutLayers()], the names of the outputs before OpenCV 3.4.3."""
    assert isinstance(call.func, ast.Attribute)
    for node in ast.walk(work.script.tree):
        if isinstance(node, ast.ListComp) and len(node.generators) == 1 and isinstance(node.elt, ast.Subscript):
            source = node.generators[0].iter
            if isinstance(source, ast.Call) and isinstance(source.func, ast.Attribute):
                source = source.func.value if source.func.attr in ("flatten", "ravel") else source
            if source is call and not node.generators[0].ifs:
                net = conversion.net
                known = None if net is None else _unconnected(net)
                same = net is None or [*net.outputs, *conversion.extra_outputs] == known
                new = f"{work.edits.source(call.func.value)}.getUnconnectedOutLayersNames()"
                why = "OpenCV 5 numbers layers otherwise, and gives other names"
                work.edits.replace(node, new if same else repr(known), why)
                return
    work.note(call.lineno, f"{text}: OpenCV 5 numbers layers otherwise; take getUnconnectedOutLayersNames()")


def _own_layers(net: Net) -> list[Any]:
    return [layer for layer in net.layers if not layer.automatic and layer.tops and not layer.definition.is_input]


def _last_top(net: Net) -> str:
    """What forward() gives in OpenCV 4: the first top of the last layer."""
    from caffe_port.converters.to_onnx.export import value_names

    return value_names(net)[_own_layers(net)[-1].tops[0]]


def _unconnected(net: Net) -> list[str]:
    """The outputs in the order of getUnconnectedOutLayersNames in OpenCV 4: that of the layers."""
    return [top.name for layer in _own_layers(net) for top in layer.tops if any(top is one for one in net.output_blobs)]

"""What becomes of a script that reads Caffe models by OpenCV: commands that convert, changed lines, and open questions.

`plan` reads the script, and the prototxts that it names where they can be found: only these say what the outputs are,
and of which layer `forward()` gives the result.
"""

from __future__ import annotations

import ast
import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from caffe_port.artifacts.form import Form
from caffe_port.errors import CaffePortError, DataError
from caffe_port.migration.conversion import Conversion
from caffe_port.migration.edits import Change, Edits
from caffe_port.migration.names import Value
from caffe_port.migration.opencv import Given, Note, Picture, Reading, Script, preprocessing_of, read_script
from caffe_port.migration.outputs import change_forward, change_other, note_detections, outputs_of
from caffe_port.migration.work import Work
from caffe_port.preprocessing import Preprocessing

if TYPE_CHECKING:
    from caffe_port.net import Net

__all__ = ["Migration", "plan", "target_of", "write_manifests", "write_script"]


@dataclass(slots=True, eq=False)
class Migration:
    """What a script becomes. `notes` are in the order of lines; `changed` is the new text."""

    script: Script
    conversions: list[Conversion]
    changes: list[Change]
    notes: list[Note]
    changed: str
    diff: str

    def as_json(self, manifests: str | None = None) -> dict[str, Any]:
        return {
            "script": str(self.script.path),
            "models": [one.as_json(manifests) for one in self.conversions],
            "changes": [
                {"line": one.line, "before": one.before, "after": one.after, "why": one.why} for one in self.changes
            ],
            "notes": [{"line": note.line, "text": note.text} for note in self.notes],
            "diff": self.diff,
        }


def target_of(script: Path) -> Path:
    """Where the changed script is written by default: beside the script."""
    return script.with_name(f"{script.stem}_onnx{script.suffix}")


def plan(
    script: str | os.PathLike[str], *, prototxts: Sequence[str | os.PathLike[str]] = (), target: Path | None = None
) -> Migration:
    """Reads a script and plans its change; nothing is run or written.

    `prototxts`: definitions, for scripts that do not name theirs; one is taken for a model by the name of its file, or
    because there is one of each. `target`: what the diff calls the new file.
    Raises: DataError, as `read_script`, and for a prototxt that is no model's of the script.
    """
    read = read_script(script)
    planning = _Plan(read, list(map(Path, prototxts)))
    try:
        for reading in read.readings:
            planning.model(reading)
        planning.unused()
    except RecursionError:
        raise DataError(f"{read.path}: its expressions are nested too deeply") from None
    edits = planning.edits
    changed = edits.result()
    notes = sorted({(note.line, note.text): note for note in (*read.notes, *planning.work.notes)}.values(), key=_line)
    new = target or target_of(read.path)
    changes = sorted(edits.changes, key=_line)
    return Migration(read, planning.conversions, changes, notes, changed, edits.diff(str(read.path), str(new)))


def _line(one: Note | Change) -> int:
    return one.line


def write_script(migration: Migration, target: Path, *, overwrite: bool = False) -> None:
    """Writes the changed script. Raises: ArtifactError; DataError if the file is there and is not to be overwritten."""
    from caffe_port.proto.files import replacing

    if target.exists() and not overwrite:
        raise DataError(f"{target}: is there already; name another file, or give --overwrite")
    content = migration.changed.encode(migration.script.encoding)
    with replacing(target) as stream:
        stream.write(content)


def write_manifests(migration: Migration, folder: Path) -> list[Path]:
    """Writes a manifest for each model whose preprocessing is certain. Raises: ArtifactError."""
    from caffe_port.preprocessing import Manifest

    written: dict[Path, Preprocessing] = {}
    for one in migration.conversions:
        steps, path = one.manifest(), folder / one.manifest_name
        if steps is None or written.get(path) == steps:
            continue
        if path in written:
            raise DataError(f"{path}: two models of the script would have this name; rename the files of one")
        folder.mkdir(parents=True, exist_ok=True)
        Manifest(steps).write(path)
        written[path] = steps
    return list(written)


class _Plan:
    """The work of `plan`: one model after the other."""

    def __init__(self, script: Script, prototxts: list[Path]) -> None:
        self.work = Work(script, Edits(script.text))
        self.script, self.edits, self.note = script, self.work.edits, self.work.note
        self.conversions: list[Conversion] = []
        self._prototxts = self._assigned(prototxts)
        self._literals: set[ast.Constant] = set()

    def _assigned(self, prototxts: list[Path]) -> Mapping[Reading, Path]:
        found: dict[Reading, Path] = {}
        readings, value = self.script.readings, self.script.names.value
        for path in prototxts:
            named = [one for one in readings if Path(str(value(one.definition).value)).name == path.name]
            if not named and len(readings) == 1:
                named = readings
            if not named:
                raise DataError(f"{path}: no model of {self.script.path} has a definition of this name")
            found.update(dict.fromkeys(named, path))
        return found

    # One model.

    def model(self, reading: Reading) -> None:
        names = self.script.names
        definition, weights = names.value(reading.definition), names.value(reading.weights)
        file = _path(weights, "WEIGHTS.caffemodel")
        several = any(given.picture is not None and given.picture.several for given in reading.inputs)
        form = Form(batch=None if several else 1)
        path = PurePosixPath(file)
        onnx = f"{path.parent / path.stem}{form.suffix}.onnx"
        conversion = Conversion(reading.line, _path(definition, "DEFINITION.prototxt"), file, onnx, form)
        self.conversions.append(conversion)
        conversion.net = self._net(reading, definition, conversion)
        self._reading(reading, conversion, weights)
        self._preprocessing(reading, conversion)
        for given in reading.inputs:
            self._input(given, conversion)
        wanted = outputs_of(self.work, reading, conversion)
        for forward in reading.forwards:
            change_forward(self.work, forward, wanted.get(forward), conversion)
        note_detections(self.work, reading, conversion)
        for method, call in reading.others:
            change_other(self.work, method, call, conversion)
        if reading.presumed:
            self.note(reading.line, "calls on a net that comes from elsewhere are taken for this one's, the only net")
        if conversion.extra_outputs:
            inside = ", ".join(conversion.extra_outputs)
            self.note(reading.line, f"{inside}: inside the net; convert by the Python above, which makes them outputs")

    def _net(self, reading: Reading, definition: Value, conversion: Conversion) -> Net | None:
        from caffe_port.loading import load

        path = self._prototxts.get(reading)
        if path is None and definition.known and isinstance(definition.value, str):
            folders = (self.script.path.parent, Path())
            with contextlib.suppress(OSError):  # a name that is too long for one
                path = next((found for folder in folders if (found := folder / definition.value).is_file()), None)
        if path is None:
            what = conversion.definition if definition.known else f"the prototxt ({definition.unknown})"
            self.note(reading.line, f"{what} was not found, so outputs and shapes are not checked; give it: --prototxt")
            return None
        if not definition.known:
            conversion.definition = str(path)
        try:
            net = load(path, allow_missing_weights=True, allow_unknown=True)
        except CaffePortError as error:
            self.note(reading.line, f"{path} cannot be read: {str(error).splitlines()[0]}")
            return None
        conversion.outputs = net.outputs
        return net

    def _reading(self, reading: Reading, conversion: Conversion, weights: Value) -> None:
        call = reading.call
        if reading.weights is None:
            self.note(call.lineno, "the call names no weights; an ONNX file has them inside, so convert it with them")
            new = f'"{conversion.onnx}"'
            self.edits.set_arguments(call, new, "OpenCV 5 reads no Caffe")
        else:
            before = self.edits.source(call)
            self._name_onnx(reading, weights, conversion.form)
            self.edits.keep_argument(call, reading.weights)
            literal = weights.literals[-1] if weights.literals else None
            argument = self.edits.source(reading.weights)
            if literal is reading.weights:
                argument = _onnx_literal(argument, conversion.form)
            after = f"{self.edits.source(call.func)}({argument})".replace("readNetFromCaffe", "readNetFromONNX")
            self.edits.changes.append(Change(call.lineno, " ".join(before.split()), after, "OpenCV 5 reads no Caffe"))
        if reading.function.endswith("readNetFromCaffe"):
            self._rename_reader(call)

    def _rename_reader(self, call: ast.Call) -> None:
        """readNetFromCaffe to readNetFromONNX, where it is called or where it is imported."""
        if isinstance(call.func, ast.Attribute):
            self.edits.rename(call.func, "readNetFromONNX")
            return
        assert isinstance(call.func, ast.Name)
        for node in ast.walk(self.script.tree):
            if not isinstance(node, ast.ImportFrom) or node.module != "cv2.dnn":
                continue
            for alias in node.names:
                if alias.name == "readNetFromCaffe":
                    name = ast.Name(alias.name, lineno=alias.lineno, col_offset=alias.col_offset)
                    name.end_lineno, name.end_col_offset = alias.lineno, alias.col_offset + len(alias.name)
                    if all(change.before != alias.name for change in self.edits.changes):
                        self.edits.replace(name, "readNetFromONNX", "OpenCV 5 reads no Caffe")
        if call.func.id == "readNetFromCaffe":
            self.edits.rename(call.func, "readNetFromONNX")

    def _name_onnx(self, reading: Reading, weights: Value, form: Form) -> None:
        """The script's own .caffemodel becomes .onnx, wherever it is written."""
        ends = [one for one in weights.literals if str(one.value).endswith(".caffemodel")]
        if weights.known and len(ends) == 1 and str(weights.value).endswith(".caffemodel"):
            literal = ends[0]
            if literal not in self._literals:
                self._literals.add(literal)
                old = self.edits.source(literal)
                new = _onnx_literal(old, form)
                if new == old:
                    self.note(literal.lineno, "the path is written in parts: make it end in .onnx")
                else:
                    self.edits.replace(literal, new, "the converted model")
        elif weights.option is None:
            what = weights.unknown or f"{weights.value!r} does not end in .caffemodel"
            self.note(reading.line, f"the argument that named the caffemodel must now name the .onnx file: {what}")
        if weights.option is not None:
            self.note(weights.option.line, f"{weights.option.name} now takes the .onnx file")

    # What goes in.

    def _preprocessing(self, reading: Reading, conversion: Conversion) -> None:
        net = conversion.net
        name = net.inputs[0] if net is not None and net.inputs else "data"
        shape = net.input_shapes[name] if net is not None and net.inputs else ()
        channels = shape[1] if len(shape) == 4 else None
        shapes: set[tuple[int, int, int, int]] = set()
        for given in reading.inputs:
            line, picture = given.call.lineno, given.picture
            if given.name.known and given.name.value:
                name = str(given.name.value)
            if picture is None:
                text = ast.unparse(given.blob) if given.blob is not None else "nothing"
                conversion.reasons.append((line, f"{text} is not certainly a blobFromImage's result"))
                continue
            try:
                steps = preprocessing_of(picture, self.script.names, name, channels)
            except DataError as error:
                conversion.reasons.append((picture.line, str(error)))
            else:
                if (given.scale.value, given.mean.value) != (1.0, 0.0):
                    conversion.reasons.append((line, "setInput scales or subtracts too"))
                elif (picture.line, steps) not in conversion.preprocessing:
                    conversion.preprocessing.append((picture.line, steps))
            self._about(picture, channels)
            if picture.size.known and tuple(picture.size.value) != (0, 0):
                width, height = map(int, picture.size.value)
                shapes.add((1, channels or 3, height, width))
                if len(shape) == 4 and shape[2:] != (height, width):
                    text = (
                        f"OpenCV resizes the net to the blob's {height}x{width}; the prototxt has {shape[2]}x{shape[3]}"
                    )
                    self.note(picture.line, f"{text} (height x width)")
                    conversion.input_shape = (name, (1, channels or 3, height, width))
            elif net is not None:
                text = "the size of the blob is not certain; give the one used, an ONNX file is of one: --input-shape"
                self.note(picture.line, text)
        if len(shapes) > 1:
            self.note(reading.line, "blobs of several sizes go in: an ONNX file is of one, so convert one for each")
        for line, reason in conversion.reasons:
            self.note(line, f"preprocessing is left to the script, a manifest does not say it: {reason}")

    def _about(self, picture: Picture, channels: int | None) -> None:
        values = (picture.scale, picture.size, picture.mean, picture.swap, picture.crop)
        options = [option for value in values for option in value.options]
        for option in dict.fromkeys(options):
            self.note(option.line, f"{option.name}: its default is taken; another value is another preprocessing")
        if picture.mean.known and isinstance(picture.mean.value, (int, float)) and picture.mean.value and channels != 1:
            text = f"mean={picture.mean.value} is subtracted from the first channel only (a Scalar); that is kept"
            self.note(picture.line, f"{text}; ({picture.mean.value},) * 3 means all")
        if picture.depth.known and picture.depth.value in (0, "cv2.CV_8U"):
            self.note(picture.line, "ddepth=CV_8U: OpenCV 5 refuses bytes for an ONNX input of float32; drop it")

    def _input(self, given: Given, conversion: Conversion) -> None:
        net, call = conversion.net, given.call
        if net is not None and given.name.known and given.name.value and given.name.value not in net.inputs:
            self.note(call.lineno, f"the net has no input {given.name.value!r}; it has {', '.join(net.inputs)}")
        if net is not None and len(net.inputs) > 1 and not given.name.value:
            self.note(call.lineno, f"the net has several inputs, say which one is set: {', '.join(net.inputs)}")
        plain = given.scale.known and given.mean.known and given.scale.value == 1.0
        numbers = given.mean.value if isinstance(given.mean.value, tuple) else (given.mean.value,)
        if plain and not any(numbers):
            return
        why = "OpenCV 5 refuses setInput's scalefactor and mean for ONNX"
        new = self._moved(given)
        if new is None:
            self.note(
                call.lineno, f"{why}: give them to blobFromImage, which computes (pixel - mean) * scalefactor too"
            )
            return
        picture, arguments = new
        self.edits.set_arguments(picture.call, arguments, why)
        kept = [self.edits.source(given.blob)] if given.blob is not None and given.blob is not picture.call else None
        if kept is None:
            self.note(call.lineno, why)
            return
        if given.name.value:
            kept.append(repr(given.name.value))
        self.edits.set_arguments(call, ", ".join(kept), why)

    def _moved(self, given: Given) -> tuple[Picture, str] | None:
        """setInput's scale and mean as arguments of the blobFromImage before it, if that has none of its own."""
        picture = given.picture
        if picture is None or picture.unknown() or given.blob is picture.call or not given.name.known:
            return None
        if not given.scale.known or not given.mean.known or picture.scale.value != 1.0 or any(picture.scalar()):
            return None
        if picture.image is None or picture.crop.value not in (True, False) or picture.depth.value != "CV_32F":
            return None
        mean = given.mean.value if isinstance(given.mean.value, tuple) else (given.mean.value,)
        size = tuple(picture.size.value)
        more = "".join(
            f", {name}=True" for name, value in (("swapRB", picture.swap), ("crop", picture.crop)) if value.value
        )
        image = self.edits.source(picture.image)
        return picture, f"{image}, {given.scale.value!r}, {size!r}, {mean!r}{more}"

    def unused(self) -> None:
        """Options of the command line that only named a prototxt."""
        for reading in self.script.readings:
            value = self.script.names.value(reading.definition)
            if value.option is not None:
                must = " and still required: make it optional or take it out" if value.option.required else ""
                self.note(value.option.line, f"{value.option.name} named the prototxt and is not used any more{must}")


def _path(value: Value, unknown: str) -> str:
    return value.value if value.known and isinstance(value.value, str) and value.value else unknown


def _onnx_literal(text: str, form: Form) -> str:
    """The text of a string that ends in .caffemodel, with the name that the ONNX file gets."""
    head, found, tail = text.rpartition(".caffemodel")
    return f"{head}{form.suffix}.onnx{tail}" if found else text

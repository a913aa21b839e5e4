"""What a Python script does with Caffe models through OpenCV's dnn module, read from its syntax tree; nothing is run.

Source of what the calls mean: OpenCV 4.14, modules/dnn (dnn.hpp, dnn_utils.cpp), and what 4.14 and 5.0 were seen to do.
"""

from __future__ import annotations

import ast
import io
import os
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from caffe_port.errors import DataError, Location
from caffe_port.migration.names import Names, Value
from caffe_port.preprocessing import Preprocessing
from caffe_port.reading import contents

__all__ = ["Forward", "Given", "Note", "Picture", "Reading", "Script", "preprocessing_of", "read_script"]

_PICTURE_CALLS = {"cv2.dnn.blobFromImage": False, "cv2.dnn.blobFromImages": True}
_PARAMETERS = ("image", "scalefactor", "size", "mean", "swapRB", "crop", "ddepth")
_WITH_PARAMS = {"cv2.dnn.blobFromImageWithParams", "cv2.dnn.blobFromImagesWithParams"}
_READERS = {"cv2.dnn.readNetFromCaffe", "cv2.dnn.readNet"}
_HIGH_LEVEL = {
    f"cv2.{prefix}{name}"
    for prefix in ("dnn_", "dnn.")
    for name in ("Model", "ClassificationModel", "DetectionModel", "KeypointsModel", "SegmentationModel")
}
_OTHER_LANGUAGES = {".cpp", ".cc", ".cxx", ".c", ".h", ".hpp", ".java", ".js", ".kt", ".swift", ".cs", ".go"}


@dataclass(frozen=True, slots=True)
class Note:
    """What a person has to know or settle, and the line of the script it is about (0: all of it)."""

    line: int
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A call of blobFromImage or blobFromImages.

    `scale`, `size` ((width, height)), `mean`, `swap`, `crop`, `depth` are as OpenCV has them; `image` is an expression.
    """

    call: ast.Call
    several: bool
    image: ast.expr | None
    scale: Value
    size: Value
    mean: Value
    swap: Value
    crop: Value
    depth: Value

    @property
    def line(self) -> int:
        return self.call.lineno

    def unknown(self) -> list[str]:
        """Why the preprocessing is not certain: a reason for each argument that is not."""
        named = {
            "scalefactor": self.scale,
            "size": self.size,
            "mean": self.mean,
            "swapRB": self.swap,
            "crop": self.crop,
            "ddepth": self.depth,
        }
        return [f"{name}: {value.unknown}" for name, value in named.items() if not value.known]

    def scalar(self) -> tuple[float, float, float]:
        """The mean of three channels. A single number is of the first channel only: that is what OpenCV makes of it."""
        mean = self.mean.value
        numbers = tuple(map(float, mean)) if isinstance(mean, tuple) else (float(mean),)
        first, second, third = (*numbers, 0.0, 0.0, 0.0)[:3]
        return first, second, third


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A call of setInput: which blobFromImage made the blob, if that is certain, and its further arguments."""

    call: ast.Call
    blob: ast.expr | None
    picture: Picture | None
    name: Value
    scale: Value
    mean: Value


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """A call of forward.

    - `names`: what is asked for: None for no argument, a name, or a tuple of names.
    - `of_all`: the getUnconnectedOutLayersNames() it is given.
    - `detections`: lines that take its result for rows of detections, (1, 1, N, 7).
    """

    call: ast.Call
    names: Value
    of_all: ast.Call | None
    detections: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Reading:
    """A call that reads a Caffe model, and what the script does with the net.

    `definition` and `weights` are None where the call has no such argument.
    """

    call: ast.Call
    function: str
    definition: ast.expr | None
    weights: ast.expr | None
    inputs: list[Given] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    others: list[tuple[str, ast.Call]] = field(default_factory=list)
    presumed: bool = False

    @property
    def line(self) -> int:
        return self.call.lineno


@dataclass(slots=True, eq=False)
class Script:
    """A script, its names, and the Caffe models that it reads."""

    path: Path
    text: str
    encoding: str
    tree: ast.Module
    names: Names
    readings: list[Reading]
    notes: list[Note]


def read_script(path: str | os.PathLike[str]) -> Script:
    """What a script does with Caffe models through OpenCV.

    Raises: DataError for a file that cannot be read, that is no Python 3, or that reads no Caffe model by OpenCV.
    """
    file = Path(path)
    text, encoding = _text(file)
    try:
        tree = ast.parse(text)
        names = Names(tree)
        readings, notes = _readings(tree, names)
        if not readings:
            hint = f"; {notes[0].text} (line {notes[0].line})" if notes else ""
            raise DataError(f"{file}: no call reads a Caffe model by OpenCV (readNetFromCaffe, readNet){hint}")
        _uses(tree, names, readings, notes)
    except SyntaxError as error:
        raise DataError(str(_syntax(file, error))) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"{file}: no Python source that can be parsed: {str(error) or 'too large'}") from None
    return Script(file, text, encoding, tree, names, readings, notes)


def _text(file: Path) -> tuple[str, str]:
    if file.suffix.lower() in _OTHER_LANGUAGES:
        raise DataError(f"{file}: only Python scripts are read; docs/opencv-migration.md says what changes")
    if file.suffix.lower() == ".ipynb":
        raise DataError(f"{file}: a notebook; make a script of it first: jupyter nbconvert --to script")
    try:
        content = contents(file)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding), encoding
    except (SyntaxError, ValueError, LookupError) as error:
        raise DataError(f"{file}: no Python source that can be decoded: {error}") from None


_PYTHON_2 = ("Missing parentheses in call to", "multiple exception types must be parenthesized", "leading zeros in")
"""What Python 3 says of print statements, `except A, e` and 0777."""


def _syntax(file: Path, error: SyntaxError) -> str:
    where = Location(str(file), error.lineno or 0, error.offset or 0)
    old = "; it is Python 2, make it Python 3 first" if any(mark in error.msg for mark in _PYTHON_2) else ""
    return f"{where}: no Python 3: {error.msg}{old}"


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    # In the order of the text, by where a call's last name stands: those of a chain begin at the same place.
    return iter(sorted(found, key=lambda call: (call.func.end_lineno or 0, call.func.end_col_offset or 0)))


def _readings(tree: ast.Module, names: Names) -> tuple[list[Reading], list[Note]]:
    readings: list[Reading] = []
    notes: list[Note] = []
    for call in _calls(tree):
        name = names.qualified(call.func)
        if name in _HIGH_LEVEL:
            text = f"{ast.unparse(call.func)} knows Caffe's layers by name and is not migrated; use readNet and forward"
            notes.append(Note(call.lineno, text))
        if name not in _READERS:
            continue
        if any(isinstance(one, ast.Starred) for one in call.args) or any(one.arg is None for one in call.keywords):
            notes.append(Note(call.lineno, f"{ast.unparse(call)}: its arguments cannot be told"))
        elif name == "cv2.dnn.readNetFromCaffe":
            definition = _argument(call, 0, "prototxt", "bufferProto")
            readings.append(Reading(call, name, definition, _argument(call, 1, "caffeModel", "bufferModel")))
        elif (files := _files_of_read_net(call, names)) is not None:
            readings.append(Reading(call, name, *files))
        else:
            what = f"{ast.unparse(call)} reads Caffe models only if its files are such, and that is not certain"
            notes.append(Note(call.lineno, what))
    return readings, notes


def _argument(call: ast.Call, place: int, *keywords: str) -> ast.expr | None:
    if place < len(call.args):
        return call.args[place]
    return next((one.value for one in call.keywords if one.arg in keywords), None)


def _files_of_read_net(call: ast.Call, names: Names) -> tuple[ast.expr | None, ast.expr | None] | None:
    """Definition and weights of readNet, which takes them in either order; None if they are not Caffe's."""
    files = [one for one in (_argument(call, 0, "model"), _argument(call, 1, "config")) if one is not None]
    framework = names.value(_argument(call, 2, "framework"), "")
    suffixes = [str(value.value).lower() if (value := names.value(one)).known else "" for one in files]
    is_caffe = framework.value == "caffe" or any(name.endswith((".caffemodel", ".prototxt")) for name in suffixes)
    if not is_caffe or not files:
        return None
    if suffixes[0].endswith(".prototxt") or (len(files) > 1 and suffixes[1].endswith(".caffemodel")):
        files.reverse()
    weights, definition = (files[0], files[1]) if len(files) > 1 else (files[0], None)
    return (weights, None) if suffixes == [".prototxt"] else (definition, weights)


def _uses(tree: ast.Module, names: Names, readings: list[Reading], notes: list[Note]) -> None:
    methods = {"setInput", "forward", "forwardAsync", "setPreferableBackend", "setPreferableTarget"}
    methods |= {"getLayer", "getLayerId", "getLayerNames", "getUnconnectedOutLayers", "getUnconnectedOutLayersNames"}
    methods |= {"getPerfProfile", "setInputsNames", "setInputShape", "setParam", "getParam", "getMemoryConsumption"}
    pictures = {call: _picture(call, names) for call in _calls(tree) if names.qualified(call.func) in _PICTURE_CALLS}
    for call in _calls(tree):
        if names.qualified(call.func) in _WITH_PARAMS:
            notes.append(Note(call.lineno, "Image2BlobParams is not read here; the call stays as it is"))
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in methods:
            continue
        owner, presumed = _owner(call.func.value, names, readings)
        if owner is None:
            if not presumed:
                continue
            text = f"{ast.unparse(call.func)}: which of the nets this is, is not certain; it is left as it is"
            notes.append(Note(call.lineno, text))
            continue
        owner.presumed |= presumed
        if call.func.attr == "setInput":
            owner.inputs.append(_given(call, names, pictures))
        elif call.func.attr == "forward":
            owner.forwards.append(_forward(tree, call, names))
        else:
            owner.others.append((call.func.attr, call))


def _owner(node: ast.expr, names: Names, readings: list[Reading]) -> tuple[Reading | None, bool]:
    """Whose method is called, and whether that is only presumed: since the script has one net, and no other object that
    is known. None and True: of one of several nets."""
    made = _made_by(node, names, 0)
    if made:
        found = [one for one in readings if any(one.call is call for call in made)]
        return (found[0], False) if len(found) == 1 and len(made) == 1 else (None, bool(found))
    bound = names.bindings(node)
    if any(value is not None for value, _ in bound) or isinstance(node, ast.Call):
        return None, False
    return (readings[0], True) if len(readings) == 1 else (None, True)


def _made_by(node: ast.expr, names: Names, depth: int) -> list[ast.Call]:
    """The calls that read the net which an expression is."""
    if depth > 20:
        return []
    if isinstance(node, ast.Call):
        if names.qualified(node.func) in _READERS:
            return [node]
        result = names.returned(node)
        return [] if result is None else _made_by(result, names, depth + 1)
    found: list[ast.Call] = []
    for value, _ in names.bindings(node):
        if value is not None:
            found += [call for call in _made_by(value, names, depth + 1) if call not in found]
    return found


def _picture(call: ast.Call, names: Names) -> Picture:
    def argument(place: int, default: object) -> Value:
        return names.value(_argument(call, place, _PARAMETERS[place]), default)

    size = argument(2, (0, 0))
    if size.known and not (
        isinstance(size.value, tuple)
        and len(size.value) == 2
        and all(isinstance(one, (int, float)) for one in size.value)
    ):
        size = Value(unknown=f"{size.value!r} is no width and height")
    mean = argument(3, (0.0, 0.0, 0.0))
    numbers = mean.value if isinstance(mean.value, tuple) else (mean.value,)
    if mean.known and not all(isinstance(one, (int, float)) for one in numbers):
        mean = Value(unknown=f"{mean.value!r} are no numbers")
    scale = argument(1, 1.0)
    if scale.known and not isinstance(scale.value, (int, float)):
        scale = Value(unknown=f"{scale.value!r} is no number")
    several = _PICTURE_CALLS[names.qualified(call.func) or ""]
    image = _argument(call, 0, "images" if several else "image")
    return Picture(
        call, several, image, scale, size, mean, argument(4, False), argument(5, False), argument(6, "CV_32F")
    )


def _given(call: ast.Call, names: Names, pictures: dict[ast.Call, Picture]) -> Given:
    blob = _argument(call, 0, "blob")
    return Given(
        call,
        blob,
        _last_picture(blob, call, names, pictures),
        names.value(_argument(call, 1, "name"), ""),
        names.value(_argument(call, 2, "scalefactor"), 1.0),
        names.value(_argument(call, 3, "mean"), 0.0),
    )


def _last_picture(
    blob: ast.expr | None, call: ast.Call, names: Names, pictures: dict[ast.Call, Picture]
) -> Picture | None:
    """The blobFromImage whose result a setInput gets: the call itself, or the last one above that is assigned."""
    if isinstance(blob, ast.Call):
        return pictures.get(blob)
    if blob is None:
        return None
    above = [(value, line) for value, line in names.bindings(blob) if line <= call.lineno]
    if not above:
        return None
    value, _ = max(above, key=lambda pair: pair[1])
    return pictures.get(value) if isinstance(value, ast.Call) else None


def _forward(tree: ast.Module, call: ast.Call, names: Names) -> Forward:
    asked = _argument(call, 0, "outputName", "outBlobNames", "outputBlobs")
    inner = asked
    if isinstance(asked, ast.Name):
        values = [value for value, _ in names.bindings(asked)]
        inner = values[0] if len(values) == 1 else asked
    of_all = None
    if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
        of_all = inner if inner.func.attr == "getUnconnectedOutLayersNames" else None
    return Forward(call, names.value(asked), of_all, _detections(tree, call, names))


def _detections(tree: ast.Module, call: ast.Call, names: Names) -> tuple[int, ...]:
    """Lines like detections[0, 0, i, 2], where `detections` is what the call gave."""
    statement = names.statement_of.get(call)
    if not isinstance(statement, ast.Assign) or statement.value is not call:
        return ()
    target = statement.targets[0]
    if not isinstance(target, (ast.Name, ast.Attribute)):
        return ()
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple) and len(node.slice.elts) == 4:
            first = [names.value(one) for one in node.slice.elts[:2]]
            if ast.unparse(node.value) == ast.unparse(target) and all(one.known and one.value == 0 for one in first):
                lines.add(node.lineno)
    return tuple(sorted(lines))


def preprocessing_of(picture: Picture, names: Names, input_blob: str, channels: int | None) -> Preprocessing:
    """What a manifest says of a blobFromImage: the same steps, see docs/opencv-migration.md for what may differ.

    `channels`: of the net's input, None if that is not known (three then).
    Raises: DataError for what is not certain, or what a manifest cannot say.
    """
    if reasons := picture.unknown():
        raise DataError("; ".join(reasons))
    width, height = (int(one) for one in picture.size.value)
    resize = (height, width) if (width, height) != (0, 0) else None
    if picture.crop.value and resize is not None:
        raise DataError("crop=True keeps the picture's proportions and cuts the centre, which a manifest cannot say")
    source = _source(picture.image, picture.line, names)
    if isinstance(source, ast.Call) and names.qualified(source.func) == "cv2.resize":
        first = names.value(_argument(source, 1, "dsize"))
        kind = names.value(_argument(source, 5, "interpolation"), "cv2.INTER_LINEAR")
        whole = (width, height) if resize is not None else first.value
        if not first.known or first.value != whole or kind.value != "cv2.INTER_LINEAR":
            raise DataError(f"cv2.resize at line {source.lineno} comes first, which a manifest cannot say")
        resize = (first.value[1], first.value[0])
        source = _source(_argument(source, 0, "src"), source.lineno, names)
    if computed := _computed(source, picture.line, names):
        raise DataError(f"{computed} is computed before")
    if channels == 1 and not _is_grey(source, names):
        raise DataError("the net takes one channel, and which one of the picture the script gives is not certain")
    mean = picture.scalar()
    return Preprocessing(
        input_blob=input_blob,
        resize=resize,
        interpolation="opencv",
        channel_order="grey" if channels == 1 else "RGB" if picture.swap.value else "BGR",
        mean=mean[:1] if channels == 1 or len(set(mean)) == 1 else mean,
        scale=float(picture.scale.value),
    )


def _source(image: ast.expr | None, line: int, names: Names) -> ast.expr | None:
    """The expression that an image was assigned last, above a line."""
    if image is None or not (above := [pair for pair in names.bindings(image) if pair[1] <= line]):
        return image
    value, _ = max(above, key=lambda pair: pair[1])
    return value or image


def _computed(node: ast.expr | None, line: int, names: Names) -> str:
    """The arithmetic an image comes from, such as image / 255 in (image / 255).astype(t)[0]; "" if there is none."""
    for _ in range(20):
        if isinstance(node, ast.BinOp):
            return ast.unparse(node)
        if isinstance(node, ast.Name):
            changed = [at for value, at in names.bindings(node) if at <= line and value is None]
            if last := next(
                (names.augmented[at] for at in sorted(changed, reverse=True) if at in names.augmented), None
            ):
                return ast.unparse(last)
            if (following := _source(node, line, names)) is node:
                break
            node = following
        elif isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        else:
            break
    return ""


def _is_grey(image: ast.expr | None, names: Names) -> bool:
    """Whether an image is certainly the grey version of a picture."""
    if not isinstance(image, ast.Call):
        return False
    mode = names.value(_argument(image, 1, "code", "flags"))
    if names.qualified(image.func) == "cv2.cvtColor":
        return bool(mode.value == "cv2.COLOR_BGR2GRAY")
    return names.qualified(image.func) == "cv2.imread" and mode.value in (0, "cv2.IMREAD_GRAYSCALE")

"""A model that a script reads, as it is to be converted: the command, the Python, the manifest."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from caffe_port.artifacts.form import Form
from caffe_port.preprocessing import Preprocessing

if TYPE_CHECKING:
    from caffe_port.net import Net

__all__ = ["Conversion"]


@dataclass(slots=True, eq=False)
class Conversion:
    """A model to convert, and what is known of it.

    - `definition`, `weights`, `onnx`: paths as the script has them; a word in capitals where it does not say.
    - `form`: of the ONNX file: of batch 1, or open where blobFromImages makes the input.
    - `net`: None where the prototxt was not found or cannot be read.
    - `extra_outputs`: blobs that the script asks for and that are no outputs of the net.
    - `preprocessing`: of each blobFromImage, with its line; `reasons` where a manifest cannot say it.
    """

    line: int
    definition: str
    weights: str
    onnx: str
    form: Form
    net: Net | None = None
    input_shape: tuple[str, tuple[int, int, int, int]] | None = None
    outputs: tuple[str, ...] = ()
    extra_outputs: list[str] = field(default_factory=list)
    detections: bool = False
    preprocessing: list[tuple[int, Preprocessing]] = field(default_factory=list)
    reasons: list[tuple[int, str]] = field(default_factory=list)

    @property
    def stem(self) -> str:
        return PurePosixPath(self.weights).stem

    def manifest(self) -> Preprocessing | None:
        """The preprocessing, if all calls agree."""
        steps = [one for _, one in self.preprocessing]
        return steps[0] if steps and all(one == steps[0] for one in steps) and not self.reasons else None

    def command(self, manifests: str | None = None) -> str:
        """What converts the model; with `manifests`, the folder that its manifest is in, it goes into the file too."""
        words = ["caffe-port", "convert", _no_option(self.definition), _no_option(self.weights), "--to", "onnx"]
        if self.form.batch is not None:
            words += ["--batch", str(self.form.batch)]
        if self.input_shape is not None:
            name, shape = self.input_shape
            words += _option("--input-shape", f"{name}={','.join(map(str, shape))}")
        if manifests is not None and self.manifest() is not None:
            words += ["--manifest", str(Path(manifests, self.manifest_name))]
        words += [*_option("--name", self.stem), "-o", _no_option(str(PurePosixPath(self.onnx).parent))]
        return shlex.join(words)

    def code(self) -> str:
        """The Python that converts a model whose script asks for blobs inside it; "" if the command does."""
        if not self.extra_outputs:
            return ""
        batch = "" if self.form.batch is None else f", batch={self.form.batch}"
        shapes = "" if self.input_shape is None else f", input_shapes={dict([self.input_shape])}"
        return (
            f"net = cp.load({self.definition!r}, {self.weights!r}{shapes}); "
            f"onnx.save(cp.to_onnx(net{batch}, extra_outputs={self.extra_outputs}), {self.onnx!r})"
        )

    @property
    def manifest_name(self) -> str:
        # A backslash is part of a name on one system, and leads into a folder on another.
        return re.sub(r"[:/\\]", "_", self.stem) + ".preprocessing.json"

    def as_json(self, manifests: str | None) -> dict[str, Any]:
        steps = self.manifest()
        return {
            "line": self.line,
            "definition": self.definition,
            "weights": self.weights,
            "onnx": self.onnx,
            "command": self.command(manifests),
            "code": self.code() or None,
            "definition_read": self.net is not None,
            "outputs": list(self.outputs),
            "detections": self.detections,
            "manifest": None if steps is None else steps.as_json(),
            "preprocessing": [{"line": line, **steps.as_json()} for line, steps in self.preprocessing]
            + [{"line": line, "unknown": reason} for line, reason in self.reasons],
        }


def _no_option(path: str) -> str:
    """A path as an argument: a script may call its file `--plugin=x.py`."""
    return f"./{path}" if path.startswith("-") else path


def _option(name: str, value: str) -> list[str]:
    return [f"{name}={value}"] if value.startswith("-") else [name, value]

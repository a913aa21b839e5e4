"""What can be asked for: the targets, and the forms of the net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from caffe_port.errors import GraphError, Problems
from caffe_port.passes.detection_boxes import DETECTIONS
from caffe_port.preprocessing import Preprocessing

__all__ = ["BUDGETS", "DEFAULT_TARGETS", "ONNX_TARGETS", "TARGETS", "Form"]

TARGETS = {
    "onnx": "ONNX",
    "ort": "onnxruntime's own format",
    "openvino": "OpenVINO IR",
    "pytorch": "torch.export program and state dict",
    "pytorch-source": "a readable PyTorch module and its weights",
    "caffemodel": "back to Caffe's binary weights",
    "caffemodel-h5": "back to Caffe's HDF5 weights",
}
"""What `convert` writes, and what that is."""

DEFAULT_TARGETS = ("onnx", "pytorch")

ONNX_TARGETS = ("onnx", "ort", "openvino")
"""Those made from one ONNX model, whose form can be chosen."""

BUDGETS = {"fp16 weights": 1e-3, "fp16": 1e-2, "int8": 5e-2, "image": 1e-3}
"""The budget where none is given, of what changes numbers: the largest error of an output as a share of its largest
magnitude. The largest of those that apply counts."""


@dataclass(frozen=True, slots=True)
class Form:
    """In which form a net is wanted; as it stands here: Caffe's own graph in float32.

    - `fold`: BatchNorm, Scale, Bias and consecutive linear layers folded (`passes.fold_linear`).
    - `half`: "weights" stores them in 16 bits and computes in 32; "all" computes in 16 too.
    - `int8`: static 8-bit quantization; it folds as well.
    - `preprocessing`: picture in (uint8, height x width x RGB), the model's own preprocessing inside.
    - `opset`: of ONNX; None is `converters.to_onnx.OPSET`.
    - `batch`: the size, or "symbolic" (an error where the net fixes it); None is symbolic where the net allows it.
    - `external_data`: weights beside the .onnx; None where they would not fit into it (2 GiB).
    - `detection`: "rows" as Caffe gives them, or the "boxes" and scores that they are chosen from
      (`passes.detection_boxes`).
    """

    fold: bool = False
    half: Literal["weights", "all"] | None = None
    int8: bool = False
    preprocessing: Preprocessing | None = None
    opset: int | None = None
    batch: int | Literal["symbolic"] | None = None
    external_data: bool | None = None
    detection: Literal["rows", "boxes"] = "rows"

    @property
    def folds(self) -> bool:
        """Whether layers are folded: an integer kernel has no BatchNorm to follow."""
        return self.fold or self.int8

    @property
    def changes_numbers(self) -> tuple[str, ...]:
        """What makes the numbers others than float32 gives, by the names BUDGETS has."""
        half = {None: (), "weights": ("fp16 weights",), "all": ("fp16",)}[self.half]
        return (*half, *(("int8",) if self.int8 else ()), *(("image",) if self.preprocessing else ()))

    @property
    def suffix(self) -> str:
        """What the files' names have behind the model's, so that no form overwrites another."""
        parts = [
            "folded" if self.fold and not self.int8 else "",
            {None: "", "weights": "fp16weights", "all": "fp16"}[self.half],
            "int8" if self.int8 else "",
            "image" if self.preprocessing else "",
            f"opset{self.opset}" if self.opset else "",
            f"batch{self.batch}" if isinstance(self.batch, int) else "",
            "boxes" if self.detection == "boxes" else "",
        ]
        return "".join(f"_{part}" for part in parts if part)

    def check(self, targets: Sequence[str]) -> None:
        """Raises GraphError, for all at once, for targets that do not exist and forms they cannot have."""
        problems = Problems()
        unknown = [target for target in targets if target not in TARGETS]
        if unknown or not targets:
            problems.add(GraphError, f"unknown target {', '.join(unknown) or 'none'}; known: {', '.join(TARGETS)}")
        others = [target for target in targets if target in TARGETS and target not in ONNX_TARGETS]
        for what, asked in (
            ("half precision", self.half is not None),
            ("int8", self.int8),
            ("preprocessing inside", self.preprocessing is not None),
            ("an opset", self.opset is not None),
            ("external data", self.external_data is not None),
        ):
            if asked and others:
                problems.add(GraphError, f"{what} is a form of ONNX; {', '.join(others)} cannot have it")
        returning = [target for target in targets if target.startswith("caffemodel")]
        if returning and (self.fold or self.batch is not None or self.detection != "rows"):
            text = "holds the weights of the net as it is: no fold, no batch, no boxes"
            problems.add(GraphError, f"{', '.join(returning)} {text}")
        if self.detection not in DETECTIONS:
            problems.add(GraphError, f"detection must be {' or '.join(DETECTIONS)}, not {self.detection!r}")
        if self.half and self.int8:
            problems.add(GraphError, "half precision and int8 exclude each other")
        if isinstance(self.batch, int) and self.batch < 1:
            problems.add(GraphError, f"a batch of {self.batch} is none")
        problems.raise_if_any()

    def as_json(self) -> dict[str, Any]:
        """What differs from Caffe's own graph in float32."""
        return {
            **({"fold": True} if self.folds else {}),
            **({"half": self.half} if self.half else {}),
            **({"int8": True} if self.int8 else {}),
            **({"preprocessing": self.preprocessing.as_json()} if self.preprocessing else {}),
            **({"opset": self.opset} if self.opset else {}),
            **({"batch": self.batch} if self.batch else {}),
            **({"external_data": True} if self.external_data else {}),
            **({"detection": self.detection} if self.detection != "rows" else {}),
        }

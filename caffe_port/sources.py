"""What a user names on the command line → a prototxt, weights, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_port import recording
from caffe_port.errors import FetchError
from caffe_port.loading import load
from caffe_port.models import RELEASED, ReleasedModel
from caffe_port.models.fetch import fetch
from caffe_port.models.progress import Progress
from caffe_port.net import Net

__all__ = ["ModelFiles", "locate"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model. `released` is set if the weights are, byte for byte, those of a released model."""

    name: str
    definition: Path
    weights: tuple[Path, ...]
    released: ReleasedModel | None = None

    def load(
        self,
        *,
        phase: str = "TEST",
        level: int = 0,
        stages: Sequence[str] = (),
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        allow_missing_weights: bool = False,
        refuse_unused_weights: bool = False,
        allow_non_finite: bool = False,
        allow_unknown: bool = False,
        allow_python_layers: bool = False,
        dialect: str | None = None,
    ) -> Net:
        """The net. See `caffe_port.loading.load`."""
        return load(
            self.definition,
            self.weights or None,
            phase=phase,
            level=level,
            stages=stages,
            input_shapes=input_shapes,
            allow_missing_weights=allow_missing_weights,
            refuse_unused_weights=refuse_unused_weights,
            allow_non_finite=allow_non_finite,
            allow_unknown=allow_unknown,
            dialect=dialect,
            allow_python_layers=allow_python_layers,
        )

    def recordings(self) -> list[Path]:
        """Shipped recordings of this model, if it is a released one."""
        return [] if self.released is None else recording.available(self.released.name)


def locate(
    model: str,
    weights: Sequence[str | os.PathLike[str]] = (),
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> ModelFiles:
    """Finds a model: a released one by name, a folder, a prototxt with or without weights, or a caffemodel alone.

    Raises: FetchError if there is no such thing, or a released model cannot be had.
    """
    path = Path(model)
    if weights or (path.is_file() and model not in RELEASED):
        files = tuple(Path(name) for name in weights)
        for file in (path, *files):
            if not file.is_file():
                raise FetchError(f"{file}: {_what_else(file)}; give a prototxt, then its weights")
        return ModelFiles(path.stem, path, files, _recognized(files or (path,)))
    if not path.is_dir() and model not in RELEASED and (path.suffix or os.sep in model):
        raise FetchError(f"{model}: {_what_else(path)}")
    found = fetch(path if path.is_dir() and model not in RELEASED else model, offline=offline, progress=progress)
    name = found.released.name if found.released is not None else found.prototxt.stem
    return ModelFiles(name, found.prototxt, (found.caffemodel,), found.released)


def _what_else(path: Path) -> str:
    """What is under a name, where it is no file."""
    if path.is_dir():
        return "a folder"
    return "a pipe or a device, not a file: save what it gives to a file" if path.exists() else "no such file"


def _recognized(files: Sequence[Path]) -> ReleasedModel | None:
    """The released model whose weights the (last) file is."""
    from caffe_port.proto.files import sha256_of

    file = files[-1]
    for released in RELEASED.values():
        if file.stat().st_size == released.caffemodel.size and sha256_of(file) == released.caffemodel.sha256:
            return released
    return None

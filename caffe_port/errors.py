"""Every error caffe_port raises on purpose, and how several of them become one report.

A problem knows where it is (file, line, layer) and what to do about it. Code that can find more than one problem
collects them in `Problems` and raises once, so that a user sees all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from caffe_port.printing import printable

__all__ = [
    "ArtifactError",
    "CaffePortError",
    "DataError",
    "FetchError",
    "GraphError",
    "ImageError",
    "LimitError",
    "Location",
    "MissingDependency",
    "ParityError",
    "PluginError",
    "Problem",
    "Problems",
    "PrototxtError",
    "RecordingError",
    "ShapeError",
    "UnsupportedLayer",
    "UnsupportedParameter",
    "WeightValuesError",
    "WeightsError",
]


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a text file; lines and columns count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        if not self.column:
            return f"{self.file}:{self.line}"
        return f"{self.file}:{self.line}:{self.column}"


class CaffePortError(Exception):
    """Base of every error raised on purpose. `str()` is one line a problem, fit to be shown to a user as it is:
    whatever a name from a file has in it, nothing in it steers a terminal.

    `problems` are these one by one, where they were collected.
    """

    problems: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class PrototxtError(CaffePortError):
    """A text file that is no valid prototxt: syntax, unknown field, wrong value."""


class WeightsError(CaffePortError):
    """A weight file that cannot be read, or whose blobs do not fit the net."""


class WeightValuesError(WeightsError):
    """Learned blobs with values that are NaN or infinite."""


class GraphError(CaffePortError):
    """Layers that do not make a net: unknown bottom, top produced twice, wrong number of bottoms."""


class ShapeError(CaffePortError):
    """A shape that a layer, or a caller's input, does not accept."""


class UnsupportedLayer(CaffePortError):
    """A layer type nobody here knows, or one that a target format cannot express."""


class UnsupportedParameter(CaffePortError):
    """A layer parameter with a value that Caffe refuses, or that no code here looks at."""


class RecordingError(CaffePortError):
    """A recording that is damaged, incomplete, or of another net."""


class ParityError(CaffePortError):
    """A comparison with recorded outputs that failed."""


class ImageError(CaffePortError):
    """An image that cannot be decoded."""


class LimitError(CaffePortError):
    """More than one of the limits of `caffe_port.limits` allows, or a limit that is none."""


class DataError(CaffePortError):
    """A data source (a database, a list of images, HDF5 files) that cannot be read, or does not fit its layer."""


class FetchError(CaffePortError):
    """A released model that could not be obtained, or whose bytes are not the released ones."""


class ArtifactError(CaffePortError):
    """An output file that could not be written, or an artifact that cannot be read back."""


class PluginError(CaffePortError):
    """A plug-in that cannot be loaded: its own code fails, or it declares what is there already."""


class MissingDependency(CaffePortError):
    """An optional library is needed and not installed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: its kind, what it is, where, in which layer, and what to do."""

    kind: type[CaffePortError]
    message: str
    layer: str | None = None
    location: Location | None = None
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        layer = f"layer {self.layer!r}: " if self.layer is not None else ""
        hint = f" ({self.hint})" if self.hint else ""
        return printable(f"{where}{layer}{self.message}{hint}")


@dataclass(slots=True)
class Problems:
    """Collects problems so that all of them are reported at once."""

    found: list[Problem] = field(default_factory=list)

    def add(
        self,
        kind: type[CaffePortError],
        message: str,
        *,
        layer: str | None = None,
        location: Location | None = None,
        hint: str = "",
    ) -> None:
        self.found.append(Problem(kind, message, layer, location, hint))

    def __bool__(self) -> bool:
        return bool(self.found)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.found)

    def raise_if_any(self) -> None:
        """Raises one error for all problems found: of their common kind, else of the first one's."""
        if not self.found:
            return
        text = str(self.found[0])
        if len(self.found) > 1:
            text = "\n".join([f"{len(self.found)} problems:", *(f"  {problem}" for problem in self.found)])
        error = self.found[0].kind(text)
        error.problems = tuple(self.found)
        raise error

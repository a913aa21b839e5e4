"""How much of anything a file from a stranger may ask for before it is refused.

    import caffe_port as cp

    cp.limits.adjust(definition_bytes=2**26)  # in this process, from here on
    with cp.limits.adjusted(layers=10**6):  # for a while
        net = cp.load("huge.prototxt")

The command takes `--limit NAME=VALUE`, and a process `CAFFE_PORT_LIMITS=NAME=VALUE,NAME=VALUE` in its environment. A
limit is no promise that all below it fits into memory, but a bound on what a small file can do. docs/limits.md lists
them. What Caffe itself refuses (`MAX_AXES`, `MAX_ELEMENTS`) is not adjustable: those are facts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_port.errors import LimitError

__all__ = ["ENVIRONMENT", "MAX_AXES", "MAX_ELEMENTS", "AdjustableLimits", "Limits", "hint", "limits", "meanings"]

MAX_AXES = 32
"""Caffe refuses a blob of more axes (kMaxBlobAxes)."""

MAX_ELEMENTS = 2**31 - 1
"""Caffe counts the elements of a blob in an int and refuses more; protobuf's C++ reads no message of more bytes."""

ENVIRONMENT = "CAFFE_PORT_LIMITS"


def _limit(default: int, meaning: str) -> Any:
    return dataclasses.field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Limits:
    """Every adjustable limit; whole numbers of at least 1."""

    definition_bytes: int = _limit(16 * 2**20, "bytes of a prototxt, or of what a caffemodel has beside its blobs")
    layers: int = _limit(
        10_000, "layers of a net as its file has them, and entries of whatever else is repeated in a prototxt"
    )
    layer_blobs: int = _limit(1000, "learned blobs of a layer in a weight file")
    history_blobs: int = _limit(40_000, "blobs of a solver's state")
    nesting: int = _limit(100, "messages in each other in a prototxt, groups in each other in a caffemodel")
    problems: int = _limit(50, "problems that are told of one file; then the reading stops")
    hdf5_nesting: int = _limit(32, "groups in each other in an HDF5 file")
    net_bytes: int = _limit(16 * 2**30, "bytes of all blobs of a net, and of its learned ones, to run or convert it")
    text_bytes: int = _limit(256 * 2**20, "bytes of a list, a manifest or another text file, a prototxt aside")
    json_depth: int = _limit(100, "values in each other in a JSON file")
    file_bytes: int = _limit(256 * 2**20, "bytes of an image file")
    line_bytes: int = _limit(16 * 2**20, "characters of a line of a table in CSV")
    image_pixels: int = _limit(178_956_970, "pixels of an image, decoded")
    unpacked_bytes: int = _limit(2 * 2**30, "bytes that a packed file (npz, zip, gzip) may unpack to")
    unpacked_free: int = _limit(64 * 2**20, "bytes that a packed file may always unpack to, however small it is")
    unpacked_ratio: int = _limit(200, "times its own size that a packed file may unpack to, beyond unpacked_free")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LimitError(f"limit {spec.name}: {value!r} is no whole number of at least 1")


class AdjustableLimits:
    """The limits that hold now, each an attribute: the defaults, with what the environment and `adjust` changed.

    Raises: LimitError at the first look where the environment's are malformed.
    """

    _current: Limits | None = None

    def __getattr__(self, name: str) -> int:
        if name.startswith("_"):  # which Python asks for, before anybody can be told of a malformed environment
            raise AttributeError(name)
        try:
            value: int = getattr(self._current or self.current(), name)
        except AttributeError:
            raise AttributeError(f"there is no limit {name!r}") from None
        return value

    def current(self) -> Limits:
        """All of them."""
        if self._current is None:
            given = _parsed(os.environ.get(ENVIRONMENT, "").split(","), ENVIRONMENT)
            self._current = _renewed(Limits(), given)
        return self._current

    def adjust(self, **changes: int) -> None:
        """Sets limits by name, in this process.

        Raises: LimitError for a name there is not, or a value that is no whole number of at least 1.
        """
        self._current = _renewed(self.current(), changes)

    @contextlib.contextmanager
    def adjusted(self, **changes: int) -> Iterator[None]:
        """Limits set by name as long as the block lasts, in all threads. Raises: LimitError, as `adjust`."""
        before = self.current()
        self._current = _renewed(before, changes)
        try:
            yield
        finally:
            self._current = before

    def adjust_from(self, given: Sequence[str], what: str = "--limit") -> None:
        """Sets limits from `NAME=VALUE` each, for this process and those that it starts.

        what: where they come from, for the errors. Raises: LimitError, as `adjust`, and for a malformed one.
        """
        self.current()  # what is wrong with the environment's is told too
        changes = _parsed(given, what)
        if changes:
            self.adjust(**changes)
            inherited = [entry for entry in os.environ.get(ENVIRONMENT, "").split(",") if entry.strip()]
            os.environ[ENVIRONMENT] = ",".join([*inherited, *(f"{name}={value}" for name, value in changes.items())])


limits = AdjustableLimits()
"""The one instance that every reader looks at."""


def __getattr__(name: str) -> Any:
    """`cp.limits` is this module; what it has not itself, `limits` has."""
    return getattr(limits, name)


def hint(name: str) -> str:
    """What a user can do who trusts the file: raise the limit of that name."""
    return f"the limit {name} is {getattr(limits, name)}; where the file is trusted: --limit {name}=N"


def meanings() -> dict[str, tuple[int, str]]:
    """By name, the default of each limit and what it counts."""
    defaults = Limits()
    return {spec.name: (getattr(defaults, spec.name), spec.metadata["meaning"]) for spec in dataclasses.fields(Limits)}


def _renewed(limits: Limits, changes: dict[str, int]) -> Limits:
    known = meanings()
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise LimitError(f"there is no limit {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return dataclasses.replace(limits, **changes)


def _parsed(given: Sequence[str], what: str) -> dict[str, int]:
    changes: dict[str, int] = {}
    for entry in given:
        if not entry.strip():
            continue
        name, equals, value = (part.strip() for part in entry.partition("="))
        # int() takes more than digits, and refuses thousands of them.
        if not name or not equals or not (value.isascii() and value.isdigit() and len(value) <= 18):
            raise LimitError(f"{what}: {entry[:100]!r}: give it as NAME=VALUE, the value a whole number")
        changes[name] = int(value)
    return changes

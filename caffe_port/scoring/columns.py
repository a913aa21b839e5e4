"""What of a row is written: its columns, their values, and how a name is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from caffe_port.errors import GraphError
from caffe_port.scoring.items import Row

__all__ = ["Columns", "Value", "written_name"]

Value = str | float | bool | None
"""Of a column. None is an empty field in CSV, and null in JSON and Parquet."""


def written_name(name: str) -> str:
    """A name as outputs have it: itself, unless it is no text.

    Names are bytes on most systems. One that is no valid UTF-8 is written as `bytes:` and its bytes, percent-encoded
    but for letters, digits and `_.-~/!`; so is one that itself begins with `bytes:`. `urllib.parse.unquote_to_bytes` of
    what follows `bytes:` gives the bytes back, so different names stay different.
    """
    if name.isascii() and not name.startswith("bytes:"):
        return name
    raw = name.encode("utf-8", "surrogateescape" if _only_escapes(name) else "surrogatepass")
    try:
        if not name.startswith("bytes:"):
            return raw.decode()
    except UnicodeDecodeError:
        pass
    return "bytes:" + quote_from_bytes(raw, safe="/!")


def _only_escapes(name: str) -> bool:
    """Whether all surrogates are bytes that could not be decoded. Names on Windows can have others."""
    return all("\udc80" <= letter <= "\udcff" for letter in name if "\ud800" <= letter <= "\udfff")


@dataclass(frozen=True, slots=True)
class Columns:
    """What of a row is written.

    - `model`: its name; `labels`: of the probabilities.
    - `score_index`: the label whose probability is the score; None: the score is the highest probability.
    - `top_k`: the so many likeliest labels and their probabilities, as `label_1`, `probability_1`, `label_2`, …
    - `probabilities`: a column `p_LABEL` for each label.
    - `flag`: says of a score whether it is flagged; None: there is no column `flagged`.

    Raises: GraphError if `top_k` is more than there are labels, or two columns would have the same name.
    """

    model: str
    labels: tuple[str, ...]
    score_index: int | None
    top_k: int = 0
    probabilities: bool = False
    flag: Callable[[float], bool] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.top_k <= len(self.labels):
            raise GraphError(f"--top-k {self.top_k}: the model has {len(self.labels)} labels")
        if len(set(self.names)) < len(self.names):
            raise GraphError("two labels of the model have the same name, so --probabilities cannot name columns by it")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in their order."""
        names = ["image", "score"]
        if self.flag is not None:
            names.append("flagged")
        for k in range(1, self.top_k + 1):
            names += [f"label_{k}", f"probability_{k}"]
        if self.probabilities:
            names += [f"p_{label}" for label in self.labels]
        return (*names, "error", "model")

    def values(self, row: Row) -> list[Value]:
        """A row's value of each column. Raises: GraphError if it has not a probability a label."""
        name = written_name(row.name)
        if not row.ok:
            missing: list[Value] = [None] * (len(self.names) - 3)
            reason = row.error.removeprefix(f"{row.name}: ")
            return [name, *missing, reason.encode(errors="backslashreplace").decode(), self.model]
        if len(row.probabilities) != len(self.labels):
            raise GraphError(f"{len(row.probabilities)} probabilities of {len(self.labels)} labels")
        score = max(row.probabilities) if self.score_index is None else row.probabilities[self.score_index]
        values: list[Value] = [name, score]
        if self.flag is not None:
            values.append(self.flag(score))
        if self.top_k:
            order = sorted(range(len(self.labels)), key=lambda i: (-row.probabilities[i], i))
            for i in order[: self.top_k]:
                values += [self.labels[i], row.probabilities[i]]
        if self.probabilities:
            values += row.probabilities
        return [*values, None, self.model]

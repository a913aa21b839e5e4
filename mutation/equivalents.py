"""The mutants that no test can tell from the original, with the reason, from equivalent.txt.

An entry names a function, the line as it stands and as the mutant has it, and why both do the same:

    caffe_port.shapes canonical_axis
    - if axis < 0:
    + if axis <= 0:
    = why nobody can see it

Several `+` lines share a reason. Entries do not depend on line numbers; a line that stands twice in one function is
meant in both places.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FILE", "Change", "read"]

FILE = Path(__file__).parent / "equivalent.txt"


@dataclass(frozen=True, slots=True)
class Change:
    """What a mutant changes; the lines without indentation, several of them joined by a space."""

    module: str
    function: str
    before: str
    after: str


def read(file: Path = FILE) -> dict[Change, str]:
    """The reason for each equivalent mutant.

    Raises: ValueError for an entry that is not of the form above, or that stands twice.
    """
    reasons: dict[Change, str] = {}
    text = "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    for entry in filter(None, (block.strip() for block in text.split("\n\n"))):
        head, *lines = entry.splitlines()
        module, _, function = head.partition(" ")
        marked = [(line[:2], line[2:]) for line in lines]
        marks = "".join(mark[:1] for mark, _ in marked)
        if not function or marks != "-" + "+" * (len(marks) - 2) + "=" or len(marks) < 3:
            raise ValueError(f"{file.name}: an entry has a head, a line -, lines + and a line =:\n{entry}")
        for _, after in marked[1:-1]:
            change = Change(module, function, marked[0][1], after)
            if change in reasons:
                raise ValueError(f"{file.name}: twice:\n{entry}")
            reasons[change] = marked[-1][1]
    return reasons

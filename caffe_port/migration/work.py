"""What the parts of a plan share: the script, its changed text, and the notes."""

from __future__ import annotations

from dataclasses import dataclass, field

from caffe_port.migration.edits import Edits
from caffe_port.migration.opencv import Note, Script

__all__ = ["Work"]


@dataclass(slots=True, eq=False)
class Work:
    """A script, the changes to its text, and what is to be said of it."""

    script: Script
    edits: Edits
    notes: list[Note] = field(default_factory=list)

    def note(self, line: int, text: str) -> None:
        """Says something of a line."""
        self.notes.append(Note(line, text))

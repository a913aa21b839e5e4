"""The list of equivalent mutants stays in step with the modules. `make mutation` makes the mutants."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutation import equivalents


def source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


def test_every_equivalent_mutant_is_of_a_line_that_there_is() -> None:
    changes = equivalents.read()
    assert changes
    for change, reason in changes.items():
        stripped = " ".join(line.strip() for line in source(change.module).splitlines())
        assert change.before in stripped, change
        assert change.after != change.before
        assert len(reason.split()) > 2, change


@pytest.mark.parametrize(
    "entry",
    [
        "caffe_port.shapes count\n- a\n+ b",  # no reason
        "caffe_port.shapes count\n- a\n= so",  # no mutant
        "caffe_port.shapes\n- a\n+ b\n= so",  # no function
        "caffe_port.shapes count\n- a\n+ b\n+ b\n= so",  # twice
    ],
)
def test_an_entry_that_explains_nothing_is_refused(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "equivalent.txt"
    file.write_text("# A comment.\n\ncaffe_port.shapes count\n- c\n+ d\n+ e\n= because\n\n" + entry + "\n")
    with pytest.raises(ValueError, match=r"equivalent\.txt: "):
        equivalents.read(file)
    file.write_text(file.read_text().removesuffix(entry + "\n"))
    assert [(change.before, change.after) for change in equivalents.read(file)] == [("c", "d"), ("c", "e")]

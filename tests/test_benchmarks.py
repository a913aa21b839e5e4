"""What the benchmarks are measured with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


MEASURING = """
import sys
import processes
idle = processes.run([sys.executable, "-c", "import time; time.sleep(0.3); print('done')"])
busy = processes.run([sys.executable, "-c", "len(b'x' * 200_000_000)"])
print(repr(idle.output), idle.seconds, busy.peak - idle.peak)
processes.run([sys.executable, "-c", "import sys; print('what is wrong', file=sys.stderr); sys.exit(3)"])
"""


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the peak of a process is known through wait4")
def test_a_process_is_measured() -> None:
    """By a small one, as the scripts are: a process begins with the peak of the one that starts it."""
    done = subprocess.run(python(MEASURING), cwd=FOLDER, capture_output=True, text=True, check=False)
    output, seconds, peak = done.stdout.split()
    assert output == "'done\\n'"
    assert float(seconds) > 0.3
    assert 190 < float(peak) < 230
    assert done.returncode == 1
    assert done.stderr.endswith("ended with 3\nwhat is wrong\n\n")


def test_turns_are_taken(benchmarks: Any, tmp_path: Path) -> None:
    import processes

    log = tmp_path / "log"
    commands = {name: python(f"print({name!r}, file=open({str(log)!r}, 'a'), end='')") for name in "ab"}
    took = processes.in_turns(commands, 3)
    turns = [log.read_text()[i : i + 2] for i in range(0, 8, 2)]
    assert [sorted(turn) for turn in turns] == [["a", "b"]] * 4, "a first round, which does not count, and three"
    assert {name: len(runs) for name, runs in took.items()} == {"a": 3, "b": 3}


def test_ratios_are_of_one_round(benchmarks: Any) -> None:
    import processes

    assert processes.ratio([1.0, 10.0, 2.0], [2.0, 20.0, 1.0]) == 0.5
    assert [processes.seconds([value]) for value in (0.0123, 0.25)] == ["12.3 ms", "0.25 s"]


def test_a_table_gets_to_its_place(benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import readme

    monkeypatch.setattr(readme, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    main, page = tmp_path / "README.md", tmp_path / "docs" / "measured.md"
    main.write_text("a\n<!-- one: made by x -->\nold\n<!-- /one -->\nb\n")
    page.write_text("<!-- two: made by y -->\n<!-- /two -->\n")
    readme.put("one", "| new \\1 |")
    readme.put("two", "| fresh |")
    assert main.read_text() == "a\n<!-- one: made by x -->\n| new \\1 |\n<!-- /one -->\nb\n"
    assert page.read_text() == "<!-- two: made by y -->\n| fresh |\n<!-- /two -->\n"
    readme.put("two", "| again |")
    assert page.read_text() == "<!-- two: made by y -->\n| again |\n<!-- /two -->\n"
    with pytest.raises(ValueError, match="'three' is marked in no page"):
        readme.put("three", "")
    page.write_text(page.read_text() * 2)
    with pytest.raises(ValueError, match=r"'two' is marked in .*measured.md, not in one place"):
        readme.put("two", "")

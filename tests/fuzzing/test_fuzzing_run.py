"""What the fuzzing command tells, and how the numbers of several runs add up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzing import catalogue, run

FINDING = {"place": "KeyError in text.py:parse", "message": "'a'", "input": "KeyError-0123"}


def outcome(executions: int, seconds: float, memory: int, found: bool = False) -> run.Outcome:
    return run.Outcome("one", executions, seconds, memory, [dict(FINDING)] if found else [])


def test_the_table() -> None:
    lines = run.table([outcome(3000, 1.5, 80, found=True), run.Outcome("two", 10, 1.0, 90)]).splitlines()
    assert lines[2:] == [
        "| one | 3,000 | 2,000 | 1 | 80 MB |",
        "| two | 10 | 10 | 0 | 90 MB |",
        "| all | 3,010 | | 1 | 90 MB |",
        "finding in one: KeyError in text.py:parse: 'a' (KeyError-0123)",
    ]


def test_runs_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "campaign.json"
    run._accumulate(path, [outcome(100, 2.0, 80)])
    run._accumulate(path, [outcome(50, 1.0, 70, found=True), run.Outcome("two", 1, 1.0, 5)])
    held = json.loads(path.read_text())
    assert list(held) == ["one", "two"]
    assert held["one"] == {
        "target": "one", "executions": 150, "seconds": 3.0, "peak_memory_mb": 80, "findings": [FINDING],
    }  # fmt: skip
    assert "| all | 151 |" in capsys.readouterr().out


def test_findings_are_told_once_a_place() -> None:
    printed = "INFO: x\n" + "".join(
        f"finding: {json.dumps(FINDING | {'place': place})}\n" for place in ("here", "there")
    )
    assert [one["place"] for one in run._reported(printed, [{"place": "here"}])] == ["there"]


def test_refuses_targets_that_are_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fuzzing.run", "nothing"], capture_output=True, text=True, cwd=catalogue.HERE.parent
    )
    assert done.returncode == 2
    assert done.stderr.startswith("no target nothing; there are ")


def test_finds_what_fails(tmp_path: Path) -> None:
    """The whole, on a copy with a target that fails: it is found once, kept, and the run goes on."""
    pytest.importorskip("atheris")
    copy = tmp_path / "fuzzing"
    (copy / "targets").mkdir(parents=True)
    for path in catalogue.HERE.glob("*.py"):
        (copy / path.name).write_text(path.read_text())
    (copy / "targets" / "__init__.py").write_text("")
    (copy / "targets" / "bad.py").write_text(
        "READS = ('caffe_port.errors',)\n\ndef once(data: bytes) -> None:\n"
        "    if len(data) > 3:\n        raise KeyError('long')\n"
    )
    (copy / "corpus" / "bad").mkdir(parents=True)
    (copy / "corpus" / "bad" / "seed").write_bytes(b"ab")
    command = [sys.executable, "-m", "fuzzing.run", "bad", "--executions", "5000", "--json", str(tmp_path / "j")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 1, done.stdout + done.stderr
    (found,) = (copy / "findings" / "bad").iterdir()
    assert found.name.startswith("KeyError-") and len(found.read_bytes()) > 3
    assert json.loads((tmp_path / "j").read_text())["bad"]["executions"] >= 5000

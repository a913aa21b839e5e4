"""Running the command in tests."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from caffe_port import cli

__all__ = ["COMMAND", "Capture", "caffe_port", "failure"]

COMMAND = [sys.executable, "-m", "caffe_port.cli"]

Capture = pytest.CaptureFixture[str]


def caffe_port(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def failure(capsys: Capture, *arguments: object, code: int = 2) -> str:
    """Runs a command that must fail with `code`, print nothing, and say one line; returns the line."""
    assert cli.main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == "", out
    lines = [line for line in err.splitlines() if not line.startswith(("note: ", "writing "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("caffe-port: ") and "Traceback" not in err
    return lines[0]

"""pip as a second source: it may not start, not end, bring too much or nothing. A shell script stands in for Python."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from caffe_port.models import Wheel
from caffe_port.models import wheel as through_pip
from caffe_port.models.progress import Silent
from caffe_port.models.receiving import SourceError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")

WHEEL = Wheel("tiny-carrier==1.0", "tiny_carrier", 10)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            f'head -c {(1 << 20) + 40} /dev/zero > "$TMPDIR/part"\nexec sleep 60',
            "pip gets more than the 10 bytes expected",
        ),
        ("exec sleep 60", "pip got nothing further in 1 s"),
        ("exit 0", "pip left 0 wheels instead of one"),
    ],
)
def test_what_pip_does_not_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{script}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(through_pip.sys, "executable", str(python))
    monkeypatch.setattr(through_pip, "_SILENCE", 1.0)
    (tmp_path / "room").mkdir()
    with pytest.raises(SourceError) as caught:
        through_pip.unpack(WHEEL, [], tmp_path / "room", Silent())
    assert str(caught.value) == reason
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_python_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through_pip.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "room").mkdir()
    with pytest.raises(SourceError, match="pip did not start: No such file or directory"):
        through_pip.unpack(WHEEL, [], tmp_path / "room", Silent())

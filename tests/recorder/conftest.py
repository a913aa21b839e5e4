"""Recording with a stand-in for pycaffe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small
from recorders import FAKE, Recorder

from caffe_port.recorder import record


@pytest.fixture
def pycaffe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets `import caffe` find the stand-in, anew for each test."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("GLOG_minloglevel", "1")
    yield
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        del sys.modules[name]


@pytest.fixture
def made(pycaffe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Recorder:
    """Records a prototxt, or the files given, with the options given."""

    def make(prototxt: str, *options: str, weights: bool = True) -> Path:
        files = small.write_model(tmp_path / "model", prototxt)
        arguments = [str(file) for file in (files if weights else files[:1])]
        output = tmp_path / "recording.npz"
        code = record.main([*arguments, "-o", str(output), *options])
        told = capsys.readouterr()
        assert code == 0, told.err
        assert str(output) in told.out
        return output

    return make


@pytest.fixture
def refused(pycaffe: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs what must be refused, in one line and without leaving a file; returns the line."""

    def refuse(*arguments: str, prototxt: str | None = None, weights: bool = True) -> str:
        folder = tmp_path / "refused"
        folder.mkdir()
        files: list[Path] = []
        if prototxt is not None:
            files = list(small.write_model(tmp_path / "model", prototxt))[: 2 if weights else 1]
        code = record.main([*map(str, files), "-o", str(folder / "x.npz"), *arguments])
        told = capsys.readouterr()
        assert (code, told.out) == (2, "")
        assert list(folder.iterdir()) == []
        lines = [line for line in told.err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1 and lines[0].startswith("record.py: ")
        return lines[0]

    return refuse

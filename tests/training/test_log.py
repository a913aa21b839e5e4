"""The log: in the form that Caffe's scripts read; and what is read of it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from caffe_port.errors import DataError, MissingDependency
from caffe_port.training.log import Log, ProgressLine, Record, draw_curve, read_log

CAFFES = """\
I0210 13:39:22.381027 25210 solver.cpp:279] Solving toy
I0210 13:39:22.381030 25210 solver.cpp:337] Iteration 0, Testing net (#0)
I0210 13:39:22.397305 25210 solver.cpp:404]     Test net output #0: accuracy = 0.25
I0210 13:39:22.397336 25210 solver.cpp:404]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I0210 13:39:22.400000 25210 solver.cpp:218] Iteration 0 (-1.4013e-45 iter/s, 0.09s/100 iters), loss = 2.5
I0210 13:39:22.400010 25210 solver.cpp:237]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I0210 13:39:22.400020 25210 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I0210 13:39:23.400000 25210 solver.cpp:228] Iteration 100, loss = 1.5e-05
I0210 13:39:23.400010 25210 solver.cpp:244]     Train net output #0: loss = 1.5e-05 (* 1 = 1.5e-05 loss)
I0210 13:39:23.400020 25210 sgd_solver.cpp:106] Iteration 100, lr = 1e-03
I0210 13:39:23.500000 25210 solver.cpp:337] Iteration 100, Testing net (#1)
I0210 13:39:23.500010 25210 solver.cpp:404]     Test net output #0: accuracy = 0.75
"""


def test_a_log_of_caffe(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(CAFFES)
    assert read_log(tmp_path / "log") == [
        Record(0, 0, outputs={"accuracy": 0.25, "loss": 2.3}, losses={"loss"}),
        Record(0, None, 2.5, 0.01, {"loss": 2.5}, {"loss"}),
        Record(100, None, 1.5e-05, 0.001, {"loss": 1.5e-05}, {"loss"}),
        Record(100, 1, outputs={"accuracy": 0.75}),
    ]
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "none")


def test_the_form_of_a_line() -> None:
    # glog's: level, month and day, time with microseconds, thread, place.
    stream = io.StringIO()
    Log(stream)("Iteration 3, lr = 0.5")
    assert re.fullmatch(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \S+:\d+\] Iteration 3, lr = 0\.5\n", stream.getvalue())


def test_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "log").write_text(CAFFES)
    assert draw_curve(read_log(tmp_path / "log"), tmp_path / "loss.svg")
    drawing = (tmp_path / "loss.svg").read_text()
    assert drawing.count('<g id="axes_') == 2
    assert draw_curve(read_log(tmp_path / "log"), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawing
    assert draw_curve(read_log(tmp_path / "log"), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_curve([], tmp_path / "none.png") and not (tmp_path / "none.png").exists()


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match="pip install matplotlib"):
        draw_curve([Record(0, None, 1.0)], tmp_path / "loss.png")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_port.training import log as module

    clock = iter([0.0, 0.05, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    line = ProgressLine(stream)
    line.draw(0, 100, 2.5, 0.01, None)
    line.draw(1, 100, 2.5, 0.01, None)
    line.draw(40, 100, 1.25, 0.01, 0.75)
    first, second = stream.getvalue().split("\r")[1:]
    assert "iteration 0/100  loss 2.5  rate 0.01" in first and "left" not in first
    # 40 iterations in 10 seconds; 60 are left.
    assert "iteration 40/100  loss 1.25  rate 0.01  accuracy 0.75  4/s  0:00:15 left" in second
    Log(stream, progress=line)("a line")
    assert "\r\x1b[KI" in stream.getvalue(), "the line is taken away first"
    silent = io.StringIO()
    monkeypatch.undo()
    ProgressLine(silent).draw(1, 2, 1.0, 1.0, None)
    assert silent.getvalue() == ""

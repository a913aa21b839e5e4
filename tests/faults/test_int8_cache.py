"""The cache of int8 models: filled by two processes at once, and by one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from writing_verbs import make_inputs

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills")]

CHILD = """
import os, signal, sys
from caffe_port.scoring import scorer
from caffe_port.scoring.classifier import Classifier, open_classifier

scorer._CALIBRATION_SEEDS = 1
make = Classifier.portable

def waiting(*given):
    made = make(*given)
    print("made", flush=True)
    if sys.stdin.readline() == "die\\n":
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    return made

Classifier.portable = waiting
model = open_classifier("toy.prototxt", ["toy.caffemodel"], "manifest.json", offline=True)
print(*(scorer.Scorer(model, precision="int8").score(f"im/{name}") for name in sys.argv[1:]))
"""


def test_an_int8_model_is_cached_whole(tmp_path: Path) -> None:
    for module in ("onnxruntime", "PIL"):
        pytest.importorskip(module)
    inputs = make_inputs(tmp_path / "inputs")
    pictures = sorted(path.name for path in (inputs / "im").iterdir())[:3]
    assert pictures
    cache = tmp_path / "cache" / "caffe_port" / "models" / "int8"

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *pictures],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=inputs,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        )

    def until_made(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None and process.stdout.readline() == "made\n"

    killed = started()
    until_made(killed)
    killed.communicate("die\n", timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = cache.iterdir()
    assert leftover.name.startswith(".caffe_port-")

    both = [started(), started()]
    for process in both:
        until_made(process)
    for process in both:  # both have missed it, and write it now
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and told[0] == told[1]
    (kept,) = cache.iterdir()
    assert kept.name != leftover.name

    third = started()
    assert third.communicate(timeout=60)[0] == told[0], "taken from the cache: nothing was made"

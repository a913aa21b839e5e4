"""Every verb that writes, with a fault at steps that change a file: what is there afterwards, and what is said."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if os.name != "posix":
    pytest.skip("forks", allow_module_level=True)

sys.path.append(str(Path(__file__).parent))

from writing_verbs import VERBS, Verb, make_inputs

LEFTOVER = re.compile(r"\.caffe_port-[0-9a-f]{12}\.tmp(/|$)")
MOMENTS = int(os.environ.get("FAULT_MOMENTS", "2"))
"""Steps of a verb that get a fault, evenly spread; FAULT_MOMENTS=1000 takes all."""

INJECTOR = Path(__file__).parent / "injector.py"
FAULTS = "kill,int,term,hup,ENOSPC,EROFS,limit,two"

ALL = [
    pytest.param(verb, id=verb.name, marks=[pytest.mark.xdist_group(verb.name), *[pytest.mark.slow] * verb.heavy])
    for verb in VERBS
]

found_of: dict[str, dict[str, Any]] = {}


@pytest.fixture
def found(verb: Verb, tmp_path: Path) -> dict[str, Any]:
    """What came of all faults; found once a verb."""
    if verb.missing:
        pytest.skip(f"{verb.missing} is not installed")
    if verb.name not in found_of:
        make_inputs(tmp_path / "inputs")
        done = subprocess.run(
            [
                sys.executable,
                str(Path(__file__).parent / "injector.py"),
                verb.name,
                str(tmp_path),
                FAULTS,
                str(MOMENTS),
            ],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        found_of[verb.name] = json.loads(done.stdout.splitlines()[-1])
        assert found_of[verb.name].get("first") == 0, done.stderr
    return found_of[verb.name]


@pytest.mark.parametrize("verb", ALL)
def test_the_files_of_the_verbs_are_those(found: dict[str, Any], verb: Verb) -> None:
    assert "counted" not in found, found
    assert set(verb.files) <= set(found["wholes"][0])


def check_left(verb: Verb, found: dict[str, Any], left: dict[str, str], *, killed: bool = False) -> None:
    """Each file is not there, or the old one whole, or the new one whole; nothing else is there."""
    for name, content in left.items():
        if content == "folder" or name in verb.keeps:
            assert killed or not LEFTOVER.search(name), left
        elif LEFTOVER.search(name):
            assert killed, left
        else:
            assert any(whole.get(name) == content for whole in found["wholes"]) or (
                name in verb.files and content == found["old"]
            ), f"{name} is neither the old file nor a whole new one"


def errors(said: str) -> list[str]:
    assert "Traceback" not in said and "Exception ignored" not in said, said
    return [line for line in said.splitlines() if line.startswith("caffe-port: ")]


@pytest.mark.parametrize("verb", ALL)
def test_killed(verb: Verb, found: dict[str, Any]) -> None:
    """SIGKILL: every file is whole, and the next run works and removes what was left."""
    for outcome in found["kill"]:
        assert outcome["code"] == -9, outcome
        check_left(verb, found, outcome["left"], killed=True)
        assert outcome["again"]["code"] == 0, outcome
        check_left(verb, found, outcome["again"]["left"])
        assert set(verb.files) <= set(outcome["again"]["left"])


@pytest.mark.parametrize("fault", ["int", "term", "hup"])
@pytest.mark.parametrize("verb", ALL)
def test_interrupted(verb: Verb, fault: str, found: dict[str, Any]) -> None:
    """Ctrl-C says one line and ends with 130; SIGTERM and SIGHUP end the process as ever. Nothing is left of either."""
    if fault == "hup" and verb.name.startswith(("train", "finetune")):
        pytest.skip("asks for a snapshot there, as in Caffe")
    for outcome in found[fault]:
        told = errors(outcome["said"])
        if fault == "int":
            stopped = verb.name.startswith(("train", "finetune")) and outcome["code"] == 0
            assert outcome["code"] in (130, -2) or stopped, outcome
            assert stopped or (len(told) == 1 and "interrupted" in told[0]), outcome
        else:
            assert outcome["code"] == {"term": -15, "hup": -1}[fault] and not told, outcome
        check_left(verb, found, outcome["left"])


@pytest.mark.parametrize("fault", ["ENOSPC", "EROFS"])
@pytest.mark.parametrize("verb", ALL)
def test_refused(verb: Verb, fault: str, found: dict[str, Any]) -> None:
    """From that step on the system refuses to write: one line, and nothing is left."""
    for outcome in found[fault]:
        told = errors(outcome["said"])
        if outcome["code"] == 0:
            # Only what needs no room was left to do.
            assert outcome["step"] not in ("open", "write", "fsync", "os.mkdir", "os.rename"), outcome
        else:
            assert outcome["code"] == 2 and len(told) == 1, outcome
            assert os.strerror(getattr(errno, fault)) in told[0], told
        check_left(verb, found, outcome["left"])


@pytest.mark.parametrize("verb", ALL)
def test_files_limited_by_the_system(verb: Verb, found: dict[str, Any]) -> None:
    """RLIMIT_FSIZE, which needs no privilege: a write is done in part, and the next one refused."""
    for outcome in found["limit"]:
        told = errors(outcome["said"])
        assert outcome["code"] == 2 and len(told) == 1 and "File too large" in told[0], outcome
        check_left(verb, found, outcome["left"])


@pytest.mark.parametrize("verb", ALL)
def test_two_at_once(verb: Verb, found: dict[str, Any]) -> None:
    """Both end well, or one says that the other is at work; each file is whole."""
    for outcome in found["two"]:
        codes = sorted(one["code"] for one in outcome["both"])
        told = [line for one in outcome["both"] for line in errors(one["said"])]
        assert codes == [0, 0] or (codes == [0, 2] and "another run" in told[0]), outcome
        check_left(verb, found, outcome["left"])
        assert set(verb.files) <= set(outcome["left"])

"""Runs what is compared as processes of their own, in turns, and says what each took; and describes the machine.

Keep what imports this small: a process begins as a copy of the one that starts it, whose memory counts as its peak.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "build" / "benchmarks"
"""Models and environments that are made once."""

TOOL = [sys.executable, "-m", "caffe_port.cli"]


@dataclass(frozen=True, slots=True)
class Took:
    """What a process took: seconds of wall clock, its peak of resident memory in MB (10^6 bytes), what it printed."""

    seconds: float
    peak: float
    output: str


def environment(**more: str) -> dict[str, str]:
    """The variables processes are started with: bytecode is kept, as that of an installed package is."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(CACHE / "bytecode"), **more}


def run(command: Sequence[str | Path], **variables: str) -> Took:
    """Runs a command. Raises: SystemExit with the end of what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment(**variables))
        assert process.stdout is not None
        output = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.stdout.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            reason = said.read()[-2000:].decode(errors="replace")
            raise SystemExit(f"{' '.join(map(str, command))}: ended with {process.returncode}\n{reason}")
    # Linux counts KiB, macOS bytes.
    return Took(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, output)


def in_turns(commands: Mapping[str, Sequence[str | Path]], rounds: int, **variables: str) -> dict[str, list[Took]]:
    """Each command once a round, in another order each time; the first round, which warms caches, does not count."""
    chance = random.Random(0)
    took: dict[str, list[Took]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in chance.sample(list(commands), len(commands)):
            one = run(commands[name], **variables)
            if number:
                took[name].append(one)
    return took


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """The median of the ratios of the same round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def seconds(times: Iterable[float]) -> str:
    """The median, readable."""
    middle = statistics.median(times)
    return f"{middle:.2f} s" if middle >= 0.2 else f"{1e3 * middle:.3g} ms"


def megabytes(sizes: Iterable[float]) -> str:
    """The median of sizes in MB, readable."""
    return f"{statistics.median(sizes):.0f} MB"


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def machine(*packages: str) -> str:
    """Processor, cores, memory, Python, and the versions of packages, in a sentence."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{names[0]} ({model})" if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    return (
        f"{model}, {cores} processor cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}, "
        f"{', '.join(versions)}"
    )

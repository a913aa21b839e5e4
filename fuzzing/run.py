"""Fuzzes readers with atheris: python -m fuzzing.run [TARGET …] --seconds 60

Each target runs in a process of its own. What it finds is kept in fuzzing/findings/, what it learns in build/fuzzing/,
so that the next run goes on from there. Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzing import catalogue
from fuzzing.inputs import memory_folder

LEARNED = catalogue.HERE.parent / "build" / "fuzzing"
MOST_RESTARTS = 20
_ARTIFACT = re.compile(r"^(crash|timeout|oom|leak|slow-unit)-")


@dataclass
class Outcome:
    """What came of one target. findings: the place and message of each, and the name of its input."""

    target: str
    executions: int = 0
    seconds: float = 0.0
    peak_memory_mb: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.executions / self.seconds if self.seconds else 0.0


def main() -> int:
    args = _arguments()
    known = catalogue.names()
    unknown = [name for name in args.targets if name not in known]
    if unknown:
        print(f"no target {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(_fuzz, name, args) for name in args.targets or known]
        outcomes = []
        for done in concurrent.futures.as_completed(running):
            outcomes.append(done.result())
            print(f"{outcomes[-1].target}: {outcomes[-1].executions:,} executions", flush=True)
    outcomes.sort(key=lambda outcome: outcome.target)
    print(table(outcomes))
    if args.json:
        _accumulate(args.json, outcomes)
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzzing.run", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(catalogue.names())}")
    parser.add_argument("--seconds", type=int, default=0, help="for each target (default: 60, if no --executions)")
    parser.add_argument("--executions", type=int, default=0, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("--timeout", type=int, default=10, help="seconds one input may take")
    parser.add_argument("--memory", type=int, default=1024, help="MiB one process may take beyond its imports")
    parser.add_argument("--json", type=Path, help="add the numbers of this run to those in a file")
    args = parser.parse_args()
    if not args.seconds and not args.executions:
        args.seconds = 60
    return args


def _fuzz(name: str, args: argparse.Namespace) -> Outcome:
    """Runs one target until its time or its executions are used up, anew after each crash."""
    outcome = Outcome(name)
    with tempfile.TemporaryDirectory(prefix=f"caffe_port_fuzzing_{name}_", dir=memory_folder()) as held:
        scratch = Path(held)
        (scratch / "inputs").mkdir()
        (scratch / "artifacts").mkdir()
        counter = scratch / "counter"
        counter.write_bytes(bytes(8))
        begun = time.monotonic()
        for _ in range(MOST_RESTARTS):
            before = outcome.executions
            code, log = _worker(name, args, outcome, scratch, time.monotonic() - begun)
            (outcome.executions,) = struct.unpack("<Q", counter.read_bytes())
            outcome.seconds = time.monotonic() - begun
            outcome.findings += _reported(log, outcome.findings)
            if code == 0:
                break
            crashed = _kept_artifacts(name, scratch / "artifacts", log)
            outcome.findings += crashed
            if not crashed and outcome.executions == before:
                last = " | ".join(log.strip().splitlines()[-5:])
                outcome.findings.append({"place": f"the process ended with code {code}", "message": last, "input": ""})
                break
            if _used_up(args, outcome):
                break
    return outcome


def _used_up(args: argparse.Namespace, outcome: Outcome) -> bool:
    late = bool(args.seconds) and outcome.seconds >= args.seconds - 1
    return late or (bool(args.executions) and outcome.executions >= args.executions)


def _worker(name: str, args: argparse.Namespace, outcome: Outcome, scratch: Path, passed: float) -> tuple[int, str]:
    """One process of libFuzzer; its exit code and what it printed."""
    learned = LEARNED / name
    learned.mkdir(parents=True, exist_ok=True)
    corpus = catalogue.HERE / "corpus" / name
    dictionary = catalogue.HERE / "dictionaries" / f"{name}.dict"
    options = [f"-artifact_prefix={scratch / 'artifacts'}{os.sep}", f"-timeout={args.timeout}", "-print_final_stats=1"]
    options += [f"-dict={dictionary}"] if dictionary.exists() else []
    if args.seconds:
        options.append(f"-max_total_time={max(1, round(args.seconds - passed))}")
    if args.executions:
        options.append(f"-runs={max(1, args.executions - outcome.executions)}")
    command = [sys.executable, "-m", "fuzzing.worker", "--counter", str(scratch / "counter")]
    command += ["--findings", str(catalogue.HERE / "findings" / name), "--memory", str(args.memory)]
    command += [name, "--", *options, str(learned), *([str(corpus)] if corpus.is_dir() else [])]
    environment = {
        **os.environ,
        "CAFFE_PORT_FUZZING_FOLDER": str(scratch / "inputs"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(catalogue.HERE.parent), os.environ.get("PYTHONPATH")))),
    }
    with (scratch / "log").open("w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=scratch)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
    outcome.peak_memory_mb = max(outcome.peak_memory_mb, usage.ru_maxrss // 1024)
    return process.returncode, text


def _reported(log: str, known: list[dict[str, str]]) -> list[dict[str, str]]:
    """The findings that a worker printed, of which none is known by its place."""
    found = [json.loads(line.partition(": ")[2]) for line in log.splitlines() if line.startswith("finding: ")]
    places = {one["place"] for one in known}
    return [one for one in found if one["place"] not in places]


def _kept_artifacts(name: str, artifacts: Path, log: str) -> list[dict[str, str]]:
    """What libFuzzer kept of a process that ended early, moved to the findings."""
    kept = []
    for path in sorted(artifacts.iterdir()):
        match = _ARTIFACT.match(path.name)
        if match is None:
            continue
        target = catalogue.HERE / "findings" / name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        said = re.search(r"^.*(?:ERROR|ALARM).*$", log, re.MULTILINE)
        message = said.group() if said else ""
        kept.append({"target": name, "place": match.group(1), "message": message, "input": path.name})
    return kept


def table(outcomes: list[Outcome]) -> str:
    """The outcomes in Markdown, with their sum."""
    lines = ["| target | executions | executions a second | findings | peak memory |", "|---|---|---|---|---|"]
    for one in outcomes:
        lines.append(
            f"| {one.target} | {one.executions:,} | {one.rate:,.0f} | {len(one.findings)} | {one.peak_memory_mb} MB |"
        )
    executions, findings = sum(one.executions for one in outcomes), sum(len(one.findings) for one in outcomes)
    lines.append(f"| all | {executions:,} | | {findings} | {max((o.peak_memory_mb for o in outcomes), default=0)} MB |")
    for one in outcomes:
        lines += [f"finding in {one.target}: {f['place']}: {f['message']} ({f['input']})" for f in one.findings]
    return "\n".join(lines)


def _accumulate(path: Path, outcomes: list[Outcome]) -> None:
    """Adds outcomes to those in a JSON file: executions, seconds and findings are summed up, of memory the peak."""
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for one in outcomes:
        old = Outcome(**held[one.target]) if one.target in held else Outcome(one.target)
        old.executions += one.executions
        old.seconds = round(old.seconds + one.seconds, 1)
        old.findings += one.findings
        old.peak_memory_mb = max(old.peak_memory_mb, one.peak_memory_mb)
        held[one.target] = dataclasses.asdict(old)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(dict(sorted(held.items())), indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
    print(table([Outcome(**one) for _, one in sorted(held.items())]))


if __name__ == "__main__":
    sys.exit(main())

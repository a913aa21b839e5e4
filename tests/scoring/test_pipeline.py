"""Chunks of a stream, worked on in threads."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from caffe_port.scoring.pipeline import AHEAD, Allowance, in_chunks


def doubled(chunk: list[int], stopped: Callable[[], bool]) -> list[int]:
    return [2 * item for item in chunk]


def working() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("caffe_port-scoring")]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 3, 32])
@pytest.mark.parametrize("count", [0, 1, 3, 31, 100])
def test_every_result_in_order(count: int, size: int, workers: int) -> None:
    sizes = []

    def work(chunk: list[int], stopped: Callable[[], bool]) -> list[int]:
        sizes.append(len(chunk))
        # Later chunks are done sooner.
        time.sleep(0.001 if chunk[0] % 2 else 0)
        return doubled(chunk, stopped)

    assert list(in_chunks(range(count), work, size=size, workers=workers)) == list(range(0, 2 * count, 2))
    assert sorted(sizes, reverse=True) == [size] * (count // size) + [count % size] * (count % size > 0)
    assert not working()


def test_no_more_is_taken_than_promised() -> None:
    """An endless source; nothing of it is taken before a result is wanted."""
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    size, workers = 3, 2
    results = in_chunks(source(), doubled, size=size, workers=workers)
    assert taken == 0 and not working()
    for given in range(1, 200):
        assert next(results) == 2 * given
        assert taken <= given - 1 + size + size * workers * (1 + AHEAD)
    results.close()  # type: ignore[attr-defined]


def test_workers_work_at_the_same_time() -> None:
    barrier = threading.Barrier(3)

    def work(chunk: list[int], stopped: Callable[[], bool]) -> list[int]:
        barrier.wait(timeout=30)
        return chunk

    assert list(in_chunks(range(6), work, size=1, workers=3)) == list(range(6))


def test_what_came_before_a_failing_source_is_given_first() -> None:
    def source() -> Iterator[int]:
        yield from range(7)
        raise OSError("the list ends here")

    results = in_chunks(source(), doubled, size=4, workers=2)
    got = []
    with pytest.raises(OSError, match="the list ends here"):
        got.extend(iter(lambda: next(results), None))
    assert got == list(range(0, 14, 2))
    assert not working()


def test_failing_work_ends_it() -> None:
    begun = []

    def work(chunk: list[int], stopped: Callable[[], bool]) -> list[int]:
        begun.append(chunk[0])
        if chunk[0] == 4:
            raise ArithmeticError("four")
        return chunk

    results = in_chunks(itertools.count(), work, size=1, workers=2)
    with pytest.raises(ArithmeticError, match="four"):
        list(results)
    assert max(begun) <= 4 + 2 * (1 + AHEAD)
    assert not working()


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_ending_early_leaves_no_threads_and_stops_the_work(how: str) -> None:
    stopping = threading.Event()

    def work(chunk: list[int], stopped: Callable[[], bool]) -> list[int]:
        if chunk[0]:
            while not stopped():
                time.sleep(0.001)
            stopping.set()
        return chunk

    results = in_chunks(itertools.count(), work, size=1, workers=2)
    assert next(results) == 0 and working()
    if how == "close":
        results.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyboardInterrupt):
            results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert stopping.is_set() and not working()


SCRIPT = """
import itertools, time
from caffe_port.scoring.pipeline import in_chunks
def work(chunk, stopped):
    while chunk[0] > 20 and not stopped():
        time.sleep(0.01)
    return chunk
for result in in_chunks(itertools.count(), work, size=4, workers=2):
    print(result, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_from_outside_ends_the_process() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [int(process.stdout.readline()) for _ in range(20)] == list(range(20))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and errors.rstrip().endswith(b"KeyboardInterrupt")


# Allowance


def test_an_allowance_is_kept() -> None:
    allowance = Allowance(10)
    used = most = 0
    lock = threading.Lock()

    def use(amount: int) -> None:
        nonlocal used, most
        with allowance.taking(amount):
            with lock:
                used += amount
                most = max(most, used)
            time.sleep(0.002)
            with lock:
                used -= amount

    threads = [threading.Thread(target=use, args=(amount,)) for amount in (3, 4, 5, 6, 7, 1) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert used == 0 and 7 <= most <= 10


def test_more_than_the_whole_is_let_in_alone() -> None:
    allowance = Allowance(10)
    inside = threading.Event()

    def large() -> None:
        with allowance.taking(1000):
            inside.set()

    thread = threading.Thread(target=large)
    with allowance.taking(1):
        thread.start()
        assert not inside.wait(0.05)
    thread.join(timeout=30)
    assert inside.is_set()


def test_an_allowance_comes_back_when_its_use_fails() -> None:
    allowance = Allowance(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), allowance.taking(1):
            raise ValueError("broken")
    with allowance.taking(1):
        pass

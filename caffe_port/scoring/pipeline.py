"""Work on a stream of things in threads: in order, in chunks, and only so much at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

__all__ = ["Allowance", "in_chunks"]

AHEAD = 2
"""Chunks for each worker, beyond its current one, that may wait: for a worker, or for those before them."""

T = TypeVar("T")
R = TypeVar("R")

Work = Callable[[list[T], Callable[[], bool]], list[R]]
"""Makes results of a chunk; asks in between whether it is to stop, and what it then returns is not used."""


def in_chunks(items: Iterable[T], work: Work[T, R], *, size: int, workers: int) -> Iterator[R]:
    """What `work` makes of the items, `size` of them at a time, in the order of the items.

    `workers` threads work. The items are taken in the caller's thread, at most `size` × `workers` × (1 + AHEAD) before
    their results are; no more of them or of their results are held. If taking them raises, the results of those before
    come first. If `work` raises, the iterator is closed, or the caller is interrupted, no further chunk is begun, and
    the threads have ended when the exception goes on.
    """
    source = iter(items)
    waiting: deque[Future[list[R]]] = deque()
    failure: Exception | None = None
    more = True
    stopped = threading.Event()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="caffe_port-scoring")
    try:
        while True:
            while more and len(waiting) < workers * (1 + AHEAD):
                chunk: list[T] = []
                try:
                    for item in islice(source, size):
                        chunk.append(item)
                except Exception as error:  # noqa: BLE001  raised at the end
                    failure = error
                more = failure is None and len(chunk) == size
                if chunk:
                    waiting.append(executor.submit(work, chunk, stopped.is_set))
            if not waiting:
                break
            yield from waiting.popleft().result()
    finally:
        stopped.set()
        executor.shutdown(wait=True, cancel_futures=True)
    if failure is not None:
        raise failure


class Allowance:
    """So much of something may be in use at once, in all threads together. Who wants more than there is waits.

    What alone is more than the whole is let in when nothing else is in use.
    """

    def __init__(self, whole: int) -> None:
        self._whole = self._left = whole
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        amount = min(amount, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()

"""What tests of hostile files share: how much memory a reader takes, and readers in a process that has little."""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from caffe_port.errors import CaffePortError

MEBIBYTE = 2**20


def refused(read: Callable[[], Any], message: str, most: int = 4 * MEBIBYTE) -> None:
    """Asserts that a reader raises an error of ours that says this, and that it held no more than `most` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(CaffePortError) as caught:
            read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert re.search(message, str(caught.value)), str(caught.value)
    assert peak <= most, f"{peak:,} bytes were held"


_CHILD = """
import resource
from pathlib import Path
from caffe_port.errors import CaffePortError
{setup}
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {extra}, taken + {extra}))
try:
    {read}
except CaffePortError as error:
    print(type(error).__name__, error)
else:
    print("read")
"""


def in_little_memory(setup: str, read: str, extra: int = 256 * MEBIBYTE) -> str:
    """What became of `read` in a process that may take `extra` bytes more than it has after `setup`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is limited by Linux's means here")
    code = _CHILD.format(setup=setup, read=read, extra=extra)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

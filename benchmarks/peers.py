"""Environments of their own for the packages that caffe_port is measured beside, made once."""

from __future__ import annotations

import sys
from pathlib import Path

from processes import CACHE, run


def environment(name: str, python: str, *requirements: str) -> Path:
    """The folder with the commands of an environment in which `requirements` are installed for `python`."""
    folder = CACHE / name
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    complete = folder / "complete"
    if not complete.exists():
        run([python, "-m", "venv", "--clear", folder])
        run([binaries / "python", "-m", "pip", "install", "--quiet", *requirements])
        complete.touch()
    return binaries

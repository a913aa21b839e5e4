"""Nets of a prototxt, as scripts make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import caffe_port.pycaffe as caffe

__all__ = ["net_of", "written"]


def written(folder: Path, prototxt: str, name: str = "net.prototxt") -> str:
    file = folder / name
    file.write_text(prototxt)
    return str(file)


def net_of(folder: Path, prototxt: str, phase: int = caffe.TRAIN, **options: Any) -> caffe.Net:
    return caffe.Net(written(folder, prototxt), phase, **options)

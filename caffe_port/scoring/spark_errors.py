"""What Spark raises, in a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from caffe_port.errors import ArtifactError

__all__ = ["reason", "told"]


@contextmanager
def told() -> Iterator[None]:
    """What Spark raises, in a line."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise ArtifactError(f"Spark failed: {reason(error)}") from error


def reason(error: BaseException) -> str:
    java = getattr(error, "java_exception", None)
    text = str((java.getMessage() if java is not None else None) or error)
    # Of a traceback in Python the error itself is what matters.
    if "Traceback (most recent call last)" in text:
        named = re.findall(r"^(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*: .*)$", text, re.MULTILINE)
        if named:
            return str(named[-1])
    return next(filter(None, map(str.strip, text.splitlines())), type(error).__name__)

"""A pycaffe script, in Python 2 or 3: translated and compiled, and never run."""

from __future__ import annotations

import warnings

from caffe_port.pycaffe.python2 import translate
from fuzzing.inputs import refused

READS = ("caffe_port.pycaffe.python2",)


def once(data: bytes) -> None:
    with refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the script's own syntax
        translate(data, "script.py")
    with refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        translate(data, "script.py", python2=True)

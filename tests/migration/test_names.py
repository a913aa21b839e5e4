"""What a script's names certainly stand for, and what is not certain."""

from __future__ import annotations

import ast
import textwrap
import tracemalloc
from typing import Any

import pytest

from caffe_port.migration.names import Names, Value


def value(source: str) -> Value:
    """What the argument of `shown(…)` in a script is."""
    tree = ast.parse(textwrap.dedent(source))
    names = Names(tree)
    (call,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "shown"
    ]
    return names.value(call.args[0])


PARSER = """
import argparse
p = argparse.ArgumentParser()
p.add_argument("--width", type=int, default="300")
p.add_argument("-m", "--model", required=True)
p.add_argument("--swap", action="store_true")
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("shown(1 / 255)", 1 / 255),
        ("shown(-(2 + 3) * 2)", -10),
        ("w = 300\nsize = (w, w // 2)\nshown(size)", (300, 150)),
        ("a, b = 1, 2\nshown(b)", 2),
        ("means = {'x': (1, 2), 'y': 3}\nshown(means['x'])", (1, 2)),
        ("means = [4, 5]\nshown(means[1])", 5),
        ("import numpy as np\nshown(np.array([1.5, 2]))", (1.5, 2)),
        ("import os\nd = 'models'\nshown(os.path.join(d, 'a.caffemodel'))", "models/a.caffemodel"),
        ("import os\nshown(os.path.sep.join(['models', 'a']))", "models/a"),
        ("x = 1\nif x:\n    y = (1, 2)\nelse:\n    y = (1, 2)\nshown(y)", (1, 2)),
        ("def f(a, b):\n    shown(b)\nf(1, b=7)", 7),
        ("def size():\n    return (3, 4)\nshown(size())", (3, 4)),
        ("class A:\n    n = 5\n    def f(self):\n        shown(self.n)", 5),
        ("class A:\n    def __init__(self):\n        self.n = 6\n    def f(self):\n        shown(self.n)", 6),
        (PARSER + "args = p.parse_args()\nshown(args.width)", 300),
        (PARSER + "args = vars(p.parse_args())\nshown(args['width'])", 300),
        (PARSER + "args = p.parse_args()\nshown(args.swap)", False),
        (PARSER + "def main(args):\n    shown(args.width)\nmain(p.parse_args())", 300),
        ("import cv2 as cv\nshown(cv.dnn.DNN_TARGET_CPU)", "cv2.dnn.DNN_TARGET_CPU"),
        ("size = 1\ndef f():\n    size = 2\n    return size\nshown(size)", 1),
    ],
)
def test_what_is_certain_is_known(source: str, expected: Any) -> None:
    found = value(source)
    assert found.known, found.unknown
    assert found.value == expected
    assert type(found.value) is type(expected)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\nx = 2\nshown(x)", "differently at lines 1, 2"),
        ("x = 1\nx += 1\nshown(x)", "line 2"),
        ("for x in (1, 2):\n    shown(x)", "line 1"),
        ("x = []\nx.append(1)\nshown(x)", "line 2"),
        ("x = {'a': 1}\nx['a'] = 2\nshown(x['a'])", "line 2"),
        ("def f(x):\n    shown(x)\nf(1)\nf(2)", "line 1"),
        ("def f(x):\n    shown(x)", "line 1"),
        ("x = 1\ndef f():\n    global x\n    x = 2\nshown(x)", "line 3"),
        ("x = 1\ndef f():\n    def g():\n        nonlocal x\n        x = 2\nshown(x)", "line 4"),
        ("with open('a') as x:\n    shown(x)", "line 1"),
        ("i = 3\ny = [i for i in (1, 2)]\nshown(i)", "line 2"),
        ("shown(frame.shape[0])", "only when the script runs"),
        ("shown(1 / 0)", "only when the script runs"),
        ("x = x\nshown(x)", "only when the script runs"),
        (PARSER + "args = p.parse_args()\nshown(args.model)", "--model (line 5) is given on the command line"),
        (PARSER + "args = p.parse_args()\nshown(args.height)", "does not define"),
    ],
)
def test_what_is_not_certain_says_why(source: str, reason: str) -> None:
    found = value(source)
    assert not found.known
    assert reason in found.unknown


def test_the_options_of_defaults_are_told() -> None:
    more = 'p.add_argument("--height", type=int, default=200)\n'
    found = value(f"{PARSER}{more}args = p.parse_args()\nsize = (args.width, args.height, 3)\nshown(size)")
    assert found.value == (300, 200, 3)
    assert [(one.name, one.line) for one in found.options] == [("--width", 4), ("--height", 7)]


def _doubled(first: str, step: str, times: int = 40) -> str:
    lines = [f"x0 = {first}", *(f"x{i + 1} = {step.replace('x', f'x{i}')}" for i in range(times))]
    return "\n".join([*lines, f"shown(x{times})"])


@pytest.mark.parametrize(
    "source",
    [
        "x = f(x, 1, g(x), h(x))\nshown(x)",  # found by fuzzing: it took forever
        "x = y + y\ny = x + x\nshown(x)",
        _doubled("f()", "g(x, x, x)"),
        _doubled("'a'", "x + x"),
        _doubled("(1, 2)", "(x, x)"),
        _doubled("'ab'", "'/'.join([x, x])"),
        _doubled("3", "x * x"),
        "shown('a' * 10 ** 9)",
        "shown('a' * 9999999999)",
        "shown(9999999999 * [1])",
        "shown(('b' * 99999).join(['a'] * 99999))",
    ],
)
def test_nothing_grows_beyond_what_names_are(source: str) -> None:
    tracemalloc.start()
    found = value(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not found.known
    assert peak < 50_000_000


def test_what_is_used_often_is_still_known() -> None:
    assert value(_doubled("1", "x + x", 12)).value == 2**12
    assert value("x = 'ab'\nshown(x * 3 + x)").value == "abababab"

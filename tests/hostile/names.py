"""Names as strangers give them to layers, blobs and pictures: each is dangerous in some output, harmless in none."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from caffe_port.proto import schema, text

CANARY = "hostile_name_was_run"
"""A file that no test may leave behind: some of the names would write it, were they run."""

_RUN = f"open('{CANARY}', 'w')"

NAMES = {
    # Quotes, and what ends or steers a string of a language
    "double quote": 'a"b',
    "single quote": "a'b",
    "triple quotes": "\"\"\"'''",
    "backticks": f"`{_RUN}`",
    "backslash": "a\\",
    "escapes": r"\N\G\l\n\x1b\u202e\101",
    "percent": "%s%n%(x)d",
    "format": "{0}{m0}{}{{7*7}}",
    "shell": f"$(touch {CANARY}) ; ${{IFS}} | & > {CANARY}",
    "option": "-rf",
    "comment": "# type: ignore */ //",
    # Python
    "python": f'"); {_RUN}; ("',
    "python, with import": '"); import os; os.system("touch x") #',
    "python, in a docstring": f'"""\n{_RUN}\n"""',
    "python, after a comment": f"x\n{_RUN}",
    "python, by torch.fx": f'__doc__"), getattr(__builtins__, "open")("{CANARY}", "w"), getattr(self, "fc',
    "python, fullwidth": f"\uff02), {_RUN}, (\uff02",
    "dunder": "__import__",
    "class": "class",
    "None": "None",
    "self": "self",
    "module": "torch",
    "forward": "forward",
    "private": "_x",
    "identifier of another form": "\ufb01le\uff53\uff45\uff4c\uff46",
    # HTML, SVG, XML, DOT
    "script": "</script><script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" x="',
    "attribute, single": "' onmouseover='alert(1)",
    "title": "</title></style></svg><style>",
    "cdata": "]]>",
    "comment of HTML": "--><!--",
    "entity": "&lt;b&gt;&#27;&nbsp;&",
    "address": "javascript:alert(1)",
    "label of DOT": '"]; x [URL="javascript:alert(1)", label="',
    "html of DOT": "<<b>x</b>>",
    "formula of matplotlib": "\\$$\\frac{$$",
    # Paths
    "parent": "../../x",
    "parent, backslashes": "..\\..\\x",
    "parent inside": "a/../../x",
    "absolute": "/tmp/x",
    "drive": "C:\\x",
    "share": "\\\\server\\share",
    "dot": ".",
    "dots": "..",
    "many dots": ".....",
    "slash": "/",
    "device": "NUL",
    "suffix": "x.npy",
    # Spreadsheets
    "formula": "=cmd|' /C calc'!A0",
    "formula, plus": "+1+1",
    "formula, at": "@SUM(1)",
    "formula, minus": "-1+1",
    "separator": 'a,b;c\t"d"',
    # What cannot be seen, or steers
    "newline": "a\nb",
    "windows newline": "a\r\nb",
    "return": "verified\rfailed",
    "only newline": "\n",
    "control": "\x01\x07\x08\x0b\x0c\x1f",
    "delete": "a\x7f\x7f",
    "escape": "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "C1": "\x9b31m\x85",
    "separators": "a\u2028b\u2029",
    "turned": "\u202egnp.exe",
    "isolated": "\u2066a\u2069\u200f",
    "no width": "a\u200bb\ufeff",
    "tags": "\U000e0041",
    "no character": "\ufffe\uffff",
    "combining": "e" + "\u0301" * 30,
    "lookalike": "c\u043env1",
    "arabic": "\u0637\u0628\u0642\u0629",
    "picture": "\U0001f468\u200d\U0001f469",
    "space": " ",
    "spaces": "  a \u3000 b ",
    "very long": "long" * 25_000,
}
"""Names that a net can have: text of valid UTF-8 without NUL, which the readers see to."""

FILE_NAMES = {
    **NAMES,
    "not UTF-8": "caf\udce9.png",
    "half a pair": "\ud83d.png",
}
"""Names that a picture can have: of these some are no text."""

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What no output for people may have."""

LAYERS = ("Input", "Convolution", "BatchNorm", "Scale", "ReLU", "Pooling", "InnerProduct", "InnerProduct", "Softmax")
"""Types of the net that is made of names."""


def prototxt(net_name: str, layers: Sequence[str], blobs: Sequence[str]) -> str:
    """A net of LAYERS under these names: 9 of layers, 8 of blobs (the ReLU works in place), which differ."""
    net = schema.message("NetParameter")
    net.name = net_name
    blob = iter(blobs)
    top = ""
    for kind, name in zip(LAYERS, layers, strict=True):
        layer = net.layer.add(type=kind, name=name)
        if kind == "Input":
            layer.input_param.shape.add(dim=[2, 3, 8, 7])
        else:
            layer.bottom.append(top)
        if kind == "Convolution":
            layer.convolution_param.num_output = 4
            layer.convolution_param.kernel_size.append(3)
        elif kind == "Pooling":
            layer.pooling_param.kernel_size = 2
        elif kind == "InnerProduct":
            layer.inner_product_param.num_output = 5
        top = top if kind == "ReLU" else next(blob)
        layer.top.append(top)
    return text.dumps(net)


HARMLESS = prototxt("net", [f"layer{i}" for i in range(9)], [f"blob{i}" for i in range(8)])


def every_name() -> Iterator[str]:
    """Nets that have every name of NAMES in them as a layer's, a blob's and a net's."""
    names = list(NAMES.values())
    for i in range(0, len(names), 8):
        some = list(itertools.islice(itertools.cycle(names), i, i + 9))
        yield prototxt(some[3], some, some[1:])


def nets() -> st.SearchStrategy[str]:
    """Nets of names from the list, and of any text."""
    anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
    name = st.sampled_from(sorted(name for name in NAMES.values() if len(name) < 1000)) | anything
    pieces = st.lists(name, min_size=2, max_size=3).map("".join)
    named = name | pieces
    return st.builds(
        prototxt,
        named,
        st.lists(named, min_size=9, max_size=9, unique=True),
        st.lists(named, min_size=8, max_size=8, unique=True),
    )


def assert_steers_nothing(shown: str) -> None:
    found = STEERING.search(shown)
    assert found is None, f"{found[0]!r} in {shown[max(0, found.start() - 60) : found.end() + 20]!r}"

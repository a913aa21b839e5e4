"""What Caffe calls things, made fit for Python source. No text of a net reaches a source but through these."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Names", "class_name", "cleaned", "label", "number", "pattern", "string", "tokens"]

LONGEST = 40
"""Characters of an identifier; a longer name is cut."""

_RESERVED = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double dump_patches
    eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu load_state_dict
    modules mtia named_buffers named_children named_modules named_parameters parameters register_backward_hook
    register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu zero_grad projection F
    nn torch self Tensor OrderedDict io load load_file preprocess
"""
RESERVED = frozenset(_RESERVED.split())
"""Names with a meaning of their own in a generated module; those of nn.Module among them (a test holds them to it)."""


def string(text: str) -> str:
    """`text` as a Python literal in double quotes, printable ASCII only."""
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    # The quote as \x22: with \" black would rather have single quotes around it.
    return "".join(
        char if " " <= char <= "~" and char not in '"\\' else "\\\\" if char == "\\" else _escape(ord(char))
        for char in text
    )


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def label(text: str) -> str:
    """A name of Caffe as comments and docstrings show it: as it is, or quoted if it is more than a word."""
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if re.fullmatch(r"[\w./*+-]*\w[\w./*+-]*", text, re.ASCII) else string(text)


def number(value: float) -> str:
    """A parameter Caffe keeps in float32 as the shortest literal that is the same in float32: 0.0001, 1e-5."""
    short = float(str(np.float32(value)))
    exact = short if np.float32(short) == np.float64(value) else value
    return re.sub(r"e([+-])0?", lambda found: "e" + found[1].strip("+"), repr(exact))


def tokens(name: str) -> list[str]:
    """Runs of letters, of digits, and of what lies between."""
    return re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+", name)


def cleaned(name: str) -> str:
    """A name with `_` for whatever no identifier can have; it may be empty, or begin with a digit."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:LONGEST].rstrip("_")


def class_name(text: str, otherwise: str) -> str:
    """CamelCase: open_nsfw becomes OpenNsfw; capitals stay."""
    camel = "".join(part[:1].upper() + part[1:] for part in cleaned(text).split("_"))
    if not camel:
        return otherwise
    return camel if camel[0].isalpha() else f"{otherwise}{camel}"


@dataclass(slots=True)
class Names:
    """Identifiers of one scope, each given once."""

    taken: set[str] = field(default_factory=set)

    def add(self, wanted: str, kind: str) -> str:
        """An identifier as near to `wanted` as can be; `kind` stands before a digit, and for an empty name."""
        name = cleaned(wanted)
        if not name:
            name = kind
        elif name[0].isdigit():
            name = f"{kind}_{name}"
        result, i = name, 1
        while result in self.taken or result in RESERVED or keyword.iskeyword(result) or keyword.issoftkeyword(result):
            i += 1
            result = f"{name}_{i}"
        self.taken.add(result)
        return result


@dataclass(frozen=True, slots=True)
class Pattern:
    """How the layers of a repeated block are named: the block's own part, and what stands around it in each layer."""

    own: tuple[str, ...]
    """A name for each use of the block."""
    around: tuple[tuple[str, str], ...]
    """What precedes and follows it, for each layer of the block."""

    def of(self, names: Iterable[str | None]) -> str | None:
        """The name of a layer in all uses with `*` for the block's part, or None if they do not have one in common."""
        starred = {_starred(name, own) for name, own in zip(names, self.own, strict=True) if name is not None}
        return starred.pop() if len(starred) == 1 else None


def _starred(name: str, own: str) -> str:
    before, found, after = name.partition(own)
    return f"{before}*{after}" if found else name


def pattern(names: Sequence[Sequence[str | None]]) -> Pattern | None:
    """What is common to the names of a block's layers, or None. `names`: for each layer, its name in each use.

    conv_stage0_block0_a, bn_stage0_block0_a and conv_stage0_block1_a, bn_stage0_block1_a: the blocks are stage0_block0
    and stage0_block1; around it are conv_ and _a, bn_ and _a.
    """
    split: list[tuple[list[str], list[str]]] = []
    middles: list[list[str]] = []
    complete = [[name for name in row if name is not None] for row in names if None not in row]
    for row in complete:
        parts = [tokens(name) for name in row]
        shortest = min(map(len, parts))
        first, *others = parts
        before = next((i for i in range(shortest) if any(part[i] != first[i] for part in others)), shortest)
        rest = shortest - before
        after = next((i for i in range(rest) if any(part[-1 - i] != first[-1 - i] for part in others)), rest)
        split.append((first[:before], first[len(first) - after :]))
        middles.append(["".join(part[before : len(part) - after]) for part in parts])
    if not middles or any(middle != middles[0] for middle in middles) or not all(middles[0]):
        return None
    own = middles[0]
    # What stands beside the differing part in every layer belongs to the block: stage, or inception_4.
    while all(head for head, _ in split) and len({head[-1] for head, _ in split}) == 1:
        token = split[0][0][-1]
        own = [token + text for text in own]
        for head, _ in split:
            head.pop()
    while all(tail for _, tail in split) and len({tail[0] for _, tail in split}) == 1:
        token = split[0][1][0]
        own = [text + token for text in own]
        for _, tail in split:
            tail.pop(0)
    blocks = tuple(re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", text) for text in own)
    if len(set(blocks)) != len(blocks) or not all(blocks):
        return None
    remaining = iter(split)
    around = []
    for names_of_one in names:
        if None not in names_of_one:
            head, tail = next(remaining)
            around.append(("".join(head), "".join(tail)))
            continue
        # A layer that only some uses have: less of its names differs than is the block's own part.
        found = {_parted(name, block) for name, block in zip(names_of_one, blocks, strict=True) if name is not None}
        if len(found) != 1:
            return None
        around.append(found.pop())
    return Pattern(blocks, tuple(around))


def _parted(name: str, own: str) -> tuple[str, str]:
    before, _, after = name.partition(own)
    return before, after

"""A small mutator of its own, for runs without atheris: the same bytes for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["mutations"]

_NUMBERS = (
    b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\xff" * 8, b"-1", b"0", b"2147483648",
    b"18446744073709551616", b"1e999",
)  # fmt: skip
"""Lengths and numbers that readers get wrong: the ends of the ranges, as bytes, varints and text."""


def mutations(seeds: Sequence[bytes], count: int, seed: int, most: int = 1 << 16) -> Iterator[bytes]:
    """`count` inputs made of the seeds by one to four changes each: bits turned, cut, repeated, joined with another,
    numbers and lengths put in. None is longer than `most` bytes."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            _change(data, rng, seeds)
        yield bytes(data[:most])


def _change(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = rng.randint(0, len(data))
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 64)))
    kind = rng.randrange(7)
    if kind == 0 and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at:end]
    elif kind == 3:
        data[at:at] = data[at:end] * rng.choice((1, 2, 100))
    elif kind == 4:
        other = rng.choice(seeds)
        data[at:] = other[rng.randint(0, len(other)) :]
    elif kind == 5:
        data[at:end] = rng.choice(_NUMBERS)
    else:
        data[at:at] = rng.choice(_NUMBERS)

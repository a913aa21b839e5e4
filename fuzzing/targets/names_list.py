"""A list of names on standard input: what each means is looked at, and no file of them is read."""

from __future__ import annotations

import io

from caffe_port.scoring.sources import Sources
from fuzzing.inputs import refused

READS = ("caffe_port.scoring.sources",)


def once(data: bytes) -> None:
    # Of a folder the first thousand will do: a fuzzer soon finds "/".
    for null in (False, True):
        with refused:
            for number, _ in enumerate(Sources(["-"], null=null, stdin=io.BytesIO(data)).items(lambda _: False)):
                if number == 1000:
                    break

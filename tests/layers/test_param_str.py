"""`param_str` of Python layers that are known: numbers and words by name, whatever else stands there."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_port.errors import UnsupportedParameter
from caffe_port.layers.param_str import mapping


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", {}),
        ("{}", {}),
        ("'feat_stride': 16", {"feat_stride": 16}),
        ("feat_stride: 16\nscales: [8, 16.5,]\r\nratios: (.5,1., -2e3)\n", {
            "feat_stride": 16, "scales": (8, 16.5), "ratios": (0.5, 1, -2000),
        }),
        ("{'phase': 'TRAIN', \"p\": \"0.1\"}", {"phase": "TRAIN", "p": "0.1"}),
        ("'feat_stride': 16 \n'scales': !!python/tuple [4, 8]", {"feat_stride": 16, "scales": (4, 8)}),
    ],
)  # fmt: skip
def test_what_forks_write(text: str, want: dict[str, object]) -> None:
    assert mapping(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "a: 1, a: 1",
        "a: 1 b: 2",
        "a: [[1]]",
        "a: []",
        "a: 1e999",
        "a: __import__('os')",
        "a: 'x\\'",
        "a: !!python/object/apply:os.system ['id']",
        "'a: 1",
        "a: 1}",
        "[1]",
    ],
)
def test_what_they_do_not_write(text: str) -> None:
    with pytest.raises(UnsupportedParameter, match="param_str is no mapping of names to numbers"):
        mapping(text)


# Of the characters that mean something, so that it is more than the first that is refused.
TEXTS = st.text() | st.text("{}[]()'\"ab:,.-+eE019 \n\\!") | st.lists(
    st.sampled_from(["a", "'b'", ":", " ", "1", "[1, 2", "]", "(", ")", ",", "\n", "{", "}", "'c'", "!!python/tuple "])
).map("".join)  # fmt: skip


@given(TEXTS)
def test_any_text_is_a_mapping_or_refused(text: str) -> None:
    try:
        found = mapping(text)
    except UnsupportedParameter as error:
        assert len(str(error)) < 200
    else:
        assert all(isinstance(value, float | str | tuple) for value in found.values())


@pytest.mark.parametrize("piece", [" ", "[", "1", "1.", "-", "a", "a:", "'", ",", "a:[1,", "\n", "1 , "])
@pytest.mark.parametrize("head", ["", "a:", "a:[", "a:[1"])
def test_a_long_one_takes_no_time(head: str, piece: str) -> None:
    began = time.process_time()
    for length in (900 // len(piece), 1_000_000):
        with pytest.raises(UnsupportedParameter):
            mapping(head + piece * length + "!")
    assert time.process_time() - began < 0.5

"""Definitions and weight files from people who mean harm: bounded in memory and time, and refused in our own words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import CONV_NET, one_input, write_model

import caffe_port as cp
from caffe_port.errors import CaffePortError, PrototxtError, WeightsError
from caffe_port.loading import load, with_weight_file
from caffe_port.proto import schema, text, wire
from caffe_port.proto.wire_format import encoded, tagged

# Memory

_CHILD = """
import json, resource, sys
from pathlib import Path
from caffe_port.errors import CaffePortError
from caffe_port.loading import load

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

small, *hostile = sys.argv[1:]
load(small, allow_unknown=True)
limit = status("VmSize") + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
outcomes = {}
for path in hostile:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, said = status("VmHWM"), ""
    try:
        load(path, allow_unknown=True)
    except CaffePortError as error:
        said = str(error)[:300]
    outcomes[Path(path).name] = [said, status("VmHWM") - before]
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Of each of FILES, what loading it says, and by how many bytes the peak memory grows with it.

    All in one process, which may not have more than a GiB.
    """
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is measured by Linux's /proc")
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "small").write_text(CONV_NET)
    for name, make in FILES.items():
        (folder / name).write_bytes(make())
    paths = [str(folder / name) for name in ("small", *FILES)]
    done = subprocess.run([sys.executable, "-c", _CHILD, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, tuple[str, int]] = json.loads(done.stdout)
    return found


def field(number: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return tagged(number, len(content)) + content


def blob_field(*dims: int, data: bytes = b"") -> bytes:
    """A blob of a V2 layer: its shape, and its packed data."""
    return field(7, field(5, data), field(7, field(1, *map(encoded, dims))))


LAYER = field(1, b"conv1") + field(2, b"Convolution")
MANY = 9_999

FILES = {
    "a_terabyte_in_100_bytes": lambda: field(100, LAYER, blob_field(2**40)),
    "a_blob_of_2_gigabytes_without_values": lambda: field(100, LAYER, blob_field(2**29)),
    "dims_that_overflow": lambda: field(100, LAYER, blob_field(2**62, 2**62, 2**62)),
    "dims_that_wrap_to_nothing": lambda: field(100, LAYER, blob_field(2**32, 2**32)),
    "a_million_layers": lambda: field(100) * 10**6,
    "many_layers": lambda: field(100) * MANY,
    "many_v1_layers": lambda: field(2) * 3000,
    "many_blobs": lambda: field(100, LAYER, field(7) * 10**6),
    "many_tiny_pieces_of_data": lambda: field(100, LAYER, field(7, field(5, b"1234") * 100_000)),
    "many_unknown_fields": lambda: field(100, LAYER, (encoded(99 << 3) + b"\x00") * 300_000),
    "groups_in_groups": lambda: encoded(50 << 3 | 3) * 10**5,
    "messages_in_messages": lambda: deep(300),
    "text_of_a_terabyte": lambda: one_input(10**9, 10**3).encode(),
    "text_of_huge_learned_blobs": lambda: (
        one_input(1, 2**15, 2**15) + 'layer { name: "i" type: "InnerProduct" bottom: "x" top: "y" '
        "inner_product_param { num_output: 1 } }"
    ).encode(),
    "text_of_many_layers": lambda: b"layer{}" * MANY,
    "text_of_too_many_layers": lambda: b"layer{}" * (MANY + 2),
    "text_of_many_rules": lambda: b"layer{" + b"include{}" * MANY + b"}",
    "text_of_braces": lambda: b"{" * 300_000,
    "text_nested_deep": lambda: b"layer{" * 10**5,
    "text_of_one_string": lambda: b'name: "' + b"a" * 10**6 + b'"',
    "text_of_one_number": lambda: b"input_dim: " + b"9" * 10**6,
    "text_of_lists": lambda: b"input_dim: [" + b"1," * 200_000 + b"1]",
}


def deep(depth: int) -> bytes:
    """A chain of layers in unknown fields and of V1 layers with V0 layers: messages as deep as wanted."""
    inner = b""
    for _ in range(depth):
        inner = field(1, inner)
    return field(2, inner)


@pytest.mark.parametrize("name", FILES)
def test_memory_is_a_small_multiple_of_the_file(name: str, outcomes: dict[str, tuple[str, int]]) -> None:
    _, grown = outcomes[name]
    # What does not depend on the file's size: up to 10,000 layers, of which a file has one in 3 bytes.
    assert grown <= 64 * 2**20 + 64 * len(FILES[name]())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a_terabyte_in_100_bytes", "blob 0 has more than 2147483647 elements by its shape 1099511627776"),
        ("a_blob_of_2_gigabytes_without_values", "blob 0 has 0 values, its shape 536870912 needs 536870912"),
        ("dims_that_overflow", "blob 0 has more than 2147483647 elements by its shape 46116860"),
        ("dims_that_wrap_to_nothing", "blob 0 has more than 2147483647 elements by its shape 4294967296x4294967296"),
        ("a_million_layers", "has more than 10000 layers; the limit layers is 10000"),
        ("many_blobs", "a layer has more than 1000 learned blobs; the limit layer_blobs is 1000"),
        ("groups_in_groups", "groups nested deeper than 100"),
        ("text_of_a_terabyte", "shape 1000000000x1000 has more than 2147483647 elements"),
        ("text_of_huge_learned_blobs", ""),  # its weights are declared, and nowhere yet
        ("text_of_too_many_layers", "more than 10000 of 'layer'; the limit layers is 10000"),
    ],
)
def test_says_what_is_too_much(name: str, says: str, outcomes: dict[str, tuple[str, int]]) -> None:
    said, _ = outcomes[name]
    assert says in said and bool(says) == bool(said)


# Time


def steps(run: Callable[[], object]) -> int:
    """How many calls and resumptions of Python functions something takes: what grows as time does, and never varies."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += 1

    sys.setprofile(seen)
    try:
        run()
    except CaffePortError:
        pass
    finally:
        sys.setprofile(None)
    return count


def numbered(template: str) -> Callable[[int], str]:
    """A net with so many layers of a template, in which # is a layer's number and @ that of the one before it."""
    return lambda n: one_input(1, 4) + "".join(template.replace("@", str(i - 1)).replace("#", str(i)) for i in range(n))


GROWING: dict[str, Callable[[int], str]] = {
    "bottoms that are nowhere": numbered('layer { name: "a" type: "ReLU" bottom: "b#" top: "t#" }'),
    "types that are nowhere": numbered('layer { name: "a" type: "Relo#" bottom: "x" top: "t#" }'),
    "layers in place": numbered('layer { name: "a#" type: "ReLU" bottom: "x" top: "x" }'),
    "one blob for all": numbered('layer { name: "a#" type: "ReLU" bottom: "x" top: "t#" }'),
    "one top for all": numbered('layer { name: "a#" type: "ReLU" bottom: "x" top: "t" }'),
    "one param for all": numbered(
        'layer { name: "a" type: "InnerProduct" bottom: "x" top: "t#" inner_product_param { num_output: 1 } '
        'param { name: "w" } param { name: "b" } }'
    ),
    "a cycle": numbered('layer { name: "a#" type: "ReLU" bottom: "t@" top: "t#" }'),
    "inputs": lambda n: "".join(f'input: "x{i}" input_shape {{ dim: 1 }} ' for i in range(n)),
    "views overwritten": lambda n: (
        one_input(1, 4)
        + 'layer { name: "s" type: "Split" bottom: "x" '
        + "".join(f'top: "s{i}" ' for i in range(n))
        + "}"
        + "".join(f'layer {{ name: "r{i}" type: "ReLU" bottom: "s{i}" top: "s{i}" }}' for i in range(n))
    ),
    "V1 layers": lambda n: (
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 1 input_dim: 1 '
        + "".join(f'layers {{ name: "a{i}" type: RELU bottom: "x" top: "t{i}" }}' for i in range(n))
    ),
    "V0 layers": lambda n: (
        'input: "x" input_dim: 1 input_dim: 1 input_dim: 3 input_dim: 3 '
        + "".join(
            f'layers {{ layer {{ name: "p{i}" type: "padding" pad: 1 }} bottom: "x" top: "p{i}" }}'
            f'layers {{ layer {{ name: "c{i}" type: "conv" num_output: 1 kernelsize: 1 }} bottom: "p{i}" top: "c{i}" }}'
            for i in range(n)
        )
    ),
    "fields of forks": numbered(
        'layer { name: "a#" type: "Pooling" bottom: "x" top: "t#" pooling_param { ceil_mode: true } }'
    ),
}


@pytest.mark.parametrize("name", GROWING)
def test_time_is_linear_in_the_layers(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"

    def loaded(count: int) -> int:
        path.write_text(GROWING[name](count))
        return steps(lambda: load(path, allow_unknown=True))

    loaded(2)  # what is looked up once
    few, many = loaded(100), loaded(400)
    assert few > 500
    assert many < 4.5 * few


# Names and dims


NAMES = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["x", "y", "", "data", "../../etc", "a/b", "\n", "x" * 5000, "(automatic)", "\u202e", "\x1b[2J"]),
)
DIMS = st.one_of(st.integers(-3, 8), st.sampled_from([-(2**63), 2**63 - 1, 2**31 - 1, 2**31, 2**32, 0]))
TYPES = st.sampled_from(
    ["Input", "ReLU", "Convolution", "InnerProduct", "Pooling", "Split", "Concat", "Slice", "Reshape", "Eltwise",
     "Flatten", "BatchNorm", "Scale", "Crop", "Deconvolution", "LRN", "Python", "Data", "Permute", "PriorBox",
     "nothing"]
)  # fmt: skip
UINTS = st.sampled_from([0, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1])


@st.composite
def nets(draw: st.DrawFn) -> object:
    """A NetParameter with a few layers, which share few names, so that they often hang together."""
    net = schema.message("NetParameter")
    net.name = draw(NAMES)
    few = draw(st.lists(NAMES, min_size=1, max_size=3))
    names = st.sampled_from([*few, "x"])
    net.layer.add(name="x", type="Input", top=["x"]).input_param.shape.add(dim=draw(st.lists(DIMS, max_size=5)))
    for _ in range(draw(st.integers(0, 5))):
        layer = net.layer.add(name=draw(names), type=draw(TYPES))
        layer.bottom.extend(draw(st.lists(names, max_size=3)))
        layer.top.extend(draw(st.lists(names, max_size=3)))
        if draw(st.booleans()):
            convolution = layer.convolution_param
            convolution.num_output = draw(UINTS)
            convolution.group = draw(UINTS)
            for repeated in (convolution.kernel_size, convolution.stride, convolution.pad, convolution.dilation):
                repeated.extend(draw(st.lists(UINTS, max_size=3)))
            convolution.axis = draw(st.integers(-(2**31), 2**31 - 1))
        if draw(st.booleans()):
            layer.reshape_param.shape.dim.extend(draw(st.lists(DIMS, max_size=40)))
            layer.slice_param.slice_point.extend(draw(st.lists(UINTS, max_size=3)))
            layer.slice_param.axis = draw(st.integers(-5, 5))
            layer.inner_product_param.num_output = draw(UINTS)
            layer.pooling_param.kernel_size, layer.pooling_param.stride = draw(UINTS), draw(UINTS)
            layer.pooling_param.pad = draw(UINTS)
            layer.lrn_param.local_size = draw(UINTS)
        if draw(st.booleans()):
            layer.param.add(name=draw(names))
            layer.include.add(stage=[draw(names)]).min_level = draw(st.integers(-(2**31), 2**31 - 1))
    return net


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nets())
def test_any_net_is_built_or_refused(tmp_path: Path, net: cp.Net) -> None:
    prototxt, caffemodel = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    prototxt.write_text(text.dumps(net), encoding="ascii")
    caffemodel.write_bytes(net.SerializeToString())
    for path in (prototxt, caffemodel):
        for allow_unknown in (False, True):
            try:
                loaded = load(path, allow_unknown=allow_unknown, allow_missing_weights=True)
            except CaffePortError as error:
                assert str(error)
                continue
            for layer in loaded.layers:
                assert all(dim >= 0 for top in layer.tops for dim in top.shape)
            repr(loaded)
            with cp.limits.adjusted(net_bytes=2**20):
                try:
                    loaded.filled().require_weights()
                except CaffePortError as error:
                    assert str(error)


@pytest.mark.parametrize("name", [b"a\0b", b"\xff\xfe", b"\xed\xa0\x80"])
def test_names_that_are_no_text(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    for entry in (
        field(100, field(1, name) + field(2, b"ReLU")),
        field(1, name) + field(100, LAYER),
        field(100, field(1, b"a") + field(2, b"ReLU") + field(3, name)),
        field(2, field(4, name)),
        field(2, field(1, field(1, name))),
    ):
        path.write_bytes(entry)
        with pytest.raises(WeightsError, match=r"cannot be read \(") as caught:
            wire.read(path)
        assert str(caught.value).isprintable()
    for quoted in (b'name: "' + name + b'"', b'layer { name: "' + name + b'" type: "ReLU" }'):
        (tmp_path / "net.prototxt").write_bytes(quoted)
        with pytest.raises(PrototxtError):
            text.read(tmp_path / "net.prototxt")


def test_weights_of_a_stranger_for_a_net_of_ours(tmp_path: Path) -> None:
    definition, weights = write_model(tmp_path)
    net = load(definition)
    path = tmp_path / "other.caffemodel"
    for dims in ((2**40,), (4, 3, 3, 2**61), (0,), (4, 3, 3, 3)):
        path.write_bytes(field(100, LAYER, blob_field(*dims, data=bytes(8))))
        with pytest.raises(WeightsError):
            with_weight_file(net, path)
    data = weights.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(50):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged[: rng.integers(len(data))]))
        try:
            with_weight_file(net, path, allow_missing=True, allow_non_finite=True)
        except CaffePortError as error:
            assert path.name in str(error) or "layer" in str(error)

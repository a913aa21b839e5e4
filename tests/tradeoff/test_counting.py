"""What nets cost: by hand, and as pynetbuilder published it."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import CONFORMANCE
from small import CONV_NET, built, filled, one_input

import caffe_port as cp
from caffe_port import build
from caffe_port.architectures import deploy
from caffe_port.converters.to_caffemodel import write_caffemodel
from caffe_port.errors import GraphError, ShapeError, UnsupportedLayer
from caffe_port.frontend import NetState, PlacedLayer
from caffe_port.models.fetch import fetch
from caffe_port.net import Net
from caffe_port.summary import BYTES, peak_activation_bytes, summarize
from caffe_port.tradeoff.counting import RULES, cost_of, of_one_picture, pynetbuilder_complexity

PYNETBUILDER = {
    "resnet50_pynetbuilder": ("resnet_50", "25.55", "3858.02", 25_556_032, 3_858_026_368),
    "resnet50_1by2": ("resnet_50_1by2", "6.92", "1069.59", 6_926_528, 1_069_598_720),
    "resnet77_1by2": ("resnet_77_1by2", "9.44", "1560.93", 9_447_104, 1_560_935_936),
    "resnet66_1by2_inception_trick": (
        "resnet_66_1by2_inception_trick_bottleneck", "5.98", "915.46", 5_987_200, 915_461_824,
    ),
    "resnet68_1by2_4k": (
        "resnet_68_1by2_inception_trick_bottleneck_with4k", "19.55", "1029.69", 19_559_248, 1_029_697_168,
    ),
    "resnet34_inception_trick": ("resnet_34_inception_trick", "8.55", "1370.93", 8_550_464, 1_370_936_192),
    "resnet36_inception_trick_4k": (
        "resnet_36_inception_trick_with4k", "21.58", "1434.30", 21_585_936, 1_434_303_312,
    ),
}  # fmt: skip
"""pynetbuilder's table (models/imagenet/Readme.md): its file, millions of parameters and of flops as printed, which are
cut off, not rounded; and the counts themselves. The README prints those of the first in full."""

ANNOUNCED = {
    "alexnet": (60.954656, 724.407),
    "caffenet": (60.954656, 724.407),
    "ms_ctc": (79.177, 919.3),
    "squeezenet_v1.0": (1.244448, 861.340),
    "squeezenet_v1.1": (1.231552, 387.748),
    "vgg16": (138.344128, 15470.264),
    "vgg19": (143.652544, 19632.062),
    "googlenet": (6.990272, 1582.672),
    "resnet50": (25.556032, 3858.026),
    "resnet50_1by2": (6.926528, 1069.599),
    "open_nsfw": (5.904576, 1068.577),
}
"""The announcement's architectures by the same rule: millions of parameters and of flops, as counted independently of
this package from the published prototxts."""


def architecture(name: str) -> Net:
    message = deploy(name)
    return build.build([PlacedLayer(one, None, i) for i, one in enumerate(message.layer)], state=NetState("TEST"))[0]


def cut(count: int) -> str:
    """Millions with two digits, the others cut off."""
    return f"{count // 10**4 / 100:.2f}"


@pytest.mark.parametrize("name", PYNETBUILDER)
def test_pynetbuilders_table_from_our_architectures(name: str) -> None:
    _, parameters, flops, exact_parameters, exact_flops = PYNETBUILDER[name]
    counted = pynetbuilder_complexity(of_one_picture(architecture(name)))
    assert (cut(counted[0]), cut(counted[1])) == (parameters, flops)
    assert counted == (exact_parameters, exact_flops)


@pytest.mark.parametrize("name", PYNETBUILDER)
def test_pynetbuilders_table_from_its_own_files(name: str) -> None:
    """As its script counts: train.prototxt, built in phase TEST."""
    stem, parameters, flops, *_ = PYNETBUILDER[name]
    path = CONFORMANCE / "prototxt" / f"jay-mahadeokar__pynetbuilder__models_imagenet_{stem}_train.prototxt"
    if not path.exists():
        pytest.skip("pynetbuilder's prototxts belong to another project and are not here")
    counted = pynetbuilder_complexity(of_one_picture(cp.load(path)))
    assert (cut(counted[0]), cut(counted[1])) == (parameters, flops)


def test_pynetbuilders_ssd_from_its_own_file() -> None:
    """It prints 71.47 M and 9178.43 M. The file has its data layer in phase TRAIN alone."""
    path = CONFORMANCE / "prototxt" / "jay-mahadeokar__pynetbuilder__models_voc2007_ssd_resnet_50_train.prototxt"
    if not path.exists():
        pytest.skip("pynetbuilder's prototxts belong to another project and are not here")
    net = cp.load(path, phase="TRAIN", input_shapes={"data": (1, 3, 300, 300), "label": (1, 1, 1, 8)})
    parameters, flops = pynetbuilder_complexity(net)
    assert (cut(parameters), cut(flops)) == ("71.47", "9178.43")


@pytest.mark.parametrize("name", ANNOUNCED)
def test_the_announced_architectures_by_the_same_rule(name: str) -> None:
    parameters, flops = ANNOUNCED[name]
    counted = pynetbuilder_complexity(of_one_picture(architecture(name)))
    digits = 3 if name == "ms_ctc" else 6
    assert (round(counted[0] / 1e6, digits), round(counted[1] / 1e6, 1 if name == "ms_ctc" else 3)) == (
        parameters,
        flops,
    )


def test_pynetbuilders_rule_by_hand() -> None:
    net = built(
        one_input(1, 2, 6, 6)
        + """
        layer { name: "c" type: "Convolution" bottom: "x" top: "c"
                convolution_param { num_output: 4 kernel_size: 3 group: 2 } }
        layer { name: "b" type: "BatchNorm" bottom: "c" top: "c" }
        layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
        layer { name: "d" type: "Deconvolution" bottom: "c" top: "d"
                convolution_param { num_output: 5 kernel_size: 2 stride: 2 } }
        layer { name: "i" type: "InnerProduct" bottom: "d" top: "i" inner_product_param { num_output: 3 } }
        """
    )
    # c 4x1x3x3 to 4x4; b and s one of 4 channels each; d 4x5x2x2 counted once; i 3x(5x8x8). No biases.
    sizes = {"c": 36, "b": 4, "s": 4, "d": 80, "i": 960}
    assert pynetbuilder_complexity(net) == (sum(sizes.values()), 36 * 16 + 4 + 4 + 80 + 960)
    # All of it: biases, the BatchNorm's variance and factor; the Deconvolution at each of its 4x4 inputs.
    complete = cost_of(net)
    assert complete.parameters == (36 + 4) + (4 + 4 + 1) + (4 + 4) + (80 + 5) + (960 + 3)
    assert complete.macs == 36 * 16 + 80 * 16 + 960


def test_a_shared_blob_is_counted_with_each_layer_by_pynetbuilder_and_once_by_us() -> None:
    layer = """layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" param { name: "w" }
        inner_product_param { num_output: 4 bias_term: false } }"""
    net = built(one_input(1, 4) + layer % ("a", "x", "a") + layer % ("b", "a", "b"))
    assert pynetbuilder_complexity(net) == (32, 32)
    assert (cost_of(net).parameters, cost_of(net).macs) == (16, 32)


def test_pynetbuilder_has_no_answer_for_other_convolutions() -> None:
    net = built(
        one_input(1, 2, 5, 5, 5) + 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" '
        "convolution_param { num_output: 2 kernel_size: 3 } }"
    )
    with pytest.raises(GraphError, match="'c': pynetbuilder counts no convolution to 1x2x3x3x3"):
        cost_of(net, "pynetbuilder")
    with pytest.raises(GraphError, match="unknown counting rule 'nothing'; known: complete, pynetbuilder"):
        cost_of(net, "nothing")
    assert set(RULES) == {"complete", "pynetbuilder"}


def test_memory_of_blobs_needed_at_once() -> None:
    # data 336, conv1 448 (the ReLU in place), pool1 96, fc 10, prob 10; inputs and outputs stay.
    net = built(CONV_NET)
    assert peak_activation_bytes(net) == BYTES * (336 + 448 + 96)
    assert summarize(net).activation_bytes == BYTES * (336 + 448 + 96 + 10 + 10)


def test_views_and_layers_in_place_need_no_memory_at_once() -> None:
    net = built(
        one_input(1, 3, 4, 4)
        + """
        layer { name: "f" type: "Flatten" bottom: "x" top: "f" }
        layer { name: "p" type: "Power" bottom: "f" top: "p" }
        layer { name: "q" type: "ReLU" bottom: "p" top: "p" }
        layer { name: "r" type: "Reshape" bottom: "p" top: "r" reshape_param { shape { dim: 0 dim: 48 dim: 1 } } }
        layer { name: "m" type: "TanH" bottom: "r" top: "m" }
        layer { name: "n" type: "TanH" bottom: "m" top: "n" }
        layer { name: "s" type: "Eltwise" bottom: "r" bottom: "n" top: "s" }
        """
    )
    # x (with f), p (with r and its Split's tops), and while n runs m and n; the first and the last stay, m goes.
    assert peak_activation_bytes(net) == BYTES * 48 * 4


def test_a_blob_no_layer_needs_any_more_is_gone() -> None:
    steps = "".join(
        f'layer {{ name: "t{i}" type: "TanH" bottom: "{f"t{i - 1}" if i else "x"}" top: "t{i}" }}' for i in range(9)
    )
    net = built(one_input(1, 10) + steps)
    assert peak_activation_bytes(net) == BYTES * 30
    assert summarize(net).activation_bytes == BYTES * 100


def test_size_of_the_caffemodel(tmp_path: Path) -> None:
    write_caffemodel(filled(CONV_NET), tmp_path / "net.caffemodel")
    for net in (built(CONV_NET), filled(CONV_NET)):
        cost = cost_of(net)
        assert (cost.model_bytes, cost.model_measured) == ((tmp_path / "net.caffemodel").stat().st_size, True)


def test_size_of_a_released_caffemodel() -> None:
    try:
        files = fetch("open_nsfw")
    except cp.CaffePortError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    cost = cost_of(cp.load(files.prototxt, files.caffemodel))
    assert cost.model_bytes == files.caffemodel.stat().st_size


def test_size_where_no_caffemodel_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffe_port.proto.wire.MAX_ELEMENTS", 1000)
    cost = cost_of(built(CONV_NET))
    assert (cost.model_bytes, cost.model_measured) == (357 * BYTES, False)


def test_one_picture() -> None:
    net = of_one_picture(built(CONV_NET))
    assert net.input_shapes == {"data": (1, 3, 8, 7)}
    assert of_one_picture(net) is net
    two = built(
        one_input(2, 3) + one_input(4, 3, name="y") + 'layer { name: "a" type: "ReLU" bottom: "x" top: "a" }'
        'layer { name: "b" type: "ReLU" bottom: "y" top: "b" }'
    )
    with pytest.raises(ShapeError, match=r"the inputs \(x 2x3, y 4x3\) have no common first axis"):
        of_one_picture(two)


def test_a_layer_nobody_understands_is_not_counted_as_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(one_input(1, 3) + 'layer { name: "u" type: "Nobody" bottom: "x" top: "u" }')
    net = cp.load(path, allow_unknown=True)
    with pytest.raises(UnsupportedLayer, match="unknown layer type 'Nobody'"):
        cost_of(net)

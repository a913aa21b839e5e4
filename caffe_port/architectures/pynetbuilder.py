"""Yahoo's pynetbuilder (2016): residual nets of exchangeable blocks, of which open_nsfw is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from caffe_port.architectures.parts import BIAS_TWICE, Architecture, UnknownArchitecture, ends
from caffe_port.architectures.resnet import RECIPE
from caffe_port.netspec import NetSpec, Top
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.netspec import params as P  # noqa: N812

__all__ = ["ALL", "MAIN_BRANCHES", "pynetbuilder"]

_NO_LEARNING = [{"lr_mult": 0, "decay_mult": 0}] * 3


class _Step(NamedTuple):
    """A convolution of a block: the end of its name, its channels, its window, and whether a ReLU follows."""

    name: str
    width: int
    window: Mapping[str, int]
    relu: bool = True


def _square(size: int, stride: int = 1) -> dict[str, int]:
    return {"kernel_size": size, "pad": size // 2, "stride": stride}


def _row(stride: int | None = None) -> dict[str, int]:
    return {"kernel_h": 1, "kernel_w": 3, "pad_w": 1, **({} if stride is None else {"stride_h": 1, "stride_w": stride})}


def _column(stride: int | None = None) -> dict[str, int]:
    return {"kernel_h": 3, "kernel_w": 1, "pad_h": 1, **({} if stride is None else {"stride_h": stride, "stride_w": 1})}


def _steps(main_branch: str, width: int, stride: int) -> list[_Step]:
    """The convolutions of a block that has no branches of its own."""
    quarter = width // 4
    return {
        "normal": [
            _Step("branch2a", width, _square(3, stride)),
            _Step("branch2b", width, _square(3), relu=False),
        ],
        "1by1_normal": [
            _Step("branch2a", width, _square(1, stride)),
            _Step("branch2b", width, _square(1), relu=False),
        ],
        "bottleneck": [
            _Step("branch2a", quarter, _square(1, stride)),
            _Step("branch2b", quarter, _square(3)),
            _Step("branch2c", width, _square(1), relu=False),
        ],
        "inception_trick": [
            _Step("branch_3by1a", width, _row(stride)),
            _Step("branch_1by3a", width, _column(stride)),
            _Step("branch_3by1b", width, _row()),
            _Step("branch_1by3b", width, _column()),
        ],
        "inception_trick_bottleneck": [
            _Step("branch2a", quarter, _square(1, stride)),
            _Step("branch_b_3by1", quarter, _row()),
            _Step("branch_b_1by3", quarter, _column()),
            _Step("branch2c", width, _square(1), relu=False),
        ],
    }[main_branch]


MAIN_BRANCHES = (
    "normal",
    "bottleneck",
    "inception_trick",
    "inception_trick_bottleneck",
    "1by1_normal",
    "inception",
    "2inception",
)
"""What a block can be: two 3x3; 1x1, 3x3, 1x1 at a quarter of the channels; either with 3x3 as 1x3 and 3x1; two 1x1;
an inception module; two of them."""


def pynetbuilder(
    n: NetSpec,
    label: Top | None,
    *,
    classes: int,
    main_branch: str = "bottleneck",
    num_output_stage1: int = 128,
    blocks: Sequence[int] = (3, 4, 6, 3),
    fc_layers: bool = False,
    filler: str = "msra",
    head_filler: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """A 7x7 convolution of 64 channels and four stages of blocks.

    - `main_branch`: what a block is, of MAIN_BRANCHES (`-m` of pynetbuilder's build_resnet.py).
    - `num_output_stage1`: channels the blocks of the first stage give; each further stage gives twice as many (`-n`).
    - `blocks`: how many each stage has (`-b`).
    - `fc_layers`: 1x1 convolutions to 2048, to 4096 and to the classes instead of one fully connected layer.
    - `filler`: of convolutions. `head_filler`: weight_filler and bias_filler of the fully connected layer.
    Raises: UnknownArchitecture for another main branch.
    """
    if main_branch not in MAIN_BRANCHES:
        raise UnknownArchitecture(f"main_branch {main_branch!r}: it is one of {', '.join(MAIN_BRANCHES)}")

    def conv(name: str, bottom: Top, width: int, window: Mapping[str, int], relu: bool = True) -> Top:
        """Convolution, normalization, scale and, unless not wanted, ReLU."""
        n[f"conv_{name}"] = L.Convolution(
            bottom,
            num_output=width,
            param=BIAS_TWICE,
            weight_filler={"type": filler},
            bias_filler={"type": "constant", "value": 0},
            **window,
        )
        # Deployed, statistics are the stored ones; in training the default does what each phase needs.
        statistics = {"use_global_stats": True} if label is None else {}
        n[f"bn_{name}"] = L.BatchNorm(n[f"conv_{name}"], in_place=True, param=_NO_LEARNING, **statistics)
        n[f"scale_{name}"] = top = L.Scale(n[f"bn_{name}"], bias_term=True, in_place=True)
        if relu:
            n[f"relu_{name}"] = top = L.ReLU(top, in_place=True)
        result: Top = top
        return result

    def inception(name: str, bottom: Top, width: int, downsample: bool) -> Top:
        stride = 2 if downsample else 1
        quarter, reduced = width // 4, width * 3 // 16
        plain = conv(f"{name}_br1by1", bottom, quarter, _square(1, stride))
        one = conv(f"{name}_br3by3_reduce", bottom, reduced, _square(1))
        one = conv(f"{name}_br3by3_expand", one, quarter, _square(3, stride))
        two = conv(f"{name}_br2_3by3_reduce", bottom, reduced, _square(1))
        two = conv(f"{name}_br2_3by3_expand_1", two, quarter, _square(3))
        two = conv(f"{name}_br2_3by3_expand_2", two, quarter, _square(3, stride))
        pad = 0 if downsample else 1
        n[f"{name}_pool"] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=3, stride=stride, pad=pad)
        pooled = conv(f"{name}_pool_expand", n[f"{name}_pool"], quarter, _square(1))
        n[f"{name}_concat"] = L.Concat(plain, one, two, pooled)
        top: Top = n[f"{name}_concat"]
        return top

    def block(name: str, bottom: Top, width: int, stride: int, projected: bool) -> Top:
        shortcut = top = bottom
        if projected:
            shortcut = conv(f"{name}_proj_shortcut", bottom, width, _square(1, stride), relu=False)
        # The original halves wherever it projects, so in the first block too, where the shortcut does not: such a net
        # cannot be built.
        if main_branch == "inception":
            top = inception(f"{name}_inception", top, width, stride == 2)
        elif main_branch == "2inception":
            top = inception(f"{name}_inception_a", top, width, False)
            top = inception(f"{name}_inception_b", top, width, stride == 2)
        else:
            for step in _steps(main_branch, width, stride):
                top = conv(f"{name}_{step.name}", top, step.width, step.window, step.relu)
        n[f"eltwise_{name}"] = L.Eltwise(shortcut, top)
        n[f"relu_{name}"] = L.ReLU(n[f"eltwise_{name}"], in_place=True)
        result: Top = n[f"relu_{name}"]
        return result

    top = conv("1", n.data, 64, _square(7, 2))
    top = n.pool1 = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=3, stride=2)
    for stage, count in enumerate(blocks):
        for index in range(count):
            # Where the first block gives as many channels as it reads, both are added as they are.
            same = stage == 0 and main_branch in ("normal", "inception_trick") and num_output_stage1 == 64
            stride = 2 if stage and index == 0 else 1
            width = num_output_stage1 * 2**stage
            top = block(f"stage{stage}_block{index}", top, width, stride, index == 0 and not same)
    if not fc_layers:
        n.pool = L.Pooling(top, pool=P.Pooling.AVE, kernel_size=7, stride=1)
        fillers = head_filler or {"weight_filler": {"type": "msra"}, "bias_filler": {"type": "constant"}}
        n.fc1000 = L.InnerProduct(n.pool, num_output=classes, param=BIAS_TWICE, **fillers)
        ends(n, n.fc1000, label, "loss", "accuracy")
        return
    top = conv("1by1_2048", top, 2048, _square(1))
    n.pool = L.Pooling(top, pool=P.Pooling.AVE, kernel_size=7, stride=1)
    top = conv("1by1_4096", n.pool, 4096, _square(1))
    n.drop_1by1_4096 = L.Dropout(top, dropout_ratio=0.2, in_place=True)
    ends(n, conv("1by1_1000", n.drop_1by1_4096, classes, _square(1)), label, "loss", "accuracy")


def _architecture(name: str, file: str, title: str = "", **options: Any) -> Architecture:
    head = "1by1_1000"
    return Architecture(
        name=name,
        title=title or file,
        paper="He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (2015), in the forms of pynetbuilder",
        published=f"jay-mahadeokar/pynetbuilder, models/imagenet/{file}",
        layers=pynetbuilder,
        heads=tuple(f"{kind}_{head}" for kind in ("conv", "bn", "scale", "relu"))
        if "fc_layers" in options
        else ("fc1000",),
        crop=224,
        recipe=RECIPE,
        kept=frozenset({"param", "fillers"}),
        options=options,
    )


_TRICK: dict[str, Any] = {"main_branch": "inception_trick", "num_output_stage1": 64, "blocks": (2, 2, 2, 2)}
_TRICK_BOTTLENECK: dict[str, Any] = {"main_branch": "inception_trick_bottleneck"}

ALL = (
    _architecture("resnet50_pynetbuilder", "resnet_50", "Resnet_50", num_output_stage1=256, filler="xavier"),
    _architecture("resnet50_1by2", "resnet_50_1by2", "Resnet_50_1by2", filler="xavier"),
    _architecture("resnet77_1by2", "resnet_77_1by2", "Resnet_77_1by2", blocks=(3, 4, 15, 3)),
    _architecture("resnet66_1by2_inception_trick", "resnet_66_1by2_inception_trick_bottleneck", **_TRICK_BOTTLENECK),
    _architecture(
        "resnet68_1by2_4k", "resnet_68_1by2_inception_trick_bottleneck_with4k", fc_layers=True, **_TRICK_BOTTLENECK
    ),
    _architecture("resnet34_inception_trick", "resnet_34_inception_trick", **_TRICK),
    _architecture("resnet36_inception_trick_4k", "resnet_36_inception_trick_with4k", fc_layers=True, **_TRICK),
    Architecture(
        name="open_nsfw",
        title="ResNet_50_1by2_nsfw",
        paper="Mahadeokar, Pesavento: Open Sourcing a Deep Learning Solution for Detecting NSFW Images (2016)",
        published="yahoo/open_nsfw, nsfw_model/deploy.prototxt",
        layers=pynetbuilder,
        heads=("fc1000",),
        crop=224,
        recipe=RECIPE,
        kept=frozenset({"param", "fillers"}),
        options={
            "filler": "xavier",
            "head_filler": {
                "weight_filler": {"type": "xavier", "std": 0.01},
                "bias_filler": {"type": "xavier", "value": 0},
            },
        },
        classes=2,
        finetuned="nsfw",
    ),
)
"""pynetbuilder's ImageNet nets, in the order of its tables, and the one that was fine-tuned."""

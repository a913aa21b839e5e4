"""The nets that Yahoo's announcement of open_nsfw compares, and their relatives, built at any number of classes.

    from caffe_port import architectures
    from caffe_port.proto import text

    net = architectures.deploy("resnet50_1by2", classes=2)
    print(text.dumps(net))

Each family is a function on `caffe_port.netspec` in a module of its own; `docs/architectures.md` has the list.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from caffe_port.architectures.alexnet import ALEXNET, CAFFENET
from caffe_port.architectures.googlenet import GOOGLENET
from caffe_port.architectures.ms_ctc import MS_CTC
from caffe_port.architectures.parts import (
    IMAGENET_MEAN,
    Architecture,
    Recipe,
    UnknownArchitecture,
    as_finetuned,
    data_layers,
    image_data_layers,
    without_training,
)
from caffe_port.architectures.pynetbuilder import ALL as PYNETBUILDER
from caffe_port.architectures.resnet import RESNET50, RESNET101, RESNET152
from caffe_port.architectures.squeezenet import SQUEEZENET_1_0, SQUEEZENET_1_1
from caffe_port.architectures.vgg import VGG16, VGG19
from caffe_port.netspec import NetSpec, Top, assign_proto
from caffe_port.netspec import layers as L  # noqa: N812
from caffe_port.proto import schema
from caffe_port.proto.schema import Message

__all__ = [
    "ARCHITECTURES",
    "FINETUNING",
    "HEAD_FACTOR",
    "IMAGENET_MEAN",
    "RESIZE",
    "Architecture",
    "Recipe",
    "UnknownArchitecture",
    "defaults",
    "deploy",
    "get",
    "solver",
    "train_val",
]

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        one.name: one
        for one in (
            ALEXNET,
            CAFFENET,
            MS_CTC,
            SQUEEZENET_1_0,
            SQUEEZENET_1_1,
            VGG16,
            VGG19,
            GOOGLENET,
            RESNET50,
            RESNET101,
            RESNET152,
            *PYNETBUILDER,
        )
    }
)
"""All architectures by name."""

HEAD_FACTOR = 5
"""Learning rate of a replaced head over that of the other layers, as the announcement of open_nsfw has it."""

RESIZE = 256
"""Height and width that images are resized to before they are cropped, as the announcement has it."""

FINETUNING = MappingProxyType(
    {
        "base_lr": 0.001,
        "lr_policy": "step",
        "gamma": 0.1,
        "stepsize": 20000,
        "max_iter": 100000,
        "test_iter": 100,
        "test_interval": 1000,
        "display": 20,
        "snapshot": 10000,
    }
)
"""Fields of the solver that fine-tuning begins with: those of BVLC/caffe, models/finetune_flickr_style. The
announcement gives none, but says that rate and step size were tuned."""

_LISTS = ("train.txt", "val.txt")
_DATABASES = ("examples/imagenet/ilsvrc12_train_lmdb", "examples/imagenet/ilsvrc12_val_lmdb")
_FINETUNING_BATCHES = (32, 10)


def get(name: str) -> Architecture:
    """The architecture of a name. Raises: UnknownArchitecture."""
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name.lower(), ARCHITECTURES, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(ARCHITECTURES)}"
        raise UnknownArchitecture(f"there is no architecture {name!r}; {hint}")
    return ARCHITECTURES[name]


def defaults(name: str, *, finetune: bool = False) -> tuple[tuple[str, str], tuple[int, int]]:
    """Where images come from and how many at a time, in TRAIN and TEST, if nothing else is said.

    Raises: UnknownArchitecture.
    """
    architecture = get(name)
    if finetune or architecture.finetuned:
        return _LISTS, _FINETUNING_BATCHES
    return _DATABASES, (architecture.recipe.train_batch, architecture.recipe.test_batch)


def deploy(
    name: str, classes: int | None = None, *, batch: int = 1, finetune: str | None = None, **options: Any
) -> Message:
    """The net to be used: from an Input `data` of shape (batch, 3, crop, crop) to a Softmax `prob`.

    - `classes`: of the head (default: the architecture's own, 1000 for all but open_nsfw).
    - `finetune`: what a replaced head is called after, as `train_val` has it.
    - `options`: of the family's function, over the architecture's own: `blocks=(2, 2, 2, 2)`.

    Returns a NetParameter. Raises: UnknownArchitecture, also for what an option or a number cannot be.
    """
    architecture = get(name)
    _require_count("a batch", batch)
    n = NetSpec()
    n.data = L.Input(shape={"dim": [batch, 3, architecture.crop, architecture.crop]})
    net = _net(architecture, n, None, classes, finetune, options)
    without_training(net, architecture.kept)
    return net


def train_val(
    name: str,
    classes: int | None = None,
    *,
    finetune: str | None = None,
    sources: tuple[str, str] | None = None,
    batches: tuple[int, int] | None = None,
    mean: str | Sequence[float] | None = None,
    **options: Any,
) -> Message:
    """The net to be trained and validated: data layers, losses and accuracies included.

    - `finetune`: the recipe of open_nsfw's announcement, for the weights of a net that was trained on ImageNet: the
      head is renamed after this word, so that it starts anew, and learns HEAD_FACTOR times as fast; images come from
      lists of files, are resized to RESIZE x RESIZE, cropped at random and mirrored. Without it, data come from LMDB
      databases, as the architecture was trained.
    - `sources`: what TRAIN and TEST read: databases, or lists of files.
    - `batches`: images of one step in TRAIN and TEST.
    - `mean`: what is taken off: a mean file, or a value a channel (default: as the architecture was trained, which for
      AlexNet and CaffeNet is a file; fine-tuning, IMAGENET_MEAN). With a file the number of channels stands in the
      database alone, so such a net is loaded with `input_shapes`.

    Returns a NetParameter. Raises: as `deploy`.
    """
    architecture = get(name)
    finetune = architecture.finetuned if finetune is None else finetune
    recipe = architecture.recipe
    usual_sources, usual_batches = defaults(name, finetune=finetune is not None)
    sources, batches = sources or usual_sources, batches or usual_batches
    for batch in batches:
        _require_count("a batch", batch)
    n = NetSpec()
    if finetune is not None:
        label = image_data_layers(n, sources, batches, architecture.crop, mean or IMAGENET_MEAN, RESIZE)
    else:
        label = data_layers(n, sources, batches, architecture.crop, mean or recipe.mean, recipe.mirror)
    return _net(architecture, n, label, classes, finetune, options)


def solver(name: str, *, net: str = "train_val.prototxt", finetune: bool = False, **fields: Any) -> Message:
    """A SolverParameter that trains the net as it was trained (`Architecture.recipe`), or that fine-tunes it.

    - `net`: the path of the `train_val` net.
    - `finetune`: whether weights are there already; open_nsfw always is.
    - `fields`: of SolverParameter, over the recipe's: `base_lr=0.01`.

    Raises: UnknownArchitecture; UnsupportedParameter for a field that is none.
    """
    architecture = get(name)
    recipe = dict(architecture.recipe.solver)
    if finetune or architecture.finetuned:
        # What says how long and how fast; momentum and decay stay those of the training.
        kept = {"momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"]}
        recipe = {**FINETUNING, **kept, "snapshot_prefix": f"{name}_finetuned"}
    message = schema.message("SolverParameter")
    for field, value in {"net": net, **recipe, **fields}.items():
        assign_proto(message, field, value)
    return message


def _net(
    architecture: Architecture,
    n: NetSpec,
    label: Top | None,
    classes: int | None,
    finetune: str | None,
    options: Mapping[str, Any],
) -> Message:
    classes = architecture.classes if classes is None else classes
    _require_count("classes", classes)
    _require_options(architecture, options)
    try:
        architecture.layers(n, label, classes=classes, **{**architecture.options, **options})
    except (IndexError, TypeError, ValueError) as error:
        raise UnknownArchitecture(f"{architecture.name}: its options do not fit together: {error}") from error
    net = n.to_proto()
    net.name = architecture.title
    suffix = architecture.finetuned if finetune is None else finetune
    if suffix is not None:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", suffix, re.ASCII):
            raise UnknownArchitecture(f"a head cannot be called after {suffix!r}; letters, digits, - and _ will do")
        as_finetuned(net, architecture.heads, suffix, HEAD_FACTOR)
    return net


def _require_options(architecture: Architecture, options: Mapping[str, Any]) -> None:
    """Raises UnknownArchitecture for options the family does not have, or of another kind than its defaults."""
    own = {
        key: architecture.options.get(key, parameter.default)
        for key, parameter in inspect.signature(architecture.layers).parameters.items()
        if key not in ("n", "label", "classes")
    }
    for key, value in options.items():
        if key not in own:
            raise UnknownArchitecture(f"{architecture.name} has no option {key!r}; it has {', '.join(own)}")
        usual = own[key]
        if isinstance(usual, (tuple, list)):
            fits = isinstance(value, (tuple, list))
        elif isinstance(usual, float):
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        else:
            fits = usual is None or type(value) is type(usual)
        if not fits:
            raise UnknownArchitecture(f"{architecture.name}: {key} cannot be {value!r}; its default is {usual!r}")


def _require_count(what: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnknownArchitecture(f"{what} must be a whole number from 1 on, not {value!r}")

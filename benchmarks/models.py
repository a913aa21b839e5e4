"""The models that are measured: open_nsfw as it was released, and nets of known architectures with random weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from processes import CACHE, run


@dataclass(frozen=True, slots=True)
class Model:
    """A model as Caffe has it. `name` is what tables call it."""

    name: str
    prototxt: Path
    caffemodel: Path

    @property
    def size(self) -> float:
        """Of the caffemodel, in MB."""
        return self.caffemodel.stat().st_size / 1e6

    @property
    def title(self) -> str:
        return f"{self.name} ({self.size:.0f} MB)"


def open_nsfw() -> Model:
    """The released model, from the cache (`caffe-port fetch open_nsfw`)."""
    prototxt, caffemodel = run([sys.executable, __file__, "open_nsfw"]).output.splitlines()
    return Model("open_nsfw", Path(prototxt), Path(caffemodel))


def architecture(name: str, title: str) -> Model:
    """A net of `caffe_port.architectures`, written by our own writer once, its weights those of its fillers."""
    model = Model(title, CACHE / f"{name}.prototxt", CACHE / f"{name}.caffemodel")
    if not model.caffemodel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        run([sys.executable, __file__, name])
    return model


# What runs in a process of its own, which takes its memory with it.


def _fetch() -> None:
    from caffe_port.models.fetch import fetch

    found = fetch("open_nsfw")
    print(found.prototxt, found.caffemodel, sep="\n")


def _write(name: str) -> None:
    import caffe_port
    from caffe_port.architectures import deploy
    from caffe_port.converters.to_caffemodel import write_caffemodel
    from caffe_port.proto import text

    text.write(CACHE / f"{name}.prototxt", deploy(name))
    write_caffemodel(caffe_port.load(CACHE / f"{name}.prototxt").filled(), CACHE / f"{name}.caffemodel")


if __name__ == "__main__":
    _fetch() if sys.argv[1] == "open_nsfw" else _write(sys.argv[1])

"""A zip archive of images: every member read, whatever it is called."""

from __future__ import annotations

from caffe_port.scoring.sources import Sources
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.scoring.sources",)


def once(data: bytes) -> None:
    sources = Sources([str(as_file(data, "images.zip"))], all_files=True)
    with refused:
        sources.count()
    with refused:
        for item in sources.items():
            with refused:
                item.read()

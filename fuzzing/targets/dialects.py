"""A net of forks: read in the union of their schemas, its dialects told, and built strictly as well as not."""

from __future__ import annotations

from caffe_port.loading import load
from caffe_port.proto import dialects, text
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.proto.dialects", "caffe_port.proto.text")


def once(data: bytes) -> None:
    with refused:
        message, _ = text.parse(data.decode("utf-8", "surrogateescape"), file="net.prototxt")
        dialects.detect(message)
        dialects.fork_paths(message)
        list(dialects.foreign_fields(message))
    with refused:
        load(as_file(data, "net.prototxt"), dialect="SSD")

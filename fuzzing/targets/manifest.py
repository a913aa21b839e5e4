"""A manifest of preprocessing, and a file of labels that one names."""

from __future__ import annotations

import json

from caffe_port.preprocessing import FORMAT, manifest_of, read_manifest
from fuzzing.inputs import as_file, folder, refused

READS = ("caffe_port.preprocessing", "caffe_port.reading")


def once(data: bytes) -> None:
    path = as_file(data, "manifest.json")
    with refused:
        read_manifest(path)
    with refused:
        manifest_of(json.dumps({"format": FORMAT, "labels": path.name, "score": 1}), "labels", folder())
    with refused:
        manifest_of(data.decode("utf-8", "replace"), "metadata").as_json()

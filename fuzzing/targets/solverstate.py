"""A solver's state, binary: read, and shown."""

from __future__ import annotations

from caffe_port.proto import solverstate
from fuzzing.inputs import as_file, refused

READS = ("caffe_port.proto.solverstate",)


def once(data: bytes) -> None:
    path = as_file(data, "state.solverstate")
    with refused:
        solverstate.is_solverstate(path)
    with refused:
        state = solverstate.read(path)
        state.table()
        state.as_json()

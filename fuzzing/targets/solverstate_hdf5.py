"""A solver's state in HDF5: read, and shown. Slow, as HDF5 is."""

from __future__ import annotations

from fuzzing.targets import solverstate

READS = ("caffe_port.proto.solverstate", "caffe_port.proto.hdf5")
MAX_LENGTH = 1 << 15

once = solverstate.once

"""Makes the seeds in fuzzing/corpus/ from our own writers and nets: python -m fuzzing.make_corpus

What it makes is checked in; running it again changes nothing unless a writer or a net did.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port.proto import hdf5, schema, solverstate, text, wire
from caffe_port.proto.blobs import BlobData, blob_chunks
from caffe_port.registry import layer_types
from caffe_port.scoring.items import Row
from caffe_port.scoring.sinks import FileSink
from fuzzing.catalogue import HERE
from fuzzing.nets import CONV_NET, SOLVERS, TEXTS, V0_NET, V1_NET
from fuzzing.targets.score_journal import COLUMNS

TEXT_TARGETS = ("prototxt_net", "dialects", "upgrade")


def _put(target: str, name: str, data: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def _blob(*shape: int, legacy: bool = False, wide: bool = False) -> BlobData:
    count = int(np.prod(shape))
    return BlobData(shape, legacy, np.linspace(-1, 1, count, dtype=np.float64 if wide else np.float32))


def _bytes(pieces: list[object]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)  # type: ignore[call-overload]


def _caffemodel(prototxt: str, blobs: dict[str, list[BlobData]]) -> bytes:
    message, _ = text.parse(prototxt)
    layers = message.layer or [one.layer if one.HasField("layer") else one for one in message.layers]
    return _bytes(wire.serialized(message, [blobs.get(layer.name, []) for layer in layers], "a seed"))


def _written(write: Callable[[Path], None]) -> bytes:
    """What a writer of files writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        write(path)
        return path.read_bytes()


def prototxts() -> None:
    for name, content in TEXTS.items():
        _put("prototxt_net", name, content.encode())
        _put("dialects", name, content.encode())
        _put("upgrade", name, content.encode())
    for name, content in SOLVERS.items():
        _put("prototxt_solver", name, content.encode())


def caffemodels() -> None:
    conv = {"conv1": [_blob(4, 3, 3, 3), _blob(4)], "fc": [_blob(5, 48), _blob(5)]}
    old = {"conv1": [_blob(2, 1, 3, 3, legacy=True), _blob(1, 1, 1, 2, legacy=True)]}
    made = {
        "v2": _caffemodel(CONV_NET, conv),
        "v2_double": _caffemodel(CONV_NET, {"conv1": [_blob(4, 3, 3, 3, wide=True), _blob(4, wide=True)]}),
        "v1": _caffemodel(V1_NET, old),
        "v0": _caffemodel(V0_NET, old),
    }
    for name, data in made.items():
        _put("caffemodel", name, data)
        _put("upgrade", f"{name}.caffemodel", data)
    bare = schema.message("NetParameter")
    layer = bare.layer.add(name="conv1", type="Convolution")
    inline = layer.blobs.add()
    inline.shape.dim.extend((1, 2))
    inline.data.extend((1.0, 2.0))
    _put("caffemodel", "protobuf", bare.SerializeToString())
    for name, blob in {"mean": _blob(1, 3, 2, 2, legacy=True), "double": _blob(2, 3, wide=True)}.items():
        _put("binaryproto", name, _bytes(blob_chunks(blob, name)))


def solverstates() -> None:
    history = (_blob(2, 3), _blob(1, 1, 1, 2, legacy=True))
    path = Path("state")
    for as_hdf5, target in ((False, "solverstate"), (True, "solverstate_hdf5")):
        state = solverstate.SolverState(path, 7, 1, "a.caffemodel", history)
        _put(target, "two", _written(lambda at, state=state, form=as_hdf5: solverstate.write(at, state, as_hdf5=form)))
        none = solverstate.SolverState(path, 0, 0, "", ())
        _put(target, "none", _written(lambda at, state=none, form=as_hdf5: solverstate.write(at, state, as_hdf5=form)))


def hdf5_weights() -> None:
    small, wide = np.ones((2, 3), np.float32), np.zeros((1, 2, 2), np.float64)
    _put("hdf5_weights", "two", _written(lambda at: hdf5.write(at, [("conv1", [small, wide]), ("empty", [])])))
    _put("hdf5_weights", "shared", _written(lambda at: hdf5.write(at, [("a", [None, small])], [("a", [small])])))


def journals() -> None:
    def written(path: Path) -> None:
        output = path.with_name("scores.csv")
        with FileSink(output, "csv", COLUMNS) as sink:
            sink.write(Row("a.jpg", (0.25, 0.75)))
            sink.write(Row("b.jpg", error="cannot be decoded"))
        FileSink.journal_of(output).rename(path)

    _put("score_journal", "two", _written(written))


def dictionaries() -> None:
    """The words of a prototxt: names of fields and enumerated values, types of layers."""
    for target, root in {**dict.fromkeys(TEXT_TARGETS, "NetParameter"), "prototxt_solver": "SolverParameter"}.items():
        words: set[str] = {definition.type for definition in layer_types()}
        _collect(schema.message(root).DESCRIPTOR, words, set())
        folder = HERE / "dictionaries"
        folder.mkdir(exist_ok=True)
        lines = (f'"{word}"\n' for word in sorted(words))
        (folder / f"{target}.dict").write_text("".join(lines), encoding="ascii")


def _collect(message: Any, words: set[str], seen: set[str]) -> None:
    if message.full_name in seen:
        return
    seen.add(message.full_name)
    for field in message.fields:
        words.add(field.name)
        if field.enum_type is not None:
            words.update(value.name for value in field.enum_type.values)
        if field.message_type is not None:
            _collect(field.message_type, words, seen)


def main() -> int:
    prototxts()
    dictionaries()
    caffemodels()
    solverstates()
    hdf5_weights()
    journals()
    count = sum(1 for path in Path(HERE, "corpus").rglob("*") if path.is_file())
    print(f"{count} seeds in {HERE / 'corpus'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""HDF5 weights. The files are made here with h5py, by what net.cpp's ToHDF5 writes: /data/{layer}/{index}, native
dims.
"""

from __future__ import annotations

import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import CONFORMANCE

h5py: Any = pytest.importorskip("h5py")

from small import CONV_NET, filled, inputs_of, one_input, write_model  # noqa: E402

import caffe_port as cp  # noqa: E402
from caffe_port.errors import MissingDependency, WeightsError  # noqa: E402
from caffe_port.proto import hdf5, solverstate  # noqa: E402
from caffe_port.weights import write_hdf5  # noqa: E402

FC = one_input(2, 3) + (
    'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 5 } }\n'
)
WEIGHT = np.arange(15, dtype=np.float32).reshape(5, 3) - 6
BIAS = np.arange(5, dtype=np.float32) * 10


def h5(path: Path, tree: dict[str, Any]) -> Path:
    """A file with these datasets by path; None is a group."""
    with h5py.File(path, "w") as file:
        for name, values in tree.items():
            if values is None:
                file.create_group(name)
            else:
                file.create_dataset(name, data=values)
    return path


def loaded(folder: Path, prototxt: str, tree: dict[str, Any], **options: Any) -> cp.Net:
    definition = folder / "net.prototxt"
    definition.write_text(prototxt)
    return cp.load(definition, h5(folder / "weights.caffemodel.h5", tree), **options)


def data(net: cp.Net, layer: str, index: int = 0) -> Any:
    return net.layer(layer).weights[index].data


def test_weights_are_found_by_content(tmp_path: Path) -> None:
    definition = tmp_path / "net.prototxt"
    definition.write_text(FC)
    # Neither the suffix nor groups of layers without learned blobs matter.
    path = h5(tmp_path / "weights.bin", {"data/fc/0": WEIGHT, "data/fc/1": BIAS, "data/x": None})
    net = cp.load(definition, path)
    assert np.array_equal(data(net, "fc"), WEIGHT) and np.array_equal(data(net, "fc", 1), BIAS)
    assert not data(net, "fc").flags.writeable
    # y = x W^T + b: x = (1, 0, 2) gives row . (1, 0, 2) + b; row i of W is (3i - 6, 3i - 5, 3i - 4), so 9i - 14 + 10i.
    out = cp.run(net, {"x": np.array([[1, 0, 2], [0, 0, 0]], np.float32)})["y"]
    assert out.tolist() == [[19 * i - 14 for i in range(5)], BIAS.tolist()]


def test_what_is_written_reads_back_and_runs_the_same(tmp_path: Path) -> None:
    net = filled(CONV_NET)
    definition, binary = write_model(tmp_path)
    write_hdf5(net, tmp_path / "weights.h5")
    with h5py.File(tmp_path / "weights.h5") as file:
        # A group for every layer, learned blobs or not.
        assert sorted(file["data"]) == sorted(layer.name for layer in net.layers)
        assert file["data/conv1/0"].shape == (4, 3, 3, 3) and file["data/conv1/0"].dtype == "<f4"
        assert not len(file["data/relu1"])
    x = inputs_of(net)
    want = cp.run(cp.load(definition, binary), x)["prob"]
    assert np.array_equal(cp.run(cp.load(definition, tmp_path / "weights.h5"), x)["prob"], want)
    assert [path.name for path in tmp_path.glob(".*")] == []


SHARED = one_input(2, 3) + "".join(
    f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" param {{ name: "w" }} '
    f"inner_product_param {{ num_output: 5 bias_term: {bias} }} }}\n"
    for name, bias in (("a", "false"), ("b", "true"))
)


def test_a_shared_blob_may_be_left_out(tmp_path: Path) -> None:
    net = loaded(tmp_path, SHARED, {"data/a/0": WEIGHT, "data/b/1": BIAS})
    assert np.array_equal(data(net, "b"), WEIGHT) and np.array_equal(data(net, "b", 1), BIAS)
    # So Caffe writes it too.
    write_hdf5(net, tmp_path / "again.h5")
    with h5py.File(tmp_path / "again.h5") as file:
        assert (sorted(file["data/a"]), sorted(file["data/b"])) == (["0"], ["1"])
    # A shared blob that is there is read into its owner; b comes behind a.
    net = loaded(tmp_path, SHARED, {"data/a/0": WEIGHT, "data/b/0": -WEIGHT, "data/b/1": BIAS})
    assert np.array_equal(data(net, "a"), -WEIGHT)


@pytest.mark.parametrize(
    ("tree", "want"),
    [
        ({"data/b/1": BIAS, "data/a": None}, "no learned blob 0 (5x3)"),
        ({"data/a/0": WEIGHT, "data/b": None}, "no learned blob 1 (5) for it"),
        ({"data/a/0": WEIGHT, "data/a/1": BIAS, "data/b/1": BIAS}, "has 1 learned blobs, weights.caffemodel.h5 has 2"),
        ({"data/a/0": WEIGHT.T, "data/b/1": BIAS}, "5x3 in the net, 3x5 in"),
        # Exact dims: what is legal in a binary file is not here.
        ({"data/a/0": WEIGHT.reshape(1, 1, 5, 3), "data/b/1": BIAS}, "5x3 in the net, 1x1x5x3 in"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, tree: dict[str, Any], want: str) -> None:
    with pytest.raises(WeightsError) as error:
        loaded(tmp_path, SHARED, tree)
    assert want in str(error.value)


def test_of_layers_with_one_name_the_last_takes_the_weights(tmp_path: Path) -> None:
    twice = one_input(2, 3) + "".join(
        f'layer {{ name: "fc" type: "InnerProduct" bottom: "x" top: "{top}" '
        "inner_product_param { num_output: 5 bias_term: false } }\n"
        for top in "pq"
    )
    net = loaded(tmp_path, twice, {"data/fc/0": WEIGHT}, allow_missing_weights=True)
    first, last = (layer for layer in net.layers if layer.name == "fc")
    assert first.weights[0].data is None and np.array_equal(last.weights[0].data, WEIGHT)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="a later layer of this name takes them"):
        loaded(tmp_path, twice, {"data/fc/0": WEIGHT})


def test_slashes_in_names(tmp_path: Path) -> None:
    prototxt = FC.replace('"fc"', '"a/b/fc"')
    net = loaded(tmp_path, prototxt, {"data/a/b/fc/0": WEIGHT, "data/a/b/fc/1": BIAS, "data/a/0": np.zeros(2)})
    assert np.array_equal(data(net, "a/b/fc"), WEIGHT)
    with pytest.raises(WeightsError, match=r"'a/b/fc': this name cannot be .*Caffe cannot save such a layer"):
        write_hdf5(net, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (WEIGHT.astype("<f8") / 3, WEIGHT.astype("<f8") / 3),
        (WEIGHT.astype(">f4"), WEIGHT),
        (WEIGHT.astype("<f2"), WEIGHT),
        (WEIGHT.astype("<i2"), WEIGHT),
        (np.abs(WEIGHT).astype("u1"), np.abs(WEIGHT)),
    ],
)
def test_number_types(tmp_path: Path, values: Any, want: Any) -> None:
    ((_, (blob,)),) = hdf5.read(h5(tmp_path / "w.h5", {"data/fc/0": values}))
    assert blob is not None and blob.shape == (5, 3)
    assert np.array_equal(blob.data, want.reshape(-1)) and blob.data.dtype == want.dtype


def test_chunks_and_compression(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data/fc/0", data=WEIGHT, chunks=(2, 2), compression="gzip")
        file.create_dataset("data/fc/1", data=np.float32(3))
    ((_, (blob, scalar)),) = hdf5.read(tmp_path / "w.h5")
    assert blob is not None and np.array_equal(blob.data.reshape(5, 3), WEIGHT)
    assert scalar is not None and (scalar.shape, scalar.data.tolist()) == ((), [3])


@pytest.mark.parametrize(
    ("tree", "want"),
    [
        ({"fc/0": WEIGHT}, "no group /data"),
        ({"data": WEIGHT}, "no group /data"),
        ({"iter": 3, "history/0": WEIGHT}, "a solverstate"),
        ({"data/fc": WEIGHT}, "/data/fc is a dataset"),
        ({"data/fc/w": WEIGHT}, "/data/fc/w: learned blobs are called 0, 1"),
        ({"data/fc/00": WEIGHT}, "/data/fc/00: learned blobs are called 0, 1"),
        ({"data/fc/99999": WEIGHT}, "no layer has that many"),
        ({"data/fc/0": h5py.Empty("f4")}, "an empty dataset"),
    ],
)
def test_other_layouts(tmp_path: Path, tree: dict[str, Any], want: str) -> None:
    with pytest.raises(WeightsError, match=want):
        hdf5.read(h5(tmp_path / "w.h5", tree))


def first_value(path: Path) -> Any:
    ((_, (blob,)),) = hdf5.read(path)
    assert blob is not None
    return blob.data


def test_text_and_references_to_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="floats and integers"):
        first_value(h5(tmp_path / "text.h5", {"data/fc/0": ["a", "b"]}))
    (tmp_path / "secret").write_bytes(bytes(60))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("data/fc/0", (15,), "<f4", external=[(str(tmp_path / "secret"), 0, 60)])
    with pytest.raises(WeightsError, match="kept in other files"):
        first_value(tmp_path / "raw.h5")
    other = h5(tmp_path / "other.h5", {"data/fc/0": WEIGHT})
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["data/fc/0"] = h5py.ExternalLink(str(other), "/data/fc/0")
    with pytest.raises(WeightsError, match="a link into another file"):
        hdf5.read(tmp_path / "linked.h5")
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        file["data/a/b"] = h5py.SoftLink("/data/a")
    with pytest.raises(WeightsError, match=r"nested deeper|too many|cannot be read"):
        hdf5.read(tmp_path / "loop.h5")
    layout = h5py.VirtualLayout((5, 3), "<f4")
    layout[:] = h5py.VirtualSource(str(other), "data/fc/0", (5, 3))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("data/fc/0", layout)
    with pytest.raises(WeightsError, match="kept in other files"):
        first_value(tmp_path / "virtual.h5")


def test_sizes_nobody_has(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data/fc/0", (2**16, 2**15), "<f4", chunks=(1, 1))
    with pytest.raises(WeightsError, match="more than 2147483647 elements"):
        hdf5.read(tmp_path / "w.h5")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        # Contiguous, and never written to: no byte of it is in the file.
        file.create_dataset("data/fc/0", (2**15, 2**15), "<f4")
    with pytest.raises(WeightsError, match="fewer bytes than its shape 32768x32768 needs"):
        first_value(tmp_path / "v.h5")


def test_values_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    """HDF5 fills in what was never written: of a dataset in chunks a gigabyte out of a file of 4 kB."""
    with h5py.File(tmp_path / "unwritten.h5", "w") as file:
        file.create_dataset("data/fc/0", (2**14, 2**14), "<f4", chunks=(2**6, 2**14))
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file.create_dataset("data/fc/0", (10,), "<f4", chunks=(2**29,), maxshape=(2**29,), compression="gzip")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for index in range(20):
            file.create_dataset(f"data/fc{index}/0", (2**20,), "<f4", chunks=(2**18,))
    for name in ("unwritten", "wide", "many"):
        assert (tmp_path / f"{name}.h5").stat().st_size < 2**16
        tracemalloc.start()
        with pytest.raises(WeightsError, match=rf"{name}\.h5.*: 0 bytes would unpack to [\d,]+; at most 67,108,864"):
            first_value(tmp_path / f"{name}.h5")
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()
    with cp.limits.adjusted(unpacked_free=2**30):
        assert not any(blob.data.any() for _, (blob,) in hdf5.read(tmp_path / "many.h5") if blob is not None)


def test_a_chunk_that_unpacks_to_too_much(tmp_path: Path) -> None:
    """Zeros pack a thousand times, and a chunk is unpacked whole for the ten values that are in use."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        made = file.create_dataset("data/fc/0", (10,), "<f4", chunks=(2**20,), maxshape=(None,), compression="gzip")
        made[:] = 0
    assert 0 < (tmp_path / "w.h5").stat().st_size < 2**14
    assert first_value(tmp_path / "w.h5").shape == (10,)
    with cp.limits.adjusted(unpacked_free=2**20), pytest.raises(WeightsError, match="would unpack to 4,194,304"):
        first_value(tmp_path / "w.h5")


def test_a_state_that_claims_too_much(tmp_path: Path) -> None:
    def state(name: str, **datasets: dict[str, Any]) -> Path:
        with h5py.File(tmp_path / name, "w") as file:
            for key, options in ({"iter": {"data": 3}, "history/0": {"data": BIAS}} | datasets).items():
                file.create_dataset(key, **options)
        return tmp_path / name

    assert solverstate.read(state("good.h5", current_step={"data": np.array([2])})).current_step == 2
    unwritten = {"shape": (2**14, 2**14), "dtype": "<f4", "chunks": (2**6, 2**14)}
    for path, want in (
        (state("iter.h5", iter=unwritten | {"dtype": "<i4"}), "/iter: is no single value"),
        (state("many.h5", iter={"data": [1, 2]}), "/iter: is no single value"),
        (state("real.h5", iter={"data": 1.0}), "/iter: is no single integer"),
        (state("learned.h5", learned_net={"shape": (), "dtype": "S2000000000"}), "/learned_net: has fewer bytes"),
        (state("history.h5", **{"history/0": unwritten}), "/history: 0 bytes would unpack to 1,073,741,824"),
    ):
        with pytest.raises(WeightsError, match=want):
            solverstate.read(path)
    with cp.limits.adjusted(history_blobs=1), pytest.raises(WeightsError, match="more than 1 blobs"):
        solverstate.read(state("blobs.h5", **{"history/1": {"data": BIAS}}))


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        hdf5.read(tmp_path / "none.h5")
    (tmp_path / "text").write_text("layer {}")
    assert not hdf5.is_hdf5(tmp_path / "text") and not hdf5.is_hdf5(tmp_path) and not hdf5.is_hdf5(tmp_path / "no")
    with pytest.raises(WeightsError, match="is no HDF5 file"):
        hdf5.read(tmp_path / "text")


def test_damage_is_an_error_of_ours(tmp_path: Path) -> None:
    good = h5(tmp_path / "good.h5", {"data/fc/0": WEIGHT, "data/fc/1": BIAS}).read_bytes()
    rng = np.random.default_rng(5)
    bad = tmp_path / "bad.h5"
    refused = 0
    cut = [good[:length] for length in (8, 60, 500, len(good) // 2, len(good) - 30)]
    for damaged in cut + [flipped(good, rng) for _ in range(150)]:
        bad.write_bytes(damaged)
        try:
            for _, blobs in hdf5.read(bad):
                assert all(blob is None or blob.data.size >= 0 for blob in blobs)
        except WeightsError:
            refused += 1
    assert refused > len(cut)


def flipped(good: bytes, rng: np.random.Generator) -> bytes:
    damaged = np.frombuffer(good, np.uint8).copy()
    places = rng.integers(8, len(good), 12)
    damaged[places] = rng.integers(0, 256, 12)
    return damaged.tobytes()


@pytest.mark.parametrize(
    ("layers", "want"),
    [
        ([("a", []), ("a", [])], "two layers have this name"),
        ([("", [])], "cannot be that of an HDF5 group"),
        ([("a", [np.arange(3)])], "blob 0 is int64"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, layers: Any, want: str) -> None:
    # Without the folder, which is a hidden one while a conversion is at work.
    with pytest.raises(WeightsError, match=f"^w.h5: layer .*{want}"):
        hdf5.write(tmp_path / "w.h5", layers)
    assert not list(tmp_path.iterdir())


def test_gradients(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "w.h5", [("fc", [WEIGHT, None])], diffs=[("fc", [-WEIGHT, BIAS])])
    with h5py.File(tmp_path / "w.h5") as file:
        assert np.array_equal(file["diff/fc/0"], -WEIGHT) and sorted(file["data/fc"]) == ["0"]


def test_unset_weights_are_not_written(tmp_path: Path) -> None:
    from small import built

    with pytest.raises(WeightsError, match="'fc': learned blob 0 of shape 5x3 has no values"):
        write_hdf5(built(FC), tmp_path / "w.h5")


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason="no recordings here")
def test_a_recorded_net_through_hdf5(tmp_path: Path) -> None:
    """A net that Caffe trained: written as HDF5 here and read back, it keeps every learned value."""
    folder = CONFORMANCE / "solver" / "00_SGD_fixed"
    shutil.copy(folder / "snap_iter_12.caffemodel", tmp_path / "s.caffemodel")
    net = cp.load(tmp_path / "s.caffemodel", input_shapes={"data": (6, 2, 7, 8), "label": (6,)})
    write_hdf5(net, tmp_path / "s.h5")
    again = cp.load(folder / "net.prototxt", tmp_path / "s.h5", input_shapes={"data": (6, 2, 7, 8), "label": (6,)})
    with np.load(folder / "run.npz") as run:
        for weight in again.weights():
            assert weight.data is not None and np.array_equal(weight.data, run[f"12:{weight.label}"])


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = h5(tmp_path / "w.h5", {"data/fc/0": WEIGHT})
    monkeypatch.setitem(sys.modules, "h5py", None)
    for use in (lambda: hdf5.read(path), lambda: hdf5.write(path, []), lambda: solverstate.is_solverstate(path)):
        with pytest.raises(MissingDependency, match=r"pip install 'caffe_port\[hdf5\]'"):
            use()

"""Recordings: what is shipped reads whole, and whatever is wrong with one is found and named."""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_port import recording
from caffe_port.errors import ArtifactError, RecordingError
from caffe_port.layer_cases import LayerCase, layer_cases, read_layer_cases
from caffe_port.recording import (
    RecordedLayer,
    Recording,
    available,
    read,
    sample_indices,
)
from caffe_port.reference_outputs.pack import pack

SHIPPED = Path(str(importlib.resources.files("caffe_port.reference_outputs")))
NETS = sorted((SHIPPED / "nets").glob("*.npz"))
ALL = [*available("open_nsfw"), *NETS]


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as opened:
        return dict(opened)


def save(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def arrays() -> dict[str, Any]:
    return load(SHIPPED / "nets" / "alexnet.npz")


@pytest.fixture
def small() -> Recording:
    """Three entries, one layer with two tops, one recorded in full; limit 4."""
    random = np.random.default_rng(5)
    wide = random.standard_normal((2, 3, 5)).astype(np.float32)
    narrow = random.standard_normal((1, 3)).astype(np.float32)

    def entry(index: int, layer: str, top: str, value: np.ndarray, stats: bool = True) -> RecordedLayer:
        sample = value.reshape(-1)[sample_indices(value.size, 4)]
        figures = np.array([value.min(), value.max(), value.mean(), np.linalg.norm(value)], np.float64)
        return RecordedLayer(index, layer, "Slice", top, value.shape, sample, figures if stats else None)

    return Recording(
        layers=[entry(1, "s/1", "a", wide), entry(1, "s/1", "b", wide + 1, False), entry(2, "out", "c:d", narrow)],
        inputs={"x": wide},
        input_shapes={"x": wide.shape, "y": (7, 2)},
        finals={"c:d": narrow},
        input_names=("x", "y"),
        output_names=("c:d",),
        limit=4,
    )


def test_the_shipped_files_are_there() -> None:
    assert [path.stem for path in available("open_nsfw")] == ["astronaut", "chelsea", "retina"]
    assert [path.stem for path in NETS] == [
        "alexnet",
        "caffenet",
        "googlenet",
        "ms_ctc",
        "resnet50",
        "resnet50_1by2",
        "squeezenet_v1.0",
        "squeezenet_v1.1",
        "vgg16",
    ]


@pytest.mark.parametrize("name", ["absent", "", "..", "../nets", "/", "open_nsfw/images"])
def test_no_recordings_of_another_name(name: str) -> None:
    assert available(name) == []


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_shipped_recordings_hold_what_numpy_reads(path: Path) -> None:
    got = read(path)
    raw = load(path)
    meta = json.loads(raw.pop("meta").tobytes())
    assert got.limit == (1024 if path.parent.name == "open_nsfw" else 256)
    assert [(e.index, e.layer, e.type, e.top, list(e.shape)) for e in got.layers] == [
        (m["index"], m["layer"], m["type"], m["top"], m["shape"]) for m in meta["layers"]
    ]
    for e in got.layers:
        assert e.sample.tobytes() == raw.pop(f"sample:{e.key}").tobytes()
        assert e.stats is not None and e.stats.tobytes() == raw.pop(f"stats:{e.key}").tobytes()
        assert e.sample.shape == sample_indices(e.size, got.limit).shape
        assert (e.value is not None) == e.full == (e.size <= got.limit)
    assert got.finals.keys() == {"prob"}
    assert got.finals["prob"].tobytes() == raw.pop("final:prob").tobytes()
    data = raw.pop("in:data")
    if path.parent.name == "open_nsfw":
        assert got.inputs["data"].tobytes() == data.tobytes() and got.input_shapes == {"data": (1, 3, 224, 224)}
    else:
        assert got.inputs == {} and got.input_shapes == {"data": tuple(data.tolist())}
    assert raw == {}
    assert got.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert got.source == str(path)


def test_open_nsfw_recordings_agree_with_the_scores() -> None:
    scores = json.loads((SHIPPED / "open_nsfw" / "scores.json").read_text())
    for path in available("open_nsfw"):
        got = read(path)
        entry = next(value for name, value in scores.items() if Path(name).stem == path.stem)
        assert len(got.layers) == 228
        assert hashlib.sha256(got.inputs["data"].tobytes()).hexdigest() == entry["tensor"]
        assert got.finals["prob"].tolist() == [np.array(entry["prob"], np.float32).tolist()]
        fc = next(e for e in got.layers if e.layer == "fc_nsfw")
        assert fc.value is not None and fc.value.tolist() == [np.array(entry["fc"], np.float32).tolist()]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_writing_gives_the_same_arrays_and_each_time_the_same_bytes(path: Path, tmp_path: Path) -> None:
    recording.write(tmp_path / "a.npz", read(path))
    recording.write(tmp_path / "b.npz", read(tmp_path / "a.npz"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    want, got = load(path), load(tmp_path / "a.npz")
    assert list(want) == list(got)
    assert all(want[key].tobytes() == got[key].tobytes() and want[key].dtype == got[key].dtype for key in want)


def test_several_tops_shapes_only_and_absent_stats_survive(small: Recording, tmp_path: Path) -> None:
    recording.write(tmp_path / "r.npz", small)
    got = read(tmp_path / "r.npz")
    assert [e.key for e in got.layers] == ["1:s/1:a", "1:s/1:b", "2:out:c:d"]
    assert [e.full for e in got.layers] == [False, False, True]
    assert [e.stats is None for e in got.layers] == [False, True, False]
    assert got.limit == 4 and got.input_shapes == {"x": (2, 3, 5), "y": (7, 2)} and list(got.inputs) == ["x"]
    assert got.layers[2].value is not None and np.array_equal(got.layers[2].value, small.finals["c:d"])
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


def test_nothing_incomplete_is_written(small: Recording, tmp_path: Path) -> None:
    small.finals.clear()
    with pytest.raises(RecordingError, match="output 'c:d' missing"):
        recording.write(tmp_path / "r.npz", small)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(small: Recording, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        recording.write(tmp_path / "absent" / "r.npz", small)


@pytest.mark.parametrize(
    ("size", "limit", "want"),
    [
        (0, 4, []),
        (1, 4, [0]),
        (4, 4, [0, 1, 2, 3]),
        (5, 4, [0, 1, 2, 4]),
        (10, 4, [0, 3, 6, 9]),
        (100, 1, [0]),
    ],
)
def test_sample_indices(size: int, limit: int, want: list[int]) -> None:
    got = sample_indices(size, limit)
    assert got.dtype == np.int64 and got.tolist() == want


def change_meta(arrays: dict[str, Any], change: Any) -> None:
    meta = json.loads(arrays["meta"].tobytes())
    change(meta)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)


CONV, PROB = "sample:1:conv1:conv1", "sample:23:prob:prob"
WRONG: dict[str, tuple[Any, str]] = {
    "sample missing": (lambda a: a.pop(CONV), "layer 'conv1': sample of top 'conv1' missing"),
    "sample float64": (lambda a: a.update({CONV: a[CONV].astype(np.float64)}), "float64"),
    "sample two-dimensional": (lambda a: a.update({CONV: a[CONV][None]}), "not one-dimensional"),
    "sample short": (lambda a: a.update({CONV: a[CONV][:-1]}), "has 255 values"),
    "sample empty": (lambda a: a.update({CONV: a[CONV][:0]}), "has 0 values"),
    "sample changed": (lambda a: a.update({CONV: a[CONV] * 50}), "beyond the recorded minimum and maximum"),
    "stats of three": (lambda a: a.update({CONV.replace("sample", "stats"): np.zeros(3)}), "not four float64"),
    "stats float32": (lambda a: a.update({CONV.replace("sample", "stats"): np.zeros(4, np.float32)}), "not four"),
    "input missing": (lambda a: a.pop("in:data"), "input 'data' missing"),
    "input int32": (lambda a: a.update({"in:data": a["in:data"].astype(np.int32)}), "neither float32 nor a shape"),
    "input negative": (lambda a: a.update({"in:data": -a["in:data"]}), "neither float32 nor a shape"),
    "output missing": (lambda a: a.pop("final:prob"), "output 'prob' missing"),
    "output float64": (lambda a: a.update({"final:prob": a["final:prob"].astype(float)}), "not float32"),
    "output of other shape": (lambda a: a.update({"final:prob": a["final:prob"].T}), "as a top"),
    "output changed": (lambda a: a.update({"final:prob": a["final:prob"] * 2}), "other values than its sample"),
    "array nobody lists": (lambda a: a.update({"sample:9:x:x": a[CONV]}), "'sample:9:x:x' is not in the list"),
    "no meta": (lambda a: a.pop("meta"), "no 'meta'"),
    "meta float": (lambda a: a.update({"meta": a["meta"].astype(float)}), "not one-dimensional uint8"),
    "meta cut": (lambda a: a.update({"meta": a["meta"][:-5]}), "'meta' is damaged"),
    "meta no utf-8": (lambda a: a.update({"meta": np.full(9, 255, np.uint8)}), "'meta' is damaged"),
    "meta a list": (lambda a: a.update({"meta": np.frombuffer(b"[1]", np.uint8)}), "'meta' is damaged"),
    "meta without shape": (lambda a: change_meta(a, lambda m: m["layers"][3].pop("shape")), "'shape' missing"),
    "meta negative shape": (lambda a: change_meta(a, lambda m: m["layers"][0].update(shape=[-1])), "no shape"),
    "meta text index": (lambda a: change_meta(a, lambda m: m["layers"][0].update(index="1")), "no layer's entry"),
    "no layers": (lambda a: change_meta(a, lambda m: m["layers"].clear()), "lists no layer"),
    "layer dropped": (lambda a: change_meta(a, lambda m: m["layers"].pop(0)), f"'{CONV}' is not in the list"),
    "layer twice": (lambda a: change_meta(a, lambda m: m["layers"].append(m["layers"][-1])), "listed twice"),
    "layers swapped": (lambda a: change_meta(a, lambda m: m["layers"].reverse()), "not in the order"),
    "other shape": (lambda a: change_meta(a, lambda m: m["layers"][0].update(shape=[3])), "needs 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    change, part = WRONG[case]
    path = tmp_path / "r.npz"
    read(save(path, arrays))  # good before the change
    change(arrays)
    with pytest.raises(RecordingError) as caught:
        read(save(path, arrays))
    assert part in str(caught.value) and str(path) in str(caught.value)


def test_all_problems_are_in_one_error(arrays: dict[str, Any], tmp_path: Path) -> None:
    del arrays[CONV], arrays["in:data"]
    arrays[PROB] = arrays[PROB][:10]
    with pytest.raises(RecordingError) as caught:
        read(save(tmp_path / "r.npz", arrays))
    text = str(caught.value)
    assert text.startswith("3 problems:")
    assert "'conv1'" in text and "'data'" in text and "'prob'" in text


def test_pickles_are_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    arrays["in:data"] = np.array([{"a": 1}], dtype=object)
    with pytest.raises(RecordingError, match="allow_pickle"):
        read(save(tmp_path / "r.npz", arrays))


def test_a_header_that_lies_about_its_size(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 44,)})
    (tmp_path / "r.npz").write_bytes(recording.zip_bytes([("meta.npy", header.getvalue() + b"\0" * 64)]))
    with pytest.raises(RecordingError, match="damaged"):
        read(tmp_path / "r.npz")


def test_a_repeated_member(arrays: dict[str, Any], tmp_path: Path) -> None:
    path = save(tmp_path / "r.npz", arrays)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("meta.npy", archive.read("meta.npy"))
    with pytest.raises(RecordingError, match="more than once"):
        read(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file"):
        read(tmp_path / "absent.npz")
    with pytest.raises(RecordingError):
        read(tmp_path)
    for number, content in enumerate((b"", b"PK", b"not a zip file", recording.zip_bytes([("a.txt", b"hi")]))):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(RecordingError):
            read(path)


def test_every_damaged_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = SHIPPED / "nets" / "alexnet.npz"
    original = path.read_bytes()
    want = read(path)
    random = np.random.default_rng(3)
    noticed = 0
    for _ in range(150):
        damaged = bytearray(original)
        damaged[int(random.integers(0, len(damaged)))] ^= 1 << int(random.integers(0, 8))
        if random.random() < 0.2:
            damaged = damaged[: int(random.integers(0, len(damaged)))]
        (tmp_path / "r.npz").write_bytes(damaged)
        try:
            got = read(tmp_path / "r.npz")
        except RecordingError:
            noticed += 1
            continue
        # A bit of the zip's own book-keeping (a date, a permission): the numbers must be the same.
        assert [e.sample.tobytes() for e in got.layers] == [e.sample.tobytes() for e in want.layers]
        assert got.finals["prob"].tobytes() == want.finals["prob"].tobytes()
    assert noticed > 75


def test_nan_in_a_recording_is_read_as_it_is(small: Recording, tmp_path: Path) -> None:
    small.layers[0].sample[1] = np.nan
    recording.write(tmp_path / "r.npz", small)
    assert np.isnan(read(tmp_path / "r.npz").layers[0].sample[1])


@pytest.fixture(scope="module")
def cases() -> dict[str, LayerCase]:
    path = layer_cases()
    assert path is not None
    return {case.name: case for case in read_layer_cases(path)}


def test_layer_cases(cases: dict[str, LayerCase]) -> None:
    assert len(cases) == 319 and list(cases) == sorted(cases)
    assert len({name.rpartition("_")[0] for name in cases}) == 54
    assert sum(case.weights is not None for case in cases.values()) == 65
    assert sum(case.grads is not None for case in cases.values()) == 272
    assert sum(case.params_after is not None for case in cases.values()) == 2
    for case in cases.values():
        assert not case.rejected and case.phase in ("TRAIN", "TEST") and "layer" in case.prototxt
        assert set(case.info["outputs"]) <= set(case.outputs)
        for blob, shape in case.info["shapes"].items():
            if blob in case.outputs:
                assert list(case.outputs[blob].shape) == shape, (case.name, blob)


def test_the_order_in_the_zip_file_is_fixed() -> None:
    path = layer_cases()
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert len(archive.namelist()) == 1615


def test_cases_in_a_folder_read_as_in_a_zip_file(cases: dict[str, LayerCase], tmp_path: Path) -> None:
    path = layer_cases()
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        chosen = [name for name in archive.namelist() if name.startswith(("BatchNorm_2/", "ReLU_0/"))]
        archive.extractall(tmp_path, chosen)
    got = list(read_layer_cases(tmp_path))
    assert [case.name for case in got] == ["BatchNorm_2", "ReLU_0"]
    for case in got:
        want = cases[case.name]
        assert (case.info, case.prototxt, case.weights) == (want.info, want.prototxt, want.weights)
        for mine, theirs in ((case.inputs, want.inputs), (case.outputs, want.outputs)):
            assert {key: value.tobytes() for key, value in mine.items()} == {
                key: value.tobytes() for key, value in theirs.items()
            }
    assert got[0].params_after is not None and got[1].params_after is None


def contents(path: Path) -> list[tuple[str, bytes]]:
    if path.suffix not in (".npz", ".zip"):
        return [("", path.read_bytes())]
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def test_packing_changes_no_content_and_repeats(tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    for folder in ("open_nsfw", "nets"):
        shutil.copytree(SHIPPED / folder, recordings / folder)
    for folder in ("layers", "fork_layers", "solver"):
        with zipfile.ZipFile(SHIPPED / f"{folder}.zip") as archive:
            archive.extractall(recordings / folder)
    first = pack(recordings, tmp_path / "first")
    second = pack(recordings, tmp_path / "second")
    assert len(first) == 46
    for one, two in zip(first, second, strict=True):
        name = one.relative_to(tmp_path / "first")
        assert one.read_bytes() == two.read_bytes(), name
        assert contents(one) == contents(SHIPPED / name), name


def case_files() -> dict[str, bytes]:
    arrays = io.BytesIO()
    np.savez(arrays, x=np.ones(3, np.float32))
    info = {"name": "A_0", "phase": "TEST", "status": "ok", "outputs": ["x"], "shapes": {"x": [3]}}
    return {
        "case.json": json.dumps(info).encode(),
        "net.prototxt": b"layer {}",
        "inputs.npz": arrays.getvalue(),
        "outputs.npz": arrays.getvalue(),
    }


def with_info(**change: Any) -> bytes:
    return json.dumps(json.loads(case_files()["case.json"]) | change).encode()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"outputs.npz": None}, "outputs.npz missing"),
        ({"net.prototxt": None}, "net.prototxt"),
        ({"case.json": None}, "case.json"),
        ({"case.json": b"{"}, "damaged"),
        ({"case.json": b"[]"}, "damaged"),
        ({"case.json": with_info(name="B_0")}, "is of case B_0"),
        ({"case.json": with_info(phase="BOTH")}, "phase BOTH"),
        ({"case.json": with_info(outputs=["x", "z"])}, "output 'z' missing"),
        ({"outputs.npz": case_files()["outputs.npz"][:-40]}, "outputs.npz: damaged"),
        ({"net.prototxt": b"\xff\xfe"}, "damaged"),
    ],
)
def test_a_damaged_case_is_named(change: dict[str, bytes | None], part: str, tmp_path: Path) -> None:
    members = case_files() | change
    path = tmp_path / "cases.zip"
    path.write_bytes(recording.zip_bytes((f"A_0/{key}", value) for key, value in members.items() if value is not None))
    with pytest.raises(RecordingError) as caught:
        list(read_layer_cases(path))
    assert part in str(caught.value) and "case A_0" in str(caught.value)


def test_a_rejected_case_needs_no_outputs(tmp_path: Path) -> None:
    members = {"case.json": with_info(status="rejected"), "net.prototxt": b"layer {}"}
    path = tmp_path / "cases.zip"
    path.write_bytes(recording.zip_bytes((f"A_0/{key}", value) for key, value in members.items()))
    (case,) = read_layer_cases(path)
    assert case.rejected and case.outputs == {}


def test_no_cases_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.zip").write_bytes(recording.zip_bytes([]))
    (tmp_path / "text.zip").write_bytes(b"text")
    (tmp_path / "folder").mkdir()
    for name in ("empty.zip", "text.zip", "folder", "absent"):
        with pytest.raises(RecordingError):
            list(read_layer_cases(tmp_path / name))

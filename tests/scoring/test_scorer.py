"""Images → scores, through every backend."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import REFERENCE
from small import built, one_input

from caffe_port import cli
from caffe_port.errors import FetchError, GraphError, ImageError, MissingDependency
from caffe_port.evidence import generated_pictures
from caffe_port.models.fetch import fetch
from caffe_port.net import Net
from caffe_port.preprocessing import OPEN_NSFW
from caffe_port.scoring import scorer
from caffe_port.scoring.items import Item, Row
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.runners import BACKENDS
from caffe_port.scoring.scorer import Scorer

IMAGES = REFERENCE / "open_nsfw"

STAND_IN = (
    one_input(1, 3, 224, 224, name="data")
    + """
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
)

WEIGHT = np.float32([[0.01, -0.02, 0.03], [-0.01, 0.05, 0.02]])
BIAS = np.float32([0.25, -0.5])


@pytest.fixture(scope="module")
def net() -> Net:
    """Looks at one pixel."""
    return looking_with(WEIGHT)


def looking_with(weight: np.ndarray) -> Net:
    everywhere = np.zeros((2, 3, 224, 224), np.float32)
    everywhere[:, :, 100, 120] = weight
    return built(STAND_IN).with_weights({"fc": [everywhere.reshape(2, -1), BIAS]})


def skip_without(backend: str) -> None:
    if backend != "numpy":
        pytest.importorskip(backend)


def gray(level: int) -> Image.Image:
    """A gray image stays what it is through resizing and the JPEG."""
    return Image.new("RGB", (40, 30), (level, level, level))


def expected(level: int) -> tuple[float, float]:
    """The pixel is level - (104, 117, 123); two logits; softmax."""
    pixel = level - np.array([104.0, 117.0, 123.0])
    logits = WEIGHT.astype(np.float64) @ pixel + BIAS
    second = 1 / (1 + np.exp(logits[0] - logits[1]))
    return float(1 - second), float(second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_score_is_the_second_probability(net: Net, backend: str) -> None:
    skip_without(backend)
    with Scorer(net=net, backend=backend) as it:
        assert it.backend == backend
        for level in (100, 128, 200):
            both = it.probabilities(gray(level))
            assert both.shape == (2,) and both.dtype == np.float32
            assert both == pytest.approx(expected(level), abs=1e-5)
            assert it.score(gray(level)) == pytest.approx(expected(level)[1], abs=1e-5)
            assert isinstance(it.score(gray(level)), float)
    assert abs(expected(100)[1] - expected(200)[1]) > 0.1, "the images must differ for this to mean anything"


@pytest.mark.parametrize("backend", BACKENDS)
def test_classify_takes_a_batch(net: Net, backend: str) -> None:
    skip_without(backend)
    batch = np.stack([tensor(gray(level), OPEN_NSFW) for level in (100, 128, 200)])
    values = Scorer(net=net, backend=backend).classify(batch)
    assert values.shape == (3, 2)
    for row, level in zip(values, (100, 128, 200), strict=True):
        assert row == pytest.approx(expected(level), abs=1e-5)


def test_every_kind_of_source(net: Net, tmp_path: Path) -> None:
    image = gray(150)
    path = tmp_path / "a.png"
    image.save(path)
    it = Scorer(net=net, backend="numpy")
    scores = {it.score(source) for source in (image, path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()))}
    assert len(scores) == 1


def test_a_broken_image_raises_and_the_next_one_is_scored(net: Net, tmp_path: Path) -> None:
    it = Scorer(net=net, backend="numpy")
    before = it.score(gray(150))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        it.score(broken)
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        it.score(tmp_path / "nowhere.png")
    assert it.score(gray(150)) == before


def test_the_default_backend_is_the_first_installed(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in BACKENDS[:-1]:
        skip_without(backend)
    assert Scorer(net=net).backend == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert Scorer(net=net).backend == "torch"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert Scorer(net=net).backend == "numpy"
    with pytest.raises(MissingDependency, match=r"torch is needed .* pip install 'caffe_port\[torch\]'"):
        Scorer(net=net, backend="torch")
    with pytest.raises(MissingDependency, match=r"caffe_port\[runtime\]"):
        Scorer(net=net, precision="int8")


def test_unknown_backend_and_model(net: Net) -> None:
    with pytest.raises(GraphError, match="unknown backend 'tensorflow'; known: onnxruntime, torch, numpy"):
        Scorer(net=net, backend="tensorflow")
    with pytest.raises(FetchError, match="did you mean 'open_nsfw'"):
        Scorer("open-nsfw", net=net)


def test_what_does_not_go_together(net: Net) -> None:
    with pytest.raises(GraphError, match="int8 is computed by onnxruntime, not by numpy"):
        Scorer(net=net, backend="numpy", precision="int8")
    with pytest.raises(GraphError, match="unknown precision 'int4'; known: float32, int8"):
        Scorer(net=net, precision="int4")  # type: ignore[arg-type]
    skip_without("onnxruntime")
    with pytest.raises(GraphError, match="an ONNX file, computed in what it was written in"):
        Scorer(Scorer(net=net).model.portable(), precision="int8")
    for numbers in ({"threads": 0}, {"batch_size": -1}):
        with pytest.raises(GraphError, match="must be 1 or more"):
            Scorer(net=net, backend="numpy", **numbers)  # type: ignore[arg-type]
    it = Scorer(net=net, backend="numpy")
    for numbers in ({"workers": 0}, {"batch_size": 0}):
        with pytest.raises(GraphError, match="must be 1 or more"):
            it.stream([], **numbers)


def test_pixels_are_an_image(net: Net) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (31, 43, 3), np.uint8)
    it = Scorer(net=net, backend="numpy")
    assert it.score(rgb) == it.score(Image.fromarray(rgb))
    assert it.score(rgb[::-1, ::2]) == it.score(Image.fromarray(np.ascontiguousarray(rgb[::-1, ::2])))
    assert it.score(rgb[:, :, 0]) == it.score(np.repeat(rgb[:, :, :1], 3, axis=2))
    for wrong in (rgb / 255, rgb[None], rgb[:, :, :2], rgb[:0], rgb.astype(np.int64)):
        with pytest.raises(ImageError, match=r"array .*: pixels are uint8, \(height, width, 3\)"):
            it.score(wrong)


def test_a_closed_scorer_scores_no_more(net: Net) -> None:
    with Scorer(net=net, backend="numpy") as it:
        it.score(gray(100))
    with pytest.raises(GraphError, match="closed"):
        it.score(gray(100))
    with pytest.raises(GraphError, match="closed"):
        it.stream([gray(100)])


# Streams


def png(level: int) -> bytes:
    encoded = io.BytesIO()
    gray(level).save(encoded, "PNG")
    return encoded.getvalue()


def failing(error: Exception) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (3, 2), (32, 2), (None, None)])
def test_a_row_for_each_item_in_their_order(
    net: Net, backend: str, batch_size: int | None, workers: int | None
) -> None:
    skip_without(backend)
    levels = list(range(60, 220, 7))
    it = Scorer(net=net, backend=backend)
    items = [Item(f"level {level}", lambda level=level: png(level)) for level in levels]  # type: ignore[misc]
    rows = list(it.stream(iter(items), batch_size=batch_size, workers=workers))
    assert [row.name for row in rows] == [item.name for item in items] and all(row.ok for row in rows)
    for row, level in zip(rows, levels, strict=True):
        assert row.probabilities == pytest.approx(expected(level), abs=1e-5)
        assert row.probabilities == tuple(it.probabilities(gray(level)).tolist()), "the same bits, alone and in a batch"


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_a_broken_image_is_a_row_with_the_reason(net: Net, batch_size: int) -> None:
    it = Scorer(net=net, backend="numpy")
    whole = png(100)
    items = [
        Item("a", lambda: whole),
        Item("empty", lambda: b""),
        Item("text", lambda: b"no image"),
        Item("truncated", lambda: whole[:-30]),
        Item("b", lambda: whole),
        Item("gone", failing(FileNotFoundError(2, "No such file or directory"))),
        Item("archive.zip!member", failing(ImageError("the member is damaged"))),
        Item("bucket", failing(KeyError("no\nkey"))),
        Item("silent", failing(TimeoutError())),
        Item("c", lambda: whole),
    ]
    rows = list(it.stream(items, batch_size=batch_size, workers=2))
    assert [row.name for row in rows] == [item.name for item in items]
    errors = {row.name: row.error for row in rows if not row.ok}
    assert "truncated" in errors.pop("truncated")
    assert errors == {
        "empty": "the file is empty",
        "text": "not an image that Pillow can read",
        "gone": "No such file or directory",
        "archive.zip!member": "the member is damaged",
        "bucket": repr("no\nkey"),
        "silent": "TimeoutError",
    }
    assert {row.probabilities for row in rows if not row.ok} == {()}
    assert [row.probabilities for row in rows if row.ok] == [tuple(it.probabilities(gray(100)).tolist())] * 3


def test_nothing_but_broken_images(net: Net) -> None:
    rows = Scorer(net=net, backend="numpy").stream([Item(str(i), lambda: b"") for i in range(10)], batch_size=4)
    assert [(row.name, row.ok) for row in rows] == [(str(i), False) for i in range(10)]


def test_a_stream_of_images_of_every_kind(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(150))
    it = Scorer(net=net, backend="numpy")
    images = [path, str(path), png(150), bytearray(png(150)), io.BytesIO(png(150)), gray(150), np.asarray(gray(150))]
    rows = list(it.stream(images))
    assert {row.probabilities for row in rows} == {tuple(it.probabilities(path).tolist())}
    assert [row.name for row in rows[:2]] == [str(path)] * 2
    assert list(it.score_many(images)) == [it.score(path)] * len(images)
    scores = it.score_many([path, tmp_path / "nowhere.png", path])
    with pytest.raises(ImageError, match=r"nowhere\.png: no such file"):
        list(scores)


def test_an_endless_stream_that_is_left_early(net: Net) -> None:
    before = threading.active_count()
    rows = Scorer(net=net, backend="numpy").stream(repeat(Item("x", lambda: png(100))), batch_size=2, workers=2)
    for _, row in zip(range(9), rows, strict=False):
        assert row.ok
    rows.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_source_that_fails_ends_the_stream_after_its_rows(net: Net) -> None:
    def items() -> chain[Item]:
        return chain([Item(str(i), lambda: png(100)) for i in range(5)], map(int, ["none"]))  # type: ignore[arg-type]

    rows: list[Row] = []
    with pytest.raises(ValueError, match="none"):
        rows.extend(Scorer(net=net, backend="numpy").stream(items(), batch_size=2))
    assert [row.name for row in rows] == list("01234")


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_threads_use_one_scorer(net: Net, backend: str) -> None:
    skip_without(backend)
    it = Scorer(net=net, backend=backend)
    found: dict[int, list[float]] = {}

    def use(level: int) -> None:
        found[level] = [it.score(gray(level)), *it.score_many([png(level)] * 5)]

    threads = [threading.Thread(target=use, args=(level,)) for level in range(100, 108)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == {level: [it.score(gray(level))] * 6 for level in range(100, 108)}


def test_a_decompression_bomb_is_a_row(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = png(100), io.BytesIO()
    Image.new("RGB", (400, 400)).save(large, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70_000)
    items = [Item("small", lambda: small), Item("large", large.getvalue), Item("again", lambda: small)]
    first, bomb, last = Scorer(net=net, backend="numpy").stream(items)
    assert first.ok and last.ok and "decompression bomb" in bomb.error


def test_large_images_are_decoded_one_at_a_time(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 megapixels; two of them are more than is decoded at once."""
    encoded = io.BytesIO()
    Image.new("L", (10_000, 5_000), 100).save(encoded, "PNG", compress_level=1)
    decoding = most = 0
    convert = Image.Image.convert

    def counted(self: Image.Image, *args: object, **options: object) -> Image.Image:
        nonlocal decoding, most
        decoding += 1
        most = max(most, decoding)
        try:
            return convert(self, *args, **options)  # type: ignore[arg-type]
        finally:
            decoding -= 1

    monkeypatch.setattr(Image.Image, "convert", counted)
    items = [Item("large", encoded.getvalue)] * 2
    rows = list(Scorer(net=net, backend="numpy").stream(items, batch_size=1, workers=2))
    assert most == 1
    assert [row.probabilities for row in rows] == [pytest.approx(expected(100), abs=1e-5)] * 2


# int8 and draft


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of int8 models, which are made with fewer pictures here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(scorer, "_CALIBRATION_SEEDS", 1)
    return tmp_path / "caffe_port" / "models" / "int8"


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def bar(self, label: str, done: int, total: int) -> None:
        raise AssertionError("nothing is fetched")


def test_int8_is_made_once_and_kept(net: Net, cache: Path) -> None:
    skip_without("onnxruntime")
    told = [Told() for _ in range(4)]
    first = Scorer(net=net, precision="int8", progress=told[0])
    scores = [first.score(gray(level)) for level in (100, 128, 200)]
    exact = [Scorer(net=net, backend="onnxruntime").score(gray(level)) for level in (100, 128, 200)]
    assert 0 < max(abs(a - b) for a, b in zip(scores, exact, strict=True)) < 0.1
    batches = [tensor(gray(level), OPEN_NSFW)[None] for level in (100, 128, 200)]
    run = first.model.portable("int8", list(generated_pictures(0).values())).runner()
    assert scores == [float(run(batch)[0, 1]) for batch in batches]
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    again = Scorer(net=net, precision="int8", progress=told[1])
    assert [again.score(gray(level)) for level in (100, 128, 200)] == scores
    kept.write_bytes(content[:-1] + b"x")
    Scorer(net=net, precision="int8", progress=told[2])
    assert kept.read_bytes() == content, "a damaged file is made again, and comes out the same"
    Scorer(net=looking_with(2 * WEIGHT), precision="int8", progress=told[3])
    assert len(list(cache.iterdir())) == 2
    assert [len(one.lines) for one in told] == [1, 0, 1, 1]


def test_int8_without_a_cache_that_can_be_written(net: Net, cache: Path) -> None:
    skip_without("onnxruntime")
    cache.parent.mkdir(parents=True)
    cache.write_text("in the way")
    told = Told()
    it = Scorer(net=net, precision="int8", progress=told)
    assert it.score(gray(100)) != it.score(gray(200))
    assert len(told.lines) == 2 and "could not be kept" in told.lines[1]


def test_draft_is_no_round_trip_and_a_smaller_decoding(net: Net) -> None:
    """Written out for a JPEG of four times the size; of an image that is open already nothing is left out but JPEG."""
    noise = np.random.default_rng(3).integers(0, 256, (270, 300, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(noise).resize((1200, 1080)).save(encoded, "JPEG")
    with Image.open(io.BytesIO(encoded.getvalue())) as image:
        image.draft(None, (256, 256))
        assert image.size == (300, 270)
        small = image.resize((256, 270), Image.Resampling.BILINEAR).resize((256, 256), Image.Resampling.BILINEAR)
    blob = np.asarray(small)[16:240, 16:240, ::-1].astype(np.float32) - np.float32([104, 117, 123])
    it = Scorer(net=net, backend="numpy", draft=True)
    want = it.classify(np.ascontiguousarray(blob.transpose(2, 0, 1))[None])[0]
    assert np.array_equal(it.probabilities(encoded.getvalue()), want)
    (row,) = it.stream([Item("x", encoded.getvalue)])
    assert row.probabilities == tuple(want.tolist())
    assert not np.array_equal(Scorer(net=net, backend="numpy").probabilities(encoded.getvalue()), want)
    whole = Image.open(encoded)
    it.probabilities(whole)
    assert whole.size == (1200, 1080)


# The command


@pytest.fixture
def stand_in(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command scores with the stand-in instead of the released model."""

    def scorer_of(model: str, **options: object) -> Scorer:
        options.pop("offline"), options.pop("progress")
        return Scorer(model, net=net, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scorer, "Scorer", scorer_of)


@pytest.mark.usefixtures("stand_in")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for level in (100, 200):
        names.append(str(tmp_path / f"{level}.png"))
        gray(level).save(names[-1])
    assert cli.main(["score", "--backend", "numpy", *names]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(f"{expected(level)[1]:.6f}  {name}\n" for level, name in zip((100, 200), names, strict=True))
    assert err == ""


@pytest.mark.usefixtures("stand_in")
def test_broken_images_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, broken, empty, nowhere, folder = (
        tmp_path / n for n in ("good.png", "broken.jpg", "empty.png", "no.png", "dir")
    )
    gray(100).save(good)
    broken.write_bytes(b"\xff\xd8\xff\xe0 no jpeg")
    empty.touch()
    folder.mkdir()
    images = [str(path) for path in (broken, good, empty, nowhere, folder, good)]
    assert cli.main(["score", "--backend", "numpy", *images]) == 1
    out, err = capsys.readouterr()
    rows = out.splitlines()
    assert [row.startswith("error ") for row in rows] == [True, False, True, True, True, False]
    for path, row in zip(images, rows, strict=True):
        assert path in row
    assert err == "caffe-port: 4 of 6 images could not be scored\n"


@pytest.mark.usefixtures("stand_in")
def test_command_json_is_one_document_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.png"
    gray(128).save(good)
    assert cli.main(["score", "--backend", "numpy", "--json", str(good), str(tmp_path / "no.png")]) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["image"] == str(good) and first["score"] == pytest.approx(expected(128)[1], abs=1e-5)
    assert second["image"] == str(tmp_path / "no.png") and "no such file" in second["error"]


# The released model


@pytest.fixture(scope="module")
def released() -> Net:
    import caffe_port as cp

    try:
        files = fetch("open_nsfw", offline=True)
    except FetchError as error:
        pytest.skip(f"the released model is not in the cache: {error}")
    return cp.load(files.prototxt, files.caffemodel)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shipped_images_score_as_caffe_scored_them(released: Net, backend: str) -> None:
    """One by one; the broken ones raise."""
    skip_without(backend)
    scores = json.loads((IMAGES / "scores.json").read_text())
    it = Scorer(net=released, backend=backend)
    good = broken = 0
    for name, entry in scores.items():
        if "error" in entry:
            broken += 1
            with pytest.raises(ImageError):
                it.score(IMAGES / "images" / name)
            continue
        good += 1
        assert abs(it.score(IMAGES / "images" / name) - entry["prob"][1]) <= 2e-7, name
    assert (good, broken) == (25, 3)


@pytest.mark.parametrize(
    ("backend", "batch_size", "workers"),
    [
        *(("onnxruntime", size, workers) for size in (1, 3, 32) for workers in (1, 2)),
        *(("numpy", 3, 2), ("numpy", 32, 1), ("torch", 3, 2)),
    ],
)
def test_shipped_images_in_a_stream_score_as_caffe_scored_them(
    released: Net, backend: str, batch_size: int, workers: int
) -> None:
    """And, to the last bit, as alone."""
    skip_without(backend)
    scores = json.loads((IMAGES / "scores.json").read_text())
    it = Scorer(net=released, backend=backend)
    items = [Item(name, (IMAGES / "images" / name).read_bytes) for name in scores]
    rows = list(it.stream(items, batch_size=batch_size, workers=workers))
    assert [row.name for row in rows if not row.ok] == [name for name, entry in scores.items() if "error" in entry]
    for row in rows:
        if row.ok:
            assert abs(row.probabilities[1] - scores[row.name]["prob"][1]) <= 2e-7, row.name
    for row in rows[:3]:
        assert row.probabilities == tuple(it.probabilities(IMAGES / "images" / row.name).tolist())


def test_draft_deviates_as_stated(released: Net) -> None:
    """As docs/scoring.md has it."""
    skip_without("onnxruntime")
    scores = {name: e for name, e in json.loads((IMAGES / "scores.json").read_text()).items() if "prob" in e}
    found = Scorer(net=released, draft=True).score_many(IMAGES / "images" / name for name in scores)
    distance = [abs(score - entry["prob"][1]) for score, entry in zip(found, scores.values(), strict=True)]
    assert 0.01 < max(distance) < 0.041 and np.mean(distance) < 0.0033

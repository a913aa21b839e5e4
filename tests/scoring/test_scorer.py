"""Images → scores, through every backend."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import built, one_input

from caffe_port import cli, recording
from caffe_port.errors import FetchError, GraphError, ImageError, MissingDependency
from caffe_port.models.fetch import fetch
from caffe_port.net import Net
from caffe_port.preprocessing import OPEN_NSFW
from caffe_port.scoring import scorer
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.scorer import BACKENDS, Scorer

IMAGES = Path(recording.__file__).parents[1] / "reference_outputs" / "open_nsfw"

STAND_IN = (
    one_input(1, 3, 224, 224, name="data")
    + """
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "mean" top: "fc" inner_product_param { num_output: 2 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
)

WEIGHT = np.float32([[0.01, -0.02, 0.03], [-0.01, 0.05, 0.02]])
BIAS = np.float32([0.25, -0.5])


@pytest.fixture(scope="module")
def net() -> Net:
    return built(STAND_IN).with_weights({"fc": [WEIGHT, BIAS]})


def skip_without(backend: str) -> None:
    if backend != "numpy":
        pytest.importorskip(backend)


def gray(level: int) -> Image.Image:
    """A gray image stays what it is through resizing and the JPEG."""
    return Image.new("RGB", (40, 30), (level, level, level))


def expected(level: int) -> tuple[float, float]:
    """The means are level - (104, 117, 123); two logits; softmax."""
    means = level - np.array([104.0, 117.0, 123.0])
    logits = WEIGHT.astype(np.float64) @ means + BIAS
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
    def absent(*_: object) -> None:
        raise MissingDependency("not here")

    for backend in BACKENDS[:-1]:
        skip_without(backend)
    makers = dict(scorer._MAKERS)
    monkeypatch.setattr(scorer, "_MAKERS", makers)
    assert Scorer(net=net).backend == "onnxruntime"
    makers["onnxruntime"] = absent  # type: ignore[assignment]
    assert Scorer(net=net).backend == "torch"
    makers["torch"] = absent  # type: ignore[assignment]
    assert Scorer(net=net).backend == "numpy"
    with pytest.raises(MissingDependency):
        Scorer(net=net, backend="torch")


def test_unknown_backend_and_model(net: Net) -> None:
    with pytest.raises(GraphError, match="unknown backend 'tensorflow'; known: onnxruntime, torch, numpy"):
        Scorer(net=net, backend="tensorflow")
    with pytest.raises(FetchError, match="did you mean 'open_nsfw'"):
        Scorer("open-nsfw", net=net)


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
    assert cli.main(["score", "--backend", "numpy", *images]) == 2
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()] == [str(good)] * 2
    lines = err.splitlines()
    assert len(lines) == 5 and all(line.startswith("caffe-port: ") for line in lines)
    for path, line in zip((broken, empty, nowhere, folder), lines, strict=False):
        assert str(path) in line
    assert lines[-1] == "caffe-port: 4 of 6 images could not be scored"


@pytest.mark.usefixtures("stand_in")
def test_command_json_is_one_document_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.png"
    gray(128).save(good)
    assert cli.main(["score", "--backend", "numpy", "--json", str(good), str(tmp_path / "no.png")]) == 2
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

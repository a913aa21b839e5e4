"""What a prototxt's data layer says of the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import CONFORMANCE
from small import write_caffemodel

from caffe_port.datasets import images
from caffe_port.datasets.transform import Transformer
from caffe_port.errors import DataError, PrototxtError
from caffe_port.layers.data import Transform
from caffe_port.preprocessing import MeanImage, Preprocessing
from caffe_port.scoring.mean import Mean
from caffe_port.scoring.preprocess import tensor
from caffe_port.scoring.transform_param import from_transform_param

RELU = 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }\n'


def data_layer(transform: str = "", kind: str = "Data", more: str = "", phase: str = "TEST") -> str:
    tops = 'top: "data" top: "label"'
    rule = f"include {{ phase: {phase} }}" if phase else ""
    transforming = f"transform_param {{ {transform} }}"
    params = {"Data": "data_param { batch_size: 2 }", "ImageData": f"image_data_param {{ batch_size: 2 {more} }}"}
    return f'layer {{ name: "d" type: "{kind}" {tops} {rule} {transforming} {params.get(kind, more)} }}\n'


def written(folder: Path, text: str, name: str = "train_val.prototxt") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_values_as_caffe_has_them(tmp_path: Path) -> None:
    transform = "crop_size: 227 mean_value: 104 mean_value: 117 mean_value: 123.68 scale: 0.017 mirror: true"
    path = written(tmp_path, data_layer("crop_size: 9", phase="TRAIN") + data_layer(transform) + RELU)
    found = from_transform_param(path, resize=(256, 250))
    assert found is not None
    assert found.preprocessing == Preprocessing(
        resize=(256, 250),
        interpolation="opencv",
        crop=(227, 227),
        mean=(104, 117, float(np.float32(123.68))),
        scale=float(np.float32(0.017)),
    )
    assert [note.split()[0] for note in found.notes] == ["mirror", "how"]
    left_open = from_transform_param(path)
    assert left_open is not None and left_open.preprocessing.resize is None
    assert "'resize' is left open" in left_open.notes[-1]


def test_image_data_says_the_size_and_the_colour(tmp_path: Path) -> None:
    more = "new_height: 40 new_width: 30 is_color: false"
    found = from_transform_param(written(tmp_path, data_layer("crop_size: 24 mean_value: 7", "ImageData", more)))
    assert found is not None and found.notes == ()
    assert found.preprocessing == Preprocessing(
        resize=(40, 30), interpolation="opencv", crop=(24, 24), channel_order="grey", mean=(7,)
    )


def test_no_data_layer_of_pictures(tmp_path: Path) -> None:
    deploy = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }\n'
    assert from_transform_param(written(tmp_path, deploy + RELU)) is None


def test_only_of_phase_train(tmp_path: Path) -> None:
    found = from_transform_param(written(tmp_path, data_layer("force_gray: true", phase="TRAIN") + RELU))
    assert found is not None and found.preprocessing.channel_order == "grey"
    assert "only phase TRAIN has a data layer" in found.notes[0]


def test_a_mean_image_says_the_size(tmp_path: Path) -> None:
    """It is found from the root of the repository, as Caffe's own prototxts name it."""
    values = np.random.default_rng(0).uniform(90, 130, (3, 12, 14)).astype(np.float32)
    root = tmp_path / "caffe"
    (root / "data" / "ilsvrc12").mkdir(parents=True)
    Mean(values).write(root / "data" / "ilsvrc12" / "mean.binaryproto")
    transform = 'crop_size: 8 mean_file: "data/ilsvrc12/mean.binaryproto" scale: 0.5'
    path = written(root / "models" / "net", data_layer(transform) + RELU)
    found = from_transform_param(path)
    assert found is not None
    steps = found.preprocessing
    assert steps.resize == (12, 14) and isinstance(steps.mean, MeanImage)
    assert any("12x14, the size of the mean image" in note for note in found.notes)
    # What Caffe's DataTransformer makes of the same picture, bit for bit.
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8))
    pixels = images.resize(np.asarray(picture).transpose(2, 0, 1)[::-1], 12, 14)
    caffe = Transformer(Transform(8, (), "data/ilsvrc12/mean.binaryproto", 0.5), "TEST", root=root)(pixels)
    assert np.array_equal(tensor(picture, steps).view(np.uint32), caffe.view(np.uint32))

    solver = written(root / "models" / "net", 'net: "models/net/train_val.prototxt" base_lr: 0.1', "solver.prototxt")
    by_solver = from_transform_param(solver)
    assert by_solver is not None and by_solver.preprocessing == steps
    assert by_solver.notes[0].startswith("the net of the solver is")


def test_an_old_net_and_a_caffemodel(tmp_path: Path) -> None:
    old = """layers { name: "d" type: DATA top: "data" top: "label"
        data_param { batch_size: 2 scale: 0.5 crop_size: 5 } include { phase: TRAIN } }"""
    found = from_transform_param(written(tmp_path, old))
    assert found is not None and (found.preprocessing.scale, found.preprocessing.crop) == (0.5, (5, 5))
    saved = write_caffemodel(tmp_path / "x.caffemodel", data_layer("scale: 0.5 crop_size: 5", phase="TRAIN") + RELU, {})
    of_saved = from_transform_param(saved)
    assert of_saved is not None and of_saved.preprocessing == found.preprocessing


@pytest.mark.parametrize(
    ("text", "kind", "want"),
    [
        (data_layer('mean_file: "m.npy" mean_value: 1'), DataError, "both mean_file and mean_value"),
        (data_layer('mean_file: "m.npy"'), DataError, r"mean_file 'm\.npy' is not there, .*put it beside"),
        (data_layer("mean_value: 1 mean_value: 2"), DataError, "'mean' must be one number, or three"),
        (data_layer("crop_size: 9", "ImageData", "new_height: 8 new_width: 9"), DataError, "9x9 does not lie in"),
        ("base_lr: 0.1", PrototxtError, "the solver names no net"),
        ('net: "no.prototxt" base_lr: 0.1', DataError, r"net 'no\.prototxt' is not there"),
        ("layer {", PrototxtError, "train_val.prototxt:1"),
    ],
)
def test_what_contradicts_itself_or_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: type[Exception], want: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=want):
        from_transform_param(written(tmp_path, text))


def theirs(name: str) -> Path:
    path = CONFORMANCE / "prototxt" / name
    if not path.is_file():
        pytest.skip("the corpus is not here")
    return path


def test_lenet_s_own() -> None:
    found = from_transform_param(theirs("BVLC__caffe__examples_mnist_lenet_train_test.prototxt"), channels=1)
    assert found is not None
    assert found.preprocessing == Preprocessing(interpolation="opencv", scale=1 / 256, channel_order="grey")


def test_another_nsfw_net_whose_mean_is_a_file(tmp_path: Path) -> None:
    path = theirs("TechnikEmpire__NsfwSqueezenet__training_train_val.prototxt")
    with pytest.raises(DataError, match=r"'Data/PornNotPorn/nsfwnet2_mean\.binaryproto' is not there"):
        from_transform_param(path)
    Mean(np.full((3, 256, 256), 100, np.float32)).write(tmp_path / "mean.binaryproto")
    found = from_transform_param(path, mean_file=tmp_path / "mean.binaryproto")
    assert found is not None
    assert (found.preprocessing.resize, found.preprocessing.crop) == ((256, 256), (227, 227))
    assert np.unique(found.preprocessing.mean_array()).tolist() == [100]

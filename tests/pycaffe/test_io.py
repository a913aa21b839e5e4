"""caffe.io: messages, images, the Transformer; numbers computed by scikit-image are written down here."""

from __future__ import annotations

import hashlib
import io as memory
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from places import REFERENCE

from caffe_port.errors import CaffePortError, DataError, GraphError, ImageError, UnsupportedParameter
from caffe_port.proto.schema import message
from caffe_port.pycaffe import io

RECORDINGS = REFERENCE / "open_nsfw"
SCORES = json.loads((RECORDINGS / "scores.json").read_text())


def test_a_blob_of_the_old_format_has_four_axes() -> None:
    blob = message("BlobProto")
    blob.data.extend(range(6))
    blob.num, blob.channels, blob.height, blob.width = 1, 1, 2, 3
    assert np.array_equal(io.blobproto_to_array(blob), np.arange(6.0).reshape(1, 1, 2, 3))


def test_a_blob_of_the_new_format_has_its_shape() -> None:
    blob = message("BlobProto")
    blob.data.extend(range(6))
    blob.diff.extend(range(6, 12))
    blob.shape.dim.extend((2, 3))
    assert np.array_equal(io.blobproto_to_array(blob), np.arange(6.0).reshape(2, 3))
    assert np.array_equal(io.blobproto_to_array(blob, return_diff=True), np.arange(6.0, 12).reshape(2, 3))


def test_a_blob_without_a_shape_is_a_scalar_or_an_error() -> None:
    blob = message("BlobProto")
    blob.data.append(123)
    assert io.blobproto_to_array(blob) == 123
    assert io.blobproto_to_array(blob).shape == ()
    blob.data.append(4)
    with pytest.raises(ValueError, match="has 2 values") as raised:
        io.blobproto_to_array(blob)
    assert isinstance(raised.value, CaffePortError)


def test_double_values_are_read() -> None:
    blob = message("BlobProto")
    blob.double_data.extend((1.5, 2.5))
    blob.shape.dim.append(2)
    assert io.blobproto_to_array(blob).tolist() == [1.5, 2.5]


def test_arrays_go_to_blobs_and_back() -> None:
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    blob = io.array_to_blobproto(values, diff=values + 1)
    assert np.array_equal(io.blobproto_to_array(blob), values)
    assert np.array_equal(io.blobproto_to_array(blob, return_diff=True), values + 1)
    with pytest.raises(ValueError, match="diff of 3"):
        io.array_to_blobproto(values, diff=values[0, 0])


def test_lists_of_arrays_go_to_bytes_and_back() -> None:
    given = [np.ones((1, 2)), np.arange(3.0)]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(given))
    assert [array.tolist() for array in back] == [array.tolist() for array in given]
    with pytest.raises(DataError, match="BlobProtoVector"):
        io.blobprotovector_str_to_arraylist(b"\xff\xff")


@pytest.mark.parametrize(("dtype", "field"), [(np.uint8, "data"), (np.float32, "float_data")])
def test_arrays_go_to_datums_and_back(dtype: Any, field: str) -> None:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    datum = io.array_to_datum(values, label=7)
    assert (datum.channels, datum.height, datum.width, datum.label) == (2, 3, 4, 7)
    assert len(getattr(datum, field)) == 24
    back = io.datum_to_array(datum)
    assert back.dtype == (np.uint8 if dtype is np.uint8 else np.float64)
    assert np.array_equal(back, values)


def test_a_datum_without_a_label_is_smaller() -> None:
    values = np.ones((10, 10, 3))
    with_label, without = io.array_to_datum(values, label=1), io.array_to_datum(values)
    assert len(with_label.SerializeToString()) > len(without.SerializeToString())
    assert not without.HasField("label")


def test_what_is_no_datum() -> None:
    with pytest.raises(ValueError, match="3 axes"):
        io.array_to_datum(np.ones((3, 3)))
    datum = io.array_to_datum(np.ones((1, 2, 2), np.uint8))
    datum.data = b"\1\2\3"
    with pytest.raises(ValueError, match="has 3 values"):
        io.datum_to_array(datum)
    datum.encoded = True
    with pytest.raises(DataError, match="encoded"):
        io.datum_to_array(datum)


# Of 4x5x3 values, channel 0, by scikit-image 0.26: warp with the transform that its resize of 0.9 to 0.14 made (order,
# mode "constant", clip), as resize_image calls it. Orders 0 and 1 equal its resize of today with anti_aliasing=False.
IMAGE = (np.arange(60).reshape(4, 5, 3) * 7 % 31).astype(np.float32) - 3
SKIMAGE: dict[tuple[int, tuple[int, int]], list[list[float]]] = {
    (0, (3, 3)): [[-3, 8, 19], [21, 1.000000238418579, 12], [2.000000238418579, 13.000000953674316, 24]],
    (1, (3, 3)): [
        [4.277777671813965, 10, 10.555556297302246],
        [11.666666984558105, 10.5, 9.333333015441895],
        [10.44444465637207, 11.000000953674316, 16.72222137451172],
    ],
    (3, (3, 3)): [
        [4.119255542755127, 10.300926208496094, 13.509688377380371],
        [14.027777671813965, 10.5, 8.972222328186035],
        [11.168553352355957, 12.261574745178223, 20.558984756469727],
    ],
    (1, (6, 7)): [
        [
            -3, 7, 12.119047164916992, 6.1666669845581055,
            0.21428580582141876, 5.333333492279053, 12.714285850524902,
        ],
        [
            2.142857313156128, 6.142857074737549, 10.071428298950195, 14,
            6.857142925262451, 6.357142925262451, 7.714285850524902,
        ],
        [
            9, 5.285714626312256, 5.523809432983398, 16.833332061767578,
            13.380951881408691, 7.714285850524902, 1.2857142686843872,
        ],
        [
            15.85714340209961, 13.285714149475098, 7.61904764175415, 4.1666669845581055,
            15.476190567016602, 15.714285850524902, 8.142857551574707,
        ],
        [
            9.428571701049805, 14.642857551574707, 14.142857551574707, 7.000000476837158,
            10.928571701049805, 14.857142448425293, 15,
        ],
        [
            0.571428656578064, 11.166666984558105, 16.285715103149414, 10.333333969116211,
            4.380952835083008, 9.5, 16.28571319580078,
        ],
    ],
}  # fmt: skip


@pytest.mark.parametrize(("order", "size"), SKIMAGE)
def test_images_are_resized_as_scikit_image_did(order: int, size: tuple[int, int]) -> None:
    resized = io.resize_image(IMAGE, size, interp_order=order)
    assert resized.dtype == np.float32
    assert resized.shape == (*size, 3)
    assert np.array_equal(resized[..., 0], np.array(SKIMAGE[order, size], np.float32))


def test_each_channel_is_resized_by_itself_but_for_the_range() -> None:
    grey = io.resize_image(IMAGE[..., :1] / 7, (6, 7))
    assert grey.shape == (6, 7, 1)
    # Channel 0 has the smallest value of the image, which is what is taken to be outside of it.
    assert IMAGE[..., 0].min() == IMAGE.min()
    assert grey[..., 0] * 7 == pytest.approx(np.array(SKIMAGE[1, (6, 7)]), abs=1e-5)


ZOOMED = {  # by SciPy 1.17, ndimage.zoom, of 4x5x2 values, channel 0
    1: [
        [-3, 6.333333492279053, 15.666666984558105, 25, 13.666666984558105, 12.666666984558105, 22],
        [9, 18.33333396911621, 17.33333396911621, 6, 15.333333015441895, 14.333333015441895, 3],
        [21, 9.666666984558105, 8.666666984558105, 18, 6.666666507720947, 5.666666507720947, 15],
    ],
    3: [
        [-3, 3.9656083583831787, 18.621692657470703, 25, 11.859787940979004, 11.589946746826172, 22],
        [9, 22.987764358520508, 19.745038986206055, 2.125, 18.518848419189453, 17.141864776611328, -0.875],
        [21, 8.693121910095215, 7.439153671264648, 18, 5.597883701324463, 4.3439154624938965, 15],
    ],
}


@pytest.mark.parametrize("order", ZOOMED)
def test_other_numbers_of_channels_are_zoomed(order: int) -> None:
    if order != 1:
        pytest.importorskip("scipy")
    image = (np.arange(40).reshape(4, 5, 2) * 7 % 31).astype(np.float32) - 3
    resized = io.resize_image(image, (3, 7), interp_order=order)
    assert resized[..., 0] == pytest.approx(np.array(ZOOMED[order]), abs=2e-6)


def test_a_constant_image_stays_so_and_a_single_pixel_is_one() -> None:
    assert (io.resize_image(np.full((3, 4, 3), 0.25), (7, 2)) == np.float32(0.25)).all()
    assert (io.resize_image(np.full((1, 1, 3), 7.0), (2, 2)) == 7).all()
    assert io.resize_image(IMAGE, (1, 1)).shape == (1, 1, 3)


def test_what_cannot_be_resized() -> None:
    with pytest.raises(ValueError, match="it has"):
        io.resize_image(np.ones((3, 3)), (2, 2))
    with pytest.raises(ValueError, match="0x2"):
        io.resize_image(IMAGE, (0, 2))
    with pytest.raises(UnsupportedParameter, match="order 2"):
        io.resize_image(IMAGE, (2, 2), interp_order=2)


def test_oversample_takes_corners_centre_and_mirror_images() -> None:
    images = np.arange(2 * 5 * 6 * 3, dtype=np.float32).reshape(2, 5, 6, 3)
    crops = io.oversample(images, (2, 3))
    assert crops.shape == (20, 2, 3, 3)
    second = images[1]
    expected = [second[:2, :3], second[:2, 3:], second[3:, :3], second[3:, 3:], second[1:3, 1:4]]
    assert np.array_equal(crops[10:15], expected)
    assert np.array_equal(crops[15:], crops[10:15, :, ::-1])
    with pytest.raises(ValueError, match="smaller than the crop"):
        io.oversample(images, (6, 3))
    with pytest.raises(ValueError, match="one shape"):
        io.oversample([images[0], images[1, 1:]], (2, 3))


def saved(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def test_load_image_gives_rgb_from_0_to_1(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    loaded = io.load_image(saved(Image.fromarray(pixels), tmp_path / "a.png"))
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, (pixels / 255.0).astype(np.float32))


def test_load_image_tiles_grey_and_keeps_it_without_colour(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = saved(Image.fromarray(pixels), tmp_path / "grey.png")
    unit = (pixels / 255.0).astype(np.float32)
    assert np.array_equal(io.load_image(path), np.stack([unit] * 3, 2))
    assert np.array_equal(io.load_image(path, color=False), unit[:, :, None])


def test_load_image_weighs_colours_to_grey(tmp_path: Path) -> None:
    path = saved(Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)), tmp_path / "rgb.png")
    assert io.load_image(path, color=False).ravel().tolist() == pytest.approx([0.2125, 0.7154, 0.0721])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_load_image_drops_alpha(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (3, 2), (200, 10, 30, 128) if mode == "RGBA" else (200, 128))
    loaded = io.load_image(saved(image, tmp_path / "a.png"))
    assert loaded.shape == (2, 3, 3)
    assert loaded[0, 0].tolist() == pytest.approx(
        [200 / 255, *([10 / 255, 30 / 255] if mode == "RGBA" else [200 / 255] * 2)]
    )


def test_load_image_of_16_bits_palettes_and_one_bit(tmp_path: Path) -> None:
    deep = np.array([[0, 1, 65535]], np.uint16)
    loaded = io.load_image(saved(Image.fromarray(deep), tmp_path / "deep.png"), color=False)
    assert loaded.ravel().tolist() == pytest.approx([0, 1 / 65535, 1])
    palette = Image.new("RGB", (2, 1), (9, 8, 7)).quantize(2)
    assert io.load_image(saved(palette, tmp_path / "p.png"))[0, 0].tolist() == pytest.approx(
        [9 / 255, 8 / 255, 7 / 255]
    )
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert io.load_image(saved(bits, tmp_path / "b.png"), color=False).ravel().tolist() == [0, 1]


def test_load_image_ignores_exif_and_takes_open_files(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2), (1, 2, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert io.load_image(tmp_path / "turned.jpg").shape == (2, 4, 3)
    assert io.load_image(memory.BytesIO((tmp_path / "turned.jpg").read_bytes())).shape == (2, 4, 3)


def test_load_image_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"no\.png: not an image"):
        io.load_image(tmp_path / "no.png")
    with pytest.raises(ImageError, match="no such file"):
        io.load_image(tmp_path / "absent.png")


def transformer(**shape: Any) -> io.Transformer:
    made = io.Transformer({"data": shape.get("shape", (1, 3, 4, 5))})
    made.set_transpose("data", (2, 0, 1))
    return made


def test_preprocess_takes_its_steps_in_order() -> None:
    image = np.random.default_rng(1).random((4, 5, 3), np.float32)
    made = transformer()
    made.set_channel_swap("data", (2, 1, 0))
    made.set_raw_scale("data", 255)
    made.set_mean("data", np.array([104.0, 117, 123]))
    made.set_input_scale("data", 0.5)
    kept = image.copy()
    blob = made.preprocess("data", image)
    expected = (image.astype(np.float64)[:, :, ::-1] * 255 - [104, 117, 123]).transpose(2, 0, 1) / 2
    assert blob.dtype == np.float32
    assert blob == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(image, kept)
    assert made.deprocess("data", blob[None]) == pytest.approx(image, abs=1e-6)


def test_deprocess_undoes_orders_that_are_not_their_own_inverse() -> None:
    image = np.random.default_rng(2).random((4, 5, 3), np.float32)
    made = transformer()
    made.set_channel_swap("data", (1, 2, 0))
    assert np.array_equal(made.deprocess("data", made.preprocess("data", image)), image)


def test_preprocess_resizes_to_the_input() -> None:
    made = transformer(shape=(10, 3, 6, 7))
    assert np.array_equal(made.preprocess("data", IMAGE), io.resize_image(IMAGE, (6, 7)).transpose(2, 0, 1))


def test_a_mean_image_is_subtracted_and_resized_where_it_has_another_size() -> None:
    rng = np.random.default_rng(3)
    image, mean = rng.random((4, 5, 3), np.float32), rng.random((3, 4, 5))
    made = transformer()
    made.set_mean("data", mean)
    assert made.preprocess("data", image) == pytest.approx(image.transpose(2, 0, 1) - mean, abs=1e-6)
    larger = rng.random((3, 8, 10)) * 255
    made.set_mean("data", larger)
    # To half the size, linear: pixel centres fall between four pixels.
    quarters = larger.reshape(3, 4, 2, 5, 2).mean((2, 4))
    assert made.mean["data"] == pytest.approx(quarters, abs=1e-3)
    made.set_mean("data", np.full((3, 8, 10), 7.0))
    assert made.preprocess("data", image) == pytest.approx(image.transpose(2, 0, 1) - 7, abs=1e-6)


def test_a_mean_without_channels_is_one_for_all() -> None:
    made = transformer()
    made.set_mean("data", np.arange(20.0).reshape(4, 5))
    assert np.array_equal(made.preprocess("data", np.zeros((4, 5, 3)))[2], -np.arange(20.0).reshape(4, 5))


def test_what_does_not_fit_an_input() -> None:
    made = transformer()
    with pytest.raises(GraphError, match="other is not one of the net inputs: data"):
        made.preprocess("other", IMAGE)
    for setter in (made.set_raw_scale, made.set_input_scale):
        with pytest.raises(GraphError, match="not one of the net inputs"):
            setter("other", 1)
    with pytest.raises(ValueError, match="3 channels, the mean 2"):
        made.set_mean("data", np.zeros(2))
    with pytest.raises(ValueError, match="3 channels, the mean 2"):
        made.set_mean("data", np.zeros((2, 9, 9)))
    with pytest.raises(ValueError, match="1 to 3 axes"):
        made.set_mean("data", np.zeros((1, 3, 4, 5)))
    with pytest.raises(ValueError, match="channel swap of 2"):
        made.set_channel_swap("data", (1, 0))
    with pytest.raises(ValueError, match="transpose of 2 axes"):
        made.set_transpose("data", (1, 0))
    made.set_mean("data", np.zeros(3))
    with pytest.raises(ValueError, match="cannot be made of an array 4x5x2"):
        made.preprocess("data", np.zeros((4, 5, 2)))


def test_open_nsfw_s_preprocessing_bit_for_bit() -> None:
    """Of every picture that Caffe could read: what its Transformer made of it, recorded as SHA-256."""
    made = transformer(shape=(1, 3, 224, 224))
    made.set_mean("data", np.array([104, 117, 123]))
    made.set_raw_scale("data", 255)
    made.set_channel_swap("data", (2, 1, 0))
    names = [name for name, entry in SCORES.items() if "tensor" in entry]
    assert len(names) == 25
    for name in names:
        encoded = memory.BytesIO()
        with Image.open(RECORDINGS / "images" / name) as image:
            rgb = image.convert("RGB")
        rgb.info = {}
        # In two calls, as `caffe_port.scoring.preprocess` tells.
        small = rgb.resize((256, rgb.height), Image.Resampling.BILINEAR).resize((256, 256), Image.Resampling.BILINEAR)
        small.save(encoded, "JPEG")
        encoded.seek(0)
        blob = made.preprocess("data", io.load_image(encoded)[16:240, 16:240])
        assert hashlib.sha256(np.ascontiguousarray(blob).tobytes()).hexdigest() == SCORES[name]["tensor"], name

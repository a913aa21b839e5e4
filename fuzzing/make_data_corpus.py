"""Makes the seeds of the targets that read data (images, tables, archives, …): python -m fuzzing.make_data_corpus

What it makes is checked in. Pillow, h5py, lmdb, pyarrow and zlib write some of it, another version of which may write
other bytes.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from caffe_port import recording
from caffe_port.arrays import write_npz
from caffe_port.calibration.threshold import Costs, Rate, Threshold
from caffe_port.datasets.lmdb_file import LMDBFile
from caffe_port.preprocessing import OPEN_NSFW, Manifest, MeanImage, Preprocessing
from caffe_port.proto import schema
from fuzzing.catalogue import HERE

_FIRST = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def _put(target: str, name: str, data: bytes | str) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def _written(write: Callable[[Path], Any], name: str = "file") -> bytes:
    """What a writer of files writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()


def arrays() -> None:
    named = {"data": _FIRST, "label": np.arange(3), "big": _FIRST.astype(">f8").T, "flag": np.array(True)}
    _put("arrays_npz", "four", _written(lambda path: write_npz(path, named)))
    packed = io.BytesIO()
    np.savez_compressed(packed, x=np.zeros((4, 50), np.float32))
    _put("arrays_npz", "packed", packed.getvalue())
    _put("mean_npy", "image", _npy(np.ones((3, 2, 2), np.float32)))
    _put("mean_npy", "channels", _npy(np.array([104.0, 117.0, 123.0])))


def _recording() -> recording.Recording:
    def entry(index: int, layer: str, kind: str, top: str) -> recording.RecordedLayer:
        sample = _FIRST.reshape(-1)
        stats = np.array([sample.min(), sample.max(), sample.mean(), np.linalg.norm(sample)], np.float64)
        return recording.RecordedLayer(index, layer, kind, top, (1, 6), sample, stats)

    layers = [entry(0, "data", "Input", "data"), entry(1, "copy", "Power", "x")]
    given, made = {"data": _FIRST.reshape(1, 6)}, {"x": _FIRST.reshape(1, 6)}
    return recording.Recording(layers, given, {"data": (1, 6)}, made, ("data",), ("x",), 6)


def recordings() -> None:
    _put("recording", "two", _written(lambda path: recording.write(path, _recording())))
    recorder = {
        "phase": "TEST", "level": 0, "stages": [], "definition": {"name": "a", "sha256": "0"}, "weights": [],
    }  # fmt: skip
    layer = {"index": 0, "layer": "a", "type": "Power", "top": "x", "shape": [1, 2]}
    meta = {"layers": [layer], "inputs": ["data"], "outputs": ["x"], "recorder": recorder}
    _put("recording_meta", "one", json.dumps(meta))
    case = {"name": "a", "phase": "TEST", "status": "ok", "outputs": ["x"]}
    inner = _written(lambda path: write_npz(path, {"x": _FIRST}))
    members = [
        ("a/case.json", json.dumps(case).encode()),
        ("a/net.prototxt", b'name: "a"'),
        ("a/inputs.npz", inner),
        ("a/outputs.npz", inner),
        ("b/case.json", json.dumps({"name": "b", "phase": "TRAIN", "status": "rejected"}).encode()),
        ("b/net.prototxt", b""),
    ]
    _put("layer_cases", "two", recording.zip_bytes(members))


def images() -> None:
    rgb = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    grey = rgb.convert("L")
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    made = {
        "rgb.png": _encoded(rgb, "PNG"),
        "palette.png": _encoded(rgb.quantize(8), "PNG"),
        "deep.png": _encoded(Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800), "PNG"),
        "alpha.png": _encoded(rgb.convert("RGBA"), "PNG"),
        "bilevel.png": _encoded(grey.convert("1"), "PNG"),
        "rgb.jpg": _encoded(rgb, "JPEG"),
        "progressive.jpg": _encoded(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _encoded(rgb.convert("CMYK"), "JPEG"),
        "moving.gif": _encoded(rgb, "GIF", **frames),
        "moving.png": _encoded(rgb, "PNG", **frames),
        "rgb.bmp": _encoded(rgb, "BMP"),
        "deflated.tif": _encoded(rgb, "TIFF", compression="tiff_adobe_deflate"),
        "float.tif": _encoded(grey.convert("F"), "TIFF"),
        "rgb.webp": _encoded(rgb, "WEBP", lossless=True),
        "rgb.ico": _encoded(rgb.resize((16, 16)), "ICO", sizes=[(16, 16)]),
        "grey.pgm": _encoded(grey, "PPM"),
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n",
    }
    for name, data in made.items():
        _put("image", name, data)


def archives() -> None:
    picture = _encoded(Image.new("RGB", (2, 2), (9, 8, 7)), "PNG")
    for name, method in (
        ("stored", zipfile.ZIP_STORED),
        ("deflated", zipfile.ZIP_DEFLATED),
        ("lzma", zipfile.ZIP_LZMA),
    ):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for member in ("a.png", "folder/b.png"):
                archive.writestr(zipfile.ZipInfo(member), picture, method)
        _put("archive_zip", name, stream.getvalue())
    for name, form, mode in (
        ("pax", tarfile.PAX_FORMAT, "w"),
        ("gnu", tarfile.GNU_FORMAT, "w"),
        ("gz", tarfile.GNU_FORMAT, "w:gz"),
        ("bz2", tarfile.USTAR_FORMAT, "w:bz2"),
        ("xz", tarfile.PAX_FORMAT, "w:xz"),
    ):
        stream = io.BytesIO()
        options = {"pax_headers": {"comment": "a"}} if form == tarfile.PAX_FORMAT else {}
        with tarfile.open(fileobj=stream, mode=mode, format=form, **options) as tar:  # type: ignore[call-overload]
            for member in ("a.png", "ü" * 60 + "/" + "b" * 60 + ".png"):
                info = tarfile.TarInfo(member if form != tarfile.USTAR_FORMAT else member[-60:])
                info.size = len(picture)
                tar.addfile(info, io.BytesIO(picture))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        _put("archive_tar", name, stream.getvalue())
    _put("names_list", "lines", "a.png\n/dev/null\n\n/nowhere/*.jpg\nb\x00c\n")


def texts() -> None:
    _put("manifest", "open_nsfw", json.dumps(Manifest(OPEN_NSFW, "prob", ("sfw", "nsfw"), 1).as_json()))
    mean = MeanImage((3, 1, 2), "float32", np.ones(6, np.float32).tobytes())
    steps = Preprocessing(resize=(1, 2), mean=mean, interpolation="opencv")
    _put("manifest", "mean_image", json.dumps(Manifest(steps).as_json()))
    _put("manifest", "files", json.dumps({"format": "caffe_port preprocessing 1", "mean": "m.npy", "labels": "l.txt"}))
    _put("manifest", "labels", "sfw\nnsfw\n")
    rates = Rate(1, 100, 0.0, 0.1), Rate(5, 50, 0.0, 0.3)
    for rule, more in (
        ("max-fpr", {"target": 0.05, "bound": 0.04}),
        ("cost", {"costs": Costs(1.0, 10.0, 0.1)}),
        ("given", {}),
    ):
        chosen = Threshold(0.5, "score", rule, 0.95, *rates, "0" * 64, **more)  # type: ignore[arg-type]
        _put("threshold", rule, json.dumps(chosen.as_json()))
    table = "image,label,score\na.png,1,0.75\nb.png,0,0.25\n"
    _put("table_csv", "plain", table)
    _put("table_csv", "words", '\ufeffimage,label,score\r\n"a ""x"".png",yes,1e-3\r\nb,no,nan\r\nc,no,\r\n')
    _put("image_list", "list", "a.png 0\nfolder/b c.png 1\n")
    _put("image_list", "windows", "# 0\na.png\n3\n8\n8\n2\n1 0.9 0 0 3 3\n0 0.1 2 2 7 7\n")
    _put("finetuning_list", "plain", "path,label,split\na.png,cat,train\nb.png,dog,test\n")
    _put("finetuning_list", "numbers", "image,label\na.png,0\nb.png,1\n")
    said = (
        "Iteration 20 (3.1 iter/s, 6s/20 iters), loss = 0.69\n    Train net output #0: loss = 0.69 (* 1 = 0.69 loss)\n"
    )
    tested = "Iteration 0, Testing net (#0)\n    Test net output #0: accuracy = 0.5\nIteration 20, lr = 1e-05\n"
    _put("training_log", "plain", said + tested)


def scripts() -> None:
    opencv = """import cv2
import numpy as np

def main(path="a.jpg", size=(224, 224)):
    net = cv2.dnn.readNetFromCaffe("deploy.prototxt", "weights.caffemodel")
    image = cv2.imread(path)
    blob = cv2.dnn.blobFromImage(image, 1.0, size, (104, 117, 123), swapRB=False)
    net.setInput(blob)
    for name, row in zip(net.getLayerNames(), net.forward(["prob", "fc"])):
        print(name, row.argsort()[::-1][:5])
"""
    _put("opencv_script", "one", opencv)
    _put(
        "opencv_script",
        "read_net",
        opencv.replace("FromCaffe", "") + "net.setPreferableBackend(cv2.dnn.DNN_BACKEND_CUDA)\n",
    )
    _put("python2_script", "python3", "import caffe\nnet = caffe.Net('a', 'b', caffe.TEST)\nprint(net.blobs)\n")
    python2 = """# -*- coding: utf-8 -*-
import sys, cPickle, urllib2
print "a", `1`, ur"x" if 0777 <> 1 else 10L
try:
    exec "x = 1" in {}
except (ValueError, TypeError), e:
    raise IOError, "no", sys.exc_info()[2]
for i in xrange(3): print >>sys.stderr, i / 2, {}.has_key(i), {}.iteritems(), unicode(i)
lambda (a, b): a
"""
    _put("python2_script", "python2", python2)


def tables() -> None:
    import pyarrow as pa
    from pyarrow import parquet

    plain = {"image": ["a", "b"], "label": [1, 0], "score": [0.75, 0.25]}
    typed = {
        "label": pa.array(["x", None, "x"]).dictionary_encode(),
        "score": pa.array([1.5, None, 2.5], pa.float32()),
        "nested": pa.array([[1], [], None]),
    }
    for name, columns, options in (
        ("plain", plain, {"compression": "none"}),
        ("typed", typed, {"compression": "gzip"}),
    ):
        _put("table_parquet", name, _written(lambda p, c=columns, o=options: parquet.write_table(pa.table(c), p, **o)))
    picture = _encoded(Image.new("RGB", (2, 2)), "PNG")
    for name, columns in (
        ("content", {"label": [0, 1], "content": [picture, None]}),
        ("path", {"label": [0, 1], "path": ["a.png", "b.png"]}),
    ):
        _put("training_parquet", name, _written(lambda p, c=columns: parquet.write_table(pa.table(c), p)))


def databases() -> None:
    import h5py
    import lmdb

    datum = schema.message("Datum")
    datum.channels, datum.height, datum.width, datum.label = 1, 2, 2, 3
    datum.data = b"\0\1\2\3"
    _put("datum", "bytes", datum.SerializeToString())
    values = schema.message("Datum")
    values.channels, values.height, values.width = 1, 1, 2
    values.float_data.extend((1.0, 2.0))
    _put("datum", "floats", values.SerializeToString())
    encoded = schema.message("Datum")
    encoded.encoded, encoded.data = True, _encoded(Image.new("RGB", (2, 2)), "PNG")
    _put("datum", "encoded", encoded.SerializeToString())
    items = {"two": {b"0": datum.SerializeToString(), b"1": b"x" * 5000}, "none": {}}
    items["levels"] = {b"%08d" % i + b"k" * 400: b"v" for i in range(24)}
    for name, content in items.items():
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=1 << 20) as opened, opened.begin(write=True) as transaction:
                for key, value in content.items():
                    transaction.put(key, value)
            assert list(LMDBFile(Path(folder)).keys()) == sorted(content)
            _put("lmdb_database", name, Path(folder, "data.mdb").read_bytes())

    def h5(path: Path, **options: Any) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=np.ones((4, 1, 2), np.float32), **options)
            file.create_dataset("label", data=np.arange(4, dtype=np.int32))

    _put("hdf5_data", "plain", _written(h5))
    _put("hdf5_data", "packed", _written(lambda path: h5(path, chunks=(2, 1, 2), compression="gzip", shuffle=True)))

    def linked(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["data"] = h5py.ExternalLink("/dev/zero", "data")
            file["label"] = h5py.SoftLink("/data")

    _put("hdf5_data", "linked", _written(linked))


def weights() -> None:
    from safetensors.numpy import save

    state = {"conv1.weight": np.ones((4, 3, 3, 3), np.float32), "conv1.bias": np.zeros(4, np.float16)}
    _put("safetensors_file", "conv", save(state))
    table = {"w": {"layer": "conv1", "blob": 0, "as": "same"}, "m": {"layer": "fc", "blob": 1, "as": "zeros"}}
    _put("safetensors_file", "table", save({"w": _FIRST}, metadata={"caffe_port.blobs": json.dumps(table)}))
    _put("safetensors_file", "pickle", b"\x80\x02}q\x00.")


def main() -> int:
    for make in (arrays, recordings, images, archives, texts, scripts, tables, databases, weights):
        make()
    return 0


if __name__ == "__main__":
    sys.exit(main())

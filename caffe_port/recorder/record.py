"""Records what Caffe computes for a net, layer by layer, for `caffe-port verify --recording`.

This one file is all that the machine with the old Caffe needs: copy it there and run it with the Python that imports
caffe. It runs under Python 2.7 and 3, needs pycaffe and NumPy, computes on the CPU, and writes one npz file:

    python record.py deploy.prototxt weights.caffemodel -o recording.npz --seed 1
    python record.py deploy.prototxt weights.caffemodel -o recording.npz --input inputs.npz
    python record.py deploy.prototxt weights.caffemodel -o recording.npz --images cat.jpg --mean 104,117,123

The file holds the exact inputs, each layer's tops right after that layer ran (so layers that work in place have theirs,
too), and the outputs. A net with data layers is recorded on one batch of what they read.

What it uses of pycaffe:
- `Net(prototxt, phase)`, `copy_from`, `reshape`, `_forward`, `layers`, `_layer_names`, `_blob_names`, `_blobs`,
  `_inputs`, `_outputs`, `set_mode_cpu`: forks of BVLC/caffe of 2015, such as Faster R-CNN's, have all of them. An older
  Caffe is told what it lacks; one from before February 2015, when layers got the types of today, will not do
- `Net._top_ids`, which says what blobs a layer writes: since 2016. Without it, or `Layer.type`, the net is saved
  to a temporary file (`Net.save`) and read back with caffe_pb2, which Caffe brings along
- `level` and `stages` of the constructor, only for --level and --stage: 1.0 has them
- `caffe.io`, only for --images

Caffe ends the process itself, with a line that starts with F, where it refuses a net or weights. No file is left then.
"""
# It has to stay Python 2.7: no annotations, f-strings, pathlib.
# mypy: ignore-errors
# ruff: noqa: B904, B905, BLE001, C401, C402, PTH100, PTH101, PTH107, PTH112, PTH113, PTH119, PTH120, PTH123, RUF005
# ruff: noqa: SIM117, UP010, UP024, UP031

from __future__ import absolute_import, division, print_function

import argparse
import hashlib
import io
import json
import os
import platform
import re
import sys
import tempfile
import zipfile

import numpy as np

VERSION = 1

# Layers that only hand on what they are given or read; recordings have no entries for them.
INPUT_TYPES = ("Input",)
SPLIT_TYPES = ("Split",)
DATA_TYPES = ("AnnotatedData", "Data", "HDF5Data", "ImageData", "WindowData")
UNFED_TYPES = ("MemoryData",)

# caffe-port does not unpack more than this.
MAX_BYTES = 1 << 31
# Of a key, in bytes, so that the .npy behind it fits, too.
MAX_NAME = 65000


class RecorderError(Exception):
    """Something the user can change; its text says what."""


def main(argv=None):
    """Runs the command line and returns the exit code: 0 well, 2 bad input, 70 unexpected, 130 interrupted."""
    options = parser().parse_args(argv)
    try:
        print(printable(record(options)))
        return 0
    except RecorderError as error:
        message, code = str(error), 2
    except EnvironmentError as error:
        message, code = "%s%s" % ("%s: " % error.filename if error.filename else "", error.strerror or error), 2
    except MemoryError:
        message, code = "not enough memory", 2
    except KeyboardInterrupt:
        message, code = "interrupted; nothing was written", 130
    except Exception as error:
        if options.debug:
            raise
        message, code = "%s: %s (--debug shows where)" % (type(error).__name__, error), 70
    say("record.py: " + message)
    return code


def parser():
    result = argparse.ArgumentParser(
        prog="record.py",
        description="Records what Caffe computes for a net, layer by layer, for caffe-port verify --recording.",
    )
    add = result.add_argument
    add("prototxt", help="the net; best the deploy prototxt")
    add("weights", nargs="*", help="caffemodel files, loaded one after the other")
    add("-o", "--output", required=True, metavar="NPZ", help="the recording")
    add("--phase", choices=("TEST", "TRAIN"), default="TEST", help="default: TEST")
    add("--level", type=int, metavar="N", help="the level that include and exclude rules ask for")
    add("--stage", action="append", default=[], metavar="NAME", help="a stage that rules ask for; repeat")
    add("--samples", type=int, default=1024, metavar="N", help="values recorded of each blob (default: 1024)")
    add("--full", action="store_true", help="record every value of every blob")
    add("--debug", action="store_true", help="give the traceback of an unexpected error")

    group = result.add_argument_group("inputs", "of the net; without any of these, random ones")
    add = group.add_argument
    add("--input", metavar="NPZ", help="an array for each input blob; the net is reshaped to theirs")
    add("--seed", type=int, metavar="N", help="random inputs: standard normal times 40; zeros for those of one axis")
    add("--input-shape", action="append", default=[], metavar="BLOB=N,C,H,W", help="for random inputs; repeat")
    add("--images", nargs="+", default=[], metavar="FILE", help="pictures, through caffe.io, as one batch")

    group = result.add_argument_group("pictures", "what caffe.io.Transformer does to them, in this order")
    add = group.add_argument
    add("--resize", metavar="H,W", help="to this size, of which the centre is taken (default: to the input's size)")
    add("--channel-swap", metavar="2,1,0", help="order of the channels (default: 2,1,0, which is BGR, if there are 3)")
    add("--raw-scale", type=float, default=255.0, metavar="X", help="times X; pictures start as 0 to 1 (default: 255)")
    add("--mean", metavar="MEAN", help="minus a number a channel (104,117,123), or a .npy or .binaryproto file")
    add("--input-scale", type=float, metavar="X", help="times X, after the mean")
    add("--image-blob", metavar="BLOB", help="which input they are for, where several would do")
    return result


def record(options):
    """Does it all; returns what to tell the user."""
    check_files(options)
    caffe = import_caffe()
    net = load_net(caffe, options)
    layers, blob_names, blobs = structure(caffe, net)
    refuse_unfed(layers)
    given, origin = make_inputs(caffe, options, [(blob_names[k], blobs[k]) for k in net._inputs])
    feed(net, given)
    arrays, entries, read, nans = run(net, layers, None if options.full else options.samples)
    inputs = list(given) + [(name, value) for name, value in read]
    for name, value in inputs:
        put(arrays, "in:" + name, value)
    outputs = [(blob_names[k], np.array(blobs[k].data, dtype=np.float32)) for k in net._outputs]
    for name, value in outputs:
        put(arrays, "final:" + name, value)
    meta = {
        "layers": entries,
        "inputs": [name for name, _ in inputs],
        "outputs": [name for name, _ in outputs],
        "recorder": {
            "version": VERSION,
            "caffe": str(getattr(caffe, "__version__", "")),
            "numpy": np.__version__,
            "python": platform.python_version(),
            "phase": options.phase,
            "level": options.level or 0,
            "stages": [text(stage) for stage in options.stage],
            "definition": described(options.prototxt),
            "weights": [described(path) for path in options.weights],
            "inputs": origin if not read else origin + ["read by data layers"],
        },
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta, sort_keys=True).encode("utf-8"), dtype=np.uint8)
    write(options.output, arrays)
    for key in nans[:5]:
        say("note: %s has NaN, with which nothing can agree" % key)
    return "\n".join(
        [
            "%s: %d tops of %d layers, %s" % (
                options.output,
                len(entries),
                len(set(entry["index"] for entry in entries)),
                "in full" if options.full else "at most %d values of each" % options.samples,
            ),
            "inputs: %s" % ", ".join("%s %s" % (name, dims(value.shape)) for name, value in inputs),
            "outputs: %s" % ", ".join("%s %s" % (name, dims(value.shape)) for name, value in outputs),
            "next, where caffe-port is: caffe-port record --check %s --net %s"
            % (os.path.basename(options.output), os.path.basename(options.prototxt)),
        ]
    )  # fmt: skip


def check_files(options):
    """Looks for what Caffe would end the process over."""
    for path in [options.prototxt] + options.weights + options.images + [p for p in [options.input] if p]:
        if not os.path.isfile(path):
            raise RecorderError("%s: %s" % (path, "a folder" if os.path.isdir(path) else "no such file"))
    folder = os.path.dirname(os.path.abspath(options.output))
    if not os.path.isdir(folder):
        raise RecorderError("%s: no such folder" % folder)
    if os.path.isdir(options.output):
        raise RecorderError("%s: a folder" % options.output)
    if options.samples < 1:
        raise RecorderError("--samples must be at least 1")


def import_caffe():
    # Caffe tells hundreds of lines for each net; warnings and errors stay.
    os.environ.setdefault("GLOG_minloglevel", "1")
    try:
        import caffe
    except ImportError as error:
        raise RecorderError(
            "cannot import caffe: %s (run this with the Python that Caffe was built for, with the folder python/ of "
            "Caffe in PYTHONPATH)" % error
        )
    missing = [name for name in ("Net", "set_mode_cpu") if not hasattr(caffe, name)]
    if missing:
        raise RecorderError(
            "the module caffe (%s) has no %s: it is not pycaffe, or one from before 2015"
            % (getattr(caffe, "__file__", "?"), " and no ".join(missing))
        )
    caffe.set_mode_cpu()
    return caffe


def load_net(caffe, options):
    phase = getattr(caffe, options.phase, {"TRAIN": 0, "TEST": 1}[options.phase])
    rules = {}
    if options.level is not None:
        rules["level"] = options.level
    if options.stage:
        rules["stages"] = options.stage
    try:
        net = caffe.Net(options.prototxt, phase, **rules)
    except TypeError as error:
        if not rules:
            raise
        raise RecorderError("this Caffe is too old for --level and --stage: %s" % str(error).strip().split("\n")[0])
    needed = ("copy_from", "_forward", "layers", "_layer_names", "_blob_names", "_blobs", "_inputs", "_outputs")
    missing = [name for name in needed if not hasattr(net, name)]
    if missing:
        raise RecorderError("this pycaffe is too old: its Net has no %s" % ", ".join(missing))
    if not options.weights and any(len(layer.blobs) for layer in net.layers):
        raise RecorderError("the net has layers that learned something: give their caffemodel, too")
    for path in options.weights:
        net.copy_from(path)
    return net


def structure(caffe, net):
    """Each layer's (name, type, [(top's name, its blob)]) as Caffe built them, and all blobs' names and blobs.

    By numbers, not names: layers may share a name, and so may blobs that nobody named.
    """
    names, blob_names, blobs = list(net._layer_names), list(net._blob_names), list(net._blobs)
    layers = list(net.layers)
    if hasattr(net, "_top_ids") and all(hasattr(layer, "type") for layer in layers):
        found = [
            (name, str(layer.type), [(blob_names[k], blobs[k]) for k in net._top_ids(i)])
            for i, (name, layer) in enumerate(zip(names, layers))
        ]
        return found, blob_names, blobs
    saved = saved_layers(net)
    if [layer.name for layer in saved] != [text(name) for name in names]:
        raise RecorderError("this pycaffe does not tell what layers write (Net._top_ids), nor does the net it saves")
    by_name = dict((text(name), (name, blob)) for name, blob in zip(blob_names, blobs))
    made = set(top for layer in saved for top in layer.top) | set(text(blob_names[k]) for k in net._inputs)
    unknown = [name for name in by_name if name not in made]
    if unknown or len(by_name) != len(blobs):
        raise RecorderError(
            "this pycaffe does not tell which layer writes blob %s; give every layer of the prototxt a top"
            % ", ".join(unknown or ["(automatic)"])
        )
    return [(n, str(s.type), [by_name[top] for top in s.top]) for n, s in zip(names, saved)], blob_names, blobs


def saved_layers(net):
    """The layers of the net as Caffe saves them: rules applied, Split layers in, old forms upgraded."""
    from caffe.proto import caffe_pb2

    handle, path = tempfile.mkstemp(suffix=".caffemodel")
    os.close(handle)
    try:
        net.save(path)
        message = caffe_pb2.NetParameter()
        with open(path, "rb") as stream:
            message.ParseFromString(stream.read())
    finally:
        os.remove(path)
    if not hasattr(message, "layer") or (len(message.layers) and not len(message.layer)):
        raise RecorderError("this Caffe is from before February 2015, when layers got the types of today")
    return list(message.layer)


def refuse_unfed(layers):
    names = [name for name, kind, _ in layers if kind in UNFED_TYPES]
    if names:
        raise RecorderError(
            "layer %s is a %s layer, which is given its data by a program; use a deploy prototxt, or an Input layer"
            % (", ".join(names), UNFED_TYPES[0])
        )


def make_inputs(caffe, options, blobs):
    """[(name, float32 array)] for each input of the net, in its order; and in words where they are from."""
    names = [name for name, _ in blobs]
    shapes = dict((name, tuple(int(dim) for dim in blob.data.shape)) for name, blob in blobs)
    for given in options.input_shape:
        name, _, wanted = given.partition("=")
        if name not in shapes:
            raise RecorderError("--input-shape %s: the net's inputs are %s" % (given, ", ".join(names) or "none"))
        shapes[name] = integers(wanted, "--input-shape " + given)
    values, origin = {}, []
    if options.input:
        values = read_inputs(options.input, names)
        origin.append("--input")
    if options.images:
        name = image_blob(options, [name for name in names if name not in values], shapes)
        values[name] = pictures(caffe, options, name, shapes[name])
        origin.append("--images")
    left = [name for name in names if name not in values]
    if left and options.seed is None and origin:
        raise RecorderError("no value for input %s: add it to --input, or give --seed" % ", ".join(left))
    if left:
        seed = options.seed or 0
        random = np.random.RandomState(seed)
        for name in left:
            shape = shapes[name]
            values[name] = random.randn(*shape) * 40 if len(shape) > 1 else np.zeros(shape)
        origin.append("--seed %d" % seed)
    result = [(name, np.array(values[name], dtype=np.float32, order="C")) for name in names]
    for name, value in result:
        if not np.isfinite(value).all():
            raise RecorderError("input %s has values that are not finite" % name)
    return result, origin


def read_inputs(path, names):
    try:
        loaded = np.load(path)
        values = dict((name, loaded[name]) for name in loaded.files)
    except Exception as error:
        raise RecorderError("%s: no npz file that can be read: %s" % (path, error))
    extra = [name for name in sorted(values) if name not in names]
    if extra:
        raise RecorderError("%s: %s: the net's inputs are %s" % (path, ", ".join(extra), ", ".join(names) or "none"))
    for name in values:
        if values[name].dtype.kind not in "biuf":
            raise RecorderError("%s: %s is no array of numbers" % (path, name))
    return values


def image_blob(options, names, shapes):
    if options.image_blob is not None:
        if options.image_blob not in names:
            raise RecorderError("--image-blob %s: choose of %s" % (options.image_blob, ", ".join(names) or "none"))
        names = [options.image_blob]
    fit = [name for name in names if len(shapes[name]) == 4]
    if len(fit) != 1:
        raise RecorderError(
            "--images needs an input of four axes; the net has %s%s"
            % (", ".join(fit) or "none", ": choose with --image-blob" if fit else "")
        )
    return fit[0]


def pictures(caffe, options, name, shape):
    """The pictures as a batch: float32, (number of pictures,) + shape[1:]."""
    import caffe.io

    shape = (len(options.images),) + shape[1:]
    channels, size = shape[1], shape[2:]
    transformer = caffe.io.Transformer({name: shape})
    transformer.set_transpose(name, (2, 0, 1))
    if options.channel_swap or channels == 3:
        order = integers(options.channel_swap or "2,1,0", "--channel-swap")
        if sorted(order) != list(range(channels)):
            raise RecorderError("--channel-swap needs each of the %d channels of %s once" % (channels, name))
        transformer.set_channel_swap(name, order)
    transformer.set_raw_scale(name, options.raw_scale)
    if options.mean:
        transformer.set_mean(name, mean_of(caffe, options.mean, shape[1:]))
    if options.input_scale is not None:
        transformer.set_input_scale(name, options.input_scale)
    resize = integers(options.resize, "--resize") if options.resize else None
    if resize is not None and (len(resize) != 2 or resize[0] < size[0] or resize[1] < size[1]):
        raise RecorderError("--resize needs height,width of at least the input's %d,%d" % size)
    batch = np.zeros(shape, np.float32)
    for i, path in enumerate(options.images):
        try:
            image = caffe.io.load_image(path, color=channels == 3)
        except Exception as error:
            raise RecorderError("%s: cannot be read as a picture: %s" % (path, error))
        if image.shape[2] != channels:
            raise RecorderError("%s: has %d channels, input %s %d" % (path, image.shape[2], name, channels))
        if resize is not None:
            # As caffe.Classifier does without oversampling.
            image = caffe.io.resize_image(image, resize)
            y, x = int(resize[0] / 2.0 - size[0] / 2.0), int(resize[1] / 2.0 - size[1] / 2.0)
            image = image[y : y + size[0], x : x + size[1]]
        batch[i] = transformer.preprocess(name, image)
    return batch


def mean_of(caffe, given, shape):
    """A number a channel, or an image of the input's shape (C, H, W)."""
    if given.endswith((".npy", ".binaryproto")):
        if not os.path.isfile(given):
            raise RecorderError("%s: no such file" % given)
        try:
            if given.endswith(".npy"):
                mean = np.load(given)
            else:
                from caffe.proto import caffe_pb2

                blob = caffe_pb2.BlobProto()
                with open(given, "rb") as stream:
                    blob.ParseFromString(stream.read())
                mean = caffe.io.blobproto_to_array(blob)
        except Exception as error:
            raise RecorderError("%s: no mean that can be read: %s" % (given, error))
    else:
        try:
            mean = np.array([float(number) for number in given.split(",")])
        except ValueError:
            raise RecorderError("--mean %s: neither numbers nor a .npy or .binaryproto file" % given)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim == 3 and mean.shape[0] == shape[0] and mean.shape != shape:
        numbers = ",".join("%.9g" % value for value in mean.mean(axis=2).mean(axis=1))
        raise RecorderError(
            "%s: is %s, the input %s; if your program took its mean a channel, give --mean=%s"
            % (given, dims(mean.shape), dims(shape), numbers)
        )
    if mean.shape not in (shape, shape[:1]):
        raise RecorderError("--mean %s: is %s, the input %s" % (given, dims(mean.shape), dims(shape)))
    return mean


def feed(net, inputs):
    """Puts values into the net's inputs, which take the values' shapes."""
    blobs = [net._blobs[k] for k in net._inputs]
    reshaped = False
    for blob, (name, value) in zip(blobs, inputs):
        if tuple(blob.data.shape) != value.shape:
            say("note: input %s is reshaped from %s to %s" % (name, dims(blob.data.shape), dims(value.shape)))
            blob.reshape(*[int(dim) for dim in value.shape])
            reshaped = True
    if reshaped:
        net.reshape()
    for blob, (_, value) in zip(blobs, inputs):
        blob.data[...] = value


def run(net, layers, limit):
    """One forward pass, layer by layer: arrays, entries for `meta`, what data layers read, and what has NaN."""
    arrays, entries, read, nans, size = {}, [], [], [], 0
    for i, (name, kind, tops) in enumerate(layers):
        net._forward(i, i)
        if kind in INPUT_TYPES + SPLIT_TYPES:
            continue
        if kind in DATA_TYPES:
            read += [(top, np.array(blob.data, dtype=np.float32, order="C")) for top, blob in tops]
            continue
        for top, blob in tops:
            data = np.asarray(blob.data)
            flat = data.reshape(-1)
            key = "%d:%s:%s" % (i, name, top)
            put(arrays, "sample:" + key, np.array(sample(flat, limit), dtype=np.float32))
            put(arrays, "stats:" + key, statistics(flat))
            size += arrays["sample:" + text(key)].nbytes
            refuse_too_large(size)
            shape = [int(dim) for dim in data.shape]
            entries.append({"index": i, "layer": text(name), "type": kind, "top": text(top), "shape": shape})
            if np.isnan(arrays["stats:" + text(key)]).any():
                nans.append(key)
    if not entries:
        raise RecorderError("the net has no layer that computes anything")
    return arrays, entries, read, nans


def sample(flat, limit):
    """At most `limit` evenly spaced values, by the rule of the format; all of them if it is None."""
    if limit is None or flat.size <= limit:
        return flat
    return flat[np.linspace(0, flat.size - 1, limit).astype(np.int64)]


def statistics(flat):
    """Minimum, maximum, mean and L2 norm over all values, in float64."""
    if not flat.size:
        return np.zeros(4)
    wide = flat.astype(np.float64)
    return np.array([wide.min(), wide.max(), wide.mean(), np.sqrt(np.dot(wide, wide))])


def put(arrays, key, value):
    key = text(key)
    if key in arrays:
        raise RecorderError("two blobs of the net are both %s: name their tops" % key.partition(":")[2])
    # What a zip file cannot hold, and what would lead out of the folder where somebody unpacks it.
    if "\0" in key or ".." in key.replace("\\", "/").split("/") or len(key.encode("utf-8")) > MAX_NAME:
        raise RecorderError("the name %s... cannot be that of an array: change it in the prototxt" % repr(key)[:80])
    arrays[key] = value


def refuse_too_large(size):
    if size > MAX_BYTES:
        raise RecorderError("that is more than 2 GiB, which caffe-port does not read: take fewer --samples, no --full")


def write(path, arrays):
    """Writes the npz file beside its place and moves it there, so that it appears complete or not at all."""
    refuse_too_large(sum(array.nbytes for array in arrays.values()))
    # Not np.savez: in Python 2 it cannot have names that are not ASCII.
    handle, temporary = tempfile.mkstemp(
        prefix="." + os.path.basename(path) + ".", suffix=".tmp", dir=os.path.dirname(os.path.abspath(path))
    )
    try:
        with os.fdopen(handle, "wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, True) as archive:
                for key in sorted(arrays):
                    buffer = io.BytesIO()
                    np.lib.format.write_array(buffer, np.asarray(arrays[key], order="C"), version=(1, 0))
                    # A fixed date: the same values give the same bytes.
                    member = zipfile.ZipInfo(key + ".npy", (1980, 1, 1, 0, 0, 0))
                    member.compress_type = zipfile.ZIP_DEFLATED
                    member.external_attr = 0o100644 << 16
                    archive.writestr(member, buffer.getvalue())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        getattr(os, "replace", os.rename)(temporary, path)
    except BaseException:
        os.remove(temporary)
        raise


def described(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return {"name": text(os.path.basename(path)), "sha256": digest.hexdigest()}


def integers(given, option):
    try:
        return tuple(int(number) for number in given.replace("x", ",").split(","))
    except ValueError:
        raise RecorderError("%s: numbers separated by commas are needed" % option)


def dims(shape):
    return "x".join(str(dim) for dim in shape) or "()"


def text(value):
    """A name as text; in Python 2 names of Caffe are bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else value


def printable(line):
    """The text with control characters, and marks that turn the direction of writing, written as their codes."""
    if isinstance(line, bytes):  # text of Python 2
        return re.sub(b"[\x00-\x08\x0b-\x1f\x7f]", b"?", line)
    codes = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
    return codes.sub(lambda match: "\\u%04x" % ord(match.group()), line)


def say(line):
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

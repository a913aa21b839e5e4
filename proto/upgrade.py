"""Turns every generation of NetParameter into today's, by the steps of Caffe and in its order.

V0 → V1 (`layers` that hold a `layer`), data transformation, V1 → V2 (`layers` → `layer`), input fields → an Input
layer, BatchNorm with three `param`. What Caffe gets wrong in silence is reported: a mixture of generations, inputs with
too few dims. Source: BVLC/caffe @ 9b89154, util/upgrade_proto.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import unknown_fields

from caffe_port.errors import GraphError, Location, Problem, Problems, PrototxtError
from caffe_port.proto import dialects, schema
from caffe_port.proto.blobs import BlobData
from caffe_port.proto.schema import Message
from caffe_port.proto.source_map import SourceMap

__all__ = ["SourcePath", "UpgradedNet", "upgrade_net", "upgrade_solver"]

SourcePath = tuple["str | int", ...]


@dataclass(slots=True)
class UpgradedNet:
    """A net in today's form.

    net: a NetParameter that has `layer` entries, and no `layers`, `input`, `input_shape` or `input_dim`.
    origin: parallel to net.layer, the path of each layer in the original message, for `SourceMap.location`:
        ("layer", i), ("layers", i), or ("input", 0) for the Input layer made of input fields.
    blobs: parallel to net.layer, the blobs given with the original layers; without any, empty lists.
    steps: which upgrades were applied, in order, in words; none for a net of today.
    warnings: what the original says and no upgrade can carry over. Caffe logs it and goes on.
    """

    net: Message
    origin: list[SourcePath]
    blobs: list[list[BlobData]]
    steps: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_CONV, _IP, _POOL = "convolution_param", "inner_product_param", "pooling_param"
_DATA, _HDF5, _IMAGES, _WINDOWS = "data_param", "hdf5_data_param", "image_data_param", "window_data_param"


def _same(field_name: str, *parameters: tuple[str, str]) -> dict[str, tuple[str, str]]:
    return {v0_type: (parameter, field_name) for v0_type, parameter in parameters}


# V0 field → V0 type → (parameter of the V1 layer, its field). The type "" stands for all types.
_V0_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": _same("num_output", ("conv", _CONV), ("innerproduct", _IP)),
    "biasterm": _same("bias_term", ("conv", _CONV), ("innerproduct", _IP)),
    "weight_filler": _same("weight_filler", ("conv", _CONV), ("innerproduct", _IP)),
    "bias_filler": _same("bias_filler", ("conv", _CONV), ("innerproduct", _IP)),
    "pad": _same("pad", ("conv", _CONV), ("pool", _POOL)),
    "kernelsize": _same("kernel_size", ("conv", _CONV), ("pool", _POOL)),
    "stride": _same("stride", ("conv", _CONV), ("pool", _POOL)),
    "group": _same("group", ("conv", _CONV)),
    "pool": _same("pool", ("pool", _POOL)),
    "dropout_ratio": _same("dropout_ratio", ("dropout", "dropout_param")),
    **{name: _same(name, ("lrn", "lrn_param")) for name in ("local_size", "alpha", "beta", "k")},
    "source": _same(
        "source",
        ("data", _DATA),
        ("hdf5_data", _HDF5),
        ("images", _IMAGES),
        ("window_data", _WINDOWS),
        ("infogain_loss", "infogain_loss_param"),
    ),
    "batchsize": _same(
        "batch_size", ("data", _DATA), ("hdf5_data", _HDF5), ("images", _IMAGES), ("window_data", _WINDOWS)
    ),
    "rand_skip": _same("rand_skip", ("data", _DATA), ("images", _IMAGES)),
    "shuffle_images": _same("shuffle", ("images", _IMAGES)),
    "new_height": _same("new_height", ("images", _IMAGES)),
    "new_width": _same("new_width", ("images", _IMAGES)),
    "scale": _same("scale", ("", "transform_param")),
    "meanfile": _same("mean_file", ("", "transform_param")),
    "cropsize": _same("crop_size", ("", "transform_param")),
    "mirror": _same("mirror", ("", "transform_param")),
    "concat_dim": _same("concat_dim", ("concat", "concat_param")),
    "det_fg_threshold": _same("fg_threshold", ("window_data", _WINDOWS)),
    "det_bg_threshold": _same("bg_threshold", ("window_data", _WINDOWS)),
    "det_fg_fraction": _same("fg_fraction", ("window_data", _WINDOWS)),
    "det_context_pad": _same("context_pad", ("window_data", _WINDOWS)),
    "det_crop_mode": _same("crop_mode", ("window_data", _WINDOWS)),
    "hdf5_output_param": {"hdf5_output": ("", "hdf5_output_param")},
}
_V0_COPIED = ("name", "blobs", "blobs_lr", "weight_decay")
_V0_IGNORED = ("type", "new_num", "new_channels")
_V0_BESIDE = (
    "include",
    "exclude",
    "loss_weight",
    "param",
    "blob_share_mode",
    "name",
    "type",
    "blobs_lr",
    "weight_decay",
)

_V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DECONVOLUTION": "Deconvolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

_DATA_LAYERS = {"DATA": _DATA, "IMAGE_DATA": _IMAGES, "WINDOW_DATA": _WINDOWS}
_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_V1_COPIED = ("bottom", "top", "name", "include", "exclude", "blobs", "loss_weight")
_V1_MERGED = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


def _assign(target: Any, name: str, value: Any) -> None:
    """Copies a value of any kind into a field; a single value is appended to a repeated one."""
    spec = target.DESCRIPTOR.fields_by_name[name]
    if schema.is_repeated(spec):
        many = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
        getattr(target, name).extend(many)
    elif spec.message_type is not None:
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)


def _enum_name(message: Any, name: str) -> str:
    spec = message.DESCRIPTOR.fields_by_name[name]
    return str(spec.enum_type.values_by_number[getattr(message, name)].name)


def _unknown(message: Any) -> list[tuple[int, Any]]:
    """The fields of a message that the schema does not know: their numbers and raw values."""
    found: Any = unknown_fields.UnknownFieldSet(message)
    return [(one.field_number, one.data) for one in found]


class _Upgrade:
    def __init__(self, net: Message, sources: SourceMap | None, blobs: list[list[BlobData]] | None) -> None:
        self.net = net
        self.sources = sources
        self.problems = Problems()
        self.warnings = Problems()
        self.steps: list[str] = []
        entries = "layers" if len(net.layers) else "layer"
        count = len(getattr(net, entries))
        if blobs is not None and len(blobs) != count:
            raise ValueError(f"blobs of {len(blobs)} layers are given with a net of {count}")
        self.origin: list[SourcePath] = [(entries, index) for index in range(count)]
        self.blobs = [list(own) for own in blobs] if blobs is not None else [[] for _ in range(count)]

    def at(self, path: SourcePath) -> Location | None:
        return self.sources.location(path) if self.sources is not None else None

    def bad(self, message: str, path: SourcePath, layer: str | None = None, hint: str = "") -> None:
        self.problems.add(PrototxtError, message, layer=layer, location=self.at(path), hint=hint)

    def warn(self, message: str, path: SourcePath, layer: str | None = None) -> None:
        self.warnings.add(PrototxtError, message, layer=layer, location=self.at(path))

    # V0

    def v0(self) -> None:
        net = self.net
        for index, entry in enumerate(net.layers):
            if not entry.HasField("layer"):
                name = entry.name or None
                self.bad("has no `layer` inside, as its neighbours do: V0 and V1 are mixed", ("layers", index), name)
        for name in ("state", "debug_info", "input_shape"):
            dropped = net.HasField(name) if name != "input_shape" else len(net.input_shape)
            if dropped:
                self.warn(f"{name!r} is dropped from a V0 net, as Caffe does", (name,))
        self.problems.raise_if_any()
        new = type(net)()
        for name in ("name", "force_backward"):
            if net.HasField(name):
                setattr(new, name, getattr(net, name))
        new.input.extend(net.input)
        new.input_dim.extend(net.input_dim)
        origin, blobs = [], []
        for index, entry in self.without_padding():
            path = self.origin[index]
            self.v0_layer(entry, new.layers.add(), path)
            origin.append(path)
            blobs.append(self.blobs[index])
        self.problems.raise_if_any()
        self.net, self.origin, self.blobs = new, origin, blobs
        self.steps.append("V0 to V1 layers")

    def without_padding(self) -> list[tuple[int, Any]]:
        """The layers with their index, padding layers merged into the convolution or pooling behind them."""
        layers = self.net.layers
        producer: dict[str, int] = dict.fromkeys(self.net.input, -1)
        kept: list[tuple[int, Any]] = []
        for index, original in enumerate(layers):
            inner = original.layer
            entry = type(original)()
            entry.CopyFrom(original)
            if inner.type != "padding":
                kept.append((index, entry))
            for position, blob in enumerate(original.bottom):
                found = producer.get(blob)
                path: SourcePath = ("layers", index, "bottom", position)
                if found is None:
                    self.problems.add(
                        GraphError,
                        f"bottom {blob!r} is no input of the net, nor a top of an earlier layer",
                        layer=inner.name,
                        location=self.at(path),
                    )
                    continue
                if found < 0 or layers[found].layer.type != "padding":
                    continue
                padding = layers[found]
                if inner.type not in ("conv", "pool"):
                    self.bad(f"of type {inner.type!r} takes a padding layer; only conv and pool may", path, inner.name)
                elif len(original.bottom) != 1:
                    self.bad("takes a padding layer and other bottoms", path, inner.name)
                elif len(padding.bottom) != 1 or len(padding.top) != 1:
                    message = "a padding layer needs one bottom and one top"
                    self.bad(message, ("layers", found), padding.layer.name)
                else:
                    entry.layer.pad = padding.layer.pad
                    entry.bottom[position] = padding.bottom[0]
            for blob in original.top:
                producer[blob] = index
        return kept

    def v0_layer(self, entry: Any, new: Any, path: SourcePath) -> None:
        old = entry.layer
        new.bottom.extend(entry.bottom)
        new.top.extend(entry.top)
        for name in _V0_BESIDE:
            spec = entry.DESCRIPTOR.fields_by_name[name]
            if len(getattr(entry, name)) if schema.is_repeated(spec) else entry.HasField(name):
                self.warn(f"{name!r} beside a V0 layer is ignored, as by Caffe", (*path, name), old.name)
        v0_type = old.type
        if old.HasField("type"):
            v1_type = _V0_TYPES.get(v0_type)
            if v1_type is None:
                hint = f"V0 knows {', '.join(sorted(_V0_TYPES))} and padding"
                self.bad(f"unknown V0 layer type {v0_type!r}", (*path, "layer", "type"), old.name, hint)
                return
            new.type = new.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_name[v1_type].number
        for spec, value in old.ListFields():
            name = spec.name
            if name in _V0_IGNORED:
                continue
            if name in _V0_COPIED:
                _assign(new, name, value)
                continue
            places = _V0_FIELDS.get(name, {})
            place = places.get(v0_type) or places.get("")
            if place is None:
                message = f"{name!r} means nothing to the V0 type {v0_type!r}; it is ignored, as by Caffe"
                self.warn(message, (*path, "layer", name), old.name)
                continue
            parameter, target = place
            _assign(getattr(new, parameter) if parameter else new, target, value)

    # V1

    def data_transformation(self) -> None:
        found = []
        needed = False
        for layer in self.net.layers:
            parameter = _DATA_LAYERS.get(_enum_name(layer, "type"))
            if parameter is not None:
                found.append((layer, parameter))
                needed = needed or any(getattr(layer, parameter).HasField(name) for name in _TRANSFORM_FIELDS)
        if not needed:
            return
        self.fresh()
        for layer in self.net.layers:
            parameter = _DATA_LAYERS.get(_enum_name(layer, "type"))
            if parameter is None:
                continue
            old, new = getattr(layer, parameter), layer.transform_param
            # Caffe leaves both messages present, even empty.
            old.SetInParent()
            new.SetInParent()
            for name in _TRANSFORM_FIELDS:
                if old.HasField(name):
                    setattr(new, name, getattr(old, name))
                    old.ClearField(name)
        self.steps.append("data transformation parameters")

    def fresh(self) -> None:
        """Puts a copy in the place of the net that was given, which stays as it is."""
        copy = type(self.net)()
        copy.CopyFrom(self.net)
        self.net = copy

    def v1(self) -> None:
        old = self.net
        self.fresh()
        new = self.net
        new.ClearField("layers")
        for layer, path in zip(old.layers, self.origin, strict=True):
            self.v1_layer(layer, new.layer.add(), path)
        self.problems.raise_if_any()
        self.steps.append("V1 to V2 layers")

    def v1_layer(self, old: Any, new: Any, path: SourcePath) -> None:
        unknown = _unknown(old)
        if old.HasField("type"):
            name = _enum_name(old, "type")
            # A fork's type whose V2 name is not known keeps its V1 name.
            new.type = _V1_TYPES.get(name) or dialects.v2_type(name)
        else:
            # A closed enum: protobuf puts a number that it does not know aside.
            types = [value for number, value in unknown if number == 5]
            if types:
                message = f"layer type {types[-1]} is a fork's; upstream's V1 layers have no such type"
                self.bad(message, (*path, "type"), old.name)
        if unknown:
            numbers = ", ".join(map(str, sorted({number for number, _ in unknown})))
            self.warn(f"unknown fields {numbers}, maybe a fork's, are dropped", path, old.name)
        for spec, value in old.ListFields():
            name = spec.name
            if name in _V1_COPIED or name.endswith("_param") or spec.number >= dialects.FIRST_NUMBER:
                _assign(new, name, value)
            elif name in _V1_MERGED:
                for index, one in enumerate(value):
                    if len(new.param) <= index:
                        new.param.add()
                    setattr(new.param[index], _V1_MERGED[name], one)

    # V2

    def inputs(self) -> None:
        net = self.net
        names, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
        new = type(net)()
        if shapes or dims:
            layer = new.layer.add()
            layer.name, layer.type = "input", "Input"
            layer.top.extend(names)
            there, needed, field_name = len(shapes), len(names), "input_shape"
            if not shapes:
                there, needed, field_name = len(dims), 4 * len(names), "input_dim"
            if there < needed:
                message = f"{len(names)} `input` need {needed} `{field_name}`, found {there}"
                self.bad(message, (field_name, there - 1))
                self.problems.raise_if_any()
            elif there > needed:
                message = f"{len(names)} `input` need {needed} `{field_name}`, found {there}; the rest is ignored"
                self.warn(message, (field_name, needed))
            for index in range(len(names)):
                shape = layer.input_param.shape.add()
                if shapes:
                    shape.CopyFrom(shapes[index])
                else:
                    shape.dim.extend(dims[4 * index : 4 * index + 4])
            self.origin.insert(0, ("input", 0))
            self.blobs.insert(0, [])
            self.steps.append("input fields to an Input layer")
        else:
            self.steps.append("inputs without dims removed")
        new.MergeFrom(net)
        for name in ("input", "input_shape", "input_dim"):
            new.ClearField(name)
        self.net = new

    def batch_norm(self) -> None:
        def needs(layer: Any) -> bool:
            return layer.type == "BatchNorm" and len(layer.param) == 3

        if not any(map(needs, self.net.layer)):
            return
        self.fresh()
        for layer in filter(needs, self.net.layer):
            for param in layer.param:
                param.lr_mult = 0
                param.decay_mult = 0
        self.steps.append("BatchNorm parameters fixed")

    def run(self) -> UpgradedNet:
        if len(self.net.layer) and len(self.net.layers):
            hint = "keep one of the two spellings"
            self.bad("the net has both `layer` (V2) and `layers` (V1) entries", ("layers", 0), hint=hint)
            self.problems.raise_if_any()
        if any(entry.HasField("layer") for entry in self.net.layers):
            self.v0()
        if len(self.net.layers):
            self.data_transformation()
            self.v1()
        if len(self.net.input):
            self.inputs()
        self.batch_norm()
        return UpgradedNet(self.net, self.origin, self.blobs, self.steps, self.warnings.found)


def upgrade_net(
    net: Message, sources: SourceMap | None = None, blobs: list[list[BlobData]] | None = None
) -> UpgradedNet:
    """Upgrades a NetParameter of any generation to V2; the given one stays as it is, and a V2 one is returned itself.

    sources: where the fields of `net` stand, for the errors; None for a binary model.
    blobs: the learned blobs, parallel to net.layers, or to net.layer in a V2 net (`WeightFile.blobs`).
    Raises: PrototxtError (GraphError for an unknown bottom in a V0 net) with all problems of the step that found any;
    ValueError where `blobs` is not parallel.
    """
    return _Upgrade(net, sources, blobs).run()


def upgrade_solver(solver: Message, sources: SourceMap | None = None) -> Message:
    """A SolverParameter with the old enum `solver_type` turned into the string `type`; the given one stays as it is.

    Raises: PrototxtError where both are given.
    """
    if not solver.HasField("solver_type"):
        return solver
    problems = Problems()
    if solver.HasField("type"):
        location = sources.location(("solver_type",)) if sources is not None else None
        problems.add(PrototxtError, "the solver has both `type` and the old `solver_type`", location=location)
    problems.raise_if_any()
    new = type(solver)()
    new.CopyFrom(solver)
    new.type = _SOLVER_TYPES[_enum_name(solver, "solver_type")]
    new.ClearField("solver_type")
    return new

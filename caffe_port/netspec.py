"""Nets written in Python, with the names and the meaning of pycaffe's `net_spec`.

    from caffe_port.netspec import NetSpec, layers as L, params as P

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 8, 8]))
    n.conv1 = L.Convolution(n.data, num_output=4, kernel_size=3)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    print(n.to_proto())

Source: BVLC/caffe @ 9b89154, python/caffe/net_spec.py. Stricter than that: layer types and values that nobody knows are
refused, all wrong parameters of a net at once; and an in-place layer has as many tops as it was asked for.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from caffe_port.errors import GraphError, Problems, UnsupportedLayer, UnsupportedParameter
from caffe_port.proto import dialects, schema
from caffe_port.proto.schema import Message

__all__ = [
    "Function",
    "Layers",
    "NetSpec",
    "NotATop",
    "Parameters",
    "Top",
    "UnknownLayerType",
    "UnknownParameter",
    "assign_proto",
    "layers",
    "param_name_dict",
    "params",
    "to_proto",
]


class NotATop(GraphError, TypeError):
    """What was given where a Top belongs."""


class UnknownLayerType(UnsupportedLayer, AttributeError):
    """A layer type that neither Caffe nor a known fork has."""


class UnknownParameter(UnsupportedParameter, AttributeError):
    """A field, a message or the value of an enum that the schema does not have."""


class Top:
    """One output of a layer: number `n` of the tops of `fn`."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Message:
        """A NetParameter of the layers this top needs, with automatic names."""
        return to_proto(self)


class Function:
    """A layer: its type, the tops it reads, and its parameters as `layers` takes them.

    The type is not checked here, unlike in `layers`: this is how a type that nobody knows is written.
    Raises: NotATop for an input that is none.
    """

    def __init__(self, type_name: str, inputs: Iterable[Top], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.inputs = tuple(inputs)
        for index, given in enumerate(self.inputs):
            if not isinstance(given, Top):
                raise NotATop(f"{type_name} input {index} is not a Top (type is {type(given)})")
        self.params = dict(params)
        self.ntop = int(self.params.pop("ntop", 1))
        self.in_place = bool(self.params.pop("in_place", False))
        if self.in_place and self.ntop > len(self.inputs):
            raise GraphError(f"{type_name} in place: {self.ntop} tops of {len(self.inputs)} bottoms")
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class Layers:
    """Makes layers: `layers.Convolution(bottom, …, num_output=8)` gives its Top; a tuple of Tops for `ntop` of two or
    more, and the Function itself for `ntop=0`.

    Positional arguments are the tops it reads. Of the others, `ntop` and `in_place` are for the net; a name that ends
    in `param` is a field of LayerParameter; any other is a field of the message that belongs to the type, if it has
    it, else of LayerParameter (`name`, `include`, `loss_weight`). The name of a type that shares another's message
    (Deconvolution) has none: it takes `convolution_param=dict(…)`.
    Raises: UnknownLayerType, NotATop, PluginError.
    """

    def __getattr__(self, name: str) -> Callable[..., Any]:
        _require_known(name)

        def layer(*inputs: Top, **params: Any) -> Any:
            function = Function(name, inputs, params)
            return function if function.ntop == 0 else function.tops[0] if function.ntop == 1 else function.tops

        return layer


class Parameters:
    """The values of enums: `params.Pooling.MAX` is MAX of PoolingParameter, as a number. Raises: UnknownParameter."""

    def __getattr__(self, name: str) -> _Values:
        if name.startswith("__"):
            raise AttributeError(name)
        messages = dialects.union_descriptor("NetParameter").file.message_types_by_name
        if f"{name}Parameter" not in messages:
            raise UnknownParameter(f"there is no message {name}Parameter")
        # The union holds an enum that a fork added in a message of its own.
        holders = [messages[held] for held in messages if held.startswith(f"Enum_{name}Parameter_")]
        enums = [enum for message in (messages[f"{name}Parameter"], *holders) for enum in message.enum_types]
        return _Values(name, {value.name: value.number for enum in enums for value in enum.values})


class _Values:
    def __init__(self, name: str, values: Mapping[str, int]) -> None:
        self._name = name
        self._values = values

    def __getattr__(self, name: str) -> int:
        if name.startswith("__") or name not in self._values:
            told = f"{self._name}Parameter has no value {name!r}"
            raise UnknownParameter(f"{told}; it has {', '.join(self._values)}" if self._values else told)
        return self._values[name]


class NetSpec:
    """A net: tops and layers under the names they are assigned to, as attributes or as items, in that order.

    A layer has the name of its first top, unless it was given `name=`; what has no name is called after its type
    (`ReLU1`). The top of an in-place layer keeps the name of its bottom. `tops` is the dict of all.
    Raises: NotATop where something else is assigned; AttributeError or KeyError for a name that is not there.
    """

    tops: dict[str, Top | Function]

    def __init__(self) -> None:
        object.__setattr__(self, "tops", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, (Top, Function)):
            raise NotATop(f"{name!r} is assigned {type(value)}, which is not a Top or a layer without tops")
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name == "tops" or name not in self.tops:
            raise AttributeError(f"nothing is called {name!r} in this net")
        return self.tops[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def to_proto(self) -> Message:
        """A NetParameter of all that was assigned and what it needs.

        It is of the upstream schema, of the union of `caffe_port.proto.dialects` only where a fork's field is used.
        `str()` of it, or `caffe_port.proto.text.dumps`, is its prototxt.
        Raises: UnsupportedParameter (UnknownParameter for a name) with every parameter that does not fit.
        """
        return _net(self.tops.values(), {what: name for name, what in self.tops.items()})


layers = Layers()
params = Parameters()


def to_proto(*tops: Top | Function) -> Message:
    """A NetParameter of all layers that the tops need, with automatic names. Raises: as `NetSpec.to_proto`."""
    return _net(tops, {})


def param_name_dict() -> dict[str, str]:
    """The field of LayerParameter for each layer type that has a message of its own, less `_param`: Convolution →
    convolution, InnerProduct → inner_product, and those of forks."""
    return _param_names(dialects.union_descriptor("LayerParameter")) | _param_names(schema.descriptor("LayerParameter"))


def assign_proto(proto: Any, name: str, val: Any) -> None:
    """Sets field `name` of a message: a dict to a message, a list or tuple to a repeated field (one value alone is a
    list of one), the name of an enum's value or its number, anything else as it is.

    Raises: UnknownParameter for a field that is not there, UnsupportedParameter for a value that does not fit.
    """
    field = proto.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        near = difflib.get_close_matches(name, proto.DESCRIPTOR.fields_by_name, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownParameter(f"{proto.DESCRIPTOR.name} has no field {name!r}{hint}")
    if schema.is_repeated(field):
        values = getattr(proto, name)
        for one in val if isinstance(val, (list, tuple)) else [val]:
            if field.message_type is None:
                _set(proto, field, one, values.append)
            else:
                _fill(values.add(), name, one)
    elif field.message_type is not None:
        message = getattr(proto, name)
        message.SetInParent()
        _fill(message, name, val)
    else:
        _set(proto, field, val, lambda value: setattr(proto, name, value))


def _fill(message: Any, name: str, val: Any) -> None:
    if not isinstance(val, Mapping):
        raise UnsupportedParameter(f"{name} is a {message.DESCRIPTOR.name}, written as a dict, not as {val!r}")
    for key, value in val.items():
        assign_proto(message, key, value)


def _set(proto: Any, field: Any, val: Any, setter: Callable[[Any], None]) -> None:
    if field.enum_type is not None and isinstance(val, str):
        known = field.enum_type.values_by_name
        if val not in known:
            raise UnsupportedParameter(
                f"{field.name} of {proto.DESCRIPTOR.name} is one of {', '.join(known)}, not {val!r}"
            )
        val = known[val].number
    try:
        setter(val)
    except (TypeError, ValueError, UnicodeError) as error:
        raise UnsupportedParameter(f"{field.name} of {proto.DESCRIPTOR.name} cannot be {val!r}: {error}") from None


def _param_names(descriptor: Any) -> dict[str, str]:
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in descriptor.fields
        if field.name.endswith("_param") and field.message_type is not None
    }


def _require_known(name: str) -> None:
    """Raises UnknownLayerType unless the registry or a fork's schema has the type."""
    from caffe_port import registry

    if name.startswith("__"):
        raise AttributeError(name)
    # The schemas of forks list their V1 types too, which are no types in today's form: DENSE_CRF.
    if registry.find_layer(name) is None and ("_" in name or not dialects.forks_of_type(name)):
        near = registry.nearest_types(name)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownLayerType(f"layer type {name!r} is neither Caffe's nor of a known fork{hint}")


def _home(layer: Any, own: str | None, key: str) -> Any:
    """The message that a parameter belongs to: that of the layer's type, if it has one with this field, or the layer.

    `own`: the field of that message, less `_param`.
    """
    fields = layer.DESCRIPTOR.fields_by_name
    if key.endswith("param") or (own is None and key in fields):
        return layer
    if own is None:
        shared = f"{layer.type} has no message of its own: write SHARED_param=dict({key}=…), with the message it shares"
        raise UnknownParameter(f"LayerParameter has no field {key!r}; {shared}")
    inner = fields[f"{own}_param"].message_type.fields_by_name
    # What neither has is told of the inner message, whose fields are meant as a rule.
    return layer if key in fields and key not in inner else getattr(layer, f"{own}_param")


def _in_order(wanted: Iterable[Top | Function]) -> list[Function]:
    """Every layer that is needed, once, each behind those it reads: depth first, as pycaffe writes them."""
    done: dict[Function, None] = {}
    for what in wanted:
        stack = [what.fn if isinstance(what, Top) else what]
        while stack:
            missing = next((top.fn for top in stack[-1].inputs if top.fn not in done), None)
            if missing is None:
                done[stack.pop()] = None
            else:
                stack.append(missing)
    return list(done)


def _net(wanted: Iterable[Top | Function], given: Mapping[Top | Function, str]) -> Message:
    functions = _in_order(wanted)
    problems = Problems()
    net = _written(schema.message("NetParameter"), functions, given, problems)
    if problems:
        # Maybe with a fork's fields. Upstream comes first, so that what upstream can say is a message of upstream.
        problems = Problems()
        net = _written(dialects.union_message("NetParameter"), functions, given, problems)
    problems.raise_if_any()
    return net


def _written(
    net: Message, functions: Iterable[Function], given: Mapping[Top | Function, str], problems: Problems
) -> Message:
    """Adds the layers to `net`; what does not fit is added to the problems."""
    names = dict(given)
    counts: Counter[str] = Counter()
    own = _param_names(net.DESCRIPTOR.fields_by_name["layer"].message_type)

    def name_of(what: Top | Function, type_name: str) -> str:
        if what not in names:
            counts[type_name] += 1
            names[what] = f"{type_name}{counts[type_name]}"
        return names[what]

    written: dict[Function, Any] = {}
    for function in functions:
        layer = written[function] = net.layer.add()
        layer.type = function.type_name
        layer.bottom.extend(written[top.fn].top[top.n] for top in function.inputs)
        if function.in_place:
            layer.top.extend(layer.bottom[: function.ntop])
        else:
            layer.top.extend(name_of(top, function.type_name) for top in function.tops)
        named = function if function in names or not function.tops else function.tops[0]
        layer.name = name_of(named, function.type_name)
        for key, value in function.params.items():
            try:
                assign_proto(_home(layer, own.get(function.type_name), key), key, value)
            except UnsupportedParameter as error:
                problems.add(type(error), str(error), layer=layer.name)
    return net

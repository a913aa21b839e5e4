"""What forks of Caffe added to its schema, as one overlay over the upstream messages.

Forks give one field number to different things, so no schema reads the binary models of all. Text has no numbers: the
*union* here has the fields of upstream and of every fork by name, with numbers of our own that stand in no file. Which
forks a net is written for is then told by the fields it uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cache
from pathlib import Path
from typing import Any, cast

from google.protobuf import descriptor_pb2, message_factory, unknown_fields
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from caffe_port.errors import UnsupportedParameter
from caffe_port.proto import schema
from caffe_port.proto.schema import PACKAGE, Message

__all__ = [
    "FIRST_NUMBER",
    "Dialect",
    "Meaning",
    "Speech",
    "detect",
    "find_dialect",
    "foreign_fields",
    "fork_paths",
    "forks_of",
    "forks_of_number",
    "forks_of_type",
    "is_union",
    "meaning",
    "named",
    "speaking",
    "union_descriptor",
    "union_message",
    "v2_type",
]

FIRST_NUMBER = 30000
"""Fields and enum values from here on are a fork's. The numbers are invented: nothing is ever written with them."""

_MOST_NAMED = 3

_V2_TYPES = {
    "CLIP": "Clip",
    "DEPTHWISECONVOLUTION": "DepthwiseConvolution",
    "DETECTIONOUTPUT": "DetectionOutput",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INTERP": "Interp",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "NORMALIZE": "Normalize",
    "PADDING": "Padding",
    "PRIORBOX": "PriorBox",
    "RELU6": "ReLU6",
    "ROIPOOLING": "ROIPooling",
    "UNPOOLING": "Unpooling",
}
"""The V1 names of forks' layer types of which the V2 name is known: the fork's own, or that of the fork it became."""

_P = descriptor_pb2.FieldDescriptorProto


@dataclass(frozen=True, slots=True)
class Dialect:
    """A fork of Caffe, or a tool that reads several, and what in a net told so, e.g. `pooling_param.ceil_mode`."""

    name: str
    repository: str
    tells: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.tells)}" if self.tells else self.name


@cache
def _overlay() -> Any:
    return json.loads(Path(__file__).with_name("dialects.json").read_text(encoding="utf-8"))


def _place_of_enums(file: Any) -> dict[str, Any]:
    enums = {enum.name: enum for enum in file.enum_type}
    for message in file.message_type:
        enums.update({f"{message.name}.{enum.name}": enum for enum in message.enum_type})
    return enums


def _union_file() -> Any:
    """The upstream file descriptor with everything from the overlay added."""
    file = descriptor_pb2.FileDescriptorProto()
    file.CopyFrom(schema.file_set().file[0])
    overlay = _overlay()
    messages = {message.name: message for message in file.message_type}
    enums = _place_of_enums(file)
    full_names = {name: f".{PACKAGE}.{name}" for name in enums}
    for name, values in overlay["enums"].items():
        enum = enums.get(name)
        if enum is None:
            # In a message of its own, since protobuf wants the names of values unique in what an enum stands in.
            holder = file.message_type.add(name=f"Enum_{name.replace('.', '_')}")
            enum = holder.enum_type.add(name="Values")
            full_names[name] = f".{PACKAGE}.{holder.name}.Values"
        for number, (value, (written, _)) in enumerate(values.items(), FIRST_NUMBER):
            enum.value.add(name=value, number=number if written is None else written)
    for name in overlay["messages"]:
        if name not in messages:
            messages[name] = file.message_type.add(name=name.replace(".", "_"))
    for name, fields in overlay["messages"].items():
        for number, (field_name, (label, kind, default, _)) in enumerate(fields.items(), FIRST_NUMBER):
            field = messages[name].field.add(name=field_name, number=number)
            field.label = _P.LABEL_REPEATED if label == "repeated" else _P.LABEL_OPTIONAL
            if kind in full_names:
                field.type, field.type_name = _P.TYPE_ENUM, full_names[kind]
            elif kind in messages:
                field.type, field.type_name = _P.TYPE_MESSAGE, f".{PACKAGE}.{messages[kind].name}"
            else:
                field.type = _P.Type.Value(f"TYPE_{kind.upper()}")
            if default is not None:
                field.default_value = str(default).lower() if isinstance(default, bool) else str(default)
    return file


@cache
def _union_pool() -> DescriptorPool:
    pool = DescriptorPool()
    pool.AddSerializedFile(_union_file().SerializeToString())
    return pool


@cache
def union_descriptor(name: str) -> Descriptor:
    """The descriptor of a message type such as "NetParameter" in the union. Raises: KeyError for an unknown name."""
    return _union_pool().FindMessageTypeByName(f"{PACKAGE}.{name}")


def union_message(name: str) -> Message:
    """A new, empty message of the union. Raises: KeyError for an unknown name."""
    return cast("type[Message]", message_factory.GetMessageClass(union_descriptor(name)))()


def is_union(message: Any) -> bool:
    """Whether a message is of the union and not of the upstream schema."""
    return message.DESCRIPTOR.file.pool is not schema.pool()


# Who has what


@cache
def _dialects() -> tuple[Dialect, ...]:
    return tuple(Dialect(one["name"], one["repository"]) for one in _overlay()["dialects"])


def named(indices: Sequence[int]) -> str:
    """Forks in words: the first three, and how many more."""
    names = [_dialects()[index].name for index in indices]
    more = len(names) - _MOST_NAMED
    return " / ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _of_field(message: str, field: str) -> list[int]:
    entry = _overlay()["messages"].get(message, {}).get(field)
    return sorted({index for own in entry[3].values() for index in own}) if entry else []


def _of_value(field: FieldDescriptor, number: int) -> tuple[str, list[int]]:
    """The name of an enum's value, and the forks that have it, if it is not upstream's (the enum itself always is)."""
    enum = cast("Any", field.enum_type)
    name = enum.values_by_number[number].name
    if number < FIRST_NUMBER:
        return name, []
    holder = enum.containing_type
    own = f"{holder.name}.{enum.name}" if holder is not None else enum.name
    return name, _overlay()["enums"][own][name][1]


_Tell = tuple[str, list[int]]


def _walk(message: Any, path: str, deep: bool = False) -> Iterator[_Tell]:
    """The path of everything in a message that is a fork's alone, and the forks that have it.

    `deep`: what is in a field that is a fork's too.
    """
    for field, value in message.ListFields():
        repeated = schema.is_repeated(field)
        here = f"{path}{field.name}"
        if field.number >= FIRST_NUMBER:
            yield here, _of_field(message.DESCRIPTOR.name, field.name)
            if not deep:
                continue
        for index, one in enumerate(value if repeated else (value,)):
            if field.message_type is not None:
                yield from _walk(one, f"{here}[{index}]." if repeated else f"{here}.", deep)
            elif field.enum_type is not None and field.number < FIRST_NUMBER:
                name, forks = _of_value(field, one)
                if forks:
                    yield f"{here}: {name}", forks


def fork_paths(message: Any) -> dict[str, str]:
    """What a message has that is a fork's and not upstream's: `pooling_param.ceil_mode` → the forks in words.

    Of a field that is a fork's only the field itself is told, not what is in it.
    """
    return {path: named(forks) for path, forks in _walk(message, "")} if is_union(message) else {}


def forks_of(message: str, field: str) -> str:
    """The forks, in words, that add a field to a message; "" if none does."""
    return named(_of_field(message, field))


def forks_of_type(layer_type: str) -> str:
    """The forks, in words, that have a layer type, as far as their schemas tell; "" where they do not.

    A schema lists only V1 types, but a fork that has `PriorBoxParameter` has a layer PriorBox.
    """
    overlay = _overlay()
    values = overlay["enums"]["V1LayerParameter.LayerType"].get(layer_type)
    if values:
        return named(values[1])
    upstream = schema.message_names()
    for name in (f"{layer_type}Parameter", f"{layer_type.removesuffix('Layer')}Parameter"):
        if name in overlay["messages"] and name not in upstream:
            fields = overlay["messages"].values()
            users = {i for own in fields for e in own.values() if e[1] == name for used in e[3].values() for i in used}
            return named(sorted(users))
    return ""


def forks_of_number(message: str, number: int) -> list[str]:
    """What a field number of a message means to forks, where it is not what it is upstream: `norm_param (SSD …)`."""
    overlay = _overlay()
    found = {name: entry[3] for name, entry in overlay["messages"].get(message, {}).items()}
    found |= overlay["renumbered"].get(message, {})
    return [f"{name} ({named(own[str(number)])})" for name, own in sorted(found.items()) if str(number) in own]


def foreign_fields(message: Any, path: str = "") -> Iterator[tuple[str, str, int]]:
    """The fields of a message from a binary file that upstream's schema does not know: (path of the message, its type,
    number of the field)."""
    for one in cast("Any", unknown_fields.UnknownFieldSet(message)):
        yield path, message.DESCRIPTOR.name, one.field_number
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if schema.is_repeated(field) else (value,):
                yield from foreign_fields(inner, f"{path}.{field.name}" if path else field.name)


def detect(message: Any) -> tuple[Dialect, ...]:
    """The dialects a message is written in, each with the fields that told so; none for what upstream reads.

    As few as have everything the message uses: first the one that has most of it, and among equals the one that adds
    least to upstream (they are stored in that order, tools last). So what is common to several forks names but one of
    them, most likely where it comes from.
    """
    if not is_union(message):
        return ()
    left: dict[str, set[int]] = {}
    for path, forks in _walk(message, ""):
        left.setdefault(_short(path), set()).update(forks)
    chosen: list[Dialect] = []
    count = len(_dialects())
    while left:
        best = max(range(count), key=lambda index: (sum(index in forks for forks in left.values()), -index))
        told = tuple(path for path, forks in left.items() if best in forks)
        if not told:
            break
        chosen.append(Dialect(_dialects()[best].name, _dialects()[best].repository, told))
        left = {path: forks for path, forks in left.items() if path not in told}
    return tuple(chosen)


def _short(path: str) -> str:
    """A path without the layer it is in: layer[3].pooling_param.ceil_mode → pooling_param.ceil_mode."""
    head, dot, rest = path.partition(".")
    return rest if dot and head.partition("[")[0] in ("layer", "layers") else path


def v2_type(v1_type: str) -> str:
    """The V2 name of a fork's V1 layer type (`INTERP` → `Interp`); the name itself where none is known."""
    return _V2_TYPES.get(v1_type, v1_type)


# Where forks mean different things by the same words


@dataclass(frozen=True, slots=True)
class Meaning:
    """What some forks understand by something that others understand otherwise: in words, and by repository who."""

    says: str
    repositories: tuple[str, ...]


@dataclass(slots=True)
class Speech:
    """What a net is read in: the dialects its fields tell, or first the one that was asked for.

    `tells` has the repositories of the forks that have each field or value of the net that is not upstream's; `notes`
    is what was decided.
    """

    dialects: tuple[Dialect, ...] = ()
    asked: bool = False
    tells: tuple[frozenset[str], ...] = ()
    notes: dict[str, None] = dataclass_field(default_factory=dict)

    def says(self, own: Meaning) -> int:
        """How much of what the net tells is of one fork that means this."""
        return max(sum(one in tell for tell in self.tells) for one in own.repositories)


_speech: ContextVar[Speech | None] = ContextVar("dialects", default=None)


def find_dialect(name: str) -> Dialect:
    """The dialect of a name, a repository, or a part of either that only one has.

    Raises: UnsupportedParameter with those that would do, or all of them.
    """
    wanted = name.casefold()
    both = [(dialect, (dialect.name.casefold(), dialect.repository.casefold())) for dialect in _dialects()]
    exact = [dialect for dialect, names in both if wanted in names]
    found = exact or [dialect for dialect, names in both if any(wanted in one for one in names)]
    if len(found) == 1:
        return found[0]
    ones = found or _dialects()
    many = "is part of several names" if found else "is none that is known"
    known = "; ".join(f"{one.name} = {one.repository}" for one in ones)
    raise UnsupportedParameter(f"dialect {name!r} {many}: {known}")


@contextmanager
def speaking(message: Any, asked: str | None = None) -> Iterator[Speech]:
    """Lets layers that are read in the block know what the net's fields tell, and the dialect that was asked for.

    Raises: UnsupportedParameter for a dialect that is not known.
    """
    found = detect(message)
    tells = {_short(path): forks for path, forks in _walk(message, "", deep=True)} if is_union(message) else {}
    repositories = [frozenset(_dialects()[index].repository for index in forks) for forks in tells.values()]
    speech = Speech(found, tells=tuple(repositories))
    if asked is not None:
        chosen = find_dialect(asked)
        others = tuple(one for one in found if one.repository != chosen.repository)
        speech.dialects = (Dialect(chosen.name, chosen.repository, ("asked for",)), *others)
        speech.asked = True
    token = _speech.set(speech)
    try:
        yield speech
    finally:
        _speech.reset(token)


def meaning(what: str, meanings: Mapping[str, Meaning], default: str | None = None) -> str:
    """Which of several meanings `what` has in the net that is being read: a key of `meanings`.

    The dialect asked for decides, else what most of the net's fields tell, else `default`. Unless it was asked for,
    what was decided is noted, with the other meanings. Raises: UnsupportedParameter where nothing decides.
    """
    speech = _speech.get() or Speech()
    each = {key: f"{own.says} ({own.repositories[0]})" for key, own in meanings.items()}
    if speech.asked:
        wanted = speech.dialects[0].repository
        for key, own in meanings.items():
            if wanted in own.repositories:
                return key
    strength = {key: speech.says(own) for key, own in meanings.items()}
    strongest = [key for key, value in strength.items() if value == max(strength.values())]
    chosen = strongest[0] if len(strongest) == 1 else default
    if chosen is None:
        raise UnsupportedParameter(
            f"{what} means different things to forks: {'; or '.join(each.values())}. Nothing in the net tells which; "
            "say so: --dialect REPOSITORY (dialect=)"
        )
    others = "; ".join(text for key, text in each.items() if key != chosen)
    note = f"{what} is read as {each[chosen]}; another fork reads it otherwise: {others}. --dialect says which"
    speech.notes[note] = None
    return chosen

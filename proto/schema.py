"""Caffe's message types, in a descriptor pool of our own.

The default pool is left alone: a real pycaffe in the same process registers the same names there, and a second
registration aborts the process. No generated code either, so that any protobuf from 5.26 on will do.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message as _Message

__all__ = [
    "PACKAGE",
    "Message",
    "descriptor",
    "file_set",
    "is_repeated",
    "message",
    "message_class",
    "message_names",
    "pool",
]

PACKAGE = "caffe"

if TYPE_CHECKING:

    class Message(_Message):
        """A protobuf message whose fields a type checker cannot know, since its class is made at run time."""

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

else:
    Message = _Message


@cache
def file_set() -> descriptor_pb2.FileDescriptorSet:
    """The compiled schema as protoc makes it. Not to be changed."""
    return descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("caffe.desc").read_bytes())


@cache
def pool() -> DescriptorPool:
    """The private pool with the whole schema, loaded at the first call."""
    private = DescriptorPool()
    for file in file_set().file:
        private.AddSerializedFile(file.SerializeToString())
    return private


@cache
def message_names() -> tuple[str, ...]:
    """The names of all message types, without the package, in the order of the schema."""
    return tuple(message.name for file in file_set().file for message in file.message_type)


@cache
def descriptor(name: str) -> Descriptor:
    """The descriptor of a message type such as "NetParameter". Raises: KeyError for an unknown name."""
    return pool().FindMessageTypeByName(f"{PACKAGE}.{name}")


@cache
def message_class(name: str) -> type[Message]:
    """The class of a message type such as "NetParameter". Raises: KeyError for an unknown name."""
    return cast("type[Message]", message_factory.GetMessageClass(descriptor(name)))


def message(name: str) -> Message:
    """A new, empty message of a type such as "NetParameter". Raises: KeyError for an unknown name."""
    return message_class(name)()


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether a field is repeated. protobuf 5 says it by `label`, which protobuf 7 deprecates for `is_repeated`."""
    known = getattr(field, "is_repeated", None)
    return bool(getattr(field, "label") == FieldDescriptor.LABEL_REPEATED if known is None else known)  # noqa: B009

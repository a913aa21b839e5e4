"""Caffe's messages and enums, made from the schema in a descriptor pool of our own.

What protoc generates has the same names. A real pycaffe in the same process is not disturbed.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from caffe_port.proto import schema

_file = schema.pool().FindFileByName(schema.file_set().file[-1].name)
_names: dict[str, Any] = {name: schema.message_class(name) for name in schema.message_names()}
for _enum in _file.enum_types_by_name.values():
    _names[_enum.name] = EnumTypeWrapper(_enum)
    _names.update({value.name: value.number for value in _enum.values})
globals().update(_names)

DESCRIPTOR = _file
__all__ = ["DESCRIPTOR", *_names]


def __getattr__(name: str) -> Any:
    """Tells a type checker that there are names it cannot see."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

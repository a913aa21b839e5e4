"""What Python 2 had when it ran: its built-in functions, its methods of dicts, its modules under their old names.

`BUILTINS` are what code translated by `caffe_port.pycaffe.python2` runs with.
"""

from __future__ import annotations

import builtins
import collections.abc
import decimal
import functools
import importlib
import io
import itertools
import numbers
import operator
import os
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BUILTINS", "METHODS", "MODULES", "OWN_MODULES", "StringIO"]

MODULES = {
    "__builtin__": "builtins", "BaseHTTPServer": "http.server", "ConfigParser": "configparser",
    "Cookie": "http.cookies", "HTMLParser": "html.parser", "Queue": "queue", "SimpleHTTPServer": "http.server",
    "SocketServer": "socketserver", "Tkinter": "tkinter", "anydbm": "dbm", "cookielib": "http.cookiejar",
    "copy_reg": "copyreg", "httplib": "http.client", "thread": "_thread", "tkFileDialog": "tkinter.filedialog",
    "tkMessageBox": "tkinter.messagebox", "urllib2": "urllib.request", "urlparse": "urllib.parse",
    "xmlrpclib": "xmlrpc.client",
}  # fmt: skip
"""Modules that have another name now; what they have has the same meaning."""

OWN_MODULES = ("StringIO", "cStringIO", "cPickle")
"""Modules that Python 3 does not have, and that are made here."""

METHODS = {
    "keys": 0, "values": 0, "items": 0, "iterkeys": 0, "itervalues": 0, "iteritems": 0, "viewkeys": 0,
    "viewvalues": 0, "viewitems": 0, "next": 0, "has_key": 1,
}  # fmt: skip
"""Methods by name, with their number of arguments, that are called through `_method`."""


_VIEWS = (collections.abc.KeysView, collections.abc.ValuesView, collections.abc.ItemsView)


def _method(subject: Any, name: str, *args: Any) -> Any:
    """Calls a method as Python 2 has it: on dicts lists and iterators, and the object's own wherever it has one."""
    if name in ("keys", "values", "items"):
        result = getattr(subject, name)()
        return list(result) if isinstance(result, _VIEWS) else result
    if hasattr(subject, name):
        return getattr(subject, name)(*args)
    if name == "next":
        return next(subject)
    if name == "has_key":
        return args[0] in subject
    view = getattr(subject, name[4:])()
    return view if name.startswith("view") else iter(view)


def _whole(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return isinstance(value, numbers.Integral) if dtype is None else dtype.kind in "iub"


def _div(left: Any, right: Any) -> Any:
    return left // right if _whole(left) and _whole(right) else left / right


class _Divisor:
    """The right side of `/=`: whatever is on the left leaves the division to it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __rtruediv__(self, left: Any) -> Any:
        whole = _whole(left) and _whole(self.value)
        divide: Any = operator.ifloordiv if whole else operator.itruediv
        return divide(left, self.value)

    def __array_ufunc__(self, ufunc: Any, method: str, left: Any, *rest: Any, **options: Any) -> Any:
        # NumPy asks here before it divides; `rest` is this object, and `out` in the options is `left`.
        return self.__rtruediv__(left)


def _print(newline: bool, file: Any, *items: Any) -> None:
    """The print statement: with a space before an item where the last one on this file did not end its line."""
    stream: Any = sys.stdout if file is None else file
    space = getattr(stream, "softspace", 0)
    for item in items:
        text = item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else str(item)
        stream.write(f" {text}" if space else text)
        space = not (text[-1:].isspace() and text[-1:] != " ")
    if newline:
        stream.write("\n")
        space = 0
    if space or hasattr(stream, "softspace"):
        stream.softspace = int(space)


def _raise(kind: Any, value: Any = None, traceback: Any = None) -> BaseException:
    if isinstance(kind, BaseException):
        error = kind
    elif isinstance(value, kind):
        error = value
    else:
        error = kind() if value is None else kind(*value) if isinstance(value, tuple) else kind(value)
    return error.with_traceback(traceback) if traceback is not None else error


def _str(value: Any) -> Any:
    """Bytes are what a str of Python 2 holds."""
    return bytes(value) if isinstance(value, (bytes, bytearray)) else str(value)


def _map(function: Any, *sequences: Iterable[Any]) -> list[Any]:
    if len(sequences) == 1:
        return list(sequences[0]) if function is None else [function(item) for item in sequences[0]]
    rows = itertools.zip_longest(*sequences)
    return list(rows) if function is None else list(itertools.starmap(function, rows))


def _filter(function: Any, sequence: Iterable[Any]) -> Any:
    kept = list(filter(function, sequence))
    return "".join(kept) if isinstance(sequence, str) else tuple(kept) if isinstance(sequence, tuple) else kept


def _sorted(iterable: Iterable[Any], cmp: Any = None, key: Any = None, reverse: bool = False) -> list[Any]:
    if cmp is not None:
        order = functools.cmp_to_key(cmp)
        by = order if key is None else lambda item: order(key(item))
        return sorted(iterable, key=by, reverse=reverse)
    return sorted(iterable, key=key, reverse=reverse)


def _round(number: Any, ndigits: int = 0) -> float:
    """Half away from zero, and always a float."""
    value = float(number)
    if not value or value - value != 0:
        return value
    with decimal.localcontext() as context:
        context.prec = 800
        unit = decimal.Decimal(1).scaleb(-ndigits)
        return float(decimal.Decimal(value).quantize(unit, decimal.ROUND_HALF_UP))


def _open(name: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
    """Without "b" in its mode, a file with a zero byte among its first 8000 (as Git tells them) is read as bytes."""
    mode = mode.replace("U", "") or "r"
    if mode == "r" and isinstance(name, (str, os.PathLike)) and Path(name).is_file():
        with Path(name).open("rb") as stream:
            if b"\0" in stream.read(8000):
                mode = "rb"
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    return builtins.open(name, mode, *args, **options)  # noqa: PTH123 - a name or a descriptor, as open takes it


def _reload(module: types.ModuleType) -> types.ModuleType:
    # `reload(sys)` only brought back setdefaultencoding, which Python 3 does not need.
    return module if module is sys else importlib.reload(module)


class StringIO:
    """A file in memory, of bytes or of text: of what is first put into it."""

    def __init__(self, buffer: str | bytes | bytearray = "") -> None:
        self._stream: Any = _stream_for(buffer) if buffer else None

    def write(self, data: str | bytes) -> None:
        if self._stream is None:
            self._stream = _stream_for(data[:0])
        self._stream.write(data)

    def writelines(self, lines: Iterable[str | bytes]) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[Any]:
        return iter(() if self._stream is None else self._stream)

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":
            raise AttributeError(name)
        return getattr(io.StringIO() if self._stream is None else self._stream, name)


def _stream_for(data: str | bytes | bytearray) -> Any:
    return io.StringIO(data) if isinstance(data, str) else io.BytesIO(data)


@functools.cache
def _module(name: str) -> types.ModuleType | None:
    """The module a Python 2 source means by a name, where it is not the one of that name."""
    if name in ("StringIO", "cStringIO"):
        module = types.ModuleType(name)
        module.__dict__["StringIO"] = StringIO
        return module
    if name in ("pickle", "cPickle"):
        import pickle

        # What Python 2 wrote has its strings as bytes; latin-1 keeps each, and arrays need it.
        latin = {one: functools.partial(getattr(pickle, one), encoding="latin1") for one in ("load", "loads")}
        return _extended(pickle, latin)
    if name == "urllib":
        request, parse = importlib.import_module("urllib.request"), importlib.import_module("urllib.parse")
        return _extended(importlib.import_module("urllib"), {**vars(parse), **vars(request)})
    if name == "itertools":
        renamed = {"izip": zip, "imap": map, "ifilter": filter}
        longer = {"izip_longest": itertools.zip_longest, "ifilterfalse": itertools.filterfalse}
        return _extended(itertools, {**renamed, **longer})
    if name == "string":
        import string

        cases = {
            "letters": string.ascii_letters,
            "lowercase": string.ascii_lowercase,
            "uppercase": string.ascii_uppercase,
        }
        methods = {one: getattr(str, one) for one in ("split", "strip", "replace", "lower", "upper", "zfill")}
        return _extended(
            string, {**cases, **methods, "join": lambda words, sep=" ": sep.join(words), "atoi": int, "atof": float}
        )
    return importlib.import_module(MODULES[name]) if name in MODULES else None


def _extended(module: types.ModuleType, names: dict[str, Any]) -> types.ModuleType:
    made = types.ModuleType(module.__name__)
    made.__dict__.update(
        {**vars(module), **{name: value for name, value in names.items() if not name.startswith("__")}}
    )
    return made


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0) -> Any:
    module = None if level else _module(name)
    return builtins.__import__(name, globals, locals, fromlist, level) if module is None else module


BUILTINS: dict[str, Any] = {
    **vars(builtins),
    "__import__": _import,
    "__py2_div__": _div,
    "__py2_divisor__": _Divisor,
    "__py2_method__": _method,
    "__py2_print__": _print,
    "__py2_raise__": _raise,
    "__py2_str__": _str,
    "apply": lambda function, args=(), kwargs=None: function(*args, **(kwargs or {})),
    "basestring": (str, bytes),
    "cmp": lambda a, b: (a > b) - (a < b),
    "filter": _filter,
    "intern": sys.intern,
    "long": int,
    "map": _map,
    "open": _open,
    "range": lambda *args: list(range(*args)),
    "raw_input": input,
    "reduce": functools.reduce,
    "reload": _reload,
    "round": _round,
    "sorted": _sorted,
    "unichr": chr,
    "unicode": str,
    "xrange": range,
    "zip": lambda *args: list(zip(*args, strict=False)),
}
"""Python 2's built-in names, and the helpers that translated code calls."""

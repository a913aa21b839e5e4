"""`import caffe` finds this package."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from caffe_port.pycaffe.errors import InstallError

__all__ = ["install", "is_installed", "stand_in", "uninstall"]

_OURS = "caffe_port.pycaffe"
_NAME = "caffe"


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives `caffe` and `caffe.x` the modules `caffe_port.pycaffe` and `caffe_port.pycaffe.x` themselves."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _NAME and not fullname.startswith(f"{_NAME}."):
            return None
        try:
            if importlib.util.find_spec(_own_name(fullname)) is None:
                return None
        except ModuleNotFoundError:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(_own_name(spec.name))
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has put its own spec on the module, which was imported long ago under its own name.
        assert module.__spec__ is not None
        module.__spec__ = self._specs.pop(module.__spec__.name)


_finder = _Finder()


def _own_name(name: str) -> str:
    return _OURS + name[len(_NAME) :]


def _is_ours(module: ModuleType) -> bool:
    return module.__name__ == _OURS or module.__name__.startswith(f"{_OURS}.")


def is_installed() -> bool:
    """Whether `import caffe` finds this package."""
    return _finder in sys.meta_path


def install() -> None:
    """Lets `import caffe`, `import caffe.io`, `from caffe.proto import caffe_pb2`, … find this package from now on.

    Raises: InstallError if another caffe is imported already.
    """
    known = sys.modules.get(_NAME)
    if known is not None and not _is_ours(known):
        place = getattr(known, "__file__", None) or "made at run time"
        raise InstallError(f"another caffe is imported already ({place}): install before the first import caffe")
    if not is_installed():
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Takes `install` back. Modules that have imported caffe keep it."""
    if is_installed():
        sys.meta_path.remove(_finder)
    for name, module in list(sys.modules.items()):
        if (name == _NAME or name.startswith(f"{_NAME}.")) and _is_ours(module):
            del sys.modules[name]


@contextmanager
def stand_in() -> Iterator[None]:
    """Lets Python layers that are imported in the block find a caffe: this one, unless there is one already."""
    if _NAME in sys.modules or is_installed():
        yield
        return
    install()
    try:
        yield
    finally:
        uninstall()

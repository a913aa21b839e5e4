"""Modules that a script imports, translated as the script is."""

from __future__ import annotations

import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any

from caffe_port.pycaffe.python2 import Translation, namespace, translate

__all__ = ["translating_imports"]


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module as `translate` has it, and writes no compiled file, which Python itself would take for its own."""

    python2 = False

    def get_code(self, fullname: str) -> types.CodeType:
        return self._translation().code

    def exec_module(self, module: types.ModuleType) -> None:
        translation = self._translation()
        vars(module).update(namespace(translation))
        for note in translation.notes:
            print(note, file=sys.stderr)
        exec(translation.code, vars(module))

    def _translation(self) -> Translation:
        return translate(self.get_data(self.path), self.path, python2=self.python2)


class _Python2Loader(_Loader):
    python2 = True


def translating_imports(folder: str | os.PathLike[str], *, python2: bool = False) -> None:
    """From now on, modules in `folder`, and in folders that are put on `sys.path` later, may be Python 2;
    with `python2` they are, whatever they look like, because a Python 2 script imports them.

    The rest of the process is left as it is: what `sys.path` has now, and this package.
    """
    beside = Path(folder).resolve()
    known = {Path(path).resolve() for path in sys.path} | {Path(__file__).resolve().parents[2]}
    finder = importlib.machinery.FileFinder.path_hook(
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (_Python2Loader if python2 else _Loader, importlib.machinery.SOURCE_SUFFIXES),
    )

    def hook(path: str) -> Any:
        real = Path(path).resolve()
        nearest = next((one for one in (real, *real.parents) if one == beside or one in known), beside)
        if nearest != beside:
            raise ImportError(path)
        return finder(path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.pop(str(beside), None)

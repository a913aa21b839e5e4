"""The targets by name, with their folders."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing import targets

__all__ = ["HERE", "Target", "inputs_in", "load", "names"]

HERE = Path(__file__).parent
MAX_LENGTH = 4096


@dataclass(frozen=True)
class Target:
    """A reader to be fuzzed. once: gives it an input. max_length: of an input, in bytes. reads: modules it covers."""

    name: str
    once: Callable[[bytes], None]
    max_length: int
    reads: tuple[str, ...]

    @property
    def corpus(self) -> Path:
        """The inputs to begin with."""
        return HERE / "corpus" / self.name

    @property
    def findings(self) -> Path:
        """Inputs that once failed."""
        return HERE / "findings" / self.name

    @property
    def dictionary(self) -> Path | None:
        """Words of the format, in libFuzzer's form."""
        path = HERE / "dictionaries" / f"{self.name}.dict"
        return path if path.exists() else None


def names() -> list[str]:
    """All targets."""
    return sorted(module.name for module in pkgutil.iter_modules(targets.__path__))


def load(name: str) -> Target:
    """Imports a target's module, and with it the reader."""
    module = importlib.import_module(f"fuzzing.targets.{name}")
    return Target(name, module.once, getattr(module, "MAX_LENGTH", MAX_LENGTH), tuple(module.READS))


def inputs_in(*folders: Path) -> list[Path]:
    """The files of folders, in the order of their names; a folder that is not there has none."""
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "README.md"
    ]

"""Makes the helpers beside the tests importable wherever pytest is started; fixtures of several modules."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forgets the layer types that a test registers, and the modules of plug-ins."""
    from caffe_port import registry

    for backend in registry.BACKENDS:
        registry.find_emitter(backend, "Input")
    for table in ("_layers", "_emitters", "_reasons", "_origins", "_plugins"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(registry, "_entry_points_loaded", [])
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("caffe_port_plugin_"):
            del sys.modules[name]


LAYERS = [
    *("proto", "core", "layers", "passes", "datasets", "models", "nets", "converters", "verification", "recorder"),
    *("artifacts", "pages", "architectures", "tradeoff", "scoring", "calibration", "training", "migration", "pycaffe"),
    "commands",
]
"""Folders in the order of the architecture: what fails first is what the rest stands on."""


@pytest.fixture(autouse=True)
def limits_as_they_were() -> Iterator[None]:
    """Takes back what a test adjusts in this process, as `--limit` of a command does."""
    from caffe_port.limits import ENVIRONMENT, limits

    given, before = os.environ.get(ENVIRONMENT), limits._current
    yield
    limits._current = before
    os.environ.pop(ENVIRONMENT, None)
    if given is not None:
        os.environ[ENVIRONMENT] = given


def pytest_configure() -> None:
    # A shell starts what runs in the background with SIGINT ignored, which our child processes would inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the order of LAYERS; the project's own (packaging, documentation) and the hostile ones last."""
    here = Path(__file__).parent
    ranks = {name: rank for rank, name in enumerate(LAYERS)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(here).parts[0], len(LAYERS)))

"""Makes the helpers beside the tests importable wherever pytest is started; fixtures of several modules."""

from __future__ import annotations

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

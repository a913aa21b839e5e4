"""The documentation as a whole: it is built without warnings, its links lead somewhere, and it is in the navigation."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import PAGES, ROOT

import caffe_port
from caffe_port import errors, registry

LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    command_line = (tmp_path / "site" / "reference" / "command-line.html").read_text()
    assert "--refuse-unused-weights" in command_line and "--from-opencv" in command_line
    python = (tmp_path / "site" / "reference" / "python.html").read_text()
    public = [name for name in caffe_port.__all__ if name not in ("__version__", "CaffePortError")]
    assert [name for name in public if f"{caffe_port._HOME.get(name, 'caffe_port')}.{name}" not in python] == []
    failed = (tmp_path / "site" / "reference" / "errors.html").read_text()
    assert [name for name in errors.__all__ if f"caffe_port.errors.{name}" not in failed] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_somewhere(page: str) -> None:
    path, text = PAGES[page], PAGES[page].read_text(encoding="utf-8")
    # Made when the site is built.
    made = {"reference/layers-api.md", "reference/command-line.md", "reference/python.md", "reference/errors.md"}
    for target in (a or b for a, b in LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL))):
        if not target.startswith(("http", "#")) and target not in made:
            assert (path.parent / target.partition("#")[0]).exists(), f"{page}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert [name for name in pages if not re.search(rf"[ /]{re.escape(name)}$", navigation, re.MULTILINE)] == []


def test_public_docstrings() -> None:
    """What is public says what it is; a function says what it raises, a layer type its shapes and its source."""
    for name in caffe_port.__all__:
        value = getattr(caffe_port, name)
        if not isinstance(value, str):
            text = inspect.getdoc(value) or ""
            assert text, name
            if inspect.isfunction(value):
                assert "Raises" in text, f"{name}: its docstring does not say what it raises"
            if inspect.isclass(value):
                silent = [member for member, one in members(value) if not inspect.getdoc(one)]
                assert not silent, f"{name}: without a docstring: {', '.join(silent)}"
    for definition in registry.layer_types():
        text = inspect.getdoc(definition) or ""
        assert {"Shapes", "Source"} <= set(re.findall(r"\w+", text)) or is_plugin(definition), definition.type


def members(value: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class has of its own."""
    for name, one in vars(value).items():
        if not name.startswith("_") and (inspect.isroutine(one) or isinstance(one, property)):
            yield name, one


def is_plugin(definition: type) -> bool:
    return definition.__module__.startswith("caffe_port_plugin_")

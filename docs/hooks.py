"""What mkdocs builds besides the pages that are written.

- `reference/`: the command line from the argparse parser, Python from the docstrings.
- `index.md`, `contributing.md`, …: the pages that lie in the project's root, README.md first.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import caffe_port
from caffe_port.cli import make_parser

ROOT = Path(__file__).parents[1]

ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}

LAYERS_API = (
    "caffe_port.registry",
    "caffe_port.layers.base.LayerDef",
    "caffe_port.layers.base.LayerSpec",
    "caffe_port.layers.base.Params",
    "caffe_port.converters.to_onnx.context.OnnxContext",
)
"""What a declaration and its emitters use."""


def on_startup(**_: object) -> None:
    """Lays the packages where mkdocstrings looks, as they are installed: copies, as it follows links.

    Before all else, because mkdocstrings passes over a folder that is not there when it begins.
    """
    place = ROOT / "build" / "docs" / "caffe_port"
    shutil.rmtree(place, ignore_errors=True)
    python = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "caffe_port", place, ignore=python)
    for name in ("proto", "converters"):
        shutil.copytree(ROOT / name, place / name, ignore=python)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    pages = {
        "reference/command-line.md": "\n".join(command_line()),
        "reference/python.md": "\n".join(python()),
        "reference/layers-api.md": "\n".join(members("Layer types of your own", LAYERS_API)),
        "reference/errors.md": "\n".join(members("Errors", ["caffe_port.errors"])),
    }
    for source, target in ROOT_PAGES.items():
        pages[target] = in_site((ROOT / source).read_text(encoding="utf-8"))
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def in_site(text: str) -> str:
    """A page of the project's root with its links as they are from docs/."""
    for source, target in ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({target}")
    return re.sub(r"(\]\(|src=\")docs/", r"\1", text)


def command_line() -> Iterator[str]:
    """Every verb with its options, as the parser has them."""
    parser = make_parser()
    # argparse has no public way to its subparsers, nor to the words that its help is made of.
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    yield from ("# Command line", "", parser.description or "", "")
    yield "Exit codes: 0 well, 1 a verification failed or an image has no score, 2 bad input, "
    yield "70 a fault of caffe_port, 130 interrupted. Errors go to standard error, one line a problem."
    for name, verb in verbs.choices.items():
        formatter = argparse.HelpFormatter(verb.prog, width=80)
        formatter.add_usage(verb.usage, verb._actions, verb._mutually_exclusive_groups, prefix="")
        yield from (
            "",
            f"## {name}",
            "",
            verb.description or "",
            "",
            "```text",
            formatter.format_help().rstrip(),
            "```",
        )
        for group in verb._action_groups:
            actions = [a for a in group._group_actions if a.help not in (None, argparse.SUPPRESS) or a.option_strings]
            actions = [a for a in actions if a.help != argparse.SUPPRESS and "--help" not in a.option_strings]
            if actions:
                yield from ("", f"| {group.title} | |", "|---|---|")
            for action in actions:
                text = formatter._expand_help(action) if action.help else ""
                yield f"| `{cell(formatter._format_action_invocation(action))}` | {cell(text)} |"


def cell(text: str) -> str:
    """A text as it can stand in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def python() -> Iterator[str]:
    """The public names of `caffe_port`, functions first."""
    # The page of errors has the one that is public; mkdocstrings wants each name in one place.
    public = [name for name in caffe_port.__all__ if name not in ("__version__", "CaffePortError")]
    homes = {name: f"{caffe_port._HOME.get(name, 'caffe_port')}.{name}" for name in public}
    yield from ("# Python", "", "```python", "import caffe_port as cp", "```", "")
    yield "All names are those of `caffe_port`; they are imported when they are first used. What they raise is a "
    yield "`cp.CaffePortError`: [Errors](errors.md)."
    yield from entries(homes[name] for name in sorted(homes, key=lambda name: (name[0].isupper(), name)))


def members(title: str, names: tuple[str, ...] | list[str]) -> Iterator[str]:
    """A page of some modules and classes."""
    yield from (f"# {title}",)
    yield from entries(iter(names))


def entries(names: Iterator[str]) -> Iterator[str]:
    """What mkdocstrings replaces by the docstrings of these names."""
    for name in names:
        yield from ("", f"::: {name}")

"""Nothing that a file says is run as code: no pickle, no eval, no import of what a file names, unless a user asked."""

from __future__ import annotations

import ast
from pathlib import Path

from places import ROOT

FOLDERS = ("caffe_port", "proto", "converters", "reference_outputs")

MODULES = {"cloudpickle", "code", "dill", "joblib", "marshal", "pickle", "runpy", "shelve", "yaml"}
"""Modules that run what they read, or can."""

CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "exec_module", "spec_from_file_location",
    "import_module", "pickle.load", "pickle.loads", "run_path", "run_module", "pydoc.locate", "yaml.load",
}  # fmt: skip

OUR_TABLE = "a constant table of our own modules"
SCRIPT = "runs a user's own script, as Python would; that is what it is for"
PLUGIN = "runs the plug-in that a user names (--plugin), and what is installed as one"
ALLOWED = {
    ("caffe_port/__init__.py", "import_module"): OUR_TABLE,
    ("caffe_port/cli.py", "import_module"): OUR_TABLE,
    ("caffe_port/layers/python.py", "import_module"): "a Python layer's class, only with --allow-python-layers",
    ("caffe_port/pycaffe/", "__import__"): SCRIPT,
    ("caffe_port/pycaffe/", "compile"): SCRIPT,
    ("caffe_port/pycaffe/", "eval"): SCRIPT,
    ("caffe_port/pycaffe/", "exec"): SCRIPT,
    ("caffe_port/pycaffe/", "import_module"): OUR_TABLE,
    ("caffe_port/pycaffe/", "pickle"): SCRIPT,
    ("caffe_port/registry.py", "compile"): PLUGIN,
    ("caffe_port/registry.py", "exec"): PLUGIN,
    ("caffe_port/registry.py", "import_module"): OUR_TABLE,
    ("caffe_port/scoring/scorer.py", "import_module"): "a backend of those that the option takes",
    ("caffe_port/scoring/spark", "pickle"): "writes only, to name a settings' digest",
    ("converters/to_pytorch_source/", "compile"): "source that we wrote is compiled, and not run, to check it",
    (
        "converters/to_pytorch_source/export.py",
        "exec_module",
    ): "source that we wrote and checked, to compare its results",
    ("converters/to_pytorch_source/export.py", "spec_from_file_location"): "the same",
}
"""What is there all the same: a file or a folder, the call → reason."""


def found_in(path: Path) -> set[str]:
    """The dangerous things a module does, by the names above."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found |= _dangers(node)
    return found


def _dangers(call: ast.Call) -> set[str]:
    full = ast.unparse(call.func)
    last = full.rpartition(".")[2]
    found: set[str] = set()
    if full in CALLS or (last in CALLS and last not in ("compile", "eval")):
        # Of a constant name it is an import like any other.
        constant = last == "import_module" and isinstance(call.args[0], ast.Constant)
        found |= set() if constant else {last}
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if given.get("allow_pickle", "False") != "False":
        found.add("allow_pickle")
    if given.get("shell", "False") != "False":
        found.add("shell")
    if full == "torch.load" and given.get("weights_only") != "True":
        found.add("torch.load")
    return found


def test_no_code_from_files_is_run() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for name in found_in(path)
    }
    used = {key for key in ALLOWED if any(name == key[1] and file.startswith(key[0]) for file, name in found)}
    unknown = {(file, name) for file, name in found if not any(name == n and file.startswith(f) for f, n in ALLOWED)}
    assert unknown == set(), "code that could run what a file says"
    assert set(ALLOWED) - used == set(), "reasons for what is not there any more"


def test_finds_what_it_looks_for(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "import pickle\nfrom yaml import load\neval(x)\nre.compile(x)\nmodel.eval()\nimportlib.import_module(x)\n"
        "importlib.import_module('json')\nnp.load(x, allow_pickle=True)\ntorch.load(x)\n"
        "torch.load(x, weights_only=True)\nsubprocess.run(x, shell=True)\nspec.loader.exec_module(m)\n"
    )
    assert found_in(path) == {
        "pickle", "yaml", "eval", "import_module", "allow_pickle", "torch.load", "shell", "exec_module",
    }  # fmt: skip

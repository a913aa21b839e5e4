"""Every fuzzing target on its seeds, on what once failed, and on a bounded number of mutations; none is forgotten."""

from __future__ import annotations

import ast
import importlib.util
import zlib

import pytest
from places import ROOT

from fuzzing import catalogue
from fuzzing.mutate import mutations

PACKAGES = {"caffe_port": "caffe_port", "proto": "caffe_port.proto", "converters": "caffe_port.converters"}
MUTATIONS = 80

READS_FILES = {
    "File", "Image.open", "ParquetFile", "ZipFile", "contents", "load_file", "loads", "mmap", "np.load", "onnx.load",
    "open", "open_regular", "parse_json", "read_bytes", "read_text", "tarfile.open", "text_of", "torch.load",
}  # fmt: skip
"""Calls that read bytes from somewhere, by their last name or their last two."""

OUR_OWN = "reads a file that this package brings"
WRITTEN = "reads back what the same run has written"
WHOLE = "takes digests of bytes or copies them, and looks at none"
NOT_FUZZED = {
    "caffe_port.artifacts.pytorch_files": WRITTEN,
    "caffe_port.cli": "opens os.devnull",
    "caffe_port.commands.finetune": WRITTEN,
    "caffe_port.commands.verify": WRITTEN,
    "caffe_port.finetuning.run": "reads a report that it has written, by caffe_port.reading",
    "caffe_port.layers.data": "writes only",
    "caffe_port.models.receiving": WHOLE,
    "caffe_port.models.web": "receives bytes whose SHA-256 is known beforehand",
    "caffe_port.models.wheel": "opens a wheel of which one member's SHA-256 is known beforehand",
    "caffe_port.pages.document": OUR_OWN,
    "caffe_port.proto.compile": "a tool for those who change the schema",
    "caffe_port.proto.compile_dialects": "a tool for those who change the schema",
    "caffe_port.proto.files": WHOLE,
    "caffe_port.proto.schema": OUR_OWN,
    "caffe_port.pycaffe.__main__": "runs a user's own script",
    "caffe_port.pycaffe.opening": WHOLE,
    "caffe_port.pycaffe.python2_runtime": "is the `open` of a user's own script",
    "caffe_port.recorder": OUR_OWN,
    "caffe_port.recorder.record": "stands alone, in the user's Caffe, on the user's own arrays",
    "caffe_port.registry": "runs a plug-in that a user names",
    "caffe_port.scoring.classifier": "gives a user's ONNX file to onnx",
    "caffe_port.scoring.manifests": WHOLE,
    "caffe_port.scoring.onnx_files": "gives a user's ONNX file to onnx",
    "caffe_port.scoring.scorer": WHOLE,
    "caffe_port.tradeoff.published": OUR_OWN,
    "caffe_port.converters.to_onnx.files": WRITTEN,
}
"""Modules that read, and are no reader of a stranger's bytes, each with its reason."""

targets = pytest.mark.parametrize("name", catalogue.names())


@targets
def test_seeds_and_findings_raise_nothing_but_our_errors(name: str) -> None:
    target = catalogue.load(name)
    seeds = catalogue.inputs_in(target.corpus)
    assert seeds, f"fuzzing/corpus/{name} is empty"
    for path in (*seeds, *catalogue.inputs_in(target.findings)):
        assert path.stat().st_size <= 4 * target.max_length, path
        target.once(path.read_bytes())


@targets
def test_mutations_raise_nothing_but_our_errors(name: str) -> None:
    target = catalogue.load(name)
    seeds = [path.read_bytes() for path in catalogue.inputs_in(target.corpus)]
    for data in mutations(seeds, MUTATIONS, zlib.crc32(name.encode()), target.max_length):
        try:
            target.once(data)
        except BaseException as error:
            error.add_note(f"{name} on {data[:500]!r}") if hasattr(error, "add_note") else None
            raise


@targets
def test_says_what_it_reads(name: str) -> None:
    target = catalogue.load(name)
    assert importlib.import_module(f"fuzzing.targets.{name}").__doc__
    assert target.reads
    for module in target.reads:
        assert importlib.util.find_spec(module) is not None, module


def test_every_folder_belongs_to_a_target() -> None:
    known = set(catalogue.names())
    for kind in ("corpus", "findings", "dictionaries"):
        found = {path.stem for path in (catalogue.HERE / kind).iterdir() if path.name != "README.md"}
        assert found <= known, f"fuzzing/{kind}"


def readers() -> set[str]:
    """The modules that have a call by which bytes are read."""
    found = set()
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any(_reads(node) for node in ast.walk(tree) if isinstance(node, ast.Call)):
                parts = [*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
                found.add(".".join(part for part in parts if part != "__init__"))
    return found


def _reads(call: ast.Call) -> bool:
    names = ast.unparse(call.func).split(".")
    if names[-1] == "open" and any(isinstance(one, ast.Constant) and one.value in MODES for one in call.args):
        return False
    return names[-1] in READS_FILES or ".".join(names[-2:]) in READS_FILES


MODES = ("w", "wb", "xb", "a", "ab", "r+b")


def test_every_reader_has_a_target() -> None:
    covered = {module for name in catalogue.names() for module in catalogue.load(name).reads}
    found = readers()
    assert found - covered - set(NOT_FUZZED) == set(), "modules that read and have no fuzzing target"
    assert set(NOT_FUZZED) - found == set(), "modules that read nothing any more"
    assert set(NOT_FUZZED) & covered == set(), "modules that have a target, and a reason for having none"


def test_mutations_are_the_same_for_the_same_seed() -> None:
    first = list(mutations([b"abc", b"0123456789"], 200, 1))
    assert first == list(mutations([b"abc", b"0123456789"], 200, 1))
    assert first != list(mutations([b"abc", b"0123456789"], 200, 2))
    assert len(set(first)) > 100
    assert max(map(len, mutations([bytes(50)], 200, 3, 60))) <= 60

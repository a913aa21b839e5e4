"""What is packed and installed: the lists in setup.cfg, the wheel, the sdist, an environment with only the wheel."""

from __future__ import annotations

import ast
import configparser
import email
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from places import ROOT

import caffe_port
from caffe_port.proto import schema, wire
from caffe_port.proto.blobs import BlobData

SOURCES = {"caffe_port": "caffe_port"} | {
    f"caffe_port.{name}": name for name in ("proto", "converters", "reference_outputs")
}
HEAVY = ("google.protobuf", "h5py", "lmdb", "numpy", "onnx", "onnxruntime", "PIL", "torch")

# What lies in the package folders and is not installed: it is for whoever has the sources.
NOT_INSTALLED = (
    "caffe_port/reference_outputs/README.md",
    "caffe_port/reference_outputs/fork_layers.zip",
    "caffe_port/reference_outputs/layers.zip",
    "caffe_port/reference_outputs/nets/",
    "caffe_port/reference_outputs/open_nsfw/images/",
    "caffe_port/reference_outputs/solver.zip",
)

pytestmark = pytest.mark.xdist_group("packaging")


def run(command: list[str | Path], cwd: Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a command that must end with this exit code, without what would let it see this checkout."""
    unset = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == exit_code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def files_on_disk() -> Iterator[tuple[str, Path]]:
    """Every file below the package folders: its installed name, and where it lies here."""
    for package, folder in SOURCES.items():
        for path in sorted((ROOT / folder).rglob("*")):
            relative = path.relative_to(ROOT / folder)
            if path.is_file() and "__pycache__" not in relative.parts and path.suffix != ".pyc":
                yield "/".join([*package.split("."), *relative.parts]), path


def test_setup_cfg_lists_the_packages_that_are_on_disk() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = config["options"]["packages"].split()
    on_disk = {name.rpartition("/")[0].replace("/", ".") for name, path in files_on_disk() if path.suffix == ".py"}
    assert sorted(listed) == sorted(on_disk)
    folders = dict(line.split(" = ") for line in config["options"]["package_dir"].split("\n") if line)
    assert folders == SOURCES
    for package in listed:
        owner = max((name for name in SOURCES if f"{package}.".startswith(f"{name}.")), key=len)
        inside = package.removeprefix(owner).strip(".").replace(".", "/")
        assert (ROOT / SOURCES[owner] / inside / "__init__.py").is_file(), f"{package} has no __init__.py"


@pytest.mark.parametrize("name", ["proto", "converters"])
def test_bare_names_refuse(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: import this package as 'caffe_port.{name}', not as '{name}'"


def imported_by(code: str) -> set[str]:
    """Which of the heavy modules a fresh interpreter has loaded after `code`."""
    report = f"import json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = run([sys.executable, "-c", f"{code}\n{report}"], ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_is_light() -> None:
    assert imported_by("import caffe_port") == set()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_command_is_light(option: str) -> None:
    code = f"""
import sys
from caffe_port.cli import main
sys.argv = ["caffe-port", {option!r}]
try:
    code = main()
except SystemExit as exit:
    code = exit.code
assert not code, code
"""
    assert imported_by(code) == set()


def test_public_names() -> None:
    assert sorted(caffe_port.__all__) == list(caffe_port.__all__)
    for name in caffe_port.__all__:
        value = getattr(caffe_port, name)
        assert value is not None
        home = value.__name__ if name == "limits" else getattr(value, "__module__", "caffe_port.")  # a module itself
        assert home.startswith("caffe_port."), name
    assert set(caffe_port.__all__) <= set(dir(caffe_port))
    assert set(caffe_port.__all__) == set(caffe_port._HOME) | {"__version__", "limits"}
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = caffe_port.no_such_name


def test_public_names_are_those_a_type_checker_sees() -> None:
    tree = ast.parse((ROOT / "caffe_port" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {**caffe_port._HOME, "limits": "caffe_port"}


# The built distributions


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The sdist of a copy of this checkout, and the wheel that is built from the sdist."""
    checkout, dist = tmp_path_factory.mktemp("source") / "a copy", tmp_path_factory.mktemp("dist")
    left_out = shutil.ignore_patterns(".*cache", ".git", ".hypothesis", ".venv", "*.egg-info", "__pycache__")
    shutil.copytree(
        ROOT,
        checkout,
        ignore=lambda folder, names: (
            left_out(folder, names) | ({"artifacts", "build", "dist"} if Path(folder) == ROOT else set())
        ),
    )
    isolation = ["--no-isolation"] if importlib.util.find_spec("setuptools") else []
    run([sys.executable, "-m", "build", *isolation, "--outdir", dist, checkout], dist)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return SimpleNamespace(sdist=sdist, wheel=wheel)


@pytest.mark.slow
def test_wheel(built: SimpleNamespace) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
        entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert info == f"caffe_port-{caffe_port.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"caffe_port", info}
    expected = {name for name, _ in files_on_disk() if not name.startswith(NOT_INSTALLED)}
    assert {name for name in names if name.startswith("caffe_port/")} == expected
    for name in ("py.typed", "proto/caffe.proto", "proto/caffe.desc", "reference_outputs/open_nsfw/scores.json"):
        assert f"caffe_port/{name}" in names
    assert sum(name.startswith("caffe_port/reference_outputs/open_nsfw/") and name.endswith(".npz") for name in names)
    assert "caffe-port = caffe_port.cli:main" in entry_points
    assert "BSD-2-Clause" in (metadata["License-Expression"], metadata["License"])
    assert f"{info}/licenses/LICENSE" in names


@pytest.mark.slow
def test_sdist(built: SimpleNamespace) -> None:
    with tarfile.open(built.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    for _, path in files_on_disk():
        assert path.relative_to(ROOT).as_posix() in names
    for folder in ("tests", "docs", "benchmarks", "fuzzing"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not {"__pycache__", ".hypothesis"} & set(path.parts):
                assert path.relative_to(ROOT).as_posix() in names
    tops = ("Makefile", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "constraints.txt", "pyproject.toml")
    assert names >= {*tops, "setup.cfg", "setup.py", ".ci/run"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


# The wheel in an environment of its own

PROTOTXT = """\
name: "tiny"
layer {
  name: "data" type: "Input" top: "data"
  input_param { shape { dim: 1 dim: 2 dim: 5 dim: 7 } }
}
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 stride: 2 }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
WEIGHTS = {"conv": [(3, 2, 3, 3), (3,)], "fc": [(4, 18), (4,)]}


def write_tiny_net(folder: Path) -> dict[str, list[np.ndarray]]:
    """net.prototxt and net.caffemodel in `folder`; returns the weights."""
    rng = np.random.default_rng(7)
    values = {
        name: [rng.standard_normal(shape).astype(np.float32) for shape in shapes] for name, shapes in WEIGHTS.items()
    }
    (folder / "net.prototxt").write_text(PROTOTXT)
    net = schema.message("NetParameter")
    blobs = []
    for name, arrays in values.items():
        net.layer.add(name=name, type="Convolution" if name == "conv" else "InnerProduct")
        blobs.append([BlobData(array.shape, False, array.reshape(-1)) for array in arrays])
    wire.write(folder / "net.caffemodel", net, blobs)
    return values


def expected_output(values: dict[str, list[np.ndarray]], data: np.ndarray) -> np.ndarray:
    """The tiny net in float64, by nothing but NumPy."""
    kernel, bias = (array.astype(np.float64) for array in values["conv"])
    windows = np.lib.stride_tricks.sliding_window_view(data.astype(np.float64), (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    conv = np.maximum(np.einsum("nchwij,ocij->nohw", windows, kernel) + bias[:, None, None], 0)
    kernel, bias = (array.astype(np.float64) for array in values["fc"])
    fc = conv.reshape(len(data), -1) @ kernel.T + bias
    power = np.exp(fc - fc.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def installed(built: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a new environment that has the wheel and what it requires, in a path with a space."""
    environment = tmp_path_factory.mktemp("an empty environment")
    run([sys.executable, "-m", "venv", environment], environment)
    commands = environment / ("Scripts" if os.name == "nt" else "bin")
    constraints = ROOT / "constraints.txt"
    run([commands / "python", "-m", "pip", "install", "-q", "-c", constraints, built.wheel], environment)
    return commands


@pytest.mark.slow
@pytest.mark.network
def test_installed_command_converts(installed: Path, tmp_path: Path) -> None:
    command = installed / "caffe-port"
    assert caffe_port.__version__ in run([command, "--version"], tmp_path).stdout
    assert "convert" in run([command, "--help"], tmp_path).stdout
    origin = run([installed / "python", "-c", "import caffe_port; print(caffe_port.__file__)"], tmp_path).stdout
    assert Path(origin.strip()).is_relative_to(installed.parent.resolve())

    values = write_tiny_net(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = [tmp_path / "net.prototxt", tmp_path / "net.caffemodel"]
    convert = [command, "convert", *given, "--to", "onnx", "-o", elsewhere / "out"]
    # Without onnxruntime an artifact cannot be read back and compared, and an unproven one is not left behind unasked.
    refused = run(convert, elsewhere, exit_code=2)
    assert "caffe_port[runtime]" in refused.stderr.splitlines()[-1]
    assert list(elsewhere.rglob("*")) == []
    run([*convert, "--no-verify"], elsewhere)
    (artifact,) = (elsewhere / "out").rglob("*.onnx")

    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(artifact))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["data"]
    assert [value.name for value in model.graph.output] == ["prob"]
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    for array in (array for arrays in values.values() for array in arrays):
        assert any(array.size == one.size and np.array_equal(array.ravel(), one.ravel()) for one in stored)

    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])
    data = np.random.default_rng(8).standard_normal((3, 2, 5, 7)).astype(np.float32)
    (prob,) = session.run(None, {"data": data})
    np.testing.assert_allclose(prob, expected_output(values, data), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.network
def test_installed_package_reads_its_data(installed: Path, tmp_path: Path) -> None:
    """The schema and the recordings are found in the installation; no other package was overwritten or brought in."""
    code = """
import importlib.util
from caffe_port import recording
from caffe_port.proto import schema
assert schema.message("NetParameter") is not None
paths = recording.available("open_nsfw")
assert paths and all(recording.read(path).layers for path in paths)
assert [name for name in ("proto", "converters", "torch", "onnxruntime") if importlib.util.find_spec(name)] == []
"""
    run([installed / "python", "-c", code], tmp_path)

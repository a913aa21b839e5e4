"""Every command and every Python block of the documentation is run, or is listed here with the reason why not."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kitchen import ENVIRONMENT, PREPARED, SETUP
from pages import COMMANDS, PAGES, ROOT, Block, blocks, inline_commands, shell_lines

from caffe_port import cli

pytestmark = [pytest.mark.xdist_group("documentation"), pytest.mark.usefixtures("registry_as_it_was")]

NOT_RUN = {
    "make": "tests/test_packaging.py builds and installs; .ci/run runs the targets",
    "pip": "tests/test_packaging.py installs the wheel",
    "torchrun": "several processes: tests/training/test_distributed.py runs them",
    "caffe-port train": "minutes of training: tests/training/test_command.py runs smaller ones",
    "caffe-port finetune": "minutes of training: tests/training/test_finetune.py runs smaller ones",
    "caffe-port score --engine spark": "needs Java, or a cluster: tests/scoring/test_spark.py, where there is Java",
    "caffe-port score --threshold-file calibrated/threshold.json images/": "the threshold of one model, for another",
    "caffe-port compare alexnet resnet50_1by2 --time": "measures for a minute: tests/tradeoff/test_timing.py",
    "python -m caffe_port.pycaffe classify_nsfw.py": "with another's script: tests/pycaffe/test_script.py runs one",
    "python tests/check_families.py": "hundreds of nets for minutes: tests/nets/test_families.py runs some",
    "python -m caffe_port.layer_table": "writes into the sources: tests/core/test_registry.py compares what it prints",
    "caffe-port inspect selu.prototxt": "test_the_example_layer_in_all_backends",
    "caffe-port verify selu.prototxt": "test_the_example_layer_in_all_backends",
    "caffe-port convert selu.prototxt": "test_the_example_layer_in_all_backends",
    "caffe-port layers": "test_the_example_layer_in_all_backends",
}
"""Beginnings of commands that no page's folder can run."""

BLOCKS_NOT_RUN = {
    "adding-a-layer.md": "pieces of one file: test_the_example_layer_in_all_backends puts them together",
    "finetuning.md": "minutes of training: tests/training/test_finetune.py",
    "pytorch-source.md": "needs what `--to pytorch-source` wrote: test_export_pytorch_source.py runs such files",
    "spark.md": "needs Java: tests/scoring/test_spark.py",
    "training.md": "minutes of training: tests/training/test_solver.py",
}
"""Pages whose Python blocks are not run."""

PIECES = {"solver = caffe.get_solver": "trains: tests/pycaffe/test_pycaffe_solvers.py"}
"""Beginnings of single Python blocks that are not run."""

OF_ITS_OWN = {"limits.md", "pycaffe.md"}
"""Pages whose Python changes the interpreter: it is run in another one."""


def not_run(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in NOT_RUN)


def all_commands() -> Iterator[tuple[Block, str]]:
    for page in PAGES:
        for block in blocks(page, "sh"):
            for command in shell_lines(block):
                yield block, command


def python_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page, "python") if not block.text.startswith(tuple(PIECES))]


def test_commands_are_in_blocks_that_are_looked_at() -> None:
    """A command in a block without a language, or with another name for it, would be run by no test."""
    usage = re.compile(r"MODEL|COMMAND")  # what stands for a command
    for page in PAGES:
        lines = [
            line for block in blocks(page, "", "text", "shell", "bash", "console") for line in block.text.splitlines()
        ]
        assert [line for line in lines if line.startswith(COMMANDS) and not usage.search(line)] == [], page


def test_every_page_with_commands_is_run_or_listed() -> None:
    for block, command in all_commands():
        assert not_run(command) or block.page in PREPARED, f"{block}: neither run nor listed: {command}"
    for page in PAGES:
        assert not python_blocks(page) or page in PREPARED or page in BLOCKS_NOT_RUN, f"{page}: Python is not run"


def test_nothing_is_listed_in_vain() -> None:
    commands = [command for _, command in all_commands()]
    assert [entry for entry in NOT_RUN if not any(command.startswith(entry) for command in commands)] == []
    assert [page for page in BLOCKS_NOT_RUN if not blocks(page, "python")] == []
    beginnings = [block.text for page in PAGES for block in blocks(page, "python")]
    assert [piece for piece in PIECES if not any(text.startswith(piece) for text in beginnings)] == []
    assert [page for page in PREPARED if page not in PAGES] == []


def test_every_command_is_parsed() -> None:
    """By the real parser, those that are not run too."""
    parser, seen = cli.make_parser(), 0
    for block, command in all_commands():
        for part in re.split(r" \| | > ", command):
            if part.startswith("caffe-port "):
                try:
                    parser.parse_args(shlex.split(part)[1:])
                except SystemExit:
                    pytest.fail(f"{block}: no such command: {part}")
                seen += 1
    assert seen > 40


def test_commands_in_lines_of_text_exist() -> None:
    parser, seen = cli.make_parser(), 0
    helps: dict[str, str] = {}
    for page in PAGES:
        for words in inline_commands(page):
            verb = words[0]
            if verb in ("COMMAND", "…"):
                continue
            if verb not in helps and not verb.startswith("-"):
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as done:
                    parser.parse_args([verb, "--help"])
                assert done.value.code == 0, f"{page}: caffe-port {verb}"
                helps[verb] = printed.getvalue()
            known = helps.get(verb, parser.format_help())
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known), (
                    f"{page}: caffe-port {verb} {option}"
                )
            seen += 1
    assert seen > 20


def run_command(block: Block, command: str, folder: Path) -> None:
    """Runs a command as it stands; it must succeed."""
    words = shlex.split(command)
    if words[0] == "caffe-port" and "|" not in words:
        target = None
        if ">" in words:
            *words, _, target = words
        # Some commands write bytes, below the text.
        printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with contextlib.redirect_stdout(printed):
            code = cli.main(words[1:])
        assert code == 0, f"{block}: {command}: exit code {code}"
        if target:
            (folder / target).write_bytes(printed.buffer.getvalue())  # type: ignore[attr-defined]
        return
    shell = (
        f"caffe-port() {{ '{sys.executable}' -m caffe_port.cli \"$@\"; }}; python() {{ '{sys.executable}' \"$@\"; }}"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}; {command}"],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}: {command}: exit code {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", sorted(PREPARED))
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands and its Python in their order, in one folder."""
    for name in ("torch", "onnxruntime", *(["sklearn", "matplotlib"] if page == "calibration.md" else [])):
        pytest.importorskip(name)
    PREPARED[page](tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict[str, object] = {}
    if page not in OF_ITS_OWN:
        exec(SETUP.get(page, ""), names)
    skipped = page in BLOCKS_NOT_RUN
    count = 0
    for block in blocks(page, "sh", "python"):
        if block.language == "sh":
            for command in shell_lines(block):
                if not not_run(command):
                    run_command(block, command, tmp_path)
                    count += 1
        elif not skipped and block in python_blocks(page):
            count += 1
            if page in OF_ITS_OWN:
                code = SETUP.get(page, "") + block.text
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
                assert done.returncode == 0, f"{block}: {done.stderr}"
            else:
                exec(compile("\n" * (block.line - 1) + block.text, str(PAGES[page]), "exec"), names)
    assert count


def imports_of(path: Path) -> str:
    """The import statements at the top of a module, without what is for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))


def test_the_example_layer_in_all_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What adding-a-layer.md has as pieces of four files, as one plug-in."""
    pytest.importorskip("torch"), pytest.importorskip("onnxruntime")
    page = "adding-a-layer.md"
    declaration, onnx, pytorch, module, _ = (block.text for block in blocks(page, "python"))
    (net,) = (block.text for block in blocks(page, "prototxt"))
    (tmp_path / "selu.prototxt").write_text(net)
    sources = ("caffe_port/layers", "converters/to_onnx", "converters/to_pytorch", "converters/to_pytorch/modules")
    headers = [imports_of(ROOT / folder / "activation.py") for folder in sources]
    future, *others = dict.fromkeys("\n".join(headers).splitlines())
    own = "from caffe_port.layers.activation import Neuron\nclass activation: pass\n"
    # The page's files refer to each other; here they are one.
    pytorch = re.sub(r" +from caffe_port\.converters.*import SeLu\n\n", "", pytorch).replace(
        "SeLu(selu)", "Module(selu)"
    )
    module = module.replace("class SeLu(", "class Module(")
    text = "\n".join([future, *others, own, declaration, onnx, module, pytorch])
    (tmp_path / "selu.py").write_text(text)

    monkeypatch.chdir(tmp_path)
    assert cli.main(["layers", "--plugin", "selu.py"]) == 0
    assert re.search(r"^SeLu +yes +yes +yes$", capsys.readouterr().out, re.MULTILINE)
    assert cli.main(["verify", "selu.prototxt", "--self", "--plugin", "selu.py"]) == 0
    compared = capsys.readouterr().out
    assert "torch (without oneDNN) against" in compared and "onnxruntime against" in compared

"""`caffe-port compare`: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
from command import Capture, failure
from small import CONV_NET, write_model

from caffe_port import cli
from caffe_port.architectures import ARCHITECTURES
from caffe_port.commands import compare
from caffe_port.tradeoff.comparison import ANNOUNCED
from caffe_port.tradeoff.counting import RULES
from caffe_port.tradeoff.timing import BACKENDS, RUNS


def test_the_announcements_nets_are_the_default(capsys: Capture) -> None:
    assert cli.main(["compare", "--json", "--rule", "pynetbuilder"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["rule"], told["batch"]) == ("caffe_port comparison 1", "pynetbuilder", 1)
    assert [net["name"] for net in told["nets"]] == list(ANNOUNCED)
    thin = told["nets"][-1]
    assert thin["title"] == "ResNet-50-thin" and thin["inputs"] == {"data": [1, 3, 224, 224]}
    assert (thin["parameters"], thin["multiply_accumulates"]) == (6_926_528, 1_069_598_720)
    assert thin["accuracy"][0]["top1"] == 0.6679 and "pynetbuilder" in thin["accuracy"][0]["source"]
    assert thin["time"] is None


def test_the_table(capsys: Capture) -> None:
    assert cli.main(["compare", "squeezenet_v1.1", "open_nsfw", "resnet50_1by2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", lines[0]) == [
        "net", "input", "parameters", "MACs", "blobs", "at once", "caffemodel", "top-1", "top-5",
    ]  # fmt: skip
    assert re.split("  +", lines[4].strip()) == [
        "ResNet-50-thin", "1x3x224x224", "6,967,517", "1,069,572,096", "35.2 MB", "5.4 MB", "27.9 MB", "66.79 %",
    ]  # fmt: skip
    assert any(line.startswith("ResNet-50-thin: top-1 66.79 % (center crop): pynetbuilder") for line in lines)


def test_a_net_of_ones_own(tmp_path: Path, capsys: Capture) -> None:
    definition, weights = write_model(tmp_path, CONV_NET, "mine")
    arguments = [str(definition), f"saved={weights}", "--accuracy", "mine=0.71,0.9", "--accuracy", "saved=0.5"]
    assert cli.main(["compare", *arguments, "--json"]) == 0
    mine, saved = json.loads(capsys.readouterr().out)["nets"]
    assert (mine["name"], mine["inputs"], mine["parameters"]) == ("mine", {"data": [1, 3, 8, 7]}, 357)
    assert (mine["multiply_accumulates"], mine["activation_bytes"]) == (224 * 27 + 240, 4 * (168 + 224 + 48 + 5 + 5))
    assert mine["accuracy"] == [
        {"top1": 0.71, "top5": 0.9, "protocol": "as measured", "source": "given on the command line", "url": None}
    ]
    assert (saved["name"], saved["model_bytes"]) == ("saved", weights.stat().st_size)


def test_an_accuracy_of_ones_own_goes_before_the_published_one(capsys: Capture) -> None:
    assert cli.main(["compare", "resnet50_1by2", "--accuracy", "resnet50_1by2=0.7", "--json"]) == 0
    (net,) = json.loads(capsys.readouterr().out)["nets"]
    assert [one["top1"] for one in net["accuracy"]] == [0.7, 0.6679]


def test_time(tmp_path: Path, capsys: Capture) -> None:
    definition, weights = write_model(tmp_path)
    arguments = ["compare", str(definition), f"b={weights}", "--time", "--backend", "numpy", "--runs", "2"]
    assert cli.main([*arguments, "--json"]) == 0
    first, second = (net["time"] for net in json.loads(capsys.readouterr().out)["nets"])
    assert (first["ratio"], first["runs"], first["backend"]) == (1.0, 2, "numpy float32") and second["seconds"] > 0
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "time" in out.splitlines()[0] and "median of 2 passes after 3 untimed ones, in turns with small" in out


def test_figures(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / f"figure.{kind}" for kind in ("png", "svg", "html")]
    given = [argument for file in files for argument in ("--figure", str(file))]
    assert cli.main(["compare", "squeezenet_v1.0", "resnet50_1by2", "ms_ctc", *given]) == 0
    assert capsys.readouterr().err.splitlines() == [f"wrote {file}" for file in files]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    for text in (files[1].read_text(), files[2].read_text()):
        assert "SqueezeNet 1.0" in text and "ResNet-50-thin" in text and "MS_CTC" in text


def test_defaults_and_choices_are_the_librarys() -> None:
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    assert parser.get_default("runs") == RUNS and parser.get_default("rule") == next(iter(RULES))
    choices = {action.dest: action.choices for action in parser._actions if action.choices}
    assert choices == {"rule": tuple(RULES), "backend": BACKENDS}


def test_unknown_nets_are_named_with_what_there_is(tmp_path: Path, capsys: Capture) -> None:
    told = failure(capsys, "compare", "alexnet", "nonet", tmp_path / "none.prototxt")
    assert len(told.splitlines()) == 1
    assert f"no net and no file is called 'nonet', '{tmp_path / 'none.prototxt'}'; known: alexnet, " in told
    assert all(name in told for name in ARCHITECTURES)


def test_bad_arguments(tmp_path: Path, capsys: Capture) -> None:
    def wrong(*arguments: object) -> str:
        return failure(capsys, "compare", *arguments)

    assert "2 nets are called 'alexnet' (tell them apart: NAME=NET)" in wrong("alexnet", "alexnet")
    assert "an accuracy is given of 'vgg'; the nets are alexnet" in failure(
        capsys, "compare", "alexnet", "--accuracy", "vgg=0.7"
    )
    for text in ("alexnet", "alexnet=", "alexnet=71", "alexnet=x", "=0.7", "alexnet=0.5,0.6,0.7", "alexnet=0"):
        assert "is no accuracy: NAME=TOP1 or NAME=TOP1,TOP5" in failure(
            capsys, "compare", "alexnet", "--accuracy", text
        )
    # Before anything is counted.
    assert "a figure is a file ending in .png" in wrong("nonet", "--figure", tmp_path / "f.gif")
    assert "no top-1 accuracy is known of ms_ctc" in failure(
        capsys, "compare", "ms_ctc", "--figure", tmp_path / "f.html"
    )
    assert "threads must be at least 1" in wrong("ms_ctc", "--time", "--threads", "0")


def test_a_file_that_is_no_net(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "broken.prototxt"
    path.write_text("layer {")
    assert "broken.prototxt" in failure(capsys, "compare", path)

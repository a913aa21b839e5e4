"""What can be asked for, and what excludes what."""

from __future__ import annotations

import pytest

from caffe_port.artifacts.form import TARGETS, Form
from caffe_port.errors import GraphError
from caffe_port.preprocessing import OPEN_NSFW


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        (Form(), ""),
        (Form(fold=True), "_folded"),
        (Form(fold=True, half="weights"), "_folded_fp16weights"),
        (Form(half="all", batch=4, opset=13), "_fp16_opset13_batch4"),
        (Form(int8=True), "_int8"),
        (Form(int8=True, fold=True), "_int8"),
        (Form(preprocessing=OPEN_NSFW), "_image"),
        (Form(batch="symbolic"), ""),
    ],
)
def test_no_form_overwrites_another(form: Form, suffix: str) -> None:
    assert form.suffix == suffix
    assert (form.suffix + "x").isidentifier()  # the source is a module's name


def test_every_target_takes_the_plain_form() -> None:
    Form().check(list(TARGETS))


@pytest.mark.parametrize(
    ("form", "targets", "words"),
    [
        (Form(), ["tflite"], ["unknown target tflite", "pytorch-source"]),
        (Form(), [], ["unknown target none"]),
        (Form(half="all"), ["onnx", "pytorch"], ["half precision is a form of ONNX", "pytorch"]),
        (Form(half="all", int8=True), ["onnx"], ["exclude each other"]),
        (Form(fold=True), ["caffemodel"], ["caffemodel holds the weights of the net as it is"]),
        (Form(batch=0), ["onnx"], ["a batch of 0 is none"]),
        (
            Form(int8=True, opset=13, external_data=True, preprocessing=OPEN_NSFW, half="weights", batch=-1),
            ["pytorch-source", "caffemodel-h5", "nothing"],
            ["problems", "int8 is a form", "an opset", "external data", "exclude", "batch"],
        ),
    ],
)
def test_what_cannot_be_is_said_all_at_once(form: Form, targets: list[str], words: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        form.check(targets)
    for word in words:
        assert word in str(caught.value)


def test_only_what_differs_is_certified() -> None:
    assert Form().as_json() == {}
    assert Form(int8=True).as_json() == {"fold": True, "int8": True}
    assert Form(batch=2, half="all").as_json() == {"half": "all", "batch": 2}


def test_what_changes_numbers() -> None:
    assert Form(fold=True, batch=3).changes_numbers == ()
    assert Form(int8=True, preprocessing=OPEN_NSFW).changes_numbers == ("int8", "image")
    assert Form(half="weights").changes_numbers == ("fp16 weights",)

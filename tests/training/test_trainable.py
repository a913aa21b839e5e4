"""A net as the solver sees it: loss, gradients, sharing, labels. Expected values are worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small import built, filled, one_input

from caffe_port.errors import DataError, GraphError
from caffe_port.net import Net
from caffe_port.training.trainable import Labels, TrainableNet, labels_of, loss_terms

X = np.array([[1, 2], [3, 4]], np.float32)


def ip(name: str, bottom: str, top: str, extra: str = "", outputs: int = 1) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {extra} '
        f"inner_product_param {{ num_output: {outputs} bias_term: false }} }}\n"
    )


def trainable(prototxt: str, values: dict[str, Any], **options: Any) -> TrainableNet:
    net = built(prototxt, phase="TRAIN")
    weights = {name: [np.array(value, np.float32)] for name, value in values.items()}
    return TrainableNet(net.with_weights(weights), **options)


def terms(net: Net) -> list[tuple[str, float]]:
    return [(blob.name, weight) for blob, weight in loss_terms(net)]


def test_the_loss_is_of_every_top_that_has_a_weight() -> None:
    text = one_input(2, 2) + one_input(2, 2, name="y")
    loss = 'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "l" %s }\n'
    assert terms(built(text + loss % "")) == [("l", 1)]
    assert terms(built(text + loss % "loss_weight: 0.5")) == [("l", 0.5)]
    assert terms(built(text + loss % "loss_weight: 0")) == []
    # Any layer can have one.
    power = 'layer { name: "p" type: "Power" bottom: "x" top: "p" loss_weight: 3 }\n'
    net = filled(text + loss % "" + power)
    assert terms(net) == [("l", 1), ("p", 3)]
    made = TrainableNet(net)({"x": X, "y": X + 2})
    # Sum of squares / 2 / 2 = 16 / 4 = 4; and 3 * (1 + 2 + 3 + 4).
    assert float(made.loss) == 34 and set(made.outputs) == {"l", "p"}
    # A top without a name counts too.
    assert [weight for _, weight in loss_terms(built(text + loss.replace('top: "l"', "") % ""))] == [1]


def test_a_loss_that_is_read_again_counts_once() -> None:
    text = one_input(2, 2) + one_input(2, 2, name="y")
    text += 'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "l" loss_weight: 2 }\n'
    text += 'layer { name: "s" type: "Silence" bottom: "l" }\n'
    net = filled(text)
    assert terms(net) == [("l_l_0_split_0", 2)]
    assert float(TrainableNet(net)({"x": X, "y": X + 2}).loss) == 8


def test_shared_blobs_have_one_gradient() -> None:
    share = 'param { name: "w" %s }'
    text = one_input(2, 2) + ip("a", "x", "a", share % "") + ip("b", "x", "b", share % "lr_mult: 3 decay_mult: 2")
    text += 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" loss_weight: 1 }'
    made = trainable(text, {"a": [[1, 1]]})
    (blob,) = made.blobs
    # What a sharer sets fills what the owner leaves open.
    assert (blob.weight.label, blob.lr_mult, blob.decay_mult) == ("a/0", 3, 2)
    made({"x": X}).loss.backward()
    assert blob.tensor.grad.tolist() == [[8, 12]]
    made.zero_grad()
    assert blob.tensor.grad.tolist() == [[0, 0]]


def test_blobs_shared_in_another_shape_stay_one() -> None:
    share = 'param { name: "w" share_mode: PERMISSIVE }'
    text = one_input(2, 2) + ip("a", "x", "a", share)
    text += one_input(3, 1, name="z") + ip("b", "z", "b", share, outputs=2)
    text += 'layer { name: "p" type: "Power" bottom: "a" top: "p" loss_weight: 1 }'
    text += 'layer { name: "q" type: "Power" bottom: "b" top: "q" loss_weight: 1 power_param { scale: 10 } }'
    made = trainable(text, {"a": [[1, 1]]})
    (blob,) = made.blobs
    batch = {"x": X, "z": np.ones((3, 1), np.float32)}
    made.zero_grad()
    made(batch).loss.backward()
    # (1 + 3, 2 + 4), and 10 * 3 for each.
    assert blob.tensor.grad.tolist() == [[34, 36]]
    with torch.no_grad():
        blob.tensor.fill_(2)
    # 2 * 10 of a, and 10 * (2 * 3 + 2 * 3) of b.
    assert float(made(batch).loss.detach()) == 140
    assert [weight.data.ravel().tolist() for layer in made.trained_net().layers for weight in layer.weights] == [
        [2, 2]
    ] * 2


def test_lr_mult_0_and_force_backward() -> None:
    text = one_input(2, 2) + ip("a", "x", "a", "param { lr_mult: 0 }", outputs=2) + ip("b", "a", "b")
    text += 'layer { name: "p" type: "Power" bottom: "b" top: "p" loss_weight: 1 }'
    values = {"a": [[1, 0], [0, 1]], "b": [[1, 2]]}
    frozen, forced = (trainable(text, values, force_backward=force) for force in (False, True))
    for made, want in ((frozen, None), (forced, [[4, 6], [8, 12]])):
        made({"x": X}).loss.backward()
        gradient = made.blobs[0].tensor.grad
        assert (gradient if gradient is None else gradient.tolist()) == want
        assert made.blobs[1].tensor.grad.tolist() == [[4, 6]]


def test_propagate_down_stops_a_gradient() -> None:
    text = one_input(2, 2) + ip("a", "x", "a", outputs=2) + ip("b", "a", "b", "propagate_down: false")
    text += 'layer { name: "p" type: "Power" bottom: "b" top: "p" loss_weight: 1 }'
    made = trainable(text, {"a": [[1, 0], [0, 1]], "b": [[1, 2]]})
    made({"x": X}).loss.backward()
    assert made.blobs[0].tensor.grad is None and made.blobs[1].tensor.grad.tolist() == [[4, 6]]


BN = """layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
        layer { name: "s" type: "Scale" bottom: "bn" top: "s" loss_weight: 1 }"""


def test_a_test_net_has_the_blobs_of_the_trained_one() -> None:
    text = one_input(2, 2) + BN
    train, test = (TrainableNet(built(text, phase=phase).filled()) for phase in ("TRAIN", "TEST"))
    test.share(train)
    assert all(mine.tensor is its.tensor for mine, its in zip(test.blobs, train.blobs, strict=True))
    train({"x": X})
    # Means 2 and 3; the variance 1 is unbiased by 2 / 1.
    assert [blob.tensor.tolist() for blob in test.blobs[:3]] == [[2, 3], [2, 2], [1]]
    got = test({"x": X}).outputs["s"]
    assert np.allclose(got.detach(), (X - [2, 3]) / np.sqrt(2 + 1e-5))
    other = TrainableNet(built(one_input(2, 3) + BN).filled())
    with pytest.raises(GraphError, match="'bn': its learned blobs differ between the nets of phase TRAIN and TEST"):
        other.share(train)


LABELLED = one_input(2, 3) + one_input(2, name="label")


def test_labels() -> None:
    loss = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "l" %s }'
    measure = 'layer { name: "a" type: "Accuracy" bottom: "x" bottom: "label" top: "a" }'
    net = built(LABELLED + loss % "loss_param { ignore_label: 9 }" + measure)
    assert labels_of(net) == [Labels("label", "l", 3, 9), Labels("label", "a", 3, None, False)]
    checked = labels_of(net)[0]
    for good in ([0, 2], [9, 1], [0.5, 2.9]):
        checked.check({"label": np.array(good, np.float32)}, "TRAIN")
    for bad, told in (([0, 3], "item 1 .* has label 3;"), ([-1, 0], "item 0"), ([np.nan, 0], "label nan")):
        with pytest.raises(DataError, match=f"TRAIN: layer 'l': .*{told}"):
            checked.check({"label": np.array(bad, np.float32)}, "TRAIN")
    # Targets of a regression are no labels.
    text = one_input(2, 3) + one_input(2, 3, name="y")
    assert labels_of(built(text + 'layer { name: "l" type: "EuclideanLoss" bottom: "x" bottom: "y" }')) == []

"""Losses and measures computed from labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caffe_port.layers import loss
from caffe_port.shapes import canonical_axis, count

__all__ = [
    "Accuracy",
    "HingeLoss",
    "InfogainLoss",
    "MultinomialLogisticLoss",
    "SoftmaxWithLoss",
    "floored",
    "gather_labels",
    "loss_divisor",
]


def gather_labels(labels: Tensor, scores: Tensor, axis: int, ignore: int | None) -> tuple[Tensor, Tensor]:
    """Labels as int64 with a class axis of 1 (an ignored one as 0), and which of them count (bool, the same shape)."""
    index = labels.reshape(*scores.shape[:axis], 1, *scores.shape[axis + 1 :]).to(torch.int64)
    if ignore is None:
        return index, torch.ones_like(index, dtype=torch.bool)
    counts = index != ignore
    return torch.where(counts, index, 0), counts


def loss_divisor(normalizer: loss.LossNormalizer, scores: Tensor, counts: Tensor, axis: int) -> Tensor | float:
    """What the loss is divided by (LossNormalizer)."""
    if normalizer.mode == "VALID":
        return counts.sum().clamp(min=1)
    outer, inner = count(scores.shape, 0, axis), count(scores.shape, axis + 1)
    return normalizer.divisor(outer, inner, 0)


class _Floored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float) -> Tensor:
        return x.clamp(min=least)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def floored(x: Tensor, least: float) -> Tensor:
    """max(x, least), with the gradient of x: Caffe's gradients do not stop where a probability is floored."""
    top: Tensor = _Floored.apply(x, least)  # type: ignore[no-untyped-call]
    return top


class SoftmaxWithLoss(nn.Module):
    """-log of the softmax probability of each label, normalized."""

    def __init__(self, definition: loss.SoftmaxWithLoss) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        axis = canonical_axis(self.definition.axis, scores.dim())
        index, counts = gather_labels(labels, scores, axis, self.definition.normalizer.ignore_label)
        picked = torch.log_softmax(scores, dim=axis).gather(axis, index)
        losses = -floored(picked, math.log(loss.FLT_MIN)) * counts
        return losses.sum() / loss_divisor(self.definition.normalizer, scores, counts, axis)


class Accuracy(nn.Module):
    """Share of positions whose label is among the top_k scores; ties count against."""

    def __init__(self, definition: loss.Accuracy) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        axis = canonical_axis(self.definition.axis, scores.dim())
        index, counts = gather_labels(labels, scores, axis, self.definition.ignore_label)
        rank = (scores >= scores.gather(axis, index)).sum(dim=axis, keepdim=True)
        right = (rank <= self.definition.top_k) & counts
        total = (right.sum() / counts.sum().clamp(min=1)).to(scores.dtype)
        if self.definition.num_tops == 1:
            return (total,)
        classes = torch.arange(scores.shape[axis], device=scores.device)
        is_class = index == classes.reshape(-1, *[1] * (scores.dim() - 1 - axis))
        others = [i for i in range(scores.dim()) if i != axis]
        hits, seen = (is_class & right).sum(dim=others), (is_class & counts).sum(dim=others)
        return total, (hits / seen.clamp(min=1)).to(scores.dtype)


class HingeLoss(nn.Module):
    """Margins of the label's score and of the others', summed (L2: squared), by item."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores = scores.flatten(1)
        is_label = labels.reshape(-1, 1).to(torch.int64) == torch.arange(scores.shape[1], device=scores.device)
        margins = torch.relu(1 + torch.where(is_label, -scores, scores))
        if self.norm == "L2":
            margins = margins * margins
        return margins.sum() / len(scores)

    def extra_repr(self) -> str:
        return f"norm={self.norm}"


class MultinomialLogisticLoss(nn.Module):
    """Mean of -log(probability of the label)."""

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        flat = probabilities.flatten(1)
        picked = flat.gather(1, labels.reshape(-1, 1).to(torch.int64))
        return -floored(picked, loss.LOG_THRESHOLD).log().sum() / len(flat)


class InfogainLoss(nn.Module):
    """Mean of -sum over classes l of H[label, l] * log(p_l), p the softmax of the scores."""

    matrix: Tensor | None

    def __init__(self, definition: loss.InfogainLoss) -> None:
        super().__init__()
        self.definition = definition
        matrix = definition.matrix
        values = None if matrix is None else torch.from_numpy(np.array(matrix, dtype=np.float32))
        self.register_buffer("matrix", values, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor, matrix: Tensor | None = None) -> tuple[Tensor, ...]:
        matrix = self.matrix if matrix is None else matrix
        assert matrix is not None
        axis = canonical_axis(self.definition.axis, scores.dim())
        classes = scores.shape[axis]
        index, counts = gather_labels(labels, scores, axis, self.definition.normalizer.ignore_label)
        logs = floored(torch.log_softmax(scores, dim=axis), math.log(loss.LOG_THRESHOLD))
        gains = matrix.reshape(classes, classes)[index.squeeze(axis)].movedim(-1, axis)
        amount = loss_divisor(self.definition.normalizer, scores, counts, axis)
        top = -(gains * logs * counts).sum() / amount
        return (top, torch.softmax(scores, dim=axis)) if self.definition.num_tops == 2 else (top,)

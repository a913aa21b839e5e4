"""Losses and measures computed from labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.layers import loss
from caffe_port.shapes import canonical_axis, count

__all__ = ["Accuracy", "SoftmaxWithLoss", "gather_labels", "loss_divisor"]


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


class SoftmaxWithLoss(nn.Module):
    """-log of the softmax probability of each label, normalized."""

    def __init__(self, definition: loss.SoftmaxWithLoss) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        axis = canonical_axis(self.definition.axis, scores.dim())
        index, counts = gather_labels(labels, scores, axis, self.definition.normalizer.ignore_label)
        picked = torch.softmax(scores, dim=axis).gather(axis, index)
        losses = -picked.clamp(min=loss.FLT_MIN).log() * counts
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

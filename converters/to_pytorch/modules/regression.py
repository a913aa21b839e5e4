"""Losses against targets of the scores' own shape, and between pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.converters.to_pytorch.modules.loss import loss_divisor
from caffe_port.layers import regression

__all__ = ["ContrastiveLoss", "EuclideanLoss", "SigmoidCrossEntropyLoss"]


class EuclideanLoss(nn.Module):
    """sum (a - b)^2 / 2N."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b.reshape(a.shape)
        return (difference * difference).sum() / (2 * len(a))


class SigmoidCrossEntropyLoss(nn.Module):
    """Cross entropy of sigmoid(x) and a target, summed and normalized. No gradient goes to the target, as in Caffe."""

    def __init__(self, definition: regression.SigmoidCrossEntropyLoss) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        normalizer = self.definition.normalizer
        target = target.detach().reshape(x.shape)
        losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        counts = torch.ones_like(x, dtype=torch.bool)
        if normalizer.ignore_label is not None:
            counts = target.to(torch.int64) != normalizer.ignore_label
        return (losses * counts).sum() / loss_divisor(normalizer, x.flatten(1)[:, None], counts, 1)


class ContrastiveLoss(nn.Module):
    """Pulls similar pairs together and pushes others a margin apart."""

    def __init__(self, definition: regression.ContrastiveLoss) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        squares = ((a - b) ** 2).flatten(1).sum(dim=1)
        if self.definition.legacy_version:
            apart = torch.relu(self.definition.margin - squares)
        else:
            apart = torch.relu(self.definition.margin - _distance(squares)) ** 2
        is_similar = similar.reshape(-1).to(torch.int64) != 0
        return torch.where(is_similar, squares, apart).sum() / (2 * len(a))

    def extra_repr(self) -> str:
        return str(self.definition)


def _distance(squares: Tensor) -> Tensor:
    """sqrt(squares), with Caffe's gradient: 1 / (2 (sqrt + 1e-4)), finite for a pair of equals."""
    distance = squares.detach().sqrt()
    return distance + (squares - squares.detach()) / (2 * (distance + 1e-4))

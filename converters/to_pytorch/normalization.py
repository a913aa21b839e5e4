"""LRN, BatchNorm and MVN in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import normalization
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "LRN")
def _lrn(layer: Layer, lrn: normalization.LRN) -> nn.Module:
    if not lrn.within_channel:
        from torch import nn

        return nn.LocalResponseNorm(lrn.local_size, alpha=lrn.alpha, beta=lrn.beta, k=lrn.k)
    from caffe_port.converters.to_pytorch.modules.normalization import LRNWithinChannel

    return LRNWithinChannel(lrn.local_size, lrn.alpha, lrn.beta)


@emitter("pytorch", "BatchNorm")
def _batch_norm(layer: Layer, norm: normalization.BatchNorm | normalization.ScaledBatchNorm) -> nn.Module:
    if isinstance(norm, normalization.ScaledBatchNorm):
        from caffe_port.converters.to_pytorch.modules.normalization import ScaledBatchNorm

        return ScaledBatchNorm(layer.bottoms[0].shape[1], norm)
    from caffe_port.converters.to_pytorch.modules.normalization import BatchNorm

    return BatchNorm(layer.bottoms[0].shape[1], norm)


@emitter("pytorch", "MVN")
def _mvn(layer: Layer, mvn: normalization.MVN) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.normalization import MVN

    return MVN(mvn)

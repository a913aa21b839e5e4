"""Proposals and pooling of regions of interest, in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import roi
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "ROIPooling")
def _roi_pooling(layer: Layer, pooling: roi.ROIPooling) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.roi import ROIPooling

    return ROIPooling(pooling)


@emitter("pytorch", "PSROIPooling")
def _psroi_pooling(layer: Layer, pooling: roi.PSROIPooling) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.roi import PSROIPooling

    return PSROIPooling(pooling)


@emitter("pytorch", "Proposal", "rpn.proposal_layer.ProposalLayer")
def _proposal(layer: Layer, proposal: roi.Proposing) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.roi import Proposal

    return Proposal(proposal)

"""LSTM, LSTMUnit and RNN in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe_port.layers import recurrent
from caffe_port.net import Layer
from caffe_port.registry import emitter

if TYPE_CHECKING:
    from torch import nn


@emitter("pytorch", "LSTMUnit")
def _unit(layer: Layer, unit: recurrent.LSTMUnit) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.recurrent import LSTMUnit

    return LSTMUnit()


@emitter("pytorch", "LSTM")
def _lstm(layer: Layer, lstm: recurrent.LSTM) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.recurrent import LSTM

    return LSTM(lstm, [weight.shape for weight in layer.weights])


@emitter("pytorch", "RNN")
def _rnn(layer: Layer, rnn: recurrent.RNN) -> nn.Module:
    from caffe_port.converters.to_pytorch.modules.recurrent import RNN

    return RNN(rnn, [weight.shape for weight in layer.weights])

"""Learned blobs of a net that is being built, shared by name as Net::AppendParam (net.cpp) does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from caffe_port.errors import GraphError, ShapeError, UnsupportedParameter
from caffe_port.fillers import Filler
from caffe_port.layer_plans import LayerPlan, ParamSpec
from caffe_port.layers.base import WeightSpec
from caffe_port.net import Weight
from caffe_port.shapes import check_shape, count, format_shape

__all__ = ["WeightSharing"]


class WeightSharing:
    """Makes learned blobs, shared by `param` name as Net::AppendParam does."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[Weight, ParamSpec]] = {}

    def make(self, _index: int, plan: LayerPlan, specs: Sequence[WeightSpec]) -> tuple[Weight, ...]:
        assert plan.definition is not None
        if len(plan.params) > len(specs):
            raise GraphError(f"{len(plan.params)} param entries for {len(specs)} learned blobs")
        frozen = plan.definition.frozen_weights
        weights = []
        for i, spec in enumerate(specs):
            param = plan.params[i] if i < len(plan.params) else ParamSpec()
            if frozen and param.lr_mult:
                raise UnsupportedParameter(
                    f"lr_mult of learned blob {i} must be 0: {plan.type} computes it, nobody learns it"
                )
            default = 0.0 if frozen else 1.0
            weight = Weight(
                layer=plan.name,
                index=i,
                shape=check_shape(spec.shape),
                name=param.name,
                lr_mult=default if param.lr_mult is None else param.lr_mult,
                decay_mult=1.0 if param.decay_mult is None else param.decay_mult,
                filler=spec.filler,
                default_fill=spec.default_fill,
            )
            if spec.filler is not None and not plan.has_blobs:
                Filler.parse(spec.filler).check(weight.shape)
            if param.name:
                weight = self._share(plan, weight, param)
            weights.append(weight)
        return tuple(weights)

    def _share(self, plan: LayerPlan, weight: Weight, param: ParamSpec) -> Weight:
        if param.name not in self._owners:
            self._owners[param.name] = (weight, param)
            return weight
        owner, owner_param = self._owners[param.name]
        if param.permissive:
            if count(owner.shape) != count(weight.shape):
                raise ShapeError(
                    f"shares param {param.name!r} with {owner.label}: {count(weight.shape)} elements here, "
                    f"{count(owner.shape)} there"
                )
        elif owner.shape != weight.shape:
            raise ShapeError(
                f"shares param {param.name!r} with {owner.label}: shape {format_shape(weight.shape)} here, "
                f"{format_shape(owner.shape)} there"
            )
        for what in ("lr_mult", "decay_mult"):
            mine, theirs = getattr(param, what), getattr(owner_param, what)
            if mine is not None and theirs is not None and mine != theirs:
                raise GraphError(
                    f"shares param {param.name!r} with {owner.label}, with another {what}: {mine:g}, not {theirs:g}"
                )
        # An explicit multiplier of the sharer would fill in an unset one of the owner; only training would notice.
        return replace(weight, owner=owner, lr_mult=owner.lr_mult, decay_mult=owner.decay_mult)

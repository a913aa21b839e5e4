"""What the parts of a module that `to_pytorch` makes are called; to be known without PyTorch."""

from __future__ import annotations

import keyword
import unicodedata
from collections import Counter

from caffe_port import registry
from caffe_port.layers.affine import Bias, Scale
from caffe_port.layers.fork_normalization import BN
from caffe_port.layers.normalization import BatchNorm, ScaledBatchNorm
from caffe_port.layers.recurrent import LSTM, RNN
from caffe_port.layers.sequence import Lstm
from caffe_port.net import Layer, Net
from caffe_port.optional import require_torch

__all__ = ["RESERVED", "child_names", "learned_names"]

_ATTRIBUTES = """
T_destination __annotations__ __call__ __class__ __delattr__ __dict__ __dir__ __doc__ __eq__ __format__ __ge__
__getattr__ __getattribute__ __getstate__ __gt__ __hash__ __init__ __init_subclass__ __le__ __lt__ __module__ __ne__
__new__ __reduce__ __reduce_ex__ __repr__ __setattr__ __setstate__ __sizeof__ __str__ __subclasshook__ __weakref__
_apply _backward_hooks _backward_pre_hooks _buffers _call_impl _compiled_call_impl _forward_hooks
_forward_hooks_always_called _forward_hooks_with_kwargs _forward_pre_hooks _forward_pre_hooks_with_kwargs
_get_backward_hooks _get_backward_pre_hooks _get_name _inputs _is_full_backward_hook _load_from_state_dict
_load_state_dict_post_hooks _load_state_dict_pre_hooks _maybe_warn_non_full_backward_hook _modules _named_members
_non_persistent_buffers_set _outputs _parameters _register_load_state_dict_pre_hook _register_state_dict_hook
_replicate_for_data_parallel _run _save_to_state_dict _slots _slow_forward _state_dict_hooks _state_dict_pre_hooks
_steps _version _wrapped_call_impl add_module apply bfloat16 buffers call_super_init children compile cpu cuda
double dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half
input_names ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters
output_names parameters register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to to_empty trace
train training type value_slots values_of xpu zero_grad
"""

RESERVED = frozenset(_ATTRIBUTES.split())
"""Names that no child can have: those of a GraphModule's own attributes. Written down, so that a layer's name does not
change with the version of PyTorch; a test holds it to the attributes there are."""


_NOT_IN_PROGRAMS = "\"'\\.,;()[]"
"""What ends a string in code, and what torch.export separates names by."""


def child_names(net: Net) -> dict[Layer, str]:
    """The name of each computing layer's child module: Caffe's, made fit for an attribute (not `class`) and unique."""
    names: dict[Layer, str] = {}
    taken: set[str] = set()
    counts: Counter[str] = Counter()
    for layer in net.layers:
        if layer.definition.is_input or layer.type == "Split":
            continue
        wanted = _child_name(layer.name) or layer.type
        name = wanted
        while name in RESERVED or name in taken or keyword.iskeyword(name):
            counts[wanted] += 1
            name = f"{wanted}_{counts[wanted]}"
        taken.add(name)
        names[layer] = name
    return names


def _child_name(text: str) -> str:
    """A name that can neither get out of its place in an exported program nor make it unreadable: torch.fx writes
    `getattr(self, "NAME")` into the code that it makes of one, unescaped, and runs it.
    """
    # Python reads identifiers in this form, wherever torch.fx writes the name as one.
    text = unicodedata.normalize("NFKC", text)
    return "".join(char if char.isprintable() and char not in _NOT_IN_PROGRAMS else "_" for char in text)


def learned_names(layer: Layer) -> tuple[str, ...]:
    """The attributes of a layer's child module that are its learned blobs, in Caffe's order.

    Raises: MissingDependency for a plug-in's layer without PyTorch, which alone knows.
    """
    definition = layer.definition
    if not type(definition).__module__.startswith("caffe_port.layers."):
        return _names_of_module(layer)
    if isinstance(definition, BatchNorm):
        return "mean_sum", "variance_sum", "factor"
    if isinstance(definition, ScaledBatchNorm):
        return ("mean", "variance", "factor", "weight", "bias")[: len(layer.weights)]
    if isinstance(definition, BN):
        return ("weight", "bias", "mean", "variance")[: len(layer.weights)]
    if isinstance(definition, Lstm):
        return "weight_x", "weight_h", "bias"
    if isinstance(definition, (LSTM, RNN)):
        static = ("weight_static",) if definition.has_static else ()
        return "weight_x", "bias", *static, *(("weight_h",) if isinstance(definition, LSTM) else _RNN)
    if isinstance(definition, Bias) or (isinstance(definition, Scale) and len(layer.bottoms) == 2):
        return ("bias",)[: len(layer.weights)]
    return ("weight", "bias")[: len(layer.weights)]


_RNN = ("weight_h", "weight_o", "bias_o")


def _names_of_module(layer: Layer) -> tuple[str, ...]:
    if not layer.weights:
        return ()
    registry.require_expressible("pytorch", [layer])
    require_torch()
    from caffe_port.converters.to_pytorch.modules.graph import blob_names

    emit = registry.find_emitter("pytorch", layer.type)
    assert emit is not None
    return blob_names(emit(layer, layer.definition))

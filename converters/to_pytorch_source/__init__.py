"""Net → one Python file that defines it as a person would: an nn.Module of PyTorch's own parts, without caffe_port.

`translation` walks over a net and turns layers into the calls of a `graph`, by functions that stand in files by family,
as the layers do; importing those registers them. `blocks` finds what is repeated (`parts`, `parameters`) and makes
classes of it, `stages` joins their uses, `writing` makes the text, and `names` makes what Caffe calls things fit for
Python. None of them imports torch; loading a written file does.
"""

from caffe_port.converters.to_pytorch_source import (  # noqa: F401
    activation,
    affine,
    arrangement,
    convolution,
    dense,
    loss,
    mobile,
    normalization,
    pooling,
    reduction,
    selection,
    structure,
    upsampling,
)
from caffe_port.converters.to_pytorch_source.export import (
    PyTorchSource,
    load_module,
    require_writable,
    to_pytorch_source,
)

__all__ = ["PyTorchSource", "load_module", "require_writable", "to_pytorch_source"]

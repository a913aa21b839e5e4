"""Net → one Python file that defines it as a person would: an nn.Module of PyTorch's own parts, without caffe_port.

`operations` turns layers into calls, `blocks` finds what is repeated and makes classes of it, `writing` makes the text,
`names` makes what Caffe calls things fit for Python. None of them imports torch; loading a written file does.
"""

from caffe_port.converters.to_pytorch_source.export import (
    PyTorchSource,
    load_module,
    require_writable,
    to_pytorch_source,
)

__all__ = ["PyTorchSource", "load_module", "require_writable", "to_pytorch_source"]

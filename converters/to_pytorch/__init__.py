"""Net → PyTorch: an nn.Module whose children are Caffe's layers under Caffe's names.

The emitters stand in files by family, as the layers do; importing them registers them, and imports no torch: that is
done by `modules`, which an emitter imports when it is called.
"""

from caffe_port.converters.to_pytorch import (  # noqa: F401
    activation,
    affine,
    arrangement,
    convolution,
    data,
    dense,
    detection,
    detection_loss,
    fork_normalization,
    loss,
    mobile,
    normalization,
    pooling,
    python,
    recurrent,
    reduction,
    regression,
    roi,
    selection,
    sequence,
    structure,
    upsampling,
    yolo,
)
from caffe_port.converters.to_pytorch.export import to_pytorch
from caffe_port.converters.to_pytorch.names import child_names

__all__ = ["child_names", "to_pytorch"]

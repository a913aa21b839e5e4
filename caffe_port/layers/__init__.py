"""The layer types, a file a family. Importing this package declares them all."""

from caffe_port.layers import (  # noqa: F401
    activation,
    affine,
    convolution,
    data,
    dense,
    loss,
    normalization,
    pooling,
    python,
    recurrent,
    reduction,
    regression,
    selection,
    structure,
)

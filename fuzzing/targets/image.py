"""An image: decoded as it is, as Caffe's layers take it, and made into the input of a net.

Images of more than a million pixels are refused, so that an execution is short; the limit is adjustable as it is here.
"""

from __future__ import annotations

from caffe_port.datasets import images
from caffe_port.image_files import rgb_pixels
from caffe_port.limits import limits
from caffe_port.preprocessing import Preprocessing
from caffe_port.scoring.preprocess import tensor
from fuzzing.inputs import refused

READS = ("caffe_port.image_files", "caffe_port.scoring.preprocess", "caffe_port.datasets.images")

_STEPS = Preprocessing(resize=(12, 10), crop=(8, 8), mean=(1.0, 2.0, 3.0))
_OPENCV = Preprocessing(resize=(12, 10), interpolation="opencv", channel_order="grey")


def once(data: bytes) -> None:
    with limits.adjusted(image_pixels=10**6):
        with refused:
            rgb_pixels(data)
        with refused:
            images.decode(data)
        for steps in (_STEPS, _OPENCV):
            with refused:
                tensor(data, steps)

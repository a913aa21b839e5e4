"""What a JPEG file of quality 75 makes of a picture, as nodes of an ONNX graph: libjpeg-turbo's own integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from caffe_port.converters.to_onnx.picture_steps import DOUBLE, Steps, int64

__all__ = ["grey_jpeg_round_trip", "jpeg_round_trip"]

_LUMINANCE = """
16 11 10 16  24  40  51  61
12 12 14 19  26  58  60  55
14 13 16 24  40  57  69  56
14 17 22 29  51  87  80  62
18 22 37 56  68 109 103  77
24 35 55 64  81 104 113  92
49 64 78 87 103 121 120 101
72 92 95 98 112 100 103  99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99
18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99
"""

# libjpeg's fixed-point numbers: 16 bits in the colour conversion, 13 in the DCT, whose first pass leaves 2 more bits.
_TO_YCC = [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]]
_CR_TO_R, _CB_TO_B, _CB_TO_G, _CR_TO_G = 91881, 116130, -22554, -46802
_CONST_BITS, _PASS1_BITS = 13, 2


def jpeg_round_trip(steps: Steps, picture: str, size: tuple[int, int]) -> str:
    """uint8 (height, width, 3) → float64 of the same shape with what libjpeg-turbo makes of it, 4:2:0, quality 75.

    Source: libjpeg-turbo, jccolor.c, jcsample.c, jfdctint.c, jcdctmgr.c, jidctint.c, jdsample.c, jdcolor.c.
    """
    op = steps.op
    height, width = size
    planes = op("Cast", op("Transpose", picture, perm=[2, 0, 1]), to=DOUBLE)
    bias = np.array([32768.0, (128 << 16) + 32767, (128 << 16) + 32767]).reshape(3, 1)
    ycc = op("MatMul", np.array(_TO_YCC, np.float64), op("Reshape", planes, int64(3, -1)))
    ycc = op("Reshape", steps.shifted(ycc, 16, bias), int64(3, height, width))
    luma = op("Slice", ycc, int64(0), int64(1), int64(0))
    luma = _coded(steps, _padded(steps, luma, size, (8, 8)), (_up(height, 8), _up(width, 8)), _LUMINANCE)

    # Chroma: means of 2x2 pixels, rounded down and up by turns; padded before and, below, after.
    rows, columns = _up(height, 2) // 2, _up(width, 16) // 2
    chroma = _padded(steps, op("Slice", ycc, int64(1), int64(3), int64(0)), size, (2, 16))
    squares = op("Reshape", chroma, int64(2, rows, 2, columns, 2))
    chroma = steps.shifted(
        op("ReduceSum", squares, int64(2, 4), keepdims=0), 2, np.arange(columns, dtype=np.float64) % 2 + 1
    )
    chroma = _padded(steps, chroma, (rows, columns), (8, 8))
    chroma = _coded(steps, chroma, (_up(rows, 8), columns), _CHROMINANCE)
    chroma = _upsampled(steps, chroma, size)

    y = op("Slice", luma, int64(0, 0), int64(height, width), int64(1, 2))
    cb, cr = (
        op("Sub", op("Slice", chroma, int64(i), int64(i + 1), int64(0)), 128.0) for i in range(2)
    )  # each (1, height, width)
    red = steps.shifted(op("Mul", cr, float(_CR_TO_R)), 16)
    green = steps.shifted(op("Add", op("Mul", cb, float(_CB_TO_G)), op("Mul", cr, float(_CR_TO_G))), 16)
    blue = steps.shifted(op("Mul", cb, float(_CB_TO_B)), 16)
    rgb = steps.clipped(op("Add", y, op("Concat", red, green, blue, axis=0)))
    return op("Transpose", rgb, perm=[1, 2, 0])


def grey_jpeg_round_trip(steps: Steps, picture: str, size: tuple[int, int]) -> str:
    """uint8 (height, width, 1) → float64 of the same shape: a grey JPEG has its luminance alone."""
    height, width = size
    plane = steps.op("Cast", steps.op("Transpose", picture, perm=[2, 0, 1]), to=DOUBLE)
    coded = _coded(steps, _padded(steps, plane, size, (8, 8)), (_up(height, 8), _up(width, 8)), _LUMINANCE)
    cut = steps.op("Slice", coded, int64(0, 0), int64(height, width), int64(1, 2))
    return steps.op("Transpose", cut, perm=[1, 2, 0])


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def _padded(steps: Steps, x: str, size: tuple[int, int], step: tuple[int, int]) -> str:
    """(c, h, w), with its last row and column repeated up to multiples of `step`."""
    for axis, (n, multiple) in enumerate(zip(size, step, strict=True), 1):
        if n % multiple:
            x = steps.op("Gather", x, np.minimum(np.arange(_up(n, multiple)), n - 1), axis=axis)
    return x


def _coded(steps: Steps, x: str, size: tuple[int, int], base: str) -> str:
    """(c, h, w), whole blocks of 8x8, through DCT and quantisation and back: integers 0 … 255."""
    op = steps.op
    height, width = size
    # Quality 75 halves the base table. `step` is by horizontal, then vertical frequency, as the blocks are below.
    step = np.clip((np.array(base.split(), np.float64).reshape(8, 8) * 50 + 50) // 100, 1, 255).T
    dct = _islow_dct()
    blocks = op("Reshape", op("Sub", x, 128.0), int64(-1, height // 8, 8, width // 8, 8))
    rows = steps.shifted(op("MatMul", blocks, dct.T), _CONST_BITS - _PASS1_BITS)
    rows = op("Transpose", rows, perm=[0, 1, 3, 4, 2])
    # This DCT's results are 8 times too large, which the quantisation takes back. It rounds halves away from zero.
    frequencies = steps.shifted(op("MatMul", rows, dct.T), _CONST_BITS + _PASS1_BITS)
    levels = op("Floor", op("Div", op("Add", op("Abs", frequencies), 4 * step), 8 * step))
    coefficients = op("Mul", op("Mul", op("Sign", frequencies), levels), step)
    columns = steps.shifted(op("MatMul", coefficients, dct), _CONST_BITS - _PASS1_BITS)
    columns = op("Transpose", columns, perm=[0, 1, 4, 2, 3])
    values = steps.shifted(op("MatMul", columns, dct), _CONST_BITS + _PASS1_BITS + 3)
    return op("Reshape", steps.clipped(op("Add", values, 128.0)), int64(-1, height, width))


def _islow_dct() -> npt.NDArray[np.float64]:
    """libjpeg's integer DCT of 8 values as a matrix (frequency, place), 13 bits after the point; integers.

    It rounds nowhere but at the end of a pass, so it is linear; the inverse is the transpose.
    Source: libjpeg-turbo, jfdctint.c (Loeffler, Ligtenberg and Moschytz 1989).
    """
    d = np.eye(8)
    tmp0, tmp1, tmp2, tmp3 = d[0] + d[7], d[1] + d[6], d[2] + d[5], d[3] + d[4]
    tmp7, tmp6, tmp5, tmp4 = d[0] - d[7], d[1] - d[6], d[2] - d[5], d[3] - d[4]
    tmp10, tmp11, tmp12, tmp13 = tmp0 + tmp3, tmp1 + tmp2, tmp1 - tmp2, tmp0 - tmp3
    z1, z2, z3, z4 = -7373 * (tmp4 + tmp7), -20995 * (tmp5 + tmp6), -16069 * (tmp4 + tmp6), -3196 * (tmp5 + tmp7)
    z5 = 9633 * (tmp4 + tmp6 + tmp5 + tmp7)
    even = 4433 * (tmp12 + tmp13)
    return np.array(
        [
            8192 * (tmp10 + tmp11),
            12299 * tmp7 + z1 + z4 + z5,
            even + 6270 * tmp13,
            25172 * tmp6 + z2 + z3 + z5,
            8192 * (tmp10 - tmp11),
            16819 * tmp5 + z2 + z4 + z5,
            even - 15137 * tmp12,
            2446 * tmp4 + z1 + z3 + z5,
        ]
    )


def _upsampled(steps: Steps, chroma: str, size: tuple[int, int]) -> str:
    """(2, rows, columns) → (2, height, width): "fancy" upsampling, 3/4 of the nearer and 1/4 of the farther value."""
    op = steps.op
    fancy = _up(size[1], 2) // 2 > 2  # Narrower pictures have each value repeated.
    for axis, n in enumerate(size, 1):
        places = np.arange(n)
        near = op("Gather", chroma, places // 2, axis=axis)
        if fancy:
            far = np.clip(places // 2 + np.where(places % 2, 1, -1), 0, (n - 1) // 2)
            near = op("Add", op("Mul", near, 3.0), op("Gather", chroma, far, axis=axis))
        chroma = near
    return steps.shifted(chroma, 4, 8 - np.arange(size[1], dtype=np.float64) % 2) if fancy else chroma

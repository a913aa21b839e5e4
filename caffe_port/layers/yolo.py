"""YOLO as forks have it: the rearrangement of version 2, and detections from versions 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import GraphError, ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.layers.boxes import Suppression, not_found, ranked
from caffe_port.registry import layer
from caffe_port.shapes import Shape, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Reorg", "Yolo", "YoloBoxes", "YoloDetectionOutput", "Yolov3Boxes", "Yolov3DetectionOutput"]


@layer("Reorg")
@dataclass(frozen=True, slots=True)
class Reorg(LayerDef):
    """Darknet's reorganisation: the values of blocks of stride x stride cells spread over channels, or back (reverse).

    It is not the plain one: a bottom of C channels is read as if it had C / stride^2, of a map stride times as large.
    Shapes: (N, C, H, W) → (N, C * s^2, H / s, W / s); with reverse (N, C / s^2, H * s, W * s).
    Raises: UnsupportedParameter for a stride that is not above 0; ShapeError where it does not divide.
    Source: eric612/MobileNet-YOLO, reorg_layer.cpp (choasup/caffe-yolo9000's), after pjreddie/darknet, blas.c.
    """

    stride: int
    reverse: bool = False

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("reorg_param")
        if params.integer("stride") <= 0:
            raise refuse(f"stride must be given, above 0: {params.integer('stride')}")
        return cls(params.integer("stride"), params.flag("reverse"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        n, c, h, w = (legacy_dim(bottoms[0], axis) for axis in range(4))
        s = self.stride
        if c % (s * s) or (not self.reverse and (h % s or w % s)):
            raise ShapeError(
                f"stride {s} does not divide {format_shape(bottoms[0])}: channels by its square, and sides"
            )
        return [(n, c // (s * s), h * s, w * s)] if self.reverse else [(n, c * s * s, h // s, w // s)]

    def plan(self, bottom: Shape) -> tuple[Shape, tuple[int, ...]]:
        """The bottom's dims split (but for the first), and the order of the axes: top = bottom.reshape.transpose."""
        _, c, h, w = (legacy_dim(bottom, axis) for axis in range(4))
        s = self.stride
        inner = c // (s * s)
        if self.reverse:
            return (s, s, inner, h, w), (0, 3, 4, 1, 5, 2)
        return (inner, h, s, w, s), (0, 3, 5, 1, 2, 4)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        (x,) = bottoms
        dims, order = self.plan(x.shape)
        return [x.reshape(len(x), *dims).transpose(order).reshape(self.top_shapes([x.shape])[0])]


@dataclass(frozen=True, slots=True)
class Yolo(LayerDef):
    """What the layers of versions 2 and 3 have in common: each cell of square maps predicts a box for each anchor.

    Of all candidates, of all images and classes together, greedy suppression from the highest confidence on (equal ones
    in the order of map, image, cell, anchor, class, which the fork leaves to std::sort); an overlap equal to
    nms_threshold suppresses. Rows: 0 (whatever the image), class + 1, confidence, left, top, right, bottom; as the
    fork. Nothing found gives a row an image, its index and -1s.
    """

    tops = Count(1, 1)
    data_dependent = True
    free_axis = 2

    num_classes: int
    num_box: int
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    """Width and height of the anchors, by bottom; as parts of the map's width and height when divided by `units`."""
    units: tuple[int, ...]
    """By bottom: what the map's side is multiplied by to be in the anchors' units."""
    confidence_threshold: float
    suppression: Suppression

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        channels = self.num_box * (5 + self.num_classes)
        for index, shape in enumerate(bottoms):
            if len(shape) != 4 or shape[1] != channels or shape[2] != shape[3] or shape[0] != bottoms[0][0]:
                raise ShapeError(f"bottom[{index}] is {format_shape(shape)}; it must be a square map, Nx{channels}xSxS")
        return [(1, 1, 1, 7)]

    def probabilities(self, x: Array) -> Array:
        """Of classes, from their values (…, C)."""
        raise NotImplementedError

    def candidates(self, values: Array) -> tuple[Array, Array]:
        """Confidences and labels of candidates (…, C or 1), from values (…, 5 + C)."""
        raise NotImplementedError

    def accepts(self, confidence: Array) -> Array:
        """Which confidences make a candidate."""
        raise NotImplementedError

    def scores(self, values: Array) -> Array:
        """The confidence of each class (…, C), from values (…, 5 + C)."""
        return np.asarray(self.probabilities(values[..., 5:]) * _sigmoid(values[..., 4:5]))

    def decoded(self, x: Array, bottom: int) -> tuple[Array, Array]:
        """Centres and sizes (N, S * S * num_box, 4), and all values (N, S * S * num_box, 5 + C), of one bottom."""
        images, side = len(x), x.shape[2]
        real = x.dtype.type
        values = x.reshape(images, self.num_box, -1, side * side).transpose(0, 3, 1, 2)
        cells = np.stack([np.arange(side * side) % side, np.arange(side * side) // side], axis=-1).astype(x.dtype)
        anchors = np.array(self.anchors[bottom], x.dtype)
        centres = (cells[:, None] + _sigmoid(values[..., :2])) / real(side)
        with np.errstate(over="ignore"):
            sizes = np.exp(values[..., 2:4]) * anchors / real(side * self.units[bottom])
        boxes = np.concatenate([centres, sizes], axis=-1).reshape(images, -1, 4)
        return boxes, values.reshape(*boxes.shape[:2], -1)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        found: list[tuple[Array, Array, Array]] = []
        for index, bottom in enumerate(bottoms):
            boxes, values = self.decoded(bottom, index)
            confidence, labels = self.candidates(values)
            chosen = self.accepts(confidence)
            found.append((boxes[np.nonzero(chosen)[:2]], confidence[chosen], labels[chosen]))
        boxes, confidence, labels = (np.concatenate(part) for part in zip(*found, strict=True))
        order = ranked(confidence)
        boxes, confidence, labels = boxes[order], confidence[order], labels[order]
        corners = _corners(boxes)
        with np.errstate(all="ignore"):
            sizes = boxes[:, 2] * boxes[:, 3]
        kept = self.suppression.kept(corners, sizes)
        if not kept:
            return [not_found(len(bottoms[0]), boxes.dtype)[None, None]]
        image = np.zeros(len(kept), boxes.dtype)
        rows = np.column_stack([image, (labels[kept] + 1).astype(boxes.dtype), confidence[kept], corners[kept]])
        return [rows[None, None]]


def _corners(boxes: Array) -> Array:
    """Left, top, right, bottom of centres and sizes (…, 4)."""
    halves = boxes[..., 2:] / boxes.dtype.type(2)
    return np.concatenate([boxes[..., :2] - halves, boxes[..., :2] + halves], axis=-1)


def _sigmoid(x: Array) -> Array:
    one = x.dtype.type(1)
    with np.errstate(over="ignore"):
        return np.asarray(one / (one + np.exp(-x)))


def _anchors(biases: Sequence[float]) -> tuple[tuple[float, float], ...]:
    if len(biases) % 2 or not biases:
        raise refuse(f"{len(biases)} biases; give a width and a height for each anchor")
    return tuple(zip(biases[::2], biases[1::2], strict=True))


@layer("YoloDetectionOutput")
@dataclass(frozen=True, slots=True)
class YoloDetectionOutput(Yolo):
    """Detections of YOLO version 2: a candidate a box, of its most likely class.

    The class is the highest after softmax, the lower index among equals; confidence is sigmoid(objectness) times its
    probability, at least confidence_threshold. Shapes: one or two maps (N, num_box * (5 + C), S, S) → (1, 1, rows, 7).
    See Yolo for order and rows. Raises: UnsupportedParameter for another number of coordinates than 4 or of biases than
    twice num_box; ShapeError for maps that do not fit. Source: eric612/MobileNet-YOLO, yolo_detection_output_layer.cpp.
    """

    bottoms = Count(1, 2)

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("yolo_detection_output_param")
        params.inert("side", "label_map_file")
        anchors = _anchors(params.reals("biases"))
        if params.integer("coords") != 4:
            raise refuse(f"coords must be 4, it is {params.integer('coords')}")
        if len(anchors) < params.integer("num_box") or not params.has("num_classes"):
            raise refuse(f"num_classes must be given, and 2 biases for each of the {params.integer('num_box')} boxes")
        maps = len(spec.message.bottom)
        return cls(
            num_classes=params.integer("num_classes"),
            num_box=params.integer("num_box"),
            anchors=(anchors[: params.integer("num_box")],) * maps,
            units=(1,) * maps,
            confidence_threshold=params.real("confidence_threshold"),
            suppression=Suppression(params.real("nms_threshold"), inclusive=True),
        )

    def probabilities(self, x: Array) -> Array:
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True, dtype=x.dtype))

    def candidates(self, values: Array) -> tuple[Array, Array]:
        label = np.argmax(values[..., 5:], axis=-1)[..., None]
        return self.scores(values).max(axis=-1, keepdims=True), label

    def accepts(self, confidence: Array) -> Array:
        return np.asarray(confidence >= confidence.dtype.type(self.confidence_threshold))


@layer("Yolov3DetectionOutput")
@dataclass(frozen=True, slots=True)
class Yolov3DetectionOutput(Yolo):
    """Detections of YOLO version 3: every class of a box is a candidate.

    Confidence is sigmoid(class) * sigmoid(objectness), above confidence_threshold. The masks are divided evenly between
    the bottoms; map t counts anchors in pixels of an image anchors_scale[t] times its side.
    Shapes: mask_group_num maps (N, num_box * (5 + C), S, S) → (1, 1, rows, 7). See Yolo for order and rows.
    Raises: UnsupportedParameter for masks and scales that do not fit; GraphError for another number of bottoms than
    mask_group_num; ShapeError for maps that do not fit.
    Source: eric612/MobileNet-YOLO, yolov3_detection_output_layer.cpp.
    """

    bottoms = Count(1, None)

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("yolov3_detection_output_param")
        groups, boxes = params.integer("mask_group_num"), params.integer("num_box")
        anchors, masks = _anchors(params.reals("biases")), params.integers("mask")
        if params.flag("gaussian_box"):
            raise refuse("gaussian_box: such boxes carry variances, which nothing here knows")
        if spec.num_bottoms != groups:
            raise GraphError(f"mask_group_num is {groups}, and {spec.num_bottoms} bottoms are given")
        scales = params.integers("anchors_scale")
        share = len(masks) // groups
        starts = [share * index for index in range(groups)]
        if not params.has("num_classes") or len(scales) < groups or starts[-1] + boxes > len(masks):
            raise refuse("num_classes must be given, anchors_scale for each bottom, and num_box masks for each bottom")
        if max(masks) >= len(anchors):
            raise refuse(f"mask {max(masks)} of {len(anchors)} anchors (pairs of biases)")
        return cls(
            num_classes=params.integer("num_classes"),
            num_box=boxes,
            anchors=tuple(tuple(anchors[mask] for mask in masks[start : start + boxes]) for start in starts),
            units=scales[:groups],
            confidence_threshold=params.real("confidence_threshold"),
            suppression=Suppression(params.real("nms_threshold"), inclusive=True),
        )

    def probabilities(self, x: Array) -> Array:
        return _sigmoid(x)

    def candidates(self, values: Array) -> tuple[Array, Array]:
        scores = self.scores(values)
        return scores, np.broadcast_to(np.arange(self.num_classes), scores.shape)

    def accepts(self, confidence: Array) -> Array:
        return np.asarray(confidence > confidence.dtype.type(self.confidence_threshold))


class _Stopped(Yolo):
    """A layer of version 2 or 3 that stops before it chooses: what it would choose from. A pass makes it.

    Left, top, right and bottom of the boxes of all maps, one after the other, and their confidences by class, whatever
    they are. Shapes: maps as before → boxes (N, 1, P, 4), scores (N, C, P).
    """

    __slots__ = ()

    tops = Count(2, 2)
    data_dependent = False

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        super().top_shapes(bottoms)
        images, boxes = bottoms[0][0], self.num_box * sum(side * side for _, _, side, _ in bottoms)
        return [(images, 1, boxes, 4), (images, self.num_classes, boxes)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        maps = [self.decoded(bottom, index) for index, bottom in enumerate(bottoms)]
        boxes, values = (np.concatenate(part, axis=1) for part in zip(*maps, strict=True))
        return [_corners(boxes)[:, None], self.scores(values).transpose(0, 2, 1)]


class YoloBoxes(_Stopped, YoloDetectionOutput):
    """Version 2 up to the choice."""

    __slots__ = ()


class Yolov3Boxes(_Stopped, Yolov3DetectionOutput):
    """Version 3 up to the choice."""

    __slots__ = ()

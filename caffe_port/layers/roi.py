"""Two-stage detectors (Fast and Faster R-CNN, R-FCN): proposals, and pooling of regions of interest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers import param_str
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.layers.boxes import Suppression, ranked
from caffe_port.reading import shown
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PSROIPooling", "Proposal", "ProposalLayer", "ROIPooling"]


def _check_rois(rois: Shape) -> None:
    if count(rois, 1) != 5:
        raise ShapeError(f"bottom[1] must be rois (R, 5), it is {format_shape(rois)}")


def _image_of(rois: Array, images: int) -> Array:
    """The image each region is in. Raises: ShapeError for one that is not there."""
    index = rois[:, 0].astype(np.int64)
    if len(index) and not (index.min() >= 0 and index.max() < images):
        raise ShapeError(f"bottom[1] names image {index.min()} to {index.max()} of a batch of {images}")
    return index


def rounded(x: Array) -> Array:
    """The nearest whole numbers, halves away from 0, as C's round."""
    whole = np.trunc(x)
    return np.asarray(whole + np.sign(x) * (np.abs(x - whole) >= 0.5).astype(x.dtype))


@layer("ROIPooling")
@dataclass(frozen=True, slots=True)
class ROIPooling(LayerDef):
    """The maximum of each cell of a grid laid over a region; 0 for a cell outside the feature map.

    Corners are scaled and rounded, both ends belong to the region.
    Shapes: features (N, C, H, W), rois (R, 5) of image, x1, y1, x2, y2 → (R, C, pooled_h, pooled_w).
    Raises: UnsupportedParameter for a grid without cells; ShapeError for bottoms that do not fit, and an image that is
    not in the batch. Source: rbgirshick/caffe-fast-rcnn, roi_pooling_layer.cpp; daijifeng001/caffe-rfcn agrees.
    """

    bottoms = Count(2, 2)

    pooled: tuple[int, int]
    spatial_scale: float

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("roi_pooling_param")
        pooled = (params.integer("pooled_h"), params.integer("pooled_w"))
        if min(pooled) <= 0:
            raise refuse(f"pooled_h and pooled_w must be above 0: {pooled[0]}, {pooled[1]}")
        # An unset field is 0 to protobuf; the forks' default is 1.
        return cls(pooled, params.real("spatial_scale") if params.has("spatial_scale") else 1.0)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        _check_rois(bottoms[1])
        return [(legacy_dim(bottoms[1], 0), legacy_dim(bottoms[0], 1), *self.pooled)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x, rois = bottoms[0], bottoms[1].reshape(-1, 5)
        top = np.zeros((len(rois), x.shape[1], *self.pooled), x.dtype)
        corners = rounded(rois[:, 1:] * x.dtype.type(self.spatial_scale)).astype(np.int64)
        for i, (image, (left, above, right, below)) in enumerate(
            zip(_image_of(rois, len(x)), corners.tolist(), strict=True)
        ):
            rows = self._cells(above, below, self.pooled[0], x.shape[2])
            columns = self._cells(left, right, self.pooled[1], x.shape[3])
            for p, (first_row, last_row) in enumerate(rows):
                for q, (first, last) in enumerate(columns):
                    if first_row < last_row and first < last:
                        top[i, :, p, q] = x[image, :, first_row:last_row, first:last].max(axis=(1, 2))
        return [top]

    @staticmethod
    def _cells(start: int, end: int, number: int, size: int) -> list[tuple[int, int]]:
        """First and one past the last index of each cell along an axis."""
        step = np.float32(max(end - start + 1, 1)) / np.float32(number)

        def inside(edge: int) -> int:
            return min(max(edge + start, 0), size)

        return [
            (inside(math.floor(np.float32(i) * step)), inside(math.ceil(np.float32(i + 1) * step)))
            for i in range(number)
        ]


@layer("PSROIPooling")
@dataclass(frozen=True, slots=True)
class PSROIPooling(LayerDef):
    """The mean of each cell of a grid laid over a region, each cell from a channel of its own; 0 for an empty cell.

    Corners are rounded, then scaled; cells may overlap by what they share of a pixel. The fork computes in float on a
    GPU only, where a product and a sum may be fused: a cell's edge that falls on a whole number can differ.
    Shapes: features (N, output_dim * group_size^2, H, W), rois (R, 5) → (R, output_dim, group_size, group_size).
    Raises: UnsupportedParameter for sizes that are not above 0; ShapeError for bottoms that do not fit, and an image
    that is not in the batch. Source: daijifeng001/caffe-rfcn, psroi_pooling_layer.cu.
    """

    bottoms = Count(2, 2)

    output_dim: int
    group_size: int
    spatial_scale: float

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("psroi_pooling_param")
        made = cls(params.integer("output_dim"), params.integer("group_size"), params.real("spatial_scale"))
        if min(made.output_dim, made.group_size, made.spatial_scale) <= 0:
            raise refuse("output_dim, group_size and spatial_scale must be given, above 0")
        return made

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        _check_rois(bottoms[1])
        channels = self.output_dim * self.group_size**2
        if legacy_dim(bottoms[0], 1) != channels:
            raise ShapeError(f"bottom[0] is {format_shape(bottoms[0])}; it needs {channels} channels")
        return [(legacy_dim(bottoms[1], 0), self.output_dim, self.group_size, self.group_size)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        x, rois = bottoms[0], bottoms[1].reshape(-1, 5)
        groups = range(self.group_size)
        top = np.zeros((len(rois), self.output_dim, self.group_size, self.group_size), x.dtype)
        features = x.reshape(len(x), self.output_dim, self.group_size, self.group_size, *x.shape[2:])
        rows = self.cells(rois[:, 2], rois[:, 4], x.shape[2])
        columns = self.cells(rois[:, 1], rois[:, 3], x.shape[3])
        for i, image in enumerate(_image_of(rois, len(x))):
            for p in groups:
                for q in groups:
                    (first_row, last_row), (first, last) = rows[i, p], columns[i, q]
                    if first_row < last_row and first < last:
                        cell = features[image, :, p, q, first_row:last_row, first:last]
                        top[i, :, p, q] = cell.mean(axis=(1, 2), dtype=x.dtype)
        return [top]

    def cells(self, start: Array, end: Array, size: int) -> Array:
        """First and one past the last index of each region's cells along an axis of `size`: (R, group_size, 2)."""
        real = start.dtype.type
        scale, one = real(self.spatial_scale), real(1)
        first, last = rounded(start) * scale, (rounded(end) + one) * scale
        step = np.maximum(last - first, real(0.1)) / real(self.group_size)
        index = np.arange(self.group_size, dtype=start.dtype)
        edges = np.stack(
            [
                np.floor(index * step[:, None] + first[:, None]),
                np.ceil((index + one) * step[:, None] + first[:, None]),
            ],
            axis=-1,
        )
        return np.asarray(np.clip(edges, 0, size), np.int64)


def anchors(
    base: int, ratios: Sequence[float], scales: Sequence[float], whole: Callable[[float], float]
) -> tuple[tuple[float, ...], ...]:
    """Boxes about the middle of a square of `base` pixels: of each ratio (height by width), in each scale."""
    middle = (base - 1) / 2
    made = []
    for ratio in ratios:
        width = whole(math.sqrt(base * base / ratio))
        height = whole(width * ratio)
        for scale in scales:
            right, below = (width * scale - 1) / 2, (height * scale - 1) / 2
            made.append((middle - right, middle - below, middle + right, middle + below))
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Proposing(LayerDef):
    """What the Python and the C++ layer have in common: anchors moved by regression, sorted and suppressed."""

    data_dependent = True

    anchors: tuple[tuple[float, ...], ...]
    feat_stride: int
    min_size: float
    pre_nms: int
    post_nms: int
    suppression: Suppression
    num_tops: int
    drops_small: bool
    """Proposals below min_size are left out; else their score becomes 0."""
    scale_columns: tuple[int, int]
    """The columns of im_info that scale the least height and width."""

    @property
    def score_axes(self) -> int:
        """Axes of the second top: (R, 1) or (R,)."""
        return 2 if self.drops_small else 1

    def grid(self, height: int, width: int) -> Array:
        """All anchors, by row, column and anchor: (H * W * A, 4), float32 (halves of whole numbers)."""
        x, y = np.meshgrid(np.arange(width) * self.feat_stride, np.arange(height) * self.feat_stride)
        shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
        return np.asarray((shifts + np.array(self.anchors)).reshape(-1, 4), np.float32)

    def counts(self, height: int, width: int) -> tuple[int, int]:
        """How many go into the suppression, and come out of it, at most."""
        all_of_them = height * width * len(self.anchors)
        before = min(all_of_them, self.pre_nms) if self.pre_nms > 0 else all_of_them
        return before, min(before, self.post_nms) if self.post_nms > 0 else before

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        scores, deltas, info = bottoms
        number = len(self.anchors)
        if len(scores) != 4 or scores[0] != 1 or scores[1] != 2 * number:
            raise ShapeError(
                f"bottom[0] is {format_shape(scores)}; it must be 1x{2 * number}xHxW, of one image, background first"
            )
        if deltas != (1, 4 * number, *scores[2:]):
            raise ShapeError(f"bottom[1] is {format_shape(deltas)}, not {format_shape((1, 4 * number, *scores[2:]))}")
        if count(info) <= max(self.scale_columns):
            raise ShapeError(f"bottom[2] is {format_shape(info)}; it needs {max(self.scale_columns) + 1} values")
        most = self.counts(*scores[2:])[1]
        return [(most, 5), (most, 1)[: self.score_axes]][: self.num_tops]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        number = len(self.anchors)
        real = bottoms[0].dtype.type
        scores = bottoms[0][0, number:].transpose(1, 2, 0).ravel()
        deltas = bottoms[1][0].transpose(1, 2, 0).reshape(-1, 4)
        info = bottoms[2].ravel()
        boxes = self.grid(*bottoms[0].shape[2:]).astype(scores.dtype)
        sizes = boxes[:, 2:] - boxes[:, :2] + real(1)
        centres = deltas[:, :2] * sizes + (boxes[:, :2] + real(0.5) * sizes)
        with np.errstate(over="ignore"):
            halves = real(0.5) * (np.exp(deltas[:, 2:]) * sizes)
        end = np.array([info[1], info[0]], scores.dtype) - real(1)
        boxes = np.concatenate(
            [np.maximum(np.minimum(edge, end), real(0)) for edge in (centres - halves, centres + halves)], axis=1
        )
        sides = boxes[:, 2:] - boxes[:, :2] + real(1)
        height, width = (real(self.min_size) * info[column] for column in self.scale_columns)
        large = (sides[:, 0] >= width) & (sides[:, 1] >= height)
        before, after = self.counts(*bottoms[0].shape[2:])
        if self.drops_small:
            boxes, sides, scores = boxes[large], sides[large], scores[large]
        else:
            scores = scores * large.astype(scores.dtype)
        order = ranked(scores, before)
        kept = order[self.suppression.kept(boxes[order], sides[order].prod(axis=1), after)]
        rois = np.concatenate([np.zeros((len(kept), 1), boxes.dtype), boxes[kept]], axis=1)
        return [rois, scores[kept].reshape((-1, 1)[: self.score_axes])][: self.num_tops]


@layer("Proposal")
@dataclass(frozen=True, slots=True)
class Proposal(Proposing):
    """Regions of interest from the scores and box regressions of anchors, the most likely first.

    Scores of the same value keep the anchors' order; the fork's quicksort leaves it open. Anchors are round(width) and
    round(height) of a ratio times a scale; happynear/caffe-windows, whose layer has the same name and fields, rounds
    only the product and counts scales in pixels: scales that look so are refused.
    Shapes: scores (1, 2A, H, W), background first, deltas (1, 4A, H, W), im_info (1, at least 4) of height, width and
    the scales of both → rois (R, 5), and scores (R,) where there is a second top; R is at most post_nms_topn.
    Raises: UnsupportedParameter without ratios and scales; ShapeError for bottoms that do not fit.
    Source: openvinotoolkit/training_toolbox_caffe, proposal_layer.cpp, util/nms.cpp.
    """

    bottoms = Count(3, 3)
    tops = Count(1, 2)

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("proposal_param")
        ratios, scales = params.reals("ratio"), params.reals("scale")
        if not ratios or not scales or min(ratios + scales) <= 0:
            raise refuse("ratio and scale must be given, above 0")
        if min(scales) >= 2 * params.integer("base_size"):
            raise refuse(
                f"the least scale is {min(scales):g}, times base_size: these are pixels, as happynear/caffe-windows "
                "counts them, whose Proposal is another one; it is not known here"
            )
        return cls(
            anchors=anchors(params.integer("base_size"), ratios, scales, lambda size: math.floor(size + 0.5)),
            feat_stride=params.integer("feat_stride"),
            min_size=params.integer("min_size"),
            pre_nms=params.integer("pre_nms_topn"),
            post_nms=params.integer("post_nms_topn"),
            suppression=Suppression(params.real("nms_thresh"), pixel=1, apart=True),
            num_tops=spec.num_tops,
            drops_small=False,
            scale_columns=(2, 3),
        )


_PYTHON_DEFAULTS: dict[str, Any] = {"feat_stride": None, "ratios": (0.5, 1.0, 2.0), "scales": (8.0, 16.0, 32.0)}


@layer("rpn.proposal_layer.ProposalLayer")
@dataclass(frozen=True, slots=True)
class ProposalLayer(Proposing):
    """The Python layer ProposalLayer of rpn.proposal_layer: regions of interest, the most likely first.

    Python is not run: its class is known. The thresholds are those of its configuration as released: overlap 0.7, sides
    of at least 16 pixels of the original image, of 6000 proposals 300 (TRAIN: of 12000 2000). Suppression is the GPU's:
    an overlap of just 0.7 is kept. Scores of the same value keep the anchors' order; NumPy's sort leaves it open.
    Shapes: scores (1, 2A, H, W), background first, deltas (1, 4A, H, W), im_info (1, 3) of height, width, scale → rois
    (R, 5), and scores (R, 1) where there is a second top. Raises: UnsupportedParameter for a param_str that says
    something unknown; ShapeError for bottoms that do not fit.
    Source: rbgirshick/py-faster-rcnn, lib/rpn/proposal_layer.py, generate_anchors.py, lib/nms/nms_kernel.cu,
    lib/fast_rcnn/config.py.
    """

    bottoms = Count(3, 3)
    tops = Count(1, 2)

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("python_param")
        params.inert("module", "layer", "share_in_parallel")
        given = param_str.mapping(params.text("param_str"))
        stride, ratios, scales = (given.get(name, default) for name, default in _PYTHON_DEFAULTS.items())
        if set(given) - set(_PYTHON_DEFAULTS) or not (
            isinstance(stride, float) and stride >= 1 and stride.is_integer()
        ):
            told = "must give feat_stride, a whole number, and may give scales and ratios"
            raise refuse(f"param_str {told}: {shown(params.text('param_str'))}")
        if not all(isinstance(given, tuple) and min(given) > 0 and max(given) < 1e6 for given in (ratios, scales)):
            raise refuse("scales and ratios of param_str must be lists of numbers above 0 and below 1e6")
        train = spec.phase == "TRAIN"
        return cls(
            anchors=anchors(16, ratios, scales, np.round),
            feat_stride=int(stride),
            min_size=16,
            pre_nms=12000 if train else 6000,
            post_nms=2000 if train else 300,
            suppression=Suppression(0.7, pixel=1),
            num_tops=spec.num_tops,
            drops_small=True,
            scale_columns=(2, 2),
        )

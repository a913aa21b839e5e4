"""Single-shot detectors (SSD): priors, and detections from locations, scores and priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import ShapeError
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, Params, RunContext, refuse
from caffe_port.layers.boxes import NO_SCORE, Suppression, not_found, ranked
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DetectionBoxes", "DetectionOutput", "Grid", "PriorBox", "PriorBoxClustered", "Priors"]

_JACCARD = Suppression(0.3, nan_suppresses=True)


@dataclass(frozen=True, slots=True)
class Grid:
    """What PriorBox and PriorBoxClustered have in common: where boxes stand, in an image of what size."""

    clip: bool
    variances: tuple[float, ...]
    image: tuple[int, int]
    """Height and width; 0, 0: those of bottom[1]."""
    step: tuple[float, float]
    """Height and width; 0, 0: the image's divided by the feature map's."""
    offset: float

    @classmethod
    def parse(cls, params: Params) -> Grid:
        variances = params.reals("variance") or (0.1,)
        if len(variances) not in (1, 4) or min(variances) <= 0:
            raise refuse(f"variance: give one or four, above 0: {', '.join(f'{v:g}' for v in variances)}")
        image = _pair(params, "img_size", "img_h", "img_w")
        step = _pair(params, "step", "step_h", "step_w")
        return cls(
            clip=params.flag("clip"),
            variances=variances,
            image=(int(image[0]), int(image[1])),
            step=step,
            offset=params.real("offset"),
        )

    def boxes(self, bottoms: Sequence[Shape], sizes: Sequence[tuple[float, float]]) -> Array:
        """Priors and variances for bottoms of these shapes: (1, 2, 4 * H * W * len(sizes)), float32.

        `sizes`: width and height of each prior of a cell. Computed as the forks do: steps, centres and sizes in float,
        the corners in double.
        """
        height, width = (legacy_dim(bottoms[0], axis) for axis in (2, 3))
        image_height, image_width = self.image if all(self.image) else [legacy_dim(bottoms[1], i) for i in (2, 3)]
        single = np.float32
        if all(self.step):
            step_y, step_x = (single(step) for step in self.step)
        else:
            step_y, step_x = single(image_height) / single(height), single(image_width) / single(width)
        x = ((np.arange(width, dtype=single) + single(self.offset)) * step_x).astype(float)
        y = ((np.arange(height, dtype=single) + single(self.offset)) * step_y).astype(float)
        half = np.array(sizes, single).astype(float) / 2
        corners = np.empty((height, width, len(sizes), 4))
        corners[..., 0] = (x[None, :, None] - half[:, 0]) / image_width
        corners[..., 1] = (y[:, None, None] - half[:, 1]) / image_height
        corners[..., 2] = (x[None, :, None] + half[:, 0]) / image_width
        corners[..., 3] = (y[:, None, None] + half[:, 1]) / image_height
        made = corners.astype(single).reshape(-1, 4)
        if self.clip:
            made = np.clip(made, single(0), single(1))
        return np.stack([made.ravel(), np.broadcast_to(np.array(self.variances, single), made.shape).ravel()])[None]

    def shape(self, bottoms: Sequence[Shape], per_cell: int) -> Shape:
        shape = (1, 2, legacy_dim(bottoms[0], 2) * legacy_dim(bottoms[0], 3) * per_cell * 4)
        if not shape[2]:
            raise ShapeError(f"bottom[0] is {format_shape(bottoms[0])}: no cell to put a prior on")
        if not all(self.image) and not legacy_dim(bottoms[1], 2) * legacy_dim(bottoms[1], 3):
            raise ShapeError(f"bottom[1] is {format_shape(bottoms[1])}: the image has no size")
        return shape


def _pair(params: Params, both: str, height: str, width: str) -> tuple[float, float]:
    """A field given once for both axes, or for each; 0, 0 if it is not given."""
    if params.has(height) or params.has(width):
        if params.has(both):
            raise refuse(f"both {both} and {height}, {width} are given; give {both}, or the two")
        found = (params.real(height), params.real(width))
    elif params.has(both):
        found = (params.real(both), params.real(both))
    else:
        return 0, 0
    if min(found) <= 0:
        raise refuse(f"{both} ({height}, {width}) must be above 0: {found[0]:g}, {found[1]:g}")
    return found


class Priors(LayerDef):
    """A layer whose top follows from its bottoms' shapes alone."""

    bottoms = Count(2, 2)

    grid: Grid

    def sizes(self) -> list[tuple[float, float]]:
        """Width and height of the priors of a cell, in order."""
        raise NotImplementedError

    def values(self, bottoms: Sequence[Shape]) -> Array:
        """The top for bottoms of these shapes, float32."""
        return self.grid.boxes(bottoms, self.sizes())

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return [self.grid.shape(bottoms, len(self.sizes()))]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        return [self.values([bottom.shape for bottom in bottoms]).astype(ctx.dtype, copy=False)]


@layer("PriorBox")
@dataclass(frozen=True, slots=True)
class PriorBox(Priors):
    """Default boxes on each cell of a feature map, and their variances; in fractions of the image.

    A cell has, for each min_size: a square of it, one of sqrt(min_size * max_size) if there is a max_size, and for each
    aspect ratio but 1 a box of that ratio (and of its inverse, with flip). Fractions of min_size and max_size are cut
    off, as the fork does. Shapes: feature map (N, C, H, W), image (N, C, H', W') → (1, 2, 4 * H * W * priors).
    Raises: UnsupportedParameter for sizes or variances that the fork refuses; ShapeError for an empty map.
    Source: weiliu89/caffe (ssd), prior_box_layer.cpp; recorded from jolibrain/caffe.
    """

    grid: Grid
    min_sizes: tuple[float, ...]
    max_sizes: tuple[float, ...] = ()
    aspect_ratios: tuple[float, ...] = (1.0,)

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("prior_box_param")
        params.inert("engine")
        least, most = params.reals("min_size"), params.reals("max_size")
        if not least or min(least) <= 0:
            raise refuse("min_size must be given, above 0")
        if most and len(most) != len(least):
            raise refuse(f"{len(most)} max_size for {len(least)} min_size; give as many, or none")
        for low, high in zip(least, most, strict=False):
            if high <= low:
                raise refuse(f"max_size {high:g} must be greater than min_size {low:g}")
        ratios = [1.0]
        flip = params.flag("flip")
        for ratio in params.reals("aspect_ratio"):
            if ratio <= 0:
                raise refuse(f"aspect_ratio must be above 0: {ratio:g}")
            if all(abs(ratio - known) >= 1e-6 for known in ratios):
                ratios += [ratio, float(np.float32(1 / ratio))] if flip else [ratio]
        return cls(Grid.parse(params), least, most, tuple(ratios))

    def sizes(self) -> list[tuple[float, float]]:
        made: list[tuple[float, float]] = []
        for i, least in enumerate(self.min_sizes):
            low = float(int(least))
            made.append((low, low))
            if self.max_sizes:
                side = float(np.sqrt(low * int(self.max_sizes[i])))
                made.append((side, side))
            for ratio in self.aspect_ratios:
                if abs(ratio - 1) >= 1e-6:
                    root = float(np.sqrt(ratio))
                    made.append((low * root, low / root))
        return made


@layer("PriorBoxClustered")
@dataclass(frozen=True, slots=True)
class PriorBoxClustered(Priors):
    """Boxes of given widths and heights on each cell of a feature map, and their variances.

    Shapes: as PriorBox. Raises: UnsupportedParameter unless there are as many heights as widths; ShapeError for an
    empty map. Source: openvinotoolkit/training_toolbox_caffe, prior_box_clustered_layer.cpp.
    """

    grid: Grid
    widths: tuple[float, ...]
    heights: tuple[float, ...]

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("prior_box_param")
        # What makes the boxes of PriorBox is not looked at here.
        params.inert("flip", "engine")
        widths, heights = params.reals("width"), params.reals("height")
        if not widths or len(widths) != len(heights) or min(widths + heights) <= 0:
            raise refuse(f"{len(widths)} width and {len(heights)} height: give as many of each, above 0")
        return cls(Grid.parse(params), widths, heights)

    def sizes(self) -> list[tuple[float, float]]:
        return list(zip(self.widths, self.heights, strict=True))


@layer("DetectionOutput")
@dataclass(frozen=True, slots=True)
class DetectionOutput(LayerDef):
    """Decodes locations against priors, suppresses by class, and lists what is left.

    By image and class but the background: of the scores above confidence_threshold the top_k highest, the lower index
    first among equals, go through non-maximum suppression (Jaccard overlap, eta lowers the threshold). Of all of an
    image the keep_top_k highest stay; among equals the fork leaves to std::sort which, here it is the first by class
    and rank. Rows are ordered by image, class and score: image, label, score, xmin, ymin, xmax, ymax. Nothing found in
    any image gives a row an image, its index and -1s. Boxes must be finite.
    Shapes: loc (N, P * 4) or (N, P * C * 4), conf (N, P * C), priors (1, 2, P * 4) → (1, 1, rows, 7); a further bottom,
    the image, is only drawn upon by the fork.
    Raises: UnsupportedParameter for what the fork refuses and for what single forks added; ShapeError if the bottoms
    do not fit.
    Source: weiliu89/caffe, detection_output_layer.cpp, util/bbox_util.cpp.
    """

    bottoms = Count(3, 4)
    data_dependent = True
    free_axis = 2

    num_classes: int
    share_location: bool = True
    background_label_id: int = 0
    code_type: str = "CORNER"
    variance_encoded_in_target: bool = False
    confidence_threshold: float = NO_SCORE
    top_k: int = -1
    keep_top_k: int = -1
    suppression: Suppression = _JACCARD

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("detection_output_param")
        # Windows, videos and files that the fork makes besides its top.
        params.inert("visualize", "visualize_threshold", "save_file", "save_output_param", "engine")
        if not params.has("num_classes") or params.integer("num_classes") < 1:
            raise refuse("num_classes must be given, at least 1")
        nms = params.message("nms_param")
        threshold, eta = nms.real("nms_threshold"), nms.real("eta")
        if threshold < 0 or not 0 < eta <= 1:
            raise refuse(f"nms_threshold must not be below 0, eta be in (0, 1]: {threshold:g}, {eta:g}")
        has_threshold = params.has("confidence_threshold")
        return cls(
            num_classes=params.integer("num_classes"),
            share_location=params.flag("share_location"),
            background_label_id=params.integer("background_label_id"),
            code_type=params.enum("code_type"),
            variance_encoded_in_target=params.flag("variance_encoded_in_target"),
            confidence_threshold=params.real("confidence_threshold") if has_threshold else NO_SCORE,
            top_k=nms.integer("top_k") if nms.has("top_k") else -1,
            keep_top_k=params.integer("keep_top_k"),
            suppression=Suppression(threshold, eta, nan_suppresses=True),
        )

    @property
    def loc_classes(self) -> int:
        return 1 if self.share_location else self.num_classes

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that are looked for: all but the background."""
        return tuple(label for label in range(self.num_classes) if label != self.background_label_id)

    def candidates(self, priors: int) -> int:
        """How many boxes of a class go into the suppression, at most."""
        return priors if self.top_k < 0 else min(priors, self.top_k)

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        loc, conf, prior = bottoms[:3]
        priors = legacy_dim(prior, 2) // 4
        if count(prior) != 8 * priors or not priors:
            raise ShapeError(f"bottom[2] must be (1, 2, 4 * priors), it is {format_shape(prior)}")
        if loc[:1] != conf[:1]:
            raise ShapeError(f"bottoms differ in axis 0: {format_shape(loc)}, {format_shape(conf)}")
        for index, shape, size in ((0, loc, priors * self.loc_classes * 4), (1, conf, priors * self.num_classes)):
            if count(shape, 1) != size:
                raise ShapeError(f"bottom[{index}] is {format_shape(shape)}; {priors} priors need N x {size}")
        return [(1, 1, 1, 7)]

    def decode(self, loc: Array, prior: Array) -> Array:
        """Boxes (N, P, L, 4) of locations (N, P, L, 4) and priors and variances (2, P, 1, 4)."""
        boxes, variances = prior
        scaled = loc if self.variance_encoded_in_target else variances * loc
        if self.code_type == "CORNER":
            return np.asarray(boxes + scaled)
        low, high = boxes[..., :2], boxes[..., 2:]
        sizes = high - low
        if self.code_type == "CORNER_SIZE":
            return np.asarray(boxes + scaled * np.concatenate([sizes, sizes], axis=-1))
        two = loc.dtype.type(2)
        centres = scaled[..., :2] * sizes + (low + high) / two
        with np.errstate(over="ignore"):
            halves = np.exp(scaled[..., 2:]) * sizes / two
        return np.concatenate([centres - halves, centres + halves], axis=-1)

    def decoded(self, bottoms: Sequence[Array]) -> tuple[Array, Array]:
        """Boxes (N, P, L, 4), L 1 or all classes, and scores (N, P, classes) of the bottoms."""
        loc, conf, prior = bottoms[:3]
        images, priors = len(loc), prior.size // 8
        boxes = self.decode(loc.reshape(images, priors, -1, 4), prior.reshape(2, priors, 1, 4))
        return boxes, conf.reshape(images, priors, -1)

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        boxes, scores = self.decoded(bottoms)
        images, priors = scores.shape[:2]
        threshold = scores.dtype.type(self.confidence_threshold)
        rows: list[Array] = []
        for image in range(images):
            found = []
            for label in self.labels:
                own = scores[image, :, label]
                order = ranked(own, self.candidates(priors))
                order = order[own[order] > threshold]
                at = boxes[image, order, 0 if self.share_location else label]
                kept = self.suppression.kept(at, areas(at))
                found.append(
                    np.column_stack([np.full((len(kept), 2), (image, label), at.dtype), own[order[kept]], at[kept]])
                )
            every = np.concatenate([np.empty((0, 7), boxes.dtype), *found])
            if -1 < self.keep_top_k < len(every):
                every = every[np.sort(ranked(every[:, 2], self.keep_top_k))]
            rows.append(every)
        made = np.concatenate(rows)
        return [(made if len(made) else not_found(images, made.dtype))[None, None].astype(ctx.dtype, copy=False)]


class DetectionBoxes(DetectionOutput):
    """DetectionOutput that stops before it chooses: what it would choose from. No layer of a prototxt; a pass makes it.

    Left, top, right and bottom of the decoded boxes, and the scores of all classes but the background, whatever they
    are. Shapes: as DetectionOutput → boxes (N, 1 or C, P, 4), one for all classes where they share locations, and
    scores (N, C, P), C the classes without the background.
    """

    __slots__ = ()

    tops = Count(2, 2)
    data_dependent = False

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        super().top_shapes(bottoms)
        images, priors, classes = bottoms[0][0], legacy_dim(bottoms[2], 2) // 4, len(self.labels)
        return [(images, 1 if self.share_location else classes, priors, 4), (images, classes, priors)]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        boxes, scores = self.decoded(bottoms)
        labels = list(self.labels)
        if not self.share_location:
            boxes = boxes[:, :, labels]
        return [boxes.transpose(0, 2, 1, 3), scores[:, :, labels].transpose(0, 2, 1)]


def areas(boxes: Array) -> Array:
    """Areas of boxes (K, 4); 0 for one whose end is before its start."""
    with np.errstate(all="ignore"):
        sides = boxes[:, 2:] - boxes[:, :2]
        return np.asarray(np.where((sides < 0).any(axis=1), boxes.dtype.type(0), sides[:, 0] * sides[:, 1]))

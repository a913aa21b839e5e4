"""Training of detectors: their losses, and where their data comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffe_port.errors import GraphError, ShapeError, UnsupportedLayer
from caffe_port.layers.base import Array, Count, LayerDef, LayerSpec, RunContext, refuse
from caffe_port.layers.data import DataSource, Transform
from caffe_port.layers.loss import check_batch
from caffe_port.registry import layer
from caffe_port.shapes import Shape, count, format_shape, legacy_dim

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AnnotatedData", "MultiBoxLoss", "SmoothL1Loss"]


@layer("SmoothL1Loss")
@dataclass(frozen=True, slots=True)
class SmoothL1Loss(LayerDef):
    """Squares of small differences, absolute values of large ones, summed and divided by the batch size.

    With d = (a - b) * inside weights: d^2 * sigma^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2); each times
    its outside weight. Shapes: a, b, and inside, or inside and outside weights, (N, …) of as many values → scalar ().
    Raises: ShapeError if they differ.
    Source: rbgirshick/caffe-fast-rcnn, smooth_L1_loss_layer.cu; weiliu89/caffe's and the older one of Fast R-CNN have
    up to three bottoms and no sigma, which is sigma 1.
    """

    bottoms = Count(2, 4)
    auto_top = True

    sigma: float = 1.0

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("smooth_l1_loss_param")
        if params.real("sigma") <= 0:
            raise refuse(f"sigma must be above 0: {params.real('sigma'):g}")
        return cls(params.real("sigma"))

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        check_batch(bottoms)
        if any(count(bottom) != count(bottoms[0]) for bottom in bottoms):
            raise ShapeError(f"bottoms differ in size: {', '.join(map(format_shape, bottoms))}")
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        a, b, *given = (bottom.ravel() for bottom in bottoms)
        real = a.dtype.type
        square = real(self.sigma) * real(self.sigma)
        difference = (a - b) * given[0] if given else a - b
        distance = np.abs(difference)
        losses = np.where(
            distance < real(1) / square, real(0.5) * difference * difference * square, distance - real(0.5) / square
        )
        if len(given) > 1:
            losses = losses * given[1]
        return [np.asarray(losses.sum(dtype=a.dtype) / real(legacy_dim(bottoms[0].shape, 0)), a.dtype)]


@layer("MultiBoxLoss")
@dataclass(frozen=True, slots=True)
class MultiBoxLoss(LayerDef):
    """The loss of SSD, for inspection: parameters and shapes are checked; running it is refused.

    Shapes: loc (N, P * 4) or (N, P * C * 4), conf (N, P * C), priors (1, 2, P * 4), ground truth (1, 1, G, 8) →
    scalar (). Raises: UnsupportedParameter for what the fork refuses; ShapeError if the bottoms do not fit;
    UnsupportedLayer when run. Source: weiliu89/caffe, multibox_loss_layer.cpp.
    """

    bottoms = Count(4, 4)
    auto_top = True

    num_classes: int
    share_location: bool = True
    background_label_id: int = 0
    loc_loss_type: str = "SMOOTH_L1"
    conf_loss_type: str = "SOFTMAX"
    mining_type: str = "MAX_NEGATIVE"
    code_type: str = "CORNER"

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        params = spec.params("multibox_loss_param")
        if not params.has("num_classes") or params.integer("num_classes") < 1:
            raise refuse("num_classes must be given, at least 1")
        # Which pairs are matched and how they are weighed: of no matter for parameters and shapes.
        params.inert("loc_weight", "match_type", "overlap_threshold", "use_prior_for_matching", "use_difficult_gt")
        params.inert("do_neg_mining", "neg_pos_ratio", "neg_overlap", "encode_variance_in_target", "nms_param")
        params.inert("map_object_to_agnostic", "ignore_cross_boundary_bbox", "bp_inside", "sample_size")
        params.inert("use_prior_for_nms", "ignore_difficult_gt", "objectness_score")
        spec.params("loss_param").inert("normalization", "normalize", "ignore_label")
        return cls(
            num_classes=params.integer("num_classes"),
            share_location=params.flag("share_location"),
            background_label_id=params.integer("background_label_id"),
            loc_loss_type=params.enum("loc_loss_type"),
            conf_loss_type=params.enum("conf_loss_type"),
            mining_type=params.enum("mining_type"),
            code_type=params.enum("code_type"),
        )

    def top_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        loc, conf, prior, truth = bottoms
        priors = legacy_dim(prior, 2) // 4
        for index, shape, size in (
            (0, loc, priors * 4 * (1 if self.share_location else self.num_classes)),
            (1, conf, priors * self.num_classes),
        ):
            if count(shape, 1) != size:
                raise ShapeError(f"bottom[{index}] is {format_shape(shape)}; {priors} priors need N x {size}")
        if loc[:1] != conf[:1] or legacy_dim(truth, 3) != 8:
            raise ShapeError(
                f"bottoms must be loc, conf of one batch, priors, and truth (1, 1, G, 8): "
                f"{', '.join(map(format_shape, bottoms))}"
            )
        return [()]

    def forward(self, ctx: RunContext, bottoms: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        raise UnsupportedLayer("MultiBoxLoss is read and inspected, not run: take the net of phase TEST")


@layer("AnnotatedData")
@dataclass(frozen=True, slots=True)
class AnnotatedData(DataSource):
    """Images with boxes from a database, for inspection: its tops are inputs.

    Shapes: data (batch_size, C, H, W), H and W of transform_param.resize_param or crop_size, and annotations (1, 1, G,
    8) of image, label, instance, xmin, ymin, xmax, ymax, difficult; G is 1 until data comes.
    Raises: GraphError for sizes that are given halfway. Source: weiliu89/caffe, annotated_data_layer.cpp.
    """

    tops = Count(1, 2)

    batch_size: int
    size: tuple[int, int] | None

    @classmethod
    def parse(cls, spec: LayerSpec) -> Self:
        data = spec.params("data_param")
        data.inert("source", "backend", "rand_skip", "scale", "mean_file", "crop_size", "mirror", "prefetch")
        data.inert("force_encoded_color")
        own = spec.params("annotated_data_param")
        own.inert("batch_sampler", "label_map_file", "anno_type", "yolo_data_type", "yolo_data_jitter")
        own.inert("train_diffcult", "single_class", "difficult_label_warmup", "seg_resize_height", "seg_resize_width")
        own.inert("seg_scales")
        transform = spec.params("transform_param")
        transform.inert("distort_param", "expand_param", "noise_param", "emit_constraint")
        crop = Transform.parse(spec).crop_size
        size = (crop, crop) if crop else None
        # Repeated only in the union of the forks' schemas.
        for resize in transform.messages("resize_param"):
            resize.inert("prob", "resize_mode", "interp_mode", "pad_mode", "pad_value", "height_scale", "width_scale")
            size = (resize.integer("height"), resize.integer("width"))
            if min(size) <= 0:
                raise GraphError(f"resize_param must give height and width, above 0: {size[0]}, {size[1]}")
        return cls(data.integer("batch_size"), size)

    def declared_shapes(self, num_tops: int) -> list[Shape | None]:
        data = None if self.size is None else (self.batch_size, 3, *self.size)
        shapes: list[Shape | None] = [data, (1, 1, 1, 8)]
        return shapes[:num_tops]

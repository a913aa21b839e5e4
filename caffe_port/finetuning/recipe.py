"""What can be chosen for a fine-tuning; the defaults are those of open_nsfw's announcement, where it says any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_port.architectures import HEAD_FACTOR, RESIZE
from caffe_port.errors import GraphError, Problems

__all__ = ["CROP", "SHORTER_SIDE", "Recipe"]

CROP = 224
SHORTER_SIDE = (256, 480)
"""Of training images: of He et al., 2015, for crops of CROP x CROP. Other sizes have it in proportion."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a net is fine-tuned.

    - `epochs`: how often each image is seen, or `iterations`, which wins. `batch`: images of one iteration.
    - `base_lr`, `gamma`, `steps` (how often the rate falls, at even distances), `momentum`, `weight_decay`: of SGD; the
      first two as `caffe_port.architectures.FINETUNING` has them.
    - `size`: height and width of the input, if another than the net's.
    - `scale`: of `AugmentedImages`, None for the one that goes with the size; `scale_augmentation` False goes without.
    - `head`, `keep_head`, `factor`, `freeze`, `batch_statistics`: of `finetuned_nets`.
    - `class_weights`: "none"; "balanced": images / (classes * images of the class), counted in training; or a number
      for each class. The loss is then InfogainLoss with these on the diagonal of its matrix.
    - `evaluate_every`: iterations between two looks at the validation images (None: an epoch). `patience`: so many
      looks without a smaller loss end the training; 0 for never.
    - `seed`: of all that is random.

    Raises: GraphError naming all that cannot be meant.
    """

    epochs: float = 10
    iterations: int | None = None
    batch: int = 32
    base_lr: float = 0.001
    gamma: float = 0.1
    steps: int = 1
    momentum: float = 0.9
    weight_decay: float = 0.0001
    size: int | None = None
    scale: tuple[int, int] | None = None
    scale_augmentation: bool = True
    mirror: bool = True
    head: str | None = None
    keep_head: bool = False
    factor: float = HEAD_FACTOR
    freeze: tuple[str, ...] = ()
    batch_statistics: bool = False
    class_weights: str | tuple[float, ...] = "none"
    evaluate_every: int | None = None
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        problems = Problems()
        least: dict[str, float] = {"batch": 1, "steps": 0, "patience": 0, "seed": 0, "momentum": 0, "weight_decay": 0}
        least |= {name: 1 for name in ("iterations", "evaluate_every", "size") if getattr(self, name) is not None}
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                problems.add(GraphError, f"{name} must be at least {bound:g}, it is {getattr(self, name)}")
        for name in ("epochs", "base_lr", "factor"):
            if not 0 < getattr(self, name) < math.inf:
                problems.add(GraphError, f"{name} must be positive, it is {getattr(self, name)}")
        if isinstance(self.class_weights, str) and self.class_weights not in ("none", "balanced"):
            problems.add(GraphError, f"class weights are none, balanced or numbers, not {self.class_weights!r}")
        elif not isinstance(self.class_weights, str) and not all(0 < w < math.inf for w in self.class_weights):
            problems.add(GraphError, f"class weights must be positive numbers: {self.class_weights}")
        problems.raise_if_any()

    def max_iter(self, images: int) -> int:
        """The iterations that `epochs` are with so many training images."""
        return self.iterations or max(1, math.ceil(self.epochs * images / self.batch))

    def interval(self, images: int) -> int:
        """The iterations between two looks at the validation images."""
        return min(self.evaluate_every or max(1, math.ceil(images / self.batch)), self.max_iter(images))

    def weights_of(self, counts: Sequence[int]) -> list[float] | None:
        """The weight of each class, of so many training images each; None where all count alike. Raises: GraphError."""
        if self.class_weights == "none":
            return None
        if self.class_weights == "balanced":
            return [sum(counts) / (len(counts) * count) for count in counts]
        weights = [float(weight) for weight in self.class_weights]
        if len(weights) != len(counts):
            raise GraphError(f"{len(weights)} class weights for {len(counts)} classes")
        return weights

    def shorter_side(self, crop: int) -> tuple[int, int] | None:
        """Between which lengths the shorter side of a training image is drawn; None without scale augmentation.

        Raises: GraphError for a range in which the crop does not fit.
        """
        if not self.scale_augmentation:
            return None
        least, largest = self.scale or tuple(round(side * crop / CROP) for side in SHORTER_SIDE)
        if not crop <= least <= largest:
            raise GraphError(f"the shorter side lies between {least} and {largest}, the crop is {crop}")
        return least, largest

    @staticmethod
    def resized(crop: int) -> int:
        """Height and width that an image is resized to for a crop, where the net does not say it."""
        return round(RESIZE * crop / CROP)

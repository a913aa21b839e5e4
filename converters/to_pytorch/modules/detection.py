"""Single-shot detectors and their loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.converters.to_pytorch.modules.boxes import highest, kept, rows_or_none
from caffe_port.layers import detection, detection_loss

__all__ = ["DetectionBoxes", "DetectionOutput", "Priors", "SmoothL1Loss"]


class Priors(nn.Module):
    """PriorBox and PriorBoxClustered: what follows from the bottoms' shapes."""

    def __init__(self, definition: detection.Priors) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        # The batch is of no matter, and may be symbolic.
        values = self.definition.values([(1, *x.shape[1:]), (1, *image.shape[1:])])
        return torch.from_numpy(values).to(x)

    def extra_repr(self) -> str:
        return str(self.definition)


class DetectionOutput(nn.Module):
    """Caffe's DetectionOutput: rows of image, label, confidence and box."""

    def __init__(self, definition: detection.DetectionOutput) -> None:
        super().__init__()
        self.definition = definition

    def decoded(self, loc: Tensor, prior: Tensor) -> Tensor:
        """Boxes (N, P, L, 4) of locations alike, and of priors and variances (2, P, 1, 4)."""
        boxes, variances = prior.unbind()
        scaled = loc if self.definition.variance_encoded_in_target else variances * loc
        if self.definition.code_type == "CORNER":
            return boxes + scaled
        low, high = boxes[..., :2], boxes[..., 2:]
        sizes = high - low
        if self.definition.code_type == "CORNER_SIZE":
            return boxes + scaled * torch.cat([sizes, sizes], dim=-1)
        centres = scaled[..., :2] * sizes + (low + high) / 2
        halves = torch.exp(scaled[..., 2:]) * sizes / 2
        return torch.cat([centres - halves, centres + halves], dim=-1)

    def boxes_and_scores(self, loc: Tensor, conf: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 1 or C, P, 4) and scores (N, C, P) of the classes that are looked for."""
        labels = torch.tensor(self.definition.labels, dtype=torch.int64, device=conf.device)
        images, priors = conf.shape[0], prior.shape[2] // 4
        boxes = self.decoded(loc.reshape(images, priors, -1, 4), prior.reshape(2, priors, 1, 4)).transpose(1, 2)
        if not self.definition.share_location:
            boxes = boxes[:, labels]
        return boxes, conf.reshape(images, priors, -1).transpose(1, 2)[:, labels]

    def forward(self, loc: Tensor, conf: Tensor, prior: Tensor, *image: Tensor) -> Tensor:
        definition = self.definition
        labels = torch.tensor(definition.labels, device=conf.device)
        boxes, scores = self.boxes_and_scores(loc, conf, prior)
        images, _, priors = scores.shape
        number = definition.candidates(priors)
        boxes = boxes.expand(-1, len(definition.labels), -1, -1)
        scores, order = highest(scores, number)
        boxes = boxes.gather(2, order[..., None].expand(-1, -1, -1, 4))
        flat = boxes.flatten(0, 1)
        sides = flat[..., 2:] - flat[..., :2]
        sizes = sides.prod(dim=2).masked_fill((sides < 0).any(dim=2), 0.0)
        valid = scores.flatten(0, 1) > definition.confidence_threshold
        every = len(definition.labels) * number
        keep = kept(flat, sizes, valid, definition.suppression).reshape(images, every)
        scores = scores.reshape(images, every)
        if -1 < definition.keep_top_k < every:
            _, best = highest(scores.masked_fill(~keep, -torch.inf), definition.keep_top_k)
            keep = keep & torch.zeros_like(keep).scatter(1, best, torch.ones_like(best, dtype=torch.bool))
        index = torch.arange(images, device=conf.device, dtype=conf.dtype)[:, None].expand(-1, every)
        label = labels.to(conf.dtype).repeat_interleave(number).expand(images, -1)
        table = torch.cat([torch.stack([index, label, scores], dim=2), boxes.reshape(images, every, 4)], dim=2)
        return rows_or_none(table.flatten(0, 1), keep.flatten(), images)

    def extra_repr(self) -> str:
        return str(self.definition)


class DetectionBoxes(DetectionOutput):
    """DetectionOutput that stops before it chooses: boxes (N, 1 or C, P, 4) and scores (N, C, P)."""

    def forward(self, loc: Tensor, conf: Tensor, prior: Tensor, *image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.boxes_and_scores(loc, conf, prior)


class SmoothL1Loss(nn.Module):
    """Squares of small differences, absolute values of large ones, by the batch size."""

    def __init__(self, definition: detection_loss.SmoothL1Loss) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor:
        difference = a - b.reshape(a.shape)
        if weights:
            difference = difference * weights[0].reshape(a.shape)
        square = self.definition.sigma**2
        distance = difference.abs()
        losses = torch.where(distance < 1 / square, 0.5 * difference * difference * square, distance - 0.5 / square)
        if len(weights) > 1:
            losses = losses * weights[1].reshape(a.shape)
        return losses.sum() / (a.shape[0] if a.dim() else 1)

    def extra_repr(self) -> str:
        return str(self.definition)

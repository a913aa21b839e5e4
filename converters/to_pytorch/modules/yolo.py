"""YOLO."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caffe_port.converters.to_pytorch.modules.boxes import highest, kept, rows_or_none
from caffe_port.layers import yolo

__all__ = ["Reorg", "Yolo", "YoloBoxes"]


class Reorg(nn.Module):
    """Darknet's reorganisation."""

    def __init__(self, definition: yolo.Reorg) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, *x.shape[1:])
        dims, order = self.definition.plan(shape)
        top = self.definition.top_shapes([shape])[0][1:]
        return x.reshape(-1, *dims).permute(order).reshape(-1, *top)

    def extra_repr(self) -> str:
        return str(self.definition)


def corners(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom of centres and sizes (..., 4)."""
    halves = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - halves, boxes[..., :2] + halves], dim=-1)


class Yolo(nn.Module):
    """Detections of versions 2 and 3: rows of 0, label, confidence and box."""

    def __init__(self, definition: yolo.Yolo) -> None:
        super().__init__()
        self.definition = definition
        self.by_class = isinstance(definition, yolo.Yolov3DetectionOutput)

    def decoded(self, x: Tensor, bottom: int) -> tuple[Tensor, Tensor]:
        """Centres and sizes (N * P, 4), and the scores of each class (N * P, C), of one map."""
        definition, side = self.definition, x.shape[2]
        values = x.reshape(x.shape[0], definition.num_box, -1, side * side).permute(0, 3, 1, 2)
        index = torch.arange(side * side, device=x.device)
        cells = torch.stack([index % side, index // side], dim=-1).to(x.dtype)
        anchors = torch.tensor(definition.anchors[bottom], dtype=x.dtype, device=x.device)
        centres = (cells[:, None] + torch.sigmoid(values[..., :2])) / side
        sizes = torch.exp(values[..., 2:4]) * anchors / (side * definition.units[bottom])
        scores = values[..., 5:]
        scores = torch.sigmoid(scores) if self.by_class else torch.softmax(scores, dim=-1)
        confidence = scores * torch.sigmoid(values[..., 4:5])
        return torch.cat([centres, sizes], dim=-1).reshape(-1, 4), confidence.reshape(-1, definition.num_classes)

    def forward(self, *maps: Tensor) -> Tensor:
        definition = self.definition
        decoded = [self.decoded(x, index) for index, x in enumerate(maps)]
        boxes, scores = (torch.cat(parts) for parts in zip(*decoded, strict=True))
        if self.by_class:
            box, label = (scores > definition.confidence_threshold).nonzero(as_tuple=True)
            confidence = scores[box, label]
        else:
            confidence, labels = scores.max(dim=1)
            (box,) = (confidence >= definition.confidence_threshold).nonzero(as_tuple=True)
            confidence, label = confidence[box], labels[box]
        # One more that is not valid, so that there is always something to look at.
        confidence = torch.cat([confidence, torch.full_like(scores[:1, 0], -1)])
        box, label = (torch.cat([index, index.new_zeros(1)]) for index in (box, label))
        confidence, order = highest(confidence)
        chosen = boxes[box[order]]
        edges = corners(chosen)
        sizes = chosen[:, 2] * chosen[:, 3]
        keep = kept(edges[None], sizes[None], (confidence > -0.5)[None], definition.suppression)[0]
        label = (label[order] + 1).to(edges.dtype)
        table = torch.cat([torch.stack([torch.zeros_like(label), label, confidence], dim=1), edges], dim=1)
        return rows_or_none(table, keep, maps[0].shape[0])

    def extra_repr(self) -> str:
        return str(self.definition)


class YoloBoxes(Yolo):
    """Versions 2 and 3 up to the choice: boxes (N, 1, P, 4) and confidences by class (N, C, P)."""

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        decoded = [self.decoded(x, index) for index, x in enumerate(maps)]
        parts = [
            (part.reshape(x.shape[0], -1, part.shape[1]) for part in pair)
            for x, pair in zip(maps, decoded, strict=True)
        ]
        boxes, scores = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return corners(boxes)[:, None], scores.transpose(1, 2)

"""Proposals and pooling of regions of interest."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from caffe_port.converters.to_pytorch.modules.boxes import highest, kept
from caffe_port.layers import roi

__all__ = ["PSROIPooling", "Proposal", "ROIPooling"]


def rounded(x: Tensor) -> Tensor:
    """The nearest whole numbers, halves away from 0, as C's round."""
    whole = x.trunc()
    return whole + x.sign() * ((x - whole).abs() >= 0.5).to(x.dtype)


def _maxima(x: Tensor, axis: int) -> Tensor:
    """Maxima of 1, 2, 4, … neighbours from each position of an axis on, stacked in front; past the end is -inf."""
    size = x.shape[axis]
    levels, reach = [x], 1
    while 2 * reach <= size:
        last = levels[-1]
        pad = [0, 0] * (x.dim() - 1 - axis) + [0, reach]
        further = F.pad(last.narrow(axis, reach, size - reach), pad, value=-torch.inf)
        levels.append(torch.maximum(last, further))
        reach *= 2
    return torch.stack(levels)


class ROIPooling(nn.Module):
    """The maximum of each cell of a grid laid over a region; 0 for an empty cell.

    The maximum of any range is that of two ranges of a power of 2 which cover it, and these are looked up.
    """

    def __init__(self, definition: roi.ROIPooling) -> None:
        super().__init__()
        self.definition = definition

    def _cells(self, start: Tensor, end: Tensor, number: int, size: int) -> tuple[Tensor, Tensor]:
        """First and one past the last index of each region's cells along an axis: (R, number) each."""
        step = (end - start + 1).clamp(min=1).to(torch.float32)[:, None] / number
        index = torch.arange(number, device=start.device, dtype=torch.float32)
        low = (index * step).floor().to(torch.int64) + start[:, None]
        high = ((index + 1) * step).ceil().to(torch.int64) + start[:, None]
        return low.clamp(0, size), high.clamp(0, size)

    @staticmethod
    def _covers(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The power of 2 of the two ranges that cover a range, and where each starts."""
        exponents = [(length or 1).bit_length() - 1 for length in range(size + 1)]
        power = torch.tensor(exponents, device=low.device)[(high - low).clamp(min=0)]
        return power, low.clamp(max=size - 1), (high - 2**power).clamp(min=0)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rois = rois.reshape(-1, 5)
        left, above, right, below = rounded(rois[:, 1:] * self.definition.spatial_scale).to(torch.int64).unbind(dim=1)
        first_row, last_row = self._cells(above, below, self.definition.pooled[0], height)
        first, last = self._cells(left, right, self.definition.pooled[1], width)
        row_power, *rows = self._covers(first_row, last_row, height)
        power, *columns = self._covers(first, last, width)
        # (powers of columns, powers of rows, N, H, W, C)
        table = _maxima(_maxima(x.permute(0, 2, 3, 1), 1), 3)
        image = rois[:, 0].to(torch.int64)[:, None, None]
        picked = [
            table[power[:, None, :], row_power[:, :, None], image, row[:, :, None], column[:, None, :]]
            for row in rows
            for column in columns
        ]
        largest = torch.stack(picked).amax(dim=0)
        empty = (last_row <= first_row)[:, :, None] | (last <= first)[:, None, :]
        return largest.masked_fill(empty[..., None], 0.0).permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return str(self.definition)


class PSROIPooling(nn.Module):
    """The mean of each cell of a grid laid over a region, each cell from a channel of its own."""

    def __init__(self, definition: roi.PSROIPooling) -> None:
        super().__init__()
        self.definition = definition

    def _cells(self, start: Tensor, end: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Which positions are in each cell (R, groups, size), as 0 and 1; and how many (R, groups)."""
        groups = self.definition.group_size
        first = rounded(start) * self.definition.spatial_scale
        last = (rounded(end) + 1) * self.definition.spatial_scale
        step = (last - first).clamp(min=0.1)[:, None] / groups
        index = torch.arange(groups, device=start.device, dtype=start.dtype)
        low = (index * step + first[:, None]).floor().clamp(0, size)
        high = ((index + 1) * step + first[:, None]).ceil().clamp(0, size)
        position = torch.arange(size, device=start.device, dtype=start.dtype)
        inside = (position >= low[..., None]) & (position < high[..., None])
        return inside.to(start.dtype), (high - low).clamp(min=0)

    def forward(self, x: Tensor, rois: Tensor) -> Tensor:
        images, _, height, width = x.shape
        groups, depth = self.definition.group_size, self.definition.output_dim
        rois = rois.reshape(-1, 5)
        rows, row_counts = self._cells(rois[:, 2], rois[:, 4], height)
        columns, column_counts = self._cells(rois[:, 1], rois[:, 3], width)
        own = (rois[:, :1].to(torch.int64) == torch.arange(images, device=x.device)).to(x.dtype)
        # Sums over columns, then over the rows of the region's image: products with masks.
        parts = x.reshape(images, depth, groups, groups, height, width).permute(3, 1, 2, 0, 4, 5)
        summed = parts.reshape(groups, -1, width) @ columns.permute(1, 2, 0)
        summed = summed.reshape(groups, depth, groups, images * height, -1)
        rows = (rows[:, :, None] * own[:, None, :, None]).permute(1, 2, 3, 0).reshape(groups, images * height, -1)
        sums = (summed * rows).sum(dim=3).permute(3, 1, 2, 0)
        return sums / (row_counts[:, None, :, None] * column_counts[:, None, None, :]).clamp(min=1)

    def extra_repr(self) -> str:
        return str(self.definition)


class Proposal(nn.Module):
    """Regions of interest from the scores and box regressions of anchors, and their scores if asked for."""

    def __init__(self, definition: roi.Proposing) -> None:
        super().__init__()
        self.definition = definition

    def forward(self, scores: Tensor, deltas: Tensor, info: Tensor) -> Tensor | tuple[Tensor, ...]:
        definition = self.definition
        height, width = scores.shape[2:]
        before, after = definition.counts(height, width)
        scores = scores[0, len(definition.anchors) :].permute(1, 2, 0).reshape(-1)
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, 4)
        info = info.reshape(-1)
        boxes = torch.from_numpy(definition.grid(height, width)).to(scores)
        sizes = boxes[:, 2:] - boxes[:, :2] + 1
        centres = deltas[:, :2] * sizes + (boxes[:, :2] + 0.5 * sizes)
        halves = 0.5 * (torch.exp(deltas[:, 2:]) * sizes)
        end = info[[1, 0]] - 1
        low, high = (torch.minimum(edge, end).clamp(min=0) for edge in (centres - halves, centres + halves))
        sides = high - low + 1
        least = definition.min_size * info[list(definition.scale_columns[::-1])]
        large = (sides >= least).all(dim=1)
        scores = scores.masked_fill(~large, -torch.inf) if definition.drops_small else scores * large.to(scores.dtype)
        best, order = highest(scores, before)
        boxes, areas = torch.cat([low, high], dim=1)[order], sides.prod(dim=1)[order]
        keep = kept(boxes[None], areas[None], (best > -torch.inf)[None], definition.suppression, after)[0]
        rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)[keep]
        if definition.num_tops == 1:
            return rois
        return rois, best[keep].reshape((-1, 1)[: definition.score_axes])

    def extra_repr(self) -> str:
        return str(self.definition)

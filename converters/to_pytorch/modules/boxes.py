"""Greedy non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_port.layers.boxes import Suppression

__all__ = ["highest", "kept", "rows_or_none"]

State = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def kept(boxes: Tensor, sizes: Tensor, valid: Tensor, rule: Suppression, most: int | None = None) -> Tensor:
    """Which of the boxes (B, K, 4) that are `valid` (B, K) are kept, each row by itself; at most `most` a row.

    Boxes stand in the order of preference; `sizes`: their areas (B, K). One box a row is kept in each turn.
    """
    # Copies: while_loop takes no views of one tensor.
    left, above, right, below = (side.clone() for side in boxes.unbind(dim=2))
    number = boxes.shape[1]
    index = torch.arange(number, device=boxes.device)

    def possible(last: Tensor, largest: Tensor, threshold: Tensor) -> Tensor:
        clear = largest < threshold if rule.inclusive else largest <= threshold
        return valid & (index > last) & clear

    def goes_on(chosen: Tensor, last: Tensor, largest: Tensor, threshold: Tensor, turn: Tensor) -> Tensor:
        more = possible(last, largest, threshold).any()
        return more if most is None else more & (turn < most)

    def keep_one(chosen: Tensor, last: Tensor, largest: Tensor, threshold: Tensor, turn: Tensor) -> State:
        alive = possible(last, largest, threshold)
        found = alive.any(dim=1, keepdim=True)
        best = alive.to(torch.uint8).argmax(dim=1, keepdim=True)
        width = torch.minimum(right, right.gather(1, best)) - torch.maximum(left, left.gather(1, best))
        height = torch.minimum(below, below.gather(1, best)) - torch.maximum(above, above.gather(1, best))
        apart = (width < 0) | (height < 0) if rule.apart else (width + rule.pixel <= 0) | (height + rule.pixel <= 0)
        shared = (width + rule.pixel) * (height + rule.pixel)
        overlap = shared / (sizes.gather(1, best) + sizes - shared)
        overlap = torch.where(overlap.isnan(), 2.0 if rule.nan_suppresses else 0.0, overlap)
        overlap = overlap.masked_fill(apart, 0.0)
        lower = threshold
        if rule.eta < 1:
            lower = torch.where(found & (threshold > 0.5), threshold * rule.eta, threshold)
        return (
            chosen | ((index == best) & found),
            torch.where(found, best, number),
            torch.maximum(largest, overlap),
            lower.clone(),
            turn + 1,
        )

    state: State = (
        torch.zeros_like(valid),
        torch.full_like(valid[:, :1], -1, dtype=torch.int64),
        torch.full_like(sizes, -1),
        torch.full_like(sizes[:, :1], rule.threshold),
        torch.zeros((), dtype=torch.int64, device=boxes.device),
    )
    if torch.compiler.is_exporting():
        from torch._higher_order_ops import while_loop

        made: State = while_loop(goes_on, keep_one, state)  # type: ignore[no-untyped-call]
        return made[0]
    while goes_on(*state):
        state = keep_one(*state)
    return state[0]


def highest(scores: Tensor, number: int | None = None) -> tuple[Tensor, Tensor]:
    """Scores along the last axis from the highest on, with their indices; the lower index first among equals."""
    ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
    return ordered[..., :number], order[..., :number]


def rows_or_none(table: Tensor, keep: Tensor, images: int) -> Tensor:
    """The rows of a table (M, 7) that are kept, as (1, 1, rows, 7); if none, one an image of its index and -1s."""
    index = torch.arange(images, device=table.device, dtype=table.dtype)[:, None]
    empty = torch.cat([index, torch.full_like(index, -1).expand(-1, 6)], dim=1)
    chosen = torch.cat([keep, (~keep.any()).expand(images)])
    return torch.cat([table, empty])[chosen][None, None]

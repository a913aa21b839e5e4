"""DetectionOutput by loops after the forks' source."""

from __future__ import annotations

from typing import Any

import numpy as np
from fork_layers import F32, Floats

__all__ = ["CLASSES", "IMAGES", "PRIORS", "rows_by_loops"]

PRIORS, CLASSES, IMAGES = 7, 3, 2


def jaccard(a: Floats, b: Floats) -> float:
    """JaccardOverlap of bbox_util.cpp for fractions of an image, in float32."""

    def area(box: Floats) -> np.float32:
        return F32(0) if box[2] < box[0] or box[3] < box[1] else F32((box[2] - box[0]) * (box[3] - box[1]))

    if b[0] > a[2] or b[2] < a[0] or b[1] > a[3] or b[3] < a[1]:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if not (width > 0 and height > 0):
        return 0.0
    shared = width * height
    return float(shared / (area(a) + area(b) - shared))


def rows_by_loops(boxes: Floats, conf: Floats, options: dict[str, Any]) -> Floats:
    """What detection_output_layer.cpp gives for decoded boxes (N, P, L, 4) and scores (N, P, C)."""
    rows: list[list[float]] = []
    images, _, classes = conf.shape
    for image in range(images):
        found: list[tuple[np.float32, int, int]] = []
        for label in range(classes):
            if label == options["background"]:
                continue
            candidates = [(conf[image, i, label], i) for i in range(conf.shape[1])]
            candidates = [one for one in candidates if one[0] > F32(options["confidence"])]
            candidates.sort(key=lambda one: -one[0])
            if options["top_k"] > -1:
                candidates = candidates[: options["top_k"]]
            threshold, kept = F32(options["nms"]), []
            for _, index in candidates:
                own = boxes[image, :, label if boxes.shape[2] > 1 else 0]
                keep = all(jaccard(own[index], own[other]) <= threshold for other in kept)
                if keep:
                    kept.append(index)
                    if options["eta"] < 1 and threshold > 0.5:
                        threshold = F32(threshold * F32(options["eta"]))
            found += [(conf[image, index, label], label, index) for index in kept]
        if -1 < options["keep_top_k"] < len(found):
            best = sorted(found, key=lambda one: -one[0])[: options["keep_top_k"]]
            found = [one for one in found if one in best]
        for score, label, index in found:
            rows.append([image, label, score, *boxes[image, index, label if boxes.shape[2] > 1 else 0]])
    if not rows:
        rows = [[image, *[-1.0] * 6] for image in range(images)]
    return np.array(rows, F32)[None, None]

"""Published accuracies of the architectures, each with its source."""

from __future__ import annotations

import functools
import importlib.resources
import json
from dataclasses import dataclass
from typing import Any

__all__ = ["Accuracy", "Published", "published"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One result on ImageNet's validation set (ILSVRC 2012), or on whatever `protocol` says.

    `top1` and `top5` are shares from 0 to 1; None where the source has none. `url` may be empty.
    """

    top1: float | None
    top5: float | None
    protocol: str
    source: str
    url: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "top1": self.top1,
            "top5": self.top5,
            "protocol": self.protocol,
            "source": self.source,
            "url": self.url or None,
        }


@dataclass(frozen=True, slots=True)
class Published:
    """What is published of an architecture: what it is called in figures, and its results, the one to show first."""

    title: str
    results: tuple[Accuracy, ...]


@functools.cache
def published() -> dict[str, Published]:
    """By name of the architecture, for 1000 classes of ImageNet. One without results is here for its title."""
    text = importlib.resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    return {
        name: Published(
            entry["title"],
            tuple(
                Accuracy(one.get("top1"), one.get("top5"), one["protocol"], one["source"], one["url"])
                for one in entry["results"]
            ),
        )
        for name, entry in json.loads(text).items()
    }

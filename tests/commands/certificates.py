"""The certificate that a conversion wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["certificate"]


def certificate(folder: Path, name: str = "small") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"{name}.certificate.json").read_text())
    return document

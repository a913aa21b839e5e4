"""Harmless pictures in two classes, cut from the photographs that are shipped: some with the left half, some with the
right, so that what is held back shows other parts of the world than what is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from places import REFERENCE

IMAGES = REFERENCE / "open_nsfw" / "images"
GROUPS = {"animal": ("chelsea.png", "horse.png"), "sky": ("hubble_deep_field.jpg", "retina.jpg")}


def write(folder: Path, count: int, *, half: str, side: int = 128, seed: int = 0) -> Path:
    """`count` cuts of each class as PNG, in a subfolder each."""
    rng = np.random.default_rng(seed)
    for name, files in GROUPS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            with Image.open(IMAGES / files[number % len(files)]) as opened:
                picture = opened.convert("RGB")
            width, height = picture.size
            left = 0 if half == "left" else width // 2
            picture = picture.crop((left, 0, left + width // 2, height))
            cut = int(min(picture.size) * rng.uniform(0.5, 0.8))
            x, y = (int(rng.integers(0, size - cut + 1)) for size in picture.size)
            picture.crop((x, y, x + cut, y + cut)).resize((side, side)).save(folder / name / f"{number}.png")
    return folder

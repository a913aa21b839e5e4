"""Makes certificate.png: the verdict and the plot of a certificate, as Chromium shows them.

    python docs/images/certificate.py artifacts/open_nsfw.certificate.html

Needs Chromium (`--chromium` says which) and Pillow. The cuts are those of open_nsfw's page at this width: look at the
picture after a change to the page.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTH, HEIGHT, SCALE = 1000, 3700, 1.5
PARTS = ((0, 240), (2716, 3478))
"""From which line of the page to which: heading with verdict; the plot."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("certificate", type=Path)
    parser.add_argument("--chromium", default="chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "page.png")
        subprocess.run(
            [args.chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--force-device-scale-factor={SCALE}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}",
             args.certificate.resolve().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        page = Image.open(shot).convert("RGB")
    parts = [page.crop((0, round(top * SCALE), page.width, round(bottom * SCALE))) for top, bottom in PARTS]
    picture = Image.new("RGB", (page.width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height
    picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        HERE / "certificate.png", optimize=True
    )


if __name__ == "__main__":
    main()

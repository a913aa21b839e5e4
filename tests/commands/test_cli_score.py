"""caffe-port score: options that do not go together are told before anything is read."""

from __future__ import annotations

import pytest
from command import Capture, failure


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--resume"], "--resume goes on with a file: name it with --output"),
        (["--output", "o.csv", "--retry-errors"], "--retry-errors is for --resume"),
        (["--master", "local"], "--master, --conf, --keep and --overwrite are for --engine spark"),
        (["--engine", "spark"], "--engine spark: it needs --output, writes Parquet, and takes no list"),
        (
            ["--engine", "spark", "--output", "o", "--format", "csv"],
            "--engine spark: it needs --output, writes Parquet",
        ),
        (
            ["--engine", "spark", "--output", "o", "--resume", "--workers", "2"],
            "--engine spark: --resume, --workers are for one machine",
        ),
    ],
)
def test_what_does_not_go_together(capsys: Capture, arguments: list[str], reason: str) -> None:
    assert reason in failure(capsys, "score", "no-such-image.jpg", *arguments)

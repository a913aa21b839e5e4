"""What all figures drawn by matplotlib share: the style, and the same bytes for the same data and version."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from caffe_port.printing import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawn", "plain_label", "plain_style"]

_RC = {
    "svg.hashsalt": "caffe_port",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
}
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


@contextlib.contextmanager
def plain_style(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """While open, matplotlib draws in the style of the figures here, with `more` of its settings.

    A `Figure` made inside, not pyplot's: nothing of the process's state is used, and no window system.
    """
    import matplotlib

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_RC, **(more or {}), "backend": "agg"}):
        yield


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as a file of that kind, "png" or "svg", without the time and the tool's version."""
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, metadata=_METADATA[kind])
    return picture.getvalue()


def plain_label(text: str, longest: int) -> str:
    """Text without what matplotlib takes for a formula, or cannot draw; what is longer than `longest` is cut."""
    shown = printable(text).replace("$", r"\$")
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"

"""How the numbers of a calibration are written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffe_port.calibration.auc import Interval
from caffe_port.calibration.threshold import Rate

if TYPE_CHECKING:
    from caffe_port.calibration.report import Check

__all__ = ["interval", "percent", "shown", "small", "told"]


def percent(share: float) -> str:
    """Per cent with as many decimals as tell it from 0 and 100: `12.3 %`, `0.042 %`, `99.95 %`."""
    value = 100 * share
    near = min(value, 100 - value)
    decimals = 0 if near == 0 else next((d for d, least in ((1, 1.0), (2, 0.1), (3, 0.01)) if near >= least), 4)
    return f"{value:.{decimals}f} %"


def small(p: float) -> str:
    """A p-value: `0.0123`, and nothing more exact than anyone believes: `< 1e-12`."""
    return "undefined" if math.isnan(p) else "< 1e-12" if p < 1e-12 else f"{p:.3g}"


def shown(rate: Rate) -> str:
    """A rate with its interval: `1.2 % (0.9 % to 1.6 %)`."""
    if not rate.total:
        return "none"
    return f"{percent(rate.estimate)} ({percent(rate.lower)} to {percent(rate.upper)})"


def told(check: Check) -> str:
    """The result of a check in a sentence."""
    t = check.threshold
    if check.rate is None:
        rates = check.confusion.rates(t.confidence)
        flagged, missed = (shown(rates[name]) for name in ("false_positive_rate", "false_negative_rate"))
        return (
            f"at {t.value:.7g}, {flagged} of negatives are flagged and {missed} of positives missed; no target to hold"
        )
    what = "false positive" if t.rule == "max-fpr" else "false negative"
    verdict = "agrees with" if check.ok else "contradicts"
    return (
        f"at {t.value:.7g} the {what} rate is {shown(check.rate)}, which {verdict} the target of at most "
        f"{100 * (t.target or 0):g} % (p {small(check.p or 0)})"
    )


def interval(found: Interval) -> str:
    """An estimate with its interval: `0.9731 (0.9650 to 0.9812)`."""
    return f"{found.estimate:.4f} ({found.lower:.4f} to {found.upper:.4f})"

"""Layers as text."""

from __future__ import annotations

__all__ = ["fc", "layer", "power"]


def layer(name: str, kind: str, bottoms: str = "", tops: str = "", more: str = "") -> str:
    words = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(words)} {more} }}\n'


def power(name: str, bottom: str, top: str, scale: float = 1, shift: float = 0) -> str:
    return layer(name, "Power", bottom, top, f"power_param {{ scale: {scale} shift: {shift} }}")


def fc(name: str, bottom: str, outputs: int, more: str = "", param: str = "") -> str:
    return layer(
        name,
        "InnerProduct",
        bottom,
        name,
        f"inner_product_param {{ num_output: {outputs} bias_term: false {param} }} {more}",
    )

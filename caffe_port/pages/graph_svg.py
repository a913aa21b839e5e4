"""A net's graph as SVG, laid out here: ranks by longest path, few crossings, boxes near what they are joined to.

A box is a layer with the layers that work in place on its top below it; a Split is the line itself. The picture comes
in strips that stand on one another without a seam, so that on paper it can break between two of them.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.etree.ElementTree import Element

from caffe_port.net import Layer, Net
from caffe_port.pages.document import tag
from caffe_port.printing import printable
from caffe_port.shapes import format_shape

__all__ = ["graph_svg"]

# All in the units of the picture, which are CSS pixels.
LINE = 15.0
CHARACTER = 6.4
"""Width of a character of the monospaced 10.5 px type, rounded up."""
PADDING = 8.0
GAP = 18.0
RANK_GAP = 34.0
MARGIN = 10.0
LANE = 12.0
"""Room that a line passing a rank takes."""

LONGEST = 40
"""Characters of a line of text; longer ones lose their middle."""
MOST_BENDS = 20_000
"""Points of passing lines over all ranks; the longest lines beyond that are drawn straight through."""

PAPER_WIDTH, PAPER_HEIGHT = 690.0, 900.0
SMALLEST = 0.55
"""Of its size on the screen, on paper."""
HEADING = 0.12
"""Share of the first page that a heading may need."""


@dataclass(slots=True, eq=False)
class _Node:
    """A box, or (without layers) a point where a line passes a rank. `x` is the middle, `y` the upper edge."""

    layers: list[Layer] = field(default_factory=list)
    rank: int = 0
    slack: int = 0
    """By how many ranks the longest path through it falls short of the longest of all."""
    x: float = 0.0
    y: float = 0.0
    width: float = LANE
    height: float = 0.0
    above: list[_Node] = field(default_factory=list)
    below: list[_Node] = field(default_factory=list)


Edge = tuple[_Node, _Node]


def graph_svg(net: Net, failing: Mapping[int, str] | None = None) -> list[Element]:
    """The strips of the picture, to be set below one another.

    `failing`: indices of layers to mark, with the reason. Each layer's line has the id `layer-<index>`.
    """
    boxes, edges = _boxes(net)
    if not boxes:
        return []
    ranks, direct = _ranked(boxes, edges)
    _order(ranks)
    _place(ranks)
    return list(_strips(ranks, direct, failing or {}))


# Layout


def _boxes(net: Net) -> tuple[list[_Node], list[Edge]]:
    box_of: dict[int, _Node] = {}
    boxes: list[_Node] = []
    edges: dict[Edge, None] = {}
    for layer in net.layers:
        sources = [box_of[id(blob.origin)] for blob in layer.bottoms]
        if layer.type == "Split":
            box = sources[0]
        elif layer.is_in_place and len(sources) == 1:
            box = sources[0]
            box.layers.append(layer)
        else:
            box = _Node([layer])
            boxes.append(box)
            edges.update(dict.fromkeys((source, box) for source in sources))
        box_of.update({id(top): box for top in layer.tops})
    for box in boxes:
        lines = _texts(box)
        box.width = max(len(line) for line in lines) * CHARACTER + 2 * PADDING
        box.height = len(lines) * LINE + PADDING
    return boxes, list(edges)


def _texts(box: _Node) -> list[str]:
    return [*(f"{layer.type} {_short(layer)}" for layer in box.layers), _shapes(box)]


def _short(layer: Layer) -> str:
    room = max(12, LONGEST - len(layer.type))
    name = printable(layer.name)
    return name if len(name) <= room else f"{name[: (room + 1) // 2 - 1]}…{name[-(room // 2) :]}"


def _shapes(box: _Node) -> str:
    shapes = [format_shape(top.shape) for top in box.layers[-1].tops]
    text = ", ".join(shapes[:2]) + (f", {len(shapes) - 2} more" if len(shapes) > 2 else "")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _ranked(boxes: Sequence[_Node], edges: Sequence[Edge]) -> tuple[list[list[_Node]], list[Edge]]:
    """The nodes of each rank, lines' points among them; and the edges that are too many to be led round the boxes."""
    sources: dict[int, list[_Node]] = defaultdict(list)
    targets: dict[int, list[_Node]] = defaultdict(list)
    for source, target in edges:
        sources[id(target)].append(source)
        targets[id(source)].append(target)
    for box in boxes:  # Caffe's order is topological.
        box.rank = max((source.rank + 1 for source in sources[id(box)]), default=0)
    for box in boxes:
        if not sources[id(box)] and targets[id(box)]:
            box.rank = min(target.rank for target in targets[id(box)]) - 1
    beyond: dict[int, int] = {}
    for box in reversed(boxes):
        beyond[id(box)] = max((beyond[id(target)] + 1 for target in targets[id(box)]), default=0)
    longest = max(box.rank + beyond[id(box)] for box in boxes)
    for box in boxes:
        box.slack = longest - box.rank - beyond[id(box)]
    ranks: list[list[_Node]] = [[] for _ in range(1 + max(box.rank for box in boxes))]
    for box in boxes:
        ranks[box.rank].append(box)
    direct: list[Edge] = []
    bends = 0
    for source, target in sorted(edges, key=lambda edge: edge[1].rank - edge[0].rank):
        bends += target.rank - source.rank - 1
        if bends > MOST_BENDS:
            direct.append((source, target))
            continue
        chain = [source]
        for rank in range(source.rank + 1, target.rank):
            chain.append(_Node(rank=rank))
            ranks[rank].append(chain[-1])
        for upper, lower in pairwise([*chain, target]):
            upper.below.append(lower)
            lower.above.append(upper)
    return ranks, direct


def _order(ranks: list[list[_Node]]) -> None:
    """Puts each rank into an order with few crossings: by the mean place of the neighbours, up and down."""
    best, fewest = [list(rank) for rank in ranks], _crossings(ranks)
    for sweep in range(8):
        if not fewest:
            break
        downwards = sweep % 2 == 0
        for before, rank in pairwise(ranks if downwards else ranks[::-1]):
            _sort(rank, before, downwards)
        crossings = _crossings(ranks)
        if crossings < fewest:
            best, fewest = [list(rank) for rank in ranks], crossings
    ranks[:] = best


def _sort(rank: list[_Node], before: Sequence[_Node], downwards: bool) -> None:
    """Sorts a rank by where its neighbours stand in the rank before; who has none there stays."""
    place = {id(node): i for i, node in enumerate(before)}
    mean = {}
    for i, node in enumerate(rank):
        near = [place[id(other)] for other in (node.above if downwards else node.below)]
        mean[id(node)] = sum(near) / len(near) if near else i
    rank.sort(key=lambda node: mean[id(node)])


def _crossings(ranks: Sequence[Sequence[_Node]]) -> int:
    total = 0
    for upper, lower in pairwise(ranks):
        place = {id(node): i for i, node in enumerate(lower)}
        passed: list[int] = []
        for node in upper:
            ends = sorted(place[id(other)] for other in node.below)
            total += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return total


_PASSING, _BOXES, _LINE = 8.0, 1.0, 1e-3
"""How strongly a node is drawn to its neighbour: a line to itself, anything to a box, a box to a line."""
_FIRM = 1e3
"""How much more a box stays in its place than one that is looser: on the longest path, nearly on it, far from it."""


def _place(ranks: Sequence[Sequence[_Node]]) -> None:
    """Gives every node its x and y: the mean of its neighbours' x, as far as the others in its rank allow."""
    y = MARGIN
    for rank in ranks:
        tallest = max(node.height for node in rank)
        for node in rank:
            node.y = y
            if not node.layers:
                node.height = tallest
        y += tallest + RANK_GAP
        _spread(rank, [0.0] * len(rank))
    for sweep in range(24):
        downwards = sweep % 2 == 1
        for rank in ranks if downwards else reversed(ranks):
            _spread(rank, [_wanted(node, node.above if downwards else node.below) for node in rank])
    left = min(node.x - node.width / 2 for rank in ranks for node in rank) - MARGIN
    for rank in ranks:
        for node in rank:
            node.x -= left


def _wanted(node: _Node, near: Sequence[_Node]) -> float:
    if not near:
        return node.x
    # Lines that pass are straight before all; boxes stand below boxes, and lines go round them.
    weights = [_BOXES if other.layers else _LINE if node.layers else _PASSING for other in near]
    return sum(weight * other.x for weight, other in zip(weights, near, strict=True)) / sum(weights)


def _weight(node: _Node) -> float:
    if not node.layers:
        return 1.0
    return max(1.0, _FIRM / node.slack**3) if node.slack else _FIRM**2


def _spread(rank: Sequence[_Node], wanted: Sequence[float]) -> None:
    """Moves the nodes to the wanted places or as near as their widths and order allow, in weighted least squares.

    With the widths subtracted, that is isotonic regression: neighbours that would overlap are pooled at their mean.
    """
    offsets = [0.0]
    for left, right in pairwise(rank):
        gap = GAP if left.layers or right.layers else 0.0
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + gap)
    pools: list[tuple[float, float, int]] = []
    for node, place, offset in zip(rank, wanted, offsets, strict=True):
        mean, weight, number = place - offset, _weight(node), 1
        while pools and pools[-1][0] > mean:
            before, heavy, many = pools.pop()
            mean = (before * heavy + mean * weight) / (heavy + weight)
            weight, number = heavy + weight, many + number
        pools.append((mean, weight, number))
    means = (mean for mean, _, number in pools for _ in range(number))
    for node, mean, offset in zip(rank, means, offsets, strict=True):
        node.x = mean + offset


# Drawing


def _strips(ranks: Sequence[Sequence[_Node]], direct: Sequence[Edge], failing: Mapping[int, str]) -> Iterator[Element]:
    width = max(node.x + node.width / 2 for rank in ranks for node in rank) + MARGIN
    columns = next((n for n in (3, 2) if PAPER_WIDTH / n >= SMALLEST * width), 1)
    tallest = PAPER_HEIGHT / min(1.0, PAPER_WIDTH / columns / width)
    tops = [rank[0].y - RANK_GAP / 2 for rank in ranks]
    ends = [*tops[1:], max(node.y + node.height for node in ranks[-1]) + MARGIN]
    first = made = 0
    while first < len(ranks):
        last = first
        room = tallest * (1 - HEADING) if made < columns else tallest
        while last + 1 < len(ranks) and ends[last + 1] - tops[first] <= room:
            last += 1
        start = tops[first] if first else 0.0
        through = [edge for edge in direct if edge[0].rank <= last and edge[1].rank >= first]
        # The lines of the gap above the strip are cut by its edge; the other half is in the strip before.
        lines = ranks[max(0, first - 1) : last + 1]
        yield tag(
            "svg",
            tag("path", d=_lines(lines, through), class_="edge"),
            tag("path", d=_heads(ranks[first : last + 1], through), class_="head"),
            [_drawn(node, failing) for rank in ranks[first : last + 1] for node in rank if node.layers],
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 {_n(start)} {_n(width)} {_n(ends[last] - start)}",
            width=_n(width),
            height=_n(ends[last] - start),
            class_=f"strip across-{columns}",
            role="img",
            aria_label=f"graph of the net, ranks {first + 1} to {last + 1} of {len(ranks)}",
        )
        first, made = last + 1, made + 1


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _lines(ranks: Sequence[Sequence[_Node]], direct: Sequence[Edge]) -> str:
    parts = []
    for rank in ranks:
        bottom = rank[0].y + max(node.height for node in rank)
        for node in rank:
            start = node.y + node.height if node.layers else node.y
            if node.below and start < bottom:
                parts.append(f"M{_n(node.x)} {_n(start)}V{_n(bottom)}")
            parts += [_curve(node.x, bottom, other.x, other.y) for other in node.below]
    parts += [_curve(source.x, source.y + source.height, target.x, target.y) for source, target in direct]
    return "".join(parts)


def _curve(x: float, y: float, to_x: float, to_y: float) -> str:
    if abs(x - to_x) < 0.05:
        return f"M{_n(x)} {_n(y)}V{_n(to_y)}"
    middle = _n((y + to_y) / 2)
    return f"M{_n(x)} {_n(y)}C{_n(x)} {middle} {_n(to_x)} {middle} {_n(to_x)} {_n(to_y)}"


def _heads(ranks: Sequence[Sequence[_Node]], direct: Sequence[Edge]) -> str:
    led = [node for rank in ranks for node in rank if node.layers and node.above]
    return "".join(f"M{_n(node.x)} {_n(node.y)}l-3.5-6h7z" for node in [*led, *(target for _, target in direct)])


def _drawn(box: _Node, failing: Mapping[int, str]) -> Element:
    left, top = box.x - box.width / 2, box.y
    head = box.layers[0]
    kind = "input" if head.definition.is_input else "learned" if any(layer.weights for layer in box.layers) else ""
    bad = [layer for layer in box.layers if layer.index in failing]
    lines: list[Element] = []
    for i, layer in enumerate(box.layers):
        y = top + PADDING / 2 + i * LINE
        reason = failing.get(layer.index)
        tops = ", ".join(f"{blob.name} {format_shape(blob.shape)}" for blob in layer.tops)
        lines.append(
            tag(
                "g",
                tag("title", f"{layer.index}  {layer.name} ({layer.type}) → {tops}{f' — {reason}' if reason else ''}"),
                tag("rect", x=_n(left + 1), y=_n(y), width=_n(box.width - 2), height=_n(LINE), class_="line"),
                tag(
                    "text",
                    tag("tspan", layer.type, class_="type"),
                    f" {_short(layer)}",
                    x=_n(left + PADDING),
                    y=_n(y + LINE - 4),
                ),
                id=f"layer-{layer.index}",
                class_="bad" if reason is not None else None,
            )
        )
    y = top + PADDING / 2 + len(box.layers) * LINE
    return tag(
        "g",
        tag("rect", x=_n(left), y=_n(top), width=_n(box.width), height=_n(box.height), rx=5, class_="frame"),
        lines,
        tag("text", _shapes(box), x=_n(left + PADDING), y=_n(y + LINE - 4), class_="shape"),
        class_=" ".join(filter(None, ("box", kind, "bad" if bad else ""))),
    )

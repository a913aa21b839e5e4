"""Names beside discs: none covers another, or a disc that is not its own."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_port.tradeoff.labels import Disc, Place, place_labels

FRAME = (0.0, 0.0, 500.0, 400.0)


def covers(place: Place, label: Disc, other_place: Place, other: Disc) -> bool:
    apart_x = abs(place.x - other_place.x) >= (label.width + other.width) / 2
    apart_y = abs(place.y - other_place.y) >= (label.height + other.height) / 2
    return not (apart_x or apart_y)


def on_disc(place: Place, label: Disc, disc: Disc) -> bool:
    x = min(max(disc.x, place.x - label.width / 2), place.x + label.width / 2)
    y = min(max(disc.y, place.y - label.height / 2), place.y + label.height / 2)
    return math.dist((x, y), (disc.x, disc.y)) < disc.radius


def assert_clear(discs: list[Disc], places: list[Place]) -> None:
    left, low, right, high = FRAME
    for (disc, place), (other, other_place) in itertools.combinations(zip(discs, places, strict=True), 2):
        assert not covers(place, disc, other_place, other)
    for disc, place in zip(discs, places, strict=True):
        assert left <= place.x - disc.width / 2 and place.x + disc.width / 2 <= right
        assert low <= place.y - disc.height / 2 and place.y + disc.height / 2 <= high
        assert not any(on_disc(place, disc, other) for other in discs if other is not disc)


def test_a_name_stands_in_a_large_disc_and_above_a_small_one() -> None:
    large, small = Disc(100, 100, 40, 50, 10), Disc(300, 200, 5, 50, 10)
    inside, above = place_labels([large, small], FRAME)
    assert (inside.x, inside.y, inside.apart) == (100, 100, False)
    assert (round(above.x, 6), above.y, above.apart) == (300, 200 + 5 + 4 + 5, False)


def test_a_name_of_a_disc_within_a_disc_stands_outside_and_is_joined() -> None:
    discs = [Disc(200, 200, 45, 200, 10), Disc(190, 205, 4, 80, 10)]
    places = place_labels(discs, FRAME)
    assert places[1].apart
    assert_clear(discs, places)


def test_names_at_the_edge_stay_in_the_frame() -> None:
    discs = [Disc(x, y, 10, 90, 10) for x in (5, 495) for y in (5, 395)]
    assert_clear(discs, place_labels(discs, FRAME))


def test_a_cluster() -> None:
    discs = [Disc(200 + 25 * i, 200 + 14 * (i % 3), 3 + 3 * i, 70, 11) for i in range(7)]
    assert_clear(discs, place_labels(discs, FRAME))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(1, 18)), min_size=1, max_size=8, unique_by=(
        lambda one: one[:2],
    ))
)  # fmt: skip
def test_discs_that_leave_room(cells: list[tuple[int, int, float]]) -> None:
    discs = [Disc(62 + 125 * x, 50 + 100 * y, radius, 80, 11) for x, y, radius in cells]
    assert_clear(discs, place_labels(discs, FRAME))

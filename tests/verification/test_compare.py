"""What "the same" means for one blob, and what a report says of many; numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from caffe_port import recording
from caffe_port.compare import (
    NOTHING_CARRIED,
    TOLERANCE,
    BlobComparison,
    Carried,
    Digest,
    ParityReport,
    Place,
    Tolerance,
    compare_blob,
    digest,
)
from caffe_port.errors import ParityError

PLACE = Place(1, "layer", "ReLU", "top")
ONES = digest(np.ones(1), 256)


def compared(
    backend: Sequence[float], recorded: Sequence[float] | None, exact: Sequence[float], float32: Sequence[float]
) -> bool:
    digests = [
        None if values is None else digest(np.array(values, dtype=np.float64), 256)
        for values in (backend, recorded, exact, float32)
    ]
    assert digests[0] is not None and digests[2] is not None and digests[3] is not None
    return compare_blob(PLACE, digests[0], digests[1], digests[2], digests[3]).agrees


def test_the_bound_is_four_floors_and_four_ulps() -> None:
    """At a largest magnitude of 1 an ulp is 2^-23; a floor of 10 ulps allows 44."""
    ulp = 2.0**-23
    assert compared([1 + 10 * ulp + 43 * ulp, 0], [1 + 10 * ulp, 0], [1.0, 0], [1 - 9 * ulp, 0])
    assert not compared([1 + 10 * ulp + 45 * ulp, 0], [1 + 10 * ulp, 0], [1.0, 0], [1 - 9 * ulp, 0])
    # Without a floor, four ulps.
    assert compared([1 + 4 * ulp, 0], [1.0, 0], [1.0, 0], [1.0, 0])
    assert not compared([1 + 5 * ulp, 0], [1.0, 0], [1.0, 0], [1.0, 0])
    assert (TOLERANCE.floors, TOLERANCE.ulps) == (4, 4)


def test_a_floor_that_rounding_does_not_explain_is_no_floor() -> None:
    ulp = 2.0**-23
    # The backend equals the recording, but our float64 run is 100 ulps off and float32 rounding is 10.
    assert not compared([1 + 100 * ulp], [1 + 100 * ulp], [1.0], [1 + 10 * ulp])
    assert compared([1 + 40 * ulp], [1 + 40 * ulp], [1.0], [1 + 10 * ulp])


def test_infinities_must_be_equal_and_nan_never_is() -> None:
    inf = float("inf")
    assert compared([inf, 1], [inf, 1], [inf, 1], [inf, 1])
    assert not compared([-inf, 1], [inf, 1], [inf, 1], [inf, 1])
    assert not compared([1e30, 1], [inf, 1], [inf, 1], [inf, 1])
    assert not compared([float("nan")], [float("nan")], [float("nan")], [float("nan")])


def test_an_empty_blob_agrees_with_an_empty_blob_only() -> None:
    empty = digest(np.zeros((0, 3)), 256)
    assert compare_blob(PLACE, empty, empty, empty, empty).agrees
    other = digest(np.zeros((0, 4)), 256)
    assert not compare_blob(PLACE, other, empty, empty, empty).agrees


def test_counts_must_be_equal() -> None:
    exact = Place(1, "accuracy", "Accuracy", "top", exact=True)
    third, near = digest(np.array([1 / 3]), 256), digest(np.array([np.float32(1 / 3) + 2**-25]), 256)
    assert compare_blob(exact, third, third, third, third).agrees
    assert not compare_blob(exact, near, third, third, third, NOTHING_CARRIED).agrees


def test_what_no_sample_sees_the_statistics_see() -> None:
    """A fault in one value of 10 000 that is not among the 256 recorded."""
    rng = np.random.default_rng(3)
    values = rng.standard_normal(10_000)
    spoiled = values.copy()
    spoiled[17] = 9.0
    assert 17 not in recording.sample_indices(values.size, 256)
    right, wrong = digest(values, 256), digest(spoiled, 256)
    assert isinstance(right, Digest)
    assert compare_blob(PLACE, right, right, right, right).agrees
    result = compare_blob(PLACE, wrong, right, right, right)
    assert not result.agrees
    assert "maximum" in result.reason


def test_a_norm_and_a_mean_that_are_near_by_luck() -> None:
    """One float32 run has the exact norm and mean; another as noisy a run has not, and agrees; a mean that is off by
    more than noise does not."""
    random = np.random.default_rng(0)
    values = random.standard_normal(4096)
    exact = digest(values, 256)
    float32 = Digest(exact.shape, digest(values + 1e-5 * random.standard_normal(4096), 256).sample, exact.stats)
    other = digest(values * (1 + 5e-7) + 1e-5 * random.standard_normal(4096), 256)
    assert abs(other.stats[3] - exact.stats[3]) > 4 * np.spacing(np.float32(exact.stats[3]))
    assert compare_blob(PLACE, other, None, exact, float32).agrees
    wrong = values + 1e-5  # what no sample sees where it is as large as the noise
    wrong[recording.sample_indices(4096, 256)] -= 1e-5
    result = compare_blob(PLACE, digest(wrong, 256), None, exact, float32)
    assert not result.agrees and "mean" in result.reason


# Digests


def test_a_digest_of_few_values_has_them_all() -> None:
    made = digest(np.array([[3, -4, 0]], np.int32), 256)
    assert made.shape == (1, 3)
    assert made.sample.tolist() == [3, -4, 0] and made.sample.dtype == np.float64
    assert made.stats.tolist() == [-4, 3, -1 / 3, 5] and made.stats.dtype == np.float64
    assert digest(np.array([0.25]), 256).stats.tolist() == [0.25, 0.25, 0.25, 0.25]


def test_a_digest_of_many_has_evenly_spaced_ones_and_the_statistics_of_all() -> None:
    """Longer than what is summed up at once. The sums are of integers, so they are exact."""
    values = (np.arange(200_001) % 7).astype(np.float32)
    made = digest(values, 5)
    assert made.sample.tolist() == [0, 50_000 % 7, 100_000 % 7, 150_000 % 7, 200_000 % 7]
    whole, rest = divmod(200_001, 7)
    total = whole * 21 + sum(range(rest))
    squares = whole * 91 + sum(i * i for i in range(rest))
    assert made.stats.tolist() == [0, 6, total / 200_001, math.sqrt(squares)]


def test_a_digest_of_nothing() -> None:
    made = digest(np.zeros((0, 3)), 256)
    assert (made.shape, made.sample.tolist(), made.stats.tolist()) == ((0, 3), [], [0, 0, 0, 0])
    assert digest(np.zeros(4), 256).stats.tolist() == [0, 0, 0, 0]


def test_digests_beyond_float64_are_made_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(digest(np.array([np.inf, -np.inf]), 256).stats[2])
        assert digest(np.array([1.7e308, 1.7e308]), 256).stats[2:].tolist() == [np.inf, np.inf]
        assert np.isnan(digest(np.array([np.nan, 1]), 256).stats[3])


# One blob


def one(**changed: Any) -> BlobComparison:
    """A comparison that agrees, of powers of two, with some of its fields changed."""
    agreeing = BlobComparison(
        3, "conv", "Convolution", "top", (2, 5), 10, 8.0, 0.25, 0.5, 0.125, 1.0, 4.0, "value 7 of 10 sampled", 9.0, 8.0
    )
    return dataclasses.replace(agreeing, **changed)


def test_a_comparison_of_every_value() -> None:
    """At a magnitude of 2^24 an ulp is 2. Floor 12, noise 16: 4 * 12 + 4 * 2 = 56 is allowed."""
    big = 2.0**24
    result = compare_blob(
        Place(7, "fc", "InnerProduct", "out", inputs_diverged=("pool",)),
        digest(np.array([1.0, -big, 40.0]), 256),
        digest(np.array([2.0, -big, 12.0]), 256),
        digest(np.array([0.0, -big, 0.0]), 256),
        digest(np.array([0.0, -big, 16.0]), 256),
    )
    assert result == BlobComparison(
        index=7, layer="fc", type="InnerProduct", top="out", shape=(), compared=3, scale=big, ulp=2.0, floor=12.0,
        noise=16.0, distance=28.0, bound=56.0, worst="value 2 of 3 sampled", got=40.0, expected=12.0, reason="",
        inputs_diverged=("pool",),
    )  # fmt: skip
    assert result.agrees
    assert result.multiple == 28 / 12
    assert result.of_bound == 0.5


def test_without_a_recording_the_noise_is_the_floor() -> None:
    big = 2.0**24
    exact, float32 = digest(np.array([big, 1.0]), 256), digest(np.array([big, 4.0]), 256)
    result = compare_blob(PLACE, digest(np.array([big, 21.0]), 256), None, exact, float32)
    assert (result.floor, result.noise, result.distance, result.bound) == (3, 3, 20, 20)
    assert (result.got, result.expected) == (21, 1)
    assert result.agrees
    assert not compare_blob(PLACE, digest(np.array([big, 22.0]), 256), None, exact, float32).agrees


def test_too_far_is_said_in_floors() -> None:
    big = 2.0**24
    exact, float32 = digest(np.array([big, 1.0]), 256), digest(np.array([big, 4.0]), 256)
    assert compare_blob(PLACE, digest(np.array([big, 31.0]), 256), None, exact, float32).reason == (
        "value 1 of 2 sampled is 31, Caffe has 1: off by 30, allowed 20 (10.0 x the floor)"
    )
    # No floor: in ulps.
    assert compare_blob(PLACE, digest(np.array([big, 11.0]), 256), None, exact, exact).reason == (
        "value 1 of 2 sampled is 11, Caffe has 1: off by 10, allowed 8 (5.0 x the floor)"
    )
    small = digest(np.array([1 + 20.5 * 2.0**-23]), 256)
    assert compare_blob(PLACE, small, None, ONES, ONES).reason.endswith("allowed 4.77e-07 (20.5 x the floor)")


def test_a_recording_of_another_net_is_said_with_numbers() -> None:
    big = 2.0**24
    recorded, exact, float32 = (digest(np.array([big, last]), 256) for last in (40.0, 1.0, 4.0))
    assert compare_blob(PLACE, recorded, recorded, exact, float32).reason == (
        "value 0 of 2 sampled: the recording is 39 from the exact result, rounding explains 20: "
        "not the same net or input"
    )
    # Just what rounding explains.
    recorded = digest(np.array([big, 21.0]), 256)
    assert compare_blob(PLACE, recorded, recorded, exact, float32).agrees
    # Without a recording there is nothing to doubt, and counts are held to the recording alone.
    assert compare_blob(PLACE, exact, None, exact, float32).agrees
    counts = dataclasses.replace(PLACE, exact=True)
    assert compare_blob(counts, recorded, recorded, exact, exact).agrees


def test_another_tolerance() -> None:
    big = 2.0**24
    exact, float32 = digest(np.array([big, 1.0]), 256), digest(np.array([big, 4.0]), 256)
    backend = digest(np.array([big, 9.0]), 256)
    assert Tolerance(2, 1).bound(3, 2) == 8
    assert compare_blob(PLACE, backend, None, exact, float32, tolerance=Tolerance(2, 1)).agrees
    assert not compare_blob(PLACE, backend, None, exact, float32, tolerance=Tolerance(2, 0)).agrees


def test_shapes_must_be_equal() -> None:
    right = digest(np.zeros((2, 3)), 256)
    for shape in [(3, 2), (1, 6)]:
        wrong = digest(np.zeros(shape), 256)
        for backend, exact, recorded in [(wrong, right, right), (right, wrong, right), (wrong, right, None)]:
            place = Place(7, "fc", "InnerProduct", "out", inputs_diverged=("pool",))
            result = compare_blob(place, backend, recorded, exact, right)
            assert result.reason == f"shape {shape[0]}x{shape[1]}, Caffe has 2x3"
            assert (result.index, result.layer, result.type, result.top) == (7, "fc", "InnerProduct", "out")
            assert (result.shape, result.compared, result.worst) == ((2, 3), 0, "")
            assert result.inputs_diverged == ("pool",)
            assert np.isnan(result.of_bound) and not result.agrees


def test_the_scale_is_the_largest_finite_magnitude() -> None:
    inf = float("inf")

    def scale(*values: float) -> float:
        made = digest(np.array(values), 256)
        return compare_blob(PLACE, made, made, made, made).scale

    assert scale(1, -3, inf, 2) == 3
    assert scale(-inf, 2) == 2
    assert scale(inf) == 0
    assert scale(-1, 0.5) == 1
    # Beyond the sample, by the statistics.
    for value in (-5, 5):
        values = np.zeros(10_000)
        values[17] = value
        made = digest(values, 256)
        assert compare_blob(PLACE, made, made, made, made).scale == 5


def test_an_ulp_is_finite_for_any_float64() -> None:
    largest = 2.0**104  # float32 below 2^128 has 24 bits
    for value in (1e300, float(np.finfo(np.float32).max)):
        made = digest(np.array([value]), 256)
        result = compare_blob(PLACE, made, made, made, made)
        assert result.ulp == largest and result.agrees
        assert (result.distance, result.multiple, result.of_bound) == (0, 0, 0)
    small = digest(np.array([0.0]), 256)
    assert compare_blob(PLACE, small, small, small, small).ulp == 2.0**-149


def test_what_is_infinite_is_named() -> None:
    inf = float("inf")
    right, wrong = digest(np.array([inf, -inf, 1]), 256), digest(np.array([inf, inf, 1]), 256)
    result = compare_blob(PLACE, wrong, right, right, right)
    assert result.reason == "value 1 of 3 sampled is inf, Caffe has -inf: what is infinite must be so in both"
    assert (result.got, result.expected, result.worst) == (inf, -inf, "value 1 of 3 sampled")
    right, wrong = wrong, digest(np.array([inf, -inf, 1]), 256)
    assert compare_blob(PLACE, wrong, right, right, right).worst == "value 1 of 3 sampled"
    # An infinite float32 run is no noise to be allowed.
    exact = digest(np.array([2.0, 1]), 256)
    overflow = digest(np.array([inf, 1]), 256)
    assert not compare_blob(PLACE, overflow, None, exact, overflow).agrees
    assert compare_blob(PLACE, exact, None, exact, overflow).noise == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_only_statistics_see_is_named_by_them(value: float) -> None:
    values = np.ones(10_000)
    right = digest(values, 256)
    values[17] = value
    result = compare_blob(PLACE, digest(values, 256), right, right, right)
    assert not result.agrees
    if np.isinf(value):
        assert result.worst == "maximum" and result.reason.startswith("maximum is inf, Caffe has 1: what is infinite")
    else:
        assert result.reason == "NaN" and result.worst == "minimum"


def test_whose_nan_it_is() -> None:
    nan, right = digest(np.array([1, np.nan]), 256), digest(np.array([1.0, 2.0]), 256)
    assert compare_blob(PLACE, nan, right, right, right).reason == "NaN"
    assert compare_blob(PLACE, right, nan, right, right).reason == "the reference has NaN"
    assert compare_blob(PLACE, nan, nan, nan, nan).reason == "the reference has NaN"
    assert compare_blob(PLACE, nan, right, right, right).distance == np.inf


def sampled(sample: Sequence[float], stats: Sequence[float], size: int = 10_000) -> Digest:
    return Digest((size,), np.array(sample), np.array(stats))


def test_each_statistic_is_held_to_its_own_bound() -> None:
    """The largest magnitude is 2^24, whose ulp is 2; the norm 2^34, whose ulp is 2^11. The samples have a floor of 100:
    so have extremes and norm, and the mean of 10 000 values has 1."""
    big, norm = 2.0**24, 2.0**34
    exact = sampled([0, big], [-8, big, 1000, norm])
    float32 = sampled([100, big], [-8, big, 1000, norm])

    def result(*stats: float) -> BlobComparison:
        return compare_blob(PLACE, sampled([0, big], stats), None, exact, float32)

    assert result(-8, big, 1000, norm).agrees
    for changed, bound in enumerate([4 * 100 + 8, 4 * 100 + 8, 4 * 1 + 8, 4 * 100 + 4 * 2**11]):
        for sign in (-1, 1):
            stats = [-8, big, 1000, norm]
            stats[changed] += sign * bound
            within = result(*stats)
            assert within.agrees and within.bound == within.distance == bound
            assert within.worst == ("minimum", "maximum", "mean", "L2 norm")[changed]
            stats[changed] += sign * 4
            assert not result(*stats).agrees


def test_the_mean_of_many_has_the_floor_of_one_over_the_root_of_their_number() -> None:
    """10 000 values: the floor of 50 and the noise of 150 that the samples have are 0.5 and 1.5 for the mean."""
    big, norm = 2.0**24, 2.0**34
    recorded, exact, float32 = (sampled([first, big], [0, big, 0, norm]) for first in (50, 0, 150))
    result = compare_blob(PLACE, sampled([50, big], [0, big, 10, norm]), recorded, exact, float32)
    assert (result.worst, result.distance, result.bound) == ("mean", 10, 4 * 0.5 + 4 * 2)
    assert (result.floor, result.noise) == (0.5, 1.5)
    assert result.agrees


def test_statistics_are_looked_at_only_beyond_the_sample() -> None:
    """Where all values are compared, a mean adds nothing but the rounding of the sum."""
    values = [1.0] * 300
    exact, other = sampled(values, [1, 1, 1, 300**0.5], 300), sampled(values, [1, 1, 9, 300**0.5], 300)
    assert compare_blob(PLACE, other, None, exact, exact).agrees
    exact, other = (dataclasses.replace(made, shape=(301,)) for made in (exact, other))
    assert compare_blob(PLACE, other, None, exact, exact).reason.startswith("mean is 9, Caffe has 1: off by 8")


def test_what_is_carried_is_the_least_that_is_allowed() -> None:
    big = 2.0**24
    recorded, exact, float32 = (digest(np.array([big, last]), 256) for last in (11.0, 1.0, 4.0))
    result = compare_blob(PLACE, recorded, recorded, exact, float32, Carried(20, 30))
    assert (result.floor, result.noise, result.bound) == (20, 30, 88)
    result = compare_blob(PLACE, recorded, recorded, exact, float32, Carried(5, 2))
    assert (result.floor, result.noise, result.bound) == (10, 3, 48)
    assert (NOTHING_CARRIED.floor, NOTHING_CARRIED.noise) == (0, 0)
    # Without a recording the noise counts, and the floor that is carried has no say.
    assert compare_blob(PLACE, recorded, None, exact, float32, Carried(20, 7)).floor == 7


def test_the_worst_part_speaks_and_a_failed_one_before_all() -> None:
    big = 2.0**24
    exact = sampled([0, big], [0, big, 0, big])
    # The samples use half of their bound, the mean all of its own.
    near = compare_blob(PLACE, sampled([4, big], [0, big, 8, big]), None, exact, exact)
    assert near.agrees and near.worst == "mean"
    # The samples are off by five ulps: ten times the bound is no worse than a failure without any number.
    failed = compare_blob(PLACE, sampled([10, big], [0, big, 8, big]), None, exact, exact)
    assert not failed.agrees and failed.worst == "value 0 of 2 sampled"
    infinite = compare_blob(PLACE, sampled([0, big], [-np.inf, big, 800, big]), None, exact, exact)
    assert infinite.worst == "minimum"


def test_an_empty_comparison_has_numbers() -> None:
    empty = digest(np.zeros((0, 3)), 256)
    result = compare_blob(PLACE, empty, empty, empty, empty)
    assert (result.compared, result.distance, result.got, result.expected, result.scale) == (0, 0, 0, 0, 0)
    assert result.worst == "value 0 of 0 sampled"


def test_the_multiple_is_in_floors_or_else_in_ulps() -> None:
    assert one().multiple == 2
    assert one(floor=0.125).multiple == 4
    assert one(distance=0.0, floor=0.0, ulp=0.0).multiple == 0
    assert one(distance=0.75, floor=1.0).multiple == 0.75


def test_the_share_of_the_bound() -> None:
    assert one().of_bound == 0.25
    assert one(distance=8.0).of_bound == 2
    assert one(distance=0.0).of_bound == 0
    assert one(bound=0.0).of_bound == np.inf
    assert one(bound=0.0, distance=0.0).of_bound == 0
    assert one(bound=0.5, distance=0.25).of_bound == 0.5


def test_a_comparison_as_json() -> None:
    fields = {
        "index": 3, "layer": "conv", "type": "Convolution", "top": "top", "shape": [2, 5], "compared": 10, "scale": 8.0,
        "floor": 0.5, "noise": 0.125, "distance": 1.0, "bound": 4.0, "multiple": 2.0, "agrees": True,
    }  # fmt: skip
    assert one().as_json() == fields
    assert one(reason="NaN").as_json() == {**fields, "agrees": False, "reason": "NaN"}


# A report

BAD = one(index=4, layer="pool", type="Pooling", top="p", distance=6.0, reason="value 7 is off")


def report(*comparisons: BlobComparison, **other: Any) -> ParityReport:
    return ParityReport("numpy", "a recording", comparisons, **other)


def test_a_report_is_good_only_if_something_was_compared_and_all_of_it_agrees() -> None:
    assert report(one(), one()).ok
    assert not report().ok
    assert not report(one(), BAD).ok
    assert not report(one(), missing=("a",)).ok
    assert not report(one(), extra=("a",)).ok
    report(one()).raise_if_failed()
    with pytest.raises(ParityError) as caught:
        report().raise_if_failed()
    assert str(caught.value) == "numpy against a recording: FAILED: nothing was compared"


def test_failures_in_order() -> None:
    other = dataclasses.replace(BAD, index=5)
    assert list(report(one(), BAD, one(), other).failures()) == [BAD, other]
    assert report(one(), BAD, other).first_divergence is BAD
    assert report(one()).first_divergence is None


def test_the_worst_is_nearest_to_its_bound() -> None:
    near, far = one(distance=3.0), one(distance=2.0)
    assert report(far, near, one()).worst is near
    refused = one(distance=float("nan"), bound=float("nan"), reason="shape")
    assert report(near, refused, BAD).worst is refused
    assert report().worst is None


def test_the_median() -> None:
    assert report().median_multiple == 0
    assert report(one(), one(distance=2.0), one(distance=64.0)).median_multiple == 4


def test_an_agreement_explained() -> None:
    # Multiples 2, 4 and 3.
    text = report(one(), one(distance=2.0, layer="fc"), one(distance=1.5)).explanation()
    assert text == (
        "numpy against a recording: 3 blobs agree; distance 3.00 x floor in the median, "
        "at most 0.50 of the bound (layer 'fc', 4.0 x floor)"
    )


def test_a_failure_explained() -> None:
    start = "numpy against a recording: FAILED: "
    assert report(one(), BAD, BAD).explanation() == (
        f"{start}2 of 3 blobs diverge, first layer 'pool' (Pooling), top 'p': value 7 is off; "
        "its inputs agree, so the fault is in this layer"
    )
    behind = dataclasses.replace(BAD, inputs_diverged=("conv1", "conv2"))
    assert report(behind).explanation() == (
        f"{start}1 of 1 blobs diverge, first layer 'pool' (Pooling), top 'p': value 7 is off; "
        "its inputs had already diverged: conv1, conv2"
    )
    assert report(missing=("a", "b", "c")).explanation() == (
        f"{start}nothing was compared; recorded blobs are missing: a, b, c"
    )
    assert report(one(), missing=("a", "b", "c", "d"), extra=("e",)).explanation() == (
        f"{start}recorded blobs are missing: a, b, c and 1 more; blobs were not recorded: e"
    )
    assert report(one(), extra=tuple("abcdefg")).explanation().endswith("not recorded: a, b, c and 4 more")


def test_the_table_has_a_line_for_every_blob() -> None:
    lines = list(report(one(), BAD).table())
    assert [line.split() for line in lines] == [
        ["layer", "top", "distance", "floor", "x", "floor", "of", "bound"],
        ["conv", "top", "1", "0.5", "2.00", "0.25"],
        ["pool", "p", "6", "0.5", "12.00", "1.50", "DIVERGES:", "value", "7", "is", "off"],
    ]
    assert len(lines[0]) == len(lines[1])


def test_a_report_as_json() -> None:
    assert report(one(), BAD, missing=("a",), extra=("b",)).as_json() == {
        "backend": "numpy", "reference": "a recording", "agrees": False, "compared": 2, "median_multiple": 7.0,
        "missing": ["a"], "extra": ["b"], "layers": [one().as_json(), BAD.as_json()],
    }  # fmt: skip
    assert report(one()).as_json()["agrees"] is True


def test_what_was_measured_stays_as_it_is() -> None:
    """There are thousands of them, so they also have no dict each."""
    made = digest(np.zeros(2), 256)
    for thing in (TOLERANCE, made, one(), report(one()), PLACE, NOTHING_CARRIED):
        name = dataclasses.fields(thing)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)
        assert not hasattr(thing, "__dict__")
    # Arrays have no truth value: digests are compared by compare_blob alone.
    assert made != digest(np.zeros(2), 256)

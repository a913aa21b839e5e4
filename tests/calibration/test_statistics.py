"""The numbers: against scikit-learn and SciPy, published examples, definitions, and simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("scipy")
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics
from sklearn.calibration import calibration_curve

from caffe_port.calibration.auc import auc_interval, average_precision, delong
from caffe_port.calibration.bins import bins, edges, expected_calibration_error
from caffe_port.calibration.choosing import Rule, choose, most_errors
from caffe_port.calibration.comparison import compare_aucs, mcnemar
from caffe_port.calibration.curves import Curves, clopper_pearson
from caffe_port.calibration.threshold import Costs, Threshold
from caffe_port.errors import DataError, GraphError

# DeLong, DeLong and Clarke-Pearson (1988): albumin, total protein, K-G score (10 less it), and whether surgery helped.
OVARIAN = """
3.0 5.8 10 0  3.2 6.3  5 1  3.9 6.8  3 1  2.8 4.8  6 0  3.2 5.8  3 1  0.9 4.0  5 0  2.5 5.7  8 0  1.6 5.6  5 1
3.8 5.7  5 1  3.7 6.7  6 1  3.2 5.4  4 1  3.8 6.6  6 1  4.1 6.6  5 1  3.6 5.7  5 1  4.3 7.0  4 1  3.6 6.7  4 0
2.3 4.4  6 1  4.2 7.6  4 0  4.0 6.6  6 0  3.5 5.8  6 1  3.8 6.8  7 1  3.0 4.7  8 0  4.5 7.4  5 1  3.7 7.4  5 1
3.1 6.6  6 1  4.1 8.2  6 1  4.3 7.0  5 1  4.3 6.5  4 1  3.2 5.1  5 1  2.6 4.7  6 1  3.3 6.8  6 0  1.7 4.0  7 0
3.7 6.1  5 1  3.3 6.3  7 1  4.2 7.7  6 1  3.5 6.2  5 1  2.9 5.7  9 0  2.1 4.8  7 1  2.8 6.2  8 0  4.0 7.0  7 1
3.3 5.7  6 1  3.7 6.9  5 1  3.6 6.6  5 1
"""


def simulated(
    size: int, seed: int = 0, decimals: int | None = None, share: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.random(size) < share
    scores = 1 / (1 + np.exp(-random.normal(np.where(labels, 1.2, -1.2), 1.5)))
    return labels, scores if decimals is None else scores.round(decimals)


def made(labels: np.ndarray, scores: np.ndarray, rule: Rule, confidence: float = 0.95) -> Threshold:
    return choose(Curves.of(labels, scores), rule, model="m", confidence=confidence, data_sha256="0" * 64)


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_curves_are_scikit_learns(decimals: int | None) -> None:
    labels, scores = simulated(3000, decimals=decimals)
    curves = Curves.of(labels, scores)
    fpr, tpr, thresholds = metrics.roc_curve(labels, scores, drop_intermediate=False)
    assert np.array_equal(curves.fpr, fpr) and np.array_equal(curves.tpr, tpr)
    assert np.array_equal(curves.thresholds, thresholds)
    precision, recall, thresholds = metrics.precision_recall_curve(labels, scores)
    assert np.array_equal(curves.precision[::-1], precision) and np.array_equal(curves.tpr[::-1], recall)
    assert np.array_equal(curves.thresholds[:0:-1], thresholds)
    areas, _ = delong(labels, [scores])
    assert areas[0] == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-14)
    interval = average_precision(labels, scores, curves, 0.95, 0)
    assert interval.estimate == metrics.average_precision_score(labels, scores)
    assert interval.lower < interval.estimate < interval.upper


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.25, 0.3, 0.5, 0.50001, 1.0, 2.0])
def test_counts_at_a_threshold(value: float) -> None:
    labels, scores = simulated(500, decimals=1)
    curves = Curves.of(labels, scores)
    counts = curves.at(curves.index(value))
    (tn, fp), (fn, tp) = metrics.confusion_matrix(labels, scores >= value)
    assert counts.as_json() == {
        "true_positives": tp,
        "false_positives": fp,
        "false_negatives": fn,
        "true_negatives": tn,
    }
    assert counts.f1 == metrics.f1_score(labels, scores >= value)


def test_thinned_points_are_entries_and_reach_the_ends() -> None:
    labels, scores = simulated(200_000)
    curves = Curves.of(labels, scores)
    entries = curves.thinned(500, keep=(777,))
    assert len(entries) <= 510 and {0, 1, 777, len(curves.thresholds) - 1} <= set(entries.tolist())
    assert np.diff(curves.fpr[entries]).max() < 0.02 and np.diff(curves.tpr[entries]).max() < 0.02
    few = Curves.of(labels[:300], scores[:300])
    assert np.array_equal(few.thinned(500), np.arange(301))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.999]))
def test_clopper_pearson_is_scipys(total: int, share: float, confidence: float) -> None:
    count = round(share * total)
    expected = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    lower, upper = clopper_pearson(count, total, confidence)
    assert float(lower) == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
    assert float(upper) == pytest.approx(expected.high, rel=1e-9, abs=1e-12)


def test_clopper_pearson_of_nothing() -> None:
    lower, upper = clopper_pearson([0, 0, 5], [0, 5, 5], 0.95)
    assert lower.tolist()[:2] == [0, 0] and upper.tolist()[::2] == [1, 1]


def by_definition(labels: np.ndarray, scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """AUC and covariance from every pair."""
    kernel = np.stack([(s[labels][:, None] > s[~labels]) + 0.5 * (s[labels][:, None] == s[~labels]) for s in scores])
    _, positives, negatives = kernel.shape
    covariance = np.cov(kernel.mean(2)) / positives + np.cov(kernel.mean(1)) / negatives
    return kernel.mean((1, 2)), np.atleast_2d(covariance)


@pytest.mark.parametrize("decimals", [None, 1])
def test_delong_is_its_definition(decimals: int | None) -> None:
    labels, first = simulated(400, decimals=decimals)
    second = np.random.default_rng(5).permutation(first) * 0.3 + first
    for scores in ([first], [first, second]):
        for found, expected in zip(delong(labels, scores), by_definition(labels, scores), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)


def test_delong_on_the_data_of_its_authors() -> None:
    """As published for these 43 patients in the documentation of SAS's PROC LOGISTIC, "Comparing ROC curves"."""
    table = np.array(OVARIAN.split(), float).reshape(-1, 4)
    labels = table[:, 3] == 1
    areas, covariance = delong(labels, [table[:, 0], table[:, 1], 10 - table[:, 2]])
    assert areas.round(4).tolist() == [0.7366, 0.6478, 0.7258]
    assert np.sqrt(np.diag(covariance)).round(4).tolist() == [0.0927, 0.1000, 0.1028]
    for first, difference, error, p in ((0, 0.0108, 0.0953, 0.9102), (1, -0.0780, 0.1046, 0.4561)):
        pick = [first, 2]
        test = compare_aucs(("a", "b"), areas[pick], covariance[np.ix_(pick, pick)], 0.95)
        assert round(test.difference.estimate, 4) == difference and round(test.p, 4) == p
        assert round((test.difference.upper - test.difference.lower) / 2 / 1.959964, 4) == error


def test_delong_of_equal_and_of_separated_scores() -> None:
    labels, scores = simulated(200)
    areas, covariance = delong(labels, [scores, np.exp(scores)])
    same = compare_aucs(("a", "b"), areas, covariance, 0.95)
    assert (same.z, same.p) == (0.0, 1.0)
    areas, covariance = delong(labels, [labels + scores, -scores - labels])
    apart = compare_aucs(("a", "b"), areas, covariance, 0.95)
    assert apart.difference.estimate == 1 and math.isnan(apart.p) and apart.as_json()["p"] is None


def test_auc_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Normal scores, whose true AUC is known."""
    truth = float(stats.norm.cdf(1 / math.sqrt(2)))
    random = np.random.default_rng(3)
    labels = np.arange(240) < 80
    held = 0
    for _ in range(1000):
        areas, covariance = delong(labels, [random.normal(labels.astype(float))])
        interval = auc_interval(areas[0], covariance[0, 0], 0.95)
        held += interval.lower <= truth <= interval.upper
    assert stats.binomtest(held, 1000, 0.95).pvalue > 0.001, held


@pytest.mark.parametrize("kind", ["max-fpr", "max-fnr"])
@pytest.mark.parametrize(("target", "confidence", "size"), [(0.05, 0.9, 600), (0.02, 0.95, 1500)])
def test_thresholds_hold_on_held_out_data(kind: str, target: float, confidence: float, size: int) -> None:
    """Over many data sets: the true rate at the chosen threshold is above the target no more often than was said.

    The true rate of normal scores is known. Without the bound, about half of the thresholds would be beyond it.
    """
    random = np.random.default_rng(11)
    labels = np.arange(size) < size // 2
    broken, plain, repetitions = 0, 0, 800
    for _ in range(repetitions):
        scores = random.normal(np.where(labels, 1.0, -1.0))
        value = made(labels, scores, Rule(kind, target), confidence).value
        true = stats.norm.sf(value, -1.0) if kind == "max-fpr" else stats.norm.cdf(value, 1.0)
        broken += true > target
        own = np.sort(scores[~labels])[::-1] if kind == "max-fpr" else np.sort(scores[labels])
        naive = own[int(target * len(own)) - 1]
        plain += (stats.norm.sf(naive, -1.0) if kind == "max-fpr" else stats.norm.cdf(naive, 1.0)) > target
    assert stats.binomtest(broken, repetitions, 1 - confidence, alternative="greater").pvalue > 0.001, broken
    # Nor is it more cautious than it has to be.
    assert broken > 0.4 * (1 - confidence) * repetitions
    assert plain > 0.35 * repetitions


def test_thresholds_hold_with_few_distinct_scores() -> None:
    random = np.random.default_rng(2)
    labels = np.arange(400) < 200
    levels = np.arange(11) / 10
    negative = np.exp(-0.9 * np.arange(11))
    negative /= negative.sum()
    broken, repetitions = 0, 800
    for _ in range(repetitions):
        scores = np.where(labels, random.choice(levels, 400, p=negative[::-1]), random.choice(levels, 400, p=negative))
        value = made(labels, scores, Rule("max-fpr", 0.1), 0.9).value
        broken += negative[levels >= value].sum() > 0.1
    assert stats.binomtest(broken, repetitions, 0.1, alternative="greater").pvalue > 0.001, broken


@settings(max_examples=60, deadline=None)
@example(85, 0.5, 0.5)
@given(st.integers(1, 3000), st.floats(0.0005, 0.5), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_most_errors_is_the_last_that_holds(total: int, target: float, confidence: float) -> None:
    def bound(count: int) -> float:
        test = stats.binomtest(count, total, alternative="less")
        return float(test.proportion_ci(confidence, method="exact").high)

    found = most_errors(total, target, confidence)
    assert found == -1 or bound(found) <= target
    beyond = bound(found + 1)
    # A bound that is the target exactly (42 errors of 85 at 0.5) may be rounded to either side.
    assert beyond > target or beyond == pytest.approx(target, rel=1e-12)


def test_a_threshold_for_a_rate_goes_as_far_as_it_can() -> None:
    labels, scores = simulated(4000)
    curves = Curves.of(labels, scores)
    for kind, step in (("max-fpr", 1), ("max-fnr", -1)):
        threshold = made(labels, scores, Rule(kind, 0.05))
        assert threshold.bound is not None and threshold.bound <= 0.05
        # One score further there is an error more, else it would have been taken.
        index = curves.index(threshold.value)
        counts = curves.false_positives if kind == "max-fpr" else curves.positives - curves.true_positives
        beyond = counts[index + step]
        total = curves.negatives if kind == "max-fpr" else curves.positives
        over = stats.binomtest(int(beyond), total, alternative="less").proportion_ci(0.95, method="exact").high
        assert over > 0.05


def test_too_few_data_for_a_target() -> None:
    labels, scores = simulated(100)
    negatives = int((~labels).sum())
    with pytest.raises(DataError, match=f"{negatives} negatives are too few .* at least 2,995"):
        made(labels, scores, Rule("max-fpr", 0.001))
    # 2,995 is right.
    assert most_errors(2995, 0.001, 0.95) == 0 and most_errors(2994, 0.001, 0.95) == -1
    with pytest.raises(DataError, match="flags nothing"):
        made(np.arange(1000) < 500, np.repeat([0.1, 1.0, 0.0, 1.0], 250), Rule("max-fpr", 0.01))


@pytest.mark.parametrize("decimals", [None, 1])
def test_rules_are_the_best_of_all_thresholds(decimals: int | None) -> None:
    labels, scores = simulated(700, seed=4, decimals=decimals)
    costs = Costs(1.0, 12.0, 0.05)
    values = np.unique(scores)

    def cost(value: float) -> float:
        flagged = scores >= value
        return 0.95 * flagged[~labels].mean() + 0.05 * 12 * (~flagged[labels]).mean()

    def youden(value: float) -> float:
        return float((scores[labels] >= value).mean() - (scores[~labels] >= value).mean())

    found = made(labels, scores, Rule("cost", costs=costs))
    assert cost(found.value) == pytest.approx(min(map(cost, [*values, 2.0])), abs=1e-12) and found.costs == costs
    found = made(labels, scores, Rule("youden"))
    assert youden(found.value) == pytest.approx(max(map(youden, values)), abs=1e-12)
    found = made(labels, scores, Rule("f1"))
    assert metrics.f1_score(labels, scores >= found.value) == max(
        metrics.f1_score(labels, scores >= value) for value in values
    )


def test_where_flagging_nothing_is_cheapest() -> None:
    labels, scores = simulated(300)
    scores[np.flatnonzero(~labels)[0]] = 0.999
    found = made(labels, scores, Rule("cost", costs=Costs(1.0, 1e-6, 0.5)))
    assert found.value == np.nextafter(scores.max(), 1) and found.false_positive_rate.count == 0
    assert found.false_negative_rate.estimate == 1
    with pytest.raises(DataError, match="wrong way round"):
        made(labels, -scores - 5 * labels, Rule("youden"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "magic"},
        {"name": "max-fpr"},
        {"name": "max-fnr", "target": 1.0},
        {"name": "given", "target": math.nan},
        {"name": "cost"},
        {"name": "cost", "costs": Costs(0.0, 1.0, 0.5)},
        {"name": "cost", "costs": Costs(1.0, 1.0, 1.0)},
    ],
)
def test_rules_that_cannot_be_meant(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(GraphError):
        Rule(**wrong)


def test_mcnemar() -> None:
    """Both decisions right 50 times, only the first 11, only the second 3."""
    labels = np.zeros(70, bool)
    labels[:30] = True
    first, second = labels.copy(), labels.copy()
    second[:8] = False
    second[30:33] = True
    first[8:10] = False
    first[33] = True
    both, positives, negatives = mcnemar(("a", "b"), labels, first, second)
    assert [(t.only_first, t.only_second) for t in (both, positives, negatives)] == [(11, 3), (8, 2), (3, 1)]
    # Twice the sum of the binomial's smaller tail.
    assert both.p == pytest.approx(2 * sum(math.comb(14, k) for k in range(4)) / 2**14)
    assert positives.total == 30 and negatives.p == pytest.approx(2 * (1 + 4) / 16)
    assert mcnemar(("a", "b"), labels, first, first)[0].p == 1


def test_bins_are_the_reliability_curve() -> None:
    labels, scores = simulated(5000)
    found = bins(labels, scores, edges(10, [scores]), 0.95)
    used = [one for one in found if one.observed.total]
    rates, means = calibration_curve(labels, scores, n_bins=10)
    np.testing.assert_allclose([one.observed.estimate for one in used], rates, rtol=1e-12)
    np.testing.assert_allclose([one.mean_score for one in used], means, rtol=1e-12)
    weights = np.array([one.observed.total for one in used]) / 5000
    assert expected_calibration_error(found) == pytest.approx(float((weights * np.abs(rates - means)).sum()))


def test_ends_of_bins() -> None:
    scores = np.array([0.0, 0.2, 0.5, 0.8, 1.0])
    assert edges([0.2, 0.8], [scores]) == [0, 0.2, 0.8, 1]
    assert edges(10, [scores])[3] == 0.3
    found = bins(np.array([False, False, True, True, True]), scores, [0, 0.2, 0.8, 1], 0.95)
    assert [(one.observed.count, one.observed.total) for one in found] == [(0, 1), (1, 2), (2, 2)]
    assert edges(2, [scores * 10 - 3]) == [-3, 2, 7]
    for wrong in (0, [0.8, 0.2], [], [math.nan]):
        with pytest.raises(GraphError):
            edges(wrong, [scores])

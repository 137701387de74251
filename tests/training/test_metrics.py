import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import metrics

scores_and_labels = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=2, max_size=40
).filter(lambda rows: len({label for _, label in rows}) == 2)


@given(scores_and_labels)
def test_area_over_balance_is_one_minus_auroc(rows):
    """1 − AUROC by its own definition: the share of pairs in the wrong order, ties half."""
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    pairs = scores[~labels][None, :] - scores[labels][:, None]
    wrong = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    assert metrics.one_minus_auroc(scores, labels) == pytest.approx(wrong, abs=1e-12)
    share = labels.mean()
    assert metrics.au_fa_fr(scores, labels) == pytest.approx(wrong * share * (1 - share), abs=1e-12)


@given(scores_and_labels, st.sampled_from([0.0, 0.005, 0.1, 0.5]))
def test_frr_at_far_is_the_best_that_keeps_the_far(rows, far):
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    possible = [
        (scores[labels] < threshold).mean()
        for threshold in [*np.unique(scores), np.inf]
        if (scores[~labels] >= threshold).mean() <= far
    ]
    assert metrics.frr_at_far(scores, labels, far) == pytest.approx(min(possible))


def test_seeds_definition_on_a_worked_example():
    """FA and FR as fractions of all clips. Keyword 0.9 0.4, others 0.6 0.1: one pair of four in the wrong order."""
    assert metrics.au_fa_fr([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0]) == pytest.approx(0.25 * 0.25)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0]])
def test_both_classes_are_needed(labels):
    with pytest.raises(ValueError, match="both classes"):
        metrics.au_fa_fr([0.1, 0.2], labels)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="finite"):
        metrics.au_fa_fr([0.1, float("nan")], [0, 1])


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8]), min_size=1, max_size=60), st.integers(1, 5))
def test_event_counts_follow_the_contracts_definition(scores, refractory):
    intervals = metrics.event_intervals(scores, refractory)
    for threshold in (0.1, 0.2, 0.3, 0.5, 0.8, 0.9):
        events = sum(
            score >= threshold and all(s < threshold for s in scores[max(0, t - refractory) : t])
            for t, score in enumerate(scores)
        )
        assert metrics.count_events(intervals, threshold) == events


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 3))
def test_lowest_threshold_allows_no_more_events(scores, refractory, most):
    intervals = metrics.event_intervals(scores, refractory)
    threshold = metrics.lowest_threshold(intervals, most)
    assert (metrics.count_events(intervals, [threshold, *(s for s in scores if s >= threshold)]) <= most).all()
    if threshold > 0:
        assert metrics.count_events(intervals, np.nextafter(threshold, -np.inf)) > most


def test_intervals_against_published_tables():
    assert metrics.poisson(0) == pytest.approx((0, 3.689), abs=1e-3)
    assert metrics.poisson(10) == pytest.approx((4.795, 18.390), abs=1e-3)
    assert metrics.wilson(5, 100) == pytest.approx((0.0215, 0.1118), abs=1e-3)


def test_bootstrap_covers_the_figure():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 200), rng.normal(0, 1, 2000)])
    labels = np.repeat([1, 0], [200, 2000])
    low, high = metrics.bootstrap(scores, labels, repeats=200)
    assert low < metrics.frr_at_far(scores, labels) < high


def test_what_cannot_vary_has_an_interval_of_no_width():
    assert metrics.paired_bootstrap([0.2], [0.9], [1], (0.5, 0.5)) == (1, 1)

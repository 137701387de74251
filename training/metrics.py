"""Figures of merit, from scores. Intervals are by scipy.

FA: a clip without the keyword is accepted (score ≥ threshold). FR: a clip with it is rejected.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def both_classes(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(scores of keyword clips, scores of the others), each sorted upwards. Raises ValueError when one is missing."""
    values, marks = np.asarray(scores, float), np.asarray(labels).astype(bool)
    if values.shape != marks.shape or values.ndim != 1:
        raise ValueError(f"scores {values.shape} and labels {marks.shape} must be two lists of one length")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    if marks.all() or not marks.any():
        raise ValueError("both classes are needed: clips with the keyword and clips without")
    return np.sort(values[marks]), np.sort(values[~marks])


def error_counts(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FA and FR counts at every threshold that matters, from "accept everything" to "reject everything".

    Returns (thresholds, false accepts, false rejects); thresholds ascend: −inf, then each distinct score, then inf.
    """
    positive, negative = both_classes(scores, labels)
    thresholds = np.concatenate([[-np.inf], np.unique(np.concatenate([positive, negative])), [np.inf]])
    return (
        thresholds,
        len(negative) - np.searchsorted(negative, thresholds, "left"),
        np.searchsorted(positive, thresholds, "left"),
    )


def au_fa_fr(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the false-accept / false-reject curve, both as fractions of all clips, by trapezoids.

    scores: (n,) posterior of the keyword; labels: (n,) 1 for keyword clips, 0 for others.
    Divide by p·(1−p), p the share of keyword clips, to get 1 − AUROC, which does not depend on the class balance.
    Raises ValueError when either class is missing.
    """
    _, accepted, rejected = error_counts(scores, labels)
    n = np.size(scores)
    return float(np.trapezoid(rejected[::-1] / n, accepted[::-1] / n))


def one_minus_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The probability that a clip without the keyword scores higher than one with it; ties count half."""
    share = np.asarray(labels).astype(bool).mean()
    return au_fa_fr(scores, labels) / float(share * (1 - share))


def threshold_at_far(scores: ArrayLike, labels: ArrayLike, far: float) -> float:
    """The lowest threshold at which at most the share `far` of the clips without the keyword is accepted."""
    thresholds, accepted, _ = error_counts(scores, labels)
    negatives = accepted[0]
    return float(thresholds[np.argmax(accepted <= far * negatives)])


def frr_at_far(scores: ArrayLike, labels: ArrayLike, far: float = 0.005) -> float:
    """The share of keyword clips that is rejected where at most the share `far` of the others is accepted."""
    positive, _ = both_classes(scores, labels)
    return float((positive < threshold_at_far(scores, labels, far)).mean())


def bootstrap(scores: ArrayLike, labels: ArrayLike, repeats: int = 1000) -> tuple[float, float]:
    """Interval of `frr_at_far` over resampled clips, each class by itself."""
    positive, negative = both_classes(scores, labels)
    marks = np.repeat([1, 0], [len(positive), len(negative)])
    return percentiles([positive, negative], lambda *drawn: frr_at_far(np.concatenate(drawn), marks), repeats)


def percentiles(samples: list[np.ndarray], figure: Callable[..., float], repeats: int) -> tuple[float, float]:
    """95 % percentile interval of figure(*samples), each sample resampled by itself (Efron 1979).

    A sample of fewer than two values cannot vary; scipy refuses it, so it is passed as it is.
    """
    varying = [sample for sample in samples if len(sample) > 1]
    if not varying:
        return figure(*samples), figure(*samples)

    def of_drawn(*drawn: np.ndarray) -> float:
        rest = iter(drawn)
        return figure(*(next(rest) if len(sample) > 1 else sample for sample in samples))

    interval = stats.bootstrap(
        varying, of_drawn, n_resamples=repeats, batch=100, vectorized=False, method="percentile", rng=0
    ).confidence_interval
    return float(interval.low), float(interval.high)


def more_misses(
    scores: ArrayLike, others: ArrayLike, labels: ArrayLike, thresholds: tuple[float, float] | None = None
) -> float:
    """How much larger a share of keyword clips the first of two models misses than the second on the same clips: at
    `thresholds`, or each at its own lowest threshold that accepts at most 0.5 % of the clips without the keyword.

    scores, others: (n,), or (seeds, n) where each model was trained several times: then it is their mean that counts.
    """
    marks, shares = np.asarray(labels).astype(bool), []
    for place, runs in enumerate((scores, others)):
        rates = []
        for run in np.atleast_2d(np.asarray(runs, float)):
            bar = thresholds[place] if thresholds else threshold_at_far(run, marks, 0.005)
            rates.append((run[marks] < bar).mean())
        shares.append(np.mean(rates))
    return float(shares[0] - shares[1])


def paired_bootstrap(
    scores: ArrayLike,
    others: ArrayLike,
    labels: ArrayLike,
    thresholds: tuple[float, float] | None = None,
    same_runs: bool = False,
    repeats: int = 1000,
) -> tuple[float, float]:
    """Interval of `more_misses` over resampled clips, the same for both models and each class by itself, and over
    resampled runs where there are several (Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation").

    same_runs: run k of both models is one training in two forms. Both then get the same runs, so that what differs
    between trainings does not count.
    """
    first, second = (np.atleast_2d(np.asarray(runs, float)) for runs in (scores, others))
    marks = np.asarray(labels).astype(bool)

    def figure(keyword: np.ndarray, rest: np.ndarray, of_first: np.ndarray, *of_second: np.ndarray) -> float:
        clips = np.concatenate([keyword, rest])
        drawn = first[of_first][:, clips], second[of_second[0] if of_second else of_first][:, clips]
        return more_misses(*drawn, marks[clips], thresholds)

    runs = [np.arange(len(first)), *([] if same_runs else [np.arange(len(second))])]
    return percentiles([np.flatnonzero(marks), np.flatnonzero(~marks), *runs], figure, repeats)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, hits of n (Wilson 1927)."""
    low, high = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return float(low), float(high)


def poisson(events: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson mean after `events` were counted (Garwood 1936)."""
    tail = (1 - level) / 2
    low = stats.chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return float(low), float(stats.chi2.ppf(1 - tail, 2 * events + 2) / 2)


def event_intervals(scores: ArrayLike, refractory_hops: int) -> tuple[np.ndarray, np.ndarray]:
    """At which thresholds each hop of a stream is an event: those above `low[t]` and up to `high[t]`.

    scores: (hops,). A hop is an event when it reaches the threshold and none of the `refractory_hops` hops before it
    does, so low is the highest score among those and high its own. One pass thus serves every threshold.
    """
    high = np.asarray(scores, float)
    before = np.concatenate([np.full(refractory_hops, -np.inf), high])[:-1]
    low = np.lib.stride_tricks.sliding_window_view(before, refractory_hops).max(axis=1)
    return low, high


def count_events(intervals: tuple[np.ndarray, np.ndarray], thresholds: ArrayLike) -> np.ndarray:
    """Number of events at each threshold."""
    low, high = intervals
    event = high > low
    low, high = np.sort(low[event]), np.sort(high[event])
    return np.searchsorted(low, thresholds, "left") - np.searchsorted(high, thresholds, "left")


def lowest_threshold(intervals: tuple[np.ndarray, np.ndarray], most: int) -> float:
    """The lowest threshold from which on, upwards, a stream never makes more than `most` events."""
    candidates = np.unique(intervals[1])
    too_many = np.flatnonzero(count_events(intervals, candidates) > most)
    return float(np.nextafter(candidates[too_many[-1]], np.inf)) if len(too_many) else 0.0


def operating_point(intervals: tuple[np.ndarray, np.ndarray], most: int) -> float:
    """The lowest of the thresholds that may be shipped from which on a stream never makes more than `most` events."""
    return min(max(lowest_threshold(intervals, most), 0.05), 0.9999)

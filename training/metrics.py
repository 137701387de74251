"""Figures of merit, from scores. numpy only.

FA: a clip without the keyword is accepted (score ≥ threshold). FR: a clip with it is rejected.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


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


def bootstrap(
    scores: ArrayLike, labels: ArrayLike, figure=frr_at_far, repeats: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a figure over resampled clips, each class by itself (Efron 1979)."""
    positive, negative = both_classes(scores, labels)
    rng = np.random.default_rng(seed)
    marks = np.concatenate([np.ones(len(positive), int), np.zeros(len(negative), int)])
    figures = [
        figure(np.concatenate([rng.choice(positive, len(positive)), rng.choice(negative, len(negative))]), marks)
        for _ in range(repeats)
    ]
    tail = (1 - level) / 2
    return float(np.quantile(figures, tail)), float(np.quantile(figures, 1 - tail))


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
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `more_misses` over resampled clips, the same for both models and each class by itself, and
    over resampled runs where there are several (Efron 1979; Bisani & Ney 2004, "Bootstrap estimates for confidence
    intervals in ASR performance evaluation"). same_runs: run k of both is one training in two forms, so that what
    differs between trainings says nothing, and both get the same runs."""
    pair = [np.atleast_2d(np.asarray(runs, float)) for runs in (scores, others)]
    marks = np.asarray(labels).astype(bool)
    keyword, rest = np.flatnonzero(marks), np.flatnonzero(~marks)
    rng = np.random.default_rng(seed)
    figures = []
    for _ in range(repeats):
        clips = np.concatenate([rng.choice(keyword, len(keyword)), rng.choice(rest, len(rest))])
        chosen = [rng.integers(len(runs), size=len(runs)) for runs in pair]
        drawn = [runs[chosen[0 if same_runs else k]][:, clips] for k, runs in enumerate(pair)]
        figures.append(more_misses(drawn[0], drawn[1], marks[clips], thresholds))
    tail = (1 - level) / 2
    return float(np.quantile(figures, tail)), float(np.quantile(figures, 1 - tail))


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share, hits of n (Wilson 1927)."""
    share, square = hits / n, z * z
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def poisson(events: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a Poisson mean after `events` were counted (Garwood 1936), by bisection."""
    tail = (1 - level) / 2

    def at_most(mean: float, most: int) -> float:
        if mean == 0:
            return 1.0
        return math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(most + 1))

    def solve(most: int, wanted: float) -> float:
        low, high = 0.0, 10.0 + 3 * events + 10 * math.sqrt(events)
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(middle, most) > wanted else (low, middle)
        return (low + high) / 2

    return (solve(events - 1, 1 - tail) if events else 0.0), solve(events, tail)


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

"""Misses and false accepts of a model on its validation recordings, and the thresholds that follow from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import corpora
from training.metrics import count_events, event_intervals, lowest_threshold, one_minus_auroc, threshold_at_far
from training.model.crnn import CRNN, State, log_odds
from training.validation.held_out import PREROLL, HeldOut

MARGIN = 0.1  # in log-odds, of a shipped threshold: an exported model sums in another order, or in int8
SMOOTHINGS = range(1, 9)  # hops; the best is taken where the recipe leaves it open
MISS_RATES = (0.25, 0.5, 1.0, 2.0)  # false accepts an hour of speech at which misses are counted
CURVE_RATES = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)  # false accepts an hour
FAR = 0.005  # of the clips of other words; no threshold has more

Intervals = dict[str, tuple[np.ndarray, np.ndarray]]  # kind of recording → event_intervals of one keyword


class Point(NamedTuple):
    """An operating point of one keyword, measured on the validation split."""

    threshold: float
    false_accepts_per_hour: float  # of all kinds of speech together
    worst_kind_per_hour: float
    misses: float  # share of the clips, as recorded
    misses_10_db: float


@dataclass(frozen=True)
class Figures:
    misses: float  # mean share of missed clips over keywords, MISS_RATES and conditions: decides which epoch is kept
    clean: float  # of these, the clips as recorded
    one_minus_auroc: float  # of clips, mean over keywords
    frr: float  # at FAR of clips, mean over keywords
    thresholds: list[float]  # the operating point of each keyword
    curves: list[list[Point]]  # other operating points of each keyword, the most false accepts first
    smoothing: int  # hops over which log-odds are averaged


def validate(model: CRNN, held_out: HeldOut, refractory_hops: int) -> Figures:
    """Figures of a model at its smoothing, or at the best of SMOOTHINGS if that is 0."""
    training, size = model.training, model.size
    model.eval()
    model.size = replace(size, smoothing=1)
    clips = [stream(model, frames, held_out.talk) for frames in (held_out.clips, *held_out.changed)]
    clips += [stream(model, frames) for frames in held_out.from_zero]
    streams = {kind: stream(model, one.frames) for kind, one in held_out.streams.items()}
    model.size = size
    model.train(training)
    choices = [size.smoothing] if size.smoothing else SMOOTHINGS
    candidates = [figures(held_out, clips, streams, hops, refractory_hops) for hops in choices]
    return min(candidates, key=lambda candidate: candidate.misses)


@torch.no_grad()
def stream(model: CRNN, frames: Tensor, before: Tensor | None = None) -> Tensor:
    """(n, frames, 40) → log-odds (n, hops, keywords).

    before: (m, frames, 40); row i continues from the state after before[i mod m]. Without it, from the zero state.
    """
    initial = model.zero_state(1 if before is None else len(before))
    if before is not None:
        context, hidden, ring = model.classify(before, initial)[1]
        initial = initial._replace(context=context, hidden=hidden, ring=ring)
    parts = []
    for part in frames.split(256):
        part = part.float()
        rows = torch.arange(len(part)) % len(initial.tail)
        state = State(initial.tail[rows], initial.context[rows], initial.hidden[:, rows], initial.ring[rows])
        parts.append(log_odds(model.classify(part, state)[0].logits))
    return torch.cat(parts)


def running_mean(odds: Tensor, hops: int) -> Tensor:
    """Mean of each hop's log-odds and those of the `hops` - 1 before it, as far as there are any: what a model with
    that smoothing gives. (n, all hops, keywords), in and out."""
    sums = F.pad(odds.double(), (0, 0, hops, 0)).cumsum(1)
    counts = torch.arange(1, odds.shape[1] + 1).clamp(max=hops).unsqueeze(1)
    return ((sums[:, hops:] - sums[:, :-hops]) / counts).float()


def figures(
    held_out: HeldOut, clips: list[Tensor], streams: dict[str, Tensor], hops: int, refractory_hops: int
) -> Figures:
    """clips: log-odds (clips, hops, keywords) of all clips, then of the keyword clips in each other condition; streams:
    (parts, hops, keywords) of each kind; hops: to average over."""
    scores, *changed = (running_mean(odds, hops).sigmoid().numpy().max(axis=1) for odds in clips)
    averaged = {
        kind: running_mean(odds, hops)[:, PREROLL:].flatten(0, 1)[: held_out.streams[kind].hops].sigmoid().numpy()
        for kind, odds in streams.items()
    }
    labels, of_keywords = held_out.labels, []
    for index in range(scores.shape[1]):
        intervals = {kind: event_intervals(values[:, index], refractory_hops) for kind, values in averaged.items()}
        rows = labels[labels >= 0] == index
        conditions = [values[rows, index] for values in changed]
        of_keywords.append(of_keyword(held_out, scores[:, index], labels == index, conditions, intervals))
    clean, others, areas, rates, thresholds, curves = zip(*of_keywords, strict=True)
    of_all = [*clean, *sum(others, [])]
    misses, as_recorded, area, frr = (float(np.mean(values)) for values in (of_all, clean, areas, rates))
    return Figures(misses, as_recorded, area, frr, list(thresholds), list(curves), hops)


def of_keyword(
    held_out: HeldOut, scores: np.ndarray, labels: np.ndarray, changed: list[np.ndarray], intervals: Intervals
) -> tuple[float, list[float], float, float, float, list[Point]]:
    """Share of missed clips, mean over MISS_RATES, as recorded and in each other condition; 1 − AUROC; FRR; threshold;
    curve.

    scores, labels: of all clips, (clips,); changed: scores of this keyword's clips in each other condition.
    """
    lowest = threshold_at_far(scores, labels, FAR)
    bars = np.array([max(lowest, threshold_at_rate(held_out, intervals, rate)) for rate in MISS_RATES])[:, None]
    clean = scores[labels]
    noisy = changed[0] if held_out.noisy else clean
    thresholds = sorted({shipped(threshold_at_rate(held_out, intervals, rate)) for rate in CURVE_RATES})
    return (
        (clean < bars).mean(),
        [(values < bars).mean() for values in changed],
        one_minus_auroc(scores, labels),
        (clean < lowest).mean(),
        shipped(threshold_at_rate(held_out, intervals, held_out.false_accepts_per_hour), lowest),
        [point(held_out, threshold, clean, noisy, intervals) for threshold in thresholds],
    )


def point(held_out: HeldOut, threshold: float, clean: np.ndarray, noisy: np.ndarray, intervals: Intervals) -> Point:
    """The operating point at a threshold, in four digits."""
    counts = {kind: int(count_events(intervals[kind], threshold)) for kind in speech_of(intervals)}
    hours = {kind: held_out.streams[kind].hours for kind in counts}
    values = (
        threshold,
        sum(counts.values()) / sum(hours.values()),
        max(counts[kind] / hours[kind] for kind in counts),
        (clean < threshold).mean(),
        (noisy < threshold).mean(),
    )
    return Point(*(float(f"{value:.4g}") for value in values))


def shipped(*lowest: float) -> float:
    """The threshold that is shipped where none may be lower than these: MARGIN above them."""
    threshold = min(max(*lowest, 0.05), 0.9999)
    return float(1 / (1 + (1 / threshold - 1) * np.exp(-MARGIN)))


def speech_of(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in kinds if kind in corpora.SPEECH]


def threshold_at_rate(held_out: HeldOut, intervals: Intervals, per_hour: float) -> float:
    """The lowest threshold with at most `per_hour` false accepts an hour of all speech, twice as many in each kind of
    speech (but one is always allowed), and none in noise."""
    speech = speech_of(intervals)
    hours = {kind: one.hours for kind, one in held_out.streams.items()}
    low, high = (np.concatenate([intervals[kind][side] for kind in speech]) for side in (0, 1))
    thresholds = [lowest_threshold((low, high), int(per_hour * sum(hours[kind] for kind in speech)))]
    thresholds += [lowest_threshold(intervals[kind], int(max(1.0, 2 * per_hour * hours[kind]))) for kind in speech]
    if "noise" in intervals:
        thresholds.append(lowest_threshold(intervals["noise"], 0))
    return max(thresholds)

"""How good a model is while it is being trained: on validation clips, as recorded, in noisy rooms, quieter and louder,
and on continuous speech; all streamed, all by speakers and noises that it does not learn from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data import corpora
from training.data import recordings as data
from training.data.noises import low_noise
from training.metrics import count_events, event_intervals, lowest_threshold, one_minus_auroc, threshold_at_far
from training.model.crnn import CRNN, State, log_odds
from training.model.features import FRAME_STEP, SAMPLE_RATE, TAIL
from training.recipe import Data, Recipe
from training.windows import augment
from training.windows.augment import AROUND, spoken_in

LONGEST = 3 * SAMPLE_RATE  # of a clip
SNRS = (10, 0)  # dB, besides clean
GAINS = (0.1, 4.0)  # ten times quieter and four times louder, the loudest clipped; clean too
ROOMS = 20
MARGIN = 0.1  # in log-odds, of the operating point: what is exported sums in another order, or in int8
SMOOTHINGS = range(1, 9)  # hops, of which the best is taken where the recipe leaves it open
RATES = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)  # false accepts an hour, of the curve
ALARMS = (0.25, 0.5, 1.0, 2.0)  # false accepts an hour of speech at which misses are counted
FAR = 0.005  # of the clips of other words, that no threshold exceeds
BEFORE, TALKS = 125, 8  # hops of talk that clips come after, ten seconds, and how many of them
MINUTE = 750  # hops
PART, PREROLL = 750, 125  # hops of continuous speech that are streamed at once, and those that go before them: 60, 10 s


@dataclass(frozen=True)
class Validation:
    before: Tensor  # (TALKS, frames, 40): each clip is heard after one of these
    frames: Tensor  # (clips, frames, 40)
    labels: np.ndarray  # (clips,) index of the keyword, -1 for none
    changed: list[Tensor]  # the clips with a keyword: for each of SNRS in rooms and noise, for each of GAINS
    alone: list[Tensor]  # the same from zero state: as they are, and after a second of digital silence
    kinds: dict[str, "Stream"]  # recordings without a keyword
    false_accepts_per_hour: float  # of speech, at the operating point
    noisy: bool  # whether the first of `changed` is in noise


@dataclass(frozen=True)
class Stream:
    """Recordings of a kind, one after the other."""

    frames: Tensor  # (parts, frames, 40), see in_parts
    hops: int  # in all
    hours: float


@dataclass(frozen=True)
class Figures:
    misses: float  # mean share of missed clips over keywords, ALARMS and conditions: decides which epoch is kept
    clean: float  # of these, those as recorded
    one_minus_auroc: float  # of clips, mean over keywords
    frr: float  # at FAR of clips, mean over keywords
    thresholds: list[float]  # for each keyword: the operating point
    curves: list[list["Point"]]  # for each keyword: other operating points, the most false accepts first
    smoothing: int  # hops over which log-odds were averaged for all of these


class Point(NamedTuple):
    """An operating point of one keyword, measured on the validation split."""

    threshold: float
    false_accepts_per_hour: float  # of all kinds of speech together
    worst_kind_per_hour: float
    misses: float  # share of the clips, as recorded
    misses_10_db: float


def padded(recordings: list[np.ndarray], hop: int) -> Tensor:
    """Recordings of different lengths → (n, samples), whole hops, silence after each."""
    longest = max(map(len, recordings))
    audio = np.zeros((len(recordings), -(-longest // hop) * hop), np.float32)
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = recording
    return torch.from_numpy(audio)


def load(base: Path, recipe: Recipe, model: CRNN) -> Validation:
    """Raises DataError where there is too little to validate with."""
    found = [c for c in data.find(base, recipe.data.words, words=True) if c.split == "validation"]
    keywords, hop = list(recipe.data.keywords), recipe.model.hop_samples
    labels = np.array([keywords.index(c.word) if c.word in keywords else -1 for c in found])
    for index, keyword in enumerate(keywords):
        if not (labels == index).any() or not (labels != index).any():
            raise data.DataError(f"validation needs clips of {keyword!r} and of other words below {base}")
    clips = [clip[:LONGEST] for clip in data.read_floats(found, "validation clips")]
    speech = [c for c in corpora.split(data.find(base, recipe.data.speech), base) if c.split == "validation"]
    noises = data.find(base, recipe.data.noise or Data.noise)  # what learns from none hears some here
    rooms = augment.room_responses(min(ROOMS, recipe.data.rooms or ROOMS), seed=1)
    held_out = data.read_floats([c for c in noises if c.split == "validation"] or noises, "validation noise")
    held_out = [noise[:LONGEST] for noise in held_out]
    rng = np.random.default_rng(0)
    spoken = [clip for clip, label in zip(clips, labels, strict=True) if label >= 0]
    snrs = SNRS if held_out else ()
    changed = [[spoken_in(clip, held_out, rooms, snr, rng) for clip in spoken] for snr in snrs]
    after = [np.concatenate([low_noise(AROUND, rng), clip, low_noise(AROUND, rng)]) for clip in clips]
    said = [clip for clip, label in zip(after, labels, strict=True) if label >= 0]
    changed += [[np.clip(clip * gain, -1, 1) for clip in said] for gain in GAINS]
    others = [clip for clip, label in zip(found, labels, strict=True) if label < 0]
    talk = data.read_floats(speech or others, "validation speech")
    talks = np.resize(np.concatenate(talk), TALKS * BEFORE * hop).reshape(TALKS, BEFORE * hop)
    quiet = [np.concatenate([clip, low_noise(AROUND, rng)]) for clip in spoken]
    muted = [np.concatenate([np.zeros(SAMPLE_RATE, np.float32), clip]) for clip in quiet]
    with torch.no_grad():
        return Validation(
            frames_of(model, torch.from_numpy(talks)),
            frames_of(model, padded(after, hop)),
            labels,
            [frames_of(model, padded(clips, hop)) for clips in changed],
            [frames_of(model, padded(clips, hop)) for clips in (quiet, muted)],
            {
                kind: joined(model, data.read_all(found, f"validation {kind}"))
                for kind, found in without_keywords(base, recipe, speech or others).items()
            },
            recipe.data.false_accepts_per_hour,
            bool(snrs),
        )


def without_keywords(base: Path, recipe: Recipe, speech: list[data.Clip]) -> dict[str, Sequence[data.Readable]]:
    """Validation recordings by kind; kinds without any are left out, and noise where training hears none.

    speech: validation clips of the recipe's folders, or of other words where these have none.
    """
    only = None if recipe.data.packages else ()
    kinds = corpora.KINDS if recipe.windows.bursts else corpora.SPEECH
    found: dict[str, Sequence[data.Readable]] = {
        kind: [
            one for one in corpora.recordings(kind, "validation", base, only)
            if not any(corpora.says(one, keyword) for keyword in recipe.data.keywords)
        ]
        for kind in kinds
    }
    known = {one.path for some in found.values() for one in some if isinstance(one, corpora.Recording)}
    continuous = [c for c in corpora.split(data.find(base, recipe.data.continuous), base) if c.split != "testing"]
    found["requests"] = [*found["requests"], *(c for c in continuous if c.path not in known)]
    found["read"] = [*found["read"], *(c for c in speech if c.path not in known)]
    return {kind: some for kind, some in found.items() if some}


def joined(model: CRNN, recordings: list[np.ndarray]) -> Stream:
    """int16 recordings as one stream of features."""
    hop = model.size.hop_samples
    audio = np.concatenate(recordings)
    audio = np.append(audio, np.zeros(-len(audio) % (MINUTE * hop), np.int16)).reshape(-1, MINUTE * hop)
    tail = torch.zeros(1, TAIL)
    parts = []
    for row in audio:
        minute = torch.from_numpy(data.to_float(row)).unsqueeze(0)
        frames, tail = model.features(minute, tail)
        parts.append(frames[0].half())  # (the rounding of half precision is that of the training windows)
    samples = sum(map(len, recordings))
    frames = in_parts(torch.cat(parts)[: -(-samples // hop) * (hop // FRAME_STEP)], hop // FRAME_STEP)
    return Stream(frames, -(-samples // hop), samples / SAMPLE_RATE / 3600)


def frames_of(model: CRNN, audio: Tensor) -> Tensor:
    return torch.cat([model.features(part, model.zero_state(len(part)).tail)[0] for part in audio.split(64)])


def in_parts(frames: Tensor, hop: int) -> Tensor:
    """One stream, (frames, 40), as parts of PART hops that can be heard side by side, each after its PREROLL, which is
    silence for the first: what a state still holds of a time before that is nothing that counts. hop: in frames."""
    rest = -len(frames) % (PART * hop)
    return F.pad(frames, (0, 0, PREROLL * hop, rest)).unfold(0, (PREROLL + PART) * hop, PART * hop).transpose(1, 2)


@torch.no_grad()
def stream(model: CRNN, frames: Tensor, before: Tensor | None = None) -> Tensor:
    """(n, frames, 40), each from zero state, or from what a model remembers of the recordings `before`, taken in turn
    → log-odds (n, hops, keywords)."""
    memory = model.zero_state(1 if before is None else len(before))
    if before is not None:
        context, hidden, ring = model.classify(before, memory)[1]
        memory = memory._replace(context=context, hidden=hidden, ring=ring)
    parts = []
    for part in frames.split(256):
        part = part.float()
        turn = torch.arange(len(part)) % len(memory.tail)
        state = State(memory.tail[turn], memory.context[turn], memory.hidden[:, turn], memory.ring[turn])
        parts.append(log_odds(model.classify(part, state)[0].logits))
    return torch.cat(parts)


def running_mean(odds: Tensor, hops: int) -> Tensor:
    """Each hop's log-odds and those of the `hops` - 1 before it, averaged, or of fewer where there are no more, as the
    model itself does it when it listens: (n, all hops, keywords)."""
    sums = F.pad(odds.double(), (0, 0, hops, 0)).cumsum(1)
    counts = torch.arange(1, odds.shape[1] + 1).clamp(max=hops).unsqueeze(1)
    return ((sums[:, hops:] - sums[:, :-hops]) / counts).float()


def validate(model: CRNN, validation: Validation, refractory_hops: int) -> Figures:
    """Figures of a model at its smoothing, or at the best of SMOOTHINGS if that is 0."""
    training, size = model.training, model.size
    model.eval()
    model.size = replace(size, smoothing=1)
    spoken = [stream(model, frames, validation.before) for frames in (validation.frames, *validation.changed)]
    spoken += [stream(model, frames) for frames in validation.alone]
    talk = {kind: stream(model, one.frames) for kind, one in validation.kinds.items()}
    model.size = size
    model.train(training)
    choices = [size.smoothing] if size.smoothing else SMOOTHINGS
    found = [figures(validation, spoken, talk, hops, refractory_hops) for hops in choices]
    return min(found, key=lambda one: one.misses)


def figures(
    validation: Validation, spoken: list[Tensor], talk: dict[str, Tensor], hops: int, refractory_hops: int
) -> Figures:
    """spoken: log-odds of each hop of clips, clean, changed and alone; talk: of recordings without a keyword, by kind;
    hops: to average over."""
    clips, *changed = (running_mean(odds, hops).sigmoid().numpy().max(axis=1) for odds in spoken)
    heard = {
        kind: running_mean(odds, hops)[:, PREROLL:].flatten(0, 1)[: validation.kinds[kind].hops].sigmoid().numpy()
        for kind, odds in talk.items()
    }
    labels = validation.labels
    clean, others, areas, rates, thresholds = [], [], [], [], []
    curves: list[list[Point]] = []
    for index in range(clips.shape[1]):
        mine = labels == index
        intervals = {kind: event_intervals(scores[:, index], refractory_hops) for kind, scores in heard.items()}
        of_clips = threshold_at_far(clips[:, index], mine, FAR)
        bars = np.array([max(of_clips, quiet_threshold(validation, intervals, alarms)) for alarms in ALARMS])
        clean.append((clips[mine, index] < bars[:, None]).mean())
        others += [(scores[mine[labels >= 0], index] < bars[:, None]).mean() for scores in changed]
        areas.append(one_minus_auroc(clips[:, index], mine))
        rates.append((clips[mine, index] < of_clips).mean())
        thresholds.append(shipped(quiet_threshold(validation, intervals, validation.false_accepts_per_hour), of_clips))
        curves.append([])
        for threshold in sorted({shipped(quiet_threshold(validation, intervals, rate)) for rate in RATES}):
            counts = {kind: int(count_events(intervals[kind], threshold)) for kind in speech_of(intervals)}
            hours = {kind: validation.kinds[kind].hours for kind in counts}
            noisy = changed[0] if validation.noisy else clips[labels >= 0]
            point = Point(
                threshold,
                sum(counts.values()) / sum(hours.values()),
                max(counts[kind] / hours[kind] for kind in counts),
                float((clips[mine, index] < threshold).mean()),
                float((noisy[mine[labels >= 0], index] < threshold).mean()),
            )
            curves[-1].append(Point(*(float(f"{value:.4g}") for value in point)))
    return Figures(
        float(np.mean(clean + others)),
        float(np.mean(clean)),
        float(np.mean(areas)),
        float(np.mean(rates)),
        thresholds,
        curves,
        hops,
    )


def shipped(*lowest: float) -> float:
    """The threshold that is shipped where none may be lower than these."""
    found = min(max(*lowest, 0.05), 0.9999)
    return float(1 / (1 + (1 / found - 1) * np.exp(-MARGIN)))


def speech_of(kinds: Iterable[str]) -> list[str]:
    return [kind for kind in kinds if kind in corpora.SPEECH]


def quiet_threshold(
    validation: Validation, intervals: dict[str, tuple[np.ndarray, np.ndarray]], per_hour: float
) -> float:
    """The lowest threshold with at most so many false accepts an hour of all speech, twice as many in each kind of it,
    and in noise none an hour. intervals: of event_intervals, by kind."""
    speech = speech_of(intervals)
    low, high = (np.concatenate([intervals[kind][side] for kind in speech]) for side in (0, 1))
    hours = {kind: one.hours for kind, one in validation.kinds.items()}
    found = [lowest_threshold((low, high), int(per_hour * sum(hours[kind] for kind in speech)))]
    found += [lowest_threshold(intervals[kind], int(max(1.0, 2 * per_hour * hours[kind]))) for kind in speech]
    if "noise" in intervals:
        found.append(lowest_threshold(intervals["noise"], 0))
    return max(found)

"""How good a model is while it is being trained: on validation clips, as recorded, in noisy rooms, quieter and louder,
and on continuous speech; all streamed, all by speakers and noises that it does not learn from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training import augment, corpora, data
from training.augment import AROUND, low_noise, spoken_in
from training.crnn import CRNN, State, log_odds
from training.features import FRAME_STEP, SAMPLE_RATE
from training.metrics import event_intervals, lowest_threshold, one_minus_auroc, operating_point, threshold_at_far
from training.recipe import Data, Recipe

LONGEST = 3 * SAMPLE_RATE  # of a clip
SNRS = (10, 0)  # dB, besides clean
GAINS = (0.1, 4.0)  # ten times quieter and four times louder, the loudest clipped; clean too
ROOMS = 20
MARGIN = 0.1  # in log-odds, of the operating point: what is exported sums in another order, or in int8
SMOOTHINGS = range(1, 9)  # hops, of which the best is taken where the recipe leaves it open
ALARMS = (1, 3, 10, 30)  # false accepts in all of the continuous speech at which misses are counted
FAR = 0.005  # of the clips of other words, that no threshold exceeds
BEFORE, TALKS = 125, 8  # hops of talk that clips come after, ten seconds, and how many of them
PART, PREROLL = 750, 125  # hops of continuous speech that are streamed at once, and those that go before them: 60, 10 s


@dataclass(frozen=True)
class Validation:
    before: Tensor  # (TALKS, frames, 40): each clip is heard after one of these
    frames: Tensor  # (clips, frames, 40)
    labels: np.ndarray  # (clips,) index of the keyword, -1 for none
    changed: list[Tensor]  # the clips with a keyword: for each of SNRS in rooms and noise, for each of GAINS
    continuous: Tensor  # (parts, frames, 40), see in_parts
    hops: int  # of continuous speech, in all
    most_alarms: int  # that the operating point may make there


@dataclass(frozen=True)
class Figures:
    misses: float  # mean share of missed clips over keywords, ALARMS, clean, SNRS, GAINS: decides which epoch is kept
    clean: float  # of these, those as recorded
    one_minus_auroc: float  # of clips, mean over keywords
    frr: float  # at FAR of clips, mean over keywords
    thresholds: list[float]  # for each keyword: the operating point
    smoothing: int  # hops over which log-odds were averaged for all of these


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
    continuous = [c for c in corpora.split(data.find(base, recipe.data.continuous), base) if c.split != "testing"]
    talk = data.read_floats(continuous or speech, "continuous speech")
    stream = np.concatenate(talk or clips[:1])
    rng = np.random.default_rng(0)
    spoken = [clip for clip, label in zip(clips, labels, strict=True) if label >= 0]
    snrs = SNRS if held_out else ()
    changed = [[spoken_in(clip, held_out, rooms, snr, rng) for clip in spoken] for snr in snrs]
    after = [np.concatenate([low_noise(AROUND, rng), clip, low_noise(AROUND, rng)]) for clip in clips]
    said = [clip for clip, label in zip(after, labels, strict=True) if label >= 0]
    changed += [[np.clip(clip * gain, -1, 1) for clip in said] for gain in GAINS]
    others = data.read_floats(speech, "validation speech") or [c for c, at in zip(clips, labels, strict=True) if at < 0]
    talks = np.resize(np.concatenate(others), TALKS * BEFORE * hop).reshape(TALKS, BEFORE * hop)
    with torch.no_grad():
        return Validation(
            frames_of(model, torch.from_numpy(talks)),
            frames_of(model, padded(after, hop)),
            labels,
            [frames_of(model, padded(clips, hop)) for clips in changed],
            in_parts(frames_of(model, padded([stream], hop))[0], hop // FRAME_STEP),
            -(-len(stream) // hop),
            int(recipe.data.false_accepts_per_hour * len(stream) / SAMPLE_RATE / 3600),
        )


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
    talk = stream(model, validation.continuous)
    model.size = size
    model.train(training)
    choices = [size.smoothing] if size.smoothing else SMOOTHINGS
    found = [figures(validation, spoken, talk, hops, refractory_hops) for hops in choices]
    return min(found, key=lambda one: one.misses)


def figures(validation: Validation, spoken: list[Tensor], talk: Tensor, hops: int, refractory_hops: int) -> Figures:
    """spoken: log-odds of each hop of clips, clean and changed; talk: of continuous speech; hops: to average over."""
    clips, *changed = (running_mean(odds, hops).sigmoid().numpy().max(axis=1) for odds in spoken)
    heard = running_mean(talk, hops)[:, PREROLL:].flatten(0, 1)[: validation.hops].sigmoid().numpy()
    labels = validation.labels
    clean, others, areas, rates, thresholds = [], [], [], [], []
    for index in range(heard.shape[1]):
        mine, intervals = labels == index, event_intervals(heard[:, index], refractory_hops)
        of_clips = threshold_at_far(clips[:, index], mine, FAR)
        bars = np.maximum([lowest_threshold(intervals, alarms) for alarms in ALARMS], of_clips)
        clean.append((clips[mine, index] < bars[:, None]).mean())
        others += [(scores[mine[labels >= 0], index] < bars[:, None]).mean() for scores in changed]
        areas.append(one_minus_auroc(clips[:, index], mine))
        rates.append((clips[mine, index] < of_clips).mean())
        lowest = min(max(operating_point(intervals, validation.most_alarms), of_clips), 0.9999)
        thresholds.append(float(1 / (1 + (1 / lowest - 1) * np.exp(-MARGIN))))
    return Figures(
        float(np.mean(clean + others)),
        float(np.mean(clean)),
        float(np.mean(areas)),
        float(np.mean(rates)),
        thresholds,
        hops,
    )

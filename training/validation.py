"""How good a model is while it is being trained: on validation clips and on continuous speech, streamed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import data
from training.augment import coloured_noise, decibels
from training.crnn import CRNN, log_odds
from training.features import SAMPLE_RATE
from training.metrics import frr_at_far, one_minus_auroc
from training.recipe import Recipe

AFTER = SAMPLE_RATE // 2  # half a second of low noise follows each clip
BLOCK = 25  # hops: two seconds of continuous speech make at most one false accept
ALARMS = (1, 3, 10, 30)  # false accepts in all of the continuous speech at which misses are counted


@dataclass(frozen=True)
class Validation:
    frames: Tensor  # (clips, frames, 40)
    labels: np.ndarray  # (clips,) index of the keyword, -1 for none
    continuous: Tensor  # (recordings, frames, 40), filled up with silence


@dataclass(frozen=True)
class Figures:
    misses: float  # mean share of missed clips over keywords and ALARMS: what decides which epoch is kept
    one_minus_auroc: float  # of clips, mean over keywords
    frr: float  # at 0.5 % FAR of clips, mean over keywords
    thresholds: list[float]  # for each keyword: one false accept in the continuous speech


def padded(recordings: list[np.ndarray], hop: int, rng: np.random.Generator, after: int = 0) -> Tensor:
    """Recordings of different lengths → (n, samples), whole hops, low noise after each, then silence."""
    longest = max(len(r) for r in recordings) + after
    audio = np.zeros((len(recordings), -(-longest // hop) * hop), np.float32)
    for row, recording in zip(audio, recordings, strict=True):
        row[: len(recording)] = data.to_float(recording)
        if after:
            row[len(recording) : len(recording) + after] = coloured_noise(after, 3, rng) * decibels(-60)
    return torch.from_numpy(audio)


def load(base: Path, recipe: Recipe, model: CRNN) -> Validation:
    clips = [c for c in data.find(base, recipe.data.words, words=True) if c.split == "validation"]
    keywords, hop = list(recipe.data.keywords), recipe.model.hop_samples
    labels = np.array([keywords.index(c.word) if c.word in keywords else -1 for c in clips])
    for index, keyword in enumerate(keywords):
        if not (labels == index).any() or not (labels != index).any():
            raise data.DataError(f"validation needs clips of {keyword!r} and of other words below {base}")
    speech = [c for c in data.find(base, recipe.data.speech) if c.split == "validation"]
    continuous = data.find(base, recipe.data.continuous) or speech
    rng = np.random.default_rng(0)
    recordings = data.read_all(clips, "validation clips")
    recordings = [r[: 3 * SAMPLE_RATE] for r in recordings]
    streams = data.read_all(continuous, "continuous speech") or recordings[:1]
    with torch.no_grad():
        return Validation(
            frames_of(model, padded(recordings, hop, rng, AFTER)), labels, frames_of(model, padded(streams, hop, rng))
        )


def frames_of(model: CRNN, audio: Tensor) -> Tensor:
    parts = [model.features(part, model.zero_state(len(part)).tail)[0] for part in audio.split(64)]
    return torch.cat(parts)


@torch.no_grad()
def stream(model: CRNN, frames: Tensor) -> np.ndarray:
    """(n, frames, 40), each from zero state → scores (n, hops, keywords)."""
    parts = [
        log_odds(model.classify(part, model.zero_state(len(part)))[0].logits).sigmoid() for part in frames.split(256)
    ]
    return torch.cat(parts).numpy()


def validate(model: CRNN, validation: Validation) -> Figures:
    training = model.training
    model.eval()
    clips = stream(model, validation.frames).max(axis=1)
    talk = stream(model, validation.continuous)
    model.train(training)
    hops = talk.shape[1] // BLOCK * BLOCK
    misses, areas, rates, thresholds = [], [], [], []
    for index in range(clips.shape[1]):
        labels = validation.labels == index
        peaks = np.sort(talk[:, :hops, index].reshape(-1, BLOCK).max(axis=1))[::-1]
        for alarms in ALARMS:
            misses.append(float((clips[labels, index] <= peaks[min(alarms, len(peaks) - 1)]).mean()))
        areas.append(one_minus_auroc(clips[:, index], labels))
        rates.append(frr_at_far(clips[:, index], labels))
        thresholds.append(float(np.clip(np.nextafter(peaks[min(1, len(peaks) - 1)], np.float32(1)), 0.05, 0.999)))
    return Figures(float(np.mean(misses)), float(np.mean(areas)), float(np.mean(rates)), thresholds)

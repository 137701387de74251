"""Phonemes as an auxiliary target: a network that spells what it hears tells "happy" from "heavy" by more than rhythm.

Utterances of known words, synthesised sentences and clips of words one after the other, are spelt in espeak-ng's
letters for sounds by a linear layer over the last GRU layer, with connectionist temporal classification (Graves et al. 2006).
The layer is for training only: no checkpoint has it.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from training import augment, data, synthesize, windows
from training.crnn import CRNN
from training.features import FRAME_STEP, N_MELS, SAMPLE_RATE, TAIL, LogMel
from training.recipe import Recipe

VERSION = 1
POOL = 16_384
MOST = 40  # phonemes of an utterance
PER_HOP = 4  # letters that may be spelt in a hop of 80 ms
LETTERS = "".join(sorted(set("aAeEiIoOuUVQ03@Y&pbtdkg?fvszSZTDCJhmnNlrRwjLx#~^*\"WX245678")))
BLANK = 0


def spelt(sounds: str) -> list[int]:
    """espeak-ng's letters → numbers from 1; a letter that stands twice in a row stays."""
    return [LETTERS.index(sound) + 1 for sound in sounds if sound in LETTERS]


class Utterances:
    """`frames` (POOL, frames, 40) in half precision, `spelling` (POOL, MOST) numbers of LETTERS, 0 after the last."""

    def __init__(self, base: Path, recipe: Recipe, workers: int, folder: Path = Path("runs/windows")):
        clips = windows.find(base, recipe)
        how = recipe.data
        samples = recipe.train.hops * recipe.model.hop_samples
        words = [*(clip for some in clips.keywords for clip in some), *clips.words]
        words = [clip for clip in words if clip.word.isascii()]
        texts = synthesize.texts(how.keywords, how.synthetic)
        vocabulary = sorted({clip.word for clip in words} | {word for text in texts for word in text.split()})
        names = [clip.name for clip in [*words, *clips.synthetic, *clips.noise]]
        key = hashlib.sha256(json.dumps([VERSION, samples, how.speeds, how.levels, names]).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = windows.keep(
            folder / f"{key}.utterances", np.float16, (POOL, samples // FRAME_STEP, N_MELS)
        )
        self.letters = windows.keep(folder / f"{key}.spelling", np.int8, (POOL, MOST))
        missing = np.flatnonzero(self.letters[:, 0] == 0)
        if len(missing):
            sounds = dict(zip(vocabulary, synthesize.phonemes(vocabulary), strict=True))
            sources = windows.read(clips, how)
            making = Making(self, sources, words, texts, sounds, missing, samples)
            windows.make(DataLoader(making, 64, num_workers=workers), len(missing))
        self.frames = torch.from_numpy(np.array(self.kept))
        self.spelling = torch.from_numpy(np.array(self.letters)).long()

    def batch(self, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(rng.integers(POOL, size=n))
        return augment.colour_and_mask(self.frames[chosen].float(), rng), self.spelling[chosen]


class Making(Dataset):
    def __init__(self, utterances, sources, words, texts, sounds, numbers, samples):
        self.utterances, self.sources, self.numbers, self.samples = utterances, sources, numbers, samples
        self.words, self.texts, self.sounds = words, texts, sounds
        self.clips = data.read_all(words, "words")
        self.features = LogMel()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, k: int) -> int:
        index, most = int(self.numbers[k]), self.samples
        rng = np.random.default_rng([index, VERSION, 77])
        said: list[int] = []
        while not 0 < len(said) <= MOST:
            audio, sounds = self.utterance(rng, most)
            said = spelt(sounds)
        at = int(rng.integers(0, most - len(audio) + 1))
        speech = np.zeros(most + TAIL, np.float32)
        speech[TAIL + at : TAIL + at + len(audio)] = audio
        if rng.random() < 0.5 and self.sources.rooms:
            speech = augment.in_room(speech, windows.pick(self.sources.rooms, rng))
        if rng.random() < self.sources.how.worn:
            speech = augment.worn(speech, rng)
        speech = speech + windows.background(self.sources, len(speech), rng) * (rng.random() < 0.8)
        speech = np.clip(speech * augment.decibels(rng.uniform(*self.sources.how.levels)), -1, 1).astype(np.float32)
        whole = torch.from_numpy(speech).unsqueeze(0)
        frames, _ = self.features(whole[:, TAIL:], whole[:, :TAIL])
        self.utterances.kept[index] = frames[0].numpy()
        self.utterances.letters[index, : len(said)] = said
        return index

    def utterance(self, rng: np.random.Generator, most: int) -> tuple[np.ndarray, str]:
        """A synthesised sentence or a few words by people, at most so many samples, and its sounds."""
        speeds = self.sources.how.speeds
        while rng.random() < 0.5:
            i = int(rng.integers(len(self.texts)))
            audio = windows.at_unit_level(data.to_float(self.sources.synthetic[i]), speeds, rng)
            if len(audio) <= most:
                return augment.fade(audio), "".join(self.sounds[word] for word in self.texts[i].split())
        pieces, sounds, total = [], "", 0
        for _ in range(int(rng.integers(1, 6))):
            i = int(rng.integers(len(self.words)))
            word = windows.at_unit_level(data.to_float(self.clips[i]), speeds, rng)
            start, end = data.spoken_part(word)
            word = augment.fade(word[max(0, start - 800) : end + 800])
            if total + len(word) > most:
                break
            gap = np.zeros(int(rng.exponential(0.1) * SAMPLE_RATE), np.float32)
            pieces += [word, gap]
            total += len(word) + len(gap)
            sounds += self.sounds[self.words[i].word]
        audio = np.concatenate(pieces)[:most] if pieces else np.zeros(1600, np.float32)
        return audio, sounds


class Speller(nn.Module):
    """Last hidden vectors (batch, hops, hidden) → log-probabilities (batch, PER_HOP · hops, 1 + letters)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.linear = nn.Linear(hidden, PER_HOP * (1 + len(LETTERS)))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden).unflatten(2, (PER_HOP, -1)).flatten(1, 2).log_softmax(-1)


def spelling_loss(said: Tensor, spelling: Tensor) -> Tensor:
    """CTC of log-probabilities (batch, time, 1 + letters), per letter. spelling: (batch, MOST)."""
    lengths = (spelling > 0).sum(-1)
    times = torch.full((len(said),), said.shape[1])
    losses = F.ctc_loss(said.transpose(0, 1), spelling, times, lengths, BLANK, reduction="none", zero_infinity=True)
    return losses.sum() / lengths.sum()


def spell(model: CRNN, frames: Tensor) -> Tensor:
    return model.classify(frames, model.zero_state(len(frames)))[0].hidden

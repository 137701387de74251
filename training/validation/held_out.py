"""The recordings that a model is validated on. Their speakers and noises are in no training window."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.data import corpora
from training.data import recordings as data
from training.data.noises import low_noise
from training.model.crnn import CRNN
from training.model.features import FRAME_STEP, SAMPLE_RATE, TAIL
from training.recipe import Data, Recipe
from training.windows import augment
from training.windows.augment import AROUND

LONGEST = 3 * SAMPLE_RATE  # of a clip
SNRS = (10, 0)  # dB, in noise and reverberation
GAINS = (0.1, 4.0)  # of clean clips; the louder ones are clipped
ROOMS = 20
TALKS, TALK_HOPS = 8, 125  # excerpts of speech before a clip: how many, and how long (10 s)
PART = 750  # hops of a long stream that are processed at once: 60 s
PREROLL = 125  # hops before them, to fill the state: 10 s


@dataclass(frozen=True)
class Stream:
    """Recordings of one kind without a keyword, joined."""

    frames: Tensor  # (parts, frames, 40), see in_parts
    hops: int
    hours: float


@dataclass(frozen=True)
class HeldOut:
    talk: Tensor  # (TALKS, frames, 40): clips come after one of these, in turn
    clips: Tensor  # (clips, frames, 40), as recorded
    labels: np.ndarray  # (clips,) index of the keyword, -1 for none
    changed: list[Tensor]  # the keyword clips at each of SNRS and each of GAINS; come after talk too
    from_zero: list[Tensor]  # the keyword clips from the zero state: at once, and after a second of digital silence
    streams: dict[str, Stream]  # by kind
    false_accepts_per_hour: float  # of speech, at the operating point
    noisy: bool  # whether `changed` begins with SNRS


@torch.no_grad()
def load(base: Path, recipe: Recipe, model: CRNN) -> HeldOut:
    """The validation recordings below `base`, as features of `model`. Raises DataError where a class has no clip."""
    hop, rng = recipe.model.hop_samples, np.random.default_rng(0)
    clips, labels = labelled_clips(base, recipe)
    audio = [clip[:LONGEST] for clip in data.read_floats(clips, "validation clips")]
    speech = of_split(corpora.split(data.find(base, recipe.data.speech), base)) or list(compress(clips, labels < 0))
    talk = np.concatenate(data.read_floats(speech, "validation speech"))

    rooms = augment.room_responses(min(ROOMS, recipe.data.rooms or ROOMS), seed=1)
    noises = noise_recordings(base, recipe)
    keyword_clips = list(compress(audio, labels >= 0))
    changed = [[augment.spoken_in(clip, noises, rooms, snr, rng) for clip in keyword_clips] for snr in SNRS if noises]
    surrounded = [np.concatenate([low_noise(AROUND, rng), clip, low_noise(AROUND, rng)]) for clip in audio]
    changed += [[np.clip(clip * gain, -1, 1) for clip in compress(surrounded, labels >= 0)] for gain in GAINS]
    at_start = [np.concatenate([clip, low_noise(AROUND, rng)]) for clip in keyword_clips]
    after_silence = [np.concatenate([np.zeros(SAMPLE_RATE, np.float32), clip]) for clip in at_start]

    def features(recordings: list[np.ndarray]) -> Tensor:
        return frames_of(model, padded(recordings, hop))

    return HeldOut(
        features(list(np.resize(talk, (TALKS, TALK_HOPS * hop)))),
        features(surrounded),
        labels,
        [features(recordings) for recordings in changed],
        [features(at_start), features(after_silence)],
        {
            kind: joined(model, data.read_all(recordings, f"validation {kind}"))
            for kind, recordings in without_keywords(base, recipe, speech).items()
        },
        recipe.data.false_accepts_per_hour,
        bool(noises),
    )


def of_split(clips: list[data.Clip]) -> list[data.Clip]:
    return [clip for clip in clips if clip.split == "validation"]


def labelled_clips(base: Path, recipe: Recipe) -> tuple[list[data.Clip], np.ndarray]:
    """Word clips and the index of each one's keyword, -1 for none. Raises DataError."""
    clips, keywords = of_split(data.find(base, recipe.data.words, words=True)), list(recipe.data.keywords)
    labels = np.array([keywords.index(clip.word) if clip.word in keywords else -1 for clip in clips])
    for index, keyword in enumerate(keywords):
        if not (labels == index).any() or not (labels != index).any():
            raise data.DataError(f"validation needs clips of {keyword!r} and of other words below {base}")
    return clips, labels


def noise_recordings(base: Path, recipe: Recipe) -> list[np.ndarray]:
    """The recipe's, or the default's where training uses none; of all splits where none is for validation."""
    noises = data.find(base, recipe.data.noise or Data.noise)
    return [noise[:LONGEST] for noise in data.read_floats(of_split(noises) or noises, "validation noise")]


def without_keywords(base: Path, recipe: Recipe, speech: list[data.Clip]) -> dict[str, Sequence[data.Readable]]:
    """Recordings without a keyword by kind; kinds without any are left out, and noise if the recipe trains without.

    speech: validation clips of the recipe's folders, or of other words where these have none.
    """
    packages = None if recipe.data.packages else ()
    by_kind: dict[str, Sequence[data.Readable]] = {
        kind: [
            recording
            for recording in corpora.recordings(kind, "validation", base, packages)
            if not any(corpora.says(recording, keyword) for keyword in recipe.data.keywords)
        ]
        for kind in (corpora.KINDS if recipe.windows.bursts else corpora.SPEECH)
    }
    known = {item.path for items in by_kind.values() for item in items if isinstance(item, corpora.Recording)}
    continuous = [c for c in corpora.split(data.find(base, recipe.data.continuous), base) if c.split != "testing"]
    by_kind["requests"] = [*by_kind["requests"], *(clip for clip in continuous if clip.path not in known)]
    by_kind["read"] = [*by_kind["read"], *(clip for clip in speech if clip.path not in known)]
    return {kind: items for kind, items in by_kind.items() if items}


def joined(model: CRNN, recordings: list[np.ndarray]) -> Stream:
    """int16 recordings → one stream of features, in half precision as the training windows."""
    hop = model.size.hop_samples
    audio = np.concatenate(recordings)
    samples, hops = len(audio), -(-len(audio) // hop)
    minutes = np.append(audio, np.zeros(-samples % (PART * hop), np.int16)).reshape(-1, PART * hop)
    tail, parts = torch.zeros(1, TAIL), []
    for minute in minutes:
        frames, tail = model.features(torch.from_numpy(data.to_float(minute)).unsqueeze(0), tail)
        parts.append(frames[0].half())
    frames_per_hop = hop // FRAME_STEP
    frames = in_parts(torch.cat(parts)[: hops * frames_per_hop], frames_per_hop)
    return Stream(frames, hops, samples / SAMPLE_RATE / 3600)


def in_parts(frames: Tensor, hop: int) -> Tensor:
    """One stream (frames, 40) → (parts, frames, 40): PART hops each, after the PREROLL hops before them.

    The first preroll is silence. A state holds nothing that matters of the time before a preroll. hop: in frames.
    """
    rest = -len(frames) % (PART * hop)
    return F.pad(frames, (0, 0, PREROLL * hop, rest)).unfold(0, (PREROLL + PART) * hop, PART * hop).transpose(1, 2)


def padded(recordings: list[np.ndarray], hop: int) -> Tensor:
    """Recordings of different lengths → (n, samples), whole hops, zeros after each. hop: in samples."""
    audio = pad_sequence([torch.from_numpy(recording) for recording in recordings], batch_first=True)
    return F.pad(audio, (0, -audio.shape[1] % hop))


def frames_of(model: CRNN, audio: Tensor) -> Tensor:
    """(n, samples) → log-mel frames (n, frames, 40), each row from an empty tail."""
    return torch.cat([model.features(part, model.zero_state(len(part)).tail)[0] for part in audio.split(64)])

"""Training windows: a few seconds of a life in which a keyword may be spoken, and where it was.

A keyword stands anywhere in its window, after and before other speech, near-misses, pauses and noise; so a GRU state
that has heard things is the rule and not the exception. Window number `i` is a function of the recordings and `i`
alone: nothing depends on how many processes make them or where a training was interrupted.

Making a window costs ten times what learning from it costs. So each is made once, and its features are kept below
runs/windows/ for all epochs, seeds and recipes; a microphone's frequency response and masks are drawn anew each time.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from training.data import corpora, mislabelled, noises
from training.data import recordings as data
from training.data.noises import decibels
from training.model.features import FRAME_STEP, N_MELS, SAMPLE_RATE, TAIL, LogMel
from training.recipe import Data, Recipe, Schedule
from training.voices import synthesize
from training.windows import augment, splice

VERSION = 10  # raise it when windows come out differently: what is kept of older ones is then left alone
HUMS = 64  # pieces of stationary noise, ten seconds each
Item = TypeVar("Item")
NEGATIVE, POSITIVE, IGNORED = 0, 1, 2  # what a hop is to a keyword


@dataclass(frozen=True)
class Sources:
    """Training recordings in memory, int16."""

    keywords: list[list[np.ndarray]]  # for each keyword its clips
    words: list[np.ndarray]  # clips of other words
    speech: list[np.ndarray]  # longer negatives, each kind one long recording
    noise: list[np.ndarray]
    loud: list[np.ndarray]  # sounds that are no speech and stand for themselves: bursts, tones, music
    rooms: list[np.ndarray]
    synthetic: list[np.ndarray]  # synthesised near-misses
    hums: list[np.ndarray]  # stationary noise of unit level, float32
    how: Data


@dataclass(frozen=True)
class Clips:
    """Which recordings windows are made of."""

    keywords: list[list[data.Clip]]
    words: list[data.Clip]
    speech: list[data.Clip]
    packages: list[corpora.Recording]  # more speech
    noise: list[data.Clip]
    loud: list[corpora.Recording]
    synthetic: list[data.Clip]


def find(base: Path, recipe: Recipe) -> Clips:
    """The recordings of the training split. Raises DataError where a keyword has no clips."""
    wrong = set() if recipe.data.mislabelled else mislabelled.known()
    spoken = recipe.data.keywords
    words = [c for c in data.find(base, recipe.data.words, words=True) if c.split == "training"]
    words = [c for c in words if mislabelled.name_of(c.path, base) not in wrong]
    speech = [c for c in corpora.split(data.find(base, recipe.data.speech), base) if c.split == "training"]
    more = corpora.speech("training", None, spoken, recipe.data.packages)
    noise = [c for c in data.find(base, recipe.data.noise) if c.split == "training"]
    for keyword in spoken:
        if not any(c.word == keyword for c in words):
            raise data.DataError(f"no training clips of {keyword!r} in {', '.join(recipe.data.words)} below {base}")
    return Clips(
        [[c for c in words if c.word == k] for k in spoken],
        [c for c in words if c.word not in spoken],
        [c for c in speech if not any(k in c.path.relative_to(base).as_posix() for k in spoken)],
        more,
        noise,
        corpora.recordings("noise", "training", None, recipe.data.packages) if recipe.data.bursts else [],
        [data.Clip(path, "", "training") for path in synthesize.utterances(spoken, recipe.data.synthetic)],
    )


def read(clips: Clips, how: Data) -> Sources:
    rng = np.random.default_rng(0)
    some: list[Sequence[data.Readable]] = [clips.speech]
    some += [[one for one in clips.packages if one.kind == kind] for kind in corpora.SPEECH]
    return Sources(
        [data.read_all(k, "keyword clips") for k in clips.keywords],
        data.read_all(clips.words, "other words"),
        [np.concatenate(data.read_all(kind, "speech")) for kind in some if kind],
        data.read_all(clips.noise, "noise"),
        data.read_all(clips.loud, "loud noise"),
        augment.room_responses(how.rooms, seed=0),
        data.read_all(clips.synthetic, "synthesised speech"),
        [noises.coloured_noise(10 * SAMPLE_RATE, rng.uniform(-1, 7), rng) for _ in range(HUMS)],
        how,
    )


class Windows:
    """All windows of a recipe: `frames` (pool, hops · frames per hop, 40) in half precision, `targets` (pool, keywords,
    hops), NEGATIVE, POSITIVE or IGNORED, and `echoes` (pool, keywords): hops of whatever comes after a window in which
    its keyword is still remembered."""

    def __init__(self, base: Path, recipe: Recipe, workers: int, folder: Path = Path("runs/windows")):
        self.size, self.hops = recipe.model, recipe.train.hops
        clips, pool = find(base, recipe), recipe.train.pool
        self.clips = clips
        how = recipe.data
        made = [how.keywords, how.rooms, how.speeds, how.levels, how.splices, how.pauses]
        made += [how.bursts, how.worn, how.muted]
        kind = [VERSION, self.hops, self.size.hop_samples, *made]
        names = [c.name for cs in (*clips.keywords, *list(vars(clips).values())[1:]) for c in cs]
        name = hashlib.sha256(json.dumps([kind, names]).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        n_frames = self.hops * self.size.hop_samples // FRAME_STEP
        self.path = folder / f"{name}.frames"
        self.kept = keep(self.path, np.float16, (pool, n_frames, N_MELS))
        self.words = keep(folder / f"{name}.words", np.int32, (pool, 4))  # 1 once made, keyword or -1, start, end
        missing = np.flatnonzero(self.words[:, 0] == 0)
        if len(missing):
            making = Making(self, read(clips, how), missing)
            make(DataLoader(making, 64, num_workers=workers), len(missing))
        # Into memory: from disk, single windows come a hundred times slower.
        self.frames = torch.from_numpy(np.array(self.kept))
        del self.kept
        targets = np.zeros((pool, self.size.keywords, self.hops + self.size.window), np.int8)
        for row, (_, keyword, start, end) in zip(targets, self.words, strict=True):
            if keyword >= 0:
                label(row[keyword], start, end, self.size.hop_samples, self.size.window)
        self.targets = torch.from_numpy(targets[..., : self.hops].copy())
        self.echoes = torch.from_numpy((targets[..., self.hops :] == IGNORED).sum(-1))

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Some windows as they are learnt from: (frames, another microphone and masks for each; targets)."""
        chosen = torch.from_numpy(indices)
        return augment.colour_and_mask(self.frames[chosen].float(), rng), self.targets[chosen]


class Making(Dataset):
    """Item k makes window `numbers[k]` and puts it in its place."""

    def __init__(self, windows: Windows, sources: Sources, numbers: np.ndarray):
        self.windows, self.sources, self.numbers = windows, sources, numbers
        self.features = LogMel()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, k: int) -> int:
        index, windows = int(self.numbers[k]), self.windows
        samples = windows.hops * windows.size.hop_samples
        audio, keyword, start, end = compose(self.sources, samples + TAIL, np.random.default_rng(index))
        whole = torch.from_numpy(audio).unsqueeze(0)
        frames, _ = self.features(whole[:, TAIL:], whole[:, :TAIL])
        windows.kept[index] = frames[0].numpy()
        windows.words[index] = [1, -1 if keyword is None else keyword, start - TAIL, end - TAIL]
        return index


def make(loader: DataLoader, n: int) -> None:
    """On one thread a process: with more, an FFT rounds otherwise, and windows would not be the same everywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tqdm(total=n, desc="making training windows", unit="window") as bar:
        for made in loader:
            bar.update(len(made))
    torch.set_num_threads(threads)


def keep(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    """An array on disk, zeros at first (a sparse file); it grows when a recipe wants more windows of the same kind.
    Raises DataError when the disk is too full for it."""
    bytes_wanted = int(np.prod(shape)) * np.dtype(kind).itemsize
    have = path.stat().st_blocks * 512 if path.exists() else 0
    free = shutil.disk_usage(path.parent).free
    if bytes_wanted - have > free:  # writing into a mapped file that the disk cannot hold would kill the process
        raise data.DataError(
            f"{path.parent}: needs {(bytes_wanted - have) / 1e9:.1f} GB for training windows, {free / 1e9:.1f} GB are "
            "free; make room, or set train.pool lower in the recipe"
        )
    with open(path, "ab") as file:
        if file.tell() < bytes_wanted:
            file.truncate(bytes_wanted)
    return np.memmap(path, kind, "r+", shape=shape)


def order(train: Schedule, epoch: int, alarm: np.ndarray) -> np.ndarray:
    """Which windows an epoch sees, (windows,): the pool in an order of its own for each seed and each pass through it;
    and, once all of it was seen, for a share of the epoch those that the model itself still takes for a keyword (hard
    negatives).

    alarm: (pool,) the highest score that each window's negative hops had when it was last seen, 0…1.
    """
    first, last = epoch * train.windows, (epoch + 1) * train.windows
    passes = range(first // train.pool, (last - 1) // train.pool + 1)
    orders = [np.random.default_rng([train.seed, number, 1]).permutation(train.pool) for number in passes]
    start = first - passes[0] * train.pool
    indices = np.concatenate(orders)[start : start + train.windows]
    if first >= train.pool:
        rng, weights = np.random.default_rng([train.seed, epoch]), alarm.astype(float)
        mined = rng.choice(train.pool, train.windows, p=weights / weights.sum())
        indices = np.where(rng.random(train.windows) < train.hard, mined, indices)
    return indices


def ignore_echoes(targets: torch.Tensor, echoes: torch.Tensor) -> torch.Tensor:
    """Targets (batch, keywords, hops) of windows that go on from others with these `echoes` (batch, keywords): what the
    model still remembers of a keyword there is no mistake."""
    early = torch.arange(targets.shape[-1], device=targets.device) < echoes.unsqueeze(-1)
    return targets.masked_fill(early & (targets == NEGATIVE), IGNORED)


def label(targets: np.ndarray, start: int, end: int, hop: int, window: int) -> None:
    """A word is spoken in samples start…end: it may be detected from three fifths of it on until 0.3 s after it, and
    its score may stay high until the attention has forgotten it; no event is expected or forbidden there."""
    ends = (np.arange(len(targets)) + 1) * hop
    targets[(ends > start + (end - start) * 0.4) & (ends < end + window * hop)] = IGNORED
    targets[(ends >= start + (end - start) * 0.6) & (ends <= end + 0.3 * SAMPLE_RATE)] = POSITIVE


def compose(sources: Sources, n: int, rng: np.random.Generator) -> tuple[np.ndarray, int | None, int, int]:
    """n samples of audio in −1…1, the keyword in it (None: none) and the samples where it starts and ends."""
    keyword, start, end = None, 0, 0
    if rng.random() < 0.5:
        keyword = int(rng.integers(len(sources.keywords)))
        clip = data.to_float(pick(sources.keywords[keyword], rng))
        if rng.random() < sources.how.splices:
            other = data.to_float(pick(sources.keywords[keyword], rng))
            clip = splice.two_in_one(clip, other, rng.uniform(0.3, 0.7))
        word, start, end = keyword_clip(clip, sources.how.speeds, rng, n)
        at = int(rng.integers(0, max(1, min(n - len(word), n - end - int(0.32 * SAMPLE_RATE)))))
        before = filler(sources, at, rng)
        if rng.random() < sources.how.pauses:
            silence_end(before, int(rng.uniform(0.15, 0.8) * SAMPLE_RATE))
        after = filler(sources, n - at - len(word), rng)
        speech, start, end = np.concatenate([before, word, after]), start + at, end + at
    else:
        speech = filler(sources, n, rng)
    if rng.random() < 0.6 and sources.rooms:
        speech = augment.in_room(speech, pick(sources.rooms, rng))
    if rng.random() < 0.25:  # as old recordings and telephones do; speech from packages often is so
        speech = augment.band_limited(speech, rng.uniform(3500, 7000))
    if rng.random() < sources.how.worn:
        speech = augment.worn(speech, rng)
    audio = speech + background(sources, n, rng)
    audio *= decibels(rng.uniform(*sources.how.levels))
    if rng.random() < sources.how.muted:  # a microphone is switched on, a file begins
        muted = start - int(rng.uniform(0, 0.4) * SAMPLE_RATE) if keyword is not None else int(rng.integers(n))
        audio[: max(0, muted)] = 0
    audio = np.round(np.clip(audio, -1, 1) * 32767) / 32768  # loud audio clips, quiet audio has few bits
    return audio.astype(np.float32), keyword, start, end


def pick(items: list[Item], rng: np.random.Generator) -> Item:
    return items[int(rng.integers(len(items)))]


def keyword_clip(
    clip: np.ndarray, speeds: tuple[float, float], rng: np.random.Generator, n: int
) -> tuple[np.ndarray, int, int]:
    """A keyword, float32, with a little of what is around it, at unit level, and where it stands in that."""
    word = at_unit_level(clip, speeds, rng)
    start, end = data.spoken_part(word)
    left = max(0, start - int(rng.uniform(0.02, 0.3) * SAMPLE_RATE))
    right = min(len(word), end + int(rng.uniform(0.02, 0.3) * SAMPLE_RATE))
    right = min(right, left + n // 2)
    return augment.fade(word[left:right]), start - left, min(end, right) - left


def nearly(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """Half of a keyword, and for its other half something else that people say, at unit level: so rhythm and one
    syllable are not enough. For "happy" half of "off" and "-py", which is nearly "coffee"."""
    word = at_level(data.to_float(pick(pick(sources.keywords, rng), rng)), rng)
    start, end = data.spoken_part(word)
    other = at_level(said(sources, rng), rng)
    begin, stop = data.spoken_part(other)
    pause = np.zeros(int(rng.uniform(0, 0.06) * SAMPLE_RATE) if rng.random() < 0.5 else 0, np.float32)  # as of a stop
    if rng.random() < 0.6:
        first = other[begin : stop - int(rng.uniform(0, 0.5) * (stop - begin))]
        second = word[start + int(rng.uniform(0.4, 0.65) * (end - start)) : end + 800]
    else:
        first = word[start : start + int(rng.uniform(0.35, 0.55) * (end - start))]
        second = other[begin + int(rng.uniform(0, 0.5) * (stop - begin)) : stop]
    return splice.join(np.concatenate([first, pause]), second)


def said(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """Another word, or a syllable or two of running speech."""
    if rng.random() < 0.5 or not sources.speech:
        return data.to_float(pick(sources.words, rng))
    return data.to_float(stretch(pick(sources.speech, rng), int(rng.uniform(0.2, 0.5) * SAMPLE_RATE), rng))


def at_unit_level(audio: np.ndarray, speeds: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Speech at level 1 ± 4 dB, at a speed of its own every other time."""
    if rng.random() < 0.6:
        audio = augment.change_speed(audio, rng.uniform(*speeds))
    return at_level(audio, rng)


def at_level(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech at level 1 ± 4 dB."""
    return audio * (decibels(rng.uniform(-4, 4)) / max(data.speech_level(audio), 1e-4))


def filler(sources: Sources, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples without the keyword: pauses, other words, running speech, pieces of the keyword itself."""
    if n <= 0:
        return np.zeros(0, np.float32)
    bursts = sources.loud and rng.random() < sources.how.bursts
    if not bursts and rng.random() < 0.25:
        return np.zeros(n, np.float32)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < n:
        kind = rng.random()
        if bursts and kind < 0.7:
            piece = burst(sources, rng)
        elif rng.random() < 0.4 * sources.how.splices:  # there are several pieces in a window, and half a keyword
            piece = augment.fade(at_unit_level(nearly(sources, rng), sources.how.speeds, rng))
        elif kind < 0.1:
            piece = data.to_float(pick(pick(sources.keywords, rng), rng))
            piece = augment.cut_short(at_unit_level(piece, sources.how.speeds, rng), rng)
        elif kind < 0.35 or not sources.speech + sources.synthetic:
            piece = augment.fade(at_unit_level(data.to_float(pick(sources.words, rng)), sources.how.speeds, rng))
        else:
            synthetic = sources.synthetic and (kind < 0.6 or not sources.speech)
            piece = pick(sources.synthetic if synthetic else sources.speech, rng)
            at = int(rng.integers(0, max(1, len(piece) - SAMPLE_RATE)))  # of all that was ever said, a moment
            piece = data.to_float(piece[at : at + int(rng.uniform(0.4, 3.0) * SAMPLE_RATE)])
            piece = augment.fade(at_unit_level(piece, sources.how.speeds, rng))
        pieces += [piece, np.zeros(int(rng.exponential(0.15) * SAMPLE_RATE), np.float32)]
    track = np.concatenate(pieces)
    at = int(rng.integers(0, len(track) - n + 1))
    return track[at : at + n]


def burst(sources: Sources, rng: np.random.Generator) -> np.ndarray:
    """A loud sound that is no speech, up to 12 dB above it; every other one begins and ends abruptly."""
    sound = stretch(pick(sources.loud, rng), int(rng.uniform(0.05, 3) * SAMPLE_RATE), rng)
    sound = at_level(data.to_float(sound), rng) * decibels(rng.uniform(-6, 12))
    return sound if rng.random() < 0.5 else augment.fade(sound)


def silence_end(audio: np.ndarray, samples: int) -> None:
    """Nothing is said in the last so many samples; 5 ms of fade before them."""
    end, fade = max(0, len(audio) - samples), 80
    audio[end:] = 0
    if end > fade:
        audio[end - fade : end] *= np.linspace(1, 0, fade, dtype=np.float32)


def background(sources: Sources, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples of what sounds besides the talker, relative to speech of level 1: noises, babble, the room's hum."""
    noise: np.ndarray = np.zeros(n, np.float32)
    kinds = []
    if rng.random() < 0.75 and sources.noise:
        recorded = sources.loud if sources.loud and rng.random() < 0.2 else sources.noise
        kinds.append(data.to_float(stretch(pick(recorded, rng), n, rng)))
    if rng.random() < 0.2 and sources.noise:
        kinds.append(data.to_float(stretch(pick(sources.noise, rng), n, rng)))
    if rng.random() < 0.15 and sources.speech:
        kinds.append(sum((data.to_float(stretch(pick(sources.speech, rng), n, rng)) for _ in range(4)), noise))
    if rng.random() < 0.3:
        kinds.append(stretch(pick(sources.hums, rng), n, rng))
    for kind in kinds:
        level = float(np.sqrt(np.square(kind).mean()))
        noise = noise + kind * (decibels(-noise_ratio(rng)) / max(level, 1e-5))
    if rng.random() < 0.9:  # else digital silence between the words
        noise = noise + stretch(pick(sources.hums, rng), n, rng) * decibels(-rng.uniform(25, 65))
    return noise


def noise_ratio(rng: np.random.Generator) -> float:
    """Signal to noise in dB: −4…36, half of all below 10, as it is there that much is to be learnt."""
    return -4 + 40 * rng.random() ** 1.5


def stretch(audio: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n samples from anywhere in a recording that is taken as a circle."""
    at = int(rng.integers(len(audio)))
    return audio[at : at + n] if at + n <= len(audio) else np.resize(np.roll(audio, -at), n)

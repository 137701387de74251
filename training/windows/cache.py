"""Training windows on disk and in memory.

Making a window costs ten times what learning from it costs. So each is made once, and its features are kept below
runs/windows/ for all epochs, seeds and recipes; a microphone's frequency response and masks are drawn anew each time.
"""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from training.data import recordings as data
from training.model.features import FRAME_STEP, N_MELS, TAIL, LogMel
from training.recipe import Composition, Recipe, Schedule
from training.windows import augment
from training.windows.compose import compose
from training.windows.sources import Sources, find, read
from training.windows.targets import IGNORED, label

VERSION = 11  # raise it when windows come out differently: what is kept of older ones is then left alone


class Windows:
    """All windows of a recipe: `frames` (pool, hops · frames per hop, 40) in half precision, `targets` (pool, keywords,
    hops), NEGATIVE, POSITIVE or IGNORED, and `echoes` (pool, keywords): hops of whatever comes after a window in which
    its keyword is still remembered."""

    def __init__(self, base: Path, recipe: Recipe, workers: int, folder: Path = Path("runs/windows")):
        """Raises DataError where recordings are missing or the disk is too small."""
        self.size, self.hops, self.clips = recipe.model, recipe.train.hops, find(base, recipe)
        pool = recipe.train.pool
        kind = [VERSION, self.hops, self.size.hop_samples, recipe.data.keywords, recipe.data.rooms]
        key = json.dumps([kind, asdict(recipe.windows), self.clips.names()])
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        n_frames = self.hops * self.size.hop_samples // FRAME_STEP
        self.path = folder / f"{name}.frames"
        self.kept = keep(self.path, np.float16, (pool, n_frames, N_MELS))
        self.words = keep(folder / f"{name}.words", np.int32, (pool, 4))  # 1 once made, keyword or -1, start, end
        missing = np.flatnonzero(self.words[:, 0] == 0)
        if len(missing):
            making = Making(self, read(self.clips, recipe.data.rooms), recipe.windows, missing)
            make(DataLoader(making, 64, num_workers=workers), len(missing))
        self.frames = torch.from_numpy(np.array(self.kept))  # from disk, single windows come a hundred times slower
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

    def __init__(self, windows: Windows, sources: Sources, how: Composition, numbers: np.ndarray):
        self.windows, self.sources, self.how, self.numbers = windows, sources, how, numbers
        self.features = LogMel()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, k: int) -> int:
        index, windows = int(self.numbers[k]), self.windows
        samples = windows.hops * windows.size.hop_samples
        window = compose(self.sources, self.how, samples + TAIL, np.random.default_rng(index))
        audio = torch.from_numpy(window.audio).unsqueeze(0)
        frames, _ = self.features(audio[:, TAIL:], audio[:, :TAIL])
        windows.kept[index] = frames[0].numpy()
        keyword = -1 if window.keyword is None else window.keyword
        windows.words[index] = [1, keyword, window.start - TAIL, window.end - TAIL]
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


def order(train: Schedule, epoch: int) -> np.ndarray:
    """Which windows an epoch sees, (windows,): the pool in an order of its own for each seed and pass through it."""
    first, last = epoch * train.windows, (epoch + 1) * train.windows
    passes = range(first // train.pool, (last - 1) // train.pool + 1)
    orders = [np.random.default_rng([train.seed, number, 1]).permutation(train.pool) for number in passes]
    start = first - passes[0] * train.pool
    return np.concatenate(orders)[start : start + train.windows]

"""Dark knowledge: what a student may learn from teachers besides the labels.

An ensemble errs less than its members, above all where it matters here: what one of them takes for the keyword in hours
of talk, the others seldom do. Teachers hear each training window once, as it was recorded; students hear it in other
voices, through other microphones and with holes (Xie et al. 2020, "Self-training with Noisy Student").
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from training.model import checkpoint
from training.model.crnn import CRNN, log_odds
from training.windows.cache import Windows

BATCH = 256


def distillation_loss(log_odds: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Hinton et al. 2015, "Distilling the Knowledge in a Neural Network": cross-entropy of the student's softened
    probabilities with the teacher's, times the squared temperature, mean over hops. Two classes for each keyword, so
    softmax of the logits is the sigmoid of the log-odds.

    log_odds, taught: (batch, keywords, hops).
    """
    wanted = torch.sigmoid(taught / temperature)
    return F.binary_cross_entropy_with_logits(log_odds / temperature, wanted) * temperature**2


def attention_loss(energies: Tensor, taught: Tensor, window: int) -> Tensor:
    """Kullback-Leibler divergence of the student's attention from the teacher's, mean over hops: where to listen (Wang
    et al. 2020, "MiniLM", which distils the attention of transformers so).

    energies, taught: (batch, hops) at the same time steps, whence both must have the same hop. Attention is their
    softmax over the last `window` hops, so every stretch of that many hops is compared, as it is when streaming.
    """
    window = min(window, energies.shape[1])
    student, teacher = (e.unfold(1, window, 1).log_softmax(-1).flatten(0, 1) for e in (energies, taught))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class Taught(NamedTuple):
    """What teachers say of every window of a pool."""

    log_odds: Tensor  # (pool, keywords, hops)
    energies: Tensor  # (pool, hops) of the attention


@torch.no_grad()
def hear(model: CRNN, dataset: Windows) -> Tensor:
    """A teacher's log-odds and energies of every window, each from zero state: (pool, keywords + 1, hops)."""
    parts = []
    for frames in tqdm(dataset.frames.split(BATCH), desc="the teacher listens", unit="batch"):
        output, _ = model.classify(frames.float(), model.zero_state(len(frames)))
        parts.append(torch.cat([log_odds(output.logits), output.energies.unsqueeze(-1)], dim=-1).transpose(1, 2))
    return torch.cat(parts)


def teach(teachers: list[Path], dataset: Windows) -> Taught:
    """Mean of several teachers' log-odds, averaged over hops as when they listen, and of their energies: the geometric
    mean of their attentions, but for its norm. What a teacher said is kept for others."""
    said = []
    for folder in teachers:
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
        path = dataset.path.with_suffix(f".{digest}-{len(dataset.frames)}.heard.npy")  # a pool may grow
        if not path.exists():
            heard = hear(checkpoint.load(folder)[0], dataset).numpy().astype(np.float16)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, heard)
            partial.replace(path)
        said.append(torch.from_numpy(np.load(path)).float())
    mean = torch.stack(said).mean(0)
    return Taught(mean[:, :-1], mean[:, -1])

"""Distillation: a student learns from the outputs of trained teachers, besides the labels.

The mean of several teachers errs less than each of them, above all in false accepts. Teachers process each training
window once, unchanged; students get it through other microphones and with masks (Xie et al. 2020, "Self-training with
Noisy Student").
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
from training.recipe import Distill
from training.windows.cache import Windows

BATCH = 256


class Outputs(NamedTuple):
    """A teacher's, or the mean of several, for every window of a pool."""

    log_odds: Tensor  # (pool, keywords, hops)
    energies: Tensor  # (pool, hops) of the attention


class Distillation:
    """The losses of a recipe's [distill]; without teachers there are none."""

    def __init__(self, how: Distill, teachers: list[Path], windows: Windows):
        self.how, self.window = how, windows.size.window
        self.outputs = mean_outputs(teachers, windows) if teachers else None

    def losses(self, odds: Tensor, energies: Tensor, numbers: np.ndarray) -> list[Tensor]:
        """Weighted losses of a student. odds: (members · rows, keywords, hops); energies: (members · rows, hops);
        numbers: (rows,) of the windows."""
        if self.outputs is None:
            return []
        members = len(odds) // len(numbers)
        teacher = Outputs(*(torch.cat([tensor[numbers]] * members).to(odds.device) for tensor in self.outputs))
        terms = [self.how.weight * distillation_loss(odds, teacher.log_odds, self.how.temperature)]
        if self.how.attention:
            terms.append(self.how.attention * attention_loss(energies, teacher.energies, self.window))
        return terms


def distillation_loss(log_odds: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton et al. 2015, "Distilling the Knowledge in a Neural Network": cross-entropy of the student's softened
    probabilities with the teacher's, times the squared temperature, mean over hops. Two classes for each keyword, so
    softmax of the logits is the sigmoid of the log-odds.

    log_odds, teacher: (batch, keywords, hops).
    """
    soft_targets = torch.sigmoid(teacher / temperature)
    return F.binary_cross_entropy_with_logits(log_odds / temperature, soft_targets) * temperature**2


def attention_loss(energies: Tensor, teacher: Tensor, window: int) -> Tensor:
    """Kullback-Leibler divergence of the student's attention from the teacher's, mean over hops (Wang et al. 2020,
    "MiniLM", which distils the attention of transformers).

    energies, teacher: (batch, hops) of the same time steps, so both models need the same hop. Attention is the softmax
    of energies over the last `window` hops; every excerpt of that many hops is compared, as when streaming.
    """
    window = min(window, energies.shape[1])
    student, target = (e.unfold(1, window, 1).log_softmax(-1).flatten(0, 1) for e in (energies, teacher))
    return F.kl_div(student, target, reduction="batchmean", log_target=True)


@torch.no_grad()
def outputs_of(model: CRNN, windows: Windows) -> Tensor:
    """A teacher's log-odds and energies for every window, each from the zero state: (pool, keywords + 1, hops)."""
    parts = []
    for frames in tqdm(windows.frames.split(BATCH), desc="running the teacher", unit="batch"):
        output, _ = model.classify(frames.float(), model.zero_state(len(frames)))
        parts.append(torch.cat([log_odds(output.logits), output.energies.unsqueeze(-1)], dim=-1).transpose(1, 2))
    return torch.cat(parts)


def mean_outputs(teachers: list[Path], windows: Windows) -> Outputs:
    """Mean of the teachers' log-odds, each with its own smoothing, and of their energies: the geometric mean of their
    attentions up to a factor. Outputs are kept beside the windows, for other students."""
    outputs = []
    for folder in teachers:
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
        path = windows.path.with_suffix(f".{digest}-{len(windows.frames)}.heard.npy")  # a pool may grow
        if not path.exists():
            partial = path.with_suffix(".partial.npy")
            np.save(partial, outputs_of(checkpoint.load(folder)[0], windows).numpy().astype(np.float16))
            partial.replace(path)
        outputs.append(torch.from_numpy(np.load(path)).float())
    mean = torch.stack(outputs).mean(0)
    return Outputs(mean[:, :-1], mean[:, -1])

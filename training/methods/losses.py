"""Losses on streamed scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training import processes
from training.windows.targets import NEGATIVE, POSITIVE


def pooled(log_odds: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen hops' log-odds, weighted by their own softmax: near their maximum, yet every hop learns.

    log_odds: (…, hops); chosen: the same shape, bool. Gives (…); 0 where none is chosen.
    """
    weight = torch.softmax(log_odds.masked_fill(~chosen, -1e4), dim=-1) * chosen
    return (weight * log_odds).sum(-1)


CALM = 1e-3  # weight of the mean squared energy


def streaming_loss(log_odds: Tensor, energies: Tensor, targets: Tensor) -> Tensor:
    """Max-pooling loss over the keyword's end (Sun et al. 2016, "Max-pooling loss training of long short-term memory
    networks for small-footprint keyword spotting"), with soft maxima, and its mirror over everything else.

    A window in which the keyword ends wants a high score somewhere in its POSITIVE hops. The NEGATIVE hops of every
    window want their highest score low, and all of them on average. Left alone, the attention's energies grow without
    end, as a late hop that has heard more should always outweigh earlier ones; a small price on their square keeps
    exp(energy) far from what float32 can hold.
    log_odds, targets: (batch, keywords, hops); energies: (batch, hops).
    """
    positive, negative = targets == POSITIVE, targets == NEGATIVE
    spoken, quiet = positive.any(-1), negative.any(-1)
    hit = F.softplus(-pooled(log_odds, positive)) * spoken
    alarm = F.softplus(pooled(log_odds, negative)) * quiet
    every = F.softplus(log_odds) * negative
    counts = processes.mean(torch.stack([mask.sum() for mask in (spoken, quiet, negative)])).clamp(min=1e-6)
    sums = torch.stack([values.sum() for values in (hit, alarm, every)])  # 0 where its count is 0
    return (sums / counts).sum() + CALM * energies.square().mean()

"""The loss on labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from training import distributed
from training.windows.targets import NEGATIVE, POSITIVE

ENERGY_WEIGHT = 1e-3  # of the mean squared energy


def pooled(log_odds: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen hops' log-odds, weighted by their softmax: close to the maximum, with a gradient in every hop.

    log_odds: (…, hops); chosen: the same shape, bool. Gives (…); 0 where none is chosen.
    """
    weight = torch.softmax(log_odds.masked_fill(~chosen, -1e4), dim=-1) * chosen
    return (weight * log_odds).sum(-1)


def streaming_loss(log_odds: Tensor, energies: Tensor, targets: Tensor) -> Tensor:
    """Max-pooling loss over the keyword's end (Sun et al. 2016, "Max-pooling loss training of long short-term memory
    networks for small-footprint keyword spotting"), with soft maxima, and its mirror over everything else.

    In a window in which the keyword ends, some POSITIVE hop must score high. In every window the highest of the
    NEGATIVE hops must score low, and so must their mean. Without a limit the attention's energies grow in each hop, as
    a later hop knows more than an earlier one; a small weight on their square keeps exp(energy) in float32's range.
    log_odds, targets: (batch, keywords, hops); energies: (batch, hops).
    """
    positive, negative = targets == POSITIVE, targets == NEGATIVE
    has_keyword, has_other = positive.any(-1), negative.any(-1)
    miss = F.softplus(-pooled(log_odds, positive)) * has_keyword
    false_accept = F.softplus(pooled(log_odds, negative)) * has_other
    every = F.softplus(log_odds) * negative
    counts = torch.stack([mask.sum() for mask in (has_keyword, has_other, negative)])
    counts = distributed.mean(counts).clamp(min=1e-6)  # all processes divide by the same
    sums = torch.stack([values.sum() for values in (miss, false_accept, every)])  # 0 where its count is 0
    return (sums / counts).sum() + ENERGY_WEIGHT * energies.square().mean()

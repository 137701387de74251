"""Exponential moving average of weights (Polyak & Juditsky 1992, "Acceleration of stochastic approximation by
averaging")."""

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model's weights after training step `step`, from 0. The decay is lower in the first
    steps, when the weights are still random; buffers are copied."""
    decay = min(decay, (step + 1) / 100)
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new.to(kept.device), 1 - decay)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)

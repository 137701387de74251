"""Exponential moving average of weights (after Polyak & Juditsky 1992, "Acceleration of stochastic approximation by
averaging")."""

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model's weights after training step `step`, from 0. The decay is lower in the first
    steps, when the weights are still random; buffers are copied."""
    decay = min(decay, (step + 1) / 100)
    for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(weight.to(mean.device), 1 - decay)
    for copy, buffer in zip(average.buffers(), model.buffers(), strict=True):
        copy.copy_(buffer)

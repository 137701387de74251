"""The model family: one streaming CRNN with attention; its sizes are data (`[model]` in a recipe).

Convolution over mel × time, a GRU, attention over the last W hops, a linear classifier. With the default sizes it is
the CRNN of the student projects kws_project and kws-hw (70 443 parameters; after Arik et al. 2017, "Convolutional
Recurrent Neural Networks for Small-Footprint Keyword Spotting", and Shan et al. 2018, "Attention-based End-to-End
Models for Small-Footprint Keyword Spotting"), and its parameters have the names of their state dicts.

Smaller models have a second convolution. It mixes each channel's outputs for all bands and for the steps within a hop
into a few columns. Both convolutions are then rectified, and normalised in training (Ioffe & Szegedy 2015, "Batch
normalization"); `folded` moves the normalisation into their weights before a model is kept.

Two properties make streaming cheap. The classifier is linear, so it commutes with the attention's average: the state
holds the attention weight and the weighted class values of a hop, not its hidden vector. The energies are bounded, as
v·tanh(…) is, so softmax needs no maximum subtracted, and an empty slot of the ring is a weight of zero.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.features import FRAME_STEP, N_MELS, TAIL, LogMel

EMPTY = 1e-30  # least sum of attention weights; in an empty ring it is zero


@dataclass(frozen=True)
class Size:
    """Everything that decides the shape of a model."""

    channels: int = 8  # of the convolution
    kernel: tuple[int, int] = (5, 20)  # mel × frames
    stride: tuple[int, int] = (2, 8)  # mel × frames; the second, times the steps below, is the hop: 8 frames are 80 ms
    mix: tuple[int, int] = (0, 1)  # second convolution: columns for each channel, from so many steps; 0: there is none
    hidden: int = 64  # units of each GRU layer
    layers: int = 2
    window: int = 16  # hops that the attention sees: 16 × 80 ms = 1.28 s
    smoothing: int = 1  # hops over which log-odds are averaged, except in training
    # 0, the default of recipes: validation chooses; it counts as 1 until then
    members: int = 1  # networks of this size whose log-odds are averaged: see ensemble.py
    keywords: int = 1
    centre: float = 12.0  # the convolution reads (frames - centre) / scale
    scale: float = 6.0

    @property
    def hop_samples(self) -> int:
        return self.hop_frames * FRAME_STEP

    @property
    def hop_frames(self) -> int:
        return self.stride[1] * self.mix[1]

    @property
    def context(self) -> int:
        """Frames before a hop that the convolution still needs."""
        return max(0, self.kernel[1] - self.stride[1])

    @property
    def ring(self) -> int:
        """Hops before the present one that the attention and the average still need."""
        return self.window - 1 + self.averaged - 1

    @property
    def averaged(self) -> int:
        return max(1, self.smoothing)

    @property
    def columns(self) -> int:
        """Inputs of the GRU for a hop."""
        return self.channels * (self.mix[0] or self.bands)

    @property
    def bands(self) -> int:
        """Outputs of the convolution along the mel axis."""
        return (N_MELS - self.kernel[0]) // self.stride[0] + 1


class State(NamedTuple):
    """The memory of a stream between two calls; zeros at its start."""

    tail: Tensor  # (batch, 240) audio
    context: Tensor  # (batch, context, 40) log-mel frames above the floor
    hidden: Tensor  # (members · layers, batch, hidden) of the GRU
    ring: Tensor  # (batch, size.ring, members · (1 + classes)): attention weight, weight × class values, of each hop


class Attention(nn.Module):
    """Energy v·tanh(W h + b) of a hop: Bahdanau et al. 2015 without the query."""

    def __init__(self, hidden: int):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden) → energies (…, 1)"""
        return self.energy(hidden)


class Output(NamedTuple):
    """The outputs of the model for each hop."""

    logits: Tensor  # (batch, hops, 1 + keywords): "none of them", then each keyword
    energies: Tensor  # (batch, hops) of the attention, for attention distillation
    hidden: Tensor  # (batch, hops, hidden) of the last GRU layer


class CRNN(nn.Module):
    def __init__(self, size: Size, dropout: float = 0.1, normalised: bool = False):
        """normalised: with batch normalisation, for training; see `folded`."""
        super().__init__()
        self.size = size
        self.features = LogMel()
        self.conv = nn.Sequential(nn.Conv2d(1, size.channels, size.kernel, size.stride))
        if size.mix[0]:
            over = size.bands, size.mix[1]
            self.conv += rectified(size.channels, normalised)
            self.conv.append(nn.Conv2d(size.channels, size.columns, over, (1, over[1]), groups=size.channels))
            self.conv += rectified(size.columns, normalised)
        self.gru = nn.GRU(
            size.columns,
            size.hidden,
            size.layers,
            batch_first=True,
            dropout=dropout if size.layers > 1 else 0.0,
        )
        self.attention = Attention(size.hidden)
        self.classifier = nn.Linear(size.hidden, 1 + size.keywords)

    def zero_state(self, batch: int = 1) -> State:
        size, like = self.size, next(self.parameters())
        return State(
            like.new_zeros(batch, TAIL),
            like.new_zeros(batch, size.context, N_MELS),
            like.new_zeros(size.members * size.layers, batch, size.hidden),
            like.new_zeros(batch, size.ring, size.members * (2 + size.keywords)),
        )

    def forward(self, audio: Tensor, state: State) -> tuple[Output, State]:
        """audio: (batch, hops · hop_samples), 16 kHz, −1…1. One call over a recording gives the same as calls over its
        parts, each with the state that the call before it returned."""
        frames, tail = self.features(audio, state.tail)
        output, (context, hidden, ring) = self.classify(frames, state)
        return output, State(tail, context, hidden, ring)

    def classify(self, frames: Tensor, state: State) -> tuple[Output, tuple[Tensor, Tensor, Tensor]]:
        """The network proper, without its front end. frames: (batch, hops · frames per hop, 40)."""
        size = self.size
        frames = torch.cat([state.context, frames], dim=1)
        context = frames[:, frames.shape[1] - size.context :]
        frames = frames[:, max(0, size.stride[1] - size.kernel[1]) :]  # a kernel shorter than a hop reads its end
        columns = self.convolve(frames)
        hidden, memory = self.recur(columns, state.hidden)
        energies = self.energies(hidden)
        weight = energies.exp()
        ring = torch.cat([state.ring, torch.cat([weight, weight * self.votes(hidden)], dim=2)], dim=1)
        sums = ring.unfold(1, size.window, 1).sum(-1)  # over the last W hops, of these hops and the few before them
        means = sums / sums[..., :1].clamp(min=EMPTY)  # 1, then the votes; all 0 before the stream began
        # Trained without smoothing, models are better with it than if they are trained with it.
        means = means[:, size.averaged - 1 :] if self.training else means.unfold(1, size.averaged, 1).sum(-1)
        logits = means[..., 1:] / means[..., :1] + self.classifier.bias
        return Output(logits, energies[..., 0], hidden), (context, memory, ring[:, ring.shape[1] - size.ring :])

    # Overridden by QuantizedCRNN:

    def convolve(self, frames: Tensor) -> Tensor:
        """(batch, frames, 40) → (batch, hops, columns). The kernels are transposed: frames are larger."""
        columns = ((frames - self.size.centre) / self.size.scale).unsqueeze(1)
        for layer in self.conv.children():
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                columns = F.conv2d(columns, layer.weight.transpose(2, 3), layer.bias, layer.stride[::-1])
            elif isinstance(layer, nn.Conv2d):  # its steps do not overlap: a product, which is faster
                inputs = columns.unflatten(2, (-1, self.size.mix[1])).flatten(3)
                weights = layer.weight.transpose(2, 3).reshape(layer.groups, -1, inputs.shape[3])
                columns = torch.einsum("bchk,cok->bcoh", inputs, weights).flatten(1, 2).unsqueeze(-1)
                assert layer.bias is not None
                columns = columns + layer.bias.view(-1, 1, 1)
            else:
                columns = layer(columns)
        return columns.transpose(1, 2).flatten(2)

    def recur(self, columns: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, hops, columns), (layers, batch, hidden) → (batch, hops, hidden), the next hidden."""
        return self.gru(columns, hidden)

    def energies(self, hidden: Tensor) -> Tensor:
        """(batch, hops, hidden) → (batch, hops, 1)"""
        return self.attention(hidden)

    def votes(self, hidden: Tensor) -> Tensor:
        """Class values of single hops, without the bias: (…, hidden) → (…, 1 + keywords)."""
        return hidden @ self.classifier.weight.T


def rectified(channels: int, normalised: bool) -> nn.Sequential:
    """The layers between two convolutions, and after the second."""
    return nn.Sequential(nn.BatchNorm2d(channels) if normalised else nn.Identity(), nn.ReLU())


def log_odds(logits: Tensor) -> Tensor:
    """Class logits (…, 1 + keywords) → each keyword against "none of them" (…, keywords).

    Their sigmoids are the scores. For one keyword that is the softmax of the two classes.
    """
    return logits[..., 1:] - logits[..., :1]


def n_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())

"""One hop of a trained CRNN as a function without memory: `audio, *states → score, *next states`.

This is what a bundle holds, in every form. It computes what `training.model.crnn.CRNN` computes, arranged for a device
that is handed one hop at a time: a batch of one, static shapes, few operations (at this size the time goes to graph
nodes, not to arithmetic), and matrix products that onnxruntime can quantize (it has no int8 GRU). Constants are folded
where that is exact up to rounding: the convolution's centre and scale, the mel floor, the GRU's two biases, and the
difference between each keyword's class and "none of them", which is all that a score needs.

Every state starts as zeros: no audio, no sound above the floor, a GRU at rest, and attention weights of zero.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.step.front_end import FrontEnd
from training.model.crnn import CRNN, EMPTY, Size, log_odds
from training.model.ensemble import networks
from training.model.features import N_MELS, TAIL


class Step(nn.Module):
    """`(audio, *states) -> (score, *next)`; `state_shapes` names the states in order."""

    windows: Tensor

    def __init__(self, model: CRNN, precision: torch.dtype = torch.float32):
        """model: a trained CRNN; its weights are copied. precision: see FrontEnd."""
        super().__init__()
        self.size = model.size
        self.state_shapes = state_shapes(model.size)
        self.front_end = FrontEnd(model.size, precision)
        self.members = nn.ModuleList(Member(network) for network in networks(model))
        self.register_buffer("windows", windows_of(model.size))
        self.eval().requires_grad_(False)

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """audio: (1, hop_samples), 16 kHz, −1…1; states: as `state_shapes` → score (1, keywords), next states.

        The end of a tensor is taken by split, not by a slice: onnxruntime's Slice costs twice its Split.
        """
        before = dict(zip(self.state_shapes, states, strict=True))
        after: dict[str, Tensor] = {}
        samples = torch.cat([before["tail"], audio], dim=1)
        _, after["tail"] = samples.split([self.size.hop_samples, TAIL], dim=1)
        frames = self.front_end(samples)
        if "context" in before:
            frames = torch.cat([before["context"], frames], dim=0)
            _, after["context"] = frames.split([self.size.hop_frames, self.size.context])
        frames, of_members = frames.reshape(1, 1, *frames.shape), []
        for number, member in enumerate(self.members):
            names = [f"hidden_{number * self.size.layers + layer}" for layer in range(self.size.layers)]
            vote, *hidden = member(frames, *(before[name] for name in names))
            of_members.append(vote)
            after |= zip(names, hidden, strict=True)
        votes = torch.cat(of_members, dim=1) if self.size.members > 1 else of_members[0]
        if "ring" in before:
            ring = torch.cat([before["ring"], votes], dim=0)
            _, after["ring"] = ring.split([1, self.size.ring])
            votes = self.windows @ ring
        if self.size.members > 1:
            votes = votes.reshape(-1, 1 + self.size.keywords)
        total, odds = votes.split([1, self.size.keywords], dim=1)
        if self.size.members * self.size.averaged > 1:  # of members and of hops; dividing makes their weights 1, or 0
            votes = (votes / total.clamp(min=EMPTY)).sum(dim=0, keepdim=True)
            total, odds = votes.split([1, self.size.keywords], dim=1)
        return torch.sigmoid(odds / total), *(after[name] for name in self.state_shapes)

    def zeros(self) -> list[Tensor]:
        """The states at the start of a stream."""
        return [torch.zeros(shape) for shape in self.state_shapes.values()]


class Member(nn.Module):
    """A network of the model, without the front end and the sums over hops, which all share."""

    def __init__(self, network: CRNN):
        super().__init__()
        self.conv = convolutions(network)
        self.cells = nn.ModuleList(Cell(network.gru, layer) for layer in range(network.size.layers))
        first, _, second = network.attention.energy
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        self.attend = affine(first.weight, first.bias)
        self.energy = affine(second.weight, torch.zeros(1))  # a constant cancels in the softmax: no bias
        self.votes = folded_classifier(network)

    def forward(self, frames: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        """frames: (1, 1, kernel's frames, 40); hidden: of each layer (1, units) → the hop's vote (1, 1 + keywords):
        the attention's weight, then the weighted log-odds; and the next hidden states."""
        x, after = self.conv(frames), []
        for cell, before in zip(self.cells, hidden, strict=True):
            x = cell(x, before)
            after.append(x)
        weight = self.energy(torch.tanh(self.attend(x))).exp()
        return weight * self.votes(x), *after


class Cell(nn.Module):
    """One step of a GRU layer, written out (Cho et al. 2014, in the arrangement of `torch.nn.GRU`): one product of the
    input and one of the hidden state, each with a constant bias, which onnxruntime turns into one QGemm each."""

    def __init__(self, gru: nn.GRU, layer: int):
        super().__init__()
        self.units = gru.hidden_size
        self.of_input = affine(getattr(gru, f"weight_ih_l{layer}"), getattr(gru, f"bias_ih_l{layer}"))
        self.of_hidden = affine(getattr(gru, f"weight_hh_l{layer}"), getattr(gru, f"bias_hh_l{layer}"))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x: (1, inputs); hidden: (1, units) → the next hidden (1, units)."""
        gates, candidate = self.of_input(x).split([2 * self.units, self.units], dim=1)
        inner_gates, inner_candidate = self.of_hidden(hidden).split([2 * self.units, self.units], dim=1)
        reset, update = torch.sigmoid(gates + inner_gates).chunk(2, dim=1)
        candidate = torch.tanh(candidate + reset * inner_candidate)
        return candidate + update * (hidden - candidate)


class Affine(nn.Module):
    """x @ weight + bias, with the weight as inputs × outputs: as ONNX's MatMul and its quantizer take it."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def affine(weight: Tensor, bias: Tensor) -> Affine:
    """weight: (outputs, inputs) as torch keeps it; bias: (outputs,)."""
    return Affine(weight.detach().T.clone(), bias.detach().clone())


class Convolutions(nn.Module):
    """Time × mel convolution over exactly one hop's worth of frames, and the second one if there is one."""

    weight: Tensor
    bias: Tensor
    mix_weight: Tensor
    mix_bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: tuple[int, int], mix: nn.Conv2d | None):
        super().__init__()
        self.stride, self.mixes = stride, mix is not None
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        if mix is not None and mix.bias is not None:
            self.register_buffer("mix_weight", mix.weight.detach().transpose(2, 3).contiguous())
            self.register_buffer("mix_bias", mix.bias.detach().clone())

    def forward(self, frames: Tensor) -> Tensor:
        """frames: (1, 1, kernel's frames, 40) → (1, columns), channel by channel."""
        x = functional.conv2d(frames, self.weight, self.bias, stride=self.stride)
        if self.mixes:
            x = functional.relu(x)
            x = functional.relu(functional.conv2d(x, self.mix_weight, self.mix_bias, groups=x.shape[1]))
        return x.flatten(1)


def convolutions(model: CRNN) -> Convolutions:
    """conv((x − centre) / scale) as a convolution of x itself, kernel turned to time × mel: frames lie row by row."""
    size, layers = model.size, [layer for layer in model.conv if isinstance(layer, nn.Conv2d)]
    first, mix = layers[0], layers[1] if size.mix[0] else None
    assert first.bias is not None
    weight = first.weight.detach().double() / size.scale
    sums = torch.tensor([math.fsum(kernel.flatten().tolist()) for kernel in weight], dtype=torch.float64)
    bias = first.bias.detach().double() - size.centre * sums  # fsum: the same bits on every CPU
    weight = weight.transpose(2, 3).contiguous().float()
    return Convolutions(weight, bias.float(), (size.stride[1], size.stride[0]), mix)


def folded_classifier(model: CRNN) -> Affine:
    """hidden → (1, log-odds of each keyword against "none of them"). The ring keeps this times the attention's weight:
    its first column sums to the total weight, and the bias commutes with the average."""
    weight, bias = model.classifier.weight.detach(), model.classifier.bias.detach()
    nothing = torch.zeros(1, model.size.hidden)
    return affine(torch.cat([nothing, weight[1:] - weight[:1]]), torch.cat([torch.ones(1), bias[1:] - bias[:1]]))


def windows_of(size: Size) -> Tensor:
    """(averaged, ring + 1), 1 where a window includes a hop of the ring: the product sums the windows that end in each
    of the last hops, whose log-odds are averaged."""
    hop = torch.arange(size.ring + 1) - torch.arange(size.averaged).unsqueeze(1)
    return ((hop >= 0) & (hop < size.window)).float()


def state_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the states, in the order of the step's inputs; a state that would be empty is left out."""
    shapes: dict[str, tuple[int, ...]] = {"tail": (1, TAIL)}
    if size.context:
        shapes["context"] = (size.context, N_MELS)
    shapes |= {f"hidden_{layer}": (1, size.hidden) for layer in range(size.members * size.layers)}
    if size.ring:
        shapes["ring"] = (size.ring, size.members * (1 + size.keywords))
    return shapes


@torch.no_grad()
def offline_scores(model: CRNN, audio: Tensor) -> Tensor:
    """The reference: the model's own forward over a whole recording from zero state, in one call.

    audio: (samples,), 16 kHz, −1…1; samples after the last whole hop are dropped. Returns (hops, keywords).
    """
    hops = len(audio) // model.size.hop_samples
    output, _ = model(audio[: hops * model.size.hop_samples].unsqueeze(0), model.zero_state())
    return torch.sigmoid(log_odds(output.logits))[0]

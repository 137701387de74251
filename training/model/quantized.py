"""Quantization-aware training: the CRNN with its weights and activations rounded as the int8 step rounds them.

Operands of products (weights, log-mel frames, columns of the convolution, hidden states) are rounded to 8 bits and back
in the forward pass. Gradients pass as if they were not, except where values are clipped: the straight-through estimator
(Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons"; Jacob et al. 2018, "Quantization
and training of neural networks for efficient integer-arithmetic-only inference", also for the moving ranges). The GRU
is unrolled, as `torch.nn.GRU` cannot round a state between two hops. Weights have the names and shapes of the CRNN, so
each loads the other's; the ranges of the activations go into the checkpoint and become the exported file's scales.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model.crnn import CRNN, Size

MOMENTUM = 0.01  # of the moving ranges, per training step
MEASURED = ("frames", "heard", "columns")  # activations; "heard" is between two convolutions
BOUNDED = (-1.0, 127 / 128)  # hidden units: a step of 1/128, and zero is zero


class QuantizedCRNN(CRNN):
    def __init__(self, size: Size, dropout: float = 0.1):
        super().__init__(size, dropout)
        self.dropout = dropout
        self.ranges = nn.Module()
        for name in MEASURED:
            self.ranges.register_buffer(name, torch.zeros(2))  # zeros: not measured yet
        for name in (*(f"hidden_{layer}" for layer in range(size.layers)), "attended"):
            self.ranges.register_buffer(name, torch.tensor(BOUNDED))

    def rounded(self, x: Tensor, name: str) -> Tensor:
        """x to 8 bits and back. In training the measured ranges follow the values."""
        limits = self.ranges.get_buffer(name)
        if self.training and name in MEASURED:
            with torch.no_grad():
                present = torch.stack([x.min(), x.max()])
                limits.lerp_(present, MOMENTUM if limits.any() else 1.0)
        scale, zero = affine(limits)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)

    def convolve(self, frames: Tensor) -> Tensor:
        """As in the exported step, centre and scale are part of the first convolution's weights and bias."""
        size, layers = self.size, [layer for layer in self.conv if isinstance(layer, nn.Conv2d)]
        first, mix = layers[0], layers[1] if size.mix[0] else None
        assert first.bias is not None
        bias = first.bias - size.centre / size.scale * first.weight.sum((1, 2, 3))
        frames = self.rounded(frames, "frames").transpose(1, 2).unsqueeze(1)
        weight = (first.weight.double() / size.scale).float()
        columns = F.conv2d(frames, rounded_rows(weight), bias, first.stride)
        if mix is not None:
            inputs = self.rounded(F.relu(columns), "heard")
            columns = F.relu(F.conv2d(inputs, rounded_rows(mix.weight), mix.bias, mix.stride, groups=mix.groups))
        return self.rounded(columns, "columns").flatten(1, 2).transpose(1, 2)

    def recur(self, columns: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        memory = []
        for layer in range(self.size.layers):
            if layer:
                columns = self.rounded(F.dropout(columns, self.dropout, self.training), f"hidden_{layer - 1}")
            columns = self.layer(columns, hidden[layer], layer)
            memory.append(columns[:, -1])
        return columns, torch.stack(memory)

    def layer(self, x: Tensor, hidden: Tensor, layer: int) -> Tensor:
        """One layer, hop by hop. x: (batch, hops, inputs), rounded; hidden: (batch, units) → (batch, hops, units)."""
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        of_input, of_hidden, outer, inner = (getattr(self.gru, f"{part}_l{layer}") for part in parts)
        of_hidden, units = rounded_rows(of_hidden), self.size.hidden
        inputs = F.linear(x, rounded_rows(of_input), outer)
        states = []
        for hop in inputs.unbind(1):
            memory = F.linear(self.rounded(hidden, f"hidden_{layer}"), of_hidden, inner)
            gates = torch.sigmoid(hop[:, : 2 * units] + memory[:, : 2 * units])
            candidate = torch.tanh(hop[:, 2 * units :] + gates[:, :units] * memory[:, 2 * units :])
            hidden = candidate + gates[:, units:] * (hidden - candidate)
            states.append(hidden)
        return torch.stack(states, 1)

    def energies(self, hidden: Tensor) -> Tensor:
        first, _, second = self.attention.energy
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        attended = torch.tanh(F.linear(self.rounded(hidden, self.last), rounded_rows(first.weight), first.bias))
        return F.linear(self.rounded(attended, "attended"), rounded_rows(second.weight), second.bias)

    def votes(self, hidden: Tensor) -> Tensor:
        """As in the exported step: each keyword's value less that of "none of them", which is 0 itself."""
        weight = self.classifier.weight
        odds = F.linear(self.rounded(hidden, self.last), rounded_rows(weight[1:] - weight[:1]))
        return F.pad(odds, (1, 0))

    @property
    def last(self) -> str:
        return f"hidden_{self.size.layers - 1}"


def affine(limits: Tensor) -> tuple[Tensor, Tensor]:
    """(2,) lowest and highest value → scale and zero point of unsigned 8 bits; zero is always among the numbers."""
    low, high = limits[0].clamp(max=0), limits[1].clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-8)
    return scale, torch.round(-low / scale).int()


def rounded_rows(weight: Tensor) -> Tensor:
    """Weights to unsigned 8 bits around 128 and back, with a scale for each output: (outputs, …).

    Operations are in the order of onnxruntime's quantizer, to give the same bits: a row's largest weight lies halfway
    between two steps.
    """
    largest = weight.detach().abs().flatten(1).amax(1).clamp(min=1e-8).double()
    scale = (2 * largest / 255).float().reshape(-1, *[1] * (weight.dim() - 1))
    rounded = torch.round(weight.detach() / scale).clamp(-128, 127) * scale
    return weight + (rounded - weight.detach())

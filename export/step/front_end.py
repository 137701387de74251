"""Log-mel frames of one hop by matrix products; `training.model.features.LogMel` computes the same by FFT.

A discrete Fourier transform of 400 samples at once would be three quarters of a small model's time. One step of
Cooley and Tukey (1965) halves it: with the two halves of a windowed frame added, the even bins are a transform of 200
samples, and with them subtracted so are the odd bins. More steps save products and lose more to graph nodes
(docs/benchmarks.md).

Basis, window and filters are computed by the graph, not stored: ONNX then holds 3 KB of nodes, which onnxruntime
evaluates once, when it loads the model. TorchScript stores them, computed in double precision, so that every CPU has
the same floats.
"""

import math

import torch
from torch import Tensor, nn

from training.model.crnn import Size
from training.model.features import FLOOR, FRAME_STEP, N_FFT, mel_filters

BLOCK = 80  # samples: the greatest common divisor of a frame's length and the step between frames
HALF = N_FFT // 2
TURN = 2 * math.pi / N_FFT


class FrontEnd(nn.Module):
    def __init__(self, size: Size, precision: torch.dtype = torch.float32):
        """precision: of the computation of basis and window."""
        super().__init__()
        self.precision = precision
        self.hop_frames = size.hop_frames
        self.first = max(0, size.stride[1] - size.kernel[1])  # a kernel shorter than a hop reads the hop's end

    def forward(self, samples: Tensor) -> Tensor:
        """samples: (1, 240 + hop_samples) → the frames that the convolution reads of this hop (n, 40), as heights above
        the floor: log(max(x, floor)) − log(floor) is log(max(x / floor, 1))."""
        starts = torch.arange(self.first, self.hop_frames).unsqueeze(1) * (FRAME_STEP // BLOCK)
        blocks = (starts + torch.arange(N_FFT // BLOCK)).flatten()
        frames = samples.reshape(-1, BLOCK).index_select(0, blocks).reshape(-1, N_FFT) * hann(self.precision)
        first, second = frames.split(HALF, dim=1)
        odd = power(first - second, torch.arange(1, HALF, 2), self.precision)
        even = power(first + second, torch.arange(2, HALF, 2), self.precision)  # bin 0 is in no filter
        filters = mel_filters() / FLOOR  # rows are bins 1…199
        mel = torch.addmm(odd @ twice(filters[::2]), even, twice(filters[1::2]))
        return torch.clamp(mel, min=1.0).log()


def hann(precision: torch.dtype) -> Tensor:
    """The periodic window, (400,)."""
    return (0.5 - 0.5 * torch.cos(torch.arange(N_FFT).to(precision) * TURN)).float()


def power(halves: Tensor, bins: Tensor, precision: torch.dtype) -> Tensor:
    """halves: (frames, 200); bins: (n,), all even or all odd → squared cosine and squared sine parts (frames, 2n).

    The phase is reduced modulo 400 in integers: cos of a large float32 would be off by 1e-5.
    """
    phase = torch.arange(HALF).unsqueeze(1) * bins
    phases = torch.cat([phase, phase + 3 * N_FFT // 4], dim=1) % N_FFT  # cos(x + 3/4 turn) = sin(x)
    spectrum = halves @ torch.cos(phases.to(precision) * TURN).float()
    return spectrum * spectrum


def twice(filters: Tensor) -> Tensor:
    """Cosines and sines of a bin meet in one filter."""
    return torch.cat([filters, filters])

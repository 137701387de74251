"""The log-mel front end, as a torch module without learned weights.

Equals torchaudio's `MelSpectrogram(16000, n_fft=400, hop_length=160, n_mels=40, center=False)` (HTK mels, power
spectrum, periodic Hann window) followed by a natural log with floor 1e-9, and then lifted by -log(1e-9), so that
silence is exactly zero: a streaming state full of zeros means silence.
"""

import math

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000
N_FFT = 400
FRAME_STEP = 160  # samples between two frames: 10 ms
TAIL = N_FFT - FRAME_STEP  # samples that the next frame shares with the audio before it
N_MELS = 40
FLOOR = 1e-9


def mel_filters() -> Tensor:
    """Triangular HTK mel filters without normalisation, 0…8000 Hz: (199, 40), rows are DFT bins 1…199.

    Equals `torchaudio.functional.melscale_fbanks(201, 0, 8000, 40, 16000)` without its first and last row.
    """
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = torch.tensor([700 * (10 ** (step * top / (N_MELS + 1) / 2595) - 1) for step in range(N_MELS + 2)])
    hertz = (torch.arange(1, N_FFT // 2) * (SAMPLE_RATE / N_FFT)).unsqueeze(1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    return torch.clamp(torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), min=0)


def log_mel(power: Tensor, filters: Tensor) -> Tensor:
    """Power of bins 1…199 (…, 199) → natural-log mel energies above the floor (…, 40), in 0…~31."""
    return torch.clamp(power @ filters, min=FLOOR).log() - math.log(FLOOR)


class LogMel(nn.Module):
    """Audio → log-mel frames, streaming: `audio, tail → frames, tail`. By FFT; an exported step has no FFT."""

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", mel_filters(), persistent=False)

    def forward(self, audio: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """audio: (batch, n·160) in −1…1 at 16 kHz; tail: (batch, 240), the audio before it, zeros at the start.

        Returns the n frames that end with each 10 ms of `audio`, (batch, n, 40), and the new tail.
        """
        audio = torch.cat([tail, audio], dim=1)
        spectrum = torch.stft(audio, N_FFT, FRAME_STEP, window=self.window, center=False, return_complex=True)
        bins = spectrum[:, 1 : N_FFT // 2].transpose(1, 2)
        return log_mel(bins.real**2 + bins.imag**2, self.filters), audio[:, -TAIL:]

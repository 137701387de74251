"""The front end of the step, of matrix products, gives the frames of the front end that models are trained with."""

import pytest
import torch

from export.audio import synthesise
from export.step.front_end import FrontEnd, hann, power
from training.model.crnn import Size
from training.model.features import N_FFT, TAIL, LogMel


def test_power_is_that_of_the_fft():
    frames = torch.from_numpy(synthesise()).unfold(0, N_FFT, 160)
    wanted = torch.fft.rfft(frames.double() * torch.hann_window(N_FFT, dtype=torch.double)).abs().square()
    first, second = (frames * hann(torch.float32)).split(N_FFT // 2, dim=1)
    for bins, halves in ((torch.arange(1, 200, 2), first - second), (torch.arange(2, 200, 2), first + second)):
        cosine, sine = power(halves, bins, torch.float32).double().chunk(2, dim=1)
        expected = wanted[:, bins]
        assert ((cosine + sine - expected).abs() <= 1e-4 * expected + 1e-8 * wanted.max()).all()


@pytest.mark.parametrize("size", [Size(), Size(kernel=(5, 3)), Size(stride=(2, 4))], ids=str)
def test_frames_are_those_of_training(size):
    audio = torch.from_numpy(synthesise())[None, : 16_000 * 8]
    wanted, _ = LogMel()(audio[:, TAIL:][:, : 600 * 160], audio[:, :TAIL])
    front_end = FrontEnd(size)
    got = torch.stack(
        [front_end(audio[:, s : s + TAIL + size.hop_samples]) for s in range(0, 600 * 160, size.hop_samples)]
    )
    wanted = wanted.reshape(-1, size.stride[1], 40)[:, max(0, size.stride[1] - size.kernel[1]) :]
    assert wanted.max() > 10  # there is something to compare
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-3)

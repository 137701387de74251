import math

import torch
import torchaudio

from training.model.features import FLOOR, TAIL, LogMel, mel_filters


def reference(audio: torch.Tensor) -> torch.Tensor:
    mel = torchaudio.transforms.MelSpectrogram(16_000, n_fft=400, hop_length=160, n_mels=40, center=False)
    return mel(audio).clamp(min=FLOOR).log().transpose(1, 2)


def speechlike(batch: int = 2, seconds: float = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(int(16_000 * seconds)) / 16_000
    tone = sum(torch.sin(2 * math.pi * f * time) / f for f in range(120, 4000, 120)) * 20
    noise = torch.randn(batch, len(time), generator=generator)
    return 0.3 * tone * (0.5 + 0.5 * torch.sin(2 * math.pi * 3 * time)) + 1e-3 * noise


def test_equals_torchaudio_in_the_log_domain():
    audio = speechlike()
    frames, _ = LogMel()(audio[:, TAIL:-80], audio[:, :TAIL])  # -80: a whole number of frames
    torch.testing.assert_close(frames + math.log(FLOOR), reference(audio)[:, : frames.shape[1]], rtol=0, atol=1e-4)


def test_filters_are_torchaudios():
    wanted = torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 40, 16_000)
    torch.testing.assert_close(mel_filters(), wanted[1:200], rtol=0, atol=1e-5)
    assert wanted[0].abs().max() == 0 and wanted[200].abs().max() < 1e-5  # what is left out weighs nothing


def test_silence_is_zero_and_pieces_make_the_whole():
    features = LogMel()
    frames, tail = features(torch.zeros(1, 3200), torch.zeros(1, TAIL))
    assert (frames == 0).all() and (tail == 0).all()
    audio = speechlike(1, 1.6)
    whole, _ = features(audio, torch.zeros(1, TAIL))
    tail, pieces = torch.zeros(1, TAIL), []
    for piece in audio.split(1280, dim=1):
        frames, tail = features(piece, tail)
        pieces.append(frames)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-5)

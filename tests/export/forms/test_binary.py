"""model.bin in the C engine says what the trained model says, hop by hop, for every recipe."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import random_detector

from export.audio import synthesise
from export.detector import Detector, read_checkpoint
from export.forms.binary import FLOAT32, INT8, BinaryError, int8_matrix, mean_inputs, to_bytes, with_thresholds
from export.step.step import Step, offline_scores
from runtime.c.library import CEngine
from training.model.crnn import Size

MODELS = sorted(Path(__file__).resolve().parents[3].glob("models/*/model.safetensors"))


def streamed(detector: Detector, kind: int, audio: np.ndarray) -> np.ndarray:
    engine = CEngine(to_bytes(detector, kind))
    hop = engine.hop_samples
    return np.array([engine.step(audio[start : start + hop]) for start in range(0, len(audio) - hop + 1, hop)])


def difference(detector: Detector, kind: int, audio: np.ndarray) -> np.ndarray:
    reference = offline_scores(detector.model, torch.from_numpy(audio)).numpy()
    return np.abs(streamed(detector, kind, audio) - reference)


@pytest.mark.parametrize("path", MODELS, ids=[path.parent.name for path in MODELS])
def test_shipped_models(path):
    detector = read_checkpoint(path)
    assert difference(detector, FLOAT32, synthesise()).max() < 1e-5
    rounded = difference(detector, INT8, synthesise())
    assert 0 < rounded.max() < 0.02 and rounded.mean() < 0.002


def random_size(seed: int) -> Size:
    """Any shape that a recipe may have."""
    rng = np.random.default_rng(seed)

    def some(least: int, most: int) -> int:
        return int(rng.integers(least, most + 1))

    mix = (some(1, 9), some(1, 4)) if seed % 3 else (0, 1)
    return Size(
        channels=some(1, 20),
        kernel=(some(1, 40), some(1, 24)),
        stride=(some(1, 40), some(1, 12)),
        mix=mix,
        hidden=some(1, 70),
        layers=some(1, 3),
        window=some(1, 30),
        smoothing=some(1, 7),
        members=some(1, 4),
        keywords=some(1, 5),
        centre=float(rng.normal(12, 3)),
    )


@pytest.mark.parametrize("size", [random_size(seed) for seed in range(40)], ids=str)
def test_random_recipes(size):
    detector = random_detector(size, seed=size.hidden)
    audio = synthesise()[: 16_000 * 10]
    reference = offline_scores(detector.model, torch.from_numpy(audio)).numpy()
    found = streamed(detector, FLOAT32, audio)
    assert found.shape == reference.shape and np.ptp(reference) > 1e-3
    assert np.abs(found - reference).max() < 1e-4
    rounded = np.abs(streamed(detector, INT8, audio) - found)
    assert 0 < rounded.mean() < 0.02


def test_bias_makes_up_for_the_rounding():
    rng = np.random.default_rng(0)
    weight, bias, mean = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 4), 4, 6))
    rows, scale, made_up = int8_matrix(weight, bias, mean)
    rounded = np.frombuffer(rows, np.int8).reshape(4, 8)[:, :6] * np.frombuffer(scale, "<f4")[:, None]
    assert 0 < np.abs(rounded.T - weight).max() < 0.02
    np.testing.assert_allclose(mean @ rounded.T + np.frombuffer(made_up, "<f4"), mean @ weight + bias, atol=1e-5)


def test_means_are_of_what_a_product_reads():
    step = Step(random_detector(Size(layers=1, hidden=3)).model)
    audio = synthesise()[: 1280 * 20]
    states, read = step.zeros(), []
    for hop in torch.from_numpy(audio).reshape(20, 1, 1280):
        read.append(states[2])  # the hidden state before the hop
        _, *states = step(hop, *states)
    found = mean_inputs(step, audio)
    assert len(found) == 5
    np.testing.assert_allclose(found[step.members[0].cells[0].of_hidden], torch.cat(read).mean(0), atol=1e-6)


def test_another_operating_point():
    detector = random_detector(Size(keywords=2, hidden=4))
    changed = with_thresholds(to_bytes(detector), [0.25, 0.75])
    assert changed == to_bytes(replace(detector, thresholds=[0.25, 0.75]))


def test_keywords_of_any_language():
    detector = replace(random_detector(Size(keywords=3)), keywords=["schöner Tag", "今日は", "x"])
    engine = CEngine(to_bytes(detector))
    assert engine.keywords == ("schöner Tag", "今日は", "x")
    assert engine.thresholds == tuple(np.float32([0.5, 0.6, 0.7]))


@pytest.mark.parametrize("kind", [FLOAT32, INT8])
def test_the_file_is_as_documented(kind):
    """Read by docs/engine-c.md alone."""
    size = Size(channels=3, kernel=(8, 6), stride=(6, 4), mix=(5, 2), hidden=9, layers=1, keywords=2)
    detector = random_detector(size)
    content = to_bytes(detector, kind)
    assert content[:8] == b"EARSHOT\0"
    version, length, checksum = struct.unpack_from("<3I", content, 8)
    assert (version, length, checksum) == (1, len(content), zlib.crc32(content[20:]))
    assert struct.unpack_from("<19I", content, 20) == (2, 12, 3, 8, 6, 6, 4, 5, 2, 9, 1, 16, 1, 1, kind, 12, 0, 0, 0)
    assert content[96:104] == np.float32([0.5, 0.6]).tobytes()
    assert content[112:128] == b"word0\0word1\0\0\0\0\0"
    first = np.frombuffer(content, "<f4", 49 * 4, 128).reshape(49, 4)  # (8 · 6 + 1) × 3, padded to 4
    conv = detector.model.conv[0]
    assert not first[:, 3].any()
    np.testing.assert_allclose(first[:48, 1], (conv.weight[1, 0] / 6).T.flatten(), rtol=1e-6)
    np.testing.assert_allclose(first[48, :3], conv.bias - 2 * conv.weight.sum((1, 2, 3)), rtol=1e-4)


def test_too_many_inputs_for_int8():
    with pytest.raises(BinaryError, match="1024 inputs of a product are more than the 1023 that int8 sums can hold"):
        to_bytes(random_detector(Size(channels=64, kernel=(10, 8), stride=(2, 8), hidden=4)), INT8)

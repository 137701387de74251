"""A state dict of the CRNN of kws_project and kws-hw, against a reference written from the papers and torchaudio."""

import json

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torchaudio.transforms import MelSpectrogram

from export.audio import synthesise
from export.state_dict import read_state_dict
from export.step.step import offline_scores
from training.model.checkpoint import CheckpointError

HOP, CONTEXT_FRAMES, TAIL = 1280, 12, 240


class Attention(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))


class TheirCRNN(nn.Module):
    """Conv2d over mel × time, GRU, softmax attention over the last `window` hops, linear, softmax over two classes."""

    def __init__(self, channels=8, kernel=(5, 20), stride=(2, 8), hidden=64, layers=2, classes=2, both_ways=False):
        super().__init__()
        bands = (40 - kernel[0]) // stride[0] + 1
        self.conv = nn.Sequential(nn.Conv2d(1, channels, kernel, stride))
        self.gru = nn.GRU(channels * bands, hidden, layers, batch_first=True, bidirectional=both_ways)
        self.attention = Attention(hidden)
        self.classifier = nn.Linear(hidden, classes)

    @torch.no_grad()
    def posteriors(self, audio, window):
        """audio (samples,) → softmax over classes at every hop."""
        silence = torch.zeros(CONTEXT_FRAMES * 160 + TAIL)
        mel = MelSpectrogram(16_000, n_fft=400, hop_length=160, n_mels=40, center=False)(torch.cat([silence, audio]))
        features = self.conv(mel.clamp(min=1e-9).log()[None, None])  # (1, channels, bands, hops)
        _, channels, bands, hops = features.shape
        hidden, _ = self.gru(features.reshape(1, channels * bands, hops).transpose(1, 2))
        result = []
        for hop in range(hops):
            seen = hidden[0, max(0, hop + 1 - window) : hop + 1]
            weights = torch.softmax(self.attention.energy(seen), dim=0)
            result.append(torch.softmax(self.classifier((weights * seen).sum(0)), dim=0))
        return torch.stack(result)


@pytest.fixture(scope="module")
def audio():
    return torch.from_numpy(synthesise())


def save(model, path, wrap=lambda state: state):
    torch.save(wrap(model.state_dict()), path)
    return path


def test_bundle_of_a_state_dict_scores_as_its_model_does(tmp_path, audio, run):
    torch.manual_seed(5)
    theirs = TheirCRNN()
    file = save(theirs, tmp_path / "base.pt")
    code, out, _ = run(
        *("--state-dict", file, "--keyword", "sheila", "--name", "sheila-imported", "--out", tmp_path / "dist"),
        *("--window", 11),
    )
    assert code == 0
    bundle = tmp_path / "dist" / "sheila-imported"
    assert str(bundle) in out
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["keywords"], manifest["threshold"], manifest["refractory_hops"]) == (["sheila"], [0.7], 12)

    session = ort.InferenceSession(bundle / "model.onnx")
    _, *rest = session.get_inputs()
    states = [np.zeros(state.shape, np.float32) for state in rest]
    scores = []
    for hop in audio.split(HOP):
        feed = dict(zip((state.name for state in rest), states, strict=True))
        score, *states = session.run(None, {"audio": hop[None].numpy(), **feed})
        scores.append(score[0, 0])
    expected = theirs.posteriors(audio, 11)[:, 1].numpy()
    assert np.ptp(expected) > 0.02
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("keyword_class", [0, 1])
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_other_sizes_wrappers_and_classes(tmp_path, audio, keyword_class, wrapper):
    torch.manual_seed(6)
    theirs = TheirCRNN(channels=5, kernel=(11, 20), stride=(7, 8), hidden=24, layers=1)
    file = save(theirs, tmp_path / "theirs.pt", lambda state: {wrapper: state})
    model = read_state_dict(file, (7, 8), 16, keyword_class)
    expected = theirs.posteriors(audio, 16)[:, keyword_class]
    torch.testing.assert_close(offline_scores(model, audio)[:, 0], expected, rtol=0, atol=1e-4)


REFUSED = {
    "classes": (lambda: TheirCRNN(classes=3).state_dict(), "3 classes"),
    "bidirectional": (lambda: TheirCRNN(both_ways=True).state_dict(), "bidirectional"),
    "stride": (lambda: TheirCRNN(stride=(3, 8)).state_dict(), "--stride"),
    "missing": (lambda: {k: v for k, v in TheirCRNN().state_dict().items() if "classifier" not in k}, "is missing"),
    "missing inside": (lambda: {k: v for k, v in TheirCRNN().state_dict().items() if k != "gru.bias_hh_l1"}, "bias_hh"),
    "extra": (lambda: TheirCRNN().state_dict() | {"norm.weight": torch.zeros(3)}, "norm.weight"),
    "nan": (lambda: {k: v * float("nan") for k, v in TheirCRNN().state_dict().items()}, "not finite"),
    "no tensors": (lambda: {"a": 1}, "not a state dict"),
    "list": (lambda: [1, 2], "not a state dict"),
    "dimensions": (lambda: TheirCRNN().state_dict() | {"conv.0.weight": torch.zeros(8, 5)}, "dimensions"),
    "pickled code": (lambda: TheirCRNN(), "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_line(tmp_path, run, name):
    content, words = REFUSED[name]
    torch.save(content(), tmp_path / "x.pt")
    check_refusal(run, tmp_path, words)


@pytest.mark.parametrize(("content", "words"), [(b"", "cannot be read"), (b"PK\x03\x04junk", "cannot be read")])
def test_broken_files_are_refused_in_one_line(tmp_path, run, content, words):
    (tmp_path / "x.pt").write_bytes(content)
    check_refusal(run, tmp_path, words)


def check_refusal(run, tmp_path, words):
    code, _, err = run("--state-dict", tmp_path / "x.pt", "--keyword", "k", "--out", tmp_path / "dist")
    assert code == 2
    assert len(err.splitlines()) == 1 and words in err
    assert not (tmp_path / "dist").exists()


def test_a_missing_file_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_state_dict(tmp_path / "none.pt", (2, 8), 16, 1)

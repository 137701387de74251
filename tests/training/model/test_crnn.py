from dataclasses import replace

import pytest
import torch

from training.model.crnn import CRNN, Size, log_odds, n_parameters
from training.model.ensemble import folded, networks, new_model

SEED_KEYS = (
    {f"conv.0.{k}" for k in ("weight", "bias")}
    | {f"gru.{k}_l{i}" for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") for i in (0, 1)}
    | {f"attention.energy.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")}
    | {f"classifier.{k}" for k in ("weight", "bias")}
)
SIZES = [
    Size(),
    Size(channels=4, kernel=(15, 5), hidden=21),
    Size(channels=2, kernel=(11, 20), stride=(7, 8), hidden=14, layers=1, window=24),
    Size(channels=2, hidden=6, keywords=3, window=1),
    Size(channels=3, kernel=(8, 6), stride=(6, 4), mix=(4, 2), hidden=9, layers=1),
    Size(channels=2, kernel=(12, 2), stride=(12, 2), mix=(1, 4), hidden=5, smoothing=3),
    Size(channels=1, hidden=4, layers=1, keywords=2, window=1, smoothing=4),
    Size(channels=2, kernel=(8, 6), stride=(6, 4), mix=(3, 2), hidden=5, members=3, keywords=2, smoothing=2),
]


@pytest.mark.parametrize(
    "size, parameters",
    [
        (Size(), 70_443),
        (Size(hidden=32), 25_387),
        (Size(channels=2, kernel=(11, 20), stride=(7, 8), hidden=14, layers=1), 1_789),
    ],
)
def test_has_the_seeds_parameter_counts(size, parameters):
    assert n_parameters(CRNN(size)) == parameters


def test_state_dict_has_the_seeds_names():
    assert set(CRNN(Size()).state_dict()) == SEED_KEYS


@pytest.mark.parametrize("size", SIZES)
def test_pieces_of_any_length_make_the_whole(size):
    torch.manual_seed(0)
    model = new_model(size).eval()
    audio = torch.randn(2, 30 * size.hop_samples) * 0.05
    with torch.no_grad():
        whole, end = model(audio, model.zero_state(2))
        state, pieces, place = model.zero_state(2), [], 0
        for hops in (1, 1, 5, 2, 21):
            output, state = model(audio[:, place : place + hops * size.hop_samples], state)
            pieces.append(output.logits)
            place += hops * size.hop_samples
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.logits, rtol=0, atol=1e-5)
    for got, wanted in zip(state, end, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_folded_says_the_same(size):
    torch.manual_seed(0)
    model = new_model(size, normalised=True)
    frames = torch.rand(4, 12 * size.hop_frames, 40) * 20
    for _ in range(20):  # so that means and scales are not those of the start
        model.classify(frames + torch.rand_like(frames), model.zero_state(4))
    with torch.no_grad():
        for network in networks(model):
            for parameter in network.conv.parameters():
                parameter.add_(torch.rand_like(parameter) * 0.2)
        model.eval()
        wanted, plain = model.classify(frames, model.zero_state(4))[0], folded(model)
        torch.testing.assert_close(plain.classify(frames, plain.zero_state(4))[0].logits, wanted.logits)
    assert set(plain.state_dict()) == set(new_model(size).state_dict()) and not plain.training


def test_an_ensemble_is_the_mean_of_its_members_and_learns_of_each_alone():
    torch.manual_seed(0)
    size = Size(channels=2, hidden=5, members=3, keywords=2, smoothing=3)
    model = new_model(size, dropout=0.0)
    frames = torch.rand(4, 10 * size.hop_frames, 40) * 20
    with torch.no_grad():
        model.eval()
        alone = [one.classify(frames, one.zero_state(4))[0] for one in networks(model)]
        together = model.classify(frames, model.zero_state(4))[0]
        torch.testing.assert_close(together.logits, torch.stack([one.logits for one in alone]).mean(0))
        assert (alone[0].logits - alone[1].logits).abs().max() > 0.01
        model.size = replace(size, smoothing=1)
        assert model.size.smoothing == 1 and model.size.members == 3 and len(networks(model)) == 3
        model.train()
        each = model.classify(frames, model.zero_state(4))[0]
        networks(model)[2].train()
        last = networks(model)[2].classify(frames, networks(model)[2].zero_state(4))[0]
    assert each.logits.shape == (12, 10, 3) and each.energies.shape == (12, 10)
    torch.testing.assert_close(each.logits[8:], last.logits)


def test_attention_is_a_softmax_over_the_last_hops_that_were_heard():
    """The ring of weights and votes says what the seeds' attention says: softmax over hidden vectors, then classify."""
    torch.manual_seed(1)
    model = CRNN(Size(hidden=8, window=5)).eval()
    with torch.no_grad():
        output, _ = model(torch.randn(1, 12 * 1280) * 0.1, model.zero_state())
        for hop in range(12):
            seen = slice(max(0, hop - 4), hop + 1)
            alpha = torch.softmax(model.attention(output.hidden[0, seen]), dim=0)
            logits = model.classifier((alpha * output.hidden[0, seen]).sum(0))
            torch.testing.assert_close(output.logits[0, hop], logits, rtol=0, atol=1e-6)


def test_log_odds_are_averaged_when_listening_and_not_when_learning():
    torch.manual_seed(2)
    size = Size(hidden=8, window=5, keywords=2)
    model = CRNN(size, dropout=0.0)
    smooth = CRNN(replace(size, smoothing=3), dropout=0.0)
    smooth.load_state_dict(model.state_dict())
    frames = torch.rand(2, 12 * size.hop_frames, 40) * 20
    each = model.classify(frames, model.zero_state(2))[0].logits
    torch.testing.assert_close(smooth.classify(frames, smooth.zero_state(2))[0].logits, each)
    smooth.eval()
    mean = smooth.classify(frames, smooth.zero_state(2))[0].logits
    torch.testing.assert_close(mean[:, 2:], each.unfold(1, 3, 1).mean(-1))
    torch.testing.assert_close(mean[:, 0], each[:, 0])  # before the stream began nothing was said
    torch.testing.assert_close(mean[:, 1], each[:, :2].mean(1))


def test_score_of_one_keyword_is_the_softmax_of_two_classes():
    logits = torch.randn(7, 2)
    torch.testing.assert_close(log_odds(logits).sigmoid()[:, 0], logits.softmax(-1)[:, 1])

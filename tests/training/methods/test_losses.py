import torch

from training.methods.losses import pooled, streaming_loss
from training.windows.targets import IGNORED, NEGATIVE, POSITIVE


def test_pooled_lies_between_mean_and_maximum_of_the_chosen():
    values, chosen = torch.tensor([9.0, 1.0, 3.0, -2.0]), torch.tensor([False, True, True, True])
    assert values[1:].mean() < pooled(values, chosen) < 3
    assert pooled(values, torch.zeros(4, dtype=torch.bool)) == 0


def loss(log_odds, targets):
    return streaming_loss(torch.tensor([[log_odds]]), torch.zeros(1, len(targets)), torch.tensor([[targets]]))


def test_right_streams_cost_little_and_each_mistake_costs():
    targets = [NEGATIVE] * 4 + [POSITIVE] * 3 + [IGNORED] * 4 + [NEGATIVE] * 3
    right = [-9.0] * 4 + [-9, 9, -9] + [9.0] * 4 + [-9.0] * 3
    missed = [-9.0] * 14
    early = [-9.0, 9, -9, -9] + right[4:]
    assert loss(right, targets) < 0.01
    assert loss(missed, targets) > 5
    assert loss(early, targets) > 5


def test_what_is_ignored_teaches_nothing():
    targets = torch.tensor([[[NEGATIVE, POSITIVE, IGNORED, IGNORED, NEGATIVE]]])
    log_odds = torch.randn(1, 1, 5, requires_grad=True)
    streaming_loss(log_odds, torch.zeros(1, 5), targets).backward()
    assert (log_odds.grad[0, 0, 2:4] == 0).all() and (log_odds.grad[0, 0, [0, 1, 4]] != 0).all()

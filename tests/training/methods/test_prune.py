"""Pruned models are really smaller, and say what the unpruned ones said."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.methods import prune
from training.model.crnn import CRNN, Size, log_odds, n_parameters

SIZES = st.builds(
    Size,
    channels=st.integers(1, 9),
    kernel=st.tuples(st.integers(1, 40), st.integers(1, 24)),
    stride=st.tuples(st.integers(1, 9), st.sampled_from([4, 8])),
    mix=st.sampled_from([(0, 1), (1, 1), (3, 2)]),
    hidden=st.integers(1, 33),
    layers=st.integers(1, 3),
    window=st.integers(1, 24),
    keywords=st.integers(1, 3),
)


def a_model(size: Size, seed: int) -> CRNN:
    torch.manual_seed(seed)
    return CRNN(size).eval()


def scores(model: CRNN, seed: int) -> torch.Tensor:
    """Of 4.8 s of frames as they come from the front end, after other audio has been heard."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(2, 2, 240, 40, generator=generator) * 25
    with torch.no_grad():
        _, (context, hidden, ring) = model.classify(frames[0], model.zero_state(2))
        state = model.zero_state(2)._replace(context=context, hidden=hidden, ring=ring)
        return log_odds(model.classify(frames[1], state)[0].logits).sigmoid()


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 1000), data=st.data())
def test_pruning_then_shrinking_changes_no_score(size, seed, data):
    channels, hidden = data.draw(st.integers(1, size.channels)), data.draw(st.integers(1, size.hidden))
    target = replace(size, channels=channels, hidden=hidden)
    model = a_model(size, seed)
    stay = prune.prune(model, target)
    small = CRNN(target).eval()
    small.load_state_dict(prune.shrink(model.state_dict(), size, target, stay))
    torch.testing.assert_close(scores(small, seed), scores(model, seed), rtol=0, atol=1e-5)
    assert n_parameters(small) == n_parameters(CRNN(target))


def test_what_stays_are_the_largest_groups():
    """A channel, a unit of each layer and a unit of the attention that weigh more than all others."""
    size = Size(channels=3, hidden=5)
    model = a_model(size, 0)
    tensors = prune.parameters(model)
    target = replace(size, channels=1, hidden=1)
    for place, kind in enumerate(prune.kinds(size, target)):
        prune.scale(tensors, kind, torch.ones(kind.groups).index_fill(0, torch.tensor(min(place + 1, 2)), 100))
    assert [indices.tolist() for indices in prune.prune(model, target)] == [[1], [2], [2], [2]]


def test_the_penalty_leaves_the_largest_alone_and_zeroes_the_others():
    size = Size(channels=4, hidden=6)
    target = replace(size, channels=2, hidden=3)
    model = a_model(size, 1)
    kinds = prune.kinds(size, target)
    stay = [prune.largest(prune.parameters(model), kind).tolist() for kind in kinds]
    before = model.conv[0].weight.clone()
    prune.lasso_step(model, target, 1e-3)
    kept = before.flatten(1).norm(dim=1) == model.conv[0].weight.flatten(1).norm(dim=1)
    assert kept.nonzero().flatten().tolist() == stay[0]
    for _ in range(300):
        prune.lasso_step(model, target, 1e-3)
    for kind, indices in zip(kinds, stay, strict=True):
        assert (prune.norms(prune.parameters(model), kind) > 0).nonzero().flatten().tolist() == indices
    assert (prune.norms(prune.parameters(model), kinds[0])[stay[0]] > 0.01).all()


@pytest.mark.parametrize("change", [{"hidden": 65}, {"channels": 0}, {"layers": 1}])
def test_a_size_that_pruning_cannot_reach_is_refused(change):
    with pytest.raises(ValueError, match="pruning"):
        prune.kinds(Size(), replace(Size(), **change))

"""Quantization-aware training: near the float model, learns, and leaves a checkpoint that anybody reads."""

import pytest
import torch
from small import RECIPE, train

from training.model import checkpoint
from training.model.crnn import CRNN, Size
from training.model.quantized import QuantizedCRNN, affine, rounded_rows

SIZES = [
    Size(),
    Size(channels=2, kernel=(11, 20), stride=(7, 8), hidden=14, layers=1),
    Size(hidden=5, layers=3, keywords=2),
    Size(channels=3, kernel=(8, 6), stride=(6, 4), mix=(4, 2), hidden=9, layers=1),
]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.layers}x{size.hidden}")
def test_is_the_float_model_rounded(size):
    torch.manual_seed(0)
    plain, aware = CRNN(size).eval(), QuantizedCRNN(size)
    missing, unexpected = aware.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("ranges.") for name in missing)
    frames = torch.rand(3, 40 * 8, 40) * 20
    aware.dropout = 0
    aware.train()
    aware.classify(frames, aware.zero_state(3))
    aware.eval()
    assert aware.ranges.columns[0] < aware.ranges.columns[1]
    with torch.no_grad():
        one, other = (model.classify(frames, model.zero_state(3)) for model in (plain, aware))
    difference = (one[0].logits.diff(dim=2) - other[0].logits.diff(dim=2)).abs()
    assert 0 < difference.max() < 0.05
    for ours, theirs in zip(one[1], other[1], strict=True):
        assert ours.shape == theirs.shape
    assert torch.allclose(one[1][1], other[1][1], atol=0.05)  # hidden states of every layer


def test_learns_through_the_rounding():
    torch.manual_seed(0)
    aware = QuantizedCRNN(SIZES[1], dropout=0.0)
    output, _ = aware.classify(torch.rand(2, 160, 40) * 20, aware.zero_state(2))
    output.logits[..., 1].sum().backward()
    silent = {name for name, p in aware.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent <= {"attention.energy.2.bias"}  # softmax does not see it


def test_rounding():
    scale, zero = affine(torch.tensor([0.0, 25.5]))
    assert scale.item() == pytest.approx(0.1) and zero.item() == 0
    scale, zero = affine(torch.tensor([-1.0, 127 / 128]))
    assert scale.item() == 1 / 128 and zero.item() == 128
    weight = torch.tensor([[-1.275, 0.5, -0.014], [0.0, 0.0, 0.0]])
    assert torch.allclose(rounded_rows(weight), torch.tensor([[-1.28, 0.5, -0.01], [0.0, 0.0, 0.0]]), atol=1e-6)


def test_a_recipe_s_second_stage(tmp_path, corpus):
    """Begins with the first one's weights, ends with ranges in its checkpoint, and is done when it is run again."""
    text = RECIPE.replace("epochs = 2", "epochs = 1\nquantized_epochs = 1")
    done = train(tmp_path, corpus, "whole", text)
    assert done.returncode == 0, done.stderr
    (plain, first), (model, info) = (checkpoint.load(tmp_path / name) for name in ("whole", "whole-qat"))
    assert type(model) is CRNN and not first.ranges
    assert {"frames", "columns", "hidden_0", "attended"} <= set(info.ranges)
    assert info.ranges["frames"][1] > 1 and info.ranges["hidden_0"] == (-1.0, 127 / 128)
    before, after = plain.state_dict(), model.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=0.1) for name in before)
    again = train(tmp_path, corpus, "whole", text)
    assert again.returncode == 0 and again.stdout.count("epochs are done") == 2

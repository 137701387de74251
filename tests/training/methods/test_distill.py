import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import RECIPE

from training import recipe
from training.methods import distill
from training.model import checkpoint
from training.model.crnn import CRNN
from training.windows.cache import Windows

pytestmark = pytest.mark.usefixtures("few_hums")


def test_loss_is_hintons():
    """On logits, softened by the temperature on both sides, times its square: not a softmax of a softmax."""
    student, teacher = torch.randn(4, 1, 7), torch.randn(4, 1, 7)
    classes = [torch.stack([torch.zeros_like(odds), odds], -1) / 3.0 for odds in (student, teacher)]
    wanted = F.cross_entropy(classes[0].flatten(0, 2), classes[1].flatten(0, 2).softmax(-1)) * 9.0
    torch.testing.assert_close(distill.distillation_loss(student, teacher, 3.0), wanted)


def test_a_student_that_says_the_same_learns_nothing():
    odds = torch.randn(2, 1, 5, requires_grad=True)
    distill.distillation_loss(odds, odds.detach(), 2.0).backward()
    assert odds.grad.abs().max() < 1e-6


def test_attention_is_compared_over_every_stretch_of_hops():
    """Kullback-Leibler divergence by its definition; a constant added to all energies costs nothing."""
    student, teacher = torch.randn(3, 9), torch.randn(3, 9)
    wanted = []
    for row in range(3):
        for end in range(4, 10):
            p, q = (e[row, end - 4 : end].softmax(0) for e in (teacher, student))
            wanted.append((p * (p / q).log()).sum())
    torch.testing.assert_close(distill.attention_loss(student, teacher, 4), torch.stack(wanted).mean())
    assert distill.attention_loss(teacher + 3, teacher, 4).abs() < 1e-6
    assert distill.attention_loss(student, teacher, 16) > 0  # of a window that is longer than what was heard


def test_teachers_are_averaged_and_run_once(corpus, tmp_path, monkeypatch):
    wanted = recipe.parse(RECIPE)
    dataset = Windows(corpus, wanted, 0, tmp_path / "windows")
    folders = [tmp_path / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        checkpoint.save(folder, CRNN(wanted.model).state_dict(), RECIPE, seed, ["happy"], [0.5], 12)
    alone = [distill.outputs_of(checkpoint.load(folder)[0], dataset).numpy() for folder in folders]
    mean = (alone[0] + alone[1]) / 2
    monkeypatch.setattr(distill, "BATCH", 7)
    taught = distill.mean_outputs(folders, dataset)
    odds, energies = mean[:, :1], mean[:, 1]
    assert taught.log_odds.shape == (48, 1, 20)
    np.testing.assert_allclose(taught.log_odds, odds, atol=2e-3)
    np.testing.assert_allclose(taught.energies, energies, atol=2e-3)
    monkeypatch.setattr(distill, "outputs_of", None)
    again = distill.mean_outputs(folders, dataset)
    assert torch.equal(again.log_odds, taught.log_odds) and torch.equal(again.energies, taught.energies)

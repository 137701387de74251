import sys

import pytest
from small import RECIPE, run

from training import operating_points
from training.model import checkpoint
from training.model.ensemble import new_model
from training.recipe import parse
from training.validation.figures import SMOOTHINGS

COMMAND = [sys.executable, "-m", "training.operating_points"]


@pytest.fixture
def untrained(tmp_path):
    """A checkpoint whose threshold nothing was measured for."""
    recipe = parse(RECIPE)
    tensors = new_model(recipe.model).eval().state_dict()
    checkpoint.save(tmp_path / "happy", tensors, RECIPE, 3, ["happy"], [0.123], 12, 7)
    return tmp_path / "happy"


def test_operating_points_are_measured_and_the_weights_stay(untrained, corpus):
    before, _ = checkpoint.load(untrained)
    done = run(untrained.parent, untrained, "--data", corpus, command=COMMAND)
    assert done.returncode == 0, done.stderr
    after, info = checkpoint.load(untrained)
    for name, tensor in before.state_dict().items():
        assert tensor.equal(after.state_dict()[name])
    assert info.thresholds != [0.123] and info.recipe.train.seed == 3
    assert after.size.smoothing in SMOOTHINGS
    curve = info.curves[0]
    assert curve and all(0 < point["threshold"] < 1 for point in curve)
    assert f"threshold {info.thresholds[0]:.4f}" in done.stdout
    assert len(done.stdout.splitlines()) == 2 + len(curve)


def test_the_rate_replaces_the_recipes(untrained, corpus, monkeypatch):
    rates = []
    monkeypatch.setattr(operating_points, "validate", lambda _, held, __: rates.append(held.false_accepts_per_hour))
    for rate in (None, 0.25):
        with pytest.raises(AttributeError):  # of the figures that are not there
            operating_points.choose(untrained, corpus, rate)
    assert rates == [0.5, 0.25]


@pytest.mark.parametrize("arguments", [["nowhere"], ["happy", "--data", "nowhere"], ["happy", "--false-accepts", "-1"]])
def test_mistakes_are_one_line(untrained, corpus, arguments):
    given = [] if "--data" in arguments else ["--data", corpus]
    done = run(untrained.parent, *arguments, *given, command=COMMAND)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("operating_points: error: ")

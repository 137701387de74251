"""The ablation: each recipe differs from the whole in what its name says, and the document tells them apart."""

import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from edge_demo.results import ablation
from edge_demo.results.plan import FLOAT, Plan
from edge_demo.results.run import is_trained, train
from training import recipe
from training.recipe import RecipeError

ROOT = Path(__file__).resolve().parents[3]


def differences(one: dict, other: dict) -> set[str]:
    return {
        f"{name}.{key}"
        for name in one
        for key in {*one[name], *other[name]}
        if name != "model" or key != "keywords"
        if one[name][key] != other[name][key]
    }


def test_each_recipe_differs_in_its_change_alone(tmp_path):
    whole, *others = (recipe.read(Path(t.recipe), ["happy"]) for t in ablation.write_recipes("small", tmp_path))
    shipped = asdict(recipe.read(recipe.path_of("small"), ["happy"]))
    assert differences(asdict(whole), shipped) == {f"train.{key}" for key in ablation.SHORT["train"]}
    for change, other in zip(list(ablation.CHANGES.values())[1:], others, strict=True):
        wanted = {f"{name}.{key}" for name, keys in change.items() for key in keys}
        assert len(wanted) == 1 and differences(asdict(other), asdict(whole)) == wanted


def test_toml_is_read_as_it_was_meant():
    tables = {"data": {"keywords": ["naïve"], "levels": [-26.0, -26.0], "mislabelled": True}, "train": {"epochs": 3}}
    assert tomllib.loads(ablation.to_toml(tables)) == tables


def test_a_recipe_that_is_wrong_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match="known recipes"):
        ablation.write_recipes("nothing", tmp_path)


@pytest.mark.slow
def test_every_change_trains(corpus, tmp_path, monkeypatch):
    """Each on a tiny corpus, which is enough to say that no ingredient is needed by another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    small = {"train": {"epochs": 2, "pool": 32, "windows": 32, "batch": 16, "hops": 20}}
    few = {"data": {"rooms": 2, "synthetic": 0, "packages": []}, "model": {"channels": 2, "hidden": 6}}
    monkeypatch.setattr(ablation, "SHORT", ablation.changed(small, few))
    left = ("no-synthesised-near-misses", "no-speech-from-packages")  # there are none here
    tried = {name: change for name, change in ablation.CHANGES.items() if name not in left}
    monkeypatch.setattr(ablation, "CHANGES", tried)
    trainings = ablation.write_recipes("small", tmp_path / "recipes")
    plan = Plan(corpus, tmp_path, trainings, seeds=(0,), forms=(FLOAT,))
    train(plan)
    assert all(is_trained(plan, training, 0) for training in trainings)

from pathlib import Path

import pytest

from training import recipe
from training.model.crnn import CRNN, n_parameters

MINIMAL = '[data]\nkeywords = ["happy"]\n'


def test_every_shipped_recipe_is_valid():
    for name in recipe.known():
        recipe.read(Path(recipe.__file__).parent / "recipes" / f"{name}.toml")


@pytest.mark.parametrize(
    "name, parameters",
    [("base", 70_443), ("base32", 25_387), ("ad-kd", 2_445), ("kd14", 1_789)],
)
def test_the_seeds_models_have_their_published_sizes(name, parameters):
    assert n_parameters(CRNN(recipe.read(recipe.path_of(name)).size)) == parameters


@pytest.mark.parametrize(
    "text, message",
    [
        (MINIMAL + "[model]\nchanels = 8\n", r"unknown key model\.chanels; did you mean model\.channels\?"),
        (MINIMAL + "[modle]\n", r"unknown key modle; did you mean model\?"),
        (MINIMAL + "[model]\nhidden = 6.5\n", r"model\.hidden must be int, not 6\.5"),
        (MINIMAL + "[train]\nepochs = true\n", r"train\.epochs must be int"),
        (MINIMAL + "[model]\nsmoothing = -1\n", r"model\.smoothing must be at least 1"),
        (MINIMAL + "[model]\nmembers = 2\n[prune]\nhidden = 8\n", r"model\.members: an ensemble is neither pruned nor"),
        (MINIMAL + "[model]\nmembers = 2\n[train]\nquantized_epochs = 1\n", r"an ensemble is neither pruned nor"),
        (MINIMAL + "[model]\nmembers = 0\n", r"model\.members must be at least 1"),
        (MINIMAL + "[prune]\nhidden = 65\n", r"prune\.hidden must be from 1 to model\.hidden, 64"),
        (MINIMAL + "[prune]\nhidden = 8\nshare = 1.0\n", r"prune\.share must leave"),
        (MINIMAL + "[windows]\nspeeds = [0.9]\n", r"windows\.speeds must be two numbers from 0\.1 up, the lower first"),
        (MINIMAL + "[windows]\nlevels = [-8, -52]\n", r"windows\.levels must be two numbers .* not \[-8, -52\]"),
        (MINIMAL.rstrip() + "\nmislabelled = 1\n", r"data\.mislabelled must be bool, not 1"),
        ("", "no keywords"),
        ("[data\n", "not TOML"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(recipe.RecipeError, match=message):
        recipe.parse(text)


def test_keyword_and_seed_replace_the_recipes():
    parsed = recipe.parse(MINIMAL, ["computer", "jarvis"], seed=7)
    assert parsed.data.keywords == ("computer", "jarvis") and parsed.model.keywords == 2 and parsed.train.seed == 7


def test_whole_numbers_serve_as_floats():
    assert recipe.parse(MINIMAL + "[train]\nweight_decay = 0\n").train.weight_decay == 0.0


def test_missing_file_lists_the_known_ones(tmp_path):
    with pytest.raises(recipe.RecipeError, match="base"):
        recipe.read(tmp_path / "none.toml")

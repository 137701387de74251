"""What the results table is made of: trainings, their forms, and where each file lies."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from export.int8.quantize import file_of
from training import recipe as recipes

SEEDS = (0, 1, 2)
BASE = "base"  # all others are compared with it, unless recipes are named: then with the first of these
# Each model file of a bundle has a row of its own: candidate of export.int8.quantize → prefix of the recipe's name.
FLOAT, TRAINED = "float", "static-trained"
FORMS = {FLOAT: "", "dynamic": "DQ+", "static": "SQ+", TRAINED: "QAT+"}
# Names of the models in two student projects on Speech Commands: kws_project, and with a prime kws-hw.
PUBLISHED_NAMES = {
    "base": "B",
    "kd": "KD",
    "kd2": "KD2",
    "ad-kd": "AD+KD",
    "sp-ad-kd": "SP+AD+KD",
    "base32": "B′",
    "kd14": "KD′",
}


class TableError(Exception):
    """The message is one line with the fix in it."""


class Training(NamedTuple):
    """A recipe, or its control; trained once for each random seed."""

    recipe: str
    alone: bool  # without its teacher

    @property
    def name(self) -> str:
        stem = recipes.path_of(self.recipe).stem
        return PUBLISHED_NAMES.get(stem, stem) + (" alone" if self.alone else "")


@dataclass(frozen=True)
class Plan:
    """All trainings of a table, the one that others are compared with first."""

    recordings: Path
    runs: Path
    trainings: list[Training]
    keyword: str = "happy"
    seeds: tuple[int, ...] = SEEDS
    quick: bool = False
    forms: tuple[str, ...] = tuple(FORMS)

    def forms_of(self, training: Training) -> list[str]:
        """Those that a training is measured in. A control shows what its teacher is worth; float is enough for that."""
        trained = self.recipe(training, 0).train.quantized_epochs > 0
        forms = [form for form in FORMS if form == FLOAT or not training.alone and (trained or form != TRAINED)]
        return [form for form in forms if form in self.forms]

    def recipe(self, training: Training, seed: int) -> recipes.Recipe:
        recipe = recipes.read(recipes.path_of(training.recipe), [self.keyword], seed)
        return recipes.quick(recipe) if self.quick else recipe

    def run(self, training: Training, seed: int) -> Path:
        path = recipes.path_of(training.recipe)
        return self.runs / recipes.run_name(path, self.recipe(training, seed), training.alone)

    def checkpoint(self, training: Training, seed: int, form: str) -> Path:
        """Folder of the weights. The quantization-aware stage has its own."""
        folder = self.run(training, seed)
        return folder.with_name(f"{folder.name}-qat") if form == TRAINED else folder

    def model(self, training: Training, seed: int, form: str) -> Path:
        """Its ONNX file, in a bundle."""
        bundle = self.runs / "dist" / self.checkpoint(training, seed, form).name
        return bundle / ("model.onnx" if form == FLOAT else file_of(form))

    def models(self) -> list[Path]:
        return [
            self.model(training, seed, form)
            for training in self.trainings
            for seed in self.seeds
            for form in self.forms_of(training)
        ]


def trainings(names: list[str]) -> list[Training]:
    """The named recipes, or all, each followed by its control. Raises TableError, RecipeError."""
    chosen: list[Training] = []
    for name in names or sorted(recipes.known(), key=lambda name: (name != BASE, name)):
        stem = Path(name).stem
        training = Training(stem if stem in recipes.known() and same_file(name, stem) else name, False)
        control = control_of(training)
        chosen += [one for one in (training, control) if one and one not in chosen]
    titles = [training.name for training in chosen]
    for title in titles:
        if titles.count(title) > 1:
            raise TableError(f"two recipes are called {title}; rename one")
    return chosen


def same_file(name: str, other: str) -> bool:
    return recipes.path_of(name).resolve() == recipes.path_of(other).resolve()


def control_of(training: Training) -> Training | None:
    """The same student, schedule and data without a teacher: a known recipe if one is that. None without teachers."""
    recipe = before_quantization(training)
    if not recipe.distill.teachers:
        return None
    known = [Training(name, False) for name in recipes.known()]
    untaught = replace(recipe, distill=recipes.Distill())
    return next((one for one in known if before_quantization(one) == untaught), Training(training.recipe, True))


def before_quantization(training: Training) -> recipes.Recipe:
    """A recipe without its quantization-aware stage."""
    recipe = recipes.read(recipes.path_of(training.recipe), ["any"])
    return replace(recipe, train=replace(recipe.train, quantized_epochs=0))

"""A row of the table: a training, in one of the forms that a bundle has a model file for."""

from dataclasses import dataclass
from typing import NamedTuple

from training import recipe as recipes

# Each model file of a bundle is a row of its own: candidate of export.int8.quantize → what is put before the recipe's
# name.
FLOAT, TRAINED = "float", "static, trained"
FORMS = {FLOAT: "", "dynamic": "DQ+", "static": "SQ+", TRAINED: "QAT+"}
# What the two seed projects call their models, the second's marked with a prime. Other recipes keep their own names.
THEIR_NAMES = {
    "base": "B",
    "kd": "KD",
    "kd2": "KD2",
    "ad-kd": "AD+KD",
    "sp-ad-kd": "SP+AD+KD",
    "base32": "B′",
    "kd14": "KD′",
}


class Training(NamedTuple):
    """A recipe, or its control; trained once for each seed."""

    recipe: str
    alone: bool

    @property
    def name(self) -> str:
        stem = recipes.path_of(self.recipe).stem
        return THEIR_NAMES.get(stem, stem) + (" alone" if self.alone else "")


Key = tuple[Training, str]  # of a row: training and form


@dataclass(frozen=True)
class Row:
    """A training in one of its forms, all seeds."""

    training: Training
    form: str
    parameters: int
    per_second: float  # multiplications
    as_the_seeds_count: int
    weight_bytes: int
    file_bytes: float
    faster: float  # than what all are compared with, by the median time of a step
    epochs: int
    figures: dict[str, list[float]]  # for each of SHOWN that was measured: one of each seed
    interval: tuple[float, float]  # of the FRR

    @property
    def name(self) -> str:
        return FORMS[self.form] + self.training.name

"""A training in progress and its folder: model.safetensors (the best checkpoint so far), last.safetensors (everything
that a resumed training needs) and log.csv (a line per epoch)."""

import copy
import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from training import distributed
from training import recipe as recipes
from training.methods import prune
from training.model import checkpoint
from training.model.crnn import CRNN, Size, n_parameters
from training.model.ensemble import folded, new_model
from training.recipe import Recipe
from training.validation.figures import Figures

REFRACTORY_HOPS = 12  # 0.96 s: a keyword is not said twice in a second
FIGURES = ("misses", "clean", "one_minus_auroc", "frr", "smoothing")
COLUMNS = ("epoch", "loss", *FIGURES, "threshold", "seconds")  # of the log


class Run:
    """Model, averaged model, optimizer and log. `kind` is the class of the model; an ensemble is a CRNN here."""

    def __init__(self, recipe: Recipe, recipe_text: str, folder: Path, kind: type[CRNN] = CRNN):
        torch.manual_seed(recipe.train.seed)
        self.recipe, self.recipe_text, self.folder, self.kind = recipe, recipe_text, folder, kind
        self.build(recipe.model)
        self.epoch = 0
        self.best = math.inf  # misses of the checkpoint
        self.rows: list[dict] = []

    def build(self, size: Size) -> None:
        """A new model, its average and its optimizer."""
        train = self.recipe.train
        if self.kind is CRNN:  # a group of a normalised model is not zero where its weights are
            self.model = new_model(size, train.dropout, normalised=self.recipe.size == self.recipe.model)
        else:
            self.model = self.kind(size, train.dropout)
        self.average = copy.deepcopy(self.model).eval()  # stays on the CPU
        self.model.to(distributed.device())
        self.classify = distributed.parallel(self.model)
        rate, decay = train.learning_rate, train.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameters(), rate, weight_decay=decay)

    def prune(self) -> None:
        """Continue with the recipe's final size: the largest groups of the wide model."""
        size, target = self.model.size, self.recipe.size
        groups = prune.kinds(size, target)
        nonzero = sum(int((prune.norms(self.model.state_dict(), kind) > 0).sum()) for kind in groups)
        kept = prune.prune(self.model, target)
        names = [name for name, _ in self.model.named_parameters()]
        model, average = (prune.shrink(m.state_dict(), size, target, kept) for m in (self.model, self.average))
        moments = prune.shrink_moments(self.optimizer.state_dict()["state"], names, size, target, kept)
        self.build(target)
        self.model.load_state_dict(model)
        self.average.load_state_dict(average)
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        distributed.print_once(
            f"{self.folder}: pruned to {n_parameters(self.model)} parameters; the penalty left {nonzero} channels and "
            f"units, of which the {sum(kind.keep for kind in groups)} largest stay"
        )

    @property
    def is_late(self) -> bool:
        """Whether this epoch may become the checkpoint: in the schedule's second half, at the final size. In the first
        half a model that knows little may make few false accepts by chance."""
        return 2 * (self.epoch + 1) > self.recipe.train.epochs and self.model.size == self.recipe.size

    def end_epoch(self, loss: float, figures: Figures | None, seconds: float) -> None:
        """Log an epoch and write the folder; of several processes one does. figures: None if it was not validated."""
        self.epoch += 1
        if distributed.rank():
            return
        row: dict = {"epoch": self.epoch, "loss": round(loss, 5)}
        if figures:
            row |= {name: round(getattr(figures, name), 6) for name in FIGURES}
            row["threshold"] = " ".join(f"{threshold:.4f}" for threshold in figures.thresholds)
        row["seconds"] = round(seconds, 1)
        self.rows.append(row)
        if figures and figures.misses < self.best:
            self.best = figures.misses
            self.save_checkpoint(figures)
        self.save()
        with open(self.folder / "log.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        distributed.print_once("  ".join(f"{key} {value}" for key, value in row.items()))

    def save_checkpoint(self, figures: Figures) -> None:
        checkpoint.save(
            self.folder,
            (folded(self.average) if self.kind is CRNN else self.average).state_dict(),
            self.recipe_text,
            self.recipe.train.seed,
            list(self.recipe.data.keywords),
            figures.thresholds,
            REFRACTORY_HOPS,
            figures.smoothing,
            [[point._asdict() for point in curve] for curve in figures.curves],
        )

    def save(self) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in moments.items()}
        metadata = {
            "recipe": json.dumps(asdict(self.recipe)),
            "progress": json.dumps({"epoch": self.epoch, "best": self.best, "rows": self.rows}),
        }
        content = to_bytes(checkpoint.contiguous(tensors), metadata)
        checkpoint.write_atomically(self.folder / "last.safetensors", content)

    def resume(self) -> None:
        """Continue from last.safetensors if there is one. Raises CheckpointError if another recipe made it."""
        path = self.folder / "last.safetensors"
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        try:  # a key that is newer than the file has its default
            same = recipes.assemble(json.loads(metadata["recipe"])) == self.recipe
        except recipes.RecipeError:
            same = False
        if not same:
            raise checkpoint.CheckpointError(f"{path} was made by another recipe; remove {self.folder} or pass --out")
        progress = json.loads(metadata["progress"])
        self.epoch, self.best, self.rows = progress["epoch"], progress["best"], progress["rows"]
        if self.epoch > self.recipe.wide_epochs:
            self.build(self.recipe.size)
        self.model.load_state_dict(part(tensors, "model."))
        self.average.load_state_dict(part(tensors, "average."))
        state = self.optimizer.state_dict()
        for name, tensor in part(tensors, "optimizer.").items():
            index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

"""Checkpoints: one safetensors file with the weights as tensors and the rest as text in its metadata."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from training import recipe as recipes
from training.model.crnn import CRNN
from training.model.ensemble import new_model

VERSION = "1"
RANGES = "ranges."


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is one line with the fix in it."""


@dataclass(frozen=True)
class Info:
    """The contents of a checkpoint besides its weights."""

    name: str  # the folder's: happy-base
    keywords: list[str]
    thresholds: list[float]  # the operating point, one for each keyword
    refractory_hops: int
    recipe: recipes.Recipe
    recipe_text: str
    # Other operating points of each keyword, see validation.figures.Point; empty where none were measured
    curves: list[list[dict[str, float]]] = field(default_factory=list)
    # From quantization-aware training: name of an activation → lowest and highest value (see quantized.py)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def load(path: str | Path) -> tuple[CRNN, Info]:
    """A checkpoint folder, or its `model.safetensors` → the model in eval mode. Raises CheckpointError."""
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = "no such file" if not file.exists() else str(error).splitlines()[0]
        raise CheckpointError(f"{file}: {reason}; a checkpoint is a folder made by `make train`") from None
    if metadata.get("earshot_version") != VERSION:
        raise CheckpointError(f"{file}: not an Earshot checkpoint of version {VERSION}; train it again")
    names = [name for name in tensors if name.startswith(RANGES)]
    try:
        limits = {name.removeprefix(RANGES): tensors.pop(name).tolist() for name in names}
        ranges = {name: (low, high) for name, (low, high) in limits.items()}
        keywords = json.loads(metadata["keywords"])
        curves = metadata.get("curves", "[]")
        recipe = recipes.parse(metadata["recipe"], keywords, int(metadata["seed"]))
        info = Info(
            file.resolve().parent.name,
            keywords,
            json.loads(metadata["threshold"]),
            int(metadata["refractory_hops"]),
            recipe,
            metadata["recipe"],
            [[dict(point) for point in one] for one in json.loads(curves)],
            ranges,
        )
        smoothing = int(metadata.get("smoothing", recipe.size.averaged))  # older files do not have it
        model = new_model(replace(recipe.size, smoothing=smoothing), recipe.train.dropout)
        model.load_state_dict(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, recipes.RecipeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{file}: weights and recipe do not fit: {reason[:200]}") from None
    return model.eval(), info


def save(
    path: str | Path,
    tensors: dict[str, Tensor],
    recipe_text: str,
    seed: int,
    keywords: list[str],
    thresholds: list[float],
    refractory_hops: int,
    smoothing: int = 1,
    curves: Sequence[Sequence[dict[str, float]]] = (),
) -> None:
    """Write a checkpoint folder, atomically. smoothing: where the recipe leaves it open."""
    metadata = {
        "earshot_version": VERSION,
        "recipe": recipe_text,
        "seed": str(seed),
        "keywords": json.dumps(keywords),
        "threshold": json.dumps(thresholds),
        "refractory_hops": str(refractory_hops),
        "smoothing": str(smoothing),
        "curves": json.dumps(curves),
    }
    write_atomically(Path(path) / "model.safetensors", to_bytes(contiguous(tensors), metadata))


def set_operating_points(
    path: str | Path, thresholds: list[float], smoothing: int, curves: Sequence[Sequence[dict[str, float]]]
) -> None:
    """Replace what `save` was given for these; the weights and all else stay, byte for byte. Raises CheckpointError."""
    file = Path(path) / "model.safetensors"
    load(file)  # says what is wrong with it
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    metadata |= {"threshold": json.dumps(thresholds), "smoothing": str(smoothing), "curves": json.dumps(curves)}
    write_atomically(file, to_bytes(tensors, metadata))


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def write_atomically(path: Path, content: bytes) -> None:
    """Write all or nothing: after a crash, a full disk or a power cut the old file is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""Models with random weights: an export does not care what its model has learned."""

from pathlib import Path

import torch

from export.detector import Detector
from training.model import checkpoint
from training.model.crnn import CRNN, Size
from training.model.ensemble import new_model

RECIPE = """
[data]
keywords = {keywords}
[model]
kernel = [15, 5]
hidden = 21
"""


def random_model(size: Size, seed: int = 0) -> CRNN:
    """Weights large enough that scores move."""
    torch.manual_seed(seed)
    model = new_model(size).eval()
    for name, parameter in model.named_parameters():
        parameter.data *= 1.5 if "weight" in name else 1
    return model.requires_grad_(False)


def random_detector(size: Size, name: str = "test", seed: int = 0) -> Detector:
    keywords = [f"word{i}" for i in range(size.keywords)]
    return Detector(name, random_model(size, seed), keywords, [0.5 + i / 10 for i in range(size.keywords)], 12)


def save_checkpoint(
    folder: Path,
    model: CRNN,
    keywords: list[str],
    recipe: str = RECIPE,
    curves: list[list[dict[str, float]]] | None = None,
) -> Path:
    text = recipe.format(keywords=str(keywords).replace("'", '"'))
    checkpoint.save(folder, model.state_dict(), text, 0, keywords, [0.6] * len(keywords), 12, curves=curves or [])
    return folder

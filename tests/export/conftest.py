"""One bundle for all tests, and the command line within this process."""

from pathlib import Path

import pytest
import torch
from random_models import random_model, save_checkpoint
from toy import CURVE

from export.__main__ import main
from training.model.crnn import CRNN, Size


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> tuple[CRNN, Path]:
    """A model of the base size and its bundle, made by the command line."""
    model = random_model(Size())
    folder = tmp_path_factory.mktemp("base")
    recipe = '[data]\nkeywords = ["happy"]\n'
    path = save_checkpoint(folder / "happy-base", model, ["happy"], recipe, [CURVE])
    assert main([str(path), "--out", str(folder / "dist"), "--also", "dynamic", "--also", "static"]) == 0
    return model, folder / "dist" / "happy-base"


@pytest.fixture
def run(capsys):
    """`python -m export` within this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run

"""A recipe that trains in seconds, and the command that does."""

import os
import subprocess
import sys

RECIPE = """
[data]
keywords = ["happy"]
synthetic = 0
voices = 0
packages = []
rooms = 2
[windows]
bursts = 0
worn = 0
muted = 0
[model]
channels = 2
hidden = 6
layers = 1
[train]
epochs = 2
windows = 32
pool = 48
batch = 16
hops = 20
"""
COMMAND = [sys.executable, "-m", "training.train"]


def run(folder, *arguments, command=COMMAND, **options):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    words = [*command, *map(str, arguments)]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, **options)


def train(folder, corpus, out, text=RECIPE, **options):
    recipe = folder / f"{out}.toml"
    recipe.write_text(text)
    return run(folder, recipe, "--data", corpus, "--out", folder / out, "--workers", "0", **options)

"""Find recordings of a keyword in which it is not said:

    EARSHOT_DATA=~/recordings python -m training.mislabelled base             # lists them
    EARSHOT_DATA=~/recordings python -m training.mislabelled base --write     # and has trainings leave them out

A model gives in to a wrong label last of all. So what several of them say of a clip that they were trained on, many
times and in many voices, and still takes for anything but the keyword, is likely silence, a word cut in half, or
another word (Northcutt et al. 2021, "Confident learning", with an ensemble for their cross-validation). Listen before
you write. Names are kept in training/data/mislabelled.txt, without what follows the last dot.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training import recipe as recipes
from training import validation
from training.data import mislabelled
from training.data import recordings as data
from training.model import checkpoint
from training.model.features import SAMPLE_RATE

PAUSE = np.zeros(SAMPLE_RATE // 2, np.float32)  # before and after a clip


def log_odds_of(clips: list[data.Clip], folders: list[Path], keyword: str) -> np.ndarray:
    """Highest mean log-odds of several trained models in each clip: (clips,). Raises CheckpointError, DataError."""
    loaded = [checkpoint.load(folder) for folder in folders]
    for model, _ in loaded:
        model.size = replace(model.size, smoothing=1)  # said is said, however briefly
    columns = [info.keywords.index(keyword) for _, info in loaded]
    audio = [np.concatenate([PAUSE, clip, PAUSE]) for clip in data.read_floats(clips, f"clips of {keyword}")]
    first = loaded[0][0]
    frames = validation.frames_of(first, validation.padded(audio, first.size.hop_samples))
    said = [validation.stream(model, frames)[..., column] for (model, _), column in zip(loaded, columns, strict=True)]
    return torch.stack(said).mean(0).amax(1).numpy()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.mislabelled", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help=f"whose trained models judge: a TOML file, or one of {recipes.known()}")
    parser.add_argument("--keyword", action="append", help="instead of the recipe's")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where they are (default: runs)")
    parser.add_argument("--write", action="store_true", help=f"add what is found to {mislabelled.LIST}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        base, path = data.root(options.data), recipes.path_of(options.recipe)
        recipe = recipes.read(path, options.keyword)
        stem = recipes.run_name(path, recipe).rpartition("-s")[0]
        folders = sorted(folder for folder in options.runs.glob(f"{stem}-s*") if folder.name[len(stem) + 2 :].isdigit())
        if not folders:
            raise data.DataError(f"no trained model in {options.runs}/{stem}-s*: python -m training.train {path.stem}")
        found: set[str] = set()
        for keyword in recipe.data.keywords:
            every = data.find(base, recipe.data.words, words=True)
            clips = [clip for clip in every if clip.split == "training" and clip.word == keyword]
            odds = log_odds_of(clips, folders, keyword)
            for index in np.argsort(odds):
                if odds[index] < 0:  # all together they would rather say no
                    found.add(mislabelled.name_of(clips[index].path, base))
                    print(f"{odds[index]:6.2f}  {clips[index].path}")
            print(f"{keyword}: {(odds < 0).sum()} of {len(clips)} training clips, by {len(folders)} models of {stem}")
        if options.write:
            mislabelled.LIST.write_text("\n".join(sorted(mislabelled.known() | found)) + "\n")
            count = len(mislabelled.known())
            print(f"{mislabelled.LIST}: {count} names; training windows are made anew by the next training")
    except (data.DataError, recipes.RecipeError, checkpoint.CheckpointError, OSError) as error:
        print(f"mislabelled: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

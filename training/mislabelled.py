"""Find recordings of a keyword in which it is not said:

    EARSHOT_DATA=~/recordings python -m training.mislabelled base             # lists them
    EARSHOT_DATA=~/recordings python -m training.mislabelled base --write     # and has trainings leave them out

Wrong labels are the last that a model learns. A training clip of the keyword that the mean of several trained models
rejects is likely silence, a word cut in half, or another word (Northcutt et al. 2021, "Confident learning", with an
ensemble instead of cross-validation). Listen to the clips before you write. Names are kept in
training/data/mislabelled.txt, without extension.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training import recipe as recipes
from training.data import mislabelled
from training.data import recordings as data
from training.model import checkpoint
from training.model.features import SAMPLE_RATE
from training.validation.figures import stream
from training.validation.held_out import frames_of, padded

PAUSE = np.zeros(SAMPLE_RATE // 2, np.float32)  # before and after a clip


def log_odds_of(clips: list[data.Clip], folders: list[Path], keyword: str) -> np.ndarray:
    """Highest mean log-odds of several trained models in each clip: (clips,). Raises CheckpointError, DataError."""
    loaded = [checkpoint.load(folder) for folder in folders]
    for model, _ in loaded:
        model.size = replace(model.size, smoothing=1)  # a short word counts in full
    columns = [info.keywords.index(keyword) for _, info in loaded]
    audio = [np.concatenate([PAUSE, clip, PAUSE]) for clip in data.read_floats(clips, f"clips of {keyword}")]
    first = loaded[0][0]
    frames = frames_of(first, padded(audio, first.size.hop_samples))
    odds = [stream(model, frames)[..., column] for (model, _), column in zip(loaded, columns, strict=True)]
    return torch.stack(odds).mean(0).amax(1).numpy()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.mislabelled", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help=f"of the trained models: a TOML file, or one of: {', '.join(recipes.known())}")
    parser.add_argument("--keyword", action="append", help="instead of the recipe's")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the trained models are (default: runs)")
    parser.add_argument("--write", action="store_true", help=f"add the clips to {mislabelled.LIST}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        base, path = data.root(options.data), recipes.path_of(options.recipe)
        recipe = recipes.read(path, options.keyword)
        stem = recipes.run_name(path, recipe).rpartition("-s")[0]
        folders = sorted(folder for folder in options.runs.glob(f"{stem}-s*") if folder.name[len(stem) + 2 :].isdigit())
        if not folders:
            raise data.DataError(f"no trained model in {options.runs}/{stem}-s*: python -m training.train {path.stem}")
        names: set[str] = set()
        for keyword in recipe.data.keywords:
            words = data.find(base, recipe.data.words, words=True)
            clips = [clip for clip in words if clip.split == "training" and clip.word == keyword]
            odds = log_odds_of(clips, folders, keyword)
            for index in np.argsort(odds):
                if odds[index] < 0:  # a score below one half
                    names.add(mislabelled.name_of(clips[index].path, base))
                    print(f"{odds[index]:6.2f}  {clips[index].path}")
            print(f"{keyword}: {(odds < 0).sum()} of {len(clips)} training clips, by {len(folders)} models of {stem}")
        if options.write:
            mislabelled.LIST.write_text("\n".join(sorted(mislabelled.known() | names)) + "\n")
            count = len(mislabelled.known())
            print(f"{mislabelled.LIST}: {count} names; training windows are made anew by the next training")
    except (data.DataError, recipes.RecipeError, checkpoint.CheckpointError, OSError) as error:
        print(f"mislabelled: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

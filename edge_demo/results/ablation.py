"""The worth of each ingredient of a training: a recipe on a short schedule, and the same with one thing changed at a
time, three random seeds of each, evaluated as streamed on the device.

    EARSHOT_DATA=~/recordings python -m edge_demo.results.ablation wide

writes ablation.md. What is there is not made again; run it again to go on after an interruption.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from edge_demo.results.document import comparison_table, quality_table
from edge_demo.results.plan import FLOAT, Plan, Training
from edge_demo.results.rows import Row, base_pairs, read_rows
from edge_demo.results.run import finish, run_all
from training import recipe as recipes
from training.data import recordings as data
from training.model.checkpoint import write_atomically

# A sixth of the windows, because every change needs its own (0.4 GB each in runs/windows), and half of the schedule.
SHORT = {"train": {"epochs": 6, "pool": 16_384, "quantized_epochs": 0}}
CHANGES: dict[str, dict[str, dict]] = {  # name of the row → what differs
    "everything": {},
    "no-pause-before-the-word": {"windows": {"pauses": 0.0}},
    "no-synthesised-near-misses": {"data": {"synthetic": 0}},
    "no-speech-from-packages": {"data": {"packages": []}},
    "no-rooms": {"data": {"rooms": 0}},
    "no-recorded-noise": {"data": {"noise": []}},
    "no-change-of-speed": {"windows": {"speeds": [1.0, 1.0]}},
    "one-level": {"windows": {"levels": [-26.0, -26.0]}},
    "mislabelled-clips-too": {"data": {"mislabelled": True}},
    "windows-alone": {"train": {"fresh": 1.0}},
}


def changed(tables: dict[str, dict], *changes: Mapping[str, Mapping]) -> dict[str, dict]:
    """A recipe's tables with some keys replaced."""
    tables = {name: dict(table) for name, table in tables.items()}
    for change in changes:
        for name, keys in change.items():
            tables.setdefault(name, {}).update(keys)
    return tables


def to_toml(tables: dict[str, dict]) -> str:
    """Tables of numbers, strings and lists of these, which TOML writes as JSON does."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for name, keys in tables.items()
    )


def write_recipes(recipe: str, folder: Path) -> list[Training]:
    """One recipe a change, the unchanged one first. Raises RecipeError."""
    path = recipes.path_of(recipe)
    recipes.read(path, ["any"])  # raises for a recipe that cannot be used
    tables = tomllib.loads(path.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    trainings = []
    for name, change in CHANGES.items():
        file = folder / f"{name}.toml"
        write_atomically(file, to_toml(changed(tables, SHORT, change)).encode())
        trainings.append(Training(str(file), False))
    return trainings


def document(recipe: str, rows: list[Row]) -> str:
    schedule = SHORT["train"]
    return f"""# What each ingredient is worth

Written by `python -m edge_demo.results.ablation {recipe}`: the recipe `{recipe}` with {schedule["epochs"]} epochs and
{schedule["pool"]:,} windows, and the same with one thing changed (`CHANGES` of `edge_demo/results/ablation.py`), three
random seeds of each: means, with the lowest and the highest. The schedule is short: compare within this table only.
Columns and intervals are those of [results.md](results.md). Validation, which picks the epoch, has the same noises and
rooms for all. "no-change-of-speed" leaves the warped frequencies; "mislabelled-clips-too" adds clips.

{quality_table(rows)}

## Against everything

Positive: it misses more with this change.

{comparison_table(base_pairs(rows))}
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.results.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="?", default="wide", help="a TOML file or one of the recipes (default: wide)")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--keyword", default="happy", help="(default: happy)")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="trainings, bundles and evaluations")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="where ablation.md goes (default: docs)")
    args = parser.parse_args()

    def build() -> Path:
        runs = args.runs.resolve() / recipes.path_of(args.recipe).stem
        trainings = write_recipes(args.recipe, runs / "recipes")
        plan = Plan(data.root(args.data).resolve(), runs, trainings, args.keyword, forms=(FLOAT,))
        run_all(plan)
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out / "ablation.md", document(args.recipe, read_rows(plan)).encode())
        return args.out / "ablation.md"

    return finish("ablation", build)


if __name__ == "__main__":
    sys.exit(main())

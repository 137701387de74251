"""Every recipe of training/recipes, its control without a teacher, three random seeds of each: trained, exported,
evaluated as streamed on the device, and written as a table with pictures.

    EARSHOT_DATA=~/recordings python -m edge_demo.results.table
    EARSHOT_DATA=~/recordings python -m edge_demo.results.table base small mine.toml   # only these
    EARSHOT_DATA=~/recordings python -m edge_demo.results.table --quick --runs runs/quick --out runs/quick

What is there is not made again: a run that has all its epochs, a bundle that is newer than its checkpoint and than
export/, the evaluation of a model file with the same content. Run it again to go on after an interruption.
"""

import argparse
import sys
from pathlib import Path

from edge_demo.results import plots
from edge_demo.results.document import document
from edge_demo.results.plan import SEEDS, Plan, trainings
from edge_demo.results.rows import Row, read_rows
from edge_demo.results.run import finish, run_all
from training.data import recordings as data
from training.model.checkpoint import write_atomically


def write(plan: Plan, rows: list[Row], out: Path) -> Path:
    """results.md and its pictures."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(rows, out)
    write_atomically(out / "results.md", document(plan, rows, pictures).encode())
    return out / "results.md"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.results.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="*", help="only these, compared with the first (default: all, with base)")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--keyword", default="happy", help="(default: happy)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="trainings, bundles and evaluations")
    parser.add_argument("--out", type=Path, help="results.md and pictures (default: docs; of named recipes RUNS/table)")
    parser.add_argument("--quick", action="store_true", help="one seed and a schedule of minutes: the table's shape")
    args = parser.parse_args()

    def build() -> Path:
        seeds = SEEDS[:1] if args.quick else SEEDS
        recordings = data.root(args.data).resolve()
        plan = Plan(recordings, args.runs.resolve(), trainings(args.recipe), args.keyword, seeds, args.quick)
        run_all(plan)
        return write(plan, read_rows(plan), args.out or (args.runs / "table" if args.recipe else Path("docs")))

    return finish("table", build)


if __name__ == "__main__":
    sys.exit(main())

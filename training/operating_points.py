"""Choose the operating points of a checkpoint again, on the present validation split:

    EARSHOT_DATA=~/recordings python -m training.operating_points models/happy-ensemble
    EARSHOT_DATA=~/recordings python -m training.operating_points models/*/ --false-accepts 0.25

The weights stay. Threshold, smoothing and curve are replaced by those that a training would choose, and printed. Export
the checkpoint again for a bundle with them.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from training.data import recordings as data
from training.model import checkpoint
from training.validation.figures import Figures, validate
from training.validation.held_out import load


def choose(path: Path, base: Path, false_accepts: float | None) -> Figures:
    """Measure a checkpoint and write its operating points into it. false_accepts: an hour, instead of its recipe's.

    Raises CheckpointError, DataError and OSError.
    """
    model, info = checkpoint.load(path)
    recipe = info.recipe
    if false_accepts is not None:
        recipe = replace(recipe, data=replace(recipe.data, false_accepts_per_hour=false_accepts))
    held_out = load(base, recipe, model)
    model.size = replace(model.size, smoothing=recipe.model.smoothing)
    figures = validate(model, held_out, info.refractory_hops)
    curves = [[point._asdict() for point in curve] for curve in figures.curves]
    checkpoint.set_operating_points(path, figures.thresholds, figures.smoothing, curves)
    return figures


def report(path: Path, keywords: list[str], figures: Figures) -> str:
    """A table of each keyword's operating points."""
    lines = []
    for keyword, threshold, curve in zip(keywords, figures.thresholds, figures.curves, strict=True):
        lines += [f"{path}, {keyword}: threshold {threshold:.4f}, {figures.smoothing} hops averaged"]
        lines += ["threshold  false accepts/h  worst kind/h  missed, %  missed at 10 dB, %"]
        lines += [
            f"{point.threshold:9.4f}  {point.false_accepts_per_hour:15.2f}  {point.worst_kind_per_hour:12.2f}  "
            f"{100 * point.misses:9.1f}  {100 * point.misses_10_db:18.1f}"
            for point in curve
        ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.operating_points",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="+", type=Path, help="folder with model.safetensors")
    parser.add_argument("--false-accepts", type=float, metavar="RATE", help="an hour of speech, at the threshold")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    args = parser.parse_args()
    try:
        if args.false_accepts is not None and not 0 <= args.false_accepts < 1000:
            raise data.DataError(f"--false-accepts is a number an hour, such as 0.5, not {args.false_accepts}")
        base = data.root(args.data)
        for path in args.checkpoint:
            figures = choose(path, base, args.false_accepts)
            print(report(path, checkpoint.load(path)[1].keywords, figures), flush=True)
    except (checkpoint.CheckpointError, data.DataError, OSError) as error:
        print(f"operating_points: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

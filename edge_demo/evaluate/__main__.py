"""How good a bundle is, streamed hop by hop by the runtime's own engine and detector, as on the device:

    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble dist/happy-small   # side by side
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble --rate 0.5         # choose the threshold

Every figure is of recordings that nothing was trained on: the testing lists, and the testing split of every kind of
speech and noise (python -m training.data.corpora; 455 MB of Debian packages are fetched once). Thresholds are chosen on
the validation split. Random draws have a fixed seed, the same for every bundle. Intervals are of 95 %.
"""

import argparse
import json
import sys
from pathlib import Path

from edge_demo.evaluate import negatives, report
from edge_demo.evaluate.det import draw
from edge_demo.evaluate.false_accepts import WORST
from edge_demo.evaluate.figures import Evaluation, evaluate, operating_points
from edge_demo.evaluate.misses import track_figures
from edge_demo.evaluate.peers import peer_figures
from edge_demo.evaluate.recordings import load
from export.folder.threshold import set_thresholds
from runtime.bundle.engine import Engine
from runtime.errors import BundleError
from training.data import recordings as data

LISTED = 20  # false accepts of each keyword that are printed


def main() -> int:
    args = parser().parse_args()
    out = args.out or Path(args.bundle[0])
    try:
        evaluations = measure(args)
        columns = {name: one.figures for name, one in evaluations.items()}
        if args.peers:
            columns |= peer_figures(args.peers, streams("testing", args))
        events = write(out, evaluations, columns)
    except (BundleError, data.DataError, OSError) as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report.table(report.cells(columns)))
    for name, some in events.items():
        print(f"\n{name}: {len(some)} false accepts, the highest scores first")
        print(*(report.line(event) for event in some[:LISTED]), sep="\n")
    print(f"\nfigures: {out}/evaluation.json; all false accepts: {out}/false_accepts.json; pictures: {out}/report.md")
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m edge_demo.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("bundle", nargs="+", help="folder of a bundle")
    options.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    options.add_argument("--model", help="model.onnx or model.int8.onnx (default: the bundle's own choice)")
    options.add_argument("--also", type=Path, nargs="*", default=[], help="more folders of recordings without the word")
    options.add_argument(
        "--rate",
        type=float,
        metavar="FA/H",
        help="choose the threshold with at most so many false accepts an hour of validation speech, of noise and of "
        f"each --also ({WORST} times that in a single kind of speech), and write it into the bundle",
    )
    options.add_argument("--peers", metavar="PYTHON", help="also microWakeWord's models, installed for this Python")
    options.add_argument("--out", type=Path, help="folder of figures and report (default: the first bundle)")
    return options


def streams(split: str, args: argparse.Namespace) -> list[negatives.Stream]:
    return negatives.kinds(split, data.root(args.data)) + negatives.of_folders(args.also)


def measure(args: argparse.Namespace) -> dict[str, Evaluation]:
    """By bundle:keyword. Writes the chosen thresholds into the bundles."""
    base, evaluations = data.root(args.data), {}
    engines = {bundle: Engine(bundle, args.model) for bundle in args.bundle}
    testing = streams("testing", args)
    validation = [] if args.rate is None else streams("validation", args)
    for bundle, engine in engines.items():
        thresholds = None if args.rate is None else operating_points(engine, validation, args.rate)
        results = evaluate(engine, base, testing, thresholds)
        for keyword, (word, one) in enumerate(zip(engine.keywords, results, strict=True)):
            one.figures.update(track_figures(engine, load(base, word), keyword, one.figures["threshold"]))
            evaluations[f"{Path(bundle).name}:{word}"] = one
        if thresholds:
            set_thresholds(Path(bundle), thresholds)
    return evaluations


def write(out: Path, evaluations: dict[str, Evaluation], columns: dict[str, dict]) -> dict[str, list[dict]]:
    """Figures, pictures and report; returns the false accepts by bundle:keyword."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "evaluation.json").write_text(json.dumps(columns, indent=1) + "\n")
    draw(columns, {name: one.det for name, one in evaluations.items()}, out / "evaluation.png")
    report.put_into_report(out / "report.md", columns, "evaluation.png")
    events = {name: report.false_accepts(one.alarms, one.figures["threshold"]) for name, one in evaluations.items()}
    (out / "false_accepts.json").write_text(json.dumps(events, indent=1) + "\n")
    return events


if __name__ == "__main__":
    sys.exit(main())

"""How good a bundle is, streamed hop by hop by the runtime's own engine and detector, as on the device:

    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble dist/happy-small   # side by side
    EARSHOT_DATA=~/recordings python -m edge_demo.evaluate dist/happy-ensemble --wanted 0.5       # choose the threshold

Every figure is of recordings that nothing was trained on: the testing lists, and the testing split of every kind of
speech and noise (python -m training.data.corpora; 455 MB of Debian packages are fetched once); thresholds are chosen on
the validation split. What is random is drawn from a fixed seed, the same for every bundle. Intervals are of 95 %.
"""

import argparse
import json
import sys
from pathlib import Path

from edge_demo.evaluate import negatives, report
from edge_demo.evaluate.det import draw
from edge_demo.evaluate.figures import Evaluation, evaluate
from edge_demo.evaluate.misses import track_figures
from edge_demo.evaluate.peers import peer_figures
from edge_demo.evaluate.recordings import load
from export.folder.threshold import set_thresholds
from runtime.bundle.engine import Engine
from runtime.errors import BundleError
from training.data import recordings as data

LISTED = 20  # false accepts of each keyword that are printed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="+", help="folder of a bundle")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--model", help="model.onnx or model.int8.onnx (default: the bundle's own choice)")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more folders of recordings without the word")
    parser.add_argument(
        "--wanted",
        type=float,
        metavar="RATE",
        help="choose the threshold that makes at most RATE false accepts an hour of validation speech, of noise and of "
        f"each --also ({negatives.WORST} times that of a single kind of speech), and write it into the bundle",
    )
    parser.add_argument("--peers", metavar="PYTHON", help="also microWakeWord's models, which this Python has")
    parser.add_argument("--out", type=Path, help="folder of figures and report (default: the first bundle)")
    args = parser.parse_args()
    out = args.out or Path(args.bundle[0])
    try:
        found = measured(args)
        columns = {name: one.figures for name, one in found.items()}
        if args.peers:
            columns |= peer_figures(args.peers, streams("testing", args))
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(columns, indent=1) + "\n")
        draw(columns, {name: one.det for name, one in found.items()}, out / "evaluation.png")
        report.put_into_report(out / "report.md", columns, "evaluation.png")
        fired = {name: report.fired(one.alarms, one.figures["threshold"]) for name, one in found.items()}
        (out / "false_accepts.json").write_text(json.dumps(fired, indent=1) + "\n")
    except (BundleError, data.DataError, OSError) as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report.table(report.cells(columns)))
    for name, events in fired.items():
        print(f"\n{name}: {len(events)} false accepts, the highest scores first")
        print(*(report.line(event) for event in events[:LISTED]), sep="\n")
    print(f"\nfigures: {out}/evaluation.json; all false accepts: {out}/false_accepts.json; pictures: {out}/report.md")
    return 0


def streams(split: str, args: argparse.Namespace) -> list[negatives.Stream]:
    return negatives.kinds(split, data.root(args.data)) + negatives.of_folders(args.also)


def measured(args: argparse.Namespace) -> dict[str, Evaluation]:
    """By bundle:keyword. Writes the thresholds that were chosen."""
    base, found = data.root(args.data), {}
    engines = {bundle: Engine(bundle, args.model) for bundle in args.bundle}
    testing = streams("testing", args)
    validation = None if args.wanted is None else streams("validation", args)
    for bundle, engine in engines.items():
        evaluations = evaluate(engine, base, testing, validation, args.wanted or 0.0)
        for keyword, (word, one) in enumerate(zip(engine.keywords, evaluations, strict=True)):
            one.figures.update(track_figures(engine, load(base, word), keyword, one.figures["threshold"]))
            found[f"{Path(bundle).name}:{word}"] = one
        if validation is not None:
            set_thresholds(Path(bundle), [one.figures["threshold"] for one in evaluations])
    return found


if __name__ == "__main__":
    sys.exit(main())

"""Every recipe of training/recipes, its control without a teacher, three seeds of each: trained, exported, evaluated as
streamed on the device, and written as a table with pictures.

    EARSHOT_DATA=~/recordings python -m edge_demo.results.table
    EARSHOT_DATA=~/recordings python -m edge_demo.results.table base small mine.toml   # these; other rows stay
    EARSHOT_DATA=~/recordings python -m edge_demo.results.table --quick --runs runs/quick --out runs/quick

What is there is not made again: a run that has all its epochs, a bundle that is newer than its checkpoint and than
export/, the evaluation of a model file with the same content. Run it again to go on after an interruption. What is
shown is kept in results.json too, so that a row can be added or renewed without training all others.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from safetensors import safe_open
from tqdm import tqdm

from edge_demo.bench import cost
from edge_demo.evaluate.figures import evaluate
from edge_demo.evaluate.negatives import JOINED, kinds
from edge_demo.results import plots
from edge_demo.results.rows import FLOAT, FORMS, TRAINED, Key, Row, Training
from export.int8.quantize import file_of
from runtime.bundle.engine import Engine
from runtime.errors import BundleError
from training import metrics
from training import recipe as recipes
from training.data import recordings as data
from training.model.checkpoint import write_atomically
from training.model.crnn import n_parameters
from training.model.ensemble import new_model

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 1, 2)
BASE = "base"  # what all others are compared with, unless recipes are named: then it is the first of these
CONDITIONS = ("clean", "10_db")  # of evaluate, that the table shows
EVALUATION = 2  # raise it when edge_demo/evaluate measures something else: what was measured before is then redone


class TableError(Exception):
    """The message is one line with the fix in it."""


FRR = "frr_at_half_percent_far"
# What is shown of each model: title → where evaluate has it, factor, digits.
SHOWN = {
    "AU-FA-FR · 10⁴": ("au_fa_fr", 1e4, 2),
    "1 − AUROC · 10⁴": ("one_minus_auroc", 1e4, 0),
    "FRR at 0.5 % FAR, %": (FRR, 100, 1),
    "FA/h, speech": ("speech_at_operating_point per_hour", 1, 1),
    "FA/h, other words": (f"{JOINED}_at_operating_point per_hour", 1, 1),
    "misses, clean, %": ("misses_clean share", 100, 1),
    "misses at 10 dB, %": ("misses_10_db share", 100, 1),
}


@dataclass(frozen=True)
class Options:
    base: Path  # recordings
    runs: Path
    seeds: tuple[int, ...]
    quick: bool
    keyword: str
    forms: tuple[str, ...] = tuple(FORMS)

    def forms_of(self, training: Training) -> list[str]:
        """Those that it is measured in; a control is there for its teacher's sake, and float says enough."""
        trained = self.recipe(training, 0).train.quantized_epochs > 0
        found = [form for form in FORMS if form == FLOAT or not training.alone and (trained or form != TRAINED)]
        return [form for form in found if form in self.forms]

    def recipe(self, training: Training, seed: int) -> recipes.Recipe:
        recipe = recipes.read(recipes.path_of(training.recipe), [self.keyword], seed)
        return recipes.quick(recipe) if self.quick else recipe

    def run(self, training: Training, seed: int) -> Path:
        path = recipes.path_of(training.recipe)
        return self.runs / recipes.run_name(path, self.recipe(training, seed), training.alone)

    def checkpoint(self, training: Training, seed: int, form: str) -> Path:
        """Folder of the weights: those of the quantization-aware stage are another's."""
        folder = self.run(training, seed)
        return folder.with_name(f"{folder.name}-qat") if form == TRAINED else folder

    def model(self, training: Training, seed: int, form: str) -> Path:
        """Its ONNX file, in a bundle."""
        bundle = self.runs / "dist" / self.checkpoint(training, seed, form).name
        return bundle / ("model.onnx" if form == FLOAT else file_of(form))


class Clips(NamedTuple):
    """What became of each test clip."""

    scores: np.ndarray  # (seeds, clips)
    labels: np.ndarray  # (clips,)
    hits: np.ndarray  # (seeds, keyword clips), in clean streams


@dataclass(frozen=True)
class Comparison:
    """How much more one row misses than another: difference, and the ends of its 95 % interval."""

    one: Key
    other: Key
    frr: tuple[float, float, float]
    streamed: tuple[float, float, float]


def trainings(wanted: list[str]) -> list[Training]:
    """What the others are compared with first; controls after what they control. Raises TableError, RecipeError."""
    found: list[Training] = []
    for name in wanted or sorted(recipes.known(), key=lambda name: (name != BASE, name)):
        stem = Path(name).stem
        mine = Training(stem if stem in recipes.known() and same_file(name, stem) else name, False)
        control = control_of(mine)
        found += [one for one in (mine, control) if one and one not in found]
    names = [training.name for training in found]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"two recipes are called {name}; rename one")
    return found


def same_file(name: str, other: str) -> bool:
    return recipes.path_of(name).resolve() == recipes.path_of(other).resolve()


def control_of(training: Training) -> Training | None:
    """The same student, schedule and data without a teacher: a known recipe if one is that. None without teachers."""
    recipe = plain(training)
    if not recipe.distill.teachers:
        return None
    known = [Training(name, False) for name in recipes.known()]
    untaught = replace(recipe, distill=recipes.Distill())
    return next((one for one in known if plain(one) == untaught), Training(training.recipe, True))


def plain(training: Training) -> recipes.Recipe:
    """A recipe but for what comes after its own training."""
    recipe = recipes.read(recipes.path_of(training.recipe), ["any"])
    return replace(recipe, train=replace(recipe.train, quantized_epochs=0))


def train(options: Options, wanted: list[Training]) -> None:
    todo = [(training, seed) for training in wanted for seed in options.seeds if not trained(options, training, seed)]
    for number, (training, seed) in enumerate(todo, 1):
        print(f"table: training {number} of {len(todo)}: {training.name}, seed {seed}", flush=True)
        command = [training.recipe, "--seed", str(seed), "--keyword", options.keyword, "--data", str(options.base)]
        command += ["--runs", str(options.runs)] + ["--alone"] * training.alone + ["--quick"] * options.quick
        run("training.train", command)


def trained(options: Options, training: Training, seed: int) -> bool:
    """Whether all epochs are done; no if they are of a recipe that reads otherwise now, as training will then say."""
    recipe, folder = options.recipe(training, seed), options.run(training, seed)
    teachers = recipes.Distill() if training.alone else recipe.distill
    first = replace(recipe, train=replace(recipe.train, quantized_epochs=0), distill=teachers)
    return made_by(first, folder) and all(
        epochs_of(options.checkpoint(training, seed, form))
        >= (recipe.train.quantized_epochs if form == TRAINED else recipe.train.epochs)
        for form in options.forms_of(training)
    )


def made_by(recipe: recipes.Recipe, folder: Path) -> bool:
    """Whether a run is of this recipe; yes where nothing says it."""
    path = folder / "last.safetensors"
    if not path.exists():
        return True
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["recipe"]
    try:
        return recipes.assemble(json.loads(text)) == recipe
    except recipes.RecipeError:  # a key that there is no more
        return False


def epochs_of(folder: Path) -> int:
    """That are done, in a run; 0 without weights."""
    try:
        with open(folder / "log.csv") as file:
            return len(list(csv.DictReader(file))) if (folder / "model.safetensors").exists() else 0
    except OSError:
        return 0


def run(module: str, arguments: list[str]) -> None:
    """One of the project's other commands; its last line says what went wrong, if it does."""
    done = subprocess.run([sys.executable, "-m", module, *arguments])
    if done.returncode:
        raise TableError(f"python -m {module} {' '.join(arguments)} ended with {done.returncode}; see above")


def export(options: Options, wanted: list[Training]) -> None:
    sources = max(path.stat().st_mtime for path in (ROOT / "export").rglob("*.py"))
    stale: dict[tuple[str, ...], list[str]] = {}  # int8 forms to keep → checkpoints
    for training in wanted:
        for checkpoint, forms in kept_together(options, training):
            manifest = options.runs / "dist" / checkpoint.name / "manifest.json"
            newest = max(sources, (checkpoint / "model.safetensors").stat().st_mtime)
            if not manifest.exists() or manifest.stat().st_mtime < newest or not holds(manifest, forms):
                stale.setdefault(forms, []).append(str(checkpoint))
    for forms, checkpoints in stale.items():
        if "static" in forms:
            run("export.int8.measure", [*checkpoints, "--ranges", "--data", str(options.base)])
        also = [argument for form in forms for argument in ("--also", form)]
        run("export", [*checkpoints, *also, "--out", str(options.runs / "dist")])


def holds(manifest: Path, forms: tuple[str, ...]) -> bool:
    """Whether a bundle has the files of these forms."""
    return {file_of(form) for form in forms} <= json.loads(manifest.read_text())["files"].keys()


def kept_together(options: Options, training: Training) -> list[tuple[Path, tuple[str, ...]]]:
    """Checkpoints, and the int8 forms that the bundle of each is to keep."""
    found: dict[Path, tuple[str, ...]] = {}
    for seed in options.seeds:
        for form in options.forms_of(training):
            folder = options.checkpoint(training, seed, form)
            found[folder] = (*found.get(folder, ()), *([form] if form != FLOAT else []))
    return list(found.items())


def evaluation_of(options: Options, model: Path) -> Path:
    bundle = model.parent
    digest = json.loads((bundle / "manifest.json").read_text())["files"][model.name]["sha256"]
    return options.runs / "evaluations" / f"{bundle.name}-{model.name}-v{EVALUATION}-{digest[:16]}.json"


def measure(model: Path, base: Path, path: Path) -> None:
    """What `make evaluate` measures of a model file in CONDITIONS, and what became of each clip → JSON."""
    (found,) = evaluate(Engine(model.parent, model.name), base, kinds("testing", base), conditions=CONDITIONS)
    clips = {key: getattr(found, key).tolist() for key in Clips._fields}
    kept = {"figures": found.figures, **clips}
    write_atomically(path, json.dumps(kept).encode())


def measure_all(options: Options, wanted: list[Training]) -> None:
    """Those that were not measured yet, on all cores."""
    every = [
        options.model(training, seed, form)
        for training in wanted
        for seed in options.seeds
        for form in options.forms_of(training)
    ]
    jobs = {path: model for model in every if not (path := evaluation_of(options, model)).exists()}
    os.environ["TQDM_DISABLE"] = "1"  # in the processes that measure
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        running = [pool.submit(measure, model, options.base, path) for path, model in jobs.items()]
        try:
            for one in tqdm(running, desc="evaluating", unit="model", disable=not jobs):
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def step_times(models: dict[Key, Path]) -> dict[Key, float]:
    """Median microseconds of a step, all in turn, so that whatever else the machine does slows all alike."""
    engines = {key: Engine(model.parent, model.name) for key, model in models.items()}
    times: dict[Key, list[float]] = {key: [] for key in engines}
    hops = (np.random.default_rng(0).standard_normal((20, 1280)) * 0.05).astype(np.float32)
    for _ in range(40):
        for key, engine in engines.items():
            for hop in hops:
                began = time.perf_counter_ns()
                engine.step(hop)
                times[key].append((time.perf_counter_ns() - began) / 1000)
    return {key: median(measured[len(hops) :]) for key, measured in times.items()}


def rows(options: Options, wanted: list[Training]) -> dict[Key, tuple[Row, Clips]]:
    first = options.seeds[0]
    took = step_times({(t, form): options.model(t, first, form) for t in wanted for form in options.forms_of(t)})
    found = {}
    for training, form in took:
        recipe = options.recipe(training, first)
        model = new_model(recipe.size)
        models = [options.model(training, seed, form) for seed in options.seeds]
        kept = [json.loads(evaluation_of(options, path).read_text()) for path in models]
        clips = Clips(
            np.array([one["scores"] for one in kept]),
            np.array(kept[0]["labels"]),
            np.array([one["hits"] for one in kept], float),
        )
        row = Row(
            training,
            form,
            n_parameters(model),
            cost.per_second(model),
            cost.as_the_seeds_count(model),
            cost.weight_bytes(model, models[0].parent, models[0].name),
            float(np.mean([path.stat().st_size for path in models])),
            took[wanted[0], FLOAT] / took[training, form],
            recipe.train.epochs,
            figures_of([one["figures"] for one in kept]),
            # Against a detector that is always right the difference is the rate itself.
            metrics.paired_bootstrap(clips.scores, clips.labels, clips.labels),
        )
        found[training, form] = row, clips
    return found


def figures_of(measured: list[dict]) -> dict[str, list[float]]:
    """Those of SHOWN that evaluate had the recordings for, of each seed."""
    found: dict[str, list[float]] = {}
    for path, *_ in SHOWN.values():
        outer, *inner = path.split()
        if outer in measured[0]:
            found[path] = [float(one[outer][inner[0]] if inner else one[outer]) for one in measured]
    return found


def markdown(lines: list[list[str]]) -> str:
    marks = ["---", *["--:"] * (len(lines[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], marks, *lines[1:]])


def ranged(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean (lowest … highest)."""
    texts = [f"{value * scale:.{digits}f}" for value in (float(np.mean(values)), min(values), max(values))]
    return texts[0] if len(values) == 1 else f"{texts[0]} ({texts[1]} … {texts[2]})"


def cost_table(found: list[Row]) -> str:
    """The first is what the others are compared with; controls cost what their recipes do."""
    base = found[0]
    lines = [["model", "parameters", "MACs per second", "MACs of 2 s, as the seeds count", "weights, bytes",
              "ONNX file, bytes", "smaller", "fewer MACs", "faster", "epochs"]]  # fmt: skip
    for row in [row for row in found if not row.training.alone]:
        ratios = base.weight_bytes / row.weight_bytes, base.per_second / row.per_second, row.faster
        counts = row.parameters, row.per_second, row.as_the_seeds_count, row.weight_bytes, row.file_bytes
        numbers = [f"{count:,.0f}".replace(",", " ") for count in counts]
        lines.append([row.name, *numbers, *(f"{ratio:.1f} ×" for ratio in ratios), str(row.epochs)])
    return markdown(lines)


def quality_table(found: list[Row]) -> str:
    lines = []
    for row in found:
        cells = {"model": row.name}
        for title, (path, scale, digits) in SHOWN.items():
            cells[title] = ranged(row.figures[path], scale, digits) if path in row.figures else ""
            if path == FRR:
                cells["95 % interval"] = " … ".join(f"{end * 100:.1f}" for end in row.interval)
        lines.append(cells)
    return markdown([list(lines[0]), *(list(cells.values()) for cells in lines)])


def compare(one: Key, other: Key, found: dict[Key, tuple[Row, Clips]]) -> Comparison:
    """By paired bootstrap over clips and seeds; by checkpoint, too, if both are of one training."""
    (_, mine), (_, theirs) = found[one], found[other]
    same, half, streamed = one[0] == other[0], (0.5, 0.5), np.ones(mine.hits.shape[1])
    return Comparison(
        one,
        other,
        (metrics.more_misses(mine.scores, theirs.scores, mine.labels),
         *metrics.paired_bootstrap(mine.scores, theirs.scores, mine.labels, same_runs=same)),
        (metrics.more_misses(mine.hits, theirs.hits, streamed, half),
         *metrics.paired_bootstrap(mine.hits, theirs.hits, streamed, half, same)),
    )  # fmt: skip


def comparison_table(comparisons: list[Comparison]) -> str:
    """The first of each pair against the second, in points of FRR at 0.5 % FAR and of misses when streamed."""
    lines = [["model", "against", "FRR at 0.5 % FAR, points", "95 % interval", "misses streamed, points",
              "95 % interval", "better at 0.5 % FAR"]]  # fmt: skip
    for comparison in comparisons:
        one, other = (FORMS[form] + training.name for training, form in (comparison.one, comparison.other))
        cells = []
        for difference, low, high in (comparison.frr, comparison.streamed):
            cells += [f"{difference * 100:+.1f}", f"{low * 100:+.1f} … {high * 100:+.1f}"]
        _, low, high = comparison.frr
        cells.append({-1: one, 1: other}.get((low > 0) - (high < 0), "neither is shown to be"))
        lines.append([one, other, *cells])
    return markdown(lines)


def compared(keys: list[Key]) -> list[tuple[Key, Key]]:
    """Each recipe with the first, float with float."""
    plain = [key for key in keys if key[1] == FLOAT and not key[0].alone]
    return [(key, plain[0]) for key in plain[1:]]


def controlled(keys: list[Key]) -> list[tuple[Key, Key]]:
    """Each taught recipe with the one that had no teacher, float with float."""
    plain = [training for training, form in keys if form == FLOAT and not training.alone]
    return [((one, FLOAT), (other, FLOAT)) for one in plain if (other := control_of(one)) and (other, FLOAT) in keys]


def quantized(keys: list[Key]) -> list[tuple[Key, Key]]:
    """Each quantized row with its float one, and what was trained for int8 with what was not."""
    pairs = [((training, form), (training, FLOAT)) for training, form in keys if form != FLOAT]
    untrained = [form for form in FORMS if form not in (FLOAT, TRAINED)]
    return pairs + [((t, form), (t, other)) for t, form in keys if form == TRAINED for other in untrained]


Pairs = dict[str, list[Comparison]]
SECTIONS = {"base": compared, "control": controlled, "int8": quantized}  # which rows are compared


PUBLISHED = """\
| theirs | published |
|---|---|
| B | 70 443 parameters |
| B′ | 25 387 parameters |
| KD | 305 167 MACs on 2 s of audio |
| KD2 | 186 924 MACs on 2 s of audio |
| AD+KD | 2 445 parameters |
| KD′ | 1 789 parameters, at temperature 5 and alpha 0.1 |
| at most, of all rows | 27 × smaller and 14 × fewer MACs than the base, with twice the base's error |
| GRU, quantization-aware training | given up by both |"""


def document(options: Options, found: list[Row], pairs: Pairs, pictures: list[str]) -> str:
    how = f"{len(options.seeds)} random seed{'s' if len(options.seeds) > 1 else ''}"
    command = "make table QUICK=1" if options.quick else "make table"
    shown = "\n\n".join(f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in pictures)
    return f"""# Results

Written by `{command}`, which trains every recipe of `training/recipes`, {how} of each, for "{options.keyword}"; rows
that were renewed or added later are compared with the base of then, and all are of the code that trained them.
B, KD, KD2, AD+KD, SP+AD+KD are the first seed project's models, B′ and KD′ the second's; the others are ours.
DQ: the same checkpoint with dynamic int8; SQ: with static int8, calibrated on training recordings; QAT: trained on for
`train.quantized_epochs` with everything rounded as static int8 rounds it. *alone*: the same student, schedule and data
without its teacher, where no other recipe is that.
Every figure is of the exported ONNX file, streamed hop by hop, on recordings of speakers that nothing was trained on
(`make evaluate`). Figures are means over the random seeds, with the lowest and the highest.

## What they cost

MACs: multiply-accumulate operations of the network without its front end, as torch's `FlopCounterMode` sees them
run; the seed projects' counter adds biases and the GRU's element-wise operations. Smaller: by weight bytes. Faster:
by the median time of a step, base and others in turn in one run on one machine, front end included.

{cost_table(found)}

## How good they are

FRR: of clips, each from zero state; its interval is over clips and seeds. The rest at each model's own threshold: false
accepts in speech of four kinds and in the other words of the test set joined into one stream, and misses in streams.

{quality_table(found)}

## What small models lose

Paired bootstrap over clips and seeds; negative: the first misses less. The last column goes by the FRR's interval.
Streamed: in the clean streams, each model at its own threshold, the lowest that makes at most one false accept in
`continuous/`, and a margin.

{comparison_table(pairs["base"])}

## Does a teacher help

{comparison_table(pairs["control"])}

## What int8 costs

Paired by training, too: both are one checkpoint, or what became of it when it was trained on.

{comparison_table(pairs["int8"])}

{shown}

## The seed projects' own figures

Theirs, on their split, which shares speakers between training and test; not comparable with the figures above but for
sizes and MACs.

{PUBLISHED}
"""


def kept(path: Path, options: Options, wanted: list[Training]) -> tuple[list[Row], Pairs]:
    """What results.json holds of other recipes than the wanted; nothing if it is not there. Raises TableError if it
    compares with something else than the first of these, or is of something else than these options say."""

    def key(value: list) -> Key:
        return Training(*value[0]), value[1]

    if not path.is_file():
        return [], {section: [] for section in SECTIONS}
    try:
        tables = json.loads(path.read_text())
    except ValueError as error:
        raise TableError(f"{path}: {error}; restore it, or remove it to begin anew") from None
    found = [Row(**{**row, "training": Training(*row["training"])}) for row in tables["rows"]]
    first = found[0].training.recipe
    there, here = [first, *tables["of"]], [wanted[0].recipe, *of(options)]
    if there != here:
        hint = f"name {first} first, or pass --out FOLDER for a table of its own"
        raise TableError(f"{path} is of {there}, this would be of {here}: {hint}")
    names = {training.recipe for training in wanted}
    pairs = {
        section: [Comparison(**{**pair, **{end: key(pair[end]) for end in ("one", "other")}}) for pair in some]
        for section, some in tables["pairs"].items()
    }
    # What was compared with a row that is another now goes; only the base stands for those before it.
    stay = {section: [p for p in some if stays(p, first, names)] for section, some in pairs.items()}
    return [row for row in found if row.training.recipe not in names], stay


def stays(pair: Comparison, base: str, renewed: set[str]) -> bool:
    return pair.one[0].recipe not in renewed and (pair.other[0].recipe not in renewed or pair.other[0].recipe == base)


def of(options: Options) -> list:
    """What all rows of a table have in common."""
    return [options.keyword, len(options.seeds), options.quick]


def write(options: Options, found: dict[Key, tuple[Row, Clips]], out: Path, old: tuple[list[Row], Pairs]) -> None:
    """results.json, results.md and its pictures: what was found, and old rows that stay."""
    out.mkdir(parents=True, exist_ok=True)
    keys, (rows, pairs) = list(found), old
    every = [row for row, _ in found.values()] + rows
    every.sort(key=lambda row: (row.training != keys[0][0], -row.parameters, row.training))
    place = {(row.training, row.form): number for number, row in enumerate(every)}
    new = {section: [compare(*pair, found) for pair in choose(keys)] for section, choose in SECTIONS.items()}
    both = {
        section: sorted(pairs[section] + some, key=lambda pair: (pair.other[1] != FLOAT, place[pair.one]))
        for section, some in new.items()
    }
    tables = {
        "of": of(options),
        "rows": [asdict(row) for row in every],
        "pairs": {section: [asdict(pair) for pair in some] for section, some in both.items()},
    }
    write_atomically(out / "results.json", (json.dumps(tables, indent=1) + "\n").encode())
    pictures = plots.draw(every, out)
    write_atomically(out / "results.md", document(options, every, both, pictures).encode())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.results.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", nargs="*", help="these, compared with the first; others stay (default: all)")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--keyword", default="happy", help="(default: happy)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="trainings, bundles and evaluations")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="results.md, .json, pictures (default: docs)")
    parser.add_argument("--quick", action="store_true", help="one seed and a schedule of minutes: the table's shape")
    args = parser.parse_args()
    try:
        seeds = SEEDS[:1] if args.quick else SEEDS
        options = Options(data.root(args.data).resolve(), args.runs.resolve(), seeds, args.quick, args.keyword)
        wanted = trainings(args.recipe)
        old = kept(args.out / "results.json" if args.recipe else Path(), options, wanted)
        train(options, wanted)
        export(options, wanted)
        measure_all(options, wanted)
        write(options, rows(options, wanted), args.out, old)
    except (TableError, recipes.RecipeError, data.DataError, BundleError, OSError) as error:
        print(f"table: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("table: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    print(f"table: {args.out / 'results.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

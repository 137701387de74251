"""Train, export and evaluate a plan. What is there is not made again."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from safetensors import safe_open
from tqdm import tqdm

from edge_demo.evaluate.figures import evaluate
from edge_demo.evaluate.negatives import kinds
from edge_demo.results.plan import FLOAT, TRAINED, Plan, TableError, Training
from export.int8.quantize import file_of
from runtime.bundle.engine import Engine
from runtime.errors import BundleError
from training import recipe as recipes
from training.data.recordings import DataError
from training.model.checkpoint import write_atomically

ROOT = Path(__file__).resolve().parents[2]
CONDITIONS = ("clean", "10_db")  # of evaluate, that the table shows
EVALUATION = 2  # raise it when edge_demo/evaluate measures something else: older evaluations are then made again


def run_all(plan: Plan) -> None:
    """Raises TableError, BundleError, DataError, OSError."""
    train(plan)
    export(plan)
    measure_all(plan)


def finish(name: str, write: Callable[[], Path]) -> int:
    """Exit code of a command that writes a document; prints its file, or the error in one line."""
    try:
        print(f"{name}: {write()}")
    except (TableError, recipes.RecipeError, DataError, BundleError, OSError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def train(plan: Plan) -> None:
    todo = [(one, seed) for one in plan.trainings for seed in plan.seeds if not is_trained(plan, one, seed)]
    for number, (training, seed) in enumerate(todo, 1):
        print(f"table: training {number} of {len(todo)}: {training.name}, seed {seed}", flush=True)
        command = [training.recipe, "--seed", str(seed), "--keyword", plan.keyword, "--data", str(plan.recordings)]
        command += ["--runs", str(plan.runs)] + ["--alone"] * training.alone + ["--quick"] * plan.quick
        run("training.train", command)


def is_trained(plan: Plan, training: Training, seed: int) -> bool:
    """Whether all epochs are done. A run of another version of the recipe is not; training then says so."""
    recipe, folder = plan.recipe(training, seed), plan.run(training, seed)
    teachers = recipes.Distill() if training.alone else recipe.distill
    first = replace(recipe, train=replace(recipe.train, quantized_epochs=0), distill=teachers)
    return made_by(first, folder) and all(
        epochs_of(plan.checkpoint(training, seed, form))
        >= (recipe.train.quantized_epochs if form == TRAINED else recipe.train.epochs)
        for form in plan.forms_of(training)
    )


def made_by(recipe: recipes.Recipe, folder: Path) -> bool:
    """Whether a run is of this recipe. True where the run does not record its recipe."""
    path = folder / "last.safetensors"
    if not path.exists():
        return True
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["recipe"]
    try:
        return recipes.assemble(json.loads(text)) == recipe
    except recipes.RecipeError:  # a key that no longer exists
        return False


def epochs_of(folder: Path) -> int:
    """Epochs that a run has done; 0 without weights."""
    try:
        with open(folder / "log.csv") as file:
            return len(list(csv.DictReader(file))) if (folder / "model.safetensors").exists() else 0
    except OSError:
        return 0


def run(module: str, arguments: list[str]) -> None:
    """One of the project's other commands, which prints its own errors."""
    done = subprocess.run([sys.executable, "-m", module, *arguments])
    if done.returncode:
        raise TableError(f"python -m {module} {' '.join(arguments)} ended with {done.returncode}; see above")


def export(plan: Plan) -> None:
    """A bundle is stale when it is older than its checkpoint or than export/, or lacks a form."""
    sources = max(path.stat().st_mtime for path in (ROOT / "export").rglob("*.py"))
    stale: dict[tuple[str, ...], list[str]] = {}  # int8 forms to keep → checkpoints
    for training in plan.trainings:
        for checkpoint, forms in int8_forms(plan, training).items():
            manifest = plan.runs / "dist" / checkpoint.name / "manifest.json"
            newest = max(sources, (checkpoint / "model.safetensors").stat().st_mtime)
            if not manifest.exists() or manifest.stat().st_mtime < newest or not holds(manifest, forms):
                stale.setdefault(forms, []).append(str(checkpoint))
    for forms, checkpoints in stale.items():
        if "static" in forms:
            run("export.int8.measure", [*checkpoints, "--ranges", "--data", str(plan.recordings)])
        also = [argument for form in forms for argument in ("--also", form)]
        run("export", [*checkpoints, *also, "--out", str(plan.runs / "dist")])


def holds(manifest: Path, forms: tuple[str, ...]) -> bool:
    """Whether a bundle has the files of these forms."""
    return {file_of(form) for form in forms} <= json.loads(manifest.read_text())["files"].keys()


def int8_forms(plan: Plan, training: Training) -> dict[Path, tuple[str, ...]]:
    """Checkpoint → the int8 forms that its bundle keeps."""
    forms: dict[Path, tuple[str, ...]] = {}
    for seed in plan.seeds:
        for form in plan.forms_of(training):
            folder = plan.checkpoint(training, seed, form)
            forms[folder] = (*forms.get(folder, ()), *([form] if form != FLOAT else []))
    return forms


def evaluation_of(plan: Plan, model: Path) -> Path:
    """The evaluation's file, named after the content of the model file."""
    bundle = model.parent
    digest = json.loads((bundle / "manifest.json").read_text())["files"][model.name]["sha256"]
    return plan.runs / "evaluations" / f"{bundle.name}-{model.name}-v{EVALUATION}-{digest[:16]}.json"


def measure(model: Path, recordings: Path, path: Path) -> None:
    """Evaluate a model file under CONDITIONS; write its figures and the result of each clip."""
    testing = kinds("testing", recordings)
    (one,) = evaluate(Engine(model.parent, model.name), recordings, testing, conditions=CONDITIONS)
    clips = {name: getattr(one, name).tolist() for name in ("scores", "labels", "hits")}
    write_atomically(path, json.dumps({"figures": one.figures, **clips}).encode())


def measure_all(plan: Plan) -> None:
    """Evaluate those that were not evaluated yet, on all cores."""
    jobs = {path: model for model in plan.models() if not (path := evaluation_of(plan, model)).exists()}
    os.environ["TQDM_DISABLE"] = "1"  # in the processes that measure
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        running = [pool.submit(measure, model, plan.recordings, path) for path, model in jobs.items()]
        try:
            for one in tqdm(running, desc="evaluating", unit="model", disable=not jobs):
                one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

"""Train a model from a recipe:

    EARSHOT_DATA=~/recordings python -m training.train base
    EARSHOT_DATA=~/recordings python -m training.train base --keyword computer --seed 1
    EARSHOT_DATA=~/recordings python -m training.train kd --alone     # the control: without its teacher

The folder runs/<keyword>-<recipe>-s<seed>/ then holds the best checkpoint (model.safetensors), the state to resume from
(last.safetensors) and a line per epoch (log.csv). The first half of the schedule keeps no checkpoint and is not
validated. After an interruption run the same command again; the result is that of an uninterrupted training. With
torchrun several processes, on one host or many, share the work:

    EARSHOT_DATA=~/recordings torchrun --nproc-per-node 2 -m training.train base
"""

import argparse
import ctypes
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from training import distributed
from training import recipe as recipes
from training.data import recordings as data
from training.methods import average, prune
from training.methods.distill import Distillation
from training.methods.losses import streaming_loss
from training.model import checkpoint
from training.model.crnn import State, log_odds, n_parameters
from training.model.ensemble import networks, new_model
from training.model.quantized import QuantizedCRNN
from training.recipe import Distill, Prune, Recipe, Schedule
from training.run import REFRACTORY_HOPS, Run
from training.validation.figures import validate
from training.validation.held_out import load
from training.windows.cache import Windows, order
from training.windows.targets import ignore_echoes

FINE_TUNING = 0.1  # of the learning rate, in the quantization-aware stage


def batches(windows: Windows, train: Schedule, epoch: int) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor]]:
    """The rows of each step that are this process's: (numbers of the windows, frames, targets, fresh).

    (rows,), (rows, frames, 40), (rows, keywords, hops), (rows,). A fresh window starts from the zero state; another
    continues the stream of its row. Steps are the same after an interruption, and in one process or many.
    """
    rng = np.random.default_rng(epoch_seed(train, epoch))
    rows, device = distributed.share(train.batch), distributed.device()
    echoes = torch.zeros_like(windows.echoes[: train.batch])[rows]
    for numbers in order(train, epoch)[: train.steps * train.batch].reshape(train.steps, train.batch):
        frames, targets = (tensor[rows] for tensor in windows.batch(numbers, rng))
        fresh = torch.from_numpy(rng.random(train.batch) < train.fresh)[rows]
        targets = ignore_echoes(targets, echoes * ~fresh.unsqueeze(-1))
        echoes = windows.echoes[numbers][rows]
        yield numbers[rows], frames.to(device), targets.to(device), fresh.to(device)


def epoch_seed(train: Schedule, epoch: int) -> int:
    return train.seed * 100_003 + epoch


def learning_rate(train: Schedule, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero. step: from the start of the training."""
    steps = train.epochs * train.steps
    warmup = max(1, int(train.warmup * steps))
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def start_fresh(state: State, fresh: Tensor) -> State:
    """Zero the states of the rows that `fresh` (rows,) marks. Batches are frames, so there is no tail."""
    keep = (~fresh).float()
    context, hidden = state.context * keep[:, None, None], state.hidden * keep[None, :, None]
    return State(state.tail, context, hidden, state.ring * keep[:, None, None])


def run_epoch(run: Run, windows: Windows, distillation: Distillation) -> float:
    """Train for one epoch. Returns the mean loss of its steps."""
    recipe, train = run.recipe, run.recipe.train
    torch.manual_seed(epoch_seed(train, run.epoch) + distributed.rank())  # dropout differs between processes
    if run.model.size != recipe.size and run.epoch >= recipe.wide_epochs:
        run.prune()
    model, members, total = run.model.train(), run.model.size.members, 0.0
    state = model.zero_state(train.batch // distributed.world_size())
    title = f"epoch {run.epoch + 1}/{train.epochs}"
    steps, silent = batches(windows, train, run.epoch), distributed.rank() > 0
    bar = tqdm(steps, title, train.steps, unit="step", leave=False, disable=silent)
    for step, (numbers, frames, targets, fresh) in enumerate(bar, run.epoch * train.steps):
        rate = learning_rate(train, step)
        for group in run.optimizer.param_groups:
            group["lr"] = rate

        state = start_fresh(state, fresh)
        output, (context, hidden, ring) = run.classify(frames, state)
        state = State(state.tail, context.detach(), hidden.detach(), ring.detach())
        odds = log_odds(output.logits).transpose(1, 2)  # (members · rows, keywords, hops)
        loss = streaming_loss(odds, output.energies, targets.repeat(members, 1, 1))
        for term in distillation.losses(odds, output.energies, numbers):
            loss = loss + term

        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for network in networks(model):  # the loss is the mean over the members
            clip_grad_norm_(network.parameters(), 2.0 / members)
        run.optimizer.step()
        if model.size != recipe.size:
            done = (step + 1) / (recipe.wide_epochs * train.steps)
            prune.lasso_step(model, recipe.size, rate * recipe.prune.strength * done)
        average.update(run.average, model, train.averaging, step)

        total += loss.item()
        bar.set_postfix(loss=f"{total / (step + 1 - run.epoch * train.steps):.4f}")
    return float(distributed.mean(torch.tensor(total / train.steps, device=distributed.device())))


def run_epochs(run: Run, teachers: list[Path], base: Path, workers: int) -> None:
    """Train from where the run is until its schedule ends."""
    recipe = run.recipe
    run.resume()
    if run.epoch >= recipe.train.epochs:
        distributed.print_once(f"{run.folder}: all {recipe.train.epochs} epochs are done")
        return
    held_out = load(base, recipe, run.average) if distributed.rank() == 0 else None
    with distributed.one_first():
        windows = Windows(base, recipe, workers)
        distillation = Distillation(recipe.distill, teachers, windows)
    clips, keyword_clips = windows.clips, sum(windows.clips.keywords, [])
    speakers = len({clip.path.name.split("_nohash_")[0] for clip in keyword_clips})
    distributed.print_once(
        f"{run.folder}: {n_parameters(new_model(run.model.size))} parameters, {recipe.train.epochs} epochs; "
        f"{len(keyword_clips)} keyword clips by {speakers} speakers, {len(clips.words)} of other words, "
        f"{len(clips.speech) + len(clips.packages)} recordings of speech, {len(clips.synthetic)} "
        f"synthesised, {len(clips.noise) + len(clips.loud)} noises"
    )
    while run.epoch < recipe.train.epochs:
        began = time.monotonic()
        loss = run_epoch(run, windows, distillation)
        figures = validate(run.average, held_out, REFRACTORY_HOPS) if held_out and run.is_late else None
        run.end_epoch(loss, figures, time.monotonic() - began)
    distributed.barrier()  # the other processes may read the checkpoint next


def train(
    recipe: Recipe, recipe_text: str, base: Path, folder: Path, runs: Path, workers: int, quick: bool = False
) -> None:
    """Train the teachers that are not in `runs` yet, then the model, then its int8 form if the recipe has one.

    Raises RecipeError, DataError, CheckpointError and OSError.
    """
    keep_memory()
    if recipe.train.batch % distributed.world_size():
        raise recipes.RecipeError(
            f"train.batch is {recipe.train.batch}: it must be a multiple of the {distributed.world_size()} processes"
        )
    pairs = [(name, seed) for name in recipe.distill.teachers for seed in recipe.distill.seeds]
    teachers = [train_teacher(recipe, name, seed, base, runs, workers, quick) for name, seed in pairs]
    in_float = replace(recipe, train=replace(recipe.train, quantized_epochs=0))
    run_epochs(Run(in_float, recipe_text, folder), teachers, base, workers)
    if recipe.train.quantized_epochs:
        run_epochs(fine_tuning(recipe, recipe_text, folder), teachers, base, workers)


def train_teacher(recipe: Recipe, name: str, seed: int, base: Path, runs: Path, workers: int, quick: bool) -> Path:
    """Train one of the recipe's teachers if it is not trained yet; returns its folder. Raises RecipeError."""
    path = recipes.path_of(name)
    teacher = recipes.read(path, list(recipe.data.keywords), seed)
    if teacher.distill.teachers or teacher.model.hop_samples != recipe.model.hop_samples:
        raise recipes.RecipeError(f"{path}: a teacher has no teacher, and its hop is the student's; name another")
    teacher = replace(teacher, train=replace(teacher.train, quantized_epochs=0))  # it teaches in float
    folder = runs / recipes.run_name(path, teacher)
    teacher, text = shortened(teacher, path.read_text()) if quick else (teacher, path.read_text())
    train(teacher, text, base, folder, runs, workers)
    return folder


def fine_tuning(recipe: Recipe, recipe_text: str, folder: Path) -> Run:
    """Quantization-aware training of the checkpoint in `folder`, at a low learning rate."""
    rate = recipe.train.learning_rate * FINE_TUNING
    schedule = replace(recipe.train, epochs=recipe.train.quantized_epochs, quantized_epochs=0, learning_rate=rate)
    stage = replace(recipe, model=recipe.size, prune=Prune(), train=schedule)
    run = Run(stage, recipe_text, folder.with_name(f"{folder.name}-qat"), QuantizedCRNN)
    weights = checkpoint.load(folder)[0].state_dict()
    for model in (run.model, run.average):
        model.load_state_dict(weights, strict=False)  # the ranges of activations are not known yet
    return run


def keep_memory() -> None:
    """Have glibc keep memory that torch frees, for the next step. Fresh pages from the kernel in each step cost a third
    of the training's time. Does nothing with another C library."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


def shortened(recipe: Recipe, text: str) -> tuple[Recipe, str]:
    return recipes.quick(recipe), "# Trained with --quick: fewer epochs, windows, teachers than it says here.\n" + text


def without_teacher(recipe: Recipe, text: str) -> tuple[Recipe, str]:
    """The control of a distilled recipe: the same in all else. Raises RecipeError where there is no teacher."""
    if not recipe.distill.teachers:
        raise recipes.RecipeError("--alone leaves the teacher out, and this recipe has none")
    note = "# Trained with --alone, the control: without the teacher that is named below.\n"
    return replace(recipe, distill=Distill(), train=replace(recipe.train, quantized_epochs=0)), note + text


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help=f"a TOML file, or one of: {', '.join(recipes.known())}")
    parser.add_argument("--keyword", action="append", help="instead of the recipe's; repeat for several in one model")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--alone", action="store_true", help="without its teacher: what that teacher is worth")
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    parser.add_argument("--quick", action="store_true", help="a schedule of minutes, to see that everything works")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where teachers are, and --out by default")
    parser.add_argument("--out", type=Path, help="default: <runs>/<keyword>-<recipe>[-alone]-s<seed>")
    parser.add_argument("--workers", type=int, default=2, help="processes that make training windows (default: 2)")
    args = parser.parse_args()
    path = recipes.path_of(args.recipe)
    distributed.start()
    try:
        recipe = recipes.read(path, args.keyword, args.seed)
        base, recipe_text = data.root(args.data), path.read_text()
        if args.alone:
            recipe, recipe_text = without_teacher(recipe, recipe_text)
        if args.quick:
            recipe, recipe_text = shortened(recipe, recipe_text)
        folder = args.out or args.runs / recipes.run_name(path, recipe, args.alone)
        train(recipe, recipe_text, base, folder, args.runs, args.workers, args.quick)
    except (recipes.RecipeError, data.DataError, checkpoint.CheckpointError) as error:
        print(f"train: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"train: error: {error}; make room, then run the same command again to continue", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    finally:
        distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train a model from a recipe:

    EARSHOT_DATA=~/recordings python -m training.train base
    EARSHOT_DATA=~/recordings python -m training.train base --keyword computer --seed 1
    EARSHOT_DATA=~/recordings python -m training.train kd --alone     # the control: without its teacher

leaves in runs/<keyword>-<recipe>-s<seed>/ the best checkpoint (model.safetensors), the state to go on from
(last.safetensors) and one line per epoch (log.csv). Run it again to go on after an interruption: the result is the same
as without one. Several processes, on this host or on many, share the work when torchrun starts them:

    EARSHOT_DATA=~/recordings torchrun --nproc-per-node 2 -m training.train base
"""

import argparse
import copy
import csv
import ctypes
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm import tqdm

from training import processes, validation
from training import recipe as recipes
from training.data import recordings as data
from training.methods import prune
from training.methods.distill import Taught, attention_loss, distillation_loss, teach
from training.methods.losses import streaming_loss
from training.model import checkpoint
from training.model.crnn import CRNN, Size, State, log_odds, n_parameters
from training.model.ensemble import folded, networks, new_model
from training.model.quantized import QuantizedCRNN
from training.recipe import Distill, Prune, Recipe
from training.windows.cache import Windows, order
from training.windows.targets import ignore_echoes

FINE_TUNING = 0.1  # of the learning rate, in the quantization-aware stage
REFRACTORY_HOPS = 12  # 0.96 s: nobody says a keyword twice in a second


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    warmup = max(1, int(recipe.train.warmup * steps))
    if step < warmup:
        return recipe.train.learning_rate * (step + 1) / warmup
    return recipe.train.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def start_some_fresh(state: State, fresh: Tensor) -> State:
    """Zero the states of the streams that `fresh` (batch,) marks: they have heard nothing yet."""
    keep = (~fresh).float()
    return State(
        state.tail * keep[:, None],
        state.context * keep[:, None, None],
        state.hidden * keep[None, :, None],
        state.ring * keep[:, None, None],
    )


class Trainer:
    """Model, averaged model, optimizer and log of one run, and how they are kept on disk."""

    def __init__(self, recipe: Recipe, recipe_text: str, folder: Path, kind: type[CRNN] = CRNN):
        torch.manual_seed(recipe.train.seed)
        self.recipe, self.recipe_text, self.folder = recipe, recipe_text, folder
        self.kind = kind
        self.start_with(recipe.model)
        self.epoch = 0
        self.best = math.inf
        self.rows: list[dict] = []

    def start_with(self, size: Size) -> None:
        train = self.recipe.train
        normalised = self.recipe.size == self.recipe.model  # what is pruned must be zero, whatever follows it
        self.model = (
            new_model(size, train.dropout, normalised) if self.kind is CRNN else self.kind(size, train.dropout)
        )
        self.average = copy.deepcopy(self.model).eval()  # stays on the CPU
        self.model.to(processes.device())
        self.classify = processes.together(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay
        )

    def shrink(self) -> None:
        """Go on with the model that is left when all but the largest groups are cut away."""
        size, target = self.model.size, self.recipe.size
        kinds, weights = prune.kinds(size, target), self.model.state_dict()
        rest = sum(int((prune.norms(weights, kind) > 0).sum()) for kind in kinds)
        wanted, names = sum(kind.wanted for kind in kinds), [name for name, _ in self.model.named_parameters()]
        stay = prune.prune(self.model, target)
        states = [self.model.state_dict(), self.average.state_dict()]
        moments = self.optimizer.state_dict()["state"]
        kept = {key: {name: moments[i][key] for i, name in enumerate(names)} for key in ("exp_avg", "exp_avg_sq")}
        self.start_with(target)
        for model, tensors in zip((self.model, self.average), states, strict=True):
            model.load_state_dict(prune.shrink(tensors, size, target, stay))
        kept = {key: prune.shrink(tensors, size, target, stay) for key, tensors in kept.items()}
        state = self.optimizer.state_dict()
        state["state"] = {
            i: {"step": moments[i]["step"], **{key: kept[key][name] for key in kept}} for i, name in enumerate(names)
        }
        self.optimizer.load_state_dict(state)
        processes.say(
            f"{self.folder}: shrunk to {n_parameters(self.model)} parameters; the penalty had left {rest} channels and "
            f"units, of which the {wanted} largest stay"
        )

    def steps_per_epoch(self) -> int:
        return self.recipe.train.windows // self.recipe.train.batch

    def run_epoch(self, dataset: Windows, taught: Taught | None) -> float:
        """One epoch; returns its mean loss. taught: see `distill.teach`."""
        train, distill, steps = self.recipe.train, self.recipe.distill, self.steps_per_epoch()
        seed = train.seed * 100_003 + self.epoch  # whatever is random goes on as if never interrupted
        torch.manual_seed(seed + processes.rank())  # of the dropout; all else is drawn for the whole batch, by rng
        rng = np.random.default_rng(seed)
        mine, device = processes.share(train.batch), processes.device()
        numbers = order(train, self.epoch)
        if self.model.size != self.recipe.size and self.epoch >= self.recipe.wide_epochs:
            self.shrink()
        self.model.train()
        state, total = self.model.zero_state(train.batch // processes.count()), 0.0
        echoes = torch.zeros(train.batch, self.model.size.keywords, dtype=torch.int64)[mine]
        members = self.model.size.members

        def repeated(tensor: Tensor) -> Tensor:
            return torch.cat([tensor] * members)

        title, silent = f"epoch {self.epoch + 1}/{train.epochs}", processes.rank() > 0
        bar = tqdm(range(steps), desc=title, unit="step", leave=False, disable=silent)
        for step in bar:
            indices = numbers[step * train.batch : (step + 1) * train.batch]
            frames, targets = (tensor[mine] for tensor in dataset.batch(indices, rng))
            fresh = torch.from_numpy(rng.random(train.batch) < train.fresh)[mine]
            targets = ignore_echoes(targets, echoes * ~fresh.unsqueeze(-1))
            echoes = dataset.echoes[indices][mine]
            frames, targets, fresh = frames.to(device), targets.to(device), fresh.to(device)
            rate = learning_rate(self.recipe, self.epoch * steps + step, train.epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            state = start_some_fresh(state, fresh)
            output, (context, hidden, ring) = self.classify(frames, state)
            odds = log_odds(output.logits).transpose(1, 2)  # of each member, one member's batch after the other's
            loss = streaming_loss(odds, output.energies, repeated(targets))
            if taught is not None:
                said, looked = (repeated(tensor[indices[mine]].to(device)) for tensor in taught)
                loss = loss + distill.weight * distillation_loss(odds, said, distill.temperature)
                if distill.attention:
                    loss = loss + distill.attention * attention_loss(output.energies, looked, self.model.size.window)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for network in networks(self.model):  # the loss is the members' mean
                torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0 / members)
            self.optimizer.step()
            if self.model.size != self.recipe.size:
                done = (self.epoch * steps + step + 1) / (self.recipe.wide_epochs * steps)
                prune.lasso_step(self.model, self.recipe.size, rate * self.recipe.prune.strength * done)
            state = State(state.tail, context.detach(), hidden.detach(), ring.detach())
            with torch.no_grad():
                for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    decay = min(train.averaging, (self.epoch * steps + step + 1) / 100)
                    kept.lerp_(new.to(kept.device), 1 - decay)
                for buffer, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
                    buffer.copy_(now)
            total += loss.item()
            bar.set_postfix(loss=f"{total / (step + 1):.4f}")
        return float(processes.mean(torch.tensor(total / steps, device=device)))

    def log(self, row: dict, figures: validation.Figures) -> None:
        """Keep the epoch's row, and its weights if they are the best so far of the size that is wanted.

        Only the schedule's second half counts: a model that knows little yet may make few false accepts by luck.
        """
        self.rows.append(row)
        late = 2 * (self.epoch + 1) > self.recipe.train.epochs
        if late and figures.misses < self.best and self.model.size == self.recipe.size:
            self.best = figures.misses
            checkpoint.save(
                self.folder,
                (folded(self.average) if self.kind is CRNN else self.average).state_dict(),
                self.recipe_text,
                self.recipe.train.seed,
                list(self.recipe.data.keywords),
                figures.thresholds,
                REFRACTORY_HOPS,
                figures.smoothing,
                [[point._asdict() for point in curve] for curve in figures.curves],
            )
        self.epoch += 1
        self.save()
        with open(self.folder / "log.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, row.keys())
            writer.writeheader()
            writer.writerows(self.rows)

    def save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        metadata = {
            "recipe": json.dumps(asdict(self.recipe)),
            "progress": json.dumps({"epoch": self.epoch, "best": self.best, "rows": self.rows}),
        }
        checkpoint.write_atomically(
            self.folder / "last.safetensors", to_bytes(checkpoint.contiguous(tensors), metadata)
        )

    def resume(self) -> None:
        """Go on from last.safetensors if it is there. Raises CheckpointError if another recipe made it."""
        path = self.folder / "last.safetensors"
        if not path.exists():
            return
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        try:
            same = recipes.assemble(json.loads(metadata["recipe"])) == self.recipe  # a key that is new has its default
        except recipes.RecipeError:
            same = False
        if not same:
            raise checkpoint.CheckpointError(f"{path} was made by another recipe; remove {self.folder} or pass --out")
        progress = json.loads(metadata["progress"])
        self.epoch, self.best, self.rows = progress["epoch"], progress["best"], progress["rows"]
        if self.epoch > self.recipe.wide_epochs:
            self.start_with(self.recipe.size)
        self.model.load_state_dict(part(tensors, "model."))
        self.average.load_state_dict(part(tensors, "average."))
        state = self.optimizer.state_dict()
        for name, tensor in part(tensors, "optimizer.").items():
            index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def keep_memory() -> None:
    """Ask glibc to keep memory that torch frees and wants again in the next step: asking the kernel each time for fresh
    pages costs a third of the training's time. Elsewhere nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_max, 0)


def train(
    recipe: Recipe, recipe_text: str, base: Path, folder: Path, runs: Path, workers: int, quick: bool = False
) -> None:
    """Raises RecipeError, DataError, CheckpointError and OSError. Teachers that are not in `runs` yet are trained
    first."""
    keep_memory()
    if recipe.train.batch % processes.count():
        counts = f"train.batch is {recipe.train.batch}, the processes are {processes.count()}"
        raise recipes.RecipeError(f"{counts}: the first must be a multiple of the second")
    who = [(name, seed) for name in recipe.distill.teachers for seed in recipe.distill.seeds]
    teachers = [train_teacher(recipe, name, seed, base, runs, workers, quick) for name, seed in who]
    first = replace(recipe, train=replace(recipe.train, quantized_epochs=0))  # the second stage may come later
    learn(Trainer(first, recipe_text, folder), teachers, base, workers)
    if recipe.train.quantized_epochs:
        learn(fine_tuner(recipe, recipe_text, folder), teachers, base, workers)


def fine_tuner(recipe: Recipe, recipe_text: str, folder: Path) -> Trainer:
    """A second stage that begins with what the first one left in `folder`: quantization-aware, gently."""
    rate = recipe.train.learning_rate * FINE_TUNING
    schedule = replace(recipe.train, epochs=recipe.train.quantized_epochs, quantized_epochs=0, learning_rate=rate)
    stage = replace(recipe, model=recipe.size, prune=Prune(), train=schedule)
    trainer = Trainer(stage, recipe_text, folder.with_name(f"{folder.name}-qat"), QuantizedCRNN)
    weights = checkpoint.load(folder)[0].state_dict()
    for model in (trainer.model, trainer.average):
        model.load_state_dict(weights, strict=False)  # the ranges are still to be seen
    return trainer


def learn(trainer: Trainer, teachers: list[Path], base: Path, workers: int) -> None:
    recipe, folder = trainer.recipe, trainer.folder
    trainer.resume()
    if trainer.epoch >= recipe.train.epochs:
        processes.say(f"{folder}: all {recipe.train.epochs} epochs are done")
        return
    held_out = validation.load(base, recipe, trainer.average) if processes.rank() == 0 else None
    with processes.one_at_first():
        dataset = Windows(base, recipe, workers)
        taught = teach(teachers, dataset) if teachers else None
    clips, spoken = dataset.clips, sum(dataset.clips.keywords, [])
    speakers = len({clip.path.name.split("_nohash_")[0] for clip in spoken})
    processes.say(
        f"{folder}: {n_parameters(new_model(trainer.model.size))} parameters, {recipe.train.epochs} epochs; "
        f"{len(spoken)} keyword clips by {speakers} speakers, {len(clips.words)} of other words, "
        f"{len(clips.speech) + len(clips.packages)} recordings of speech, {len(clips.synthetic)} "
        f"synthesised, {len(clips.noise) + len(clips.loud)} noises"
    )
    while trainer.epoch < recipe.train.epochs:
        began = time.monotonic()
        loss = trainer.run_epoch(dataset, taught)
        if not held_out:  # of several processes one validates and writes
            trainer.epoch += 1
            continue
        figures = validation.validate(trainer.average, held_out, REFRACTORY_HOPS)
        row = {
            "epoch": trainer.epoch + 1,
            "loss": round(loss, 5),
            "misses": round(figures.misses, 5),
            "clean": round(figures.clean, 5),
            "one_minus_auroc": round(figures.one_minus_auroc, 6),
            "frr": round(figures.frr, 5),
            "smoothing": figures.smoothing,
            "threshold": " ".join(f"{t:.4f}" for t in figures.thresholds),
            "seconds": round(time.monotonic() - began, 1),
        }
        trainer.log(row, figures)
        processes.say("  ".join(f"{key} {value}" for key, value in row.items()))
    processes.wait()  # what was written last may be a teacher that the others read next


def train_teacher(
    recipe: Recipe, name: str, seed: int, base: Path, runs: Path, workers: int, quick: bool
) -> Path:
    """Train one of the recipe's teachers, or find it trained; returns its folder. Raises RecipeError."""
    path = recipes.path_of(name)
    teacher = recipes.read(path, list(recipe.data.keywords), seed)
    if teacher.distill.teachers or teacher.model.hop_samples != recipe.model.hop_samples:
        raise recipes.RecipeError(f"{path}: a teacher has no teacher, and its hop is the student's; name another")
    teacher = replace(teacher, train=replace(teacher.train, quantized_epochs=0))  # nobody needs it in int8 for that
    folder = runs / recipes.run_name(path, teacher)
    teacher, text = shortened(teacher, path.read_text()) if quick else (teacher, path.read_text())
    train(teacher, text, base, folder, runs, workers)
    return folder


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
    processes.start()
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
        print(f"train: error: {error}; make room, then run the same command again to go on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    finally:
        processes.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

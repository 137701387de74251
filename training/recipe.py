"""Recipes: one TOML file per model with everything that decides how it is made. Unknown keys are errors."""

import difflib
import tomllib
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from training.data.corpora import known_packages
from training.model.crnn import Size


class RecipeError(Exception):
    """A recipe that cannot be used; the message is one line and names the key."""


@dataclass(frozen=True)
class Data:
    """Recordings. Folders are below EARSHOT_DATA; one that is missing is left out."""

    keywords: tuple[str, ...]
    words: tuple[str, ...] = ("speech_commands", "wake_words")  # folders of words, each a folder of clips
    speech: tuple[str, ...] = ("read_speech", "other_words")  # negatives of any depth and length
    packages: tuple[str, ...] = known_packages("training")  # Debian's, more negatives; needs apt-get, 578 MB
    noise: tuple[str, ...] = ("speech_commands/_background_noise_", "noise")
    synthetic: int = 8000  # synthesised sentences with many near-misses, as negatives; needs espeak-ng
    voices: int = 1500  # synthesised clips of each keyword, in many voices
    mislabelled: bool = False  # train on the clips that mislabelled.txt names, too
    rooms: int = 400  # simulated, for reverberation
    continuous: tuple[str, ...] = ("continuous",)  # to choose epoch and threshold; never trained on
    false_accepts_per_hour: float = 0.5  # at the threshold, over all kinds of speech; twice that in any one kind


@dataclass(frozen=True)
class Composition:
    """What training windows are made of. Each number but the ranges is a share."""

    keywords: float = 0.5  # of all windows
    voiced: float = 0.2  # of the keywords: synthesised
    splices: float = 0.3  # of the other keywords: begun by one recording and ended by another; and near-misses so made
    pauses: float = 0.75  # of keywords: after a pause, as when somebody is addressed by name
    silent: float = 0.25  # of the excerpts without a keyword: silence
    bursts: float = 0.15  # of these excerpts: loud sounds that are no speech, tones, music
    sped: float = 0.6  # of all recordings of speech: at another speed, and with it pitch
    speeds: tuple[float, float] = (0.85, 1.18)  # the lowest and the highest
    in_rooms: float = 0.6  # of the windows: with reverberation
    narrow: float = 0.25  # of the windows: nothing above 3.5 to 7 kHz
    worn: float = 0.2  # of the windows: distorted as by a telephone, an old film or a loudspeaker
    noises: float = 0.75  # of the windows: a recorded noise
    second_noises: float = 0.2  # of the windows: one more
    babble: float = 0.15  # of the windows: four talkers in the background
    hums: float = 0.3  # of the windows: stationary noise
    floors: float = 0.9  # of the windows: low stationary noise; the others are digital silence between words
    levels: tuple[float, float] = (-66.0, 4.0)  # dB of full scale, of the speech; the loudest is clipped
    muted: float = 0.2  # of the windows: digital silence until shortly before the keyword


@dataclass(frozen=True)
class Schedule:
    seed: int = 0
    epochs: int = 32
    quantized_epochs: int = 0  # after these: fine-tuning for int8, from the best checkpoint, into <folder>-qat
    windows: int = 16_384  # training windows in an epoch
    pool: int = 98_304  # different windows, 2.5 GB on disk and in memory
    hops: int = 40  # of a window: 40 × 80 ms = 3.2 s
    batch: int = 128  # windows of a step; each continues the stream of the window before it
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05  # share of the steps in which the learning rate rises
    averaging: float = 0.996  # of the weights (EMA), per step; the average is what is validated and kept
    fresh: float = 0.3  # share of windows that start from a zero state instead
    dropout: float = 0.2

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return self.windows // self.batch


@dataclass(frozen=True)
class Distill:
    """Teachers and the weights of their losses. Teachers that are not trained yet are trained first."""

    teachers: tuple[str, ...] = ()  # recipes
    seeds: tuple[int, ...] = (0, 1, 2)  # of each teacher; the student learns from the mean of all
    weight: float = 1.0  # of the distillation loss, added to the loss on the labels
    temperature: float = 1.0
    attention: float = 0.0  # weight of the attention distillation, added too


@dataclass(frozen=True)
class Prune:
    """The size that a wide model is pruned to. Zeros: it is not."""

    channels: int = 0  # of the convolution
    hidden: int = 0  # units of each GRU layer, and of the attention
    share: float = 0.5  # of the epochs, in which the wide model is trained; the pruned one is trained in the rest
    strength: float = 0.2  # of the group lasso at the end of that share, times the learning rate; it rises from zero


@dataclass(frozen=True)
class Recipe:
    data: Data
    model: Size = field(default_factory=Size)
    windows: Composition = field(default_factory=Composition)
    train: Schedule = field(default_factory=Schedule)
    distill: Distill = field(default_factory=Distill)
    prune: Prune = field(default_factory=Prune)

    @property
    def size(self) -> Size:
        """Of the trained model. Training begins with `model`."""
        channels, hidden = self.prune.channels or self.model.channels, self.prune.hidden or self.model.hidden
        return replace(self.model, channels=channels, hidden=hidden)

    @property
    def wide_epochs(self) -> int:
        """Epochs before the model is pruned to `size`; 0 without pruning."""
        return round(self.prune.share * self.train.epochs) if self.size != self.model else 0


def parse(text: str, keywords: list[str] | None = None, seed: int | None = None) -> Recipe:
    """TOML text → Recipe; keywords and seed replace the recipe's. Raises RecipeError."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"not TOML: {error}") from None
    if keywords:
        tables.setdefault("data", {})["keywords"] = keywords
    if seed is not None:
        tables.setdefault("train", {})["seed"] = seed
    return assemble(tables)


def assemble(tables: dict[str, Any]) -> Recipe:
    """Tables as they stand in TOML → Recipe, defaults for what they leave out. Raises RecipeError."""
    check_keys("", tables, Recipe)
    keywords = tables.get("data", {}).get("keywords")
    if not keywords:
        raise RecipeError("no keywords: set data.keywords or pass --keyword")
    open_model = {"keywords": len(keywords), "smoothing": 0}  # where the recipe leaves them open
    tables = tables | {"model": open_model | tables.get("model", {})}
    recipe = Recipe(**{item.name: build(item.name, item.type, tables.get(item.name, {})) for item in fields(Recipe)})
    check(recipe)
    return recipe


def check(recipe: Recipe) -> None:
    """Raises RecipeError where values contradict each other or are out of range."""
    model, size, train, wide = recipe.model, recipe.size, recipe.train, recipe.wide_epochs
    pruned, quantized = size != model, train.quantized_epochs > 0
    ensemble = "model.members: an ensemble is neither pruned nor trained for int8"
    rules = [
        (model.window >= 1, "model.window must be at least 1: it counts the present hop too"),
        (model.smoothing >= 0, "model.smoothing must be at least 1, the present hop, or 0: validation chooses"),
        (model.mix[0] or model.mix[1] <= 1, "model.mix: several steps in a hop need columns to mix them to, as [4, 2]"),
        (model.members >= 1, "model.members must be at least 1"),
        (model.members == 1 or not (pruned or quantized), f"{ensemble}: leave out prune, train.quantized_epochs"),
        is_range("speeds", recipe.windows.speeds, 0.1),
        is_range("levels", recipe.windows.levels, -100.0),
        (0 < size.channels <= model.channels, f"prune.channels must be from 1 to model.channels, {model.channels}"),
        (0 < size.hidden <= model.hidden, f"prune.hidden must be from 1 to model.hidden, {model.hidden}"),
        (not pruned or 0 < wide < train.epochs, "prune.share must leave an epoch before pruning and one after"),
    ]
    for holds, message in rules:
        if not holds:
            raise RecipeError(message)


def is_range(name: str, ends: tuple, least: float) -> tuple[bool, str]:
    """A rule of `check` for a range in [windows]."""
    numbers = len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    message = f"windows.{name} must be two numbers from {least} up, the lower first, not {list(ends)}"
    return numbers and least <= ends[0] <= ends[1], message


def read(path: Path, keywords: list[str] | None = None, seed: int | None = None) -> Recipe:
    try:
        return parse(path.read_text(), keywords, seed)
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; known recipes: {', '.join(known())}") from None
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def path_of(name: str) -> Path:
    """Name or file of a recipe → its file."""
    return Path(name) if name.endswith(".toml") else Path(__file__).parent / "recipes" / f"{name}.toml"


def run_name(path: Path, recipe: Recipe, alone: bool = False) -> str:
    """Name of the folder of a training: happy-kd-s0, or happy-kd-alone-s0 without its teacher."""
    return f"{'-'.join(recipe.data.keywords)}-{path.stem}{'-alone' if alone else ''}-s{recipe.train.seed}"


def quick(recipe: Recipe) -> Recipe:
    """The recipe with so short a schedule that all recipes can be tried in an hour. The model will be poor."""
    quantized = min(1, recipe.train.quantized_epochs)
    train = replace(recipe.train, epochs=4, quantized_epochs=quantized, windows=8192, pool=16_384)
    return replace(recipe, train=train, distill=replace(recipe.distill, seeds=recipe.distill.seeds[:1]))


def known() -> list[str]:
    return sorted(p.stem for p in (Path(__file__).parent / "recipes").glob("*.toml"))


# What a value must be, by the type of its default; keywords, which have none, are a tuple.
KINDS: dict[type, type] = {bool: bool, int: int, float: float, str: str, tuple: tuple, type(MISSING): tuple}


def build(name: str, kind: Any, table: dict[str, Any]) -> Any:
    check_keys(name + ".", table, kind)
    table = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    for item in fields(kind):
        if item.name not in table:
            continue
        value, expected = table[item.name], KINDS[type(item.default)]
        if expected is float and isinstance(value, int):
            table[item.name] = float(value)
        elif not isinstance(value, expected) or isinstance(value, bool) != (expected is bool):
            raise RecipeError(f"{name}.{item.name} must be {expected.__name__}, not {value!r}")
    try:
        return kind(**table)
    except TypeError as error:
        raise RecipeError(f"{name}: {error}") from None


def check_keys(prefix: str, table: dict[str, Any], kind: Any) -> None:
    names = [item.name for item in fields(kind)]
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise RecipeError(f"unknown key {prefix}{key}; {hint}")

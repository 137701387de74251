"""Rows of the results table, and which of them are compared."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from edge_demo.bench import cost
from edge_demo.evaluate.negatives import JOINED
from edge_demo.results.plan import FLOAT, FORMS, TRAINED, Plan, Training, control_of
from edge_demo.results.run import evaluation_of
from runtime.bundle.engine import Engine
from training import metrics
from training.model.crnn import n_parameters
from training.model.ensemble import new_model

FRR = "frr_at_half_percent_far"


class Column(NamedTuple):
    """A figure of edge_demo.evaluate that the table shows. path: keys joined by dots."""

    title: str
    path: str
    scale: float
    digits: int


COLUMNS = (
    Column("AU-FA-FR · 10⁴", "au_fa_fr", 1e4, 2),
    Column("1 − AUROC · 10⁴", "one_minus_auroc", 1e4, 0),
    Column("FRR at 0.5 % FAR, %", FRR, 100, 1),
    Column("FA/h, speech", "speech_at_operating_point.per_hour", 1, 1),
    Column("FA/h, other words", f"{JOINED}_at_operating_point.per_hour", 1, 1),
    Column("misses, clean, %", "misses_clean.share", 100, 1),
    Column("misses at 10 dB, %", "misses_10_db.share", 100, 1),
)


class Clips(NamedTuple):
    """The result of each test clip."""

    scores: np.ndarray  # (seeds, clips)
    labels: np.ndarray  # (clips,)
    hits: np.ndarray  # (seeds, keyword clips): 1 when detected in a clean stream


@dataclass(frozen=True, eq=False)
class Row:
    """A training in one of its forms, all random seeds."""

    training: Training
    form: str
    parameters: int
    macs_per_second: float
    macs_by_thop: int  # of two seconds
    weight_bytes: int
    file_bytes: float
    speedup: float  # over the first row, by the median time of a step
    epochs: int
    figures: dict[str, list[float]]  # path of a column that was measured → a value for each seed
    frr_interval: tuple[float, float]
    clips: Clips

    @property
    def name(self) -> str:
        return FORMS[self.form] + self.training.name


class Comparison(NamedTuple):
    """How much more often the first row misses than the second: difference, and the ends of its 95 % interval."""

    one: Row
    other: Row
    frr: tuple[float, float, float]
    streamed: tuple[float, float, float]


def read_rows(plan: Plan) -> list[Row]:
    """From the files of a plan that has run."""
    keys = [(training, form) for training in plan.trainings for form in plan.forms_of(training)]
    times = step_times([plan.model(training, plan.seeds[0], form) for training, form in keys])
    rows = [read_row(plan, *key, times[0] / own) for key, own in zip(keys, times, strict=True)]
    return sorted(rows, key=lambda row: (row.training != plan.trainings[0], -row.parameters, row.training))


def read_row(plan: Plan, training: Training, form: str, speedup: float) -> Row:
    recipe = plan.recipe(training, plan.seeds[0])
    model = new_model(recipe.size)
    files = [plan.model(training, seed, form) for seed in plan.seeds]
    evaluations = [json.loads(evaluation_of(plan, file).read_text()) for file in files]
    clips = Clips(
        np.array([one["scores"] for one in evaluations]),
        np.array(evaluations[0]["labels"]),
        np.array([one["hits"] for one in evaluations], float),
    )
    return Row(
        training,
        form,
        n_parameters(model),
        cost.macs_per_second(model),
        cost.macs_by_thop(model),
        cost.weight_bytes(model, files[0].parent, files[0].name),
        float(np.mean([file.stat().st_size for file in files])),
        speedup,
        recipe.train.epochs,
        shown_figures([one["figures"] for one in evaluations]),
        # The labels are the scores of a perfect detector; the difference from it is the rate itself.
        metrics.paired_bootstrap(clips.scores, clips.labels, clips.labels),
        clips,
    )


def step_times(models: list[Path]) -> list[float]:
    """Median microseconds of a step of each. They take turns, so that other load slows all alike."""
    engines = [Engine(model.parent, model.name) for model in models]
    times: list[list[float]] = [[] for _ in engines]
    hops = (np.random.default_rng(0).standard_normal((20, 1280)) * 0.05).astype(np.float32)
    for _ in range(40):
        for engine, own in zip(engines, times, strict=True):
            for hop in hops:
                began = time.perf_counter_ns()
                engine.step(hop)
                own.append((time.perf_counter_ns() - began) / 1000)
    return [median(own[len(hops) :]) for own in times]


def shown_figures(evaluations: list[dict]) -> dict[str, list[float]]:
    """Those of COLUMNS for which evaluate had recordings, of each seed."""
    figures: dict[str, list[float]] = {}
    for column in COLUMNS:
        outer, _, inner = column.path.partition(".")
        if outer in evaluations[0]:
            figures[column.path] = [float(one[outer][inner] if inner else one[outer]) for one in evaluations]
    return figures


def compare(one: Row, other: Row) -> Comparison:
    """By paired bootstrap over clips and seeds; two forms of one training are paired by checkpoint, too."""
    (scores, labels, hits), others = one.clips, other.clips
    same, half, keyword = one.training == other.training, (0.5, 0.5), np.ones(hits.shape[1])
    frr = metrics.paired_bootstrap(scores, others.scores, labels, same_runs=same)
    streamed = metrics.paired_bootstrap(hits, others.hits, keyword, half, same)
    return Comparison(
        one,
        other,
        (metrics.more_misses(scores, others.scores, labels), *frr),
        (metrics.more_misses(hits, others.hits, keyword, half), *streamed),
    )


def base_pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Each recipe with the first, float with float."""
    floats = [row for row in rows if row.form == FLOAT and not row.training.alone]
    return [(row, floats[0]) for row in floats[1:]]


def control_pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Each taught recipe with its control, float with float."""
    floats = {row.training: row for row in rows if row.form == FLOAT}
    taught = [row for row in floats.values() if not row.training.alone]
    controls = [(row, control_of(row.training)) for row in taught]
    return [(row, floats[control]) for row, control in controls if control in floats]


def int8_pairs(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Each int8 row with its float one, then what was trained for int8 with what was not."""
    forms = {(row.training, row.form): row for row in rows}
    integer = [row for row in rows if row.form != FLOAT]
    pairs = [(row, forms[row.training, FLOAT]) for row in integer]
    untrained = [form for form in FORMS if form not in (FLOAT, TRAINED)]
    return pairs + [(row, forms[row.training, form]) for row in integer if row.form == TRAINED for form in untrained]

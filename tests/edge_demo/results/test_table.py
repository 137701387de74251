"""The table: what is counted, what is taken for done, and what it says of models whose answers are known."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from edge_demo.bench import cost
from edge_demo.results import table
from edge_demo.results.document import comparison_table, quality_table
from edge_demo.results.plan import FLOAT, FORMS, Plan, TableError, Training, trainings
from edge_demo.results.plots import pareto
from edge_demo.results.rows import COLUMNS, Clips, Row, base_pairs, control_pairs, int8_pairs, shown_figures
from edge_demo.results.run import holds, is_trained
from export.int8.quantize import CANDIDATES
from training import recipe
from training.data.corpora import known_packages
from training.model.crnn import CRNN, n_parameters
from training.model.ensemble import new_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name, published", [("kd", 305_167), ("kd2", 186_924)])
def test_multiplications_are_counted_as_published(name, published):
    assert cost.macs_by_thop(CRNN(recipe.read(recipe.path_of(name)).size)) == published


def test_an_ensemble_costs_what_its_members_cost():
    one, three = recipe.read(recipe.path_of("wide")).size, recipe.read(recipe.path_of("ensemble")).size
    for counted in (n_parameters, cost.macs_per_second, cost.macs_by_thop):
        assert counted(new_model(three)) == 3 * counted(new_model(one))


def test_multiplications_are_those_of_the_sizes():
    """Counted by hand: a convolution of 2 × 11 × 20 at 5 bands, a GRU layer of 14 that hears 10, attention, classes."""
    model = CRNN(recipe.read(recipe.path_of("kd14")).size)
    assert cost.macs(model, 1) == 2 * 220 * 5 + 3 * 14 * (10 + 14) + 14 * 14 + 14 + 2 * 14
    assert cost.macs_per_second(model) == cost.macs(model, 1) * 12.5


def test_weights_of_a_bundle_are_counted_without_its_front_end(shipped):
    model = CRNN(recipe.read(recipe.path_of("base")).size)
    assert cost.weight_bytes(model, shipped, "model.onnx") == 4 * 70_443
    assert 70_443 < cost.weight_bytes(model, shipped, "model.int8.onnx") < 1.2 * 70_443


def a_row(training: Training, form: str, missed: int, parameters: int) -> Row:
    """Of three seeds, each of which misses so many of 40 clips, not the same ones."""
    labels = np.array([1] * 40 + [0] * 400)
    scores, hits = np.where(labels == 1, 0.9, 0.1) * np.ones((3, 1)), np.ones((3, 40))
    for seed in range(3):
        scores[seed, seed : seed + missed] = 0.0
        hits[seed, seed : seed + missed] = 0
    evaluation = {
        "au_fa_fr": 1e-4,
        "one_minus_auroc": 1e-3,
        "frr_at_half_percent_far": missed / 40,
        "speech_at_operating_point": {"per_hour": 1.5},
        "misses_clean": {"share": missed / 40},
    }
    weights = parameters * (4 if form == FLOAT else 1)
    costs = parameters, 12.5 * parameters, 25 * parameters, weights, weights + 9000.0, 1.0, 3
    return Row(training, form, *costs, shown_figures([evaluation] * 3), (0.0, 0.1), Clips(scores, labels, hits))


BASE, TAUGHT, ALONE = Training("base", False), Training("kd", False), Training("kd", True)
PLAN = Plan(Path(), Path(), [BASE, TAUGHT, ALONE])


@pytest.fixture
def rows() -> list[Row]:
    return [
        a_row(training, form, missed, parameters)
        for training, missed, parameters in ((BASE, 2, 8000), (TAUGHT, 3, 1000), (ALONE, 20, 1000))
        for form in PLAN.forms_of(training)
    ]


def test_document_says_what_was_measured(rows, tmp_path):
    table.write(PLAN, rows, tmp_path)
    text = (tmp_path / "results.md").read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 8.0 × | 8.0 × |" in [line for line in text.splitlines() if line.startswith("| KD | 1 000")][0]
    assert "| KD | KD alone | -42.5 |" in text and "| KD |" in lines["KD"]
    better = [line for line in text.splitlines() if line.startswith("| KD | KD alone")][0]
    assert better.endswith("| KD |") and "| DQ+B | B | +0.0 | " in text
    for picture in ("results-size.png", "results-error.png"):
        assert (tmp_path / picture).stat().st_size > 10_000 and f"({picture})" in text


def test_the_quality_table_has_a_cell_for_each_column(rows):
    lines = [line.split(" | ") for line in quality_table(rows).splitlines()]
    assert {len(line) for line in lines} == {len(COLUMNS) + 2}
    assert lines[0][3:5] == ["FRR at 0.5 % FAR, %", "95 % interval"]
    assert lines[2][3:5] == ["5.0 (5.0 … 5.0)", "0.0 … 10.0"]


def names(pairs: list[tuple[Row, Row]]) -> list[tuple[str, str]]:
    return [(one.name, other.name) for one, other in pairs]


def test_pairs_are_of_one_recipe_and_one_form(rows):
    assert names(control_pairs(rows)) == [("KD", "KD alone")]
    assert names(base_pairs(rows)) == [("KD", "B")]
    pairs = names(int8_pairs(rows))
    assert {("DQ+KD", "KD"), ("SQ+KD", "KD")} < set(pairs) and not any("alone" in one for one, _ in pairs)


def test_what_was_trained_for_int8_is_compared_with_what_was_not():
    pairs = names(int8_pairs([a_row(BASE, form, 2, 8000) for form in FORMS]))
    assert {("QAT+B", "B"), ("QAT+B", "DQ+B"), ("QAT+B", "SQ+B")} < set(pairs)


def test_equal_models_are_not_shown_to_differ(rows):
    same = {row.form: row for row in rows if row.training == BASE}
    assert "no difference shown" in comparison_table([(same["dynamic"], same[FLOAT])])


def test_every_taught_recipe_has_its_control_and_the_base_comes_first():
    every = trainings([])
    assert every[0] == Training("base", False) and Training("base", True) not in every
    assert {t.recipe for t in every} == set(recipe.known())
    for name in ("kd", "kd2", "ad-kd", "sp-ad-kd", "kd14"):
        assert Training(name, True) in every
    for name in ("small", "tiny"):  # a recipe of its own is the control
        taught, control = Training(f"{name}-kd", False), Training(name, False)
        assert Training(f"{name}-kd", True) not in every
        assert trainings(["base", f"{name}-kd"])[1:] == [taught, control]
        both = [a_row(training, FLOAT, 3, 1000) for training in (taught, control)]
        assert control_pairs(both) == [tuple(both)]
    assert [t.name for t in trainings(["kd2", "base"])] == ["KD2", "KD2 alone", "B"]


def test_a_recipe_is_known_by_its_path_too_and_two_of_one_name_are_refused(tmp_path):
    path = recipe.path_of("base")
    assert trainings([str(path)]) == trainings(["base"])
    shutil.copy(path, tmp_path / "base.toml")
    with pytest.raises(TableError, match="two recipes are called B"):
        trainings(["base", str(tmp_path / "base.toml")])


def test_a_run_of_another_recipe_is_not_taken_for_done(tmp_path):
    plan = Plan(Path(), tmp_path, [], seeds=(0,), quick=True)
    folder = plan.run(BASE, 0)
    made = recipe.quick(recipe.read(recipe.path_of("base"), ["happy"], 0))
    made = replace(made, train=replace(made.train, quantized_epochs=0))
    for one, same in ((made, True), (replace(made, train=replace(made.train, dropout=0.5)), False)):
        for stage in (folder, folder.with_name(folder.name + "-qat")):
            stage.mkdir(exist_ok=True)
            (stage / "model.safetensors").touch()
            (stage / "log.csv").write_text("epoch\n1\n2\n3\n4\n")
        save_file({"x": np.zeros(1)}, folder / "last.safetensors", {"recipe": json.dumps(asdict(one))})
        assert is_trained(plan, BASE, 0) == same


def test_a_run_is_done_when_all_its_epochs_are(tmp_path):
    plan = Plan(Path(), tmp_path, [], seeds=(0,), quick=True)
    kd = Training("kd", False)
    folder = plan.run(kd, 0)
    assert folder.name == "happy-kd-s0" and not is_trained(plan, kd, 0)
    folder.mkdir()
    (folder / "model.safetensors").touch()
    for epochs, done in ((3, False), (4, True)):  # a quick one has four
        (folder / "log.csv").write_text("epoch\n" + "".join(f"{i}\n" for i in range(epochs)))
        assert is_trained(plan, kd, 0) == done
    assert not is_trained(replace(plan, quick=False), kd, 0)


def test_every_form_is_one_that_the_export_tries():
    assert set(FORMS) - {FLOAT} <= set(CANDIDATES)


def test_a_bundle_without_a_file_that_the_table_wants_is_not_taken_for_done(tmp_path):
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"files": {"model.onnx": {}, "model.int8.onnx": {}, "model.dynamic.onnx": {}}}')
    assert holds(manifest, ()) and holds(manifest, ("dynamic",))
    assert not holds(manifest, ("dynamic", "static"))


def test_front_is_what_nothing_cheaper_beats():
    assert pareto([1, 2, 3, 4, 2], [5, 3, 4, 1, 2]) == [0, 4, 3]


TINY = """
[data]
keywords = ["happy"]
synthetic = 0
packages = []
bursts = 0
worn = 0
muted = 0
rooms = 2
[model]
channels = 2
hidden = 6
layers = 1
[train]
epochs = 1
windows = 32
pool = 32
batch = 16
hops = 20
"""


@pytest.mark.slow
def test_from_recordings_to_the_table_and_nothing_twice(corpus, tmp_path, registry, monkeypatch, capfd):
    """Two recipes and a control, on a tiny corpus with as many other words as an evaluation wants."""
    shutil.copytree(corpus, tmp_path / "data")
    others = [f"dog/{i:08x}_nohash_0.wav" for i in range(20)]
    words = tmp_path / "data" / "speech_commands"
    (words / "dog").mkdir()
    for name in others:
        shutil.copy(words / "bed" / "00000000_nohash_0.wav", words / name)
    with open(words / "testing_list.txt", "a") as file:
        file.write("\n".join(others) + "\n")
    (tmp_path / "wide.toml").write_text(TINY)
    narrow = TINY.replace("hidden = 6", "hidden = 3").replace("epochs = 1", "epochs = 1\nquantized_epochs = 1")
    (tmp_path / "narrow.toml").write_text(narrow + '[distill]\nteachers = ["wide.toml"]\nseeds = [0]\n')
    registry.put_empty(known_packages())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(table, "SEEDS", (0,))
    monkeypatch.setattr("sys.argv", ["table", "wide.toml", "narrow.toml", "--data", "data"])
    assert table.main() == 0, capfd.readouterr().err
    once, text = capfd.readouterr().out, (tmp_path / "runs" / "table" / "results.md").read_text()
    assert "training 3 of 3: narrow alone, seed 0" in once
    for name in ("wide", "DQ+wide", "SQ+wide", "narrow", "DQ+narrow", "QAT+narrow"):
        assert text.count(f"\n| {name} |") >= 2
    assert "\n| narrow alone |" in text and "| narrow | narrow alone |" in text
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and path.parent.name != "table"]
    made = {path: path.stat().st_mtime_ns for path in files}
    assert table.main() == 0 and "training" not in capfd.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.parametrize(
    "arguments, message",
    [(["base", "--data", "/nowhere"], "no such folder"), (["nothing", "base", "--data", "tests"], "known recipes")],
)
def test_mistakes_are_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["table", *arguments])
    assert table.main() == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1

"""Training itself, as a user runs it: from the command line, on a tiny corpus."""

import csv
import json
import resource
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from small import COMMAND, RECIPE, run, train

from training import recipe as recipes
from training import train as training
from training.model import checkpoint
from training.model.crnn import CRNN
from training.model.ensemble import networks

STOP = """
import sys
from training import train
end_epoch = train.Run.end_epoch
def stop(self, *arguments):
    end_epoch(self, *arguments)
    raise KeyboardInterrupt
train.Run.end_epoch = stop
sys.exit(train.main())
"""


def interrupted(folder, corpus, recipe, out):
    """A training that is stopped after its next epoch."""
    words = [f"{recipe}.toml", "--data", corpus, "--out", out, "--workers", "0"]
    return run(folder, *words, command=[sys.executable, "-c", STOP])


def rows(folder) -> list[dict]:
    with open(folder / "log.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def whole(folder, corpus):
    done = train(folder, corpus, "whole")
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def test_leaves_checkpoint_and_log(whole):
    model, info = checkpoint.load(whole)
    assert info.keywords == ["happy"] and info.name == "whole" and info.refractory_hops > 0
    assert 0 < info.thresholds[0] < 1 and info.recipe.model.hidden == 6 and not model.training
    assert [row["epoch"] for row in rows(whole)] == ["1", "2"]


def test_only_the_second_half_of_a_schedule_is_validated(whole):
    first, second = rows(whole)
    empty = {name for name, cell in first.items() if not cell}
    assert empty == {"misses", "clean", "one_minus_auroc", "frr", "smoothing", "threshold"}
    assert all(second.values()) and list(first) == list(second)


def test_interrupted_training_ends_as_an_uninterrupted_one(folder, corpus, whole):
    """Stopped after the first epoch, by the schedule of the same recipe with another end; then gone on with."""
    out = folder / "halves"
    done = interrupted(folder, corpus, "whole", out)
    assert done.returncode == 130 and "run the same command again" in done.stderr
    (folder / "halves.toml").write_text(RECIPE)
    assert train(folder, corpus, "halves").returncode == 0
    one, other = (checkpoint.load(path)[0].state_dict() for path in (whole, out))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["loss"] for row in rows(whole)] == [row["loss"] for row in rows(out)]


def test_a_student_trains_its_teachers_first(folder, corpus, whole):
    (folder / "teacher.toml").write_text(RECIPE)
    text = RECIPE.replace("epochs = 2", "epochs = 1") + '[distill]\nteachers = ["teacher.toml"]\nseeds = [3]\n'
    done = train(folder, corpus, "student", text)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(folder / "runs" / "happy-teacher-s3")[1].recipe.train.seed == 3
    assert len(rows(folder / "student")) == 1
    assert float(rows(folder / "student")[0]["loss"]) > float(rows(whole)[0]["loss"])  # there is more to pay for


def test_an_ensemble_goes_on_after_an_interruption_and_teaches(folder, corpus):
    text = RECIPE.replace("hidden = 6", "hidden = 6\nmembers = 2")
    done = train(folder, corpus, "ensemble", text)
    assert done.returncode == 0, done.stderr
    model, info = checkpoint.load(folder / "ensemble")
    one, two = (network.state_dict() for network in networks(model))
    assert info.recipe.model.members == 2 and any(not torch.equal(one[name], two[name]) for name in one)
    (folder / "pieces.toml").write_text(text)
    assert interrupted(folder, corpus, "pieces", folder / "pieces").returncode == 130
    assert train(folder, corpus, "pieces", text).returncode == 0
    other = checkpoint.load(folder / "pieces")[0].state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())
    student = RECIPE.replace("epochs = 2", "epochs = 1") + '[distill]\nteachers = ["pieces.toml"]\nseeds = [0]\n'
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "pieces").rename(folder / "runs" / "happy-pieces-s0")
    done = train(folder, corpus, "taught-by-two", student)
    assert done.returncode == 0 and "happy-pieces-s0: all 2 epochs" in done.stdout


PRUNED = (
    RECIPE.replace("epochs = 2", "epochs = 3")
    + """
[distill]
teachers = ["teacher.toml"]
seeds = [3]
attention = 1.0
[prune]
channels = 1
hidden = 3
share = 0.34
"""
)


def test_a_pruned_student_is_small_and_goes_on_after_an_interruption(folder, corpus, monkeypatch, capsys):
    """Interrupted while it is wide, and after it was pruned."""
    monkeypatch.chdir(folder)
    (folder / "teacher.toml").write_text(RECIPE)
    recipe, end_epoch = recipes.parse(PRUNED), training.Run.end_epoch

    def stop(self, *arguments):
        end_epoch(self, *arguments)
        if self.epoch in stops and self.recipe.prune.hidden:
            raise KeyboardInterrupt

    stops: tuple[int, ...] = ()
    monkeypatch.setattr(training.Run, "end_epoch", stop)
    training.train(recipe, PRUNED, corpus, folder / "pruned", folder / "runs", 0)
    assert "pruned to" in capsys.readouterr().out
    model, info = checkpoint.load(folder / "pruned")
    assert (model.size.channels, model.size.hidden, info.recipe.model.hidden) == (1, 3, 6)
    assert [row["epoch"] for row in rows(folder / "pruned")] == ["1", "2", "3"]
    stops = (1, 2)
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            training.train(recipe, PRUNED, corpus, folder / "pieces", folder / "runs", 0)
    training.train(recipe, PRUNED, corpus, folder / "pieces", folder / "runs", 0)
    one, other = (checkpoint.load(folder / name)[0].state_dict() for name in ("pruned", "pieces"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_control_is_its_recipe_without_the_teacher():
    text = RECIPE + '[distill]\nteachers = ["base"]\nattention = 1.0\n'
    control, note = training.without_teacher(recipes.parse(text), text)
    assert control == recipes.parse(RECIPE) and note.startswith("# Trained with --alone") and note.endswith(text)
    assert recipes.run_name(recipes.path_of("kd"), control, alone=True) == "happy-kd-alone-s0"
    with pytest.raises(recipes.RecipeError, match="has none"):
        training.without_teacher(control, RECIPE)


def test_a_run_goes_on_when_recipes_have_learnt_new_keys(whole):
    """What was written before a key was thought of had its default."""
    recipe = recipes.parse(RECIPE)
    resumed = training.Run(recipe, RECIPE, whole)
    resumed.resume()
    assert resumed.epoch == 2
    older = json.loads(json.dumps(asdict(recipe)))
    del older["prune"], older["distill"]["attention"]
    assert recipes.assemble(older) == recipe


def test_two_processes_learn_what_one_does(folder, corpus):
    """With dropout, which no two processes draw alike, off. What differs is the order of sums, and Adam's first steps
    make much of little: they go by the sign of a gradient."""
    text = PRUNED.replace("[train]", "[train]\ndropout = 0.0")
    (folder / "teacher.toml").write_text(RECIPE.replace("[train]", "[train]\ndropout = 0.0"))
    (folder / "parallel.toml").write_text(text)
    found = {}
    for count in (1, 2):
        out = folder / f"by-{count}"
        how = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
        options = ["--data", corpus, "--runs", folder / f"runs-{count}", "--out", out, "--workers", "0"]
        done = run(folder, "parallel.toml", *options, command=[*how, "training.train"])
        assert done.returncode == 0, done.stderr
        found[count] = checkpoint.load(out)[0].state_dict(), [float(row["loss"]) for row in rows(out)]
    (one, losses), (two, others) = found[1], found[2]
    assert losses == pytest.approx(others, abs=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-4)


def test_a_recipe_that_teaches_itself_is_one_line(folder, corpus):
    text = RECIPE + '[distill]\nteachers = ["self.toml"]\n'
    done = train(folder, corpus, "self", text)
    assert done.returncode == 2 and "a teacher has no teacher" in done.stderr and "Traceback" not in done.stderr


def test_another_recipe_does_not_go_on(folder, corpus, whole):
    done = train(folder, corpus, "whole", RECIPE.replace("hidden = 6", "hidden = 7"))
    assert done.returncode == 2 and "another recipe" in done.stderr and "Traceback" not in done.stderr
    (folder / "whole.toml").write_text(RECIPE)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none"], "known recipes"),
        (["base", "--data", "/nowhere"], "no such folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_full_disk_is_one_line(folder, corpus):
    """A limit on the size of files fails writes as a full disk does."""
    most = 100_000  # bytes; and more windows than are kept already: those would be found, and need no room
    text = RECIPE.replace("pool = 48", "pool = 4800")
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))}
    done = train(folder, corpus, "full", text, **limit)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "make room, then run the same command again" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_broken_checkpoint_is_one_line(whole, tmp_path, damage):
    content = (whole / "model.safetensors").read_bytes()
    if damage == "cut":
        (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "other":
        (tmp_path / "model.safetensors").write_bytes(content.replace(b"hidden = 6", b"hidden = 5"))
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value) and "model.safetensors" in str(error.value)


def test_what_validation_chose_is_kept_and_a_recipe_that_says_it_is_kept_to(tmp_path):
    """Older checkpoints do not name the hops that they average over: theirs are the recipe's, or one."""
    fixed = RECIPE.replace("[model]", "[model]\nsmoothing = 6")
    weights = CRNN(recipes.parse(RECIPE).size).state_dict()
    for name, text, chosen in (("open", RECIPE, 4), ("fixed", fixed, 6)):
        checkpoint.save(tmp_path / name, weights, text, 0, ["happy"], [0.5], 12, chosen)
        assert checkpoint.load(tmp_path / name)[0].size.smoothing == chosen
    for name, expected in (("open", 1), ("fixed", 6)):
        path = tmp_path / name / "model.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = {key: value for key, value in file.metadata().items() if key != "smoothing"}
        path.write_bytes(to_bytes(weights, metadata))
        assert checkpoint.load(path)[0].size.smoothing == expected

"""Clips in which the keyword is not said: found by models, listed, left out."""

import shutil
import sys

import numpy as np
import pytest
import torch
from small import RECIPE

from training import mislabelled, recipe
from training.data import mislabelled as names
from training.data import recordings as data
from training.model import checkpoint
from training.model.crnn import CRNN, log_odds
from training.model.features import SAMPLE_RATE
from training.windows import sources

WRONG = "speech_commands/happy/00000003_nohash_0"


@pytest.fixture
def runs(tmp_path):
    """Two runs of a recipe, with models that differ."""
    (tmp_path / "toy.toml").write_text(RECIPE)
    parsed = recipe.parse(RECIPE)
    for seed in range(2):
        torch.manual_seed(seed)
        state = CRNN(parsed.model).state_dict()
        checkpoint.save(tmp_path / "runs" / f"happy-toy-s{seed}", state, RECIPE, seed, ["happy"], [0.5], 12)
    return tmp_path / "runs"


@pytest.fixture
def own_list(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "LIST", tmp_path / "mislabelled.txt")
    return names.LIST


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mislabelled", *map(str, arguments)])
    code = mislabelled.main()
    return code, capsys.readouterr()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_several_models_are_heard_together(corpus, runs):
    clips = [c for c in data.find(corpus, ("speech_commands",), words=True) if c.word == "happy"][:3]
    folders = sorted(runs.iterdir())
    together = mislabelled.log_odds_of(clips, folders, "happy")
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    for clip, odds in zip(clips, together, strict=True):
        audio = np.concatenate([pause, data.to_float(data.read(clip.path)), pause])
        audio = torch.from_numpy(audio[: len(audio) // 1280 * 1280])[None]
        models = [checkpoint.load(folder)[0] for folder in folders]
        with torch.no_grad():
            said = [log_odds(model(audio, model.zero_state())[0].logits) for model in models]
        assert odds == pytest.approx(float(torch.stack(said).mean(0).max()), abs=1e-4)


def test_what_is_found_is_written_and_left_out(corpus, tmp_path, runs, own_list, monkeypatch, capsys):
    def judge(clips, folders, keyword):
        assert [folder.name for folder in folders] == ["happy-toy-s0", "happy-toy-s1"] and keyword == "happy"
        return np.array([-1.0 if WRONG in str(clip.path) else 2.0 for clip in clips])

    monkeypatch.setattr(mislabelled, "log_odds_of", judge)
    arguments = tmp_path / "toy.toml", "--data", corpus, "--runs", runs
    before = sources.find(corpus, recipe.parse(RECIPE)).keywords[0]
    code, said = run(monkeypatch, capsys, *arguments)
    assert code == 0 and "1 of 6 training clips, by 2 models" in said.out and not own_list.exists()
    assert run(monkeypatch, capsys, *arguments, "--write")[0] == 0
    assert own_list.read_text() == WRONG + "\n"
    after = sources.find(corpus, recipe.parse(RECIPE)).keywords[0]
    assert {c.path.stem for c in before} - {c.path.stem for c in after} == {"00000003_nohash_0"}
    assert run(monkeypatch, capsys, *arguments, "--write")[0] == 0 and own_list.read_text() == WRONG + "\n"


def test_mistakes_are_one_line(corpus, tmp_path, runs, own_list, monkeypatch, capsys):
    shutil.rmtree(runs)
    code, said = run(monkeypatch, capsys, tmp_path / "toy.toml", "--data", corpus, "--runs", runs)
    assert code == 2 and "python -m training.train" in said.err and len(said.err.splitlines()) == 1


def test_shipped_list_names_clips_and_none_of_the_other_splits(recordings):
    clips = data.find(recordings, ("speech_commands",), words=True)
    found = {names.name_of(clip.path, recordings): clip for clip in clips}
    assert names.known() <= set(found)
    assert {found[name].split for name in names.known()} == {"training"}

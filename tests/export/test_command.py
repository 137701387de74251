"""`python -m export`: help that teaches, one line for a mistake, exit codes."""

import pytest
from random_models import random_model, save_checkpoint

import export.__main__
from export.verify import VerifyError
from training.model.crnn import Size


@pytest.fixture
def small(tmp_path):
    return save_checkpoint(tmp_path / "small", random_model(Size(kernel=(15, 5), hidden=21)), ["word"])


def test_help_teaches(run):
    code, out, _ = run("--help")
    assert code == 0
    for word in ("models/happy-base --out dist", "--state-dict", "Exit code", "MELxFRAMES"):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to export"),
        (["missing"], "no such file"),
        (["--state-dict", "x.pt"], "needs --keyword"),
        (["--state-dict", "x.pt", "--keyword", "k"], "no such file"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments, "--out", "dist")
    assert code == 2
    assert len(err.splitlines()) == 1 and words in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [["--stride", "2"], ["--window", "0"], ["--threshold", "1.5"], ["--keyword-class", "2"], []],
)
def test_wrong_options_exit_with_2(run, arguments):
    code, _, err = run("x", *arguments, *(["--out", "dist"] if arguments else []))
    assert code == 2
    assert "error:" in err and "Traceback" not in err


def test_out_that_is_a_file(run, small, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(small, "--out", tmp_path / "file")
    assert code == 2
    assert len(err.splitlines()) == 1 and "--out" in err


def test_a_name_that_leads_elsewhere_and_a_name_twice(run, small, tmp_path):
    code, _, err = run(small, small, "--out", tmp_path / "dist")
    assert code == 2 and "two checkpoints" in err
    (tmp_path / ".hidden").mkdir()
    (small / "model.safetensors").rename(tmp_path / ".hidden" / "model.safetensors")
    code, _, err = run(tmp_path / ".hidden", "--out", tmp_path / "dist")
    assert code == 2 and "cannot name a bundle" in err


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0{}      "])
def test_corrupt_checkpoints(run, tmp_path, content):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.safetensors").write_bytes(content)
    code, _, err = run(tmp_path / "x", "--out", tmp_path / "dist")
    assert code == 2
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [(VerifyError("model.onnx is not it"), "is not it"), (OSError(28, "No space left on device"), "No space left")],
)
def test_failures_exit_with_1(run, small, tmp_path, monkeypatch, error, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(export.__main__, "export", fail)
    code, out, err = run(small, "--out", tmp_path / "dist")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1 and words in err and "no bundle" in err

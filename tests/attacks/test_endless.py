"""Graphs that never end, or end the process: when they are loaded, at the first step, or at the first loud sound.

Each is refused before onnxruntime sees it, and does its harm when the check is taken out; in a process of its own,
which is ended after a second or two of processor time.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from attack import Attack, Heard, hear, refused
from on_graphs import SCAN, extra
from test_memory import SIZES

TOO_LONG = "its step takes more than 50000000 operations"
BY_AUDIO = "has a shape that does not follow from short constants"
QUADRATIC = ("        if key in found:\n", "        if [other for other, _ in pairs].count(key) > 1:\n")
INTEGERS = "int64 no = {0}, int64 many = {1300}, int64 step = {1}"
DIVISION = ("    if x[0].type != FLOAT and not", "    if False and not")


def products(count: int, a: str, b: str) -> str:
    """Of the same two, each another one, or onnxruntime would compute it once."""
    each = "\n".join(f"p{n + 1} = Gemm<alpha = {n + 2}.0>({a}, {b}, p{n})" for n in range(count))
    return f"p0 = Gemm({a}, {b})\n {each}\n extra = Reshape(p{count}, flat)"


def when_loaded(folder: Path) -> None:
    """Constants alone: onnxruntime computes them when it loads the model."""
    toy.write_bundle(folder, extra(f"""whole = Range(no, many, step)
        row = Cast<to = 1>(whole)
        column = Unsqueeze(row, axis)
        both = Mul(row, column)
        {products(120, "both", "both")}""", INTEGERS))


def at_every_step(folder: Path) -> None:
    toy.write_bundle(folder, extra(f"""column = Reshape(audio, sides)
        both = MatMul(column, audio)
        {products(500, "both", "both")}""", "int64[2] sides = {-1, 1}"))


def at_a_loud_sound(folder: Path) -> None:
    """A matrix as large as the sound is loud."""
    toy.write_bundle(folder, extra(f"""loud = Mul(energy, thousand)
        level_0 = Reshape(loud, flat)
        level_1 = Gather(level_0, no)
        size = Cast<to = 7>(level_1)
        last = Add(size, step)
        whole = Range(no, last, step)
        row = Cast<to = 1>(whole)
        column = Unsqueeze(row, axis)
        both = Mul(row, column)
        {products(500, "both", "both")}""", INTEGERS + ", float[1] thousand = {2000.0}"))


def divided(operator: str) -> Callable[[Path], None]:
    """By -1, which the lowest of all whole numbers cannot be; a float beyond them becomes that."""

    def build(folder: Path) -> None:
        toy.write_bundle(folder, extra(f"""beyond = Mul(energy, huge)
            lowest = Cast<to = 7>(beyond)
            whole = {operator}(lowest, minus)
            float = Cast<to = 1>(whole)
            extra = Reshape(float, flat)""", "float[1] huge = {1.0e30}, int64[1] minus = {-1}"))

    return build


def many_keys(folder: Path) -> None:
    """60 000 of them in a manifest, two of one name."""
    path = toy.write_bundle(folder) / "manifest.json"
    more = ", ".join(f'"key {number}": 0' for number in (*range(60_000), 59_999))
    path.write_text(path.read_text()[:-1] + f", {more}}}")


def is_endless(heard: Heard) -> bool:
    return heard.code == -signal.SIGXCPU


def is_endless_when_loud(heard: Heard) -> bool:
    return is_endless(heard) and heard.said == ["loaded", "silence"]


def dies_when_loud(heard: Heard) -> bool:
    return heard.code == -signal.SIGFPE and heard.said == ["loaded", "silence"]


ATTACKS = {
    "when loaded": Attack(when_loaded, TOO_LONG, SIZES, is_endless),
    "at every step": Attack(at_every_step, TOO_LONG, SIZES, is_endless),
    "at a loud sound": Attack(at_a_loud_sound, BY_AUDIO, [SCAN], is_endless_when_loud),
    "many keys": Attack(many_keys, 'says "key 59999" twice', [QUADRATIC], is_endless),
    "divided": Attack(divided("Div"), "has a Div that may end the process", [DIVISION], dies_when_loud),
    "remainder": Attack(divided("Mod"), "has a Mod that may end the process", [DIVISION], dies_when_loud),
}


@pytest.fixture
def attacked(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    ATTACKS[request.param].build(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_refused_before_anything_is_loaded(attacked, attack, monkeypatch):
    refused(attack, attacked, monkeypatch)


@pytest.mark.parametrize(("attacked", "attack"), ATTACKS.items(), ids=list(ATTACKS), indirect=["attacked"])
def test_does_its_harm_without_the_check(attacked, attack, weak_copy):
    heard = hear(weak_copy(*attack.out), attacked, cpu=2 if attack.harm is is_endless_when_loud else 1)
    assert attack.harm(heard), heard

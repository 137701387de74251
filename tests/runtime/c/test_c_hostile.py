"""Broken and hostile weights, under address and undefined-behaviour sanitizers: refused, or a detector of nonsense."""

import shutil
import subprocess

import pytest
from c_files import SANITIZED, weights
from corpus import small_weights

from export.forms.binary import FLOAT32, INT8


@pytest.fixture
def hostile(compiled, tmp_path):
    """What `hostile.c` says of a kind of attack: (tried, taken)."""

    def hostile(kind: str, content: bytes | None, *arguments: int) -> tuple[int, int]:
        program = compiled("hostile.c", *SANITIZED)
        file = tmp_path / "model.bin"
        file.write_bytes(content or b"")
        given = [kind, *([str(file)] if content else []), *map(str, arguments)]
        done = subprocess.run([program, *given], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tried, taken = map(int, done.stdout.split())
        return tried, taken

    return hostile


@pytest.mark.parametrize("content", [weights("happy-tiny", INT8), small_weights("mixed")], ids=["int8", "float"])
def test_truncated_at_every_length(hostile, content):
    assert hostile("truncated", content) == (2 * len(content) + 1, 1)  # the whole one is taken


@pytest.mark.parametrize(
    "content",
    [weights("happy-tiny"), weights("happy-tiny", INT8), small_weights("deep"), weights("happy-base", INT8)],
    ids=["float", "int8", "deep float", "one convolution, int8"],
)
def test_every_field_of_the_header(hostile, content):
    tried, taken = hostile("fields", content)
    assert tried > 1500 and 1 < taken < tried / 4  # another threshold or refractory is another detector


@pytest.mark.parametrize("kind", [FLOAT32, INT8], ids=["float", "int8"])
def test_flipped_bits(hostile, kind):
    tried, taken = hostile("flipped", weights("happy-tiny", kind), 800)
    assert tried == 801 and tried / 2 < taken <= tried * 7 / 8 + 1  # not mended: the checksum finds it


def test_random_bytes(hostile):
    tried, taken = hostile("random", None, 2000)
    assert tried > 2000 and taken > 200


@pytest.mark.slow
def test_fuzzed(compiled, tmp_path):
    """As `make fuzz-engine`, which goes on for a million inputs."""
    if not shutil.which("clang"):
        pytest.skip("no clang")
    program = compiled("fuzz.c", *SANITIZED, "-fsanitize=fuzzer", compiler="clang")
    (tmp_path / "weights.bin").write_bytes(weights("happy-tiny", INT8))
    command = [program, "-runs=100000", "-max_len=8192", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

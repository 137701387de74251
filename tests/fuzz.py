"""Fuzzing with hypothesis: a sample in every run of the tests, 100 000 inputs in `make test-all`.

Hypothesis needs longer to make an input than a server to answer it, and remembers all it made: 600 MB after 60 000.
So each input can be damaged a few times more, byte by byte, and what is long comes in batches.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

SAMPLE = 300
BATCHES = [pytest.param(0, SAMPLE, id="sample"),
           *(pytest.param(batch, 5000, marks=pytest.mark.slow, id=f"batch {batch} of 20") for batch in range(1, 21))]
in_batches = pytest.mark.parametrize(("batch", "inputs"), BATCHES)


def fuzz(check: Callable[[Any], None], strategy: st.SearchStrategy, batch: int, inputs: int, damaged: int = 0) -> None:
    """Call `check` with so many inputs of the strategy; with `damaged`, so many of each are bytes that were damaged."""
    checked = 0

    @seed(batch)
    @settings(max_examples=inputs // (1 + damaged), deadline=None, database=None,
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def each(value: Any) -> None:
        nonlocal checked
        check(value)
        rng = random.Random(value) if damaged else None
        for _ in range(damaged):
            check(damage(value, rng))
        checked += 1 + damaged

    each()
    assert checked >= inputs


def damage(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, left out, put in, said twice."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(data))
        gone = data[place : place + rng.choice([0, 1, 1, 2, 8, 100])]
        new = rng.choice([b"", rng.randbytes(1), rng.randbytes(4), 2 * gone])
        data = data[:place] + new + data[place + len(gone) :]
    return data

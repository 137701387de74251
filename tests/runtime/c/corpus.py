"""Small weights of many shapes, for the fuzzer to begin with.

python tests/runtime/c/corpus.py FOLDER
"""

import sys
from pathlib import Path

import torch

from export.detector import Detector
from export.forms.binary import FLOAT32, INT8, to_bytes
from training.model.crnn import Size
from training.model.ensemble import new_model

SIZES = {
    "plain": Size(channels=2, kernel=(20, 3), stride=(20, 2), hidden=3, layers=1, window=3),
    "mixed": Size(channels=2, kernel=(8, 2), stride=(32, 1), mix=(2, 2), hidden=3, layers=1, window=3, smoothing=2),
    "deep": Size(channels=1, kernel=(40, 1), stride=(1, 2), hidden=2, layers=3, window=1, keywords=2),
    "members": Size(channels=1, kernel=(5, 2), stride=(20, 1), hidden=2, layers=1, window=2, members=3),
}


def small_weights(name: str, kind: int = FLOAT32) -> bytes:
    """One of SIZES with random values."""
    torch.manual_seed(0)
    size = SIZES[name]
    words = [f"word{number}" for number in range(size.keywords)]
    return to_bytes(Detector(name, new_model(size).eval(), words, [0.5] * size.keywords, 12), kind)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        (folder / f"{name}.bin").write_bytes(small_weights(name))
        (folder / f"{name}.int8.bin").write_bytes(small_weights(name, INT8))


if __name__ == "__main__":
    main()

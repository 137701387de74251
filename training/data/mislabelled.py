"""Recordings in the folder of a keyword that do not contain it: mislabelled.txt has a name per line, without extension.
`python -m training.mislabelled` finds them."""

from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")


def name_of(path: Path, base: Path) -> str:
    return path.relative_to(base).with_suffix("").as_posix()


def known() -> set[str]:
    """Names of the list."""
    return set(LIST.read_text().split()) if LIST.exists() else set()

"""The list of recordings of a keyword in which it is not said: mislabelled.txt, a name a line, without what follows the
last dot. `python -m training.mislabelled` finds them."""

from pathlib import Path

LIST = Path(__file__).with_suffix(".txt")


def name_of(path: Path, base: Path) -> str:
    return path.relative_to(base).with_suffix("").as_posix()


def known() -> set[str]:
    """Names of the list."""
    return set(LIST.read_text().split()) if LIST.exists() else set()

"""Recordings without a keyword: their kinds (five) and splits (three), assigned by name in corpora.toml.

    EARSHOT_DATA=~/recordings python -m training.data.corpora      # hours, recordings and voices of each kind and split

The sources are folders below EARSHOT_DATA, Debian packages (fetched when first used: 797 MB for all, 455 MB for testing
alone), and noise made from a seed. spoken.toml lists the recordings that contain a keyword.
"""

import argparse
import functools
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from training.data import noises, packages
from training.data import recordings as data
from training.data.recordings import SPLITS, DataError

KINDS = ("requests", "read", "acted", "languages", "noise")
SPEECH = KINDS[:-1]
MADE = 60  # minutes of made noises in each split
LISTED = "listed"  # instead of a split: by the folder's own lists
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    source: str  # folder below EARSHOT_DATA, or package
    pattern: str
    kind: str
    split: str | dict[str, float]

    def may_be(self, kind: str, split: str) -> bool:
        splits = (self.split, split if self.split == LISTED else "") if isinstance(self.split, str) else self.split
        return self.kind == kind and split in splits


@dataclass(frozen=True)
class Recording:
    name: str  # source/file
    kind: str
    split: str
    voice: str
    path: Path | None  # None: noise made from `number`
    number: int = 0

    def read(self) -> np.ndarray:
        """(n,) int16 at 16 kHz. Raises DataError."""
        return data.read(self.path) if self.path else noises.noise((SPLITS.index(self.split), self.number))

    def seconds(self) -> float:
        if not self.path:
            return noises.SECONDS
        try:
            about = soundfile.info(self.path)
        except (OSError, soundfile.SoundFileError) as error:
            raise DataError(f"{self.path}: {str(error).splitlines()[0]}; remove the file or restore it") from None
        return about.frames / about.samplerate


@functools.cache
def rows() -> tuple[list[Row], list[Row]]:
    """The rows of corpora.toml: of folders, of packages."""
    table = tomllib.loads((HERE / "corpora.toml").read_text())
    folders, others = ([Row(*row) for row in table[what]["rows"]] for what in ("folders", "packages"))
    return folders, others


def known_packages(split: str | None = None, kinds: Iterable[str] = KINDS) -> tuple[str, ...]:
    """Packages with recordings of these kinds in a split, or in any."""
    splits = (split,) if split else SPLITS
    sources = [row.source for row in rows()[1] for kind in kinds for one in splits if row.may_be(kind, one)]
    return tuple(dict.fromkeys(sources))


@functools.cache
def spoken() -> dict[str, dict[str, str]]:
    """Keyword → name of each recording that contains it → its text."""
    return tomllib.loads((HERE / "spoken.toml").read_text())


def says(recording: Recording, keyword: str) -> bool:
    """Whether spoken.toml lists a recording for a keyword, or its folder is named after it."""
    folder = recording.name.split("/")[1:-1] if recording.name.startswith("other_words/") else []
    return recording.name in spoken().get(keyword, {}) or any(keyword in part for part in folder)


def recordings(kind: str, split: str, base: Path | None, only: Iterable[str] | None = None) -> list[Recording]:
    """All recordings of a kind and split, in a fixed order: of folders below `base` (None: of none), of packages (only:
    of these), and made noise. Raises DataError for a package that is unknown or cannot be fetched."""
    chosen = known_packages() if only is None else tuple(only)
    for name in chosen:
        if name not in known_packages():
            raise DataError(f"data.packages: {name!r} is not known; known: {', '.join(known_packages())}")
    of_folders, of_packages = rows()
    listing: list[Recording] = []
    for source in dict.fromkeys(row.source for row in of_folders if row.may_be(kind, split)):
        if base and (base / source).is_dir():
            listing += listed(base / source, source, of(source, of_folders))
    for source in dict.fromkeys(row.source for row in of_packages if row.may_be(kind, split)):
        if source in chosen:
            listing += listed(packages.fetched(source), source, of(source, of_packages))
    if kind == "noise":
        listing += [Recording(f"made/{split}-{n}", kind, split, f"made {split} {n}", None, n) for n in range(MADE)]
    return [one for one in listing if (one.kind, one.split) == (kind, split)]


def speech(
    split: str, base: Path | None, keywords: Iterable[str], only: Iterable[str] | None = None
) -> list[Recording]:
    """Recordings of all kinds of speech in a split without those that contain a keyword; see recordings."""
    every = (one for kind in SPEECH for one in recordings(kind, split, base, only))
    return [one for one in every if not any(says(one, keyword) for keyword in keywords)]


def split(clips: list[data.Clip], base: Path) -> list[data.Clip]:
    """Clips below `base` with the splits of corpora.toml. Clips that it does not name keep theirs."""
    sources = dict.fromkeys(row.source for row in rows()[0])
    listing = (one for name in sources for one in listed(base / name, name, of(name, rows()[0])))
    splits = {one.path: one.split for one in listing}
    return [replace(clip, split=splits.get(clip.path, clip.split)) for clip in clips]


def of(source: str, table: list[Row]) -> list[Row]:
    return [row for row in table if row.source == source]


def listed(place: Path, source: str, mine: list[Row]) -> Iterator[Recording]:
    """The recordings of one folder or package that a row names."""
    for clip in data.clips_of(place, words=False):
        path = clip.path.relative_to(place).as_posix()
        for row in mine:
            match = re.search(row.pattern, f"/{path}" if row.pattern.startswith("/") else path)
            if match:
                voice = match[1] if match.groups() else row.pattern
                split = clip.split if row.split == LISTED else drawn(voice, row.split)
                name = f"{source}/{clip.path.name}" if source in known_packages() else f"{source}/{path}"
                yield Recording(name, row.kind, split, f"{source} {voice}", clip.path)
                break


def drawn(voice: str, split: str | dict[str, float]) -> str:
    """The split of a voice: the row's, or one of several by a hash of its name."""
    if isinstance(split, str):
        return split
    at = int(hashlib.sha1(voice.encode()).hexdigest()[:12], 16) / 16**12
    passed = np.cumsum(list(split.values())) <= at
    return list(split)[min(int(passed.sum()), len(split) - 1)]


def report(base: Path) -> str:
    """A table of kinds and splits: hours, recordings, voices."""
    lines = [f"{'':10}" + "".join(f"{split:>36}" for split in SPLITS)]
    for kind in KINDS:
        cells = []
        for split in SPLITS:
            items = recordings(kind, split, base)
            hours = sum(one.seconds() for one in items) / 3600
            cells.append(f"{hours:7.2f} h {len(items):6} files {len({one.voice for one in items}):5} voices")
        lines.append(f"{kind:10}" + "".join(f"{cell:>36}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data.corpora",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", help="folder of recordings (default: EARSHOT_DATA)")
    args = parser.parse_args()
    try:
        print(report(data.root(args.data)))
    except DataError as error:
        print(f"corpora: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

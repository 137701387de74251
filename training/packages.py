"""Hours of real speech out of Debian packages, as negatives: games whose characters talk, and spoken descriptions.

Nothing else that a package registry holds is as varied: some hundred voices, acted and plain, in many languages.
Fetched once with apt-get (no root needed), unpacked below runs/packages, and found again. What is played there is used
for training only and never passed on.
"""

import struct
import subprocess
import tempfile
from pathlib import Path

from tqdm import tqdm

from training.data import DataError

# Package → which of its files are speech.
SPEECH = {
    "flight-of-the-amazon-queen": "*.mp3",  # a film of 1940, spoken by thirty actors: 5 hours of English
    "fillets-ng-data-cs": "*.ogg",  # two fishes quarrel in Czech and in Dutch, 3 hours
    "fillets-ng-data-nl": "*.ogg",
    "tuxpaint-stamps-default": "*_desc*.ogg",  # names of things in a dozen languages, by volunteers
    "klettres-data": "*.ogg",  # letters and syllables in 20 languages
}
# Lines in there that a person would take for the keyword: found among the 150 lines that models/happy-base scored
# highest, by what a speech recognizer wrote down for them.
SPOKEN = {"happy": ("260008P1.mp3", "C31D_031.mp3")}


def recordings(names: tuple[str, ...], keywords: tuple[str, ...], folder: Path = Path("runs/packages")) -> list[Path]:
    """The files of speech of these packages but those in which a keyword is known to be said. Raises DataError."""
    said = {file for keyword in keywords for file in SPOKEN.get(keyword, ())}
    found = (path for name in names for path in sorted(fetched(name, folder).rglob(SPEECH[name])))
    return [path for path in found if path.name not in said]


def fetched(name: str, folder: Path) -> Path:
    """The folder of an unpacked package."""
    if name not in SPEECH:
        raise DataError(f"data.packages: {name!r} is not known; known: {', '.join(SPEECH)}")
    place = folder / name
    if place.exists():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        try:
            with tqdm(total=0, bar_format="fetching {desc} {elapsed}", desc=name):
                subprocess.run(["apt-get", "download", name], cwd=made, check=True, capture_output=True)
                partial = Path(made) / name
                for package in list(Path(made).glob("*.deb")):
                    subprocess.run(["dpkg-deb", "--extract", package, partial], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = (getattr(error, "stderr", None) or str(error).encode()).decode().strip().splitlines()[-1]
            raise DataError(f"cannot fetch {name} ({said}); needs apt-get, or set data.packages = []") from None
        for table in partial.rglob("queen.1c"):
            split(table)
        partial.rename(place)
    return place


def split(table: Path) -> None:
    """A game's one file of everything → a file for each spoken line beside it, MP3 as it stands in there.

    Format: "QTBL", version[6], byte, compression (1: MP3), count, then for each file name[12], bundle, offset, size,
    big-endian. Source: ScummVM, engines/queen/resource.cpp; spoken lines are named *.SB.
    """
    whole = table.read_bytes()
    (count,) = struct.unpack_from(">H", whole, 13)
    for name, _, offset, size in struct.iter_unpack(">12sBII", whole[15 : 15 + 21 * count]):
        line, _, kind = name.rstrip(b"\0").decode().partition(".")
        if kind == "SB":
            table.with_name(f"{line}.mp3").write_bytes(whole[offset : offset + size])
    table.unlink()

"""Recordings out of Debian packages: games whose characters talk, spoken descriptions, telephone prompts, music.

They hold about a hundred voices, acted and plain, in many languages. A package is fetched once with apt-get (no root
needed) and unpacked below runs/packages. The recordings are used for training and tests only and never passed on;
corpora.toml assigns them to kinds and splits.
"""

import struct
import subprocess
import tempfile
from pathlib import Path

from tqdm import tqdm

from training.data import unpack
from training.data.recordings import DataError

FOLDER = Path("runs/packages")
# Pattern of a file → the function that makes recordings of it
UNPACK = {"queen.1c": unpack.amazon_queen, "sky.dnr": unpack.steel_sky, "*.ALS": unpack.drascula}


def fetched(name: str, folder: Path = FOLDER) -> Path:
    """The folder of an unpacked package. Raises DataError where it cannot be had."""
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
            reason = (getattr(error, "stderr", None) or str(error).encode()).decode().strip().splitlines()[-1]
            raise DataError(f"cannot fetch {name} ({reason}); needs apt-get, or set data.packages = []") from None
        for file, make in UNPACK.items():
            for path in partial.rglob(file):
                try:
                    make(path)
                except (OSError, struct.error, IndexError) as error:
                    raise DataError(f"{name}: {file} has an unknown format ({error}); another version?") from None
        try:
            partial.rename(place)
        except OSError:
            if not place.exists():  # another process was faster
                raise
    return place

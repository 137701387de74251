"""Download Speech Commands:

    make data                 # version 0.02, 2.4 GB
    make data VERSION=0.01    # the version of kws_project and kws-hw, 1.5 GB

into data/speech_commands; then EARSHOT_DATA=data. An interrupted download continues where it stopped.
"""

import argparse
import hashlib
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

SERVER = "http://download.tensorflow.org/data/"
# File, SHA-256: place and sums are those of torchaudio.datasets.SPEECHCOMMANDS.
VERSIONS = {
    "0.01": ("speech_commands_v0.01.tar.gz", "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d"),
    "0.02": ("speech_commands_v0.02.tar.gz", "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"),
}


class DownloadError(Exception):
    """The message is one line with the fix in it."""


def download(url: str, path: Path) -> None:
    """Append to path the bytes of url that it lacks."""
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if have and answer.status != 206:  # the server sends the whole file
                have = 0
            total = have + int(answer.headers.get("Content-Length", 0))
            with (
                open(path, "ab" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=path.name) as bar,
            ):
                while block := answer.read(1 << 20):
                    file.write(block)
                    bar.update(len(block))
                if file.tell() < total:
                    raise DownloadError(f"{url}: connection lost; run the same command again to continue")
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the file is complete
            raise DownloadError(f"{url}: {error}; try again later") from None
    except OSError as error:
        raise DownloadError(f"{url}: {error}; run the same command again to continue") from None


def check(path: Path, expected: str) -> None:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        path.unlink()
        raise DownloadError(f"{path}: SHA-256 is {digest}, not {expected}; removed, run the same command again")


def fetch(url: str, digest: str, folder: Path) -> None:
    """Download, check, unpack. Raises DownloadError."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / Path(url).name
    download(url, archive)
    check(archive, digest)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.data.download",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", choices=sorted(VERSIONS), default="0.02", help="default: 0.02")
    parser.add_argument("--out", type=Path, default=Path("data/speech_commands"), help="default: data/speech_commands")
    parser.add_argument("--server", default=SERVER, help="URL of a mirror")
    args = parser.parse_args()
    name, digest = VERSIONS[args.version]
    try:
        fetch(args.server + name, digest, args.out)
    except (DownloadError, tarfile.TarError, OSError) as error:
        print(f"download: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("download: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    print(f"{args.out}: ready; now EARSHOT_DATA={args.out.parent} make train")
    return 0


if __name__ == "__main__":
    sys.exit(main())

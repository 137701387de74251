"""A registry of Debian packages with made-up ones in it: apt-get and dpkg-deb for as long as a test takes."""

import struct
import tarfile
from io import BytesIO
from pathlib import Path


class Registry:
    def __init__(self, folder: Path):
        self.tools, self.shelf = folder / "tools", folder / "shelf"
        self.tools.mkdir()
        self.shelf.mkdir()
        fetch = f'#!/bin/sh\ncp {self.shelf}/"$2".deb . || {{ echo "E: Unable to locate $2" >&2; exit 1; }}\n'
        (self.tools / "apt-get").write_text(fetch)
        (self.tools / "dpkg-deb").write_text('#!/bin/sh\nmkdir -p "$3" && tar -xf "$2" -C "$3"\n')
        for tool in self.tools.iterdir():
            tool.chmod(0o755)

    def put(self, name: str, files: dict[str, bytes]) -> None:
        with tarfile.open(self.shelf / f"{name}.deb", "w") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, BytesIO(content))

    def put_empty(self, names: tuple[str, ...]) -> None:
        """Packages without any recording."""
        for name in names:
            self.put(name, {"usr/share/doc/readme": b""})

    def remove(self, name: str) -> None:
        (self.shelf / f"{name}.deb").unlink()


def queen(files: dict[str, bytes]) -> bytes:
    """Flight of the Amazon Queen's one file, with these in it."""
    head = b"QTBLCEM10\0\0\0\1" + struct.pack(">H", len(files))
    at, entries, body = len(head) + 21 * len(files), b"", b""
    for name, content in files.items():
        entries += struct.pack(">12sBII", name.encode(), 1, at + len(body), len(content))
        body += content
    return head + entries + body

"""A folder that appears complete or not at all."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"  # a folder with one is a bundle
PARTIAL = re.compile(r"\..+\.partial-[0-9a-f]{8}")


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `final`: renamed to `final` when the block succeeds, removed when it fails.

    A process that is killed leaves the hidden folder and releases its lock; the next export removes it. The caller
    calls `write_last` at the end, because a folder without a manifest is no bundle. Raises OSError.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(final.parent)
    partial = unused_name(final)
    partial.mkdir()
    lock = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield partial
        put_in_place(partial, final)
    except BaseException:
        remove(partial)
        raise
    finally:
        os.close(lock)


def write_last(folder: Path, manifest: str) -> None:
    """Write the manifest, whole, and only after everything else has reached the disk."""
    for path in folder.iterdir():
        sync(path)
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(manifest, encoding="utf-8")
    sync(partial)
    os.rename(partial, folder / MANIFEST)
    sync(folder)


def put_in_place(partial: Path, final: Path) -> None:
    """Rename, and first move an older folder out of the way: a folder that is not empty cannot be replaced."""
    old = unused_name(final)
    if final.exists():
        os.rename(final, old)
    try:
        os.rename(partial, final)
    except OSError:
        if old.exists():
            os.rename(old, final)
        raise
    remove(old)
    sync(final.parent)


def remove_abandoned(parent: Path) -> None:
    """Remove the hidden folders of exports that died: those whose lock is free."""
    for path in parent.iterdir():
        if not PARTIAL.fullmatch(path.name):
            continue
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue  # removed meanwhile, or of another owner
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        except BlockingIOError:
            pass  # that export still runs
        finally:
            os.close(lock)


def remove(folder: Path) -> None:
    """The manifest first, so that the rest is no bundle if the process dies here."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def unused_name(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial-{secrets.token_hex(4)}")


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

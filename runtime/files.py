"""Files of the user's: read whatever their name leads to without being held up, replaced at once or not at all."""

import errno
import os
import stat
import tempfile


def read_plain(path: str, most_bytes: int) -> tuple[bytes, os.stat_result]:
    """Content and status of a plain file, of which one byte more than `most_bytes` is read at most.

    Raises OSError, also for a pipe, a device or a folder: a pipe that nobody writes to would be waited for without end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    opened = os.open(path, flags)
    try:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a plain file")
        with open(opened, "rb", closefd=False) as file:
            return file.read(most_bytes + 1), status
    finally:
        os.close(opened)


def replace(path: str, content: bytes, mode: int) -> None:
    """Write a file so that a power cut leaves the old one or the new one, and the new one once this returns.

    Raises OSError.
    """
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".earshot-")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)  # or a power cut within the next seconds brings the old file back
    finally:
        os.close(opened)

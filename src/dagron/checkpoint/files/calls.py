"""System calls as a checkpoint makes them: links are not followed, nothing waits, and a write writes everything.

Paths are joined as text: a pathlib operation costs as much as a system call, and there are some for every node.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CREATE",
    "NOFOLLOW",
    "NONBLOCK",
    "content_identity",
    "remove",
    "sync_data",
    "sync_entries",
    "sync_name",
    "write_all",
]

NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO in the place of a file must not hold us up
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data` where the file stands."""
    # A regular file takes everything at once unless the disk is full or a limit is met; then the next call says why.
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def content_identity(status: os.stat_result) -> tuple[int, ...]:
    """Return what is equal as long as a file is the same one and nothing was written to it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def sync_data(fd: int) -> None:
    """Make what was written to an open file survive a loss of power."""
    if sys.platform == "darwin":
        import fcntl

        # fsync leaves the bytes in the drive's cache on macOS; its manual names F_FULLFSYNC for more.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_entries(directory: Path) -> None:
    """Make the entries of a directory survive a loss of power: what was made, renamed and removed in it."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_name(directory: Path) -> None:
    """Make the name of a directory survive a loss of power, as far as this user may."""
    try:
        sync_entries(directory.parent)
    except PermissionError:
        pass  # whoever may not list it cannot open it, and so cannot sync it


def remove(path: str) -> None:
    """Delete a file, or whatever is there but no directory; nothing if it is gone."""
    try:
        os.unlink(path)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        if os.path.lexists(path) and not os.path.isdir(path):
            raise

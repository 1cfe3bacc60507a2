"""The mark of a run that goes on: a lock of the kernel that whoever looks asks for without taking it."""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING

from dagron.checkpoint.files.calls import NOFOLLOW, NONBLOCK
from dagron.checkpoint.files.machine_lock import lock_of_machine

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HAS_MARKS", "is_marked", "set_mark"]

HAS_MARKS = sys.platform == "linux"
"""Locks of open file descriptions (fcntl_locking(2)) can be asked for without being taken, so whoever looks disturbs
nobody; and the kernel knows them in all containers, whatever these call its processes."""

_MARK = struct.Struct("hhqqi4x")
"""`struct flock`: type, whence, start, length, process."""


def is_marked(directory: Path, lock: str) -> bool | None:
    """Tell whether a run goes on that has marked the directory: see `DirectoryLock.mark` of `locks`.

    Args:
        directory: The directory.
        lock: The entry that is locked. NFS hands on the locks of other machines, but not their marks.

    Returns:
        None if nobody can know.
    """
    # The directory may be reached over a link.
    marked = _has_mark(os.path.join(directory, "."))
    if not marked and (of_machine := lock_of_machine(directory)) is not None and os.path.exists(of_machine):
        marked = _has_mark(of_machine)
    return marked or (_has_mark(os.path.join(directory, lock)) if HAS_MARKS else None) or marked


def set_mark(fd: int, kind: int) -> None:
    """Set a mark on an open directory or file, or with `fcntl.F_UNLCK` take it away; nothing where there are none."""
    import fcntl

    if HAS_MARKS:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _MARK.pack(kind, os.SEEK_SET, 0, 0, 0))
        except OSError:
            pass  # this file system has no such locks, and whoever asks is told that nobody knows


def _has_mark(path: str) -> bool | None:
    """Tell whether somebody has marked a directory or locked a file as `fcntl` does; None if nobody knows."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        if HAS_MARKS:
            asked = _MARK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            found, *_ = _MARK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
            return bool(found != fcntl.F_UNLCK)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)

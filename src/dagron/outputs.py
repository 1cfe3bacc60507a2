"""The files that tasks write beside their results: whether a task wrote them, how they stand, whether they still do.

These are the user's files, not the checkpoint's: they are read and flushed here, and never written, renamed or deleted.
The digest of a file is found where it was written, in the worker. Whoever resumes looks at size and time, which cost a
system call, and digests the file only if the time has changed and the size has not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dagron.checkpoint.files.calls import sync_data, sync_entries
from dagron.checkpoint.format.outputs import FileState
from dagron.errors import OutputNotWrittenError

if TYPE_CHECKING:
    from dagron.checkpoint.format.digests import Digests

__all__ = ["difference", "identities", "states_written"]

_CHUNK_BYTES = 1 << 20
"""Bytes that are read at once. Never varied: BLAKE3 has its full speed from 128 KiB on."""

_TICK_NS, _LONG_TICK_NS = 100_000_000, 2_000_000_000
"""What was changed less than this before an attempt may be changed by the attempt without a difference to be seen: file
systems stamp a change with the kernel's last tick, 1 to 10 ms ago; some with seconds, FAT with every other one."""

_SECOND_NS = 1_000_000_000

Identity = tuple[int, ...]


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def identities(paths: Sequence[str]) -> list[Identity | None]:
    """Return what is at each path before an attempt: equal later only if nobody has written there; None for nothing."""
    found: list[Identity | None] = []
    for path in paths:
        try:
            found.append(_identity(os.stat(path)))
        except (OSError, ValueError):
            found.append(None)
    return found


def states_written(
    node: str,
    paths: Sequence[str],
    before: Sequence[Identity | None],
    began_ns: int,
    digests: Digests,
    *,
    durable: bool,
) -> tuple[FileState, ...]:
    """Return how the files stand that an attempt has written.

    Args:
        node: The node.
        paths: The files, absolute.
        before: What `identities` returned before the attempt.
        began_ns: When that was, in nanoseconds since the epoch.
        digests: How the files are digested.
        durable: Whether the files and their names have to survive a loss of power.

    Raises:
        OutputNotWrittenError: A file is not there, or was there before and not written to, or cannot be read.
    """
    states: list[FileState] = []
    for path, known in zip(paths, before, strict=True):
        try:
            states.append(_state(path, digests, known if _is_old(known, began_ns) else None, durable=durable))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise OutputNotWrittenError(node, path, reason[:1].lower() + reason[1:]) from None
    if durable:
        for directory in dict.fromkeys(map(os.path.dirname, paths)):
            _sync_entries_if_possible(directory)
    return tuple(states)


def _is_old(known: Identity | None, began_ns: int) -> bool:
    """Tell whether whatever an attempt writes to a file makes another identity."""
    if known is None:
        return False
    *_, mtime_ns, ctime_ns = known
    tick = _LONG_TICK_NS if mtime_ns % _SECOND_NS == 0 else _TICK_NS
    return max(mtime_ns, ctime_ns) < began_ns - tick


def _sync_entries_if_possible(directory: str) -> None:
    try:
        sync_entries(Path(directory))
    except OSError:
        pass  # not ours to list, or a file system without it; a name that is lost is found missing by the next resume


def _state(path: str, digests: Digests, before: Identity | None = None, *, durable: bool = False) -> FileState:
    # A FIFO in the place of a file must not hold anybody up.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("it is a directory; name the files in it that are to be checked")
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        if _identity(status) == before:
            raise ValueError("the file was there before, and was not written to")
        if durable:
            sync_data(fd)
        digest, buffer = digests.new(), bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        while n := os.readv(fd, [buffer]):
            digest.update(view[:n])
        later = os.fstat(fd)
        if _identity(later) != _identity(status):
            raise ValueError("the file was still written to when the task had returned")
        return FileState(later.st_size, later.st_mtime_ns, digest.digest())
    finally:
        os.close(fd)


def difference(path: str, recorded: FileState | None, digests: Digests) -> str:
    """Return what has become of a file since its node completed, for a sentence; empty if it stands as it did.

    Args:
        path: The file.
        recorded: How it stood; None if that is not known, and then it only has to be there.
        digests: How it was digested.
    """
    try:
        status = os.stat(path)
        if recorded is None or (status.st_size, status.st_mtime_ns) == recorded[:2]:
            return "" if stat.S_ISREG(status.st_mode) else "is no longer a file"
        if status.st_size != recorded.size:
            return "has changed"
        return "" if digests.equal(_state(path, digests).digest, recorded.digest) else "has changed"
    except FileNotFoundError:
        return "is gone"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"

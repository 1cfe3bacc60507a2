"""The files of a checkpoint while they are open: one that grows, one that is read, one that has no name yet."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING, Self

from dagron.checkpoint.files.calls import CREATE, NOFOLLOW, NONBLOCK, content_identity, sync_data, write_all
from dagron.checkpoint.files.modes import PRIVATE_MODE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TEMP_PREFIX", "TEMP_SUFFIX", "AppendFile", "ReadFile", "TempFile", "is_temporary"]

TEMP_PREFIX = "_dagron-"
TEMP_SUFFIX = ".tmp"

_RENEW_BYTES = 1024 * 1024
"""Bytes that are read and written again at once. Never varied: it happens once, after a run that was killed."""


class AppendFile:
    """A file that only grows, open for appending.

    Args:
        path: The file; it must exist.
        size: Where its valid bytes end; what follows them is cut off.

    Attributes:
        size: Its size in bytes, with all that was appended.
    """

    def __init__(self, path: str | Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | NOFOLLOW)
        self._path = str(path)
        self.size = size
        try:
            status = os.fstat(self._fd)
            self._identity = (status.st_dev, status.st_ino)
            if status.st_size != size:
                os.ftruncate(self._fd, size)
            os.lseek(self._fd, size, os.SEEK_SET)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, data: bytes) -> None:
        """Write `data` after the last byte.

        Raises:
            OSError: The file system refused. The end of the file is unspecified: use this object no more.

        Guarantees:
            Every later reader sees the bytes, also if this process is killed next.

        On crash:
            A reader finds a prefix of `data`.
        """
        write_all(self._fd, data)
        self.size += len(data)

    def is_in_place(self) -> bool:
        """Tell whether the file still has its name, so that a later reader finds what is appended."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def sync(self) -> None:
        """Make everything appended so far survive a loss of power.

        Raises:
            OSError: It failed. A later one that succeeds says nothing about these bytes, unless they are renewed: the
                kernel may have given them up and taken them for clean (LWN 752063, "PostgreSQL's fsync() surprise").
        """
        sync_data(self._fd)

    def renew(self, offset: int) -> None:
        """Write the bytes from `offset` once more as they are, so that the next `sync` is about them, too.

        On crash:
            The same bytes.
        """
        while offset < self.size:
            data = os.pread(self._fd, min(_RENEW_BYTES, self.size - offset), offset)
            if not data:
                return
            os.pwrite(self._fd, data, offset)
            offset += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class ReadFile:
    """A file open for reading; close it, or use it as a context manager.

    Attributes:
        size: Its size in bytes when it was opened.
        identity: Equal as long as it is the same file and nothing was written to it: device, inode, size, and the time
            of the last change of its bytes.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | NOFOLLOW | NONBLOCK)
        try:
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", path)
        except OSError:
            self.close()
            raise
        self.size = status.st_size
        self.identity = content_identity(status)

    def read_at(self, offset: int, n: int) -> bytes:
        """Return up to `n` bytes from `offset`; fewer only at the end of the file."""
        data = os.pread(self._fd, n, offset)
        while 0 < len(data) < n:
            more = os.pread(self._fd, n - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def map(self) -> mmap.mmap:
        """Map the file, which must not be empty, so that its bytes are not copied; what is written stays private."""
        return mmap.mmap(self._fd, self.size, access=mmap.ACCESS_COPY)

    def close(self) -> None:
        """Close the file."""
        try:
            os.close(self._fd)
        except OSError:
            pass  # what was read was read, and there is nothing that could not be written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TempFile:
    """A file that gets its name only when it is whole. Used by workers for large results.

    Its name tells that it is ours, so that what a crash leaves can be deleted.

    Args:
        directory: Where it is created.
        mode: Who may look at it, whatever the umask of a process in which tasks have run.

    Attributes:
        name: Its temporary name.
        path: The path to it.
        identity: Once it is finished, as in `ReadFile`.
    """

    identity: tuple[int, ...] = ()

    def __init__(self, directory: str | Path, mode: int = PRIVATE_MODE) -> None:
        self.name = f"{TEMP_PREFIX}{os.urandom(8).hex()}{TEMP_SUFFIX}"
        self.path = os.path.join(directory, self.name)
        self._fd = os.open(self.path, CREATE, mode)
        self._open = True
        try:
            os.fchmod(self._fd, mode)
        except OSError:
            self.discard()
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Write `data` after what was written before."""
        write_all(self._fd, data)

    def stretch(self, size: int) -> None:
        """Write the last of `size` bytes; the others take no space."""
        os.pwrite(self._fd, b"\0", max(0, size - 1))

    def _close(self) -> None:
        if self._open:
            self._open = False  # also if it fails: the descriptor is gone then, and its number may be another file's
            os.close(self._fd)

    def finish(self, *, durable: bool) -> str:
        """Close the file and return its name; if `durable`, only after its bytes would survive a loss of power."""
        try:
            if durable:
                sync_data(self._fd)
            self.identity = content_identity(os.fstat(self._fd))
        finally:
            self._close()
        return self.name

    def discard(self) -> None:
        """Close and delete the file."""
        self._close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def is_temporary(name: str) -> bool:
    """Tell whether an entry is, by its name, a `TempFile`."""
    return name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX) and os.path.basename(name) == name

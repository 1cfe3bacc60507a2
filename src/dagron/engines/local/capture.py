"""What the workers of a slot write to a standard stream: in a memory file, so that it is there also after a death.

The worker has the file as its descriptor 1 or 2 and appends; so does whatever it starts. The coordinator reads, hands
on what is new, and gives the memory back. No pipe, because a full one would hold the worker up, and somebody would have
to empty it at all times; no thread, because what is in the file does not go away.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator

__all__ = ["Capture", "memory_file", "position"]

_TAIL_BYTES = 64 * 1024
"""How much of the end of a stream can be asked for.

A record has 4,096 characters; a bar that is written over needs many more bytes than the one state that is kept of it.
"""

_RELEASE_BYTES = 1024 * 1024
"""What may have been read, besides the tail, before its memory is given back: a system call for each 1 MiB."""

_READ_BYTES = 1024 * 1024
"""What is read at a time, which bounds the memory that this takes; never varied."""

_KEEP_SIZE_AND_PUNCH_HOLE = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of fallocate(2)


def memory_file(name: str) -> int:
    """Return the descriptor of a new, empty file that only its descriptors keep."""
    if sys.platform == "linux":
        return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def position(fd: int) -> int:
    """In a worker: return how much was written to a captured stream; 0 if a task has replaced it."""
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        return 0


class Capture:
    """The coordinator's side of one captured stream.

    Attributes:
        fd: The file, open for appending. Belongs to this object.
    """

    def __init__(self) -> None:
        self.fd = memory_file("dagron-output")
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_APPEND)
        self._read = 0
        self._released = 0
        self._rest = b""

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def size(self) -> int:
        """Return how much was written so far."""
        return os.fstat(self.fd).st_size

    def lines(self, *, ended: bool = False) -> Iterator[bytes]:
        """Yield what is new, up to the last end of a line, so that lines of several slots do not mix.

        Args:
            ended: Nobody goes on to write the last line, so yield all of it.
        """
        for data in self._read_on():
            data = self._rest + data
            # A carriage return ends a line, too: bars of tasks are written so.
            end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 if len(data) < _TAIL_BYTES else len(data)
            self._rest = data[end:]
            if end:
                yield data[:end]
        if ended and self._rest:
            rest, self._rest = self._rest, b""
            yield rest

    def between(self, start: int, end: int | None = None) -> bytes:
        """Return what was written between two positions, as far as it is still there: the last 64 KiB at most."""
        size = self.size()
        if end is None or end > size:
            end = size
        if start > end:  # a task truncated it meanwhile
            start = 0
        start = max(start, end - _TAIL_BYTES, min(self._released, end))
        return os.pread(self.fd, end - start, start)

    def _read_on(self) -> Iterator[bytes]:
        size = self.size()
        if size < self._read:  # a task truncated it, as a shell does that is told to write to /dev/stderr
            self._read = self._released = 0
        while self._read < size:
            data = os.pread(self.fd, min(_READ_BYTES, size - self._read), self._read)
            if not data:
                return
            self._read += len(data)
            if self._read - self._released >= _RELEASE_BYTES + _TAIL_BYTES:
                self._release()
            yield data

    def _release(self) -> None:
        if sys.platform == "linux":
            import ctypes

            # Not truncated: the worker may be writing, and its positions are to stay.
            start, size = self._released, self._read - _TAIL_BYTES - self._released
            punch = ctypes.CDLL(None).fallocate
            punch.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
            punch(self.fd, _KEEP_SIZE_AND_PUNCH_HOLE, start, size)
        self._released = self._read - _TAIL_BYTES

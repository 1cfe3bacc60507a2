"""The direct way between the coordinator and one worker: batches go down, the numbers of finished batches come back.

An executor's own way passes four threads, whose turns on the coordinator's interpreter lock cost more than a short
task does. So each slot's executor has one call only, which serves this channel until it is closed; the executor keeps
what it is good at, the life and the death of its process. What comes back is so little because the outcomes themselves
are on the slot's board. Whether the other side lives is not decided here: what a task has forked may hold its end open.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from multiprocessing import reduction
from typing import Any

from dagron.engines.local.surroundings import NO_SIGPIPE, blocking_pair

__all__ = ["Channel", "WorkerEnd"]

_LENGTH = struct.Struct("<Q")
_REPORT = struct.Struct("<Q?")


class Channel:
    """The coordinator's end; never blocks. Passed to a worker as an argument, it arrives as a `WorkerEnd`.

    Attributes:
        fd: To wait on: readable when a batch has finished, writable when `flush` can go on.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = blocking_pair()
        self._ours.setblocking(False)
        self.fd = self._ours.fileno()
        self._unsent: deque[memoryview] = deque()
        self._received = b""

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerEnd, (reduction.DupFd(self._theirs.fileno()),)

    def passed(self) -> None:
        """Say that the worker has its end."""
        self._theirs.close()

    def send(self, payload: bytes) -> bool:
        """Send a batch; return whether it is on its way whole, else `flush` is to be called."""
        self._unsent.append(memoryview(_LENGTH.pack(len(payload)) + payload))
        return self.flush()

    def flush(self) -> bool:
        """Send on what could not be sent; return whether all is on its way. What a dead worker cannot get is let go."""
        unsent = self._unsent
        try:
            while unsent:
                n = self._ours.send(unsent[0], NO_SIGPIPE)
                if n == len(unsent[0]):
                    unsent.popleft()
                else:
                    unsent[0] = unsent[0][n:]
        except BlockingIOError:
            return False
        except OSError:
            unsent.clear()  # the worker is dead, which its executor is about to tell
        return True

    def finished(self) -> list[tuple[int, bool]] | None:
        """Return what was reported of batches that have finished since the last call; None if the worker is gone."""
        try:
            data = self._ours.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        data = self._received + data
        whole = len(data) - len(data) % _REPORT.size
        self._received = data[whole:]
        return list(_REPORT.iter_unpack(data[:whole]))

    def close(self) -> None:
        """Close it; an idle worker then ends its call. Safe to call twice."""
        self._ours.close()
        self._theirs.close()


class WorkerEnd:
    """The worker's end.

    Attributes:
        fd: Its descriptor.
    """

    def __init__(self, fd: Any) -> None:
        self.fd: int = fd.detach()
        os.set_inheritable(self.fd, False)
        self._batches = open(self.fd, "rb")  # noqa: SIM115 - for the worker's life

    def receive(self) -> bytes | None:
        """Wait for the next batch and return it; None if there will be none."""
        head = self._batches.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack(head)
        payload = self._batches.read(size)
        return payload if len(payload) == size else None

    def wait_for_end(self) -> None:
        """Wait until there will be no more batches; those that come are let go."""
        while self.receive() is not None:
            pass

    def report(self, number: int, copies_refused: bool) -> None:
        """Say that a batch has finished, and whether copies that came with earlier ones could not be written."""
        os.write(self.fd, _REPORT.pack(number, copies_refused))

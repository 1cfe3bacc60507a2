"""A small piece of memory that a slot's worker writes and the coordinator reads, also after the worker's death.

Layout: a head, then two halves of `_HALF_BYTES`. A batch uses the half of its number's parity, so that the coordinator
reads one while the worker fills the other; a slot has at most `MAX_BATCHES` batches. In a half, outcomes follow
one another, each after its length. The worker writes an outcome first and counts it afterwards, so what is counted is
whole, whenever the worker dies. An outcome that is known in part stands in the same place, not counted, with a mark in
the head: it counts only if its worker dies before the whole of it is there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
from multiprocessing import reduction
from typing import Any, NamedTuple

from dagron.engines.local.capture import memory_file

__all__ = ["MAX_BATCHES", "MAX_OUTCOME_BYTES", "Board", "Running"]

_HALF_BYTES = 1024 * 1024
"""Room for the 256 outcomes of a full batch with 3 KiB each, or for five of the largest.

Pages that nothing is written to cost nothing.
"""

MAX_OUTCOME_BYTES = 192 * 1024
"""What an outcome can have at most: an inline result or a pickled exception (64 KiB), and the texts of a fault.

Those are 20 Ki characters of up to four bytes for message and traceback, and short texts of inputs. A test compares.
"""

_HEAD_BYTES = 128
"""Room for all that follows, up to `_LOADS`, rounded up to lines of a cache, so that outcomes begin with one."""

_RUNNING = struct.Struct("<QdQQQ")  # the node and 1, 0 for none; the rest as in `Running`
_COUNT = struct.Struct("<QII")  # batch, outcomes, bytes used
_COUNT_AT = (48, 64)  # after `_RUNNING`, one for each half
_INIT = struct.Struct("<d")  # since when the worker is in its `worker_init`, 0 for not
_INIT_AT = 80

_TELLING_AT = 88
"""A byte: whether the outcome of what runs is there, as far as it is known."""

_DAMAGE_AT = (92, 93)
"""A byte for each half: whether what was noted of the process follows the outcomes."""

_LOADS_AT = 90
"""Two bytes: which input of what runs is being loaded, counted from 1; 0 for none, and the last for all beyond it."""
_LOADS = struct.Struct("<H")
_MAX_LOADS = 0xFFFF

_LENGTH = struct.Struct("<I")
_LENGTH_SIZE = _LENGTH.size
_ROOM_BYTES = _HALF_BYTES - _LENGTH_SIZE - MAX_OUTCOME_BYTES
"""With so much used any outcome fits."""

MAX_BATCHES = len(_COUNT_AT)
"""Batches that a slot may have at a time: each has a half for itself until the coordinator has read it."""

_SIZE = _HEAD_BYTES + MAX_BATCHES * _HALF_BYTES


class Running(NamedTuple):
    """What a worker runs, or ran when it died.

    Attributes:
        node: The node; None if the worker is between two attempts.
        began: When, on `time.monotonic`, which all processes of a machine share.
        stdout_from: Where in its captured standard output that of the attempt begins.
        stderr_from: The same for standard error.
        rss_before_bytes: The worker's resident memory when the attempt began; 0 if it was not looked at.
        loads: The position of the input that is being loaded; None for none.
    """

    node: int | None
    began: float
    stdout_from: int
    stderr_from: int
    rss_before_bytes: int
    loads: int | None = None


class Board:
    """Shared memory of one slot. Passed to its worker as an argument of the process; belongs to who created it."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = fd
        if fd is None:
            self._fd = fd = memory_file("dagron-board")
            os.ftruncate(fd, _SIZE)
            if sys.platform == "linux":
                # Or a task that cuts off all files that it finds ends the coordinator: SIGBUS, see memfd_create(2).
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._memory = mmap.mmap(fd, _SIZE)

    def __reduce__(self) -> tuple[Any, ...]:
        assert self._fd is not None
        return _attach, (reduction.DupFd(self._fd),)

    def close(self) -> None:
        """Unmap the memory."""
        self._memory.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def clear(self) -> None:
        """Forget everything; for a new worker."""
        self._memory[:_HEAD_BYTES] = bytes(_HEAD_BYTES)

    # --- the worker's side --------------------------------------------------------------------------------------

    def attempt_started(
        self,
        node: int | None,
        began: float = 0.0,
        stdout_from: int = 0,
        stderr_from: int = 0,
        rss_before_bytes: int = 0,
    ) -> None:
        """Note what runs from now on, as in `Running`."""
        # Memory that nothing was written to is zero, which must not be a node.
        number = 0 if node is None else node + 1
        _RUNNING.pack_into(self._memory, 0, number, began, stdout_from, stderr_from, rss_before_bytes)

    def init_started(self, began: float | None) -> None:
        """Note that the worker is in its `worker_init` from now on, on `time.monotonic`; None for no longer."""
        _INIT.pack_into(self._memory, _INIT_AT, began or 0.0)

    def add_init_fault(self, fault: bytes) -> None:
        """Note why `worker_init` failed; it takes the place of an outcome of no batch."""
        self.add_outcome(0, fault)

    def batch_started(self, batch: int) -> None:
        """Make the half of a batch empty."""
        self._memory[_DAMAGE_AT[batch & 1]] = 0
        _COUNT.pack_into(self._memory, _COUNT_AT[batch & 1], batch, 0, 0)

    def has_room(self, batch: int) -> bool:
        """Tell whether any outcome fits."""
        return self._used(batch) <= _ROOM_BYTES

    def loads_input(self, position: int | None) -> None:
        """Note which input of what runs is loaded from now on."""
        _LOADS.pack_into(self._memory, _LOADS_AT, 0 if position is None else min(position + 1, _MAX_LOADS))

    def tell(self, batch: int, outcome: bytes) -> None:
        """Note the outcome of what runs as far as it is known; the half of the batch must have room."""
        self._memory[_TELLING_AT] = 0
        self._write(batch, self._used(batch), outcome)
        self._memory[_TELLING_AT] = 1

    def add_outcome(self, batch: int, outcome: bytes) -> None:
        """Append an outcome to the half of a batch, which must have room."""
        self._memory[_TELLING_AT] = 0
        at = _COUNT_AT[batch & 1]
        _, n, used = _COUNT.unpack_from(self._memory, at)
        _COUNT.pack_into(self._memory, at, batch, n + 1, self._write(batch, used, outcome))

    def note_damage(self, batch: int, damage: bytes) -> None:
        """Note what a task has done to the process, after the outcomes of a batch, which ends with that."""
        self._write(batch, self._used(batch), damage)
        self._memory[_DAMAGE_AT[batch & 1]] = 1

    def _used(self, batch: int) -> int:
        used: int = _COUNT.unpack_from(self._memory, _COUNT_AT[batch & 1])[2]
        return used

    def _write(self, batch: int, used: int, outcome: bytes) -> int:
        """Write an outcome after those that count, which use so much; return how much is used with it."""
        size = len(outcome)
        start = _HEAD_BYTES + (batch & 1) * _HALF_BYTES + used
        _LENGTH.pack_into(self._memory, start, size)
        start += _LENGTH_SIZE
        self._memory[start : start + size] = outcome
        return used + _LENGTH_SIZE + size

    # --- the coordinator's side ---------------------------------------------------------------------------------

    def running(self) -> Running:
        """Return what runs, or ran when the worker died."""
        number, *more = _RUNNING.unpack_from(self._memory, 0)
        (loads,) = _LOADS.unpack_from(self._memory, _LOADS_AT)
        return Running._make((number - 1 if number else None, *more, loads - 1 if loads else None))

    @property
    def in_init_since(self) -> float | None:
        """Since when the worker is in its `worker_init`, or was when it died; None if it is not."""
        return _INIT.unpack_from(self._memory, _INIT_AT)[0] or None

    def init_fault(self) -> bytes | None:
        """Return why `worker_init` failed, None if that is not known."""
        return next(iter(self.outcomes(0)), None)

    def outcomes(self, batch: int) -> list[bytes]:
        """Return the outcomes of a batch so far."""
        found, n, _ = _COUNT.unpack_from(self._memory, _COUNT_AT[batch & 1])
        if found != batch:
            return []
        outcomes = []
        at = _HEAD_BYTES + (batch & 1) * _HALF_BYTES
        for _ in range(n):
            outcome = self._outcome_at(at)
            outcomes.append(outcome)
            at += _LENGTH.size + len(outcome)
        return outcomes

    def told(self, batch: int) -> bytes | None:
        """Return the outcome of what ran in a batch when the worker died, as far as it was told; None if it was not."""
        found, _, used = _COUNT.unpack_from(self._memory, _COUNT_AT[batch & 1])
        if found != batch or not self._memory[_TELLING_AT]:
            return None
        return self._outcome_at(_HEAD_BYTES + (batch & 1) * _HALF_BYTES + used)

    def damage(self, batch: int) -> bytes | None:
        """Return what was noted of the process at the end of a batch; None if nothing was."""
        found, _, used = _COUNT.unpack_from(self._memory, _COUNT_AT[batch & 1])
        if found != batch or not self._memory[_DAMAGE_AT[batch & 1]]:
            return None
        return self._outcome_at(_HEAD_BYTES + (batch & 1) * _HALF_BYTES + used)

    def _outcome_at(self, at: int) -> bytes:
        (length,) = _LENGTH.unpack_from(self._memory, at)
        at += _LENGTH.size
        return self._memory[at : at + length]


def _attach(fd: Any) -> Board:
    raw: int = fd.detach()
    board = Board(raw)
    os.close(raw)  # the mapping keeps the memory
    board._fd = None
    return board

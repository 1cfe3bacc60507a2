"""The `.pkl` copies of small results that lag behind the journal: which ones are to be written, and by whom. Pure.

The coordinator writes them when it has nothing better to do. In a flood of short nodes it always has something better
to do; then it gives copies to the workers with their batches, and they write these between two batches.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

from dagron.checkpoint.format.commits import Commit

__all__ = ["Copies", "Copy"]


class Copy(NamedTuple):
    """A copy that is to be written.

    Attributes:
        sequence: The number of the record that holds the result.
        commit: What it is a copy of.
        data: Its bytes; None if only the journal has them.
    """

    sequence: int
    commit: Commit
    data: bytes | None


class Copies:
    """Copies that lag behind.

    Attributes:
        n_bytes: Bytes of the copies that nobody has been given.
    """

    def __init__(self) -> None:
        self.n_bytes = 0
        self._waiting: deque[Copy] = deque()  # by sequence
        self._given: dict[int, deque[Copy]] = {}
        # By slot, how many copies were taken back that the worker may write all the same.
        self._taken_back: dict[int, int] = {}
        self._first: dict[int, Copy] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting) or any(self._given.values())

    @property
    def n_waiting(self) -> int:
        """How many copies nobody has been given."""
        return len(self._waiting)

    def add(self, copy: Copy) -> None:
        """Note a copy that is later than all others."""
        self._waiting.append(copy)
        self.n_bytes += len(copy.data or b"")

    def take(self, n: int) -> list[Copy]:
        """Remove and return up to `n` copies that nobody has been given, oldest first: the caller writes them."""
        taken = [self._waiting.popleft() for _ in range(min(n, len(self._waiting)))]
        self.n_bytes -= sum(len(copy.data or b"") for copy in taken)
        return taken

    def take_all(self) -> list[Copy]:
        """Remove and return all copies, also those that slots were given: the caller writes them, perhaps once more."""
        for slot in list(self._given):
            self._take_back(slot)
        return self.take(len(self._waiting))

    def give(self, slot: int, n: int) -> list[Copy]:
        """Return up to `n` copies, oldest first, that the worker of a slot is to write."""
        if not self._waiting or self._waiting[0].data is None:
            return []
        given = self.take(n)
        self._given.setdefault(slot, deque()).extend(given)
        return given

    def written(self, slot: int, n: int) -> None:
        """Note that a worker has written the first `n` copies that its slot was given."""
        n_back = min(n, self._taken_back.get(slot, 0))
        if n_back:
            self._taken_back[slot] -= n_back
        given = self._given.get(slot, deque())
        for _ in range(n - n_back):
            given.popleft()

    def take_back(self, slot: int) -> None:
        """Note that a worker will not write the copies that its slot was given."""
        self._take_back(slot)
        self._taken_back.pop(slot, None)

    def _take_back(self, slot: int) -> None:
        copies = self._given.pop(slot, None)
        if copies:
            self._taken_back[slot] = self._taken_back.get(slot, 0) + len(copies)
            self.n_bytes += sum(len(copy.data or b"") for copy in copies)
            self._waiting = deque(sorted((*copies, *self._waiting), key=lambda copy: copy.sequence))

    def take_back_overdue(self) -> None:
        """Take back the copies of each slot that had them at the last call and has written none since.

        Its worker runs a node that takes longer than was expected. When the node has ended, the worker writes the
        copies once more.
        """
        first = {slot: copies[0] for slot, copies in self._given.items() if copies}
        for slot, copy in first.items():
            if self._first.get(slot) is copy:
                self._take_back(slot)
        self._first = first

    @property
    def first_sequence(self) -> int | None:
        """The sequence number of the oldest copy; None if there are none."""
        # A slot may have been given copies that another one gave back, which are older than those that it had.
        given = [copy.sequence for copies in self._given.values() for copy in copies]
        return min([*given, *(copy.sequence for copy in islice(self._waiting, 1))], default=None)

"""Writes the `.pkl` copies of small results, which lag behind the journal, and has workers write some of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.records import CopiesWritten
from dagron.checkpoint.writing.copies import Copies, Copy
from dagron.checkpoint.writing.journal import JournalWriter
from dagron.checkpoint.writing.result_files import ResultFiles

__all__ = ["CopyWriter"]

_BUDGET_BYTES = 4 * 2**20
"""Bytes of small results whose `.pkl` may lag behind the journal; beyond them a commit writes all copies itself. Never
varied: a thousandth of a small machine's memory."""

_AT_ONCE = 8
"""Copies that are written, at 10 to 25 us each, before the run looks whether there is something better to do."""

_TO_RECORD = 1000
"""Copies that are written before a record says which ones are left, if a second has not passed before. After a kill a
resume writes so many again, in 25 ms."""


class CopyWriter:
    """Writes copies, gives some to workers, and records which are written.

    Args:
        files: The files of results.
        journal: The journal of the run.
        load: Returns the bytes of a commit.
    """

    def __init__(self, files: ResultFiles, journal: JournalWriter, load: Callable[[Commit], bytes]) -> None:
        self._files = files
        self._journal = journal
        self._load = load
        self._queue = Copies()
        self._n_unrecorded = 0

    @property
    def n_waiting(self) -> int:
        """How many copies nobody has been given."""
        return self._queue.n_waiting

    @property
    def is_over_budget(self) -> bool:
        """Whether copies of too many bytes lag behind."""
        return self._queue.n_bytes > _BUDGET_BYTES

    def add(self, copy: Copy) -> None:
        """Note a copy that is to be written, later than all others."""
        self._queue.add(copy)

    def write_all(self) -> None:
        """Write all copies that lag behind, and record that."""
        if self._queue:
            self._write(self._queue.take_all())
        self.record()

    def write_some(self) -> bool:
        """Write a few copies, oldest first, and return whether there may be more."""
        copies = self._queue.take(_AT_ONCE)
        if copies:
            self._write(copies)
        return len(copies) == _AT_ONCE

    def _write(self, copies: Sequence[Copy]) -> None:
        commits = self._journal.ledger.commits
        for sequence, commit, data in copies:
            if commits.sequence_of(commit.name) == sequence:
                self._files.write_copy(commit.file_name, self._load(commit) if data is None else data)
        self._note(len(copies))

    def give(self, slot: int, n: int) -> list[tuple[str, bytes, bool]]:
        """Give up to `n` copies to the worker of a slot, each as the arguments of `Directory.write_copy`."""
        given = []
        for _, commit, data in self._queue.give(slot, n):
            assert data is not None
            file_name = commit.file_name
            given.append((file_name, data, self._files.expect(file_name)))
        return given

    def written(self, slot: int, n: int) -> None:
        """Note that a worker has written the first `n` copies of what its slot was given."""
        self._queue.written(slot, n)
        self._note(n)

    def take_back(self, slot: int) -> None:
        """Note that a worker will not write the copies that its slot was given."""
        self._queue.take_back(slot)

    def take_back_overdue(self) -> None:
        """Take back the copies that slots have had for long; see `Copies.take_back_overdue`."""
        self._queue.take_back_overdue()

    def _note(self, n: int) -> None:
        self._n_unrecorded += n
        if self._n_unrecorded >= _TO_RECORD:
            self.record()

    def record(self) -> None:
        """Record which copies are written, if some have been written since the last record."""
        if self._n_unrecorded:
            self._n_unrecorded = 0
            self._journal.say(CopiesWritten(time.time(), self._queue.first_sequence or 0), sync=False)

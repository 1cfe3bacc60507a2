"""How outcomes become part of a checkpoint, a group at a time: the order that makes "it counts" true."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.records import Dropped, Output, Printed
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.writing.copies import Copy
from dagron.checkpoint.writing.copying import CopyWriter
from dagron.checkpoint.writing.journal import JournalWriter, Said
from dagron.checkpoint.writing.result_files import ResultFiles
from dagron.checkpoint.writing.results import Results

__all__ = ["Committing", "PendingCommit"]

_INLINE = int(Storage.INLINE)
"""As a plain number, because the storage of each result is compared with it."""


class PendingCommit(NamedTuple):
    """An outcome that is to become part of the checkpoint.

    Attributes:
        commit: What its record will say.
        data: The pickled result if its storage is INLINE.
        temp_name: The finished temporary file if its storage is FILE.
        printed: What the attempt wrote to its standard streams; None if nothing.
        identity: That of the temporary file when its bytes had been written and digested; empty if it is not known.
    """

    commit: Commit
    data: bytes
    temp_name: str
    printed: Output | None = None
    identity: tuple[int, ...] = ()


class Committing:
    """The commits of a run.

    Args:
        directory: The checkpoint directory.
        journal: That of the run.
        files: The files of results in the directory.
        results: The bytes of results, of which it remembers those of the run.
        copies: Takes the copies of small results.
        durable: Whether what is committed has to survive a loss of power.

    Attributes:
        unpublished: Temporary files that the journal may name.
    """

    def __init__(
        self,
        directory: Directory,
        journal: JournalWriter,
        files: ResultFiles,
        results: Results,
        copies: CopyWriter,
        *,
        durable: bool,
    ) -> None:
        self.unpublished: set[str] = set()
        self._directory = directory
        self._journal = journal
        self._files = files
        self._results = results
        self._copies = copies
        self._durable = durable
        self._to_drop: list[str] = []

    def commit(self, pending: Sequence[PendingCommit], doubtful: Collection[str]) -> None:
        """Make outcomes part of the checkpoint, as one group.

        Args:
            pending: At least one.
            doubtful: Nodes of these that were made from other inputs than before; see `differs`.

        Raises:
            OSError: The disk refused. End the run; none of the group may be taken as committed.

        Guarantees:
            Each node of the group is completed for every later reader; if durable, also after a loss of power. Order:
            large results are finished under temporary names (by their workers), the directory is synced, one append
            holds all records, the journal is synced, large results get their names. So a file with its final name is
            never without a record, and recovery finishes a rename that is missing.

        On crash:
            A prefix of the group is committed.
        """
        journal, ledger, special_name_of = self._journal, self._journal.ledger, self._files.names.special_name
        known = [kept.names for kept in (ledger.commits, ledger.stale, ledger.lost, ledger.dropped) if kept]
        sequence = ledger.sequence
        commits: list[tuple[Commit, bytes]] = []
        for commit, data, temp_name, _, _ in pending:
            name, sequence = commit.name, sequence + 1
            special, since = special_name_of(name), 0
            for names in known:
                if name in names:
                    since = self._since(commit, sequence, name in doubtful)
                    break
            if special or temp_name or since:
                commit = commit._replace(special_name=special, temp_name=temp_name, since=since)
            commits.append((commit, data))
        said: list[Said] = [*commits]
        said += [Printed(item.commit.name, item.printed) for item in pending if item.printed is not None]
        dropped = self._dropped_now()
        said += dropped
        if self._durable and any(item.temp_name for item in pending):
            self._directory.sync()
        self.unpublished.update(item.temp_name for item in pending if item.temp_name)
        records = journal.append(said)
        journal.sync()
        for item, (commit, _) in zip(pending, commits, strict=True):
            if item.temp_name:
                self._files.publish(item.temp_name, commit.file_name)
                self.unpublished.discard(item.temp_name)
        journal.apply(records)
        self._delete_dropped(dropped)
        add_copy, remember = self._copies.add, self._results.remember
        for (commit, data), record, item in zip(commits, records, pending, strict=False):
            sequence = record.sequence
            if commit.storage == _INLINE:
                add_copy(tuple.__new__(Copy, (sequence, commit, data)))  # a third of what `Copy(...)` takes
                remember(commit.name, sequence, data)
            elif item.identity:
                self._results.note_identity(commit.name, sequence, item.identity)
        if self._copies.is_over_budget:
            self._copies.write_all()

    def _since(self, commit: Commit, sequence: int, in_doubt: bool) -> int:
        if self.differs(commit, in_doubt=in_doubt):
            return sequence
        name, ledger = commit.name, self._journal.ledger
        old = ledger.stale.get(name) or ledger.completed_commit(name) or ledger.lost.get(name)
        return old.since if old is not None else 0

    def differs(self, commit: Commit, *, in_doubt: bool = False) -> bool:
        """Tell whether a result that is about to be committed replaces another one, which children may have used.

        The files that a task writes beside its result count as part of it: children may have read them. A result that
        was lost and made again from the same inputs is not replaced: its children are as good as they were. With
        `in_doubt`, what it is made from has changed, and then it is compared with what was lost.
        """
        ledger, name = self._journal.ledger, commit.name
        if not in_doubt and not ledger.dropped and name not in ledger.commits.names and name not in ledger.stale.names:
            return False  # nearly always, and this is asked for every node
        old = ledger.stale.get(name) or ledger.commits.get(name)
        if old is None and in_doubt:
            old = ledger.lost.get(name)
        if old is None and (dropped := ledger.dropped.get(name)) is not None and (in_doubt or dropped.without):
            old = dropped  # else it is as with what was lost
        if old is None:
            return False
        return not old.has_equal_result(commit.digest, commit.value_digest) or old.has_other_outputs(commit)

    def drop(self, names: Sequence[str]) -> None:
        """Have the results of completed nodes deleted, which stay completed: with the next commit, or by `drop_now`.

        Guarantees:
            What takes one of the results is committed when this is called. So a record that says that they are dropped
            comes after those of their takers, and is flushed before a file is deleted.

        On crash:
            The results, or some of them, are there, and the next run is told to drop them again; or the record is, and
            what is left of the files is ours, and goes at the end of the next run.
        """
        self._to_drop += names

    def drop_now(self) -> None:
        """Delete what is to be deleted.

        Raises:
            OSError: The disk refused. End the run.
        """
        if dropped := self._dropped_now():
            self._journal.say(*dropped)
            self._delete_dropped(dropped)

    def _dropped_now(self) -> list[Dropped]:
        """Return what is to be said of the results that are to be deleted, once."""
        names, self._to_drop = [name for name in self._to_drop if name in self._journal.ledger.commits], []
        return [Dropped(time.time(), tuple(names))] if names else []

    def _delete_dropped(self, dropped: Sequence[Dropped]) -> None:
        """Delete the files of results; the record that says so is flushed."""
        for record in dropped:
            for name in record.names:
                self._files.drop(self._journal.ledger.dropped[name])

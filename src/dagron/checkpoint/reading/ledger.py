"""What the records of a journal mean, in one place: the writer applies what it has written, a reader what it reads.

Later records supersede earlier ones, node by node. COMMITTED makes a node completed, FAILED failed. INVALIDATED makes
its commit stale: the node runs again, and whether its result then differs from the stale one decides about its
children; with `lost` the commit is forgotten instead, and the children stay as they are, unless it is invalidated
later. RUN_STARTED with `fresh` takes everything away. CLEARED means that the checkpoint is being deleted: there is
none, but the files that it lists are ours. PRUNED says which files are ours and belong to no commit. DROPPED takes the
results of nodes away that stay completed: a node that takes one has to have it made again. Looks at no disk, unpickles
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import assert_never

from dagron.checkpoint.files.opened import is_temporary
from dagron.checkpoint.format.commits import Commit, attempts_of_commit, glance_at_commit
from dagron.checkpoint.format.journal import HEADER_SIZE, Damage, Record
from dagron.checkpoint.format.json_bodies import decode_event
from dagron.checkpoint.format.names import SUFFIX
from dagron.checkpoint.format.records import (
    NO_ORIGIN,
    NO_RUN,
    Cleared,
    CopiesWritten,
    Dropped,
    Event,
    Failed,
    Invalidated,
    Kind,
    Origin,
    Printed,
    Pruned,
    Retried,
    RunEnded,
    RunStarted,
    WorkersStarted,
)
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.packed import PackedCommits

__all__ = ["Ledger", "checked_file_name"]

_COMMITTED = int(Kind.COMMITTED)
"""As a plain number, because the kind of each record is compared with it."""

_FIRST_TIME, _LAST_TIME = -62_135_596_800.0, 253_402_300_800.0
"""The years 1 to 9999 in seconds since the epoch: those that can be shown."""


class Ledger:
    """The state of a checkpoint after the records that were applied.

    Attributes:
        checkpoint_id: Tells checkpoints apart; new with every fresh `execute`.
        commits: The completed nodes that have their results, in the order of their commits.
        failures: The failed nodes, each with its last FAILED record.
        failed_in_run: Those of them that have failed in the last run.
        run: The last RUN_STARTED.
        origin: The job of the last run of which that is known, since the last fresh one.
        ended: The RUN_ENDED that belongs to it, if there is one.
        n_runs: Runs on this checkpoint.
        run_offset: Where the record of the last RUN_STARTED begins in the journal.
        processes: The workers and servers of the last run, if it has not ended: process id and time of creation, as in
            `WorkersStarted`.
        namespace: The namespace of these process ids.
        owned: Files that we have written and that belong to no commit any more; a run may reuse or delete them.
        removed: Files of stale commits that a run deleted at its end.
        lagging_from: If the record of an INLINE result has this number or a higher one, its `.pkl` copy may be missing
            or that of an older result; see `is_lagging`.
        stale: Commits that no longer apply although nothing has replaced them yet.
        lost: The commits of nodes whose result was lost and has not been made again.
        dropped: The commits of completed nodes whose results were not to be kept, and are deleted.
        withdrawn: Nodes whose commits were invalidated after the end of the last run, which has not met that.
        cleared: The checkpoint is being deleted.
        structure: `DAG.structure_digest()`, in hexadecimal, of the DAG that the commits were last compared with.
        definitions: What the script defined that they were last compared with; as of `RunStarted`.
        absent: Completed and failed nodes that the DAG of the last run did not have when it was compared with them.
        recorded: The body of the last DAG_RECORDED; empty if there is none.
        printed: Where the PRINTED record of a completed node stands: its offset, and its sequence number.
        retried: Where the RETRIED records of the attempts stand that were made before the last one of a node; as
            `printed`.
        damage: Stretches of the journal that hold no valid record.
        sequence: The sequence number of the last record.
        valid_size: Where the last record ends in the journal, and the torn tail begins, if there is one.
        size: The size of the journal when it was read.
        updated_unix: When the last record was written, in seconds since the epoch.
    """

    def __init__(
        self,
        checkpoint_id: bytes,
        commits: PackedCommits | None = None,
        failures: dict[str, Failed] | None = None,
        run: RunStarted = NO_RUN,
        size: int = 0,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.commits = PackedCommits() if commits is None else commits
        self.failures = {} if failures is None else failures
        self.failed_in_run: set[str] = set()
        self.run = run
        self.origin: Origin = NO_ORIGIN
        self.ended: RunEnded | None = None
        self.n_runs = 0
        self.run_offset = HEADER_SIZE
        self.processes: dict[int, float] = {}
        self.namespace = ""
        self.owned: set[str] = set()
        self.removed: set[str] = set()
        self.lagging_from = 0
        self.stale = PackedCommits()
        self.lost = PackedCommits()
        self.dropped = PackedCommits()
        self.withdrawn: set[str] = set()
        self.cleared = False
        self.structure = ""
        self.definitions: tuple[tuple[str, str], ...] = ()
        self.absent: set[str] = set()
        self.recorded = b""
        self.printed: dict[str, tuple[int, int]] = {}
        self.retried: dict[str, list[tuple[int, int]]] = {}
        self.damage: list[Damage] = []
        self.sequence = 0
        self.valid_size = HEADER_SIZE
        self.size = size
        self.updated_unix = 0.0

    def apply(self, record: Record) -> None:
        """Take in a record that follows all those that were applied before.

        Raises:
            ValueError: The record makes no sense. Nonsense may raise other errors of Python, too. What the ledger says
                afterwards is unspecified.
        """
        kind, sequence, _, body, payload_offset, payload_size = record
        if kind == _COMMITTED:
            at = self._commit(body, payload_offset, sequence)
        elif kind == Kind.DAG_RECORDED:
            self.recorded = body
            at = 0.0
        else:
            event = decode_event(kind, body)
            at = 0.0 if event is None or isinstance(event, Printed) else event.at
            if event is not None:
                self._take(event, record)
        if not _FIRST_TIME <= at < _LAST_TIME:
            raise ValueError(f"{at!r} is no time")
        if at > self.updated_unix:
            self.updated_unix = at
        self.sequence = sequence
        self.valid_size = payload_offset + payload_size

    def _commit(self, body: bytes, payload_offset: int, sequence: int) -> float:
        name, ended_unix, special = glance_at_commit(body)
        commits = self.commits
        if name in commits.names or name in self.stale.names:
            # Taken out first, so that the order is that of the last commits.
            for old in (commits.pop(name), self.stale.pop(name)):
                if old is not None:
                    self.owned.add(old.file_name)
        commits.add(name, body, payload_offset, sequence, special=special)
        if special:
            _check_names(commits[name])
        if self.owned or self.removed:
            file = commits.file_of(name)
            self.owned.discard(file)
            self.removed.discard(file)
        if self.failures:
            self.failures.pop(name, None)
            self.failed_in_run.discard(name)
        if self.lost.names:
            self.lost.pop(name)
        if self.dropped.names:
            self.dropped.pop(name)
        if self.printed:
            self.printed.pop(name, None)
        if self.retried and name in self.retried and attempts_of_commit(body) <= 1:
            del self.retried[name]
        return ended_unix

    def _take(self, event: Event, record: Record) -> None:
        match event:
            case Failed(name=name):
                self.commits.move(name, self.stale)
                self.dropped.move(name, self.lost)  # as with what was lost, the children stay as they are
                self.failures[name] = event
                self.failed_in_run.add(name)
                self.printed.pop(name, None)
                if event.attempts <= 1:
                    self.retried.pop(name, None)
            case Printed(name=name):
                # Only where it stands: what tasks print may be much, and nearly nobody asks for it.
                self.printed[name] = record.offset, record.sequence
            case Retried(name=name, attempt=attempt):
                if attempt <= 1:
                    self.retried.pop(name, None)
                self.retried.setdefault(name, []).append((record.offset, record.sequence))
            case Invalidated():
                self._invalidate(event)
            case RunStarted():
                self.run, self.ended = event, None
                self.run_offset = record.offset
                self.failed_in_run.clear()
                self.processes = {}
                self.withdrawn = set()
                self.n_runs += 1
                self.structure, self.absent = event.structure, set(event.absent)
                self.definitions = event.definitions
                if event.origin.is_known or event.fresh:
                    self.origin = event.origin
                if event.fresh:
                    self._forget(event.owns)
            case WorkersStarted():
                self.processes.update(event.processes)
                self.namespace = event.namespace
            case RunEnded():
                self.ended = event
                self.processes = {}
                self.lagging_from = record.sequence
                # Their files were deleted before this was written: what stands there now is somebody else's.
                self.owned.clear()
                self.removed = self.stale.files()
            case CopiesWritten(before=before):
                self.lagging_from = max(self.lagging_from, min(before or record.sequence, record.sequence))
            case Pruned(owns=owns):
                self.owned = {checked_file_name(name) for name in owns}
                self.removed = self.stale.files() - self.owned
            case Dropped(names=names):
                for name in names:
                    if name in self.commits:
                        self.commits.move(name, self.dropped)
                        self.owned.add(self.dropped.file_of(name))
            case Cleared():
                self._forget(event.owns)
                self.cleared = True
            case _:
                assert_never(event)

    def _invalidate(self, event: Invalidated) -> None:
        for name in event.names:
            if name in self.dropped.names:
                # Ours only as far as it was said to be: after the end of a run another's may stand under the name.
                self.removed.add(self.dropped.file_of(name))
                self.dropped.move(name, self.stale)
            if not event.lost and name in self.lost.names:
                self.removed.add(self.lost.file_of(name))
                self.lost.move(name, self.stale)
            self.commits.move(name, self.stale)
            if event.lost and name in self.stale:
                self.owned.add(self.stale.file_of(name))
                self.stale.move(name, self.lost)
        if self.ended is not None:
            self.withdrawn.update(event.names)
        if event.structure:
            self.structure, self.absent = event.structure, set(event.absent)
            self.definitions = event.definitions

    def _forget(self, owns: Iterable[str]) -> None:
        self.commits.clear()
        self.failures.clear()
        self.failed_in_run.clear()
        self.stale.clear()
        self.lost.clear()
        self.dropped.clear()
        self.printed.clear()
        self.retried.clear()
        self.owned = {checked_file_name(name) for name in owns}

    @property
    def completed(self) -> list[str]:
        """The completed nodes of the DAG, in the order of their commits."""
        names: Iterable[str] = self.commits
        if self.dropped:
            by_number = [
                (commits.sequence_of(name), name) for commits in (self.commits, self.dropped) for name in commits
            ]
            names = [name for _, name in sorted(by_number)]
        return [name for name in names if name not in self.absent]

    def completed_commit(self, name: str) -> Commit | None:
        """Return the commit of a completed node, also if its result was dropped; None if the node is not completed."""
        return self.commits.get(name) or self.dropped.get(name)

    @property
    def failed(self) -> list[str]:
        """The failed nodes of the DAG."""
        return [name for name in self.failures if name not in self.absent]

    @property
    def left_over(self) -> set[str]:
        """The files that are ours and belong to no commit, whether they exist or not."""
        return (self.owned | (self.stale.files() - self.removed)) - self.commits.files()

    @property
    def files(self) -> set[str]:
        """Every file that is ours, whether it exists or not."""
        return self.commits.files() | self.left_over

    def is_lagging(self, commit: Commit) -> bool:
        """Tell whether the `.pkl` copy of a completed node may be missing or that of an older result."""
        return commit.storage == Storage.INLINE and commit.sequence >= self.lagging_from


def _check_names(commit: Commit) -> None:
    if commit.special_name:  # a plain one is safe by its making
        checked_file_name(commit.special_name)
    if commit.temp_name and not is_temporary(commit.temp_name):
        raise ValueError(f"{commit.temp_name!r} is no name of a temporary file")


def checked_file_name(name: str) -> str:
    """Return a recorded file name if we could have made it.

    Raises:
        ValueError: We could not: whoever planted the name may not make us touch anything outside of the directory.
    """
    if not name.endswith(SUFFIX) or os.path.basename(name) != name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a result file")
    return name

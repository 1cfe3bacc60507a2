"""What the runs of a checkpoint did, one after another: also what later records of the journal supersede."""

from __future__ import annotations

from dataclasses import dataclass, field

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit, decode_commit
from dagron.checkpoint.format.journal import Record
from dagron.checkpoint.format.json_bodies import decode_event
from dagron.checkpoint.format.records import NO_RUN, Failed, Invalidated, Kind, Retried, RunEnded, RunStarted
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.opening import read_ledger

__all__ = ["History", "RunHistory", "read_history"]


@dataclass(slots=True)
class RunHistory:
    """The records of one run.

    Attributes:
        started: Its RUN_STARTED.
        ended: Its RUN_ENDED, if there is one.
        commits: What it committed, in order.
        failures: Its FAILED records, in order.
        retried: Its RETRIED records, in order.
        n_invalidated: Commits of earlier runs that it found not to apply any more, or lost.
        updated_unix: When its last record was written, in seconds since the epoch.
    """

    started: RunStarted
    ended: RunEnded | None = None
    commits: list[Commit] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    retried: list[Retried] = field(default_factory=list)
    n_invalidated: int = 0
    updated_unix: float = 0.0


@dataclass(slots=True)
class History:
    """A checkpoint and how it came to be.

    Attributes:
        ledger: How it stands after the last record.
        runs: Its runs since the last fresh `execute`, in order. If the RUN_STARTED of the first one is damaged, its
            records belong to `NO_RUN`.
    """

    ledger: Ledger
    runs: list[RunHistory]


class _Reader:
    def __init__(self) -> None:
        self.runs: list[RunHistory] = []

    def __call__(self, record: Record) -> None:
        if record.kind == Kind.COMMITTED:
            commit = decode_commit(record.body, record.payload_offset, record.sequence)
            self._of_run(commit.figures.ended_unix).commits.append(commit)
            return
        match decode_event(record.kind, record.body):
            case RunStarted() as started:
                if started.fresh:
                    self.runs.clear()
                self.runs.append(RunHistory(started, updated_unix=started.at))
            case Failed() as failed:
                self._of_run(failed.at).failures.append(failed)
            case Retried() as retried:
                self._of_run(retried.at).retried.append(retried)
            case Invalidated() as invalidated:
                self._of_run(invalidated.at).n_invalidated += len(invalidated.names)
            case RunEnded() as ended:
                self._of_run(ended.at).ended = ended

    def _of_run(self, at: float) -> RunHistory:
        """Return the last run so far, to which a record of this time belongs."""
        if not self.runs:
            self.runs.append(RunHistory(NO_RUN))
        run = self.runs[-1]
        run.updated_unix = max(run.updated_unix, at)
        return run


def read_history(directory: Directory, key: bytes | None = None) -> History | None:
    """Read the journal of a checkpoint with all that it remembers. Every commit ever made takes memory.

    Args:
        directory: The checkpoint directory; it may be missing.
        key: The signing key, or None.

    Returns:
        None if there is no checkpoint.

    Raises:
        CheckpointDirectoryError: As for `read_ledger`.
        CheckpointDamagedError: As for `read_ledger`.
        FormatVersionError: As for `read_ledger`.
    """
    reader = _Reader()
    ledger = read_ledger(directory, key, reader)
    return None if ledger is None else History(ledger, reader.runs)

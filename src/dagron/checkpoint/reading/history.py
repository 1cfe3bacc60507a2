"""What the runs of a checkpoint did, one after another: also what later records of the journal supersede."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dagron.checkpoint.files import Directory
from dagron.checkpoint.format.journal import Commit, Kind, Record, decode_commit, decode_json
from dagron.checkpoint.reading.view import View, read_view

__all__ = ["History", "RunHistory", "read_history"]


@dataclass(slots=True)
class RunHistory:
    """The records of one run.

    Attributes:
        fields: The fields of its RUN_STARTED.
        ended: The fields of its RUN_ENDED, if there is one.
        commits: What it committed, in order.
        failures: The fields of its FAILED records, in order.
        n_invalidated: Commits of earlier runs that it found not to apply any more, or lost.
        updated_unix: When its last record was written, in seconds since the epoch.
    """

    fields: dict[str, Any]
    ended: dict[str, Any] | None = None
    commits: list[Commit] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    n_invalidated: int = 0
    updated_unix: float = 0.0


@dataclass(slots=True)
class History:
    """A checkpoint and how it came to be.

    Attributes:
        view: How it stands after the last record.
        runs: Its runs since the last fresh `execute`, in order. What stands in the journal before the record of the
            first of them, because that one is damaged, belongs to a run with empty fields.
    """

    view: View
    runs: list[RunHistory]


class _Reader:
    def __init__(self) -> None:
        self.runs: list[RunHistory] = []

    def __call__(self, record: Record) -> None:
        if record.kind == Kind.COMMITTED:
            commit = decode_commit(record)
            run = self._run
            run.commits.append(commit)
            run.updated_unix = max(run.updated_unix, commit.figures.ended_unix)
            return
        if record.kind == Kind.RUN_STARTED:
            fields = decode_json(record)
            if fields["fresh"]:
                self.runs.clear()
            self.runs.append(RunHistory(fields, updated_unix=float(fields["at"])))
        elif record.kind in (Kind.FAILED, Kind.INVALIDATED, Kind.RUN_ENDED):
            fields = decode_json(record)
            run = self._run
            run.updated_unix = max(run.updated_unix, float(fields.get("at", 0.0)))
            if record.kind == Kind.FAILED:
                run.failures.append(fields)
            elif record.kind == Kind.INVALIDATED:
                run.n_invalidated += len(fields["names"])
            else:
                run.ended = fields

    @property
    def _run(self) -> RunHistory:
        if not self.runs:
            self.runs.append(RunHistory({}))
        return self.runs[-1]


def read_history(directory: Directory, key: bytes | None = None) -> History | None:
    """Read the journal of a checkpoint with all that it remembers. Takes memory for every commit ever made.

    Args:
        directory: The checkpoint directory; it may be missing.
        key: The signing key, or None.

    Returns:
        None if there is no checkpoint.

    Raises:
        CheckpointDirectoryError: As for `read_view`.
        CheckpointDamagedError: As for `read_view`.
        FormatVersionError: As for `read_view`.
    """
    reader = _Reader()
    view = read_view(directory, key, reader)
    return None if view is None else History(view, reader.runs)

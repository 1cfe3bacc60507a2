"""How a checkpoint stands, read from outside, and as text of a few lines."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import signing_key as key_of_environment
from dagron.errors import NoCheckpointError
from dagron.looking.groups import GroupBytes, bytes_by_group
from dagron.looking.invocation import Invocation, target_of
from dagron.looking.nodes import Now, slots_now
from dagron.looking.opening import State, directory_of, found_ledger, recorded_dag, state_of_run
from dagron.looking.outputs import ChangedOutput, changed_outputs
from dagron.results.reasons import shown_error
from dagron.results.status import NodeStatus, node_statuses
from dagron.results.tables import as_preformatted
from dagron.shown import (
    bar_cells,
    glyphs_for,
    iso_time,
    shown_bytes,
    shown_name,
    shown_seconds,
    shown_time,
)

if TYPE_CHECKING:
    from dagron.checkpoint.format.records import Failed
    from dagron.checkpoint.reading.ledger import Ledger

__all__ = ["CheckpointStatus", "FailedNode", "checkpoint_status", "look", "shown_status", "status_of"]

_MAX_FAILURES, _MAX_RUNNING = 20, 16
"""Nodes that are listed, together less than two screens; `--json` has all."""

_MAX_GROUPS = 5
"""Groups of nodes that are listed with what their results take: the largest of them take nearly all, as a rule."""

_WORTH_GROUPS_BYTES = 2**20
"""Below this nobody asks who takes it."""

_BAR_WIDTH = 40
"""Cells of the bar: half of a terminal of 80 columns."""


@dataclass(frozen=True, slots=True)
class FailedNode:
    """A node whose last attempt failed."""

    name: str
    status: str
    type: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class CheckpointStatus:
    """How a checkpoint stands; the fields of `dagron status --json`. As text, what `dagron status` says.

    Attributes:
        checkpoint_dir: As it was given.
        job: The file or module of the job; empty if a program has run it by itself.
        arguments: What the last run gave the job in `sys.argv`.
        parameters: What it called the function with that makes the flow: names and texts.
        state: `running`; `interrupted`: its run has ended without saying so; `finished`: its run came to its end, also
            if nodes failed; `running or interrupted`: its run is or was on another machine.
        pid: The process of the last run.
        host: Its machine.
        since: When it began, as ISO-8601 in UTC.
        total: Nodes of the DAG.
        completed: Nodes that completed.
        states: How many nodes are in each state in which there are any.
        failed: Those that failed or timed out, and are not tried again right now.
        runs: How many runs there were.
        updated: When it was last written, as ISO-8601 in UTC.
        durability: `power` or `process`.
        cpu_seconds: User and system time that the completed nodes took.
        wall_seconds: Time that they took, one after the other.
        result_bytes: Size of their pickled results.
        stored_bytes: What these take in the checkpoint.
        n_dropped: Completed nodes whose results were not to be kept, and are deleted.
        groups: What the results of nodes with like names take, the largest first.
        retries: Attempts that another one followed, of the nodes that completed or failed.
        n_damaged: Stretches of the journal that cannot be read.
        running: What the slots run, as the run has said within the last seconds.
        preparing: When the workers that are in `worker_init` entered it, in seconds since the epoch; as `running`.
        changed_outputs: The files of nodes that are gone or have changed; the next resume makes them again. Not looked
            at while a run goes on.
    """

    checkpoint_dir: str
    job: str
    arguments: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    state: State
    pid: int
    host: str
    since: str
    total: int
    completed: int
    states: dict[str, int]
    failed: list[FailedNode]
    runs: int
    updated: str
    durability: str
    cpu_seconds: float
    wall_seconds: float
    result_bytes: int
    stored_bytes: int
    n_dropped: int
    groups: list[GroupBytes]
    retries: int
    n_damaged: int
    running: list[Now]
    preparing: list[float]
    changed_outputs: list[ChangedOutput]

    def __str__(self) -> str:
        return shown_status(self, getattr(sys.stdout, "encoding", None), time.time())

    def _repr_html_(self) -> str:
        return as_preformatted(str(self))


def checkpoint_status(checkpoint_dir: str | os.PathLike[str]) -> CheckpointStatus | None:
    """Read how a checkpoint stands, with the key of the environment, as `look` does; None if there is no checkpoint.

    Raises:
        CheckpointError: There is one that cannot be read.
    """
    try:
        return look(checkpoint_dir, key_of_environment())
    except NoCheckpointError:
        return None


def look(checkpoint_dir: str | os.PathLike[str], key: bytes | None) -> CheckpointStatus:
    """Read how a checkpoint stands; without its lock, also while it is written. Changes and unpickles nothing.

    Args:
        checkpoint_dir: The directory; as text it is what the user has given.
        key: The signing key, or None.

    Raises:
        NoCheckpointError: There is none.
        CheckpointError: There is one that cannot be read.
    """
    ledger = found_ledger(checkpoint_dir, key)
    return status_of(ledger, directory_of(checkpoint_dir), str(checkpoint_dir), key)


def status_of(ledger: Ledger, directory: Directory, shown: str, key: bytes | None) -> CheckpointStatus:
    """Return how a checkpoint stands.

    Args:
        ledger: What its journal says; brought up to date, if its run may have ended since it was read.
        directory: The checkpoint directory.
        shown: The directory as the user has given it.
        key: The signing key, or None.
    """
    state = state_of_run(directory, ledger, key)
    running, preparing = slots_now(directory, ledger, key, state) or ([], [])
    run, commits = ledger.run, [*ledger.commits.values(), *ledger.dropped.values()]
    again = {now.name for now in running}
    return CheckpointStatus(
        checkpoint_dir=shown,
        job=target_of(ledger.origin, str(directory.path)),
        arguments=ledger.origin.arguments,
        parameters=ledger.origin.parameters,
        state=state,
        pid=run.pid,
        host=run.host,
        since=iso_time(run.at),
        total=run.total,
        completed=len(ledger.completed),
        states=_states(ledger, again, state),
        failed=[_failed_node(ledger.failures[name]) for name in ledger.failed if name not in again],
        runs=ledger.n_runs,
        updated=iso_time(ledger.updated_unix),
        durability=run.durability,
        cpu_seconds=sum(commit.figures.cpu_seconds for commit in commits),
        wall_seconds=sum(commit.figures.duration_seconds for commit in commits),
        result_bytes=sum(commit.size for commit in commits),
        stored_bytes=sum(commit.stored_size for commit in ledger.commits.values()),
        n_dropped=len(ledger.dropped),
        groups=bytes_by_group(
            [(commit.name, commit.size, commit.stored_size) for commit in ledger.commits.values()]
            + [(commit.name, commit.size, 0) for commit in ledger.dropped.values()]
        ),
        retries=sum(commit.attempts - 1 for commit in commits if commit.attempts > 1)
        + sum(failed.attempts - 1 for failed in ledger.failures.values() if failed.attempts > 1),
        n_damaged=len(ledger.damage),
        running=running,
        preparing=preparing,
        changed_outputs=[] if state == "running" else changed_outputs(ledger, key),
    )


def _states(ledger: Ledger, running: Collection[str], state: State) -> dict[str, int]:
    goes_on = state in ("running", "running or interrupted")
    # As long as a run goes on nothing counts as skipped, so that the DAG need not be known, which is looked at often.
    found = Counter(node_statuses(ledger, None if goes_on else recorded_dag(ledger), running, goes_on=goes_on).values())
    found[NodeStatus.PENDING] += max(0, ledger.run.total - found.total())
    return {status.value: found[status] for status in NodeStatus if found[status]}


def _failed_node(failed: Failed) -> FailedNode:
    return FailedNode(failed.name, failed.status, failed.type, failed.message, failed.attempts)


# --- as text -------------------------------------------------------------------------------------------------------


def shown_status(status: CheckpointStatus, encoding: str | None, now_unix: float) -> str:
    """Return a status as text of several lines."""
    glyphs = glyphs_for(encoding)
    (full,) = bar_cells([status.completed], status.total, _BAR_WIDTH)
    percent = 100 * min(status.completed, status.total) // status.total if status.total else 100
    bar = glyphs.full * full + glyphs.rest * (_BAR_WIDTH - full)
    n_failed = len(status.failed)
    states = ", ".join(f"{n} {NodeStatus(state).label}" for state, n in status.states.items())
    rows = [
        *([("job", _shown_job(status))] if status.job else []),
        ("state", _shown_state(status)),
        ("nodes", states or "none"),
        ("run", f"{status.runs}, process {status.pid} on {status.host}"),
        ("since", _shown_iso(status.since, now_unix)),
        ("updated", _shown_iso(status.updated, now_unix)),
        ("results", f"{_shown_results(status)}, durability {status.durability}"),
        ("time", f"{shown_seconds(status.cpu_seconds)} of CPU, {shown_seconds(status.wall_seconds)} in tasks"),
    ]
    if status.retries:
        rows.append(("retries", str(status.retries)))
    if status.running:
        rows.append(("running", str(len(status.running))))
    if status.preparing:
        longest = max(0.0, now_unix - min(status.preparing))
        rows.append(("workers", f"{len(status.preparing)} in worker_init, {shown_seconds(longest)}"))
    if status.n_damaged:
        rows.append(("damage", f"{status.n_damaged} stretches of the journal; nodes recorded there run again"))
    if status.changed_outputs:
        n = len(status.changed_outputs)
        rows.append(("outputs", f"{n} gone or changed; the next resume makes {'it' if n == 1 else 'them'} again"))
    if n_failed:
        rows.append(("errors", str(n_failed)))
    lines = [
        shown_name(status.checkpoint_dir),
        f"{bar} {status.completed}/{status.total} {percent}%",
        *(line for row in rows if row[0] != "errors" for line in _shown_row(row, status)),
        *(f"  {_shown_now(now, now_unix)}" for now in status.running[:_MAX_RUNNING]),
        *(f"  {_shown_changed(output)}" for output in status.changed_outputs[:_MAX_FAILURES]),
        *(f"{label:<8} {text}" for label, text in rows if label == "errors"),
        *(f"  {_shown_failure(failed)}" for failed in status.failed[:_MAX_FAILURES]),
    ]
    if n_failed > _MAX_FAILURES:
        lines.append(f"  ... and {n_failed - _MAX_FAILURES} more; --json lists them all")
    return "\n".join(lines)


def _shown_state(status: CheckpointStatus) -> str:
    if status.state == "finished" and status.completed < status.total:
        return f"finished, {status.total - status.completed} nodes without a result"
    if status.state == "running or interrupted":
        return f"{status.state}: only {status.host} can tell"
    return status.state


def _shown_job(status: CheckpointStatus) -> str:
    return shown_name(shlex.join(Invocation(status.job, status.arguments, status.parameters).words()))


def _shown_failure(failed: FailedNode) -> str:
    attempts = f" (attempt {failed.attempts})" if failed.attempts > 1 else ""
    return f"{shown_name(failed.name)}{attempts}: {shown_error(failed.type, failed.message)}"


def _shown_row(row: tuple[str, str], status: CheckpointStatus) -> Iterator[str]:
    """Yield a line, and behind that of the results those of the largest groups, where there are several."""
    label, text = row
    yield f"{label:<8} {text}"
    if label == "results" and len(status.groups) > 1 and status.result_bytes > _WORTH_GROUPS_BYTES:
        for group in status.groups[:_MAX_GROUPS]:
            nodes = f" of {group.nodes} nodes" if group.nodes > 1 else ""
            yield f"  {shown_name(group.group)}: {_shown_stored(group.result_bytes, group.stored_bytes)}{nodes}"


def _shown_stored(result_bytes: int, stored_bytes: int) -> str:
    if not stored_bytes and result_bytes:
        return f"{shown_bytes(result_bytes)}, not kept"
    whole = f", {shown_bytes(result_bytes)} before they were compressed" if stored_bytes < result_bytes else ""
    return f"{shown_bytes(stored_bytes)}{whole}"


def _shown_results(status: CheckpointStatus) -> str:
    stored, n = shown_bytes(status.stored_bytes), status.n_dropped
    if status.stored_bytes < status.result_bytes:
        stored += f" of {shown_bytes(status.result_bytes)}"
    return f"{stored}, {n} node{'s' if n > 1 else ''} not kept" if n else stored


def _shown_changed(output: ChangedOutput) -> str:
    return f"{shown_name(output.name)}: {shown_name(output.path)} {output.difference}"


def _shown_now(now: Now, now_unix: float) -> str:
    memory = f", {shown_bytes(now.memory_bytes)}" if now.memory_bytes else ""
    return f"{shown_name(now.name)}: {shown_seconds(max(0.0, now_unix - now.started_unix))}{memory}"


def _shown_iso(iso: str, now_unix: float) -> str:
    return shown_time(datetime.fromisoformat(iso).timestamp(), now_unix)

"""The figures of every node, as a checkpoint has them: for `ls`, `show`, `export` and `graph`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dagron.checkpoint.format.names import META
from dagron.looking.opening import state_of_run
from dagron.results.reasons import shown_error
from dagron.results.status import NodeStatus, node_statuses
from dagron.results.tables import NodeFigures
from dagron.shown import iso_time

if TYPE_CHECKING:
    from dagron.checkpoint.files.directory import Directory
    from dagron.checkpoint.format.commits import Commit
    from dagron.checkpoint.format.records import Failed
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.graph.dag import DAG
    from dagron.looking.opening import State

__all__ = [
    "Now",
    "figures_of",
    "node_figures",
    "running_now",
    "slots_now",
]


@dataclass(frozen=True, slots=True)
class Now:
    """What a slot runs, as `_meta.json` had it a moment ago."""

    name: str
    slot: int
    started_unix: float
    memory_bytes: int


class SlotsNow(NamedTuple):
    """What the slots of a run do, as `_meta.json` had it a moment ago.

    Attributes:
        running: What they run.
        preparing: When the workers entered `worker_init` that are in it, in seconds since the epoch.
    """

    running: list[Now]
    preparing: list[float]


def running_now(
    directory: Directory, ledger: Ledger, key: bytes | None, state: State | None = None
) -> list[Now] | None:
    """Return what a run that goes on has said it runs, as `slots_now` has it; None if no run goes on."""
    now = slots_now(directory, ledger, key, state)
    return None if now is None else now.running


def slots_now(directory: Directory, ledger: Ledger, key: bytes | None, state: State | None = None) -> SlotsNow | None:
    """Return what a run that goes on, here or maybe on another machine, has said of its slots; None if none goes on.

    Args:
        directory: The checkpoint directory.
        ledger: What its journal says; brought up to date, if the run may have ended since it was read.
        key: The signing key, or None.
        state: How the last run stands, if that is known already.
    """
    if (state or state_of_run(directory, ledger, key)) not in ("running", "running or interrupted"):
        return None
    nothing = SlotsNow([], [])
    try:
        meta = json.loads(directory.read(META))
        run = meta["run"]
        # In containers every run may have the same process id.
        if (meta["checkpoint_id"], run["pid"], run["started"]) != (
            ledger.checkpoint_id.hex(),
            ledger.run.pid,
            iso_time(ledger.run.at),
        ):
            return nothing  # of another run
        items = [
            Now(str(item["node"]), int(item["slot"]), float(item["started_unix"]), int(item["memory_bytes"]))
            for item in meta["running"]
        ]
        preparing = [*map(float, meta["preparing"])]
    except (OSError, ValueError, LookupError, TypeError):
        return nothing
    # What has ended meanwhile. What failed in an earlier run is tried again.
    running = [item for item in items if item.name not in ledger.commits and item.name not in ledger.failed_in_run]
    return SlotsNow(running, preparing)


def figures_of(ledger: Ledger, dag: DAG | None, directory: Directory, key: bytes | None) -> list[NodeFigures]:
    """Return the figures of every node as they are now; the arguments are those of `node_figures` and `slots_now`."""
    return list(node_figures(ledger, dag, running_now(directory, ledger, key), time.time()))


def node_figures(ledger: Ledger, dag: DAG | None, running: list[Now] | None, now_unix: float) -> Iterator[NodeFigures]:
    """Yield the figures of every node.

    Args:
        ledger: What the journal says.
        dag: The DAG of the last run; its order is that of the figures. None if it is not known: then there are only
            the nodes that the journal has something to say about, in the order of their last records.
        running: What runs now; None if no run goes on.
        now_unix: The time now.
    """
    now = {item.name: item for item in running or ()}
    kept = {NodeStatus.COMPLETED: ledger.commits, NodeStatus.STALE: ledger.stale, NodeStatus.LOST: ledger.lost}
    for name, status in node_statuses(ledger, dag, now, goes_on=running is not None).items():
        if status is NodeStatus.COMPLETED and name in ledger.dropped:
            commit = ledger.dropped[name]
            yield _ended(commit, status, size=commit.size)
        elif status in kept:
            commit = kept[status][name]
            yield _ended(
                commit, status, size=commit.size, stored=0 if status is NodeStatus.LOST else commit.stored_size
            )
        elif status is NodeStatus.RUNNING:
            item = now[name]
            yield NodeFigures(
                name,
                status,
                slot=item.slot,
                started_unix=item.started_unix,
                duration_seconds=max(0.0, now_unix - item.started_unix),
                peak_rss_bytes=item.memory_bytes,
            )
        elif status in (NodeStatus.FAILED, NodeStatus.TIMED_OUT) and name in ledger.failures:
            failed = ledger.failures[name]
            yield _ended(failed, status, error=shown_error(failed.type, failed.message))
        else:
            yield NodeFigures(name, status)


def _ended(
    item: Commit | Failed, status: NodeStatus, *, size: int = 0, stored: int = 0, error: str = ""
) -> NodeFigures:
    figures = item.figures
    return NodeFigures(
        item.name,
        status,
        item.attempts,
        item.slot,
        figures.started_unix,
        figures.duration_seconds,
        figures.cpu_seconds,
        figures.peak_rss_bytes,
        size,
        error,
        figures.system_seconds,
        figures.ended_unix,
        stored,
    )

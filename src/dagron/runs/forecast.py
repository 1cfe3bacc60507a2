"""What a run would do, found out as the run itself would: `dagron run --dry-run` and `Flow.plan`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dagron.results.status import NodeStatus, status_of_failure
from dagron.shown import shown_name, shown_seconds

if TYPE_CHECKING:
    from dagron.checkpoint.format.commits import Commit
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.graph.dag import DAG
    from dagron.runs.options import Options
    from dagron.tasks.options import Task

__all__ = ["Forecast", "ToRun", "forecast"]

_MAX_NODES = 40
"""Nodes that are listed: about a screen. `--json` has all."""


@dataclass(frozen=True, slots=True)
class ToRun:
    """A node that would run.

    Attributes:
        name: The node.
        reason: Why it would; empty if there is no checkpoint to go on from.
        seconds: How long it took the last time; NaN if that is not known.
    """

    name: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do. As text, what `dagron run --dry-run` says.

    Attributes:
        checkpoint_dir: The checkpoint, as it was given.
        to_run: The nodes that would run, parents first.
        held: Nodes that keep their results unless what they take turns out to be another.
        restored: How many nodes keep their results.
        dropped: Those of them whose results were not to be kept, and are gone.
        to_drop: Nodes whose results go once all that take them are recorded.
        total: Nodes of the DAG.
        n_slots: How many nodes would run at a time.
    """

    checkpoint_dir: str
    to_run: list[ToRun]
    held: list[str]
    restored: int
    dropped: list[str]
    to_drop: list[str]
    total: int
    n_slots: int

    def as_json(self) -> str:
        """Return it as JSON, in which a duration that is not known is null."""
        fields = asdict(self)
        for item in fields["to_run"]:
            item["seconds"] = None if math.isnan(item["seconds"]) else item["seconds"]
        return json.dumps(fields, indent=1)

    def _repr_html_(self) -> str:
        from dagron.results.tables import as_preformatted

        return as_preformatted(str(self))

    def __str__(self) -> str:
        if not self.to_run:
            lines = [f"nothing would run: all {self.total} nodes have results"]
        else:
            kept = f", {self.restored} keep their results" if self.restored else ""
            lines = [f"{len(self.to_run)} of {self.total} nodes would run{kept}:"]
            for item in self.to_run[:_MAX_NODES]:
                why = f"  ({item.reason})" if item.reason else ""
                lines.append(f"  {shown_name(item.name)}{why}")
            if len(self.to_run) > _MAX_NODES:
                lines.append(f"  ... and {len(self.to_run) - _MAX_NODES} more; --json lists them all")
            known = [item.seconds for item in self.to_run if not math.isnan(item.seconds)]
            if known:
                # Those that have not run yet are expected to take as long as the others.
                work = sum(known) / len(known) * len(self.to_run)
                spread = f"{shown_seconds(work / self.n_slots)} on {self.n_slots} workers"
                lines.append(f"about {shown_seconds(work)} of work, {spread}")
        if self.to_drop:
            lines.append(f"{len(self.to_drop)} results go when all that take them are recorded")
        if self.dropped:
            lines.append(f"recorded, and deleted as keep=False asks for: {len(self.dropped)}")
        if self.held:
            lines.append(f"{len(self.held)} more run only if a result that they take has changed")
        return "\n".join(lines)


def forecast(
    dag: DAG,
    tasks: Mapping[str, Callable[..., Any] | Task[Any]],
    checkpoint_dir: str | os.PathLike[str],
    options: Options,
    look: Callable[[Ledger], None] | None = None,
    *,
    fresh: bool,
) -> Forecast:
    """Find out what a run would do. Takes no lock, changes nothing, starts nothing.

    Files of results are looked for, and not compared with their digests.

    Args:
        dag: The DAG.
        tasks: Its tasks; they are checked as for a run.
        checkpoint_dir: The checkpoint, or where there would be one.
        options: What the run would be asked for.
        look: Called with what the journal says; may raise.
        fresh: Whether the run would start again.

    Raises:
        GraphError: As a run.
        TaskDefinitionError: As a run.
        CheckpointError: There is a checkpoint that cannot be read.
    """
    from dagron.checkpoint.blobs import load_result
    from dagron.checkpoint.format.digests import Digests
    from dagron.checkpoint.reading.packed import PackedCommits
    from dagron.checkpoint.reading.present import present_commits
    from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError, NoCheckpointError
    from dagron.looking.opening import directory_of, found_ledger
    from dagron.runs.engine import choose_engine
    from dagron.runs.plan import plan_run
    from dagron.runs.prepare import Earlier, prepare

    plan = plan_run(dag, tasks, options)
    earlier = Earlier(None, PackedCommits(), {})
    try:
        ledger = found_ledger(checkpoint_dir, options.key)
    except NoCheckpointError:
        ledger = None
    except CheckpointDamagedError:
        if not fresh:
            raise
        ledger = None
    if ledger is not None and look is not None:
        look(ledger)
    if fresh:
        ledger = None
    if ledger is not None:
        directory, digests, commits = directory_of(checkpoint_dir), Digests(options.key), ledger.commits
        try:
            sizes = directory.sizes()
        except OSError as error:
            raise CheckpointDirectoryError(os.fspath(checkpoint_dir), error.strerror or str(error)) from error
        earlier = Earlier(
            ledger,
            present_commits(ledger, sizes),
            ledger.stale,
            lambda name: load_result(directory, commits[name], digests),
            digests,
            ledger.dropped,
        )
    prepared = prepare(dag, plan, earlier)
    restore, changed = prepared.restore, {**prepared.changed, **prepared.outputs}
    kept = {*restore.restored, *restore.held}
    names = [dag.name_of(i) for i in dag.order if i not in kept]
    outdated = {dag.name_of(i) for i in restore.outdated}
    known = {} if ledger is None else {**ledger.stale, **ledger.dropped, **ledger.commits}
    not_kept = [i for i in dag.order if i not in prepared.dropped and not plan.policies[i].keep]
    to_drop = [i for i in not_kept if any(plan.consumes(dag, child, i) for child in dag.child_indices(i))]
    return Forecast(
        str(checkpoint_dir),
        [
            ToRun(name, changed.get(name) or _reason(name, ledger, earlier.commits, outdated), _seconds(known, name))
            for name in names
        ],
        [dag.name_of(i) for i in restore.held],
        len(restore.restored),
        [dag.name_of(i) for i in dag.order if i in prepared.dropped],
        [*map(dag.name_of, to_drop)],
        len(dag),
        choose_engine(options).n_slots,
    )


def _seconds(known: Mapping[str, Commit], name: str) -> float:
    return known[name].figures.duration_seconds if name in known else math.nan


def _reason(name: str, ledger: Ledger | None, commits: Mapping[str, Commit], outdated: set[str]) -> str:
    if ledger is None:
        return ""
    if name in outdated:
        return "its parents changed"
    if name in ledger.dropped:
        return "result needed again"
    if name in ledger.failures:
        return status_of_failure(ledger.failures[name].status).label
    if name in ledger.stale:
        return NodeStatus.STALE.label
    if name in ledger.lost or (name in ledger.commits and name not in commits):
        return NodeStatus.LOST.label
    return "has not completed"

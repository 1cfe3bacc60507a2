"""`dagron run --dry-run`: what a run would do, found out as the run itself would."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dagron.shown import shown_name, shown_seconds

if TYPE_CHECKING:
    from dagron.checkpoint.format.records import Commit
    from dagron.checkpoint.reading.ledger import Ledger
    from dagron.cli.load import Job
    from dagron.cli.origin import Identity
    from dagron.cli.place import Place
    from dagron.graph.dag import DAG
    from dagron.runs.options import Options

__all__ = ["Forecast", "ToRun", "forecast", "shown_forecast"]

_MAX_NODES = 40
"""Nodes that are listed: about a screen. `--json` has all."""


@dataclass(frozen=True, slots=True)
class ToRun:
    """A node that would run, why, and how long it took the last time; NaN if that is not known."""

    name: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do.

    Attributes:
        checkpoint_dir: The checkpoint.
        to_run: The nodes that would run, parents first.
        held: Nodes that keep their results unless what they take turns out to be another.
        restored: How many nodes keep their results.
    """

    checkpoint_dir: str
    to_run: list[ToRun]
    held: list[str]
    restored: int

    def as_json(self) -> str:
        """Return it as JSON, in which a duration that is not known is null."""
        fields = asdict(self)
        for item in fields["to_run"]:
            item["seconds"] = None if math.isnan(item["seconds"]) else item["seconds"]
        return json.dumps(fields, indent=1)


def forecast(
    job: Job, checkpoint_dir: Place, options: Options, identity: Identity | None = None, *, fresh: bool
) -> Forecast:
    """Find out what a run would do. Takes no lock, changes nothing, starts nothing.

    Files of results are looked for, and not compared with their digests.

    Args:
        job: The DAG and its tasks; these are checked as for a run.
        checkpoint_dir: The checkpoint, or where there would be one.
        options: What the run would be asked for.
        identity: The job that is to be run, where it has to be that which made the checkpoint.
        fresh: Whether the run would start again.

    Raises:
        GraphError: As a run.
        TaskDefinitionError: As a run.
        CheckpointError: There is a checkpoint that cannot be read.
    """
    from dagron.checkpoint.blobs import load_result
    from dagron.checkpoint.format.digests import Digests
    from dagron.checkpoint.reading.opening import signing_key
    from dagron.checkpoint.reading.packed import PackedCommits
    from dagron.checkpoint.reading.present import present_commits
    from dagron.cli.exit_codes import NoCheckpointError
    from dagron.cli.reading import directory_of, read_checkpoint
    from dagron.errors import CheckpointDamagedError, CheckpointDirectoryError
    from dagron.runs.plan import plan_run
    from dagron.runs.prepare import Earlier, prepare

    dag = job.dag
    plan = plan_run(dag, job.tasks, options)
    earlier = Earlier(None, PackedCommits(), {})
    try:
        ledger = read_checkpoint(checkpoint_dir)
    except NoCheckpointError:
        ledger = None
    except CheckpointDamagedError:
        if not fresh:
            raise
        ledger = None
    if ledger is not None and identity is not None:
        look = identity.refuse_other if fresh else identity.look_before_going_on
        look(ledger)
    if fresh:
        ledger = None
    if ledger is not None:
        directory, digests, commits = directory_of(checkpoint_dir), Digests(signing_key()), ledger.commits
        try:
            sizes = directory.sizes()
        except OSError as error:
            raise CheckpointDirectoryError(checkpoint_dir.path, error.strerror or str(error)) from error
        earlier = Earlier(
            ledger,
            present_commits(ledger, sizes),
            ledger.stale,
            lambda name: load_result(directory, commits[name], digests),
        )
    prepared = prepare(dag, plan, earlier)
    restore, changed = prepared.restore, prepared.changed
    kept = {*restore.restored, *restore.held}
    names = [dag.name_of(i) for i in dag.order if i not in kept]
    outdated = {dag.name_of(i) for i in restore.outdated}
    known = {} if ledger is None else {**ledger.stale, **ledger.commits}
    return Forecast(
        checkpoint_dir.shown,
        [
            ToRun(name, changed.get(name) or _reason(name, ledger, earlier.commits, outdated), _seconds(known, name))
            for name in names
        ],
        [dag.name_of(i) for i in restore.held],
        len(restore.restored),
    )


def _seconds(known: Mapping[str, Commit], name: str) -> float:
    return known[name].figures.duration_seconds if name in known else math.nan


def _reason(name: str, ledger: Ledger | None, commits: Mapping[str, Commit], outdated: set[str]) -> str:
    if ledger is None:
        return ""
    if name in outdated:
        return "its parents changed"
    if name in ledger.failures:
        return "failed" if ledger.failures[name].status != "timed_out" else "timed out"
    if name in ledger.stale:
        return "taken away"
    if name in ledger.lost or (name in ledger.commits and name not in commits):
        return "result lost"
    return "not run yet"


def shown_forecast(found: Forecast, dag: DAG, n_slots: int) -> str:
    """Return a forecast as text."""
    if not found.to_run:
        lines = [f"nothing would run: all {len(dag)} nodes have results"]
    else:
        kept = f", {found.restored} keep their results" if found.restored else ""
        lines = [f"{len(found.to_run)} of {len(dag)} nodes would run{kept}:"]
        for item in found.to_run[:_MAX_NODES]:
            why = f"  ({item.reason})" if item.reason else ""
            lines.append(f"  {shown_name(item.name)}{why}")
        if len(found.to_run) > _MAX_NODES:
            lines.append(f"  ... and {len(found.to_run) - _MAX_NODES} more; --json lists them all")
        known = [item.seconds for item in found.to_run if not math.isnan(item.seconds)]
        if known:
            # Those that have not run yet are expected to take as long as the others.
            work = sum(known) / len(known) * len(found.to_run)
            lines.append(f"about {shown_seconds(work)} of work, {shown_seconds(work / n_slots)} on {n_slots} workers")
    if found.held:
        lines.append(f"{len(found.held)} more run only if a result that they take has changed")
    return "\n".join(lines)

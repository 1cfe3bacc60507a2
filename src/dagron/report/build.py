"""Makes a report of the history of a checkpoint, and of its DAG where that is known. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.records import Failed, Retried
from dagron.checkpoint.reading.history import History, RunHistory
from dagron.checkpoint.reading.ledger import Ledger
from dagron.graph.chains import remaining_seconds
from dagron.graph.dag import DAG
from dagron.report.failures import failures_of
from dagron.report.grouping import group_nodes
from dagron.report.model import Attempt, CriticalStep, Edges, Node, Report, Run
from dagron.results.status import NodeStatus, node_statuses, status_of_failure

__all__ = ["MAX_ATTEMPTS", "build_report"]

MAX_ATTEMPTS = 200_000
"""Attempts in the page, which take about 60 bytes each. If there are more, those that failed and the longest stay."""

_MAX_EDGES = 1_000_000
"""Edges in the page, about 6 bytes each."""


def build_report(
    history: History,
    dag: DAG | None,
    *,
    directory: str,
    version: str,
    generated_unix: float,
    how: str,
    running: Collection[str] = (),
) -> Report:
    """Make a report.

    Args:
        history: What the journal remembers.
        dag: The DAG of the last run, or None if its edges are not known.
        directory: The checkpoint directory, as it is to be shown.
        version: The version of dagron.
        generated_unix: When the journal was read.
        how: How the last run stands, if it has not ended: `running`, `interrupted` or `running or interrupted`.
        running: What runs now.
    """
    ledger = history.ledger
    total = ledger.run.total
    known = dag if dag is not None and _fits(dag, ledger) else None
    statuses = node_statuses(ledger, known, running, goes_on=ledger.ended is None and how != "interrupted")
    names = list(statuses)
    levels = _levels(known) if known is not None else None
    order, group = group_nodes(names, levels)
    positions = array("I", bytes(4 * len(order)))
    for position, i in enumerate(order):
        positions[i] = position
    position_of = {names[i]: position for position, i in enumerate(order)}

    attempts = _attempts(history.runs, position_of)  # which gives positions to the nodes that are gone, too
    last = array("q", [-1]) * len(position_of)
    for at, attempt in enumerate(attempts):
        if not attempt.is_retried:
            last[attempt.node] = at
    nodes = [Node(names[i], statuses[names[i]], last[position]) for position, i in enumerate(order)]
    n_last = len(history.runs) - 1
    report = Report(
        directory=directory,
        generated_unix=generated_unix,
        version=version,
        total=max(total, len(names)),
        nodes=nodes,
        attempts=attempts,
        runs=[_run(run, how if number == n_last else "interrupted") for number, run in enumerate(history.runs)],
        group=group,
        gone=list(position_of)[len(order) :],
        failures=failures_of(history),
        notices=_notices(history, dag, known, len(names), attempts),
    )
    if known is not None:
        report.critical = _critical(known, positions, nodes, attempts)
        report.edges = _edges(known, order, positions)
    _keep_within_limits(report)
    return report


def _fits(dag: DAG, ledger: Ledger) -> bool:
    return all(name in dag for name in (*ledger.completed, *ledger.failed))


def _levels(dag: DAG) -> array[int]:
    levels = array("i", bytes(4 * len(dag)))
    for node in dag.order:
        for parent in dag.parent_indices(node):
            if levels[parent] >= levels[node]:
                levels[node] = levels[parent] + 1
    return levels


def _attempts(runs: Sequence[RunHistory], position_of: dict[str, int]) -> list[Attempt]:
    def node(name: str) -> int:
        return position_of.setdefault(name, len(position_of))

    found: list[Attempt] = []
    for number, run in enumerate(runs):
        began = _began(run)
        of_run = [_of_commit(number, began, node(commit.name), commit) for commit in run.commits]
        of_run += [_of_failure(number, began, node(failed.name), failed) for failed in run.failures]
        of_run += [_of_retried(number, began, node(retried.name), retried) for retried in run.retried]
        of_run.sort(key=lambda attempt: attempt.start_seconds)
        found += of_run
    return found


def _began(run: RunHistory) -> float:
    if run.started.at:
        return run.started.at
    return min((commit.figures.started_unix for commit in run.commits), default=run.updated_unix)


def _of_commit(run: int, began: float, node: int, commit: Commit) -> Attempt:
    return Attempt(
        run,
        node,
        commit.slot,
        max(0.0, commit.figures.started_unix - began),
        commit.figures.duration_seconds,
        commit.figures.cpu_seconds,
        commit.figures.peak_rss_bytes,
        commit.size,
        commit.attempts,
        NodeStatus.COMPLETED,
    )


def _of_failure(run: int, began: float, node: int, failed: Failed) -> Attempt:
    figures = failed.figures
    # Where it is not known when it began, it is drawn where the failure was noticed.
    started = figures.started_unix or (failed.at or began) - figures.duration_seconds
    return Attempt(
        run,
        node,
        failed.slot,
        max(0.0, started - began),
        figures.duration_seconds,
        figures.cpu_seconds,
        figures.peak_rss_bytes,
        0,
        failed.attempts,
        status_of_failure(failed.status),
    )


def _of_retried(run: int, began: float, node: int, retried: Retried) -> Attempt:
    figures = retried.figures
    started = figures.started_unix or (retried.at or began) - figures.duration_seconds
    return Attempt(
        run,
        node,
        retried.slot,
        max(0.0, started - began),
        figures.duration_seconds,
        figures.cpu_seconds,
        figures.peak_rss_bytes,
        0,
        retried.attempt,
        status_of_failure(retried.outcome),
        is_retried=True,
    )


def _run(run: RunHistory, how: str) -> Run:
    began = _began(run)
    made: list[Commit | Failed | Retried] = [*run.commits, *run.failures, *run.retried]
    slots = [attempt.slot for attempt in made]
    figures = [attempt.figures for attempt in made]
    return Run(
        started_unix=began,
        wall_seconds=max(0.0, run.updated_unix - began),
        how="finished" if run.ended is not None else how,
        n_slots=run.started.slots or max(1, max(slots, default=0) + 1),
        n_completed=len(run.commits),
        n_failed=len(run.failures),
        busy_seconds=sum(taken.duration_seconds for taken in figures),
        cpu_seconds=sum(taken.cpu_seconds for taken in figures),
        host=run.started.host,
        pid=run.started.pid,
    )


def _critical(dag: DAG, positions: array[int], nodes: list[Node], attempts: list[Attempt]) -> list[CriticalStep]:
    lasts = [nodes[position].last for position in positions]
    seconds = [attempts[last].duration_seconds if last >= 0 else 0.0 for last in lasts]
    remaining = remaining_seconds(dag, seconds)
    steps: list[CriticalStep] = []
    before: Attempt | None = None
    ahead: Sequence[int] = range(len(dag))
    while ahead and remaining[node := max(ahead, key=remaining.__getitem__)] > 0:
        attempt = attempts[lasts[node]] if lasts[node] >= 0 else None
        waited = None
        if attempt is not None and before is not None and attempt.run == before.run:
            waited = max(0.0, attempt.start_seconds - before.start_seconds - before.duration_seconds)
        steps.append(CriticalStep(positions[node], seconds[node], waited))
        before = attempt
        ahead = dag.child_indices(node)
    return steps


def _edges(dag: DAG, order: list[int], positions: array[int]) -> Edges:
    offsets, parents = array("Q", [0]), array("I")
    for i in order:
        parents.extend(positions[parent] for parent in dag.parent_indices(i))
        offsets.append(len(parents))
    return Edges(offsets, parents)


def _notices(
    history: History, dag: DAG | None, known: DAG | None, n_known: int, attempts: Sequence[Attempt]
) -> list[str]:
    ledger = history.ledger
    notices = []
    if dag is None:
        notices.append(
            "The edges of the DAG are not known here, so there is no critical path and nothing between the boxes: "
            "pass the file or module of the job with `--dag`."
        )
        if ledger.run.total > n_known:
            notices.append("Nodes that never ran are counted, and not listed: their names are not recorded.")
    elif known is None:
        notices.append(
            "The given DAG lacks nodes of the checkpoint, so it is another one, and its edges are not shown."
        )
    if ledger.damage:
        notices.append(f"{len(ledger.damage)} stretches of the journal are damaged; what stood there is missing here.")
    retried = Counter((attempt.run, attempt.node) for attempt in attempts if attempt.is_retried)
    n_missing = sum(
        max(0, attempt.attempts - 1 - retried[attempt.run, attempt.node])
        for attempt in attempts
        if not attempt.is_retried and attempt.attempts > 1
    )
    if n_missing:
        notices.append(
            f"{n_missing:,} attempts that were tried again are not shown: the first and last of a node are recorded."
        )
    return notices


def _keep_within_limits(report: Report) -> None:
    if report.edges is not None and len(report.edges.parents) > _MAX_EDGES:
        report.notices.append(f"The DAG has {len(report.edges.parents):,} edges, too many for a page: none is shown.")
        report.edges = None
    if len(report.attempts) > MAX_ATTEMPTS:
        _keep_longest(report)


def _keep_longest(report: Report) -> None:
    attempts = report.attempts
    ranked = sorted(
        range(len(attempts)),
        key=lambda at: (attempts[at].outcome == NodeStatus.COMPLETED, -attempts[at].duration_seconds),
    )
    kept = sorted(ranked[:MAX_ATTEMPTS])
    moved = {at: position for position, at in enumerate(kept)}
    report.notices.append(
        f"{len(kept):,} of {len(attempts):,} attempts are shown: those that failed, and the longest of the others."
    )
    report.attempts = [attempts[at] for at in kept]
    n = len(report.nodes)
    gone = {attempt.node: "" for attempt in report.attempts if attempt.node >= n}
    place = {node: n + i for i, node in enumerate(gone)}
    report.gone = [report.name_of(node) for node in gone]
    report.attempts = [replace(a, node=place.get(a.node, a.node)) if a.node >= n else a for a in report.attempts]
    report.nodes = [Node(node.name, node.state, moved.get(node.last, -1)) for node in report.nodes]

"""Runs on slots that take exactly as long as they are told, without overhead: `python benchmarks/simulated.py DIR`.

They drive the state machine of dagron itself, with its batches, its early dispatches and what it learns on the way.
For each recorded workflow of a directory it prints what a first run and a rerun reach beside list schedules that know
nothing and all, relative to the window bound, and fails if one is out of its bounds.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dagron import DAG
from dagron.runs.events import AttemptEnded, BatchReturned, Command, Committed, Dispatch, Started
from dagron.runs.policy import Policy
from dagron.runs.state import RunState
from traces import Trace, load_trace

_PATIENCE_SECONDS = 0.01
"""A worker gives back what it has not begun of a batch that has taken so long."""


@dataclass(frozen=True)
class Run:
    """What a simulated run did.

    Attributes:
        end: When it ended; it began at 0.
        started: The nodes, as they were started.
        held_up: Seconds in which a slot had nothing to do while a node waited in another one for what had been sent
            before it.
    """

    end: float
    started: list[int]
    held_up: float


def simulated(
    dag: DAG,
    seconds: Sequence[float],
    kinds: Sequence[int],
    recorded: Sequence[float] | None = None,
    *,
    n_slots: int = 2,
    priorities: Sequence[int] | None = None,
) -> Run:
    """Run nodes that take so long; commits take no time.

    Args:
        dag: The graph.
        seconds: How long each node takes.
        kinds: One number per node, equal for nodes that have one function.
        recorded: How long each node took in an earlier run; None for a first one.
        n_slots: Slots.
        priorities: One per node; None for all alike.
    """
    policies = [Policy(priority=priority) for priority in priorities or [0] * len(dag)]
    state = RunState(dag, policies=policies, kinds=kinds, n_slots=n_slots, recorded_seconds=recorded)
    batches: list[list[tuple[int, ...]]] = [[] for _ in range(n_slots)]
    ends: list[tuple[float, int, int]] = []
    started: list[int] = []
    sent_at: dict[int, float] = {}
    # What changes at which moment: the number of nodes that wait in a slot, and of slots that have something to do.
    changes: list[tuple[float, int, int]] = []

    def begin(slot: int, now: float) -> None:
        end = now
        n_begun = 0
        for node in batches[slot][0]:
            if end > now + _PATIENCE_SECONDS:
                break
            changes.extend([(sent_at[node], 1, 0), (end, -1, 0)])
            end += seconds[node]
            n_begun += 1
            started.append(node)
        changes.extend([(now, 0, 1), (end, 0, -1)])
        for node in batches[slot][0][n_begun:]:
            changes.extend([(sent_at[node], 1, 0), (end, -1, 0)])
        heapq.heappush(ends, (end, slot, n_begun))

    def send(commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                sent_at.update(dict.fromkeys(command.nodes, now))
                batches[command.slot].append(command.nodes)
                if len(batches[command.slot]) == 1:
                    begin(command.slot, now)

    now = 0.0
    send(state.handle(Started(now)), now)
    while not state.finished:
        now, slot, n_begun = heapq.heappop(ends)
        nodes = batches[slot].pop(0)
        if batches[slot]:
            begin(slot, now)
        ended = [AttemptEnded(node, True, False, seconds[node]) for node in nodes[:n_begun]]
        commands = state.handle(BatchReturned(slot, ended, nodes[n_begun:], now))
        send(commands + state.handle(Committed(nodes[:n_begun], now)), now)
    return Run(now, started, _held_up(changes, n_slots))


def _held_up(changes: list[tuple[float, int, int]], n_slots: int) -> float:
    found, before, waiting, busy = 0.0, 0.0, 0, 0
    for at, more_waiting, more_busy in sorted(changes):
        if waiting and busy < n_slots:
            found += at - before
        before, waiting, busy = at, waiting + more_waiting, busy + more_busy
    return found


def simulated_trace(trace: Trace, *, rerun: bool, n_slots: int = 2) -> Run:
    """Run a workflow whose nodes are of one kind if they are of one category; a rerun knows what they took."""
    dag = DAG(trace.parents, trace.edges)
    seconds = [trace.seconds[node] for node in dag.nodes]
    numbers: dict[str, int] = {}
    kinds = [numbers.setdefault(trace.category[node], len(numbers)) for node in dag.nodes]
    return simulated(dag, seconds, kinds, seconds if rerun else None, n_slots=n_slots)


def upper_bound(trace: Trace, run: Run, n_slots: int) -> float:
    """Return what a run may take at most.

    That is Graham's bound, which counts the time in which a slot is empty by a chain: at any such moment a node of it
    runs. Batches add the time in which one waits in a slot instead, behind what was sent before it.
    """
    return trace.graham_bound(n_slots) + (1 - 1 / n_slots) * run.held_up


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR", help="workflows in WfFormat 1.5")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="what their work is scaled to")
    options = parser.parse_args()
    slots = options.slots
    print(f"{'workflow':40} {'nodes':>5} {'fifo':>7} {'first':>7} {'known':>7} {'rerun':>7}")
    out_of_bounds = []
    for path in sorted(options.directory.glob("*.json")):
        trace = load_trace(path).scaled(options.seconds)
        runs = [simulated_trace(trace, rerun=rerun, n_slots=slots) for rerun in (False, True)]
        least = trace.window_bound(slots)
        ends = [
            trace.list_schedule(slots, known=False),
            runs[0].end,
            trace.list_schedule(slots, known=True),
            runs[1].end,
        ]
        print(f"{trace.name:40} {len(trace.parents):5}", *(f"{end / least:7.4f}" for end in ends))
        tolerance = 1e-9 * least
        if not all(least - tolerance <= run.end <= upper_bound(trace, run, slots) + tolerance for run in runs):
            out_of_bounds.append(trace.name)
    if out_of_bounds:
        raise SystemExit(f"out of their bounds: {', '.join(out_of_bounds)}")


if __name__ == "__main__":
    main()

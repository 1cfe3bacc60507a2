"""Recorded workflows in the format of WfCommons (WfFormat 1.5), what schedules reach of them, and what none can."""

from __future__ import annotations

import graphlib
import heapq
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Trace:
    """A workflow: of each node its parents, its seconds, and what kind of task it is."""

    name: str
    parents: dict[str, list[str]]
    seconds: dict[str, float]
    category: dict[str, str]

    def scaled(self, total: float) -> Trace:
        """Return it with all durations scaled to this total."""
        factor = total / sum(self.seconds.values())
        return replace(self, seconds={node: seconds * factor for node, seconds in self.seconds.items()})

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Each parent with each of its children."""
        return [(parent, node) for node, parents in self.parents.items() for parent in parents]

    def _order(self) -> list[str]:
        return list(graphlib.TopologicalSorter(self.parents).static_order())

    def remaining(self) -> dict[str, float]:
        """Return of each node the seconds of the longest chain that begins with it."""
        behind = dict.fromkeys(self.parents, 0.0)
        found: dict[str, float] = {}
        for node in reversed(self._order()):
            found[node] = behind[node] + self.seconds[node]
            for parent in self.parents[node]:
                behind[parent] = max(behind[parent], found[node])
        return found

    def lower_bound(self, slots: int) -> float:
        """Return the longest chain, or the work of each slot if that is more: no schedule is shorter."""
        return max(*self.remaining().values(), sum(self.seconds.values()) / slots)

    def graham_bound(self, slots: int) -> float:
        """Return what no schedule exceeds that leaves no slot empty while a node is ready.

        While a slot is empty, a node of one and the same chain runs (Graham, "Bounds on multiprocessing timing
        anomalies", SIAM Journal on Applied Mathematics 17(2), 1969).
        """
        return sum(self.seconds.values()) / slots + (1 - 1 / slots) * max(self.remaining().values())

    def list_schedule(self, slots: int, *, known: bool) -> float:
        """Return how long a schedule takes that begins a node whenever a slot is free, without overhead.

        Args:
            slots: Equal slots.
            known: Whether durations are known, so that the longest chain goes first; else what was ready first does.
        """
        remaining = self.remaining() if known else dict.fromkeys(self.parents, 0.0)
        pending = {node: len(parents) for node, parents in self.parents.items()}
        children: dict[str, list[str]] = {node: [] for node in self.parents}
        for parent, node in self.edges:
            children[parent].append(node)
        ready = [(-remaining[node], i, node) for i, node in enumerate(node for node in pending if not pending[node])]
        heapq.heapify(ready)
        n_ready, n_begun, now = len(ready), 0, 0.0
        running: list[tuple[float, int, str]] = []
        while ready or running:
            while ready and len(running) < slots:
                _, _, node = heapq.heappop(ready)
                heapq.heappush(running, (now + self.seconds[node], n_begun, node))
                n_begun += 1
            now, _, ended = heapq.heappop(running)
            for child in children[ended]:
                pending[child] -= 1
                if not pending[child]:
                    heapq.heappush(ready, (-remaining[child], n_ready, child))
                    n_ready += 1
        return now

    def window_bound(self, slots: int) -> float:
        """Return the seconds that no schedule on so many equal slots can beat; at least the lower bound.

        Nodes that cannot start before `a`, as the longest chain above them takes that long, and behind which a chain of
        `b` follows, all run in what lies between. So for any a and b the run takes at least a + b + their work / slots.
        """
        order = self._order()
        head: dict[str, float] = {}
        for node in order:
            head[node] = max([head[parent] + self.seconds[parent] for parent in self.parents[node]], default=0.0)
        tail = {node: seconds - self.seconds[node] for node, seconds in self.remaining().items()}
        best = max(head[node] + self.seconds[node] for node in order)
        by_tail = sorted(order, key=tail.__getitem__, reverse=True)
        for least in sorted(set(head.values())):
            work = 0.0
            for node in by_tail:
                if head[node] >= least:
                    work += self.seconds[node]
                    best = max(best, least + tail[node] + work / slots)
        return best


def short_name(name: str) -> str:
    """Return the name of a recorded workflow without the machine and the number of the recording."""
    return re.sub(r"-(chameleon|dirt02)|-\d{3}$", "", name)


def load_trace(path: Path) -> Trace:
    """Read a trace. The category of a node is its name up to the first number that stands for itself."""
    workflow = json.loads(path.read_text(encoding="utf-8"))["workflow"]
    specified = workflow["specification"]["tasks"]
    measured = {task["id"]: float(task["runtimeInSeconds"]) for task in workflow["execution"]["tasks"]}
    return Trace(
        path.stem,
        {task["id"]: list(dict.fromkeys(task.get("parents", ()))) for task in specified},
        measured,
        {task["id"]: re.sub(r"[_-](ID)?\d.*$", "", task["name"]) or "task" for task in specified},
    )

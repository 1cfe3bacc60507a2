"""Recorded workflows in the format of WfCommons (WfFormat 1.5), and what no schedule of them can beat."""

from __future__ import annotations

import graphlib
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

    def window_bound(self, slots: int) -> float:
        """Return the seconds that no schedule on so many equal slots can beat.

        Nodes that cannot start before `a`, as the longest chain above them takes that long, and behind which a chain of
        `b` follows, all run in what lies between. So for any a and b the run takes at least a + b + their work / slots.
        """
        order = list(graphlib.TopologicalSorter(self.parents).static_order())
        head: dict[str, float] = {}
        for node in order:
            head[node] = max([head[parent] + self.seconds[parent] for parent in self.parents[node]], default=0.0)
        tail = dict.fromkeys(order, 0.0)
        for node in reversed(order):
            for parent in self.parents[node]:
                tail[parent] = max(tail[parent], tail[node] + self.seconds[node])
        best = max(head[node] + self.seconds[node] for node in order)
        by_tail = sorted(order, key=tail.__getitem__, reverse=True)
        for least in sorted(set(head.values())):
            work = 0.0
            for node in by_tail:
                if head[node] >= least:
                    work += self.seconds[node]
                    best = max(best, least + tail[node] + work / slots)
        return best


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

"""The edges of a graph as arrays of indices: neighbours, orders, cycles. Pure, and without names.

Memory is linear: four bytes for each edge in each direction, and no object for a node or an edge.
"""

from __future__ import annotations

import graphlib
import heapq
import operator
from array import array
from collections.abc import Iterable
from itertools import accumulate, islice, pairwise
from typing import NamedTuple

from dagron.errors import InternalError

__all__ = ["Adjacency", "cycle_among", "drop_repeated", "grouped", "kahn"]


class Adjacency(NamedTuple):
    """The neighbours of node i in one direction: `flat[offsets[i] : offsets[i + 1]]`."""

    offsets: array[int]
    flat: array[int]

    def group(self, index: int) -> array[int]:
        """Return the neighbours of one node."""
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    def degrees(self) -> array[int]:
        """Return the number of neighbours of each node."""
        return array("I", [end - start for start, end in pairwise(self.offsets)])

    def reached(self, seeds: Iterable[int]) -> list[int]:
        """Return all nodes to which some seed leads, in breadth-first order."""
        queue = list(seeds)
        n_seeds = len(queue)
        seen: set[int] = set()
        for i in queue:  # it grows meanwhile, which list iterators allow
            for neighbour in self.group(i):
                if neighbour not in seen:
                    seen.add(neighbour)
                    queue.append(neighbour)
        return queue[n_seeds:]


def grouped(n_nodes: int, keys: array[int], values: array[int]) -> Adjacency:
    """Group `values` by `keys` with a counting sort, which keeps their order within each group."""
    # What is only counted is in arrays, too (4 bytes an item on every platform of CPython): in a list each number is an
    # object elsewhere in memory, and reaching for it nearly doubles the time of the loops.
    counts = array("I", bytes(4 * n_nodes))
    for key in keys:
        counts[key] += 1
    offsets = array("I", accumulate(counts, initial=0))
    flat = values[:]
    # Whoever adds child by child, as from_tasks does, has grouped already.
    if all(map(operator.le, keys, islice(keys, 1, None))):
        return Adjacency(offsets, flat)
    cursors = offsets[:]
    for key, value in zip(keys, values, strict=True):
        cursor = cursors[key]
        cursors[key] = cursor + 1
        flat[cursor] = value
    return Adjacency(offsets, flat)


def drop_repeated(by_child: Adjacency, sources: array[int], targets: array[int]) -> bool:
    """Remove from `sources` and `targets` every edge that was there before; return whether there were any."""
    # The children concerned come first: a set of all edges would be the largest thing in memory by far.
    flat = by_child.flat
    spans = enumerate(pairwise(by_child.offsets))
    concerned = {child for child, (start, end) in spans if len(set(flat[start:end])) < end - start}
    if not concerned:
        return False
    seen: set[tuple[int, int]] = set()
    n_kept = 0
    for edge in zip(sources, targets, strict=True):
        if edge[1] in concerned:
            if edge in seen:
                continue
            seen.add(edge)
        sources[n_kept], targets[n_kept] = edge
        n_kept += 1
    del sources[n_kept:], targets[n_kept:]
    return True


def kahn(indegrees: array[int], by_parent: Adjacency) -> array[int]:
    """Return the nodes that no cycle precedes in topological order, the smallest ready index first.

    `indegrees` is consumed: it ends at zero for exactly these nodes.
    """
    ready = [i for i, indegree in enumerate(indegrees) if not indegree]  # ascending, so already a heap
    order = array("I")
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for child in by_parent.group(i):
            indegrees[child] -= 1
            if not indegrees[child]:
                heapq.heappush(ready, child)
    return order


def cycle_among(indegrees: array[int], by_child: Adjacency) -> list[int]:
    """Return a cycle among the nodes that `kahn` left, in edge direction, the first index again at the end."""
    sorter = graphlib.TopologicalSorter({i: by_child.group(i) for i, indegree in enumerate(indegrees) if indegree})
    try:
        # It searches without recursion, and documents that each node of its cycle is a predecessor of the next.
        sorter.prepare()
    except graphlib.CycleError as error:
        path: list[int] = error.args[1]
        return path
    raise InternalError("nodes without an order, but no cycle among them")

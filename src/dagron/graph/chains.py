"""The longest chain of nodes that begins with each node. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Graph", "remaining_seconds"]


class Graph(Protocol):
    """What is used of a DAG; see `dagron.graph.dag.DAG`."""

    def __len__(self) -> int: ...

    def child_indices(self, node: int, /) -> Sequence[int]:
        """Return the children of a node."""
        ...

    @property
    def order(self) -> array[int]:
        """All nodes, parents first."""
        ...


def remaining_seconds(graph: Graph, expected: Sequence[float]) -> array[float]:
    """Return, for every node, the expected seconds of the longest chain that begins with it."""
    remaining = array("d", expected)
    for node in reversed(graph.order):
        children = graph.child_indices(node)
        if children:
            remaining[node] += max([remaining[child] for child in children])
    return remaining

"""The nodes that could start: which comes first, how long it is expected to take, how many make a batch. Pure.

A batch amortises the round trip to a worker, and makes whoever waits for one of its nodes wait for all. So only what is
known to be short is sent together; what has not been measured yet goes alone.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterable, Sequence

__all__ = ["BATCH_SECONDS", "MAX_BATCH_ITEMS", "PATIENT_SECONDS", "PLENTY", "PREFETCH_SECONDS", "ReadyNodes"]

BATCH_SECONDS = 0.002
"""What a batch of short attempts should take: long against a round trip (0.15 ms), short for who waits for it."""

PREFETCH_SECONDS = 0.005
"""A slot gets its next batch early, so that it never idles for a round trip, if its current one takes no longer."""

PATIENT_SECONDS = 0.5
"""The same where `PLENTY` nodes are ready for each slot: none will be idle meanwhile, so nothing is lost by waiting."""

PLENTY = 8

MAX_BATCH_ITEMS = 256


class ReadyNodes:
    """A priority queue of nodes, with what has been learnt about how long they take.

    Args:
        priorities: One per node; the higher comes first, and among equal ones the lower node.
        kinds: One number per node; nodes of one kind are expected to take similar time.
        n_slots: Slots that share the nodes.
        batching: Whether a batch may have more than one node.
    """

    def __init__(self, priorities: Sequence[int], kinds: Sequence[int], n_slots: int, *, batching: bool) -> None:
        self._kinds = kinds
        self._n_slots = n_slots
        self._batching = batching
        self._estimates: dict[int, float] = {}
        # The heap holds ranks, so that comparing its entries is comparing small integers.
        self._heap: list[int] = []
        n = len(priorities)
        self._by_rank: Sequence[int] = range(n)
        self._rank: Sequence[int] = range(n)
        if any(priorities):
            self._by_rank = array("I", sorted(range(n), key=lambda node: -priorities[node]))
            rank = array("I", bytes(4 * n))
            for position, node in enumerate(self._by_rank):
                rank[node] = position
            self._rank = rank

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, node: int) -> None:
        """Add a node."""
        heapq.heappush(self._heap, self._rank[node])

    def clear(self) -> None:
        """Forget all nodes."""
        self._heap.clear()

    def learn(self, node: int, seconds: float) -> None:
        """Note how long a node took."""
        kind = self._kinds[node]
        known = self._estimates.get(kind)
        # Falls slowly and rises at once: a long node that is taken for a short one costs more than the reverse.
        self._estimates[kind] = seconds if known is None or seconds > known else known + 0.2 * (seconds - known)

    def estimate(self, nodes: Iterable[int]) -> float:
        """Return how many seconds nodes are expected to take together; infinity if one has not been measured."""
        return sum(self._estimates.get(self._kinds[node], math.inf) for node in nodes)

    def may_prefetch(self, estimate: float) -> bool:
        """Tell whether a slot that is expected to be busy for `estimate` seconds may get its next batch now."""
        first = self._estimates.get(self._kinds[self._by_rank[self._heap[0]]])
        if not self._batching or first is None:
            return False
        if len(self._heap) > PLENTY * self._n_slots:
            return max(estimate, first) <= PATIENT_SECONDS
        return estimate <= PREFETCH_SECONDS and first <= BATCH_SECONDS

    def take_batch(self) -> list[int]:
        """Remove the nodes of the next batch and return them; at least one, in the order of their start."""
        # A fair share: the last nodes of a level spread over the slots instead of filling one batch.
        limit = min(MAX_BATCH_ITEMS, -(-len(self._heap) // self._n_slots)) if self._batching else 1
        nodes: list[int] = []
        total = 0.0
        while self._heap and len(nodes) < limit:
            node = self._by_rank[self._heap[0]]
            estimate = self._estimates.get(self._kinds[node], math.inf)
            if nodes and total + estimate > BATCH_SECONDS:
                break
            heapq.heappop(self._heap)
            nodes.append(node)
            total += estimate
            if total > BATCH_SECONDS:
                break  # alone: nobody should wait behind it
        return nodes

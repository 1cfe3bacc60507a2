"""The nodes that could start: which comes first, how long it is expected to take, how many make a batch. Pure.

A batch amortises the round trip to a worker, and makes whoever waits for one of its nodes wait for all. So only what is
known to be short is sent together; what has not been measured yet goes alone. Order: the higher priority, then one node
of each kind that has not been met, then the longer chain of work after a node (`chains`), then the lower node.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Collection, Iterable, Sequence

from dagron.graph.chains import Graph, remaining_seconds
from dagron.runs.durations import Durations

__all__ = ["BATCH_SECONDS", "MAX_BATCH_NODES", "PLENTY", "PLENTY_PREFETCH_SECONDS", "PREFETCH_SECONDS", "ReadyNodes"]

BATCH_SECONDS = 0.002
"""What a batch of short attempts should take: long against a round trip (0.15 ms), short for who waits for it."""

PREFETCH_SECONDS = 0.01
"""A slot gets its next batch early if neither that nor its current one takes longer.

So it does not idle for a commit and a round trip: 0.5 ms, and 2 ms with a flush where all processors are busy. Longer
nodes lose little by that, and more where another slot is idle earlier than was expected.
"""

PLENTY_PREFETCH_SECONDS = 0.05
"""The same where `PLENTY` nodes are ready for each slot: none will be idle meanwhile, so nothing is lost by waiting.

It was 0.5 s, and a node that waited so long behind another was 5 % of a run of 10 s.
"""

PLENTY = 8
"""Ready nodes for each slot from which on none is idle soon.

Not measured. A node that waits behind another while a slot is idle loses `PLENTY_PREFETCH_SECONDS` at most: with 8, an
eighth of what every slot has to do still, if all nodes take that long.
"""

MAX_BATCH_NODES = 256
"""What bounds a batch whose nodes are expected to take next to nothing: its message, and what a lost worker gives back.

Not measured. Only nodes of less than 8 us come to it before they come to `BATCH_SECONDS`.
"""


class ReadyNodes:
    """A priority queue of nodes, with what has been learnt about how long they take.

    Args:
        priorities: One per node; the higher comes first.
        kinds: One number per node; nodes of one kind are expected to take similar time.
        n_slots: Slots that share the nodes.
        batching: Whether a batch may have more than one node.
        durations: What is known from an earlier run; it is told what is learnt.
        alone: Nodes that share no batch.
    """

    def __init__(
        self,
        priorities: Sequence[int],
        kinds: Sequence[int],
        n_slots: int,
        *,
        batching: bool,
        durations: Durations | None = None,
        alone: Collection[int] = (),
    ) -> None:
        self._alone = alone
        self._kinds = kinds
        self._n_slots = n_slots
        self._batching = batching
        self._durations = Durations(kinds) if durations is None else durations
        self._estimates: dict[int, float] = {}
        # The heap holds ranks, so that comparing its entries is comparing small integers. What goes before all has its
        # rank less n: as an index of `_by_rank` that is the same.
        self._heap: list[int] = []
        self._priorities = priorities if any(priorities) else None
        self._highest = max(priorities, default=0)
        # An unknown kind may be long, so one of it goes first: it is under way early then, and the others find their
        # place. On one slot the order changes nothing.
        unmet = set(kinds) if n_slots > 1 else set()
        self._unmet = unmet.difference(self._durations.of_kind()) if len(unmet) > 1 else set()
        n = len(priorities)
        self._by_rank: Sequence[int] = range(n)
        self._rank: Sequence[int] = range(n)
        self._order_by(None)

    def _order_by(self, remaining: Sequence[float] | None) -> None:
        priorities = self._priorities
        if priorities is None and remaining is None:
            return
        n = len(self._kinds)
        if remaining is None:
            assert priorities is not None
            in_order = sorted(range(n), key=lambda node: -priorities[node])
        elif priorities is None:
            in_order = sorted(range(n), key=lambda node: -remaining[node])
        else:
            in_order = sorted(range(n), key=lambda node: (-priorities[node], -remaining[node]))
        self._by_rank = array("I", in_order)
        rank = array("I", bytes(4 * n))
        for position, node in enumerate(self._by_rank):
            rank[node] = position
        self._rank = rank

    def reorder(self, graph: Graph) -> None:
        """Bring the nodes into the order of the chains after them, if that may have changed and is worth its cost."""
        if not self._durations.worth_a_look(self._n_slots):
            return
        waiting = [(self._by_rank[place], place < 0) for place in self._heap]
        self._order_by(remaining_seconds(graph, self._durations.expected()))
        n = len(self._kinds)
        self._heap = [self._rank[node] - n if before_all else self._rank[node] for node, before_all in waiting]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first(self) -> int:
        """The node that comes next; there must be one."""
        return self._by_rank[self._heap[0]]

    @property
    def first_seconds(self) -> float:
        """How long that node is expected to take: if none of its kind has been measured, as long as any node so far."""
        seconds = self._estimate(self.first)
        return self._durations.mean_seconds if math.isinf(seconds) else seconds

    def comes_before_all(self, node: int) -> bool:
        """Tell whether a node that is not here would come first; there must be one that is."""
        return self._place(node) < self._heap[0]

    def push(self, node: int) -> None:
        """Add a node."""
        place = self._rank[node]
        if self._unmet:
            place = self._place(node)
            if place < 0:
                self._unmet.remove(self._kinds[node])
        heapq.heappush(self._heap, place)

    def _place(self, node: int) -> int:
        rank = self._rank[node]
        if self._kinds[node] not in self._unmet:
            return rank
        if self._priorities is not None and self._priorities[node] != self._highest:
            return rank
        return rank - len(self._kinds)

    def clear(self) -> None:
        """Forget all nodes."""
        self._heap.clear()

    def learn(self, node: int, seconds: float) -> None:
        """Note how long a node took."""
        kind = self._kinds[node]
        known = self._estimates.get(kind)
        # Falls slowly and rises at once: a long node that is taken for a short one costs more than the reverse.
        self._estimates[kind] = seconds if known is None or seconds > known else known + 0.2 * (seconds - known)
        self._durations.learn(node, seconds)

    def _estimate(self, node: int) -> float:
        # What an earlier run says does not make a node short: its inputs may be others now, and many wait behind it.
        estimate = self._estimates.get(self._kinds[node], math.inf)
        recorded = self._durations.recorded(node)
        return estimate if recorded is None else max(estimate, recorded)

    def estimate(self, nodes: Iterable[int]) -> float:
        """Return how many seconds nodes are expected to take together; infinity if one has not been measured."""
        return sum(map(self._estimate, nodes))

    def may_prefetch(self, estimate: float) -> bool:
        """Tell whether a slot that is expected to be busy for `estimate` seconds may get its next batch now."""
        if not self._batching:
            return False
        first = self._estimate(self.first)
        if len(self._heap) > PLENTY * self._n_slots:
            return max(estimate, first) <= PLENTY_PREFETCH_SECONDS
        return max(estimate, first) <= PREFETCH_SECONDS

    def take_batch(self) -> list[int]:
        """Remove the nodes of the next batch and return them; at least one, in the order of their start."""
        # A fair share: the last nodes of a level spread over the slots instead of filling one batch.
        limit = min(MAX_BATCH_NODES, -(-len(self._heap) // self._n_slots)) if self._batching else 1
        nodes: list[int] = []
        total = 0.0
        while self._heap and len(nodes) < limit:
            node = self._by_rank[self._heap[0]]
            estimate = self._estimate(node)
            if nodes and (total + estimate > BATCH_SECONDS or node in self._alone):
                break
            heapq.heappop(self._heap)
            nodes.append(node)
            total += estimate
            if total > BATCH_SECONDS or node in self._alone:
                break  # alone: nobody should wait behind it
        return nodes

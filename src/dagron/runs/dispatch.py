"""Which ready node goes to which slot and when, and which slot is looked at or killed. Pure: time comes as numbers.

What is known here of a node: that it is ready, or in which slot it is, what is asked for it, and how long its kind
takes. What becomes of a node that completed or failed is the business of `state`, which tells what became of the slots.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from dagron.errors import InternalError
from dagron.graph.chains import Graph
from dagron.runs.durations import Durations
from dagron.runs.events import Dispatch, End, Kill, Observe, SlotObserved
from dagron.runs.policy import Policy
from dagron.runs.ready import BATCH_SECONDS, ReadyNodes

__all__ = ["Dispatcher"]

COMMITS_WORTH_WAITING = 20
"""A slot waits for a commit that makes a more urgent node ready, instead of taking one that lasts so many commits.

So what waiting costs is at most a twentieth of what the slot would have begun. Simulated on 15 recorded workflows it
brings reruns from up to 1.03 of the bound to 1.005, which is what a list schedule reaches; 20 itself was not varied.
"""

MEMORY_SECONDS = (0.005, 0.1)
"""The shortest and the longest time between two looks at the memory of a slot that has a limit.

A look takes about a millisecond, so the shortest costs a fifth of a processor, for as long as a limit is near; the
longest is what the guide promises to users.
"""

ALLOCATION_BYTES_PER_SECOND = 8e9
"""Faster than a process can take memory, as the kernel clears its pages; tells how soon a limit might be reached."""


class _Slot:
    """What a slot has: its batches, the oldest first, when to look at it, and with which command it was killed."""

    __slots__ = ("batches", "check_at", "estimate", "kill")

    def __init__(self) -> None:
        self.batches: deque[tuple[int, ...]] = deque()
        self.estimate = 0.0
        self.check_at = math.inf
        self.kill: Kill | None = None

    def nodes(self) -> Iterator[int]:
        """Yield the nodes of all batches."""
        return chain.from_iterable(self.batches)


class Dispatcher:
    """The slots of a run and the nodes that could start.

    Args:
        graph: The DAG.
        policies: One per node.
        kinds: One number per node; nodes of one kind are expected to take similar time.
        n_slots: Slots, at least 1.
        batching: Whether a batch may have more than one node.
        max_batches: How many batches a slot may have.
        recorded_seconds: How long each node took in an earlier run, NaN where that is not known; None if nowhere.
    """

    def __init__(
        self,
        graph: Graph,
        policies: Sequence[Policy],
        kinds: Sequence[int],
        n_slots: int,
        *,
        batching: bool,
        max_batches: int,
        recorded_seconds: Sequence[float] | None,
    ) -> None:
        self._graph = graph
        self._policies = policies
        self._slots = [_Slot() for _ in range(n_slots)]
        self._max_batches = max_batches
        self._commits_since = 0.0
        self._commit_seconds = 0.0
        different = {id(policy): policy for policy in policies}.values()  # nearly always a few objects for all nodes
        self._exclusive: frozenset[int] = frozenset()
        if any(policy.exclusive for policy in different):
            self._exclusive = frozenset(node for node, policy in enumerate(policies) if policy.exclusive)
        self._limited = any(p.timeout is not None or p.memory_limit is not None for p in different)
        self._ready = ReadyNodes(
            [policy.priority for policy in policies],
            kinds,
            n_slots,
            batching=batching,
            durations=Durations(kinds, recorded_seconds),
            alone=self._exclusive,
        )

    # --- what can be asked ----------------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no slot has work."""
        return not any(slot.batches for slot in self._slots)

    @property
    def n_running(self) -> int:
        """Nodes that are in a slot."""
        return sum(len(batch) for slot in self._slots for batch in slot.batches)

    @property
    def look_at(self) -> float:
        """When the next slot is to be looked at; infinity if none has a limit."""
        if not self._limited:
            return math.inf
        return min((slot.check_at for slot in self._slots if slot.batches and slot.kill is None), default=math.inf)

    def expected_seconds(self, slot: int) -> float:
        """Return how long a slot is expected to be busy with all that it has; infinity if that is not known."""
        return self._slots[slot].estimate

    def check_batch(self, index: int, nodes: list[int]) -> None:
        """Raise InternalError unless these are the nodes of the oldest batch of a slot, in any order."""
        batches = self._slot(index).batches
        self._check_nodes(index, nodes, [*batches[0]] if batches else [])
        if not batches:
            raise InternalError(f"slot {index} returned a batch, and has none")

    def check_slot(self, index: int, nodes: list[int]) -> None:
        """Raise InternalError unless these are all nodes of a slot, in any order."""
        self._check_nodes(index, nodes, [*self._slot(index).nodes()])

    def _check_nodes(self, index: int, nodes: list[int], known: list[int]) -> None:
        if nodes != known and sorted(nodes) != sorted(known):
            raise InternalError(f"slot {index} has {known} and reported {nodes}")

    def _slot(self, index: int) -> _Slot:
        if not 0 <= index < len(self._slots):
            raise InternalError(f"there is no slot {index}")
        return self._slots[index]

    # --- what has happened ----------------------------------------------------------------------------------------

    def add(self, node: int) -> None:
        """Note a node that is ready."""
        self._ready.push(node)

    def learn(self, node: int, seconds: float) -> None:
        """Note how long a completed node took."""
        self._ready.learn(node, seconds)

    def batch_returned(self, index: int) -> None:
        """Note that a slot is done with its oldest batch."""
        slot = self._slots[index]
        slot.batches.popleft()
        slot.estimate = self._ready.estimate(slot.nodes())
        if not slot.batches:
            slot.check_at = math.inf

    def slot_lost(self, index: int) -> Kill | None:
        """Note that a slot has nothing any more, and return with which command it was killed."""
        kill = self._slots[index].kill
        self._slots[index] = _Slot()
        return kill

    def commits_began(self, now: float) -> None:
        """Note that nodes are being committed, and none was before."""
        self._commits_since = now

    def committed(self, now: float) -> None:
        """Note that some of the nodes that were being committed are."""
        # A mean of about the last five commits, so that one that is slow by chance does not hold slots back for long.
        self._commit_seconds += 0.2 * (now - self._commits_since - self._commit_seconds)

    def cancel(self) -> list[Kill]:
        """Forget what is ready, and kill what runs."""
        self._ready.clear()
        return [self._kill(Kill(i, None)) for i, slot in enumerate(self._slots) if slot.batches and slot.kill is None]

    def _kill(self, kill: Kill) -> Kill:
        slot = self._slots[kill.slot]
        slot.kill, slot.check_at = kill, math.inf
        return kill

    # --- limits ---------------------------------------------------------------------------------------------------

    def due_looks(self, now: float) -> list[Observe]:
        """Return the looks at slots that are due."""
        looks = []
        for index, slot in enumerate(self._slots):
            if slot.batches and slot.kill is None and slot.check_at <= now:
                limits = [limit for node in slot.nodes() if (limit := self._policies[node].memory_limit)]
                looks.append(Observe(index, min(limits, default=None)))
        return looks

    def observed(self, event: SlotObserved) -> Kill | None:
        """Take what was seen of a slot, and return how it is to be killed, if it is.

        Raises:
            InternalError: It does not have the node; nothing was changed.
        """
        slot = self._slot(event.slot)
        if event.node is not None and event.node not in slot.nodes():
            raise InternalError(f"slot {event.slot} was seen running node {event.node}, which it does not have")
        if not slot.batches or slot.kill is not None:
            return None
        policy = Policy() if event.node is None else self._policies[event.node]
        end = None
        if policy.timeout is not None and event.seconds >= policy.timeout:
            end = End.TIMED_OUT
        elif policy.memory_limit is not None and event.memory_bytes > policy.memory_limit:
            end = End.OUT_OF_MEMORY
        if end is not None:
            # What the worker had from earlier nodes is not this one's: it gets a new worker.
            innocent = end == End.OUT_OF_MEMORY and event.before_bytes > policy.memory_limit  # type: ignore[operator]
            memory_bytes = event.memory_bytes if end == End.OUT_OF_MEMORY else 0
            return self._kill(Kill(event.slot, None if innocent else event.node, end, memory_bytes))
        due = [self._check_due(node, event.now) for node in slot.nodes() if node != event.node]
        if event.node is not None:
            due.append(self._check_due(event.node, event.now, event.seconds, event.memory_bytes))
        slot.check_at = min(due, default=math.inf)
        return None

    def _check_due(self, node: int, now: float, seconds: float = 0.0, memory_bytes: int = 0) -> float:
        """Return when to look at a node that has run that long and has that much; infinity if it has no limits."""
        policy = self._policies[node]
        due = math.inf if policy.timeout is None else now + policy.timeout - seconds
        if policy.memory_limit is not None:
            soonest = (policy.memory_limit - memory_bytes) / ALLOCATION_BYTES_PER_SECOND
            least, most = MEMORY_SECONDS
            due = min(due, now + min(most, max(least, soonest)))
        return due

    # --- dispatching ----------------------------------------------------------------------------------------------

    def fill(self, now: float, freed: Callable[[], Iterable[int]] | None) -> list[Dispatch]:
        """Give nodes to slots, as many as there is a reason to, and return the batches.

        Args:
            now: The time.
            freed: Returns the nodes that can start once all that is being committed is; None if nothing is.
        """
        ready, slots = self._ready, self._slots
        out: list[Dispatch] = []
        if not ready:
            return out
        if len(ready) > 1:  # else there is nothing to choose
            ready.reorder(self._graph)
        # Idle slots first, so that two ready nodes never queue up in one slot beside an idle one; then the slot that is
        # expected to be idle next.
        n_kept_free = self._n_worth_waiting(freed)
        for depth in range(self._max_batches):
            order: Sequence[int] = range(len(slots))
            if depth:
                order = sorted(order, key=lambda index: slots[index].estimate)
            for index in order:
                slot = slots[index]
                if len(slot.batches) != depth or slot.kill is not None:
                    continue
                if self._must_wait():
                    return out
                if depth == 0 and n_kept_free:
                    n_kept_free -= 1
                elif depth == 0 or ready.may_prefetch(slot.estimate):
                    out.append(self._dispatch(index, slot, now))
                    if not ready:
                        return out
        return out

    def _n_worth_waiting(self, freed: Callable[[], Iterable[int]] | None) -> int:
        """Return how many empty slots should wait for children of what is being committed.

        A child that comes before all that are ready would else wait until one of these has ended, which may take
        longer than the commit by orders of magnitude. On one slot the run would end at the same time.
        """
        if freed is None or len(self._slots) == 1 or not self._ready:
            return 0
        if all(slot.batches for slot in self._slots):
            return 0
        if self._ready.first_seconds <= max(BATCH_SECONDS, COMMITS_WORTH_WAITING * self._commit_seconds):
            return 0
        return sum(map(self._ready.comes_before_all, freed()))

    def _must_wait(self) -> bool:
        """Tell whether what comes next has to wait for the end of what runs, because one of them is exclusive."""
        if not self._exclusive:
            return False
        running = [node for slot in self._slots for node in slot.nodes()]
        return bool(running) and (self._ready.first in self._exclusive or running[0] in self._exclusive)

    def _dispatch(self, index: int, slot: _Slot, now: float) -> Dispatch:
        nodes = tuple(self._ready.take_batch())
        slot.batches.append(nodes)
        slot.estimate += self._ready.estimate(nodes)
        if self._limited:
            slot.check_at = min(slot.check_at, *(self._check_due(node, now) for node in nodes))
        return Dispatch(index, nodes)

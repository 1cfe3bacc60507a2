"""The run as a pure state machine: events in, commands out.

What may live here: decisions. Which node runs next and where, what is retried and when, what is skipped, what a
restored node is still worth, when the run is over. What may not: a clock, input and output, processes, logging,
randomness that is not passed in, node names. Time comes as numbers inside events; nodes are their indices in the DAG.

Events and commands are the values of `events`. `RunState.handle` checks first and changes
afterwards: if it raises, nothing has changed. The same events in the same order give the same commands.

Life of a node::

    WAITING ──▶ READY ──▶ RUNNING ──▶ COMMITTING ──▶ COMPLETED
       │          ▲          │ │           └───────▶ FAILED, TIMED_OUT
       │          └─ BACKOFF ◀─┘ (a further attempt)
       ├──▶ SKIPPED              an ancestor has no result
       └──▶ COMPLETED            restored, at the start or once its parents are settled
    any but the final ones ──▶ CANCELLED

Invariants, numbered as in the tests:

1.  A node runs only when each of its parents is settled, and with `fail_fast` only when each is COMPLETED.
2.  A node is in at most one slot, and RUNNING if and only if it is in one.
3.  A node becomes COMPLETED, FAILED or TIMED_OUT only after the event that says that this was committed.
4.  `pending[n]` is the number of parents of `n` that are not settled, for every WAITING `n`.
5.  The run is finished if and only if every node is settled, no slot has work, and nothing is being committed.
6.  A slot has at most `max_batches` batches.
7.  An exclusive node is in a slot only while no other node is in any.
8.  A slot that could work is empty beside a ready node only while a completed node is being committed, or because one
    of the two is exclusive.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import chain
from typing import NamedTuple, Protocol

from dagron.errors import InternalError
from dagron.runs.durations import Durations
from dagron.runs.events import (
    AttemptEnded,
    BatchReturned,
    CancelRequested,
    Changed,
    Command,
    Commit,
    Committed,
    Dispatch,
    End,
    Event,
    Invalidate,
    Kill,
    NoteLoss,
    Observe,
    RecordFailures,
    Restore,
    Retry,
    Skip,
    SlotLost,
    SlotObserved,
    Started,
    TimeReached,
)
from dagron.runs.ready import BATCH_SECONDS, ReadyNodes

__all__ = ["Graph", "Phase", "Policy", "RunState"]

COMMITS_WORTH_WAITING = 20
"""A slot waits for a commit that makes a more urgent node ready, instead of taking one that lasts so many commits."""

MEMORY_SECONDS = (0.005, 0.1)
"""The shortest and the longest time between two looks at the memory of a slot that has a limit."""

ALLOCATION_BYTES_PER_SECOND = 8e9
"""Faster than a process can take memory, as pages have to be cleared; tells how soon a limit might be reached."""


class Phase(IntEnum):
    """Where a node stands. Those from COMPLETED on are final."""

    WAITING = 0
    READY = 1
    RUNNING = 2
    BACKOFF = 3
    COMMITTING = 4
    COMPLETED = 5
    FAILED = 6
    TIMED_OUT = 7
    SKIPPED = 8
    CANCELLED = 9


class Graph(Protocol):
    """What the state needs of a DAG; see `dagron.graph.dag.DAG`."""

    def __len__(self) -> int: ...

    def parent_indices(self, node: int, /) -> Sequence[int]:
        """Return the parents of a node."""
        ...

    def child_indices(self, node: int, /) -> Sequence[int]:
        """Return the children of a node."""
        ...

    def indegrees(self) -> array[int]:
        """Return the number of parents of each node, as a copy."""
        ...

    @property
    def order(self) -> array[int]:
        """All nodes, parents first."""
        ...


class Policy(NamedTuple):
    """What is asked for a node. Seconds and bytes throughout; `timeout` and `memory_limit` None for none."""

    retries: int = 0
    retry_delay: float = 0.0
    timeout: float | None = None
    priority: int = 0
    memory_limit: int | None = None
    exclusive: bool = False


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


class RunState:
    """All that a run knows about its nodes.

    Args:
        graph: The DAG.
        policies: One per node.
        kinds: One number per node; nodes of one kind are expected to take similar time.
        n_slots: Slots, at least 1.
        fail_fast: Skip every descendant of a failed node, instead of only those that take its result.
        consumes: `consumes(child, parent)` tells whether a child takes a parent's result.
        restored: Nodes whose commits apply whatever happens.
        held: Nodes with a commit that applies unless one of their parents changes; with each, the parents that had
            failed when it ran.
        batching: Whether a batch may have more than one node.
        max_batches: How many batches a slot may have; by default one that runs and one behind it.
        recorded_seconds: How long each node took in an earlier run, NaN where that is not known; None if nowhere.
        rng: For the jitter of retries.

    Attributes:
        phase: Where each node stands.
        attempts: Attempts of each node so far.
        pending: Parents of each WAITING node that are not settled.
        unsettled: Nodes that are not final.
        committing: Nodes that are COMMITTING.
        stopped: Nodes that a cancelled run did not finish.
        restored: Nodes that keep a result of an earlier run.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        policies: Sequence[Policy],
        kinds: Sequence[int],
        n_slots: int,
        fail_fast: bool = True,
        consumes: Callable[[int, int], bool] = lambda child, parent: True,
        restored: Sequence[int] = (),
        held: Mapping[int, Sequence[int]] | None = None,
        batching: bool = True,
        max_batches: int = 2,
        recorded_seconds: Sequence[float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        n = len(graph)
        self.graph = graph
        self.phase = bytearray(n)
        self.attempts = array("I", bytes(4 * n))
        self.pending = graph.indegrees()
        self.slots = [_Slot() for _ in range(n_slots)]
        self.unsettled = n
        self.committing = 0
        self._started = False
        self.cancelled = False
        self.timed_out = False
        self._max_batches = max_batches
        self._policies = policies
        self._fail_fast = fail_fast
        self._consumes = consumes
        self.stopped: set[int] = set()
        self._held = dict(held or {})
        self._changed: set[int] = set()
        self._is_some_missing = False
        self._cause: dict[int, int] = {}
        self._failing: dict[int, Phase] = {}
        self._rng = rng or random.Random(0)
        self._backoff: list[tuple[float, int]] = []
        self._completing: set[int] = set()
        self._completing_since = 0.0
        self._commit_seconds = 0.0
        priorities = [policy.priority for policy in policies]
        durations = Durations(kinds, recorded_seconds)
        different = {id(policy): policy for policy in policies}.values()  # nearly always a few objects for all nodes
        self._exclusive: frozenset[int] = frozenset()
        if any(policy.exclusive for policy in different):
            self._exclusive = frozenset(node for node, policy in enumerate(policies) if policy.exclusive)
        self._ready = ReadyNodes(
            priorities, kinds, n_slots, batching=batching, durations=durations, alone=self._exclusive
        )
        self._limited = any(p.timeout is not None or p.memory_limit is not None for p in different)
        for node in restored:
            self.phase[node] = Phase.COMPLETED
        self.unsettled -= len(restored)
        self.restored: list[int] = list(restored)
        if self.unsettled:
            for node in restored:
                for child in graph.child_indices(node):
                    self.pending[child] -= 1

    # --- what can be asked ----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not self.unsettled and not self.committing and not any(slot.batches for slot in self.slots)

    @property
    def wake_at(self) -> float | None:
        """When `TimeReached` is due; None if nothing waits for time."""
        if not self._limited and not self._backoff:
            return None
        due = min((slot.check_at for slot in self.slots if slot.batches and slot.kill is None), default=math.inf)
        if self._backoff:
            due = min(due, self._backoff[0][0])
        return None if math.isinf(due) else due

    @property
    def n_running(self) -> int:
        """Nodes that are in a slot."""
        return sum(len(batch) for slot in self.slots for batch in slot.batches)

    @property
    def n_restored(self) -> int:
        """Nodes that keep a result of an earlier run."""
        return len(self.restored)

    def cause_of(self, node: int) -> int:
        """Return the node because of which a SKIPPED one was skipped."""
        return self._cause[node]

    def failing_as(self, node: int) -> Phase:
        """Return what a node becomes once its failure is committed."""
        return self._failing[node]

    def expected_seconds(self, slot: int) -> float:
        """Return how long a slot is expected to be busy with all that it has; infinity if that is not known."""
        return self.slots[slot].estimate

    def attempts_of(self, node: int) -> int:
        """Return how many attempts of a node count, with the one that runs; so of that one its number."""
        return self.attempts[node]

    def is_in_doubt(self, node: int) -> bool:
        """Tell whether a result of a parent became another one in this run."""
        return bool(self._changed) and not self._changed.isdisjoint(self.graph.parent_indices(node))

    def parents_without_result(self, node: int) -> Sequence[int]:
        """Return the parents of a node that was attempted which had no result when it was."""
        if not self._is_some_missing:
            return ()
        return [parent for parent in self.graph.parent_indices(node) if self.phase[parent] != Phase.COMPLETED]

    # --- events ---------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        """Take an event and return what is to be done, in this order.

        Raises:
            InternalError: The event contradicts what is known; nothing was changed.
        """
        out: list[Command] = []
        match event:
            case BatchReturned():
                self._check_slot(event.slot, event.ended, None, event.unstarted)
                slot = self.slots[event.slot]
                slot.batches.popleft()
                self._slot_emptied(slot)
                self._ended(event.ended, event.now, out)
                self._put_back(event.unstarted)
                self._fill(event.now, out)
            case Committed():
                self._on_committed(event, out)
                self._fill(event.now, out)
            case SlotLost():
                self._on_slot_lost(event, out)
                self._fill(event.now, out)
            case Changed(nodes):
                self._on_changed(nodes, out)
            case Started(now):
                if self._started:
                    raise InternalError("the run was started before")
                self._started = True
                restored: list[int] = []
                for node in self.graph.order:
                    if self.phase[node] == Phase.WAITING and not self.pending[node]:
                        self._parents_settled(node, out, restored)
                if restored:
                    out.append(Restore(tuple(restored)))
                self._fill(now, out)
            case TimeReached(now):
                while self._backoff and self._backoff[0][0] <= now:
                    self._make_ready(heapq.heappop(self._backoff)[1])
                for index, slot in enumerate(self.slots):
                    if slot.batches and slot.kill is None and slot.check_at <= now:
                        limits = [limit for node in slot.nodes() if (limit := self._policies[node].memory_limit)]
                        out.append(Observe(index, min(limits, default=None)))
                self._fill(now, out)
            case SlotObserved():
                self._on_slot_observed(event, out)
            case CancelRequested():
                self._on_cancel(event, out)
        return out

    def _check_slot(
        self,
        index: int,
        ended: Sequence[AttemptEnded],
        running: int | None,
        unstarted: Sequence[int],
        lost: bool = False,
    ) -> None:
        slot = self._slot(index)
        reported = [item.node for item in ended] + ([] if running is None else [running]) + list(unstarted)
        known = [*slot.nodes()] if lost else [*next(iter(slot.batches), ())]
        if (reported != known and sorted(reported) != sorted(known)) or (not known and not lost):
            raise InternalError(f"slot {index} has {known} and reported {reported}")

    def _slot(self, index: int) -> _Slot:
        if not 0 <= index < len(self.slots):
            raise InternalError(f"there is no slot {index}")
        return self.slots[index]

    def _ended(
        self, ended: Sequence[AttemptEnded], now: float, out: list[Command], lost: tuple[int, End] | None = None
    ) -> None:
        completed: list[int] = []
        failed: list[int] = []
        phase = self.phase
        for node, is_completed, retryable, seconds in ended:
            if is_completed:
                phase[node] = Phase.COMMITTING
                completed.append(node)
                self._ready.learn(node, seconds)
            else:
                self._failed(node, End.RAISED, retryable, now, failed, out)
        if lost is not None:
            self._failed(*lost, True, now, failed, out)
        self.committing += len(completed) + len(failed)
        if completed:
            if not self._completing:
                self._completing_since = now
            self._completing.update(completed)
            out.append(Commit(tuple(completed)))
        if failed:
            out.append(RecordFailures(tuple(failed)))

    def _failed(self, node: int, end: End, retryable: bool, now: float, failed: list[int], out: list[Command]) -> None:
        policy = self._policies[node]
        attempts = self.attempts[node]
        if end == End.CANCELLED:
            self._stop(node, Phase.TIMED_OUT if self.timed_out else Phase.CANCELLED)
        elif attempts <= policy.retries and (retryable or end != End.RAISED) and not self.cancelled:
            out.append(Retry(node))
            self.phase[node] = Phase.BACKOFF
            delay = policy.retry_delay * 2.0 ** min(attempts - 1, 30) * (1.0 + 0.25 * self._rng.random())
            heapq.heappush(self._backoff, (now + delay, node))
        else:
            self.phase[node] = Phase.COMMITTING
            self._failing[node] = Phase.TIMED_OUT if end == End.TIMED_OUT else Phase.FAILED
            failed.append(node)

    def _on_committed(self, event: Committed, out: list[Command]) -> None:
        if len(set(event.nodes)) != len(event.nodes):
            raise InternalError(f"a node was committed twice: {sorted(event.nodes)}")
        for node in event.nodes:
            if not 0 <= node < len(self.phase):
                raise InternalError(f"there is no node {node}")
            if self.phase[node] != Phase.COMMITTING:
                raise InternalError(f"node {node} was committed in phase {Phase(self.phase[node]).name}")
        self.committing -= len(event.nodes)
        if self._completing:
            self._completing.difference_update(event.nodes)
            took = event.now - self._completing_since
            self._commit_seconds += 0.2 * (took - self._commit_seconds)
        restored: list[int] = []
        for node in event.nodes:
            self._held.pop(node, None)
            self._settle(node, self._failing.pop(node, Phase.COMPLETED), out, restored)
        if restored:
            out.append(Restore(tuple(restored)))

    def _on_changed(self, nodes: Collection[int], out: list[Command]) -> None:
        for node in nodes:
            if not 0 <= node < len(self.phase) or self.phase[node] != Phase.COMMITTING or node in self._failing:
                raise InternalError(f"node {node} has another result, and none that is to be committed")
        self._changed.update(nodes)
        outdated = [
            child
            for node in nodes
            for child in self.graph.child_indices(node)
            if self._held.pop(child, None) is not None
        ]
        if outdated:
            out.append(Invalidate(tuple(outdated)))

    def _settle(self, node: int, phase: Phase, out: list[Command], restored: list[int]) -> None:
        """Make a node final and let its children know; iterative, as chains are long."""
        if phase != Phase.COMPLETED:
            self._is_some_missing = True
        todo = [(node, phase)]
        while todo:
            node, phase = todo.pop()
            self.phase[node] = phase
            self.unsettled -= 1
            if phase != Phase.COMPLETED and phase != Phase.SKIPPED and self._fail_fast:
                self._skip_descendants(node, out)
                continue
            for child in self.graph.child_indices(node):
                if self.phase[child] != Phase.WAITING:
                    continue  # cancelled meanwhile
                self.pending[child] -= 1
                if phase != Phase.COMPLETED and child not in self._cause and self._consumes(child, node):
                    self._cause[child] = node if phase != Phase.SKIPPED else self._cause[node]
                if self.pending[child]:
                    continue
                if child in self._cause:
                    out.append(Skip((child,), self._cause[child]))
                    todo.append((child, Phase.SKIPPED))
                elif self._keeps_result(child):
                    restored.append(child)
                    self.restored.append(child)
                    todo.append((child, Phase.COMPLETED))
                else:
                    self._make_ready(child)

    def _parents_settled(self, node: int, out: list[Command], restored: list[int]) -> None:
        if self._keeps_result(node):
            restored.append(node)
            self.restored.append(node)
            self._settle(node, Phase.COMPLETED, out, restored)
        else:
            self._make_ready(node)

    def _keeps_result(self, node: int) -> bool:
        without = self._held.get(node)
        if without is None:
            return False
        for parent in self.graph.parent_indices(node):
            if parent in without and self.phase[parent] == Phase.COMPLETED:
                return False
        del self._held[node]
        return True

    def _skip_descendants(self, node: int, out: list[Command]) -> None:
        # Through waiting nodes only: what is below a completed one has all it needs, also if an ancestor fails later.
        skipped = [node]
        for above in skipped:  # it grows meanwhile, which list iterators allow
            for child in self.graph.child_indices(above):
                if self.phase[child] == Phase.WAITING:
                    self.phase[child] = Phase.SKIPPED
                    self._cause[child] = node
                    skipped.append(child)
        del skipped[0]
        self.unsettled -= len(skipped)
        if skipped:
            out.append(Skip(tuple(skipped), node))

    def _on_slot_lost(self, event: SlotLost, out: list[Command]) -> None:
        self._check_slot(event.slot, event.ended, event.running, event.unstarted, lost=True)
        kill = self.slots[event.slot].kill
        self.slots[event.slot] = _Slot()
        innocent = list(event.unstarted)
        lost: tuple[int, End] | None = None
        if (node := event.running) is not None:
            end = self._end_of_loss(node, kill)
            memory_bytes = kill.memory_bytes if kill is not None and end == End.OUT_OF_MEMORY else 0
            out.append(NoteLoss(node, self.attempts[node], end, memory_bytes))
            if end == End.PUT_BACK:
                innocent.append(node)
            else:
                lost = node, end
        self._ended(event.ended, event.now, out, lost)
        self._put_back(innocent)

    def _end_of_loss(self, node: int, kill: Kill | None) -> End:
        """Return how the attempt ended that a worker had in hand when it died, given why it was killed."""
        if self.cancelled:
            return End.CANCELLED  # it was killed, or died just before that
        if kill is None:
            return End.LOST
        # If it was to be another one, that ended just before, and this one happened to come next.
        return kill.end if kill.node == node else End.PUT_BACK

    def _on_slot_observed(self, event: SlotObserved, out: list[Command]) -> None:
        slot = self._slot(event.slot)
        if event.node is not None and event.node not in slot.nodes():
            raise InternalError(f"slot {event.slot} was seen running node {event.node}, which it does not have")
        if not slot.batches or slot.kill is not None:
            return
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
            self._kill(Kill(event.slot, None if innocent else event.node, end, memory_bytes), out)
            return
        due = [self._check_due(node, event.now) for node in slot.nodes() if node != event.node]
        if event.node is not None:
            due.append(self._check_due(event.node, event.now, event.seconds, event.memory_bytes))
        slot.check_at = min(due, default=math.inf)

    def _check_due(self, node: int, now: float, seconds: float = 0.0, memory_bytes: int = 0) -> float:
        """Return when to look at a node that has run that long and has that much; infinity if it has no limits."""
        policy = self._policies[node]
        due = math.inf if policy.timeout is None else now + policy.timeout - seconds
        if policy.memory_limit is not None:
            soonest = (policy.memory_limit - memory_bytes) / ALLOCATION_BYTES_PER_SECOND
            least, most = MEMORY_SECONDS
            due = min(due, now + min(most, max(least, soonest)))
        return due

    def _kill(self, kill: Kill, out: list[Command]) -> None:
        slot = self.slots[kill.slot]
        slot.kill, slot.check_at = kill, math.inf
        out.append(kill)

    def _on_cancel(self, event: CancelRequested, out: list[Command]) -> None:
        if self.cancelled:
            return
        self.cancelled, self.timed_out = True, event.timed_out
        self._ready.clear()
        self._backoff.clear()
        for node, phase in enumerate(self.phase):
            if phase in (Phase.WAITING, Phase.READY, Phase.BACKOFF):
                self._stop(node, Phase.CANCELLED)
        for index, slot in enumerate(self.slots):
            if slot.batches and slot.kill is None:
                self._kill(Kill(index, None), out)

    def _stop(self, node: int, phase: Phase) -> None:
        self.phase[node] = phase
        self.stopped.add(node)
        self.unsettled -= 1

    # --- dispatching ----------------------------------------------------------------------------------------------

    def _make_ready(self, node: int) -> None:
        self.phase[node] = Phase.READY
        self._ready.push(node)

    def _put_back(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            self.attempts[node] -= 1
            if self.cancelled:
                self._stop(node, Phase.CANCELLED)
            else:
                self._make_ready(node)

    def _slot_emptied(self, slot: _Slot) -> None:
        slot.estimate = self._ready.estimate(slot.nodes())
        if not slot.batches:
            slot.check_at = math.inf

    def _fill(self, now: float, out: list[Command]) -> None:
        ready, slots = self._ready, self.slots
        if not ready:
            return
        if len(ready) > 1:  # else there is nothing to choose
            ready.reorder(self.graph)
        # Idle slots first, so that two ready nodes never queue up in one slot beside an idle one; then the slot that is
        # expected to be idle next.
        n_kept_free = self._n_worth_waiting()
        for depth in range(self._max_batches):
            order: Sequence[int] = range(len(slots))
            if depth:
                order = sorted(order, key=lambda index: slots[index].estimate)
            for index in order:
                slot = slots[index]
                if len(slot.batches) != depth or slot.kill is not None:
                    continue
                if self._must_wait():
                    return
                if depth == 0 and n_kept_free:
                    n_kept_free -= 1
                elif depth == 0 or ready.may_prefetch(slot.estimate):
                    self._dispatch(index, slot, now, out)
                    if not ready:
                        return

    def _n_worth_waiting(self) -> int:
        """Return how many empty slots should wait for children of what is being committed.

        A child that comes before all that are ready would else wait until one of these has ended, which may take
        longer than the commit by orders of magnitude. On one slot the run would end at the same time.
        """
        if len(self.slots) == 1 or not self._completing or not self._ready:
            return 0
        if all(slot.batches for slot in self.slots):
            return 0
        if self._ready.first_seconds <= max(BATCH_SECONDS, COMMITS_WORTH_WAITING * self._commit_seconds):
            return 0
        return sum(map(self._ready.comes_before_all, self._freed()))

    def _freed(self) -> Iterator[int]:
        """Yield the nodes that can start once all that is being committed is."""
        pending: dict[int, int] = {}
        for node in self._completing:
            for child in self.graph.child_indices(node):
                if self.phase[child] == Phase.WAITING:
                    pending[child] = n = pending.get(child, self.pending[child]) - 1
                    if not n:
                        yield child

    def _must_wait(self) -> bool:
        """Tell whether what comes next has to wait for the end of what runs, because one of them is exclusive."""
        if not self._exclusive:
            return False
        running = [node for slot in self.slots for node in slot.nodes()]
        return bool(running) and (self._ready.first in self._exclusive or running[0] in self._exclusive)

    def _dispatch(self, index: int, slot: _Slot, now: float, out: list[Command]) -> None:
        nodes = self._ready.take_batch()
        for node in nodes:
            self.phase[node] = Phase.RUNNING
            self.attempts[node] += 1
        slot.batches.append(tuple(nodes))
        slot.estimate += self._ready.estimate(nodes)
        if self._limited:
            slot.check_at = min(slot.check_at, *(self._check_due(node, now) for node in nodes))
        out.append(Dispatch(index, tuple(nodes)))

    # --- for tests ------------------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        """Raise InternalError if one of the invariants of the module does not hold. Cost: the whole graph."""
        in_slots = [node for slot in self.slots for node in slot.nodes()]
        settled = [phase >= Phase.COMPLETED for phase in self.phase]
        running = [node for node, phase in enumerate(self.phase) if phase == Phase.RUNNING]
        for node in running:
            for parent in self.graph.parent_indices(node):
                self._require(1, settled[parent])
                self._require(1, not self._fail_fast or self.phase[parent] == Phase.COMPLETED)
        self._require(2, len(in_slots) == len(set(in_slots)) and sorted(in_slots) == running)
        self._require(3, self.committing == sum(phase == Phase.COMMITTING for phase in self.phase))
        for node, phase in enumerate(self.phase):
            if phase == Phase.WAITING:
                parents = self.graph.parent_indices(node)
                self._require(4, self.pending[node] == sum(not settled[parent] for parent in parents))
        self._require(5, self.unsettled == settled.count(False))
        self._require(5, self.finished == (all(settled) and not in_slots and not self.committing))
        self._require(6, all(len(slot.batches) <= self._max_batches for slot in self.slots))
        self._require(7, len(in_slots) == 1 or self._exclusive.isdisjoint(in_slots))
        empty = any(not slot.batches and slot.kill is None for slot in self.slots)
        self._require(8, not empty or not self._ready or bool(self._completing) or self._must_wait())

    def _require(self, number: int, holds: bool) -> None:
        if not holds:
            raise InternalError(f"invariant {number} of the run state does not hold")

"""The run as a pure state machine: events in, commands out.

What may live here: decisions. How an attempt ended, what is retried and when, what is skipped, what a restored node is
still worth, when the run is over. What may not: a clock, input and output, processes, logging, randomness that is not
passed in, node names. Time comes as numbers inside events; nodes are their indices in the DAG.

Events and commands are the values of `events`. `RunState.handle` checks first and changes afterwards: if it raises,
nothing has changed. The same events in the same order give the same commands. Which ready node goes to which slot is
decided in `dispatch`, what its life is here.

The life of a node is drawn in `phases`.

Invariants, numbered as in the tests:

1.  A node runs only when each of its parents is settled, and with `fail_fast` only when each is COMPLETED.
2.  A node is in at most one slot, and RUNNING if and only if it is in one.
3.  A node becomes COMPLETED or FAILED, or TIMED_OUT by its own timeout, only after the event that says that this was
    committed.
4.  `pending[n]` is the number of parents of `n` that are not settled, for every WAITING `n`.
5.  The run is finished if and only if every node is settled, no slot has work, and nothing is being committed.
6.  A slot has at most `max_batches` batches.
7.  An exclusive node is in a slot only while no other node is in any.
8.  A slot that could work is empty beside a ready node only while a completed node is being committed, or because one
    of the two is exclusive.
9.  `takers[n]` is the number of nodes that take the result of `n` and are not COMPLETED, for every `n` that is not to
    be kept and that is taken at all. A `Drop` names a node once for each result, when both it and all that take it are
    COMPLETED.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Protocol

from dagron.errors import InternalError
from dagron.runs.dispatch import Dispatcher
from dagron.runs.events import (
    AttemptEnded,
    BatchReturned,
    CancelRequested,
    Changed,
    Command,
    CommitFailures,
    CommitResults,
    Committed,
    Drop,
    End,
    Event,
    Invalidate,
    Kill,
    NoteLoss,
    Restore,
    Retry,
    Skip,
    SlotLost,
    SlotObserved,
    Started,
    TimeReached,
)
from dagron.runs.phases import Phase, phase_of_failure
from dagron.runs.policy import Policy

__all__ = ["Graph", "RunState"]


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


class RunState:
    """All that a run knows about its nodes.

    Args:
        graph: The DAG.
        policies: One per node.
        kinds: One number per node; nodes of one kind are expected to take similar time.
        n_slots: Slots, at least 1.
        fail_fast: Skip every descendant of a failed node, instead of only those that take its result.
        consumes: `consumes(child, parent)` tells whether a child takes a parent's result.
        taken: Returns the parents whose results a node takes; asked only if a policy says that one is not to be kept.
        dropped: Nodes of `restored` and `held` whose results are gone already.
        gone: Nodes that run because their results are gone, and of which it is recorded what these were.
        restored: Nodes whose commits apply whatever happens.
        held: Nodes with a commit that applies unless one of their parents changes; with each, the parents that had
            failed when it ran.
        batching: Whether a batch may have more than one node.
        max_batches: How many batches a slot may have; by default one that runs and one after it.
        recorded_seconds: How long each node took in an earlier run, NaN where that is not known; None if nowhere.
        rng: For the jitter of retries.

    Attributes:
        graph: The DAG.
        phase: Where each node stands.
        attempts: Attempts of each node so far.
        pending: Parents of each WAITING node that are not settled.
        unsettled: Nodes that are not final.
        committing: Nodes that are COMMITTING.
        cancelled: Whether nothing more is to be started.
        timed_out: Whether that is because the run took too long.
        stopped: Nodes that a cancelled run did not finish.
        restored: Nodes that keep a result of an earlier run.
        takers: By node whose result is not to be kept, how many that take it are not COMPLETED.
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
        taken: Callable[[int], Sequence[int]] | None = None,
        dropped: Collection[int] = (),
        gone: Collection[int] = (),
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
        self.unsettled = n
        self.committing = 0
        self._started = False
        self.cancelled = False
        self.timed_out = False
        self._policies = policies
        self._fail_fast = fail_fast
        self._consumes = consumes
        self.stopped: set[int] = set()
        self._held = dict(held or {})
        self._changed: set[int] = set()
        self._is_some_missing = False
        self._cause: dict[int, int] = {}
        self._failing: dict[int, Phase] = {}
        self._taken = taken or graph.parent_indices
        self._dropped = set(dropped)
        self._gone = set(gone)
        self._rng = rng or random.Random(0)
        self._backoff: list[tuple[float, int]] = []
        self._completing: set[int] = set()
        self._dispatcher = Dispatcher(
            graph,
            policies,
            kinds,
            n_slots,
            batching=batching,
            max_batches=max_batches,
            recorded_seconds=recorded_seconds,
        )
        for node in restored:
            self.phase[node] = Phase.COMPLETED
        self.unsettled -= len(restored)
        self.restored: list[int] = list(restored)
        self.takers = self._count_takers() if not all(policy.keep for policy in policies) else {}
        if self.unsettled:
            for node in restored:
                for child in graph.child_indices(node):
                    self.pending[child] -= 1

    def _count_takers(self) -> dict[int, int]:
        takers: dict[int, int] = {}
        for child, phase in enumerate(self.phase):
            for parent in self._taken(child):
                if not self._policies[parent].keep:
                    takers[parent] = takers.get(parent, 0) + (phase != Phase.COMPLETED)
        return takers

    # --- what can be asked ----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not self.unsettled and not self.committing and self._dispatcher.is_idle

    @property
    def wake_at(self) -> float | None:
        """When `TimeReached` is due; None if nothing waits for time."""
        due = self._dispatcher.look_at
        if self._backoff:
            due = min(due, self._backoff[0][0])
        return None if math.isinf(due) else due

    @property
    def n_running(self) -> int:
        """Nodes that are in a slot."""
        return self._dispatcher.n_running

    @property
    def n_restored(self) -> int:
        """Nodes that keep a result of an earlier run."""
        return len(self.restored)

    def phase_of(self, node: int) -> Phase:
        """Return where a node stands."""
        return Phase(self.phase[node])

    def count(self, phase: Phase) -> int:
        """Return how many nodes stand there. Cost: one pass over a byte for each node, in C."""
        return self.phase.count(phase)

    def cause_of(self, node: int) -> int:
        """Return the node because of which a SKIPPED one was skipped."""
        return self._cause[node]

    def expected_seconds(self, slot: int) -> float:
        """Return how long a slot is expected to be busy with all that it has; infinity if that is not known."""
        return self._dispatcher.expected_seconds(slot)

    def attempts_of(self, node: int) -> int:
        """Return how many attempts of a node count. The one that runs counts, so this is its number."""
        return self.attempts[node]

    def unreached(self) -> list[int]:
        """Return the nodes that a cancelled run might still have attempted although others failed."""
        if self._fail_fast or not self.cancelled:
            return []
        return [node for node, phase in enumerate(self.phase) if phase == Phase.CANCELLED]

    def out_of_time(self) -> list[int]:
        """Return the nodes that were killed because the time of the run was over."""
        return [node for node in sorted(self.stopped) if self.phase[node] == Phase.TIMED_OUT]

    def is_in_doubt(self, node: int) -> bool:
        """Tell whether a result of a parent became another one in this run."""
        return bool(self._changed) and not self._changed.isdisjoint(self.graph.parent_indices(node))

    def parents_without_result(self, node: int) -> Sequence[int]:
        """Return the parents of a node that had no result when the node was attempted."""
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
                self._dispatcher.check_batch(event.slot, [*map(_node_of, event.ended), *event.unstarted])
                self._dispatcher.batch_returned(event.slot)
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
                self._drop(self.takers, out)
                self._fill(now, out)
            case TimeReached(now):
                while self._backoff and self._backoff[0][0] <= now:
                    self._make_ready(heapq.heappop(self._backoff)[1])
                out += self._dispatcher.due_looks(now)
                self._fill(now, out)
            case SlotObserved():
                if (kill := self._dispatcher.observed(event)) is not None:
                    out.append(kill)
            case CancelRequested():
                self._on_cancel(event, out)
        return out

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
                self._dispatcher.learn(node, seconds)
            else:
                self._failed(node, End.RAISED, retryable, now, failed, out)
        if lost is not None:
            self._failed(*lost, True, now, failed, out)
        self.committing += len(completed) + len(failed)
        if completed:
            if not self._completing:
                self._dispatcher.commits_began(now)
            self._completing.update(completed)
            out.append(CommitResults(tuple(completed)))
        if failed:
            out.append(CommitFailures(tuple(failed)))

    def _failed(self, node: int, end: End, retryable: bool, now: float, failed: list[int], out: list[Command]) -> None:
        policy = self._policies[node]
        attempts = self.attempts[node]
        if end == End.CANCELLED:
            self._stop(node, Phase.TIMED_OUT if self.timed_out else Phase.CANCELLED)
        elif attempts <= policy.retries and (retryable or end != End.RAISED) and not self.cancelled:
            self.phase[node] = Phase.BACKOFF
            delay = policy.retry_delay * 2.0 ** min(attempts - 1, 30) * (1.0 + 0.25 * self._rng.random())
            out.append(Retry(node, delay))
            heapq.heappush(self._backoff, (now + delay, node))
        else:
            self.phase[node] = Phase.COMMITTING
            self._failing[node] = phase_of_failure(end)
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
            self._dispatcher.committed(event.now)
        restored: list[int] = []
        for node in event.nodes:
            self._held.pop(node, None)
            self._settle(node, self._failing.pop(node, Phase.COMPLETED), out, restored)
        if restored:
            out.append(Restore(tuple(restored)))
        if self.takers:
            self._dropped.difference_update(event.nodes)  # these have results again
            completed = [node for node in (*event.nodes, *restored) if self.phase[node] == Phase.COMPLETED]
            self._drop({parent for node in completed for parent in self._taken(node)}.union(completed), out)

    def _drop(self, nodes: Iterable[int], out: list[Command]) -> None:
        """Have those of these nodes dropped whose results nothing needs any more."""
        due = tuple(
            node
            for node in sorted(nodes)
            if self.takers.get(node) == 0 and self.phase[node] == Phase.COMPLETED and node not in self._dropped
        )
        if due:
            self._dropped.update(due)
            out.append(Drop(due))

    def _on_changed(self, nodes: Collection[int], out: list[Command]) -> None:
        for node in nodes:
            if not 0 <= node < len(self.phase) or self.phase[node] != Phase.COMMITTING or node in self._failing:
                raise InternalError(f"node {node} has another result, and none that is to be committed")
        self._changed.update(nodes)
        outdated = [
            child
            for node in nodes
            for child in self.graph.child_indices(node)
            if self._held.pop(child, None) is not None or child in self._gone
        ]
        # What was gone is stale from here on: until it is made again, what was made from it is in doubt.
        self._gone.difference_update(outdated)
        if outdated:
            out.append(Invalidate(tuple(dict.fromkeys(outdated))))

    def _settle(self, node: int, phase: Phase, out: list[Command], restored: list[int]) -> None:
        """Make a node final and let its children know; iterative, as chains are long."""
        if phase != Phase.COMPLETED:
            self._is_some_missing = True
        todo = [(node, phase)]
        while todo:
            node, phase = todo.pop()
            self.phase[node] = phase
            self.unsettled -= 1
            if self.takers and phase == Phase.COMPLETED:
                for parent in self._taken(node):
                    if parent in self.takers:
                        self.takers[parent] -= 1
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
        running = [] if event.running is None else [event.running]
        self._dispatcher.check_slot(event.slot, [*map(_node_of, event.ended), *running, *event.unstarted])
        kill = self._dispatcher.slot_lost(event.slot)
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

    def _on_cancel(self, event: CancelRequested, out: list[Command]) -> None:
        if self.cancelled:
            return
        self.cancelled, self.timed_out = True, event.timed_out
        self._backoff.clear()
        for node, phase in enumerate(self.phase):
            if phase in (Phase.WAITING, Phase.READY, Phase.BACKOFF):
                self._stop(node, Phase.CANCELLED)
        out += self._dispatcher.cancel()

    def _stop(self, node: int, phase: Phase) -> None:
        self.phase[node] = phase
        self.stopped.add(node)
        self.unsettled -= 1

    def _make_ready(self, node: int) -> None:
        self.phase[node] = Phase.READY
        self._dispatcher.add(node)

    def _put_back(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            self.attempts[node] -= 1
            if self.cancelled:
                self._stop(node, Phase.CANCELLED)
            else:
                self._make_ready(node)

    def _fill(self, now: float, out: list[Command]) -> None:
        for command in self._dispatcher.fill(now, self._freed if self._completing else None):
            for node in command.nodes:
                self.phase[node] = Phase.RUNNING
                self.attempts[node] += 1
            out.append(command)

    def _freed(self) -> Iterator[int]:
        """Yield the nodes that can start once all that is being committed is."""
        pending: dict[int, int] = {}
        for node in self._completing:
            for child in self.graph.child_indices(node):
                if self.phase[child] == Phase.WAITING:
                    pending[child] = n = pending.get(child, self.pending[child]) - 1
                    if not n:
                        yield child


_node_of = itemgetter(0)  # of an AttemptEnded

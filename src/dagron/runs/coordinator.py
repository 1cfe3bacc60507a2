"""The loop of a run: tells the state what happened, and carries out what the state commands.

The loop decides nothing. What it needs to know of a node comes with a command, or is one of the questions that
`RunState` answers. Whoever is to be told of the run is told by `listeners`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dagron.callbacks import ExecutionCallbacks
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.outputs import OutputFile
from dagron.checkpoint.writing.committing import PendingCommit
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt, Outcome, OutcomeKind
from dagron.engines.protocol import Copied, Damage, Engine, Happened, Lost, Returned, Spawned, TakesCopies
from dagron.errors import CommitError, InternalError
from dagron.graph.dag import DAG
from dagron.runs import events as ev
from dagron.runs.blame import Blame, is_full
from dagron.runs.interrupts import Interrupts
from dagron.runs.listeners import OUTPUT_SECONDS, Listeners
from dagron.runs.losses import Failure, error_of_loss, with_source_of_fault
from dagron.runs.observing import Watch
from dagron.runs.output import RecordedOutput
from dagron.runs.plan import RunPlan
from dagron.runs.retries import Retries
from dagron.runs.state import RunState
from dagron.shown import iso_time

if TYPE_CHECKING:
    from dagron.results.trace import ExecutionTrace

__all__ = ["CancelEvent", "Coordinator"]

logger = logging.getLogger("dagron")

_CANCEL_POLL_SECONDS = 0.05
"""How often a cancel event is asked, which takes microseconds, also of a `multiprocessing.Event`."""

_TEND_SECONDS = 1.0
"""How long to wait at most where no engine runs: the metadata are written once a second."""

_COPIES_PER_ATTEMPT = 2
"""How many copies go with an attempt: more than one, so that those that lag behind become fewer."""

_SHORT_SECONDS = 0.05
"""A slot that is expected to be busy for no longer gets copies to write when it is done.

There the time of this process is what is scarce: in a stencil of nodes of 1 ms the copies took 70 of its 330 us a node.
"""

_LULL_SECONDS = 0.002
"""How long nothing happens before copies are written here: longer than nodes of 1 ms leave this process idle."""


_new: Any = tuple.__new__
"""Makes a named tuple of a tuple, in a third of the time that its own constructor takes: each node has several."""

_NOT_YET_KNOWN = (-1, "", "", 0, 0)
"""What a commit says from `payload_offset` to `sequence`, before the store has it."""


class CancelEvent(Protocol):
    """Anything that can be asked whether to stop, such as a `threading.Event` or a `multiprocessing.Event`."""

    def is_set(self) -> bool:
        """Whether the run is to stop."""
        ...


class Clock(Protocol):
    """Time as the loop knows it; the module `time` is one."""

    def monotonic(self) -> float:
        """Return the seconds since some moment."""
        ...

    def sleep(self, seconds: float, /) -> object:
        """Wait."""
        ...


class Coordinator:
    """One run.

    Args:
        dag: The DAG.
        plan: What is known about its nodes.
        state: Where the run stands.
        store: The checkpoint, begun.
        start_pool: Starts the workers; called only if there is something to run.
        callbacks: Of the user.
        watch: Tells the observer.
        trace: Takes the spans, or None.
        run_timeout: Seconds from now after which the run is cancelled, or None.
        cancel_event: Cancels the run when it is set, or None.
        interrupts: Holds signals back while a step is made.
        pass_output: Whether what tasks print is handed on.
        clock: Of this loop.

    Attributes:
        failures: The last failure of each node that had one, by index.
        cancel_reason: Why the run was cancelled; empty if it was not.
    """

    def __init__(
        self,
        *,
        dag: DAG,
        plan: RunPlan,
        state: RunState,
        store: CheckpointStore,
        start_pool: Callable[[], Engine],
        callbacks: ExecutionCallbacks,
        watch: Watch,
        trace: ExecutionTrace | None,
        run_timeout: float | None,
        cancel_event: CancelEvent | None,
        interrupts: Interrupts,
        pass_output: bool = True,
        clock: Clock = time,
    ) -> None:
        self.failures: dict[int, Failure] = {}
        self.cancel_reason = ""
        self._dag = dag
        self._plan = plan
        self._state = state
        self._store = store
        self._start_pool = start_pool
        self._pool: Engine | None = None
        self._copier: TakesCopies | None = None
        self._watch = watch
        self._listeners = Listeners(
            dag, store, callbacks, watch, trace, interrupts, clock.monotonic, pass_output=pass_output
        )
        self._blame = Blame(dag, plan, store)
        self._recorded = RecordedOutput()
        self._retries = Retries()
        self._run_text = iso_time(store.began_unix)
        self._clock = clock
        self._began = clock.monotonic()
        self._run_timeout = run_timeout
        self._deadline = None if run_timeout is None else self._began + run_timeout
        self._cancel_event = cancel_event
        self._interrupts = interrupts
        self._outcomes: dict[int, tuple[int, Outcome]] = {}  # of completed attempts, until they are committed
        self._losses: dict[int, Lost] = {}  # by the node in hand, until the state has said how that ended

    @property
    def n_retries(self) -> int:
        """How many attempts failed that another one followed, or was to."""
        return self._watch.n_retries

    def run(self) -> None:
        """Run until the state is finished. Blocks; callbacks run in this thread.

        Raises:
            CommitError: The disk refused.
            WorkerStartError: No worker can be started.
            KeyboardInterrupt: From the user; nothing is left running.

        Guarantees:
            No worker, and nothing that a task started, is left when it returns or raises.

        On crash:
            The checkpoint has a prefix of the commits; the server of the workers ends all that is left.
        """
        state = self._state
        try:
            self._listeners.tell("run_started")
            now = self._clock.monotonic()
            self._carry_out(self._cancelled(now))  # before anything starts, if there is no need for it any more
            self._carry_out(state.handle(ev.Started(now)))
            while not state.finished:
                self._interrupts.check()
                self._step()
        except BaseException as error:
            if self._outcomes and not isinstance(error, CommitError) and not self._store.is_forked:
                self._commit_the_rest()
            if isinstance(error, CommitError) and is_full(error.__cause__):
                # Who runs first, then who has said that it was refused: so none is missed that says so meanwhile.
                running = self._watch.names_running(self._pool)
                happened = self._pool.wait(0) if self._pool is not None else []
                raise self._blame.writers(error, running, happened) from error.__cause__
            raise
        finally:
            pool, self._pool = self._pool, None
            try:
                if pool is not None:
                    pool.stop()
                    self._listeners.hand_on_output(pool)
                    pool.close()
            finally:
                self._listeners.tell("run_ended")

    def _step(self) -> None:
        state = self._state
        happened = self._wait()
        now = self._clock.monotonic()
        commands: list[ev.Command] = []
        for what in happened:
            match what:
                case Returned():
                    commands += self._on_returned(what, now)
                case Lost():
                    commands += self._on_lost(what, now)
                case Spawned(processes, namespace):
                    self._store.note_processes(processes, namespace)
                case Copied(slot, n, refused):
                    self._store.copied(slot, n)
                    if refused:
                        self._store.not_copied(slot)  # writing them here tells what is wrong
        if (due := state.wake_at) is not None and due <= now:
            commands += state.handle(ev.TimeReached(now))
        commands += self._cancelled(now)
        self._carry_out(commands)
        if now >= self._listeners.output_due and self._pool is not None:
            self._listeners.hand_on_output(self._pool)
        if (due := self._watch.due) is not None and due <= now:
            self._listeners.tell("run_moved", self._pool)

    def _wait(self) -> list[Happened]:
        pool = self._pool
        if pool is not None and self._store.lags:
            # Between short nodes there is no time for what may lag behind; their workers have it.
            happened = pool.wait(_LULL_SECONDS)
            if happened:
                return happened
        while self._store.tend(lambda: self._watch.slots_now(self._pool)):
            happened = pool.wait(0) if pool is not None else []
            if happened:
                return happened
        seconds = _TEND_SECONDS if pool is None else OUTPUT_SECONDS
        if self._cancel_event is not None:
            seconds = _CANCEL_POLL_SECONDS
        now = self._clock.monotonic()
        for due in (self._state.wake_at, self._deadline, self._watch.due):
            if due is not None:
                seconds = min(seconds, max(0.0, due - now))
        if pool is None or not self._state.n_running:
            with self._interrupts.allowed():
                self._clock.sleep(seconds)
            return []
        return pool.wait(seconds)

    def _cancelled(self, now: float) -> list[ev.Command]:
        if self._state.cancelled:
            return []
        if self._cancel_event is not None and self._cancel_event.is_set():
            self.cancel_reason = "the run was cancelled"
            return self._state.handle(ev.CancelRequested(now))
        if self._deadline is not None and now >= self._deadline:
            self.cancel_reason = f"the run took longer than {str(self._run_timeout).removesuffix('.0')} s"
            return self._state.handle(ev.CancelRequested(now, timed_out=True))
        return []

    # --- what happened --------------------------------------------------------------------------------------------

    def _on_returned(self, returned: Returned, now: float) -> list[ev.Command]:
        damage = self._told_of_damage(returned.damage)
        ended = [self._take_outcome(returned.slot, outcome, damage) for outcome in returned.outcomes]
        return self._state.handle(ev.BatchReturned(returned.slot, ended, returned.unstarted, now))

    def _on_lost(self, lost: Lost, now: float) -> list[ev.Command]:
        self._store.worker_lost = True
        self._store.not_copied(lost.slot)
        damage = self._told_of_damage(lost.damage)
        ended = [self._take_outcome(lost.slot, outcome, damage) for outcome in lost.outcomes]
        if lost.running is not None:
            self._store.scratches.note(self._dag.name_of(lost.running))
            self._losses[lost.running] = lost
        return self._state.handle(ev.SlotLost(lost.slot, ended, lost.running, lost.unstarted, now))

    def _told_of_damage(self, damage: Damage | None) -> str:
        """Tell what attempts have done to their process, and return it as text."""
        if damage is None:
            return ""
        names = " or ".join(repr(self._dag.name_of(node)) for node in damage.nodes)
        if damage.restored:
            logger.info("node %s has changed its process; put back: %s", names, ", ".join(damage.restored))
        found = ", ".join(damage.found)
        if found:
            logger.warning("node %s has damaged its process, so another takes its place: %s", names, found)
        return found

    def _take_outcome(self, slot: int, outcome: Outcome, damage: str = "") -> ev.AttemptEnded:
        node, kind, figures, blob, fault, printed, has_scratch, _ = outcome
        attempt = self._state.attempts_of(node)
        completed = kind == OutcomeKind.COMPLETED
        error, retryable = "", False
        if completed:
            self._outcomes[node] = (slot, outcome)
            if printed != NOTHING_PRINTED:
                self._recorded.take(node, printed)
        else:
            if kind == OutcomeKind.DISK:
                outcome = self._blame.process(outcome, damage)
            elif kind == OutcomeKind.UNLOADABLE_INPUT:
                outcome = self._blame.parent(outcome)
            outcome = with_source_of_fault(outcome)
            fault = outcome.fault
            failure = self.failures[node] = Failure(outcome, None, attempt, slot, printed)
            error, retryable = failure.text, fault is not None and fault.retryable
            if kind == OutcomeKind.DAMAGED_INPUT:
                self._blame.damaged_inputs(node)
        if has_scratch:
            self._store.scratches.note(self._dag.name_of(node))
        end = ev.End.COMPLETED if completed else ev.End.RAISED
        self._listeners.attempt_ended(node, slot, attempt, end, figures, blob.size if blob is not None else 0, error)
        ended: ev.AttemptEnded = _new(ev.AttemptEnded, (node, completed, retryable, figures.duration_seconds))
        return ended

    # --- what is to be done ---------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[ev.Command]) -> None:
        state = self._state
        while commands:
            completed: list[int] = []
            failed: list[int] = []
            more: list[ev.Command] = []
            for command in commands:
                match command:
                    case ev.CommitResults(nodes):
                        completed += nodes
                    case ev.Dispatch(slot, nodes):
                        self._dispatch(slot, nodes)
                    case ev.CommitFailures(nodes):
                        failed += nodes
                    case ev.Skip(nodes, _):
                        self._listeners.skipped(nodes)
                    case ev.NoteLoss():
                        self._note_loss(command)
                    case ev.Retry(node, delay_seconds):
                        self._retry(node, delay_seconds)
                    case ev.Restore(nodes):
                        self._listeners.restored(nodes)
                    case ev.Kill(slot):
                        # A grace would give the task time to take more memory.
                        self._workers().kill(slot, at_once=command.end == ev.End.OUT_OF_MEMORY)
                    case ev.Invalidate(nodes):
                        self._store.invalidate([self._dag.name_of(node) for node in nodes], "a parent's result changed")
                    case ev.Drop(nodes):
                        self._store.drop([self._dag.name_of(node) for node in nodes])
                    case ev.Observe(slot, memory_limit):
                        seen = self._workers().observe(slot, memory_limit)
                        memory = (seen.memory_bytes, seen.before_bytes)
                        now = self._clock.monotonic()
                        more += state.handle(ev.SlotObserved(slot, seen.node, seen.seconds, now, *memory))
            # Whatever came in together is committed together: one append and one flush for all of it.
            if completed or failed:
                committed = [*completed, *failed]
                if late := self._retries.settle(committed):
                    self._store.note_retried(late)
                self._commit(completed)
                self._record(failed)
                self._watch.settled(committed)
                more += state.handle(ev.Committed(committed, self._clock.monotonic()))
                self._listeners.committed(completed, failed, self.failures, self._pool)
            commands = more

    def _note_loss(self, loss: ev.NoteLoss) -> None:
        node, lost = loss.node, self._losses.pop(loss.node)
        name, text = self._dag.name_of(node), ""
        if loss.end != ev.End.PUT_BACK:
            loading = "" if lost.loading is None else self._blame.name_of_input(node, lost.loading)
            error = error_of_loss(name, loss, self._plan.policies[node], lost, loading)
            self.failures[node] = Failure(None, error, loss.attempt, lost.slot, lost.printed, lost, loss.end)
            text = "" if loss.end == ev.End.CANCELLED else self.failures[node].text
        self._listeners.attempt_ended(node, lost.slot, loss.attempt, loss.end, lost.figures, error=text)

    def _retry(self, node: int, delay_seconds: float) -> None:
        name, failure = self._dag.name_of(node), self.failures[node]
        if at_once := self._retries.take(node, name, failure):
            self._store.note_retried(at_once)
        self._listeners.retried(node, failure, self._plan.policies[node].retries + 1, delay_seconds)

    def _workers(self) -> Engine:
        if self._pool is None:
            self._pool = self._start_pool()
            self._copier = self._pool if isinstance(self._pool, TakesCopies) else None
            self._interrupts.on_hold = self._pool.wake
            self._interrupts.on_force = self._pool.abandon
        return self._pool

    def _dispatch(self, slot: int, nodes: Sequence[int]) -> None:
        dag, plan, store = self._dag, self._plan, self._store
        attempts = []
        for node in nodes:
            binding = plan.bindings[node]
            if binding.positional or binding.keywords:
                parents = dag.parent_indices(node)
                inputs = tuple(store.source(dag.name_of(parents[position])) for position in binding.consumed)
            else:
                inputs = ()
            limited = plan.policies[node].memory_limit is not None
            own, parts = plan.tasks.own[node], plan.tasks.parts[node]
            number = self._state.attempts_of(node)
            outputs = plan.outputs.get(node, ()) if plan.outputs else ()
            fields = node, dag.name_of(node), own, parts, binding, inputs, limited, number, self._run_text, outputs
            attempts.append(_new(Attempt, fields))
        if plan.policies[nodes[0]].exclusive:
            store.write_copies()  # an exclusive node runs beside nothing of ours
        self._listeners.started(nodes)
        pool = self._workers()
        # With short nodes the time of this process is what is scarce.
        if self._copier is not None and self._state.expected_seconds(slot) <= _SHORT_SECONDS:
            self._copier.give_copies(slot, store.copies_for(slot, _COPIES_PER_ATTEMPT * len(attempts)))
        pool.submit(slot, attempts)

    def _commit(self, nodes: Sequence[int]) -> None:
        if not nodes:
            return
        dag, state, store = self._dag, self._state, self._store
        name_of, pop_printed = dag.name_of, self._recorded.pop
        pending = []
        changed: list[int] = []
        doubtful: set[str] = set()
        for node in nodes:
            slot, outcome = self._outcomes.pop(node)
            assert outcome.blob is not None
            storage, size, digest, data, temp_name, identity, value_digest, compressed_size = outcome.blob
            missing = state.parents_without_result(node)
            name = name_of(node)
            attempts, fingerprint = state.attempts_of(node), dag.parents_fingerprint(node)
            without = tuple(map(name_of, missing)) if missing else ()
            of_attempt = name, storage, slot, attempts, size, digest, fingerprint, outcome.figures, without
            commit = _new(Commit, (*of_attempt, *_NOT_YET_KNOWN, value_digest, (), compressed_size))
            if outcome.outputs:
                paths = self._plan.policies[node].outputs
                commit = commit._replace(outputs=tuple(map(OutputFile, paths, outcome.outputs)))
            in_doubt = state.is_in_doubt(node)
            if in_doubt:
                doubtful.add(name)
            if store.differs(commit, in_doubt=in_doubt):
                changed.append(node)
            pending.append(_new(PendingCommit, (commit, data, temp_name, pop_printed(node), identity)))
        if changed:
            # Before the commit: a kill between the two must not leave a child that took the old result.
            self._carry_out(state.handle(ev.Changed(changed)))
        store.commit(pending, doubtful)

    def _commit_the_rest(self) -> None:
        """Commit what has come in when something cuts the run short."""
        try:
            self._commit([*self._outcomes])
        except (CommitError, InternalError) as error:
            logger.warning("%s; the last nodes that completed run again", error)

    def _record(self, nodes: Sequence[int]) -> None:
        if not nodes:
            return
        self._store.fail([self.failures[node].record(self._dag.name_of(node)) for node in nodes])

    def report_restored(self, nodes: Sequence[int]) -> None:
        """Tell the callbacks and the trace about nodes that were restored at once."""
        self._listeners.restored(nodes)

"""A pool that does what a script says, and a run that is driven by it: the real coordinator, state and checkpoint.

A script is a generator. It is handed the pool and yields what `wait` returns, which it makes with `ran` and `lost`;
what it yields None for has not happened, and time goes on as far as the run would have waited. So a test says what
happens in which order, and nothing waits for a clock or a process. Tasks that a script lets run do so in this process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dagron import DAG, ExecutionCallbacks
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.engines.attempt import WorkerSetup
from dagron.engines.inline import InlineEngine
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt
from dagron.engines.protocol import Features, Lost, Observed, Returned
from dagron.figures import Figures
from dagron.results.trace import ExecutionTrace
from dagron.runs.coordinator import Coordinator
from dagron.runs.interrupts import Interrupts
from dagron.runs.observing import Watch
from dagron.runs.options import Options
from dagron.runs.plan import plan_run
from dagron.runs.restore import RestorePlan, plan_restore
from dagron.runs.state import RunState

Script = Callable[["ScriptedPool"], Iterator[Sequence[Returned | Lost] | None]]


SHORT_SECONDS = 1e-4
"""What each attempt takes that is made: many of them make a batch."""


class ScriptedClock:
    """Time that goes on only as far as somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ScriptedPool:
    """Slots without processes; implements `Engine`.

    Attributes:
        batches: What each slot has, the oldest first.
        seen: What `observe` returns for a slot, if a script has said so.
        calls: What the coordinator asked for, in order: `("submit", slot, names)` and `("kill", slot, at_once)`.
    """

    features = Features(kills=True, observes_memory=True, replaces=True, captures=True, batches=True, max_batches=2)

    def __init__(self, n_slots: int, setup: WorkerSetup, script: Script, clock: ScriptedClock) -> None:
        self.n_slots = n_slots
        self.batches: list[deque[Sequence[Attempt]]] = [deque() for _ in range(n_slots)]
        self.seen: dict[int, Observed] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.clock = clock
        self.closed = False
        self._setup = setup
        self._script = script(self)

    # --- for scripts

    def ran(self, slot: int, n: int | None = None) -> Returned:
        """Run the first `n` of the oldest batch of a slot, all of them by default; the others were not begun."""
        batch = self.batches[slot].popleft()
        n = len(batch) if n is None else n
        outcomes = self._outcomes(batch[:n])
        return Returned(slot, outcomes, [attempt.node for attempt in batch[n:]])

    def lost(self, slot: int, n: int = 0, *, idle: bool = False, exit_code: int = -9, seconds: float = 0.25) -> Lost:
        """Let the worker of a slot make `n` attempts and die in the next one; between two with `idle`."""
        attempts = [attempt for batch in self.batches[slot] for attempt in batch]
        self.batches[slot].clear()
        self.seen.pop(slot, None)
        outcomes = self._outcomes(attempts[:n])
        rest = [attempt.node for attempt in attempts[n:]]
        running = rest.pop(0) if rest and not idle else None
        figures = Figures(time.time() - seconds, seconds)
        return Lost(slot, outcomes, running, rest, exit_code, figures, NOTHING_PRINTED, 4711)

    def observed(self, slot: int, *, seconds: float = 0.0, memory: int = 0, before: int = 0, nth: int = 0) -> None:
        """Say what is to be seen of a slot from now on: its `nth` node, running for that long."""
        node = [attempt.node for batch in self.batches[slot] for attempt in batch][nth]
        self.seen[slot] = Observed(node, seconds, memory, before)

    def names(self, slot: int) -> list[str]:
        """The nodes that a slot has."""
        return [attempt.name for batch in self.batches[slot] for attempt in batch]

    def _outcomes(self, attempts: Sequence[Attempt]) -> list[Any]:
        inline = InlineEngine(self._setup)
        inline.submit(0, attempts)
        (returned,) = inline.wait(0)
        # How long it took here is no business of a script, and decides what is sent together next.
        return [
            outcome._replace(figures=outcome.figures._replace(duration_seconds=SHORT_SECONDS))
            for outcome in returned.outcomes
        ]

    # --- for the coordinator

    def submit(self, slot: int, attempts: Sequence[Attempt]) -> None:
        self.calls.append(("submit", slot, [attempt.name for attempt in attempts]))
        self.batches[slot].append(list(attempts))

    def wait(self, timeout_seconds: float | None) -> list[Returned | Lost]:
        assert timeout_seconds is not None
        try:
            happened = next(self._script)
        except StopIteration:
            raise AssertionError("the script is over, and the run is not") from None
        if happened is None:
            self.clock.sleep(timeout_seconds)
        return list(happened or ())

    def wake(self) -> None: ...

    def abandon(self) -> None: ...

    def kill(self, slot: int, *, at_once: bool = False) -> None:
        self.calls.append(("kill", slot, at_once))

    def observe(self, slot: int, memory_limit: int | None = None) -> Observed:
        return self.seen.get(slot, NOTHING)

    def output(self) -> Iterator[tuple[int, bytes]]:
        return iter(())

    def stop(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


NOTHING = Observed()


class ScriptedRun:
    """One run of tasks by a script; `resume` goes on from what the directory has.

    Attributes:
        pool: The pool, once it was started.
        trace: What ran.
        coordinator: Whose failures can be looked at.
        store: Open until `close`; also a context manager.
    """

    def __init__(
        self,
        path: Path,
        tasks: dict[str, Any],
        script: Script,
        *,
        edges: Sequence[tuple[str, str]] = (),
        n_slots: int = 1,
        resume: bool = False,
        callbacks: ExecutionCallbacks | None = None,
        run_timeout: float | None = None,
        cancel_event: Any = None,
        recorded_seconds: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        self.dag = dag = DAG(list(tasks), edges)
        self.store = store = CheckpointStore(path, durability="process")
        plan = plan_run(dag, tasks, Options(**options))
        store.open()
        structure = dag.structure_digest()
        commits = store.begin(fresh=not resume, nodes=dag.nodes, structure=structure, edges=dag.parent_arrays)
        restore = plan_restore(dag, commits, store.stale, same_structure=True) if commits else RestorePlan()
        self.clock = ScriptedClock()
        self.state = RunState(
            dag,
            policies=plan.policies,
            kinds=plan.kinds,
            n_slots=n_slots,
            consumes=partial(plan.consumes, dag),
            restored=restore.restored,
            held=restore.held,
            max_batches=ScriptedPool.features.max_batches,
            recorded_seconds=recorded_seconds,
        )
        self.trace = ExecutionTrace(n_slots, time.time())
        self.pool = ScriptedPool(n_slots, WorkerSetup(str(path), store.digests, False), script, self.clock)
        self.coordinator = Coordinator(
            dag=dag,
            plan=plan,
            state=self.state,
            store=store,
            start_pool=lambda: self.pool,
            callbacks=callbacks or ExecutionCallbacks(),
            watch=Watch(dag, self.state, None, None, time.monotonic()),
            trace=self.trace,
            run_timeout=run_timeout,
            cancel_event=cancel_event,
            interrupts=Interrupts(),
            clock=self.clock,
        )

    def run(self) -> ScriptedRun:
        try:
            self.coordinator.run()
            self.store.end()
        finally:
            self.store.close()
        return self

    @property
    def spans(self) -> list[tuple[str, int, str]]:
        """The node, the attempt and the outcome of each."""
        return [(span.name, span.attempt, span.outcome) for span in self.trace.spans]

    @property
    def failures(self) -> dict[str, Any]:
        return {self.dag.name_of(node): failure for node, failure in self.coordinator.failures.items()}

"""How far a run is and what it runs now, for those who watch it: for a bounded share of the time of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dagron.callbacks import RunningNode, RunObserver, RunSnapshot
from dagron.engines.protocol import Engine
from dagron.graph.dag import DAG
from dagron.runs.outlook import Outlook
from dagron.runs.phases import Phase
from dagron.runs.state import RunState

__all__ = ["Watch"]

_OBSERVE_SECONDS = 0.1
"""Between two looks of an observer, at least. Never varied: ten a second look fluent to a person."""

_OBSERVE_SHARE = 0.008
"""The share of the run that the observer may take. A bar with a row for each slot takes milliseconds to draw."""

_MEMORY_SECONDS, _MEMORY_SHARE = 1.0, 0.001
"""Between two looks at the memory of all workers, at least, and the share of the run that they may take.

A look at one worker and what it has started takes about a millisecond. Neither number was varied.
"""

_NO_LIMIT = 2**62
"""A limit that no memory comes to, so that shared pages are not divided, which takes milliseconds more."""


class Watch:
    """Watches one run.

    Args:
        dag: The DAG.
        state: Where the run stands.
        observer: Whom to tell, or None.
        outlook: How long it will take; only needed for an observer.
        began: When the run began, on `time.monotonic`.

    Attributes:
        n_retries: How many further attempts nodes got.
    """

    def __init__(
        self, dag: DAG, state: RunState, observer: RunObserver | None, outlook: Outlook | None, began: float
    ) -> None:
        self._dag = dag
        self._state = state
        self._observer = observer
        self._outlook = outlook
        self._began = began
        self.n_retries = 0
        self._due = 0.0
        self._memory: dict[int, int] = {}
        self._memory_due = began + _MEMORY_SECONDS

    # --- what happens -----------------------------------------------------------------------------------------------

    def settled(self, nodes: Iterable[int]) -> None:
        """Note nodes that need no further attempt."""
        if self._outlook is not None:
            self._outlook.settled(nodes)

    def attempt_ended(self, node: int, seconds: float, *, completed: bool) -> None:
        """Note what an attempt took."""
        if self._outlook is not None:
            self._outlook.attempt_ended(node, seconds, completed=completed)

    def retried(self) -> None:
        """Note that a node gets a further attempt."""
        self.n_retries += 1

    # --- who wants to know ------------------------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When the observer is to be told again, on `time.monotonic`; None if there is none."""
        return None if self._observer is None else self._due

    def tell(self, what: str, pool: Engine | None, call: Callable[..., None]) -> None:
        """Tell the observer how far the run is.

        Args:
            what: The method of the observer.
            pool: What runs the nodes, or None if nothing does.
            call: Calls a function whose failure is not ours.
        """
        if self._observer is None:
            return
        # Time of this thread: what others do meanwhile is not its cost.
        began = time.thread_time()
        call(getattr(self._observer, what), self.snapshot(pool))
        cost = time.thread_time() - began
        self._due = time.monotonic() + max(_OBSERVE_SECONDS, cost / _OBSERVE_SHARE)

    def snapshot(self, pool: Engine | None) -> RunSnapshot:
        """Return how far the run is."""
        state = self._state
        running, preparing = self._seen(pool)
        elapsed = time.monotonic() - self._began
        left = None
        if self._outlook is not None:
            left = self._outlook.seconds_left(elapsed, [(node, seconds) for node, _, seconds, _ in running])
        return RunSnapshot(
            len(self._dag),
            state.count(Phase.COMPLETED),
            state.n_restored,
            state.count(Phase.FAILED),
            state.count(Phase.SKIPPED),
            state.count(Phase.CANCELLED),
            tuple(
                RunningNode(self._dag.name_of(node), slot, seconds, memory) for node, slot, seconds, memory in running
            ),
            elapsed,
            left,
            preparing,
            self.n_retries,
            state.count(Phase.TIMED_OUT),
        )

    def names_running(self, pool: Engine | None) -> list[str]:
        """Return the nodes that run now."""
        running, _ = self._seen(pool)
        return [self._dag.name_of(node) for node, *_ in running]

    def slots_now(self, pool: Engine | None) -> dict[str, Any]:
        """Return what the slots do now, for `_meta.json`."""
        now = time.time()
        running, preparing = self._seen(pool)
        return {
            "running": [
                {"node": self._dag.name_of(node), "slot": slot, "started_unix": now - seconds, "memory_bytes": memory}
                for node, slot, seconds, memory in running
            ],
            "preparing": [now - seconds for seconds in preparing],
        }

    def _seen(self, pool: Engine | None) -> tuple[Sequence[tuple[int, int, float, int]], tuple[float, ...]]:
        """Return what runs, and for how long workers have been preparing themselves."""
        if pool is None:
            return (), ()
        now = time.monotonic()
        if now >= self._memory_due:
            began = time.thread_time()
            self._memory = {slot: pool.observe(slot, _NO_LIMIT).memory_bytes for slot in range(pool.n_slots)}
            self._memory_due = now + max(_MEMORY_SECONDS, (time.thread_time() - began) / _MEMORY_SHARE)
        seen = [(slot, pool.observe(slot)) for slot in range(pool.n_slots)]
        running = [(at.node, slot, at.seconds, self._memory.get(slot, 0)) for slot, at in seen if at.node is not None]
        return running, tuple(at.seconds for _, at in seen if at.is_preparing)

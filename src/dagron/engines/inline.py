"""The engine for debuggers: one slot, in the calling thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from dagron.crossing.parts import Own, Part, ReceivedParts
from dagron.engines.attempt import WorkerSetup, call_init, make_attempt
from dagron.engines.outcomes import NOTHING_PRINTED, Attempt
from dagron.engines.protocol import Features, Happened, Lost, Observed, Returned, WorkerInit
from dagron.figures import NO_FIGURES

__all__ = ["InlineEngine"]


class InlineEngine:
    """One slot that makes its attempts in the calling thread, within `wait`, for debuggers. Cannot kill.

    Args:
        setup: What a worker has to know.
        around: Entered while an attempt is made.
    """

    features = Features(
        kills=False,
        observes_memory=False,
        replaces=False,
        captures=False,
        batches=False,
        max_batches=1,
        is_for_debugging=True,
    )

    def __init__(self, setup: WorkerSetup, around: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.n_slots = 1
        self._setup = setup
        self._around = around
        self._batches: deque[Sequence[Attempt]] = deque()
        self._lost: list[Happened] = []
        self._init: WorkerInit | None = None

    def prepare(self, init: WorkerInit) -> None:
        """Call something once in this thread before the first attempt."""
        self._init = init

    def submit(self, slot: int, attempts: Sequence[Attempt]) -> None:
        """Keep a batch for the next `wait`: what is done must not wait for the end of what comes next."""
        self._batches.append(attempts)

    def wait(self, timeout_seconds: float | None) -> list[Happened]:
        """Run the oldest batch and return its outcomes.

        Raises:
            KeyboardInterrupt: From the user, as anywhere in this thread.
            WorkerInitError: What was to be called first failed.
        """
        if self._lost:
            lost, self._lost = self._lost, []
            return lost
        if not self._batches:
            return []  # nothing can happen, however long it is waited for
        batch = self._batches.popleft()
        with self._around():
            self._call_init()
            outcomes = [make_attempt(attempt, _load_task, self._setup, interruptible=True) for attempt in batch]
        return [Returned(0, outcomes, [])]

    def _call_init(self) -> None:
        init, self._init = self._init, None
        if init is not None:
            call_init(lambda: _loaded(*init), interruptible=True)

    def wake(self) -> None:
        """Do nothing: `wait` has nothing to wait for."""

    def abandon(self) -> None:
        """Do nothing."""

    def kill(self, slot: int, *, at_once: bool = False) -> None:
        """Drop what has not begun; nothing runs while this is called."""
        unstarted = [attempt.node for batch in self._batches for attempt in batch]
        self._batches.clear()
        self._lost.append(Lost(slot, [], None, unstarted, None, NO_FIGURES, NOTHING_PRINTED))

    def observe(self, slot: int, memory_limit: int | None = None) -> Observed:
        """Return that nothing runs."""
        return Observed()

    def output(self) -> Iterator[tuple[int, bytes]]:
        """Yield nothing: what is written here goes where everything goes."""
        return iter(())

    def stop(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _load_task(attempt: Attempt) -> tuple[object, object]:
    return _loaded(attempt.task, attempt.parts)


def _loaded(own: Own, parts: tuple[Part, ...]) -> tuple[object, object]:
    loaded = ReceivedParts(binds=False)
    for part in parts:
        loaded.add(*part)
    task: tuple[object, object] = loaded.load(own, tuple(part.number for part in parts))
    return task

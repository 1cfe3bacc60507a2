"""The engine of a run: which one the options ask for, what is known of it before it starts, and when it starts.

The engines themselves are imported when they start: a run that restores everything needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dagron.engines.awake import since as plain_since
from dagron.engines.local.cores import available_cpus, spread_cpus
from dagron.runs.options import Options

if TYPE_CHECKING:
    from dagron.engines.attempt import WorkerSetup
    from dagron.engines.protocol import Engine, Features, WorkerInit
    from dagron.runs.interrupts import Interrupts

__all__ = ["ChosenEngine", "LazyEngine", "choose_engine"]


class ChosenEngine(NamedTuple):
    """An engine that a run is going to have.

    Attributes:
        features: What it can do.
        n_slots: How many attempts it makes at the same time.
        start: Starts it, given what its workers have to know, and what holds back signals during the run.
    """

    features: Features
    n_slots: int
    start: Callable[[WorkerSetup, Interrupts], Engine]


def choose_engine(options: Options, since: Callable[[float], float] = plain_since) -> ChosenEngine:
    """Return the engine that the options ask for.

    Args:
        options: What is asked for.
        since: Tells how long ago a moment of `time.monotonic` was, as far as timeouts go.
    """
    return _inline() if options.pool == "inline" else _local(options, since)


def _inline() -> ChosenEngine:
    from dagron.engines.inline import InlineEngine

    def start(setup: WorkerSetup, interrupts: Interrupts) -> Engine:
        return InlineEngine(setup, interrupts.allowed)

    return ChosenEngine(InlineEngine.features, 1, start)


def _local(options: Options, since: Callable[[float], float]) -> ChosenEngine:
    from dagron.engines.local.features import FEATURES

    n = options.n_workers

    def start(setup: WorkerSetup, interrupts: Interrupts) -> Engine:
        from dagron.engines.local.pool import ProcessPool

        return ProcessPool(
            n,
            setup,
            kill_grace_seconds=options.kill_grace_seconds,
            n_threads=max(1, len(available_cpus()) // n),
            cpus=spread_cpus()[:n] if options.pins else None,
            max_tasks=options.max_tasks_per_worker,
            since=since,
        )

    return ChosenEngine(FEATURES, n, start)


class LazyEngine:
    """Starts an engine when it is first asked for it.

    Args:
        start: Starts the engine.

    Attributes:
        init: What each worker calls before its first attempt; None for nothing. Known when the tasks are pickled.
    """

    def __init__(self, start: Callable[[], Engine]) -> None:
        self._start = start
        self._engine: Engine | None = None
        self.init: WorkerInit | None = None

    def __call__(self) -> Engine:
        """Return the engine, started and prepared as far as that is known."""
        if self._engine is None:
            self._engine = self._start()
        if self.init is not None:
            self._engine.prepare(self.init)
            self.init = None
        return self._engine

    def close(self) -> None:
        """End the engine if it was started; harmless if it has ended."""
        if self._engine is not None:
            self._engine.close()

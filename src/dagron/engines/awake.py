"""Time that goes on only while this process can run: what it was suspended for counts towards no timeout.

`docker pause`, Slurm's suspend, `kill -STOP` of all processes, a snapshot of a virtual machine and a laptop that sleeps
have in common that for a while nobody looks at the clock. So somebody does all the time, and where two looks are
further apart than they should be, the process was not running in between; unless it has used the processor meanwhile,
as code does that does not let go of the interpreter.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["STEP_SECONDS", "AwakeClock", "since"]

_LOOK_SECONDS = 0.1
"""Between two looks of the thread. It takes some 20 us of each."""

STEP_SECONDS = 0.25
"""What may lie between two looks at most, and what a suspension costs at most: more than a look is late by on a machine
that has as many workers as processors. A look that is later all the same makes a timeout that much later."""


def since(moment: float) -> float:
    """Return how long ago a moment of `time.monotonic` was, also if this process could not run meanwhile."""
    return time.monotonic() - moment


class AwakeClock:
    """A clock of one process: a plain one, unless it is entered, and a thread looks at it, or `look` is called often.

    Args:
        step_seconds: What may lie between two looks at most, if `look` is called.
        monotonic: The clock that goes on.
        cpu: The time of the processor that this process has used.
    """

    def __init__(
        self,
        step_seconds: float = math.inf,
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._step = step_seconds
        self._monotonic = monotonic
        self._cpu = cpu
        # When it was looked at last, the processor's time then, and of each gap until then its end and its length.
        # Exchanged as a whole, so that readers in other threads need no lock, which a signal handler might find locked.
        self._seen: tuple[float, float, tuple[tuple[float, float], ...]] = (monotonic(), cpu(), ())
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._look_on, name="dagron-clock", daemon=True)
        self.look()
        try:
            thread.start()
        except RuntimeError:
            return self  # no thread is left to this process
        self._thread = thread
        self._step = STEP_SECONDS
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._step = math.inf
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _look_on(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Note that this process runs now. For one thread."""
        now, gaps = self._now()
        self._seen = now, self._cpu(), gaps

    def _now(self) -> tuple[float, tuple[tuple[float, float], ...]]:
        seen, cpu, gaps = self._seen
        now = self._monotonic()
        if now - seen > self._step and (gap := now - seen - self._step - (self._cpu() - cpu)) > 0.0:
            gaps = (*gaps, (now, gap))
        return now, gaps

    def monotonic(self) -> float:
        """Return the seconds since some moment in which this process could run."""
        now, gaps = self._now()
        return now - sum([gap for _, gap in gaps])

    def since(self, moment: float) -> float:
        """Return for how long this process could run since a moment of `time.monotonic`."""
        now, gaps = self._now()
        return now - moment - sum([min(gap, ended - moment) for ended, gap in gaps if ended > moment])

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

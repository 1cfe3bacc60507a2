"""Workers that make place for others: how many attempts one may make, and its way out afterwards.

A worker that has made all its attempts is asked to end once it has nothing more to do, so that what the user's code has
registered with `atexit` runs. Its slot gets the next worker with the next batch, and not before: so none is started for
nothing, and none beside an exclusive node. Idle workers go the same way at the end of the run.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from dagron.engines.awake import STEP_SECONDS, AwakeClock

__all__ = ["Allowance", "Leaving"]

_GOODBYE_SECONDS = 0.5
"""How long a worker may take to end by itself.

What a task has registered with `atexit` takes milliseconds, if anything; a hook that hangs is not to hold up the end.
"""


_LOOK_SECONDS = 0.1
"""Between two looks at the clock at most, so that what the run was suspended for does not count."""


class Allowance:
    """How many attempts the worker of a slot may make.

    Args:
        n: So many; None for any number.
    """

    def __init__(self, n: int | None) -> None:
        self._n = n
        self._n_taken = 0
        self._is_over = False

    @property
    def is_used_up(self) -> bool:
        """Whether the worker may make none besides those that it has made or has."""
        return self._is_over or self._n_taken == self._n

    def renew(self) -> None:
        """Begin again, for another worker."""
        self._n_taken = 0
        self._is_over = False

    def end(self) -> None:
        """Let the worker make no more, however many it has made: it is damaged."""
        self._is_over = True

    def take(self, n: int) -> int:
        """Take so many attempts, or as many as are left, and return how many that are."""
        if self._n is not None:
            n = min(n, self._n - self._n_taken)
            self._n_taken += n
        return n

    def give_back(self, n: int) -> None:
        """Give back attempts that the worker has not made."""
        if self._n is not None:
            self._n_taken -= n


class _Leaver(NamedTuple):
    # Kept until the worker has ended: what CPython calls when an executor is let go (`weakref_cb`) takes a lock that
    # the executor's thread holds while it waits for the worker.
    executor: ProcessPoolExecutor
    process: BaseProcess
    thread: threading.Thread | None  # that of its executor
    due: float  # when it is killed, on `time.monotonic`


class Leaving:
    """Workers that were asked to end."""

    def __init__(self) -> None:
        self._leavers: list[_Leaver] = []

    def __bool__(self) -> bool:
        return bool(self._leavers)

    def add(self, executor: ProcessPoolExecutor, process: BaseProcess) -> None:
        """Ask an idle worker to end; its channel is closed."""
        # The thread is private, but nothing public tells when an executor that was shut down without waiting is done.
        thread = getattr(executor, "_executor_manager_thread", None)
        self._leavers.append(_Leaver(executor, process, thread, time.monotonic() + _GOODBYE_SECONDS))
        executor.shutdown(wait=False)

    def see_off(self) -> None:
        """Let go of those that have ended, and kill those that take too long. Waits for none."""
        now = time.monotonic()
        staying = []
        for leaver in self._leavers:
            if leaver.process.is_alive():
                if leaver.due <= now:
                    leaver.process.kill()
                staying.append(leaver)
            elif leaver.thread is not None:
                leaver.thread.join()
        self._leavers = staying

    def wait(self) -> None:
        """Wait for all of them, for each until it would be killed."""
        clock = AwakeClock(STEP_SECONDS)
        late = time.monotonic() - clock.monotonic()
        for leaver in self._leavers:
            while (seconds := leaver.due - late - clock.monotonic()) > 0 and leaver.process.is_alive():
                leaver.process.join(min(seconds, _LOOK_SECONDS))
                clock.look()

    def join(self) -> None:
        """Let go of all of them. All have ended."""
        for leaver in self._leavers:
            if leaver.thread is not None:
                leaver.thread.join()
        self._leavers = []

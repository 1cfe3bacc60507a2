"""What a task can ask about the attempt that it is part of: `dagron.current()`.

A thread that the task has started is part of the attempt, as long as no other attempt is made in this process. So is a
process that it forks. What is started in another way knows nothing, and is given what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any

from dagron.errors import NotInTaskError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CurrentAttempt", "begin_attempt", "current", "end_attempt", "within"]


class CurrentAttempt:
    """The attempt that a task is part of; see `current`.

    Can be pickled, for processes that the task starts.

    Attributes:
        node: The name of the node.
        attempt: Which attempt of the node in this run, counted from 1.
        run: When the run began, as ISO-8601 text in UTC: the same in all nodes of a run, and another one in each run.
        slot: The slot that makes the attempt.
    """

    __slots__ = ("_make_scratch", "_scratch", "attempt", "node", "run", "slot")

    def __init__(
        self, node: str, attempt: int, run: str, slot: int, make_scratch: Callable[[], str], scratch: str = ""
    ) -> None:
        self.node = node
        self.attempt = attempt
        self.run = run
        self.slot = slot
        self._make_scratch = make_scratch
        self._scratch = scratch

    @property
    def scratch(self) -> Path:
        """A directory of the node's own, in the checkpoint, for what a long task keeps inside itself.

        Made when it is first asked for. It outlives the attempt, also one that is killed: the next attempt of the node
        is given it, in this run or in one that resumes. It is removed once the node has completed; and if a result that
        the node takes has become another one, it begins empty. What is written there survives `kill -9`; what is to
        survive a loss of power, the task has to flush. Write to a file of another name and rename it with `os.replace`,
        so that a kill leaves no half of it. An `OSError` says why it cannot be made.
        """
        from pathlib import Path  # few tasks ask for it

        if not self._scratch:
            self._scratch = self._make_scratch()
        return Path(self._scratch)

    @property
    def has_scratch(self) -> bool:
        """Whether `scratch` was asked for."""
        return bool(self._scratch)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.node, self.attempt, self.run, self.slot, str(self.scratch))

    def __repr__(self) -> str:
        return f"<attempt {self.attempt} of node {self.node!r} in slot {self.slot}>"


def _unpickled(node: str, attempt: int, run: str, slot: int, scratch: str) -> CurrentAttempt:
    return CurrentAttempt(node, attempt, run, slot, str, scratch)


_Made = tuple[Callable[..., CurrentAttempt], tuple[Any, ...]]

_running: dict[int, CurrentAttempt | _Made] = {}
"""The attempts that are made in this process, by thread; as what makes them, until somebody asks."""


def current() -> CurrentAttempt:
    """Return the attempt that the calling task is part of: its node, number, run and slot, and a directory of its own.

    In a thread that the task has started it is the same, as long as the attempt goes on; and in a process that the task
    forks. A process that is started in another way is given what it needs: what this returns can be pickled.

    Raises:
        NotInTaskError: No task runs here; or several do in threads of this process, and this is none of these threads.
    """
    me = get_ident()
    if me not in _running:
        threads = [*_running]
        if len(threads) != 1:
            raise NotInTaskError(len(threads))
        me = threads[0]
    found = _running.get(me)
    if isinstance(found, tuple):
        make, args = found
        found = _running[me] = make(*args)
    if found is None:
        raise NotInTaskError(0)  # it has ended meanwhile
    return found


def begin_attempt(make: Callable[..., CurrentAttempt], *args: Any) -> CurrentAttempt | _Made | None:
    """Begin an attempt in this thread, and return what `end_attempt` is to be given.

    Args:
        make: Makes what is told of the attempt, if anybody asks.
        args: What it is called with.
    """
    me = get_ident()
    around = _running.get(me)
    _running[me] = make, args
    return around


def end_attempt(around: CurrentAttempt | _Made | None) -> bool:
    """End the attempt of this thread, and tell whether its directory was asked for."""
    me = get_ident()
    found = _running.pop(me, None)
    if around is not None:  # a task has made a run of its own in this thread
        _running[me] = around
    return type(found) is CurrentAttempt and found.has_scratch


@contextmanager
def within(attempt: CurrentAttempt) -> Iterator[None]:
    """While it is entered, this thread makes an attempt."""
    around = begin_attempt(lambda: attempt)
    try:
        yield
    finally:
        end_attempt(around)

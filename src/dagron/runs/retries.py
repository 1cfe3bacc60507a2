"""What a run keeps of attempts that failed and were tried again: bounded for each node, and for the run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from dagron.checkpoint.format.records import Retried
from dagron.results.reasons import shown_reason
from dagron.runs.losses import Failure
from dagron.shown import shown_name, shown_seconds, without_middle

__all__ = ["Retries", "shown_retry"]

_FIRST, _LAST = 3, 3
"""Attempts of a node that are recorded: the first ones tell what is wrong, the last ones what it has become. Never
varied: a reader looks at two or three."""

_MAX_MESSAGE, _MAX_TRACEBACK, _MAX_STDERR = 1000, 6000, 2000
"""Characters of each that are recorded: a quarter to a half of what a FAILED record has."""

_BUDGET_CHARACTERS = 64 * 2**20
"""How much of the texts is recorded in a run, as for what completed nodes print: a resume reads all of the journal.
Beyond it an attempt is recorded with the beginning of its message alone."""

_SHORT = 200
"""Characters of the message that is recorded beyond the budget: one line."""


class Retries:
    """The attempts of the nodes that wait for a further attempt, or make it."""

    def __init__(self) -> None:
        self._late: dict[int, deque[Retried]] = {}
        self._tracebacks: dict[int, str] = {}
        self._characters = 0

    def take(self, node: int, name: str, failure: Failure) -> list[Retried]:
        """Note an attempt that another one follows, and return what is to be recorded at once."""
        attempt = self._bounded(node, failure.retried(name))
        if attempt.attempt <= _FIRST:
            return [attempt]
        self._late.setdefault(node, deque(maxlen=_LAST)).append(attempt)
        return []

    def settle(self, nodes: Iterable[int]) -> list[Retried]:
        """Return what is to be recorded with the outcomes of nodes: the last of their attempts before these."""
        if not self._is_waited_for:
            return []
        late: list[Retried] = []
        for node in nodes:
            self._tracebacks.pop(node, None)
            late += self._late.pop(node, ())
        return late

    @property
    def _is_waited_for(self) -> bool:
        return bool(self._tracebacks or self._late)

    def _bounded(self, node: int, attempt: Retried) -> Retried:
        traceback = without_middle(attempt.traceback, _MAX_TRACEBACK)
        message = without_middle(attempt.message, _MAX_MESSAGE)
        stderr = attempt.stderr[-_MAX_STDERR:]
        if attempt.attempt > 1 and traceback == self._tracebacks.get(node):
            traceback = ""
        elif traceback:
            self._tracebacks[node] = traceback
        if self._characters >= _BUDGET_CHARACTERS:
            message, traceback, stderr = message[:_SHORT], "", ""
        self._characters += len(message) + len(traceback) + len(stderr)
        return Retried(
            attempt.name,
            time.time(),
            attempt.attempt,
            attempt.outcome,
            attempt.type,
            message,
            traceback,
            attempt.slot,
            attempt.pid,
            attempt.figures,
            stderr,
        )


def shown_retry(attempt: Retried, n_attempts: int, delay_seconds: float) -> str:
    """Return the line about an attempt that another one follows.

    Args:
        attempt: The attempt.
        n_attempts: How many there may be.
        delay_seconds: When the next one follows.
    """
    when = f"again in {shown_seconds(delay_seconds)}" if delay_seconds >= 0.0005 else "again at once"
    return f"{shown_name(attempt.name)} (attempt {attempt.attempt} of {n_attempts}): {shown_reason(attempt)}; {when}"

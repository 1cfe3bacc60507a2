"""How long a run will take still, from how long its nodes take. Pure: time comes as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dagron.runs.durations import Durations

__all__ = ["Outlook"]


class Outlook:
    """Weighs what is left by the durations of what has ended, of the same kind where there is some.

    Work is counted in seconds of attempts. How much of it a second of the run gets done is measured, so waiting for
    parents and the overhead of short nodes are in it, as far as the rest of the run is like what was seen of it.

    Args:
        kinds: One number per node; nodes of one kind are expected to take similar time.
        recorded: How many seconds each node took in an earlier run, NaN where that is not known; None for no such run.
        n_slots: No more work than this is done at the same time.
    """

    def __init__(self, kinds: Sequence[int], recorded: Sequence[float] | None, n_slots: int) -> None:
        self._kinds = kinds
        self._durations = Durations(kinds, recorded)
        self._n_slots = n_slots
        self._left: dict[int, int] = {}
        for kind in kinds:
            self._left[kind] = self._left.get(kind, 0) + 1
        self._worked_seconds = 0.0

    def settled(self, nodes: Iterable[int]) -> None:
        """Note nodes that need no further attempt."""
        left, kinds = self._left, self._kinds
        for node in nodes:
            left[kinds[node]] -= 1

    def attempt_ended(self, node: int, seconds: float, *, completed: bool) -> None:
        """Note what an attempt took."""
        self._worked_seconds += seconds
        if completed:
            self._durations.learn(node, seconds)

    def seconds_left(self, elapsed_seconds: float, running: Sequence[tuple[int, float]]) -> float | None:
        """Return how long the run will take still; None as long as nothing is known.

        Args:
            elapsed_seconds: Since the run began.
            running: The nodes that run now, each with the seconds that it has run so far.
        """
        means = self._durations.of_kind()
        if not means or elapsed_seconds <= 0:
            return None
        typical = sum(means.values()) / len(means)
        left = sum(n * means.get(kind, typical) for kind, n in self._left.items())
        under_way = 0.0
        for node, seconds in running:
            under_way += seconds
            left -= min(seconds, means.get(self._kinds[node], typical))
        per_second = min(float(self._n_slots), (self._worked_seconds + under_way) / elapsed_seconds)
        return max(0.0, left) / per_second if per_second > 0 else None

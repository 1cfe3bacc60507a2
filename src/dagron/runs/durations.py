"""How long nodes are expected to take, and when it pays to look again which chain of them is the longest. Pure.

The ready node that begins the longest chain goes first ("critical path first", HLFET in the survey of Kwok and Ahmad,
ACM Computing Surveys 31(4), 1999). A chain is measured in expected seconds: what a node itself took in an earlier run,
else the mean of its kind so far, else that of the kind with the longest mean.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

__all__ = ["Durations"]

_NODE_SECONDS = 3e-6
"""About what finding the chains costs for each node and each edge."""

_SHARE = 0.002
"""The share of the expected time of the run that one look at all chains may cost. Never varied."""


class Durations:
    """What is known about how long nodes take, from an earlier run and from this one.

    Args:
        kinds: One number per node; nodes of one kind are expected to take similar time.
        recorded: How many seconds each node took in an earlier run, NaN where that is not known; None for no such run.
    """

    def __init__(self, kinds: Sequence[int], recorded: Sequence[float] | None = None) -> None:
        self._kinds = kinds
        self._recorded = recorded
        self._means: dict[int, tuple[float, int]] = {}
        self._total = 0.0
        self._n = 0
        self._n_used = 0
        self._new_kind = False
        if recorded is not None:
            for node, seconds in enumerate(recorded):
                if not math.isnan(seconds):
                    self.learn(node, seconds)

    def learn(self, node: int, seconds: float) -> None:
        """Note how long a node took."""
        kind = self._kinds[node]
        total, n = self._means.get(kind, (0.0, 0))
        self._means[kind] = (total + seconds, n + 1)
        self._total += seconds
        self._n += 1
        if not n:
            self._new_kind = True

    def recorded(self, node: int) -> float | None:
        """Return what the node took in an earlier run; None if that is not known."""
        if self._recorded is None:
            return None
        seconds = self._recorded[node]
        return None if math.isnan(seconds) else seconds

    @property
    def mean_seconds(self) -> float:
        """The mean of all that is known; 0 if nothing is."""
        return self._total / self._n if self._n else 0.0

    def of_kind(self) -> dict[int, float]:
        """Return the mean of each kind of which a node is known."""
        return {kind: total / n for kind, (total, n) in self._means.items()}

    def worth_a_look(self, n_slots: int) -> bool:
        """Tell whether chains may be others than at the last look, and the run is long enough for a look to pay.

        Without anything to tell nodes apart, an earlier run or a second kind, there is nothing to find. A kind that has
        been met for the first time is news, and so is twice the knowledge; so there are few looks in all.
        """
        if n_slots == 1:
            return False  # there the order changes nothing, so it stays the same in every run
        if len(self._means) < 2 and self._recorded is None:
            return False
        if not self._new_kind and self._n < 2 * self._n_used:
            return False
        return self.mean_seconds / n_slots * _SHARE >= _NODE_SECONDS

    def expected(self) -> array[float]:
        """Return the expected seconds of every node, and take what is known by now for used."""
        means = self.of_kind()
        longest = max(means.values(), default=0.0)  # what leads to an unknown kind had better be early
        self._n_used, self._new_kind = self._n, False
        found = array("d", [means.get(kind, longest) for kind in self._kinds])
        if self._recorded is not None:
            for node, seconds in enumerate(self._recorded):
                if not math.isnan(seconds):
                    found[node] = seconds
        return found

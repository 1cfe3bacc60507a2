"""What one attempt took: the figures that travel from the worker into the checkpoint and to whoever asks."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_FIGURES", "Figures"]


class Figures(NamedTuple):
    """What one attempt took.

    Attributes:
        started_unix: When it began, in seconds since the epoch; 0.0 if it never did. Reckoned from its end, so that the
            end is right also if the machine has slept or the clock was set meanwhile.
        duration_seconds: Wall time, with loading its inputs and pickling its result, and without what the machine has
            slept. What stops processes alone, `docker pause` say, cannot be told from waiting, and counts.
        cpu_seconds: User and system time of the worker during the attempt, with the children that it waited for.
        system_seconds: The part of `cpu_seconds` that was spent in the system.
        peak_rss_bytes: Peak resident memory of the worker up to the end of the attempt.
    """

    started_unix: float = 0.0
    duration_seconds: float = 0.0
    cpu_seconds: float = 0.0
    system_seconds: float = 0.0
    peak_rss_bytes: int = 0

    @property
    def ended_unix(self) -> float:
        """When the attempt ended, in seconds since the epoch; 0.0 if there was none."""
        return self.started_unix + self.duration_seconds


NO_FIGURES = Figures()
"""Those of a node that was never attempted."""

"""Which kills a round of a campaign has, and when: drawn from its seed, before anything runs."""

from __future__ import annotations

import random
from typing import NamedTuple

from dagron.testing.report import Phase

__all__ = ["Strike", "plan_round", "start_up_seconds"]

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.0002, 0.3
"""Between the call of `resume` and a kill in its start-up: from its first system calls to workers that run."""


class Strike(NamedTuple):
    """A kill that is planned: what it is to hit, and when, as a part between 0 and 1 of how long that may take."""

    phase: str
    part: float


def plan_round(seed: int, number: int) -> tuple[list[Strike], list[Strike]]:
    """Return the kills of a round: those of its runs, and after the undisturbed end, those of clearing."""
    rng = random.Random(f"{seed}/{number}")
    phases = [Phase.EXECUTE]
    for _ in range(rng.randint(1, 2)):
        phases.append(Phase.RESUME)
        phases += [Phase.START_UP] * rng.randint(0, 2)
    if Phase.START_UP not in phases:
        phases.append(Phase.START_UP)
    runs = [Strike(phase, rng.random()) for phase in phases]
    return runs, [Strike(Phase.CLEAR, rng.random()) for _ in range(rng.randint(1, 3))]


def start_up_seconds(part: float) -> float:
    """Return a moment in the start-up of a resume: short ones are as likely as long ones."""
    return float(_SHORTEST_SECONDS * (_LONGEST_SECONDS / _SHORTEST_SECONDS) ** part)

"""What is asked for a node: its options with those of the run filled in."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Policy"]


class Policy(NamedTuple):
    """What is asked for a node. Seconds and bytes throughout; `timeout` and `memory_limit` None for none.

    Attributes:
        outputs: The files that its task writes, as the job has their paths.
    """

    retries: int = 0
    retry_delay: float = 0.0
    timeout: float | None = None
    priority: int = 0
    memory_limit: int | None = None
    exclusive: bool = False
    outputs: tuple[str, ...] = ()

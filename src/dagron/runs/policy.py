"""What is asked for a node: its options with those of the run filled in."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Policy"]


class Policy(NamedTuple):
    """What is asked for a node, as `Task` explains it. Seconds and bytes throughout.

    Attributes:
        retries: Further attempts after one that failed.
        retry_delay: Before the first of these.
        timeout: Of an attempt; None for none.
        priority: Among nodes that could start.
        memory_limit: Of the worker with all that the node starts; None for none.
        exclusive: Whether the node runs beside nothing else.
        outputs: The files that its task writes, as the job has their paths.
        memory_limit_as_given: The limit of memory with the unit in which messages tell of it.
        keep: Whether its result stays when all that take it are recorded.
    """

    retries: int = 0
    retry_delay: float = 0.0
    timeout: float | None = None
    priority: int = 0
    memory_limit: int | None = None
    exclusive: bool = False
    outputs: tuple[str, ...] = ()
    memory_limit_as_given: int | str | None = None
    keep: bool = True

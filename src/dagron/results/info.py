"""What is known about a checkpoint. Apart from the results of a run, which need not load it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CheckpointInfo"]


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What is known about a checkpoint.

    Attributes:
        checkpoint_dir: The directory.
        completed_nodes: Names of the nodes that completed, in the order of their commits.
        failed_nodes: Names of the nodes that failed, in the order of their failures.
        total_nodes: Nodes of the DAG of the last run.
        timestamp: When the checkpoint was last written, as ISO-8601 in UTC.
    """

    checkpoint_dir: str
    completed_nodes: list[str]
    failed_nodes: list[str]
    total_nodes: int
    timestamp: str

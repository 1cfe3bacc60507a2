"""Failures that nobody has looked at: a program that ends without having done so is told, once, on standard error."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Unseen", "note_unseen", "superseded"]

_MAX_NAMES = 3
"""Nodes that are named: it is one line."""

_all: list[Unseen] = []


class Unseen:
    """The failures of one run, until somebody looks at them.

    Args:
        names: The nodes.
        n_nodes: How many nodes the run had.
        checkpoint_dir: Where all of it can be read; absolute.
    """

    def __init__(self, names: Sequence[str], n_nodes: int, checkpoint_dir: Path) -> None:
        self.names = names[:_MAX_NAMES]
        self.n_failed = len(names)
        self.n_nodes = n_nodes
        self.checkpoint_dir = checkpoint_dir

    def seen(self) -> None:
        """Take it that somebody knows of them."""
        if self in _all:
            _all.remove(self)

    def __str__(self) -> str:
        import shlex

        more = f" and {self.n_failed - len(self.names)} more" if self.n_failed > len(self.names) else ""
        nodes = f"{self.n_failed} of {self.n_nodes} nodes"
        return (
            f"{nodes} failed ({', '.join(map(repr, self.names))}{more}), and the program has not looked at that: "
            "result.ok tells, print(result) names them, result.raise_for_failures() raises; "
            f"or: dagron status {shlex.quote(str(self.checkpoint_dir))}"
        )


def note_unseen(names: Sequence[str], n_nodes: int, checkpoint_dir: Path) -> Unseen:
    """Remember that nodes failed; unless somebody looks at them, the program is told when it ends."""
    if not _all:
        atexit.unregister(_tell)  # it is called once
        atexit.register(_tell, os.getpid())
    unseen = Unseen(names, n_nodes, checkpoint_dir)
    _all.append(unseen)
    return unseen


def superseded(checkpoint_dir: Path) -> None:
    """Forget the failures of runs on a checkpoint: a later run has tried the nodes again, or somebody reads it."""
    _all[:] = [unseen for unseen in _all if unseen.checkpoint_dir != checkpoint_dir]


def _tell(pid: int) -> None:
    # In a shell everybody sees what a cell gives; and what a process has forked off has made no run.
    if not _all or os.getpid() != pid or hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        return
    more = f" (and so it is with {len(_all) - 1} more runs)" if len(_all) > 1 else ""
    try:
        sys.stderr.write(f"dagron: {_all[0]}{more}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # there is nobody to tell

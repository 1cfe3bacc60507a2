"""What an earlier run could not end itself. Loads nothing that pickles, as clearing a checkpoint needs it, too."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagron.checkpoint.writing.store import CheckpointStore

__all__ = ["end_leftovers"]

logger = logging.getLogger("dagron")


def end_leftovers(store: CheckpointStore) -> None:
    """End what a run has left whose own guard was killed with it, or it would go on beside this one.

    Args:
        store: The checkpoint, open.
    """
    from dagron.engines.local.leftovers import sweep
    from dagron.engines.local.processes import pid_namespace

    killed = sweep(leftovers) if (leftovers := store.leftovers(pid_namespace())) else []
    if killed:
        logger.warning("%s: killed processes that an earlier run had left: %s", store.directory.path, killed)

"""What the engine of this machine can do, apart from the engine: a run that restores everything need not load that."""

from __future__ import annotations

import os
import sys

from dagron.engines.local.board import MAX_BATCHES
from dagron.engines.protocol import Features

__all__ = ["FEATURES"]

_SEES_MEMORY = sys.platform != "linux" or os.path.exists("/proc/self/statm")
"""Linux tells of memory where `/proc` is mounted, which in a chroot it may not be."""

FEATURES = Features(
    kills=True, observes_memory=_SEES_MEMORY, replaces=True, captures=True, batches=True, max_batches=MAX_BATCHES
)

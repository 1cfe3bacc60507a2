"""What the engine of this machine can do, apart from the engine: a run that restores everything need not load that."""

from __future__ import annotations

from dagron.engines.local.board import MAX_BATCHES
from dagron.engines.protocol import Features

__all__ = ["FEATURES"]

FEATURES = Features(
    kills=True, observes_memory=True, replaces=True, captures=True, batches=True, max_batches=MAX_BATCHES
)

"""The directories in which tasks keep what they have done so far: given to the next attempt, gone once it completed.

They stand in `_dagron-scratch`, one for each node that has asked for one, under a digest of its name, so that any name
will do. The folder is ours by its name, as temporary files are; nothing in the journal tells of it. What a run that was
killed between a commit and the removal has left goes at the begin or the end of the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.scratch import remove_scratch, remove_scratch_folder, scratches
from dagron.checkpoint.format.names import scratch_name

__all__ = ["Scratches"]

logger = logging.getLogger("dagron.checkpoint")


class Scratches:
    """Those of a checkpoint. Nothing here ends a run: what cannot be removed is told of, and left.

    Args:
        directory: The directory of the checkpoint; this process is its only writer.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._noted: set[str] = set()

    def keep(self, nodes: Iterable[str]) -> None:
        """Remove all but those of these nodes, which have not completed."""
        try:
            found = scratches(self._directory.path)
            if found is None:
                return  # as nearly always, and then nothing is asked of the nodes
            kept = set(map(scratch_name, nodes)) if found else set()
            self._noted = found & kept
            self._remove(found - kept)
            if not self._noted:
                remove_scratch_folder(self._directory.path)
        except OSError as error:
            logger.warning("%s: %s", self._directory.path, error)

    def note(self, node: str) -> None:
        """Note that a node may have one."""
        self._noted.add(scratch_name(node))

    def completed(self, nodes: Iterable[str]) -> None:
        """Remove those of nodes that have completed."""
        if self._noted:
            done = self._noted.intersection(map(scratch_name, nodes))
            self._noted -= done
            self._remove(done)

    def _remove(self, names: Collection[str]) -> None:
        for name in names:
            try:
                remove_scratch(self._directory.path, name)
            except OSError as error:
                logger.warning("the scratch directory of a node that completed cannot be removed: %s", error)

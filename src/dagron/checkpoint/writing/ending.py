"""How a run ends in its checkpoint: when nothing is left to do, or cut short."""

from __future__ import annotations

import logging
from collections.abc import Collection

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import is_temporary
from dagron.checkpoint.format.records import RunEnded
from dagron.checkpoint.writing.copying import CopyWriter
from dagron.checkpoint.writing.journal import JournalWriter
from dagron.checkpoint.writing.result_files import ResultFiles
from dagron.checkpoint.writing.snapshot import write_snapshot

__all__ = ["Ending"]

logger = logging.getLogger("dagron.checkpoint")


class Ending:
    """One run's end. Call either `whole` or `cut_short`, once its workers have ended.

    Args:
        directory: The checkpoint directory.
        files: The files of results in it.
        journal: That of the run.
        copies: The copies that lag behind the journal.
    """

    def __init__(self, directory: Directory, files: ResultFiles, journal: JournalWriter, copies: CopyWriter) -> None:
        self._directory = directory
        self._files = files
        self._journal = journal
        self._copies = copies

    def whole(self, ended: RunEnded, *, worker_lost: bool, durable: bool) -> None:
        """Write what lags behind, delete what an older checkpoint left, and say that the run has ended.

        Args:
            ended: What is to be said.
            worker_lost: Whether a worker died in the run; it may have left a temporary file.
            durable: Whether the names of files are to survive a loss of power.

        On crash:
            A checkpoint whose last run was interrupted; nothing is lost.
        """
        self._copies.write_all()
        # Before the record of the end: what stands under these names after it is somebody else's.
        self._directory.remove_all(self._journal.ledger.left_over & self._files.present)
        if worker_lost:
            self._directory.remove_all(filter(is_temporary, self._directory.names()))
        if durable:
            self._directory.sync()
        self._journal.say(ended)
        write_snapshot(self._directory, self._journal.ledger)

    def cut_short(self, unpublished: Collection[str], *, recovered: bool) -> None:
        """Do what can be done; raises nothing.

        Args:
            unpublished: Temporary files that the journal may name.
            recovered: Whether the run has got so far that nothing older may need a temporary file.

        Guarantees:
            The results that workers had begun to write take no space, unless the disk refuses to delete them. What
            lags behind is written, unless the disk has refused before.
        """
        try:
            # A journal that was replaced may be another run's.
            if recovered and self._journal.is_in_place():
                self._directory.remove_all(set(filter(is_temporary, self._directory.names())).difference(unpublished))
            if not self._journal.refused:
                self._copies.write_all()
                write_snapshot(self._directory, self._journal.ledger)
        except OSError as error:
            if not self._journal.refused:  # else the run ends with what the disk has said
                logger.warning("%s: %s", self._directory.path, error)

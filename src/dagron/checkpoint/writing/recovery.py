"""Which results of a checkpoint are there, and what is to be done about those that are not as they should be."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dagron.checkpoint.blobs import blob_file, load_result, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import plain_file_name
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.present import places_of
from dagron.checkpoint.writing.copies import Copy
from dagron.checkpoint.writing.result_files import ResultFiles
from dagron.errors import CheckpointDamagedError

__all__ = ["Recovery"]

logger = logging.getLogger("dagron.checkpoint")


class Recovery:
    """Looks after the results of an older run.

    Args:
        directory: The checkpoint directory.
        files: The files of results in it.
        digests: How results are digested.
        sizes: What the directory has, by name.
        restarted: Whether the machine was started again since that run. A file may then have its size and not its
            bytes; a copy of a small result, which is never synced, also if the run had ended. If the machine went on,
            a file of the right size is whole, because nothing but a kill can have interrupted the run.

    Attributes:
        lost: The completed nodes whose result is nowhere.
        missing: The copies that are to be written, by sequence.
    """

    def __init__(
        self, directory: Directory, files: ResultFiles, digests: Digests, sizes: Mapping[str, int], *, restarted: bool
    ) -> None:
        self.lost: list[str] = []
        self.missing: list[Copy] = []
        self._directory = directory
        self._files = files
        self._digests = digests
        self._sizes = sizes
        self._restarted = restarted

    def look(self, ledger: Ledger) -> None:
        """Look at every result, and finish the renames that are missing.

        On crash:
            What was renamed has its name, and the next look finds the rest as this one did.
        """
        commits, sizes = ledger.commits, self._sizes
        # Nearly all have a plain file of the right size; only the others are decoded.
        suspects = list(commits.special)
        for name, sequence, size in commits.inline():
            if self._restarted or sequence >= ledger.lagging_from or sizes.get(plain_file_name(name)) != size:
                suspects.append(name)
        for commit in sorted(map(commits.__getitem__, suspects), key=lambda commit: commit.sequence):
            verify = self._restarted and (ledger.ended is None or commit.storage == Storage.INLINE)
            self._look_at(commit, lagging=ledger.is_lagging(commit), verify=verify)

    def _look_at(self, commit: Commit, *, lagging: bool, verify: bool) -> None:
        file_name = commit.file_name
        for name in places_of(commit, self._sizes):
            if name == commit.temp_name and not self._is_damaged(commit, name):
                self._files.publish(name, file_name)
                return
            if name == file_name and not lagging and not (verify and self._is_damaged(commit, name)):
                return
        if commit.storage == Storage.INLINE:
            try:
                load_result(self._directory, commit, self._digests)
            except CheckpointDamagedError:
                pass
            else:
                self.missing.append(Copy(commit.sequence, commit, None))
                return
        path = self._directory.path_to(file_name)
        logger.warning("%s is missing or damaged; node %r runs again, and nothing else", path, commit.name)
        self.lost.append(commit.name)

    def _is_damaged(self, commit: Commit, file_name: str) -> bool:
        try:
            read_blob(self._directory.path, blob_file(commit, file_name), self._digests)
        except CheckpointDamagedError:
            return True
        return False

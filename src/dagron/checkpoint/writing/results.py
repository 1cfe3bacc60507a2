"""Reads committed results for children, callbacks and the caller. Small ones that were used last are in memory."""

from __future__ import annotations

from dagron.checkpoint.blobs import BlobFile, blob_file, load_result
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.ledger import Ledger
from dagron.errors import CheckpointDamagedError

__all__ = ["Results"]

_BUDGET_BYTES = 64 * 2**20
"""Bytes of small results in memory: those of 500,000 nodes that return a number. Never varied: a result beyond them is
read again, for an open, a read and a digest, about 15 us."""

_ENTRY_BYTES = 120
"""About what an entry of a dict, a tuple and the head of a bytes object add to a result."""


class Results:
    """Reads what is committed.

    Args:
        directory: The checkpoint directory.
        ledger: What is committed.
        digests: How results are digested.
    """

    def __init__(self, directory: Directory, ledger: Ledger, digests: Digests) -> None:
        self._directory = directory
        self._ledger = ledger
        self._digests = digests
        # By node, least recently used first: the number of the record, which tells whether it is still committed.
        self._recent: dict[str, tuple[int, bytes]] = {}
        self._recent_bytes = 0
        self._identities: dict[str, tuple[int, tuple[int, ...]]] = {}

    def remember(self, name: str, sequence: int, data: bytes) -> None:
        """Keep a small result in memory as long as there is room, and longer than those that were used before it."""
        if name in self._recent:
            self._forget(name)
        self._recent[name] = sequence, data
        self._recent_bytes += len(data) + _ENTRY_BYTES
        while self._recent_bytes > _BUDGET_BYTES:
            self._forget(next(iter(self._recent)))

    def _forget(self, name: str) -> None:
        found = self._recent.pop(name, None)
        if found is not None:
            self._recent_bytes -= len(found[1]) + _ENTRY_BYTES

    def note_identity(self, name: str, sequence: int, identity: tuple[int, ...]) -> None:
        """Note what the file of a large result was when a worker of this run had written and digested it."""
        self._identities[name] = sequence, identity

    def _in_memory(self, name: str, sequence: int) -> bytes | None:
        found = self._recent.get(name)
        if found is None or found[0] != sequence:
            return None
        # Used now, so it is the last to go.
        del self._recent[name]
        self._recent[name] = found
        return found[1]

    def load(self, commit: Commit) -> bytes | memoryview:
        """Return the bytes of a commit, also after the checkpoint has gone on.

        Raises:
            CheckpointDamagedError: No place holds these bytes any more.
        """
        data = self._in_memory(commit.name, commit.sequence)
        return load_result(self._directory, commit, self._digests) if data is None else data

    def load_bytes(self, commit: Commit) -> bytes:
        """Return the bytes of a commit as an object of their own; as `load`."""
        return bytes(self.load(commit))

    def source(self, name: str) -> bytes | BlobFile:
        """Return a result for a worker: its bytes if it is small, else the file that has them.

        A small result that is damaged in all of its places comes as a file, too, and so does any result that this run
        has found lost: whoever reads the file finds the damage.
        """
        commits = self._ledger.commits
        sequence = commits.sequence_of(name)
        if sequence:
            data = self._in_memory(name, sequence)
            if data is not None:
                return data
        commit = commits.get(name) or self._ledger.lost[name]
        if commit.storage == Storage.INLINE:
            try:
                data = bytes(load_result(self._directory, commit, self._digests))
            except CheckpointDamagedError:
                pass
            else:
                if sequence:
                    self.remember(name, sequence, data)  # one child has asked, so another may
                return data
        of, identity = self._identities.get(name, (0, ()))
        return blob_file(commit)._replace(identity=identity if of == sequence else ())

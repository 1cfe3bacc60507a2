"""Whether all that a checkpoint has recorded is there and as it was. Reads without the lock; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dagron.checkpoint.blobs import blob_file, load_result, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.names import JOURNAL
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.ledger import Ledger
from dagron.errors import CheckpointDamagedError

__all__ = ["Finding", "verify"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it was recorded.

    Attributes:
        node: The node concerned; empty if it is the journal itself.
        file: The file.
        reason: What is wrong with it.
        costs: Whether it costs a result. If not, the next resume repairs it.
    """

    node: str
    file: str
    reason: str
    costs: bool


def verify(directory: Directory, ledger: Ledger, key: bytes | None) -> Iterator[Finding | None]:
    """Compare every digest of a checkpoint.

    Yields:
        What each damaged stretch of the journal may have cost; then, for each commit in order, what was found, or None
        if all is well.
    """
    for damage in ledger.damage:
        yield Finding("", JOURNAL, f"{damage.what}; the nodes recorded there run again", True)
    digests = Digests(key)
    for commit in ledger.commits.values():
        yield _verify_commit(directory, ledger, commit, digests)


def _verify_commit(directory: Directory, ledger: Ledger, commit: Commit, digests: Digests) -> Finding | None:
    name, file = commit.name, commit.file_name
    try:
        load_result(directory, commit, digests)
    except CheckpointDamagedError as error:
        if commit.temp_name and not _file_problem(directory, commit, commit.temp_name, digests):
            return None  # recorded and not yet renamed
        return Finding(name, file, error.reason, True)
    if commit.storage == Storage.INLINE and not ledger.is_lagging(commit):
        reason = _file_problem(directory, commit, file, digests)
        if reason:
            return Finding(name, file, f"{reason}; the journal has the result", False)
    return None


def _file_problem(directory: Directory, commit: Commit, file: str, digests: Digests) -> str:
    try:
        read_blob(directory.path, blob_file(commit, file), digests)
    except CheckpointDamagedError as error:
        return error.reason
    return ""

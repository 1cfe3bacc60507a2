"""Which results of a checkpoint are there, by the names and sizes of its files. Opens nothing."""

from __future__ import annotations

from collections.abc import Mapping

from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.ledger import Ledger
from dagron.checkpoint.reading.packed import PackedCommits

__all__ = ["places_of", "present_commits"]


def places_of(commit: Commit, sizes: Mapping[str, int]) -> list[str]:
    """Return the names under which a file of the right size may be the result of a commit.

    The temporary name comes first: as long as a file has it, the file with the final name is that of an older result.

    Args:
        commit: The commit.
        sizes: What the directory has, by name, as `Directory.sizes`.
    """
    return [name for name in (commit.temp_name, commit.file_name) if sizes.get(name) == commit.stored_size]


def present_commits(ledger: Ledger, sizes: Mapping[str, int]) -> PackedCommits:
    """Return the commits whose result is there as far as sizes tell: a small one is in the journal.

    Args:
        ledger: What the journal says.
        sizes: As for `places_of`.
    """
    large = (commit for name in ledger.commits.special if (commit := ledger.commits[name]).storage == Storage.FILE)
    return ledger.commits.without({commit.name for commit in large if not places_of(commit, sizes)})

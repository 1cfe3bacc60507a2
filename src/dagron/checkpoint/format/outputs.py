"""How a file stood that a task wrote beside its result, as a record says it. Opens nothing; a worker imports it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FileState", "OutputFile"]


class FileState(NamedTuple):
    """How a file stands.

    Attributes:
        size: Its bytes.
        mtime_ns: When its bytes were last changed, in nanoseconds since the epoch, as its file system says.
        digest: The digest of its bytes; see `Digests`.
    """

    size: int
    mtime_ns: int
    digest: bytes


class OutputFile(NamedTuple):
    """An output of a node, as it was when the node completed.

    Attributes:
        path: The path as the job has it, relative or absolute.
        state: How the file stood.
    """

    path: str
    state: FileState

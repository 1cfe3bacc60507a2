"""The `.pkl` files of results while a run goes on: their names, which are there, and how one gets its content."""

from __future__ import annotations

from collections.abc import Iterable

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.names import SUFFIX, FileNames
from dagron.checkpoint.format.storage import Storage

__all__ = ["ResultFiles"]


class ResultFiles:
    """The files of results in one directory.

    Args:
        directory: The checkpoint directory.
        names: The names of what it has.

    Attributes:
        present: The `.pkl` files that are there.
        names: Which file each node has.
    """

    def __init__(self, directory: Directory, names: Iterable[str]) -> None:
        self.present = {name for name in names if name.endswith(SUFFIX)}
        self.names = FileNames(())
        self._directory = directory
        self._twins: dict[str, str] = {}

    def note_left_over(self, files: Iterable[str]) -> None:
        """Note which files are ours and belong to no commit."""
        self._twins = {name.lower(): name for name in files}

    def _clear_the_way(self, file_name: str) -> None:
        # A left-over file whose name differs in case only is the same file where case does not count. Removed now, it
        # can neither keep its old name nor take the new result with it when left-over files are removed at the end.
        twin = self._twins.pop(file_name.lower(), None) if self._twins else None
        if twin is not None and twin != file_name:
            self._directory.remove(twin)
            self.present.discard(twin)

    def publish(self, temp_name: str, file_name: str) -> None:
        """Give a finished temporary file its name."""
        self._clear_the_way(file_name)
        self._directory.publish(temp_name, file_name)
        self.present.add(file_name)

    def drop(self, commit: Commit) -> None:
        """Delete the file of a result that is not to be kept."""
        if commit.file_name in self.present:
            self._directory.remove(commit.file_name)
            if commit.storage != Storage.INLINE:  # a worker may be about to write a copy, which goes at the end then
                self.present.discard(commit.file_name)

    def write_copy(self, file_name: str, data: bytes) -> None:
        """Write a copy of a small result."""
        self._directory.write_copy(file_name, data, exists=self.expect(file_name))

    def expect(self, file_name: str) -> bool:
        """Make the way free for a copy that is going to be written, and return whether one is there already."""
        self._clear_the_way(file_name)
        exists = file_name in self.present
        self.present.add(file_name)
        return exists

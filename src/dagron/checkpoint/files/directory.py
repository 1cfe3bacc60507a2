"""A checkpoint directory: whole-file operations on its entries."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from dagron.checkpoint.files.calls import remove, sync_entries, sync_name
from dagron.checkpoint.files.modes import current_umask, mode_for
from dagron.checkpoint.files.opened import ReadFile, TempFile
from dagron.checkpoint.files.overwriting import write_copy

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Directory"]


class Directory:
    """A checkpoint directory: whole-file operations on its entries, named without a path.

    Attributes:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._prefix = str(path) + os.sep

    def identity(self) -> tuple[int, int] | None:
        """Return what tells this directory from any other that has its path later; None if there is none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None

    def can_only_be_read(self) -> bool:
        """Tell whether the directory is there and cannot be written, by its mode or by its medium."""
        return os.path.isdir(self.path) and not os.access(self.path, os.W_OK | os.X_OK)

    @cached_property
    def mode(self) -> int:
        """The mode of the directory if it is made, by the umask of when this is first asked for."""
        existing = self.path
        while True:
            try:
                found = os.stat(existing).st_mode
                break
            except OSError:
                if existing == existing.parent:
                    found = 0
                    break
                existing = existing.parent
        return mode_for(current_umask(), in_setgid=bool(found & stat.S_ISGID))

    @property
    def file_mode(self) -> int:
        """The mode of a file that is made in it."""
        return self.mode & 0o666

    def path_to(self, name: str) -> str:
        """Return the path to an entry, whether it exists or not."""
        return self._prefix + name

    def create(self, *, durable: bool = False) -> None:
        """Create the directory and its parents where they are missing; with `mode`, if we create it.

        Guarantees:
            If `durable`, its own name and those of the parents made here survive a loss of power, also if an earlier
            process was killed while it made them.

        On crash:
            Some of the parents, empty.
        """
        mode = self.mode
        missing = []
        path = self.path
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        if durable:
            # A process that was killed before this sync may have made it. For a name made long ago it costs nothing.
            sync_name(path)
        for path in reversed(missing):
            try:
                os.mkdir(path, mode if path == self.path else 0o777)
            except FileExistsError:
                if not path.is_dir():
                    raise
            if durable:
                sync_name(path)

    def try_file(self, size: int) -> OSError | None:
        """Make a file of this size and delete it again; return what the system refused, None for nothing."""
        try:
            temp = TempFile(self.path)
            try:
                temp.stretch(size)
            finally:
                temp.discard()
        except OSError as error:
            return error
        return None

    def names(self) -> list[str]:
        """Return the names of all entries, of whatever kind."""
        return os.listdir(self.path)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of every regular file in the directory. Cost: one system call per entry."""
        found = {}
        with os.scandir(self.path) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = status.st_size
        return found

    def n_names(self, name: str) -> int:
        """Return how many names the file `name` has, here and elsewhere."""
        return os.lstat(self._prefix + name).st_nlink

    def exists(self, name: str) -> bool:
        """Tell whether there is an entry of this name, of whatever kind."""
        return os.path.lexists(self._prefix + name)

    def write_copy(self, name: str, data: bytes, *, exists: bool) -> None:
        """Write a copy of a small result: `write_copy` for the entry `name`."""
        write_copy(self._prefix + name, data, exists=exists, mode=self.file_mode)

    def replace(self, name: str, data: bytes | Iterable[bytes], *, durable: bool) -> None:
        """Give `name` the content `data`, which may come in pieces, atomically.

        Guarantees:
            A reader sees the old content or the new one, never a mixture; if `durable`, also after a loss of power the
            content is one of the two.

        On crash:
            The old content, and perhaps a temporary file.
        """
        temp = TempFile(self.path, self.file_mode)
        try:
            for piece in (data,) if isinstance(data, bytes) else data:
                temp.write(piece)
            temp.finish(durable=durable)
            os.replace(temp.path, self._prefix + name)
        except BaseException:
            temp.discard()
            raise
        if durable:
            self.sync()

    def publish(self, temp_name: str, name: str) -> None:
        """Give a finished `TempFile` its name. Durable only after `sync`."""
        os.replace(self._prefix + temp_name, self._prefix + name)

    def sync(self) -> None:
        """Make the entries created, renamed and removed so far survive a loss of power."""
        sync_entries(self.path)

    def read(self, name: str) -> bytes:
        """Return the content of `name`.

        Raises:
            OSError: There is no such regular file.
        """
        with self.open_to_read(name) as file:
            return file.read_at(0, file.size)

    def open_to_read(self, name: str) -> ReadFile:
        """Open `name` for reading.

        Raises:
            OSError: There is no such regular file.
        """
        return ReadFile(self._prefix + name)

    def remove(self, name: str) -> None:
        """Delete the entry `name` if it is there and no directory."""
        remove(self._prefix + name)

    def remove_all(self, names: Iterable[str]) -> None:
        """Delete several entries."""
        for name in names:
            self.remove(name)

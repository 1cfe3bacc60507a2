"""Counters that outlive processes. Light, because workers import it."""

import os
from pathlib import Path


class RunLog:
    """Counts what tasks did, in append-only files outside of any checkpoint, so that it survives every death."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = str(directory)

    def note(self, name: str) -> None:
        """Called by a task: one line more for `name`."""
        fd = os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, b"%d\n" % os.getpid())
        os.close(fd)

    def pids(self, name: str) -> list[int]:
        """The processes that noted `name`, in order."""
        try:
            return [int(line) for line in (Path(self.directory) / name).read_text().split()]
        except FileNotFoundError:
            return []

    def count(self, name: str) -> int:
        return len(self.pids(name))

    def counts(self) -> dict[str, int]:
        return {name: self.count(name) for name in sorted(os.listdir(self.directory))}

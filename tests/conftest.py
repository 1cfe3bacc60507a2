"""Shared fixtures: counters that outlive processes, and a check that no test leaves a process behind."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest


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


@pytest.fixture
def log(tmp_path):
    return RunLog(tmp_path / "run-log")


@pytest.fixture
def ckpt(tmp_path):
    return tmp_path / "ckpt"


def _is_dead(process: psutil.Process) -> bool:
    try:
        # A zombie runs no more; how soon it is buried is up to the init of the machine.
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def all_dead_in():
    """`all_dead_in(seconds, processes)`: wait until none of them runs; False if one still does after that long."""

    def wait(seconds, processes):
        deadline = time.monotonic() + seconds
        while not all(map(_is_dead, processes)):
            if time.monotonic() > deadline:
                return False
            threading.Event().wait(0.005)
        return True

    return wait


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    left = [p for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())]
    assert not left, f"the test left processes behind: {left}"

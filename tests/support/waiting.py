"""Waiting for facts. Light, because tasks do so in workers."""

import threading
import time

import psutil


def wait_for(fact, seconds=60):
    """Wait until `fact()` is true, and return what it is; fail, never pass, if it does not come true."""
    deadline = time.monotonic() + seconds
    while not (value := fact()):
        assert time.monotonic() < deadline, "what was waited for did not happen"
        threading.Event().wait(0.005)
    return value


def growing(first):
    """Yield limits in seconds, each twice the one before; fail, never pass, when there are no more.

    For a limit that is to be met only after something has happened: whoever asks goes on until it had, so a slow
    machine gets a longer one, and no other one waits for it.
    """
    seconds = first
    while seconds < 100:
        yield seconds
        seconds *= 2
    raise AssertionError("what was to come before the limit did not happen")


def is_dead(process):
    """Whether a process, given by its id or as `psutil` has it, runs no more.

    A zombie does not; how soon it is buried is up to the init of the machine.
    """
    try:
        return (psutil.Process(process) if isinstance(process, int) else process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

"""What the tasks of the benchmark do, apart: workers import this module, and the engines would cost them 0.1 s."""

from __future__ import annotations

import time


def work(seconds: float, *parents: object) -> None:
    """Use CPU for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def work_of(name: str, seconds: float, *parents: object) -> None:
    """Use CPU for so long, as a task that is known by its name."""
    work(seconds)


def wait(seconds: float) -> None:
    """Use no CPU for so long."""
    time.sleep(seconds)


def wait_with_numpy(seconds: float) -> None:
    """Use no CPU for so long, and have numpy imported behind that."""
    import numpy  # noqa: F401

    time.sleep(seconds)

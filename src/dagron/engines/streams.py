"""The standard streams of a process in which tasks run."""

from __future__ import annotations

import sys

__all__ = ["flush_streams"]


def flush_streams() -> None:
    """Write out what Python's own streams hold back."""
    try:
        sys.stdout.flush()
    except BaseException:
        pass  # a task closed, removed or replaced it
    try:
        sys.stderr.flush()
    except BaseException:
        pass

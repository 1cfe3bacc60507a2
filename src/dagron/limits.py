"""What the system refuses because a limit is met, which is for whoever has set it, and no fault of dagron's."""

from __future__ import annotations

import errno

__all__ = ["is_limit", "refusal"]

_HINTS = {
    errno.EMFILE: "this process has as many files open as it may (`ulimit -n`)",
    errno.ENFILE: "the machine has as many files open as it may",
    errno.EAGAIN: "no further process or thread may be started (`ulimit -u`, `ulimit -v`, or the limit of a container)",
    errno.ENOMEM: "there is not enough memory (or `ulimit -v` is too low)",
    errno.EFBIG: "files may not be that large (`ulimit -f`)",
    errno.E2BIG: "the environment variables are too large for a new process",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk space of this user is used up",
}

_NO_THREAD = "can't start new thread"
"""What `threading` makes of EAGAIN is a RuntimeError."""


def is_limit(error: BaseException) -> bool:
    """Tell whether an error says that a limit is met."""
    if isinstance(error, OSError):
        return error.errno in _HINTS
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def refusal(error: BaseException) -> str:
    """Return in words what the system refused."""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        return f"{text}: {_HINTS[error.errno]}" if error.errno in _HINTS else text
    if isinstance(error, MemoryError):
        return _HINTS[errno.ENOMEM]
    return f"{error}: {_HINTS[errno.EAGAIN]}" if is_limit(error) else str(error)

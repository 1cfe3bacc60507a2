"""What surrounds the coordinator: what its workers take over from it, and whether it leaves enough to start them.

None of it is the run's business, and all of it may be unusual: an interpreter inside of another program, a working
directory that is gone, a default timeout for sockets, tight limits. What is missing is an error that names it.
"""

from __future__ import annotations

import _socket
import os
import select
import socket
import sys
from multiprocessing import process, spawn, util
from typing import Any

from dagron.errors import WorkerStartError

__all__ = [
    "NO_SIGPIPE",
    "Socket",
    "blocking_pair",
    "check_open_files",
    "check_patches",
    "has_directory",
    "import_path",
    "interpreter",
    "preparation",
]

Socket = _socket.socket

NO_SIGPIPE: int = getattr(socket, "MSG_NOSIGNAL", 0)
"""For `send`: the script may have put the default action back for SIGPIPE, which would end it with any worker."""

_SO_NOSIGPIPE = 0x1022
"""From <sys/socket.h> of macOS, which has no MSG_NOSIGNAL."""

_FILES_OF_A_SLOT = 13
"""The coordinator's open files for each worker: board, two captured streams, channel, the four pipes of an executor's
queues and wake-ups, payload and status. A test counts them."""

_FILES_OF_A_LEAVER = 9
"""For each worker that makes place for another and has not ended yet: the queues, wake-ups, payload and status."""

_FEWEST_FILES = 48
"""What a process must be able to open, as a worker inherits the limit: with fewer than 32 left beside its own dozen it
is taken for one that its task has damaged."""

_FILES_OF_A_RUN = 12
"""For the whole run: server, checkpoint, and what is open for a moment only; for a worker that starts that is six."""


def blocking_pair() -> tuple[Socket, Socket]:
    """Return a pair of connected sockets that wait as long as it takes.

    Whatever `socket.setdefaulttimeout` says, and whatever gevent has put in the place of `socket`: what is passed to a
    worker has to wait there, too.
    """
    pair = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        end.settimeout(None)
        if sys.platform == "darwin":
            end.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
    return pair


def interpreter() -> str:
    """Return the program of this interpreter.

    Raises:
        WorkerStartError: It is not known, as in a program that embeds Python.
    """
    program = spawn.get_executable()
    if program:
        return os.fsdecode(program)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in (f"python{version}", "python3"):
        path = os.path.join(sys.exec_prefix, "bin", name)
        if os.access(path, os.X_OK):
            return path
    raise WorkerStartError(
        f"sys.executable is {sys.executable!r}, as in a program that embeds Python; say with "
        f"multiprocessing.set_executable() where a Python {version} is that has the same packages"
    )


def has_directory() -> bool:
    """Tell whether the working directory is still there."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def import_path() -> list[str]:
    """Return where the coordinator imports from, by absolute paths.

    What is no text is no place for Python either, and from a directory that was removed nothing is imported.
    """
    path = [entry for entry in sys.path if isinstance(entry, str)]
    if "" in path:
        here = os.getcwd() if has_directory() else ""
        path = [found for entry in path if (found := entry or here)]
    return path


def preparation(name: str) -> dict[str, Any]:
    """Return what `multiprocessing.spawn.prepare` needs in a worker of this name.

    Not `spawn.get_preparation_data`, which asks for `sys.argv`, a working directory and a `__main__`; the path and the
    directory are those of the server.
    """
    data = {
        "name": name,
        "authkey": bytes(process.current_process().authkey),  # of celery's processes it is of a class of their own
        "log_to_stderr": util._log_to_stderr,  # type: ignore[attr-defined]
        "orig_dir": process.ORIGINAL_DIR,  # type: ignore[attr-defined]
    }
    if (arguments := getattr(sys, "argv", None)) is not None:
        data["sys_argv"] = arguments
    return data


def check_patches() -> None:
    """Check that nobody has taken away from Python what waiting for workers needs.

    Raises:
        WorkerStartError: Somebody has.
    """
    if not hasattr(select, "poll"):
        raise WorkerStartError(
            "select.poll is gone from this process, as after eventlet.monkey_patch(); run where nothing is patched, "
            "such as in a process of its own, or with pool='inline'"
        )


def check_open_files(n_slots: int, *, replaces: bool = False) -> None:
    """Check that this process may open what a run needs.

    Args:
        n_slots: How many workers it has at the same time.
        replaces: Whether others take their places.

    Raises:
        WorkerStartError: It may not.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = _n_open_files()
    of_slot = _FILES_OF_A_SLOT + replaces * _FILES_OF_A_LEAVER
    needed = max(_FILES_OF_A_RUN + n_slots * of_slot, _FEWEST_FILES - n_open)
    if soft == resource.RLIM_INFINITY or n_open + needed <= soft:
        return
    fitting = (soft - n_open - _FILES_OF_A_RUN) // of_slot if soft >= _FEWEST_FILES else 0
    fewer = f"run at most {fitting} of them, or " if fitting > 0 else ""
    if hard == soft:
        above = ", for which this user needs somebody else"
    else:
        above = "" if hard == resource.RLIM_INFINITY else f", up to {hard}"
    raise WorkerStartError(
        f"this process may have {soft} files open and has {n_open}; {n_slots} worker(s) take {needed} more: "
        f"{fewer}raise the limit (`ulimit -n`{above})"
    )


def _n_open_files() -> int:
    for listing in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(listing)) - 1  # one of them is the listing
        except OSError:
            continue
    return 0

"""How a command ends: errors and signals become a line on standard error and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from dagron.cli.exit_codes import ExitCode, OutputError, UsageError, exit_code_of
from dagron.errors import DagronError, InternalError, WorkerInitError

__all__ = ["Stopped", "exit_code_of_stop", "exit_code_of_work", "put", "say", "stop_on_signals", "write_file"]


class Stopped(KeyboardInterrupt):
    """Someone asks this process to end. Raised in the main thread, wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = ExitCode(128 + number)


def say(text: str) -> None:
    """Write a message to standard error."""
    try:
        print(f"dagron: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # there is nobody to tell


def stop_on_signals() -> None:
    """Make SIGINT and SIGTERM raise `Stopped`, and a second one end this process at once.

    Ending at once is safe: the checkpoint has what was committed, and the workers do not outlive this process. A signal
    that is ignored, as in a background job of a shell, stays so.
    """
    stopped = False
    try:
        terminal = os.dup(2)  # standard error itself may lead elsewhere when the time comes
    except OSError:
        terminal = os.open(os.devnull, os.O_WRONLY)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            os.write(terminal, b"\ndagron: stopped at once; what was committed is kept\n")
            os._exit(128 + number)
        stopped = True
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, on_signal)


def put(text: str) -> None:
    """Write to standard output what was asked for, with a line break at its end if it has none.

    Raises:
        OutputError: It cannot be written. Not if its reader has gone away, who has seen enough.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more at its end, and must not complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            raise OutputError("standard output", error.strerror or str(error)) from error


def write_file(path: Path | None, text: str) -> None:
    """Write what was asked for to a file; with None to standard output, as `put`.

    Raises:
        OutputError: It cannot be written.
    """
    if path is None:
        put(text)
        return
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise OutputError(f"'{path}'", error.strerror or str(error)) from error


def exit_code_of_stop(error: KeyboardInterrupt) -> ExitCode:
    """Return the exit code of a command that was stopped."""
    return error.exit_code if isinstance(error, Stopped) else ExitCode.INTERRUPTED


def exit_code_of_work(work: Callable[[], ExitCode]) -> ExitCode:
    """Carry a command out, and return its exit code, whatever goes wrong."""
    try:
        return work()
    except KeyboardInterrupt as error:
        say("interrupted")
        return exit_code_of_stop(error)
    except DagronError as error:
        if isinstance(error, (UsageError, WorkerInitError)) and error.traceback_text:
            print(error.traceback_text, end="", file=sys.stderr)
        if isinstance(error, InternalError):
            traceback.print_exc()
        say("; ".join([f"error: {error}", *getattr(error, "__notes__", ())]))
        return exit_code_of(error)
    except Exception as error:
        traceback.print_exc()
        say(f"error: unexpected {type(error).__name__}, please report it with the traceback above")
        return ExitCode.INTERNAL

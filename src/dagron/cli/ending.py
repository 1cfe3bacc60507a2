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
from dagron.cli.place import Place
from dagron.cli.program import as_called
from dagron.errors import DagronError, InternalError, WorkerInitError
from dagron.limits import is_limit, refusal

__all__ = ["Stopped", "exit_code_of_stop", "exit_code_of_work", "put", "say", "stop_on_signals", "tell", "write_file"]


_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to end; Windows has no SIGHUP, and is told so later."""


class Stopped(KeyboardInterrupt):
    """Someone asks this process to end. Raised in the main thread, wherever it is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = ExitCode(128 + number)


def say(text: str) -> None:
    """Write a message to standard error."""
    tell(f"dagron: {text}")


def tell(text: str) -> None:
    """Write a text that is no message of ours to standard error, such as a traceback."""
    try:
        print(as_called(text), file=sys.stderr, flush=True)
    except OSError:
        # There is nobody to tell, as after the terminal was closed. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    except ValueError:
        pass  # the user's file has closed it


def stop_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise `Stopped`, and a second one end this process at once.

    Ending at once is safe: the checkpoint has what was committed, and the workers do not outlive this process. A signal
    that is ignored, as in a background job of a shell or under `nohup`, stays so.
    """
    stopped = False
    try:
        terminal = os.dup(2)  # standard error itself may lead elsewhere when the time comes
    except OSError:
        terminal = os.open(os.devnull, os.O_WRONLY)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped:
            try:
                os.write(terminal, b"\ndagron: stopped at once; what was committed is kept\n")
            except OSError:
                pass  # a terminal that was closed
            os._exit(128 + number)
        stopped = True
        raise Stopped(number)

    for number in _ASKING:
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


def write_file(path: Place | None, text: str) -> None:
    """Write what was asked for to a file; with None to standard output, as `put`.

    Raises:
        OutputError: It cannot be written.
    """
    if path is None:
        put(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
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
            tell(error.traceback_text.rstrip("\n"))
        if isinstance(error, InternalError):
            tell(traceback.format_exc().rstrip("\n"))
        say("; ".join([f"error: {error}", *getattr(error, "__notes__", ())]))
        return exit_code_of(error)
    except Exception as error:
        if is_limit(error):
            say(f"error: {refusal(error)}")
            return ExitCode.INTERNAL
        tell(traceback.format_exc().rstrip("\n"))
        say(f"error: unexpected {type(error).__name__}, please report it with the traceback above")
        return ExitCode.INTERNAL

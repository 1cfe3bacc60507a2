"""Where output goes while a run goes on: standard output is kept for results, the live bar is kept whole."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from dagron.cli.ending import say
from dagron.cli.terminal import NOT_FOR_A_LINE

__all__ = ["TaskOutput", "retries_told", "stdout_kept_for_results"]

_DRAIN_SECONDS = 1.0
"""How long the end of a run waits for what tasks have printed; it comes at once, unless the terminal hangs."""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or replaced by the user's file


@contextmanager
def stdout_kept_for_results() -> Iterator[None]:
    """Send what this process writes to standard output, what tasks print among it, to standard error until the end.

    The descriptor is led away and not `sys.stdout` alone, so that this holds for C code and for child processes, too.
    """
    try:
        kept = os.dup(1)
    except OSError:
        yield  # it is closed: nothing to keep
        return
    _flush()
    os.dup2(2, 1)
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


class _Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Say it, as all else that the command says."""
        say(record.getMessage())


@contextmanager
def retries_told() -> Iterator[None]:
    """Write a line for each attempt that fails and that another one follows, to standard error."""
    logger, handler = logging.getLogger("dagron.attempts"), _Told()
    level = logger.level
    logger.addHandler(handler)
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class TaskOutput:
    """While it is entered, what is written to standard output and error is shown above a live bar.

    Without this, what comes past `sys.stdout` and `sys.stderr` would land in the middle of the bar and tear it: lines
    of C code, of threads of the job and of child processes. What tasks print goes the same way. It is a pseudo terminal
    and not a pipe, so that whoever looks whether there is a terminal goes on to write line by line and in colours.

    Where the platform has no pseudo terminals nothing changes.

    Attributes:
        bar: The bar, on a console that leads to the real terminal.
    """

    def __init__(self) -> None:
        from rich.console import Console

        from dagron.display.progress import ProgressBar

        self._terminal = os.fdopen(os.dup(2), "w", encoding=sys.stderr.encoding, errors="backslashreplace")
        self._console = Console(file=self._terminal, force_terminal=True)
        self.bar = ProgressBar(self._console)
        self._thread: threading.Thread | None = None
        self._kept: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        if self.bar.console is None:
            return self  # a dumb terminal gets lines, which others do not tear
        try:
            import termios

            ours, theirs = os.openpty()
        except (ImportError, OSError, AttributeError):
            return self
        settings = termios.tcgetattr(theirs)
        settings[1] &= ~termios.OPOST  # line ends as they were written
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        try:
            termios.tcsetwinsize(theirs, termios.tcgetwinsize(2))
        except termios.error:
            pass  # then it has no size
        _flush()
        self._kept = (os.dup(1), os.dup(2))
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)
        os.close(theirs)
        self._thread = threading.Thread(target=self._pump, args=(ours,), name="dagron-output", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self._kept is not None and self._thread is not None:
            _flush()
            for number, kept in zip((1, 2), self._kept, strict=True):
                os.dup2(kept, number)
                os.close(kept)
            self._kept = None
            # Nobody has the other end any more, so the thread reads the last byte and then the end of the file. If a
            # process that was started meanwhile, by a callback say, holds that end, the thread is left to itself.
            self._thread.join(_DRAIN_SECONDS)
        try:
            self._terminal.close()
        except OSError:
            pass  # what was still to be shown has nobody to see it

    def _pump(self, terminal: int) -> None:
        rest = b""
        while True:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:
                break  # how Linux says that the other end is closed
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                self._show(lines)
        if rest:
            self._show([rest])
        os.close(terminal)

    def _show(self, lines: list[bytes]) -> None:
        from rich.segment import Segment, Segments

        # A line that was written over itself, such as a task's own progress bar, is shown in its last state.
        text = "\n".join(line.decode(errors="backslashreplace").rstrip("\r").rpartition("\r")[2] for line in lines)
        text = NOT_FOR_A_LINE.sub("", text)
        if "\x1b" in text:
            text += "\x1b[0m"  # the bar keeps its own colours
        try:
            # A finished segment, as laying out what a task may print by the megabyte would hold up the run.
            self._console.print(Segments([Segment(f"{text}\n")]), soft_wrap=True)
        except (OSError, ValueError):
            pass  # the terminal is gone; reading goes on, or the tasks would wait

"""What may come to a terminal, and how: colours, its width, messages and errors in one line, times."""

from __future__ import annotations

import os
import re
import shutil
import sys
from datetime import datetime

from dagron.shown import shown_name, shown_seconds

__all__ = [
    "NOT_FOR_A_LINE",
    "STYLES",
    "shown_error",
    "shown_line",
    "shown_time",
    "styled",
    "styled_state",
    "terminal_width",
]

NOT_FOR_A_LINE = re.compile(
    r"\x1b\[(?![0-9;:]*m)[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b(?!\[[0-9;:]*m)"
    r"|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]"
)
"""Escape sequences other than colours, and control characters: what would move the cursor away from its line."""

STYLES = {
    "completed": "32",
    "running": "36",
    "failed": "1;31",
    "timed_out": "1;31",
    "damaged": "1;31",
    "skipped": "33",
    "stale": "33",
    "lost": "33",
    "pending": "2",
}
"""How a state is coloured: parameters of the escape sequence."""

_MAX_MESSAGE = 200
"""Characters of a message: two lines of a usual terminal."""


def terminal_width() -> int | None:
    """Return how many columns standard output has; None if it is no terminal, so that nothing need be cut."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def styled(text: str, style: str) -> str:
    """Return a text with a style, where standard output is a terminal that may have colours."""
    if not style or terminal_width() is None or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


def styled_state(state: str) -> str:
    """Return a state in its colour."""
    return styled(state, STYLES.get(state, ""))


def shown_line(text: str) -> str:
    """Return the first line of a message, safe on a terminal and of bearable length."""
    lines = text.strip().splitlines()
    line = shown_name(lines[0]) if lines else ""
    if len(line) > _MAX_MESSAGE:
        return f"{line[:_MAX_MESSAGE]}..."
    return f"{line} ..." if len(lines) > 1 else line


def shown_error(type_name: str, message: str) -> str:
    """Return an error in one line."""
    line = shown_line(message)
    return f"{type_name}: {line}" if line else type_name


def shown_time(unix: float, now_unix: float | None = None) -> str:
    """Return a time on this machine's clock, with how long ago it was if `now_unix` is given."""
    text = f"{datetime.fromtimestamp(unix):%Y-%m-%d %H:%M:%S}"
    if now_unix is None:
        return text
    return f"{text} ({shown_seconds(max(0.0, now_unix - unix))} ago)"

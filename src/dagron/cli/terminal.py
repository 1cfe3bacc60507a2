"""What may come to a terminal, and how: colours, its width, times."""

from __future__ import annotations

import os
import re
import shutil
import sys

__all__ = [
    "NOT_FOR_A_LINE",
    "STYLES",
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
    "cancelled": "33",
    "stale": "33",
    "lost": "33",
    "pending": "2",
}
"""How a state is coloured: parameters of the escape sequence."""


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


def styled_state(label: str) -> str:
    """Return the word for a state in its colour."""
    return styled(label, STYLES.get(label.strip().replace(" ", "_"), ""))

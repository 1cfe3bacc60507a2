"""Why an attempt failed, in one line: for lists, tables and logs, where the whole report has no room."""

from __future__ import annotations

import textwrap

from dagron.checkpoint.format.records import Failed, Retried
from dagron.errors import LAST_LINES
from dagron.results.last_words import last_line
from dagron.shown import shown_name

__all__ = ["shown_error", "shown_line", "shown_reason"]

_MAX_MESSAGE = 200
"""Characters of a message: two lines of a usual terminal."""


def shown_reason(failure: Failed | Retried) -> str:
    """Return why an attempt failed, as `shown_error` has it."""
    return shown_error(failure.type, failure.message)


def shown_error(type_name: str, message: str) -> str:
    """Return an error in one line."""
    line = shown_line(message)
    return f"{type_name}: {line}" if line else type_name


def shown_line(text: str) -> str:
    """Return the first line of a message, safe on a terminal and of bearable length.

    The message of a lost worker has the end of its standard error below; of that comes the line that tells most.
    """
    head, found, written = text.strip().partition(LAST_LINES)
    if found and (last := last_line(textwrap.dedent(written))):
        return f"{_first(head)}; its last line on stderr: {_first(last)}"
    return _first(text)


def _first(text: str) -> str:
    lines = text.strip().splitlines()
    line = shown_name(lines[0]) if lines else ""
    if len(line) > _MAX_MESSAGE:
        return f"{line[:_MAX_MESSAGE]}..."
    return f"{line} ..." if len(lines) > 1 else line

"""The pickle of a result as text."""

from __future__ import annotations

from dagron.preview.machine import read
from dagron.preview.showing import shown
from dagron.preview.values import LongText, text_of_value

__all__ = ["preview"]

_MAX_OPERATIONS = 500_000
"""Carried out without --full: a quarter of a second's. A pickle makes a value with each, and a screen shows some
hundreds. An array of whatever size takes twenty."""

_MAX_OPERATIONS_IN_FULL = 20_000_000
"""With --full: ten seconds' and, as each makes up to 150 bytes, 3 GB."""


def preview(data: bytes | memoryview, *, full: bool = False, plain: bool = False, width: int = 100) -> str:
    """Return what a pickle holds, without running code that it names. Raises nothing, whatever the bytes are.

    Args:
        data: The pickle.
        full: Shorten nothing.
        plain: Return a str as it is.
        width: Columns of a line, where names and texts allow that.
    """
    reading = read(data, _MAX_OPERATIONS_IN_FULL if full else _MAX_OPERATIONS)
    if plain and not reading.stopped and isinstance(reading.value, (str, LongText)):
        return text_of_value(reading.value)
    text = shown(reading.value, full=full, width=width, n_operations=reading.n_operations)
    if not reading.stopped:
        return text
    more = "" if full or "first" not in reading.stopped else "; --full reads on"
    return f"{text}\n... {reading.stopped}{more}"

"""Where the bytes of a result are. Apart from the format, most of which a worker need not load."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Storage"]


class Storage(IntEnum):
    """Where the bytes of a result are."""

    INLINE = 0
    """In the payload of its record; its `.pkl` is a copy for people and other programs."""
    FILE = 1
    """In its `.pkl` only."""

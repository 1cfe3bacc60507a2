"""Where the bytes of a result are, and their digest: what a worker needs to know of the format."""

from __future__ import annotations

import hashlib
from enum import IntEnum

__all__ = ["Storage", "result_digest"]


class Storage(IntEnum):
    """Where the bytes of a result are."""

    INLINE = 0
    """In the payload of its record; its `.pkl` is a copy for people and other programs."""
    FILE = 1
    """In its `.pkl` only."""


def result_digest(key: bytes | None = None) -> hashlib.blake2b:
    """Return a fresh blake2b-256 for the bytes of a result."""
    return hashlib.blake2b(digest_size=32, key=key or b"")

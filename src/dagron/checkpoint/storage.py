"""Where the bytes of a result are, and their digest: what a worker needs to know of the format."""

from __future__ import annotations

import hashlib
import hmac
import mmap
from enum import IntEnum
from typing import NamedTuple, Protocol

__all__ = ["Digest", "Digests", "Storage"]


class Storage(IntEnum):
    """Where the bytes of a result are."""

    INLINE = 0
    """In the payload of its record; its `.pkl` is a copy for people and other programs."""
    FILE = 1
    """In its `.pkl` only."""


class Digest(Protocol):
    """A digest that is being made."""

    def update(self, data: bytes | memoryview | mmap.mmap, /) -> None:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """Return the digest of the bytes so far."""


class Digests(NamedTuple):
    """How the results of one checkpoint are digested; 32 bytes each.

    INLINE results with blake2b; of so few bytes neither takes long. FILE results with SHA-256 if `sha256`: a processor
    that has instructions for it does twice as many bytes with it as with blake2b, and one that has not half as many.

    Attributes:
        key: The signing key, or None.
        sha256: What stands in the header of the journal, so that equal results have equal digests wherever it is read.
    """

    key: bytes | None
    sha256: bool = False

    def new(self, storage: int) -> Digest:
        """Return a fresh digest for the bytes of a result that is stored so."""
        if not self.sha256 or storage == Storage.INLINE:
            return hashlib.blake2b(digest_size=32, key=self.key or b"")
        return hmac.new(self.key, digestmod="sha256") if self.key else hashlib.sha256()

    def of(self, data: bytes | memoryview | mmap.mmap, storage: int) -> bytes:
        """Return the digest of all the bytes of a result."""
        digest = self.new(storage)
        digest.update(data)
        return digest.digest()

    def name(self, storage: int) -> str:
        """Return what people call the digest of a result that is stored so."""
        if not self.sha256 or storage == Storage.INLINE:
            return "keyed blake2b-256" if self.key else "blake2b-256"
        return "hmac-sha-256" if self.key else "sha-256"

    def __repr__(self) -> str:
        key = "None" if self.key is None else "..."  # which is a secret
        return f"Digests(key={key}, sha256={self.sha256})"

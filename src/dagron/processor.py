"""What the processor of this machine is quick at. Imports nothing of ours."""

from __future__ import annotations

import functools
import hashlib
import platform
import sys

__all__ = ["has_sha256", "is_flagged"]

_CPUINFO_BYTES = 8192
"""More than what Linux says of one processor. It goes on for each of them."""


@functools.cache
def has_sha256() -> bool:
    """Tell whether SHA-256 is quicker than blake2b here, as it is where the processor has instructions for it.

    False where that cannot be told: blake2b is quick enough everywhere.
    """
    if type(hashlib.sha256()).__module__ != "_hashlib":
        return False  # the interpreter was built without OpenSSL, and its own code uses no such instructions
    if sys.platform == "darwin":
        return platform.machine() == "arm64"  # all of these have them
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return is_flagged(file.read(_CPUINFO_BYTES))
    except OSError:
        return False


def is_flagged(cpuinfo: str) -> bool:
    """Tell whether what Linux says of its processors names the instructions: `sha_ni` on x86, `sha2` on arm64."""
    for line in cpuinfo.splitlines():
        label, _, flags = line.partition(":")
        if label.strip() in ("flags", "Features"):
            return not {"sha_ni", "sha2"}.isdisjoint(flags.split())
    return False

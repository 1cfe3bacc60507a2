"""Which start of this machine it is: what a run has recorded tells a later one whether the machine went on since."""

from __future__ import annotations

from pathlib import Path

__all__ = ["boot_id"]


def boot_id() -> str:
    """Return a text that differs after every start of this machine; empty where the platform has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""

"""What this machine and a directory on it offer, found out by trying."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import dagron
from dagron import __version__
from dagron.shown import shown_bytes, shown_seconds

__all__ = ["Check", "examine"]

_N_FLUSHES = 20
"""Enough for a median, and less than half a second also on a slow disk."""

_SLOW_FLUSH_SECONDS = 0.02
"""A flush that takes longer is worth a word: a group of results takes two, and a disk that turns takes about 10 ms."""

_MIN_FREE_BYTES = 2**30
"""Memory and space below which there is a warning; never varied."""

_MIN_DESCRIPTORS = 1024
"""What Linux gives a process by default: enough for about a hundred workers."""

_DISTRIBUTIONS = ("click", "cloudpickle", "jinja2", "psutil", "rich")
_OURS = "dagron-executor"
_ANOTHERS = "dagron"
"""A distribution of this name is another project's, which installs a package `dagron`, too."""

_MAX_FILES = 3
"""Files of the other project that are named."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found out about one thing: `bad` if a run cannot work so, `warn` if it will suffer."""

    name: str
    verdict: Literal["ok", "warn", "bad"]
    text: str


def examine(directory: Path) -> list[Check]:
    """Try what a run needs, with files in a temporary directory below `directory`, which are deleted again."""
    checks = [_versions(), _installation()]
    for name, look in (("processors", _processors), ("memory", _memory), ("limits", _limits)):
        checks.append(_found(name, look))
    try:
        with tempfile.TemporaryDirectory(prefix=".dagron-doctor-", dir=directory) as scratch:
            path = Path(scratch)
            steps: list[tuple[str, Callable[[Path], Check]]] = [
                ("directory", _space),
                ("flush", _flush),
                ("lock", _lock),
                ("run", _trial_run),
            ]
            for name, step in steps:
                checks.append(_found(name, partial(step, path)))
    except OSError as error:
        checks.append(Check("directory", "bad", f"cannot write to '{directory}': {error.strerror}"))
    return checks


def _found(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:  # such as that `/proc` is not there
        return Check(name, "bad", f"{type(error).__name__}: {error}")


def _versions() -> Check:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _DISTRIBUTIONS)
    text = f"dagron {__version__} on {platform.python_implementation()} {platform.python_version()}, "
    text += f"{platform.system()} {platform.release()}; {versions}"
    if sys.platform == "win32":
        return Check("versions", "bad", f"{text}; Windows is not supported")
    return Check("versions", "ok" if sys.platform == "linux" else "warn", text)


def _installation() -> Check:
    """Look for the other project named `dagron`, whose files and ours overwrite each other."""
    package = Path(dagron.__file__).absolute().parent
    others = list(importlib.metadata.distributions(name=_ANOTHERS))
    if not others:
        return Check("package", "ok", f"'{package}', and no other project's `{_ANOTHERS}` is installed")
    found = []
    for other in others:
        files = [path for path in other.files or () if path.parts[:1] == (package.name,)]
        named = ", ".join(f"'{other.locate_file(path)}'" for path in files[:_MAX_FILES])
        more = f" and {len(files) - _MAX_FILES} more" if len(files) > _MAX_FILES else ""
        found.append(f"version {other.version}{f' with {named}{more}' if files else ''}")
    return Check(
        "package",
        "bad",
        f"the distribution `{_ANOTHERS}`, which is another project, is installed beside `{_OURS}` and has a package of "
        f"the same name: {'; '.join(found)}. Uninstall `{_ANOTHERS}`, then install `{_OURS}` again from its clone, as "
        f"some of its files may be overwritten or gone; this one runs from '{package}'",
    )


def _processors() -> Check:
    from dagron.engines.local.cores import available_cpus

    n, quota = len(available_cpus()), _cpu_quota()
    text = f"{n} for this process of {os.cpu_count()} in the machine; so many workers by default"
    if quota is not None and quota < n:
        return Check(
            "processors", "warn", f"{text}, but a quota gives time for {quota:g} only: pass -w {max(1, int(quota))}"
        )
    return Check("processors", "ok", text)


def _cpu_quota() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{shown_bytes(memory.available)} available of {shown_bytes(memory.total)}"
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    if limit.isdigit() and int(limit) < memory.total:
        text += f", of which this group may take {shown_bytes(int(limit))}"
    return Check("memory", "ok" if memory.available >= _MIN_FREE_BYTES else "warn", text)


def _limits() -> Check:
    try:
        import resource
    except ImportError:
        return Check("limits", "warn", "the platform has none")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= _MIN_DESCRIPTORS or soft == resource.RLIM_INFINITY
    text = f"{'any number of' if soft == resource.RLIM_INFINITY else soft} open files; a worker takes 13"
    return Check("limits", "ok" if enough else "warn", text)


def _space(path: Path) -> Check:
    import psutil

    free = psutil.disk_usage(str(path)).free
    partitions = sorted(psutil.disk_partitions(all=True), key=lambda part: len(part.mountpoint))
    kinds = [part.fstype for part in partitions if path.is_relative_to(part.mountpoint)]
    kind = kinds[-1] if kinds else "unknown"
    text = f"'{path.parent}' is on a file system of type {kind} with {shown_bytes(free)} free"
    if kind.startswith(("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "9p")):
        return Check("directory", "warn", f"{text}: see to it that only one machine runs a checkpoint at a time")
    return Check("directory", "ok" if free >= _MIN_FREE_BYTES else "warn", text)


def _flush(path: Path) -> Check:
    seconds = []
    with open(path / "flush", "wb", buffering=0) as file:
        for _ in range(_N_FLUSHES):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    typical, worst = statistics.median(seconds), max(seconds)
    text = f"{shown_seconds(typical)}, at worst {shown_seconds(worst)}; a group of results takes two"
    if typical > _SLOW_FLUSH_SECONDS:
        text += "; --durability process saves them and survives kill -9, but no loss of power"
    return Check("flush", "ok" if typical <= _SLOW_FLUSH_SECONDS else "warn", text)


def _lock(path: Path) -> Check:
    from dagron.checkpoint.files.locks import DirectoryLock, has_no_locks

    first, second = DirectoryLock(path / "lock"), DirectoryLock(path / "lock")
    try:
        taken = first.acquire()
    except OSError as error:
        if not has_no_locks(error):
            raise
        text = (
            "the file system has no locks; choose another directory, or set DAGRON_LOCK=machine for runs of one machine"
        )
        return Check("lock", "bad", text)
    try:
        refused = taken and not second.acquire()
    finally:
        second.release()
        first.release()
    if taken and refused:
        return Check("lock", "ok", "the file system keeps two runs apart")
    return Check("lock", "bad", "the file system does not keep two runs apart; choose another directory")


def _trial_run(path: Path) -> Check:
    from dagron.executor import CheckpointExecutor
    from dagron.graph.dag import DAG

    began = time.perf_counter()
    result = CheckpointExecutor(DAG(["probe"]), path / "checkpoint", max_workers=1).execute({"probe": os.getpid})
    seconds = time.perf_counter() - began
    if not result.ok:
        return Check("run", "bad", f"a worker started and its node failed: {result['probe'].error}")
    return Check("run", "ok", f"a run of one node took {shown_seconds(seconds)} with its worker")

"""The options of a run, checked where they are made. `CheckpointExecutor` explains each of them to the user."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypedDict

from dagron.callbacks import ExecutionCallbacks, RunObserver
from dagron.checkpoint.format.compression import require_zstd
from dagron.checkpoint.reading.opening import signing_key as key_of_environment
from dagron.checkpoint.writing.store import Durability
from dagron.engines.local.cores import available_cpus, can_pin
from dagron.errors import OptionError
from dagron.tasks.binding import check_plain_call
from dagron.tasks.options import (
    check_count,
    check_exceptions,
    check_flag,
    check_seconds,
    check_timeout,
    parse_bytes,
)

__all__ = ["ExecutorOptions", "Options"]

logger = logging.getLogger("dagron")


class ExecutorOptions(TypedDict, total=False):
    """The fields of `Options` as keywords, for type checkers."""

    callbacks: ExecutionCallbacks | None
    fail_fast: bool
    enable_tracing: bool
    max_workers: int | None
    durability: Durability
    pool: Literal["process", "inline"]
    retries: int
    retry_delay: float
    retry_on: tuple[type[BaseException], ...]
    timeout: float | None
    memory_limit: int | str | None
    pin_cpus: bool
    kill_grace_seconds: float
    signing_key: bytes | None
    allow_untrusted: bool
    progress: bool | RunObserver
    pass_output: bool
    max_tasks_per_worker: int | None
    worker_init: Callable[[], object] | None
    keep: bool
    compression: Literal["zstd"] | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked for.

    The fields are the parameters of `CheckpointExecutor` and have their meanings and defaults. What follows from them
    on this machine is found out once, when it is first needed, so that all parts of a run go by the same.

    Raises:
        OptionError: A field has a value that it cannot have.
    """

    callbacks: ExecutionCallbacks | None = None
    fail_fast: bool = True
    enable_tracing: bool = False
    max_workers: int | None = None
    durability: Durability = "power"
    pool: Literal["process", "inline"] = "process"
    retries: int = 0
    retry_delay: float = 1.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    timeout: float | None = None
    memory_limit: int | str | None = None
    pin_cpus: bool = False
    kill_grace_seconds: float = 1.0
    signing_key: bytes | None = field(default=None, repr=False)
    allow_untrusted: bool = False
    progress: bool | RunObserver = False
    pass_output: bool = True
    max_tasks_per_worker: int | None = None
    worker_init: Callable[[], object] | None = None
    keep: bool = True
    compression: Literal["zstd"] | None = None

    def __post_init__(self) -> None:
        if self.callbacks is not None and not isinstance(self.callbacks, ExecutionCallbacks):
            raise OptionError("callbacks", repr(self.callbacks)[:80], "an ExecutionCallbacks")
        if self.max_workers is not None:
            check_count("max_workers", self.max_workers, least=1)
        if self.max_tasks_per_worker is not None:
            check_count("max_tasks_per_worker", self.max_tasks_per_worker, least=1)
        if self.worker_init is not None:
            check_plain_call("worker_init", self.worker_init)
        if self.durability not in ("power", "process"):
            raise OptionError("durability", repr(self.durability), "'power' or 'process'")
        if self.pool not in ("process", "inline"):
            raise OptionError("pool", repr(self.pool), "'process' or 'inline'")
        check_count("retries", self.retries)
        check_seconds("retry_delay", self.retry_delay)
        check_exceptions("retry_on", self.retry_on)
        check_timeout("timeout", self.timeout)
        parse_bytes("memory_limit", self.memory_limit)
        check_seconds("kill_grace_seconds", self.kill_grace_seconds)
        check_flag("keep", self.keep)
        if self.compression not in ("zstd", None):
            raise OptionError("compression", repr(self.compression), "'zstd' or None")
        if self.compression is not None:
            require_zstd("compression='zstd'")
        self._check_key()
        self._check_pinning()

    def _check_key(self) -> None:
        key = self.key  # now, so that a later change of the environment changes nothing
        if key is not None and not (isinstance(key, bytes) and key):
            raise OptionError("signing_key", "...", "bytes, at least one")

    def _check_pinning(self) -> None:
        check_flag("pin_cpus", self.pin_cpus)
        if self.pin_cpus and not can_pin():
            logger.warning("pin_cpus is ignored: this system does not bind processes to processors")
        elif self.pin_cpus and self.n_workers > (n_cpus := len(available_cpus())):
            raise OptionError("pin_cpus", repr(self.pin_cpus), f"at most as many workers as processors, here {n_cpus}")

    @cached_property
    def n_workers(self) -> int:
        """How many worker processes there may be."""
        return len(available_cpus()) if self.max_workers is None else self.max_workers

    @property
    def pins(self) -> bool:
        """Whether workers are to be bound to processors, and can be."""
        return self.pin_cpus and can_pin()

    @cached_property
    def key(self) -> bytes | None:
        """The signing key: the one that was given, or that of the environment."""
        return key_of_environment() if self.signing_key is None else self.signing_key

"""A task with the options of its node, and the checks of options; a run's are checked by the same."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dagron.errors import OptionError

__all__ = [
    "MAX_OUTPUTS",
    "Task",
    "check_count",
    "check_exceptions",
    "check_flag",
    "check_seconds",
    "check_timeout",
    "checked_outputs",
    "in_unit_of",
    "parse_bytes",
    "shown_limit",
]

T = TypeVar("T")

MAX_OUTPUTS = 1000
"""Outputs that a node can have: how they stand is in the outcome of an attempt, which has room for so many and a result
that is small. A test compares."""


@dataclass(frozen=True, slots=True)
class Task(Generic[T]):
    """A callable with the options of its node. None takes the executor's default.

    Attributes:
        fn: The callable.
        retries: Further attempts after the first one failed.
        retry_delay: Seconds before the first further attempt; doubled for each one after it, with up to 25 % jitter.
        retry_on: Which exceptions are worth a further attempt. A lost worker and a timeout always are.
        timeout: Seconds that an attempt may take, from its start in the worker. Its process tree is killed then.
        priority: Among nodes that could start, those with the higher priority do.
        memory_limit: Bytes that the node's worker, with all that it starts, may have in memory; a number, or a text
            such as `"1.5 GB"` or `"512MiB"`. Its process tree is killed when it is seen with more.
        exclusive: The node runs while nothing else of the run does, as a measurement wants it: it waits for the end of
            what runs, and what comes next waits for its end.
        outputs: Files that the task writes beside its result. Relative paths begin where they do for the task: at the
            working directory of the run. An attempt that has not written each of them fails. How they stand is
            recorded, and a resume that finds one gone or changed runs the node again.
        keep: If False, the result is deleted once all nodes that take it are recorded; one that no node takes stays. It
            is made again if it is needed after all.

    Raises:
        OptionError: An option has a value that it cannot have.
    """

    fn: Callable[..., T]
    retries: int | None = None
    retry_delay: float | None = None
    retry_on: tuple[type[BaseException], ...] | None = None
    timeout: float | None = None
    priority: int = 0
    memory_limit: int | str | None = None
    exclusive: bool = False
    outputs: Sequence[str | os.PathLike[str]] = ()
    keep: bool | None = None

    def __post_init__(self) -> None:
        if self.retries is not None:
            check_count("retries", self.retries)
        if self.retry_delay is not None:
            check_seconds("retry_delay", self.retry_delay)
        if self.retry_on is not None:
            check_exceptions("retry_on", self.retry_on)
        check_timeout("timeout", self.timeout)
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise OptionError("priority", repr(self.priority), "an integer")
        parse_bytes("memory_limit", self.memory_limit)
        check_flag("exclusive", self.exclusive)
        if self.keep is not None:
            check_flag("keep", self.keep)
        if self.outputs != ():
            object.__setattr__(self, "outputs", checked_outputs(self.outputs))


def checked_outputs(outputs: object) -> tuple[str, ...]:
    """Return the paths of the outputs of a node as texts.

    Raises:
        OptionError: They are no list of paths, or one is empty or twice among them, or they are too many.
    """
    expected = f"a list of paths of files, up to {MAX_OUTPUTS}, each once"
    if isinstance(outputs, (str, bytes, os.PathLike)) or not isinstance(outputs, Sequence):
        raise OptionError("outputs", repr(outputs)[:80], expected)
    paths = []
    for output in outputs:
        path = os.fspath(output) if isinstance(output, (str, os.PathLike)) else None
        if not isinstance(path, str) or not path or "\0" in path:
            raise OptionError("outputs", repr(output)[:80], expected)
        paths.append(str.__str__(path))
    if len(set(paths)) < len(paths) or len(paths) > MAX_OUTPUTS:
        raise OptionError("outputs", repr(outputs)[:80], expected)
    return tuple(paths)


def check_count(option: str, value: object, least: int = 0) -> None:
    """Check an option that is an integer of `least` or more.

    Raises:
        OptionError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(option, repr(value), f"an integer of {least} or more")


def check_flag(option: str, value: object) -> None:
    """Check an option that is True or False.

    Raises:
        OptionError: It is not.
    """
    if not isinstance(value, bool):
        raise OptionError(option, repr(value), "True or False")


def check_seconds(option: str, value: object) -> None:
    """Check an option that is a finite number of seconds, 0 or more.

    Raises:
        OptionError: It is not.
    """
    if not _is_seconds(value) or math.isinf(value):  # type: ignore[arg-type]
        raise OptionError(option, repr(value), "seconds, 0 or more")


def check_timeout(option: str, value: object) -> None:
    """Check an option that is a number of seconds above 0, also an infinite one, or None.

    Raises:
        OptionError: It is not.
    """
    if value is not None and not (_is_seconds(value) and value > 0):  # type: ignore[operator]
        raise OptionError(option, repr(value), "seconds, more than 0")


def check_exceptions(option: str, value: object) -> None:
    """Check an option that is a tuple of exception classes.

    Raises:
        OptionError: It is not.
    """
    kinds = value if isinstance(value, tuple) else (value,)
    if not isinstance(value, tuple) or not all(isinstance(k, type) and issubclass(k, BaseException) for k in kinds):
        raise OptionError(option, repr(value), "a tuple of exception classes")


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_bytes(option: str, value: object) -> int | None:
    """Return an option that is a number of bytes, 1 or more, also as a text with a unit; None for None.

    Raises:
        OptionError: It is something else.
    """
    if value is None:
        return None
    found: float = 0
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is not None and match[2].lower() in _UNITS:
            found = float(match[1]) * _UNITS[match[2].lower()]
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    if not 1 <= found < 2**63:
        raise OptionError(option, repr(value), "bytes, 1 or more, or a text such as '512 MB' or '1.5GiB'")
    return int(found)


def shown_limit(given: int | str | None) -> str:
    """Return a number of bytes as the user has given it to `parse_bytes`."""
    if isinstance(given, int):
        return f"{given:,} bytes"
    text = (given or "").strip()
    return text if text[-1:].isalpha() else f"{text} bytes"


def in_unit_of(given: int | str | None, n_bytes: int) -> str:
    """Return a number of bytes in the unit of one that was given to `parse_bytes`, rounded up to two decimals."""
    match = _SIZE.fullmatch(given) if isinstance(given, str) else None
    if match is None or _UNITS[match[2].lower()] == 1:
        return f"{n_bytes:,} bytes"
    return f"{math.ceil(100 * n_bytes / _UNITS[match[2].lower()]) / 100:.2f} {match[2]}"


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and not math.isnan(value)

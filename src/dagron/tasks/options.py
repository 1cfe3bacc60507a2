"""A task with its options, and which parents a callable takes, and how. Runs nothing."""

from __future__ import annotations

import functools
import inspect
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from dagron.errors import MissingInputError, NotCallableError, OptionError

__all__ = [
    "Binding",
    "Task",
    "bind",
    "check_count",
    "check_exceptions",
    "check_flag",
    "check_seconds",
    "check_timeout",
    "inferred_parents",
    "parameters_of",
    "parse_bytes",
    "signature_key",
]

T = TypeVar("T")


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
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", value.lower())
        if match is not None and match[2] in _UNITS:
            found = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    if not 1 <= found < 2**63:
        raise OptionError(option, repr(value), "bytes, 1 or more, or a text such as '512 MB' or '1.5GiB'")
    return int(found)


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and not math.isnan(value)


class Binding(NamedTuple):
    """How a callable takes its inputs: parents are given by their position in `DAG.parents(node)`.

    Attributes:
        positional: In order, a parent's position, or the name of a parameter that keeps its default.
        keywords: Parameter name and parent's position.
    """

    positional: tuple[int | str, ...] = ()
    keywords: tuple[tuple[str, int], ...] = ()

    @property
    def consumed(self) -> tuple[int, ...]:
        """The positions of the parents whose results are taken."""
        taken = [p for p in self.positional if isinstance(p, int)]
        return (*taken, *(position for _, position in self.keywords))

    def call(self, fn: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        """Call `fn`.

        Args:
            fn: The callable that was bound.
            inputs: The results of `consumed`, in that order.
        """
        if not self.keywords and not self.positional:
            return fn()
        args, kwargs = self.arguments(fn, inputs)
        return fn(*args, **kwargs)

    def arguments(self, fn: Callable[..., Any], inputs: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return what `call` calls `fn` with."""
        values = iter(inputs)
        args = [
            next(values) if isinstance(p, int) else inspect.signature(fn).parameters[p].default for p in self.positional
        ]
        return args, {name: next(values) for name, _ in self.keywords}


NO_INPUTS = Binding()

Parameters = Mapping[str, inspect.Parameter]

_NO_PARAMETERS: Parameters = {}


def parameters_of(fn: Callable[..., Any]) -> Parameters:
    """Return the parameters of a callable; none if its signature cannot be known, as with some built-ins."""
    if isinstance(fn, types.FunctionType) and not fn.__dict__:
        code = fn.__code__
        if not code.co_argcount and not code.co_kwonlyargcount and not code.co_flags & 0x0C:
            return _NO_PARAMETERS  # the common case, twenty times as fast as asking for the signature
    try:
        return inspect.signature(fn).parameters
    except (ValueError, TypeError):
        return _NO_PARAMETERS


def signature_key(fn: Callable[..., Any]) -> object:
    """Return something that is equal for callables whose parameters have the same names, kinds and defaults.

    Defaults count as the same if there is one in the same places. None if nothing can be said without looking at the
    signature.
    """
    if type(fn) is functools.partial:
        inner = signature_key(fn.func)
        return None if inner is None else (inner, len(fn.args), tuple(fn.keywords))
    if type(fn) is not types.FunctionType or fn.__dict__:  # which may hold a signature of another function
        return None
    return fn.__code__, len(fn.__defaults__ or ()), tuple(fn.__kwdefaults__ or ())


def bind(
    node: str,
    fn: Callable[..., Any],
    parents: Sequence[str],
    is_node: Callable[[str], bool],
    parameters: Parameters | None = None,
) -> Binding:
    """Decide which parents `fn` takes.

    A parameter named like a parent receives its result; `*args` receives the results of the parents not taken by name,
    in the order in which their edges were added, `**kwargs` those parents by name (with both, `*args` has them). A
    parameter with a default whose name is no parent keeps its default. A callable whose signature cannot be known, as
    with some built-ins, takes nothing.

    Args:
        node: For the error.
        fn: The callable.
        parents: `DAG.parents(node)`.
        is_node: Whether a name is a node of the DAG; makes the error's advice better.
        parameters: `parameters_of(fn)`, if it is known already: finding them costs 40 µs.

    Raises:
        MissingInputError: A parameter without a default is named like no parent.
    """
    if parameters is None:
        parameters = parameters_of(fn)
    if not parameters:
        return NO_INPUTS
    position = {name: i for i, name in enumerate(parents)}
    by_name = {
        name for name, p in parameters.items() if name in position and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    rest = [i for i, name in enumerate(parents) if name not in by_name]
    spreads = rest and any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    positional: list[int | str] = []
    keywords: list[tuple[str, int]] = []
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend(rest)
            rest = []
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords.extend((parents[i], i) for i in rest)
        elif name not in by_name and parameter.default is parameter.empty:
            raise MissingInputError(node, name, parents, is_node(name))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if name in by_name:
                keywords.append((name, position[name]))
        elif parameter.kind is parameter.POSITIONAL_ONLY or spreads:
            # What stands behind it is given by position, so its default has to be, too.
            positional.append(position[name] if name in by_name else name)
        elif name in by_name:
            keywords.append((name, position[name]))
    while positional and isinstance(positional[-1], str):
        positional.pop()  # nothing stands behind it
    return Binding(tuple(positional), tuple(keywords))


def inferred_parents(name: str, task: object, tasks: Mapping[str, object]) -> list[str]:
    """Return the names of other tasks that the parameters of a task name, in their order.

    A parameter named like its own node counts only if it has no default: then nothing but a cycle could provide it.
    `*args` and `**kwargs` name nothing, nor does a callable whose signature cannot be known.

    Raises:
        NotCallableError: The task is no callable.
    """
    function = task.fn if isinstance(task, Task) else task
    if not callable(function):
        raise NotCallableError(name, type(function).__name__)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name in tasks
        and (parameter.name != name or parameter.default is parameter.empty)
    ]

"""What a task is called with, by name: the very values for a debugger, or as short texts for the report of a failure.

The texts are made in a worker whose task has just raised, so they may cost little, hold little, and raise nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import islice
from typing import Any

from dagron.tasks.binding import Binding, signature_of
from dagron.tasks.holes import CallWithHoles

__all__ = ["named_inputs", "shown_inputs", "shown_value"]

# None of these was ever varied. A report of a failure is to fit on a page, and its record is to stay small.
_MAX_INPUTS = 20
_MAX_NAME = 60
_MAX_VALUE = 200
_MAX_ALL = 4000
"""Characters of all texts of a task together."""

# As `reprlib` shows them, which has six of most collections; of nestings three levels fit into `_MAX_VALUE`.
_MAX_ITEMS = 6
_MAX_DEPTH = 3
_MAX_LENGTH = 1000
"""A longer object with a `__repr__` of its own is shown by its length alone, because that method might take minutes."""

_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def named_inputs(binding: Binding, fn: Callable[..., Any], inputs: Sequence[Any]) -> list[tuple[str, Any]]:
    """Return the arguments with which a task is called, with the names of its parameters.

    The arguments that a `partial` or a flow has fixed are among them. Those of `*args` are numbered; where there is no
    signature, as with some built-ins, all positional arguments are.

    Args:
        binding: How the callable takes its inputs.
        fn: The callable.
        inputs: The results of `binding.consumed`, in that order.
    """
    args, kwargs = binding.arguments(fn, inputs)
    while isinstance(fn, functools.partial):
        if isinstance(fn, CallWithHoles):
            args, kwargs = fn.filled(args)
        else:
            args, kwargs = [*fn.args, *args], {**fn.keywords, **kwargs}
        fn = fn.func
    try:
        signature = signature_of(fn)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
    except (TypeError, ValueError):
        return [*((str(i), value) for i, value in enumerate(args)), *kwargs.items()]
    named: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named += [(f"{name}[{i}]", item) for i, item in enumerate(value)]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named += value.items()
        else:
            named.append((name, value))
    return named


def shown_inputs(binding: Binding, fn: Callable[..., Any], inputs: Sequence[Any]) -> list[tuple[str, str]]:
    """Return the arguments of a task with their names, as short texts. Raises nothing, whatever the values do."""
    shown: list[tuple[str, str]] = []
    try:
        named = named_inputs(binding, fn, inputs)
        room = _MAX_ALL
        for name, value in named[:_MAX_INPUTS]:
            text = shown_value(value)
            room -= len(text) + _MAX_NAME
            if room < 0:
                break
            shown.append((name[:_MAX_NAME], text))
        if len(named) > len(shown):
            shown.append(("...", f"{len(named) - len(shown)} more"))
    except BaseException:
        pass  # a signature, a partial or a container of the user's raised; what was found so far is enough
    return shown


def shown_value(value: Any, limit: int = _MAX_VALUE) -> str:
    """Return a value as a text of one line and at most `limit` characters. Raises nothing, also if its `repr` does.

    Only the first items of containers and dataclasses are looked at, and only the shape of arrays and the like.
    """
    try:
        text = " ".join(_shown(value, _MAX_DEPTH).split("\n"))
    except BaseException as error:
        text = f"<{_type_of(value)}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _type_of(value: Any) -> str:
    return type(value).__qualname__[:_MAX_NAME]


def _shown(value: Any, depth: int) -> str:
    kind = type(value)
    if kind in (str, bytes, bytearray):
        n = len(value)
        return repr(value) if n <= _MAX_VALUE else f"{value[: _MAX_VALUE // 2]!r}... ({n} {_unit(kind)})"
    if kind is int and value.bit_length() > 4 * _MAX_VALUE:  # as text it may be slow, or refused
        return f"<int of {value.bit_length()} bits>"
    brackets = _BRACKETS.get(kind)
    if brackets is not None:
        items = [_shown_item(item, depth) for item in islice(value, _MAX_ITEMS if depth else 0)]
        tail = "," if kind is tuple and len(value) == 1 else ""
        if not value and kind in (set, frozenset):
            return repr(value)
        return f"{brackets[0]}{_joined(items, len(value))}{tail}{brackets[1]}"
    if kind is dict:
        pairs = islice(value.items(), _MAX_ITEMS if depth else 0)
        items = [f"{_shown_item(key, depth)}: {_shown_item(item, depth)}" for key, item in pairs]
        return "{" + _joined(items, len(value)) + "}"
    if getattr(kind, "__repr__", None) is object.__repr__:
        return f"<{_type_of(value)} object>"
    if (shape := getattr(value, "shape", None)) is not None and not isinstance(value, type):
        if shape == ():
            return repr(value)
        dtype = getattr(value, "dtype", None)
        return f"<{_type_of(value)} of shape {tuple(shape)}{'' if dtype is None else f' and type {dtype}'}>"
    if dataclasses.is_dataclass(kind) and not isinstance(value, type) and depth:
        fields = [field.name for field in dataclasses.fields(kind) if field.repr]
        items = [f"{name}={_shown_item(getattr(value, name), depth)}" for name in fields[:_MAX_ITEMS]]
        return f"{_type_of(value)}({_joined(items, len(fields))})"
    # Not `hasattr(kind, ...)`, which the metaclass of an enum answers.
    if isinstance(value, Sized) and len(value) > _MAX_LENGTH:
        return f"<{_type_of(value)} of length {len(value)}>"
    text = repr(value)
    return text[: _MAX_VALUE + 1]


def _shown_item(value: Any, depth: int) -> str:
    try:
        return _shown(value, depth - 1)
    except BaseException as error:
        return f"<{_type_of(value)}, whose repr raised {type(error).__name__}>"


def _joined(items: Iterable[str], n: int) -> str:
    items = list(items)
    if n > len(items):
        items.append(f"... {n - len(items)} more" if items else "...")
    return ", ".join(items)


def _unit(kind: type) -> str:
    return "characters" if kind is str else "bytes"

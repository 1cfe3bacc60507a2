"""A callable with arguments that have holes, which a worker fills with the results of the parents.

`arguments` makes them, where a flow is written.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["ATOMS", "CallWithHoles", "Hole", "Holed", "differ", "fields_of", "is_named_tuple", "rebuilt"]

ATOMS = frozenset({str, int, float, bool, bytes, type(None), complex})
"""Types of values that hold nothing."""


class Hole(NamedTuple):
    """Stands where the result of a parent goes.

    Attributes:
        position: The position of the parent among the parents of the node.
    """

    position: int


class Holed(NamedTuple):
    """An argument that has holes somewhere inside. Other arguments need not be looked at."""

    value: Any


class CallWithHoles(functools.partial[Any]):
    """A callable with its arguments, some of them holes; called with the results of all parents, in their order.

    It is a partial, so that whoever looks into partials for a function or for large arguments looks into it, too.
    """

    __signature__ = inspect.Signature([inspect.Parameter("results", inspect.Parameter.VAR_POSITIONAL)])

    def __call__(self, /, *results: Any) -> Any:
        """Call it with the arguments, the results of the parents where the holes are."""
        args, kwargs = self.filled(results)
        return self.func(*args, **kwargs)

    def filled(self, results: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with which `func` is called for these results of the parents."""
        args = [_filled_argument(value, results) for value in self.args]
        return args, {name: _filled_argument(value, results) for name, value in self.keywords.items()}


def _filled_argument(value: Any, results: Sequence[Any]) -> Any:
    if type(value) is Holed:
        return _filled(value.value, results)
    return results[value.position] if type(value) is Hole else value


def _filled(value: Any, results: Sequence[Any]) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is Hole:
        return results[value.position]
    if kind is dict:
        return rebuilt(value, [_filled(item, results) for item in value.values()])
    if kind is list or isinstance(value, tuple):
        return rebuilt(value, [_filled(item, results) for item in value])
    if fields := fields_of(kind):
        return rebuilt(value, [_filled(getattr(value, field, None), results) for field in fields])
    return value


def rebuilt(value: Any, items: list[Any]) -> Any:
    """Return a container like `value` with these items; `value` itself if it has them already."""
    kind = type(value)
    if kind is dict:
        return dict(zip(value, items, strict=True)) if differ(value.values(), items) else value
    fields = fields_of(kind)
    if not fields:
        if not differ(value, items):
            return value
        return kind._make(items) if is_named_tuple(kind) else kind(items)
    old = [getattr(value, field, None) for field in fields]
    if not differ(old, items):
        return value
    new = copy.copy(value)  # not made anew: `__init__` has had its turn
    for field, item, before in zip(fields, items, old, strict=True):
        if item is not before:
            object.__setattr__(new, field, item)  # also if it is frozen
    return new


def differ(old: Iterable[Any], new: Iterable[Any]) -> bool:
    """Tell whether one of these objects is not the one that stands in its place."""
    return any(map(operator.is_not, old, new))


def is_named_tuple(kind: Any) -> bool:
    """Tell whether a class is one of named tuples."""
    return issubclass(kind, tuple) and hasattr(kind, "_make")


def fields_of(kind: Any) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass; none for any other class."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else ()

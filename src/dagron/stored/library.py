"""What the standard library makes of functions and types, and tells apart by identity. Frozen."""

from __future__ import annotations

import functools
import typing
from contextvars import ContextVar
from typing import Any

from dagron.script import name_here

__all__ = [
    "cached",
    "cached_property",
    "context_variable",
    "dispatching",
    "fill_dispatching",
    "new_type",
    "type_parameter",
]


def cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    """Return a function under `functools.lru_cache`, with nothing in the cache."""
    return functools.lru_cache(maxsize, typed)(function)


def cached_property(function: Any, name: str | None) -> Any:
    """Return a `functools.cached_property`."""
    found: Any = functools.cached_property(function)
    found.attrname = name
    return found


def dispatching(function: Any) -> Any:
    """Return a function under `functools.singledispatch`."""
    return functools.singledispatch(function)


def fill_dispatching(function: Any, state: tuple[tuple[tuple[type, Any], ...], dict[str, Any]]) -> None:
    """Register what a function under `functools.singledispatch` calls, and give it its attributes."""
    registered, attributes = state
    for cls, implementation in registered:
        function.register(cls, implementation)
    function.__dict__.update(attributes)


def new_type(name: str, supertype: Any, module: str) -> Any:
    """Return a `typing.NewType`."""
    make: Any = typing.NewType
    found = make(name, supertype)
    found.__module__ = name_here(module)
    return found


def type_parameter(kind: str, name: str, module: str, keywords: dict[str, Any]) -> Any:
    """Return a `ParamSpec`, a `TypeVarTuple` or a `TypeAliasType` of `typing`."""
    found = getattr(typing, kind)(name, **keywords)
    try:
        found.__module__ = name_here(module)
    except AttributeError:
        pass  # that of an alias cannot be set
    return found


def context_variable(name: str, default: tuple[Any, ...]) -> Any:
    """Return a `ContextVar`.

    Args:
        name: Its name.
        default: Its default, if it has one.
    """
    return ContextVar(name, default=default[0]) if default else ContextVar(name)

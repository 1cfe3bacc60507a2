"""What the standard library makes of functions and types, and what it tells apart by identity. Frozen."""

from __future__ import annotations

import functools
import importlib
import types
import typing
from contextvars import ContextVar
from typing import Any

from dagron.script import name_here

__all__ = [
    "alias_parameter",
    "cached",
    "cached_property",
    "context_variable",
    "dispatching",
    "fill_alias",
    "fill_dispatching",
    "new_alias",
    "new_type",
    "partial_method",
    "sentinel_of_module",
    "type_parameter",
    "variable_of_module",
]


def cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    """Return a function under `functools.lru_cache`, with nothing in the cache."""
    return functools.lru_cache(maxsize, typed)(function)


def cached_property(function: Any, name: str | None) -> Any:
    """Return a `functools.cached_property`."""
    found: Any = functools.cached_property(function)
    found.attrname = name
    return found


def partial_method(function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Return a `functools.partialmethod`."""
    return functools.partialmethod(function, *args, **keywords)


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
    # Called where that module is the caller's, as these ask for it.
    namespace = {"__name__": name_here(module), "make": getattr(typing, kind), "name": name, "keywords": keywords}
    return eval("make(name, **keywords)", namespace)


def new_alias(name: str, module: str, parameters: tuple[tuple[str, str, int, bool], ...], place: types.CellType) -> Any:
    """Return a type alias that has its value later, as that refers to the alias.

    Args:
        name: Its name.
        module: The module that defines it.
        parameters: Its type parameters: `*`, `**` or nothing, name, number of constraints or -1 for a bound, and
            whether there is a default.
        place: Where its value will be, with the bounds, constraints and defaults of the parameters.
    """
    index, told = 1, []
    for stars, of_parameter, n_constraints, has_default in parameters:
        text = f"{stars}{of_parameter}"
        n = abs(n_constraints)
        constraints = ", ".join(f"__at({i})" for i in range(index, index + n))
        if n:
            text += f": {constraints}" if n_constraints < 0 else f": ({constraints})"
        if has_default:
            text += f" = __at({index + n})"
        index += n + has_default
        told.append(text)

    def at(index: int) -> Any:
        values, error = place.cell_contents
        if error:
            raise NameError(error)
        return values[index]

    namespace: dict[str, Any] = {"__name__": name_here(module), "__at": at}
    exec(f"type {name}{'[' + ', '.join(told) + ']' if told else ''} = __at(0)", namespace)
    return namespace[name]


def fill_alias(_: Any, state: tuple[types.CellType, tuple[tuple[Any, ...], str]]) -> None:
    """Give a type alias its value; or the text of the error that comes of asking for it."""
    place, content = state
    place.cell_contents = content


def alias_parameter(alias: Any, index: int) -> Any:
    """Return a type parameter of a type alias."""
    return alias.__type_params__[index]


def context_variable(name: str, default: tuple[Any, ...]) -> Any:
    """Return a `ContextVar`.

    Args:
        name: Its name.
        default: Its default, if it has one.
    """
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def variable_of_module(module: str, variable: str, name: str, default: tuple[Any, ...]) -> Any:
    """Return a `ContextVar` that a module has under a name; one like it if the module has another one there."""
    found = _global_of(module, variable)
    same = isinstance(found, ContextVar) and found.name == name
    return found if same else context_variable(name, default)


def sentinel_of_module(module: str, variable: str) -> object:
    """Return an `object()` that a module has under a name; another one if the module has none there."""
    found = _global_of(module, variable)
    return found if type(found) is object else object()


def _global_of(module: str, variable: str) -> Any:
    try:
        return getattr(importlib.import_module(module), variable, None)
    except ImportError:
        return None

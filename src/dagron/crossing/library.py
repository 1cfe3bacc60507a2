"""What the standard library makes of functions and types, and tells apart by identity, by value."""

from __future__ import annotations

import functools
import operator
import pickle
import typing
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any

from dagron.crossing.names import called
from dagron.stored.classes import set_attributes
from dagron.stored.library import (
    cached,
    context_variable,
    dispatching,
    fill_alias,
    fill_dispatching,
    new_alias,
    new_type,
    sentinel_of_module,
    type_parameter,
    variable_of_module,
)

__all__ = [
    "DISPATCH_CODE",
    "is_recursive",
    "reduced_alias",
    "reduced_dispatching",
    "reduced_global",
    "reduced_identity",
    "reduced_subscription",
]

_dispatching: Any = functools.singledispatch(id)
DISPATCH_CODE = _dispatching.__code__


def reduced_dispatching(function: Any) -> Any:
    """Return what a function under `functools.singledispatch` is reduced to."""
    registered = tuple((cls, found) for cls, found in function.registry.items() if cls is not object)
    own = {"register", "dispatch", "registry", "_clear_cache", "__wrapped__"}
    attributes = {name: value for name, value in vars(function).items() if name not in own}
    state = registered, attributes
    return dispatching, (function.__wrapped__,), state, None, None, fill_dispatching


def reduced_identity(obj: Any) -> Any:
    """Return what an object of one of `names.IDENTITIES`, which has no name, is reduced to."""
    kind = type(obj)
    if kind is ContextVar:
        return context_variable, (obj.name, _default_of(obj))
    if kind is typing.NewType:
        return new_type, (obj.__qualname__, obj.__supertype__, called(obj.__module__))
    if hasattr(obj, "cache_parameters"):
        own = {"cache_parameters", *functools.WRAPPER_ASSIGNMENTS, "__wrapped__"}
        attributes = {name: value for name, value in vars(obj).items() if name not in own}
        parameters = obj.cache_parameters()
        made = cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"])
        return (*made, attributes, None, None, set_attributes) if attributes else made
    keywords: dict[str, Any] = {}
    if kind.__name__ == "ParamSpec":
        keywords = {"covariant": obj.__covariant__, "contravariant": obj.__contravariant__, "bound": obj.__bound__}
    elif kind.__name__ == "TypeAliasType":
        keywords = {"value": obj.__value__, "type_params": obj.__type_params__}
    return type_parameter, (kind.__name__, obj.__name__, called(str(obj.__module__)), keywords)


def _default_of(variable: ContextVar[Any]) -> tuple[Any, ...]:
    try:
        return (Context().run(variable.get),)
    except LookupError:
        return ()


def reduced_global(obj: Any, module: str, variable: str) -> Any:
    """Return what an `object()` or a `ContextVar` is reduced to that a module which workers import has as a global."""
    if type(obj) is object:
        return sentinel_of_module, (module, variable)
    default = _default_of(obj)
    try:
        pickle.dumps(default)
    except Exception:
        default = ()  # nobody needs it but who has another version of the module
    return variable_of_module, (module, variable, obj.name, default)


def reduced_subscription(cls: type, is_script: Callable[[str], bool]) -> Any:
    """Return what a model of pydantic is reduced to that was made by subscription, as `Model[int]`; None for others.

    It has no name, but pydantic knows it. Code of the script is not asked: it may need what is not loaded yet.
    """
    made_by = vars(cls).get("__pydantic_generic_metadata__") or {}
    origin, args = made_by.get("origin"), made_by.get("args")
    if not origin or not args:
        return None
    makers = (base.__module__ for base in origin.__mro__ if "__class_getitem__" in vars(base))
    return None if any(map(is_script, makers)) else (operator.getitem, (origin, args))


# --- type aliases that refer to themselves ----------------------------------------------------------------------------


def is_recursive(alias: Any) -> bool:
    """Tell whether the value of a type alias refers to the alias, or cannot be had, as names for type checkers."""
    seen: dict[int, Any] = {}
    try:
        left = [alias.__value__]
    except Exception:
        return True
    while left:
        found = left.pop()
        if found is alias:
            return True
        if id(found) in seen:
            continue
        seen[id(found)] = found
        if isinstance(found, (list, tuple)):
            left += found
        elif type(found) is type(alias):
            try:
                left.append(found.__value__)
            except Exception:
                continue
        else:
            left += (getattr(found, "__origin__", None), *getattr(found, "__args__", ()))
    return False


def reduced_alias(alias: Any, place: Any) -> Any:
    """Return what a type alias that refers to itself is reduced to; on Python 3.12 and later.

    Args:
        alias: The alias.
        place: What is pickled as the cell of a variable.
    """
    told, values, error = [], [], ""
    try:
        values.append(alias.__value__)
        for parameter in alias.__type_params__:
            kind = type(parameter).__name__
            limits = getattr(parameter, "__constraints__", ()) if kind == "TypeVar" else ()
            bound = getattr(parameter, "__bound__", None) if kind == "TypeVar" else None
            has_default = hasattr(parameter, "has_default") and parameter.has_default()
            values += limits or ([] if bound is None else [bound])
            values += [parameter.__default__] if has_default else []
            stars = {"ParamSpec": "**", "TypeVarTuple": "*"}.get(kind, "")
            told.append((stars, parameter.__name__, len(limits) or (0 if bound is None else -1), has_default))
    except Exception as found:
        error = str(found)
        told = [(stars, name, 0, False) for stars, name, *_ in told]
    made = new_alias, (alias.__name__, called(str(alias.__module__)), tuple(told), place)
    return (*made, (place, (tuple(values), error)), None, None, fill_alias)

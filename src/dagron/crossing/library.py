"""What the standard library makes of functions and types, and tells apart by identity, by value."""

from __future__ import annotations

import functools
import typing
from contextvars import Context, ContextVar
from typing import Any

from dagron.crossing.names import called
from dagron.stored.classes import set_attributes
from dagron.stored.library import cached, context_variable, dispatching, fill_dispatching, new_type, type_parameter

__all__ = ["DISPATCH_CODE", "reduced_dispatching", "reduced_identity"]

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
        try:
            default: tuple[Any, ...] = (Context().run(obj.get),)
        except LookupError:
            default = ()
        return context_variable, (obj.name, default)
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

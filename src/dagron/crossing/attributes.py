"""Attributes that methods give an instance after it was made, as `fit` of a model does. No shape of a class has them.

Whether an instance has such an attribute depends on which of its methods were called, so the class alone does not tell.
What can be told is this: the instance in a result has an attribute that a method of its class set when the result was
made, nothing of the class knows that name today, and methods set others instead. So it was renamed, and the instance
is none that today's methods understand. What methods set in addition is not seen.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

from dagron.crossing.classes import reduces_itself
from dagron.crossing.code import all_names
from dagron.script import lookup
from dagron.shapes import is_of_script, set_in, shape_of

__all__ = ["renamed", "set_later"]


def set_later(cls: type) -> list[str]:
    """Return the names of the attributes that methods of a class set, without those that its shape has."""
    if reduces_itself(cls):
        return []
    found: set[str] = set()
    for base in cls.__mro__:
        if is_of_script(base):
            shape = shape_of(base)
            if shape[0] in ("enum", "own"):
                return []  # the state of an instance is something else
            for code in _codes(base):
                found |= _set_in_all(code)
            found -= set(shape[1])
    return sorted(found)


def renamed(recorded: Mapping[str, str], now: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return the attributes that classes once set later and have other names for, by the name of the class.

    Args:
        recorded: As of `changed.shapes_now`, of the script with which the results were last compared.
        now: Of the script as it is.
    """
    found: dict[str, frozenset[str]] = {}
    for name, told in recorded.items():
        old, new = set(told.split()[1:]), set(now.get(name, "").split()[1:])
        if old - new and new - old:
            cls: Any = lookup(*name.split(":", 1))
            gone = old - new - _known_to(cls)
            if gone:
                found[name] = frozenset(gone)
    return found


def _known_to(cls: type) -> set[str]:
    """Return the names that a class and its bases know, be it in a text."""
    found: set[str] = set()
    for base in cls.__mro__:
        found |= vars(base).keys()
        for code in _codes(base):
            found |= all_names(code)
            found |= set(_texts_in(code))
    return found


def _texts_in(code: types.CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, types.CodeType):
            yield from _texts_in(constant)
        elif isinstance(constant, (tuple, frozenset)):
            yield from (text for text in constant if isinstance(text, str))


def _set_in_all(code: types.CodeType) -> set[str]:
    found = set_in(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _set_in_all(constant)
    return found


_WITH_FUNCTION = (functools.cached_property, functools.partialmethod, functools.singledispatchmethod)


def _codes(cls: type) -> Iterator[types.CodeType]:
    """Yield the code of what a class defines: of functions, and of what decorators have made of some."""
    for value in list(vars(cls).values()):
        for made in (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value,):
            function: Any = made
            if isinstance(function, (staticmethod, classmethod)):
                function = function.__func__
            elif isinstance(function, _WITH_FUNCTION):
                function = function.func
            # Only what is known is asked: the attributes of anything else may be code of the user's.
            while isinstance(function, _WRAPPERS):
                if type(function) is types.FunctionType:
                    yield function.__code__
                function = vars(function).get("__wrapped__")


_WRAPPERS = (types.FunctionType, type(functools.lru_cache(len)))

"""What a callable or another object holds, one level deep, each with where it stands. Reads attributes, calls nothing.

For those who look for something in particular. `crossing.sharing` looks at every task of a run and asks for no places,
so it has a quicker way of its own.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

__all__ = ["held_by"]


def held_by(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a partial, a method or a function, and the attributes in the `__dict__` of anything else.

    Classes, modules, slots and the items of containers are not looked into.
    """
    if isinstance(obj, functools.partial):
        yield "function of the partial", obj.func
        for i, value in enumerate(obj.args):
            yield f"argument {i}", value
        for name, value in obj.keywords.items():
            yield f"argument {name!r}", value
    elif isinstance(obj, types.MethodType):
        yield "object of the method", obj.__self__
    elif isinstance(obj, types.FunctionType):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            try:
                yield f"closure variable {name!r}", cell.cell_contents
            except ValueError:
                continue  # the cell is still empty
        for i, value in enumerate(obj.__defaults__ or ()):
            yield f"default {i}", value
        for name, value in (obj.__kwdefaults__ or {}).items():
            yield f"default {name!r}", value
    elif not isinstance(obj, (type, types.ModuleType)):
        attributes = getattr(obj, "__dict__", None)
        if isinstance(attributes, dict):
            for name, value in list(attributes.items()):
                yield f"attribute {name!r}", value

"""What a name of the script, a member of an enum and a named tuple of the script stand for. Frozen."""

from __future__ import annotations

import enum
import types
from typing import Any

from dagron.errors import ClassChangedError
from dagron.script import lookup, module_here, process
from dagron.shapes import Shape, difference, shape_of, stand_in

__all__ = ["check_members", "member", "of_script", "row", "script_module", "script_value"]


def script_value(module: str, path: str) -> Any:
    """Return what a name of the script stands for. Named by pickled tasks, which know nothing of shapes."""
    return lookup(module, path)


def of_script(module: str, path: str, shape: Shape | None) -> Any:
    """Return what a name of the script stands for; without the script, something that shows what was stored.

    Args:
        module: Where it was defined.
        path: Its name there.
        shape: The shape that the class had when the value was stored; None if it is no class.

    Raises:
        ClassChangedError: The script defines none of that name, or one with another shape.
    """
    try:
        found = lookup(module, path)
    except AttributeError as error:
        if process.has_script:
            raise ClassChangedError(path, str(error)) from None
        return stand_in(path, shape)
    if shape is not None:
        if not isinstance(found, type):
            if process.has_script:
                raise ClassChangedError(path, f"it was a class, and is of type {type(found).__name__}")
            return stand_in(path, shape)
        if changed := difference(shape, shape_of(found)):
            raise ClassChangedError(path, changed)
    return found


def row(cls: Any, fields: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """Return a named tuple of the script, whatever the order of its fields is now."""
    if cls._fields != fields:
        values = tuple(map(dict(zip(fields, values, strict=True)).__getitem__, cls._fields))
    return tuple.__new__(cls, values)


def member(cls: Any, value: Any, names: tuple[tuple[str, Any], ...]) -> Any:
    """Return a member of an enum of the script, or one that is composed of several.

    Args:
        cls: The enum, or what stands for it.
        value: Its value.
        names: The names and values of what it is composed of; of a single member, its own.

    Raises:
        ClassChangedError: The enum has no such member, or one with another value.
    """
    if not isinstance(cls, enum.EnumMeta):
        return cls("|".join(name for name, _ in names), value) if isinstance(cls, type) else cls
    check_members(cls, names)
    return cls.__members__[names[0][0]] if len(names) == 1 and names[0][1] is value else cls(value)


def check_members(cls: enum.EnumMeta, names: tuple[tuple[str, Any], ...]) -> None:
    """Check that an enum has these members with these values.

    Raises:
        ClassChangedError: It has not.
    """
    members: Any = cls.__members__
    for name, stored in names:
        found = members.get(name)
        if found is None:
            raise ClassChangedError(cls.__qualname__, f"the member {name!r} is gone")
        if not _same(found._value_, stored):
            raise ClassChangedError(cls.__qualname__, f"the member {name!r} was {stored!r}, and is {found._value_!r}")


def _same(value: Any, stored: Any) -> bool:
    cls: Any = type(value)
    if cls is not type(stored):
        return False
    try:
        # What has no equality of its own cannot be told to differ.
        return vars(object)["__eq__"] is cls.__eq__ or bool(value == stored) or value != value
    except Exception:
        return True  # an array, say


def script_module(name: str) -> types.ModuleType:
    """Return a module of the script."""
    return module_here(name)

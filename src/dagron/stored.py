"""What the pickles in a checkpoint name: functions that every later version must have under these names. Frozen.

A result that holds a class of the user's script names `find_class`, and an instance with slots names `restore_state`.
The names, the parameters and the two names of modules are part of the format of a checkpoint. So nothing here moves or
changes its parameters, and the module imports nothing of the rest of the package.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

__all__ = [
    "ADOPTED",
    "BY_VALUE_MODULES",
    "FILE_MODULE",
    "class_here",
    "find_class",
    "is_by_value",
    "restore_state",
    "unpickled_class",
]

FILE_MODULE = "__dagron_file__"
"""The name under which the command line loads a user's file. Its contents travel by value, like those of `__main__`."""

BY_VALUE_MODULES = ("__main__", FILE_MODULE)

ADOPTED: dict[str, type] = {}
"""In a worker: the classes that tasks have brought, by qualified name."""


def find_class(module_name: str, qualname: str, copy: bytes) -> type:
    """Return the class of this process with that name, or else the by-value copy. Named by pickled results."""
    adopted = ADOPTED.get(qualname)
    if adopted is not None:
        return adopted
    for candidate in (module_name, *BY_VALUE_MODULES):
        found = class_here(candidate, qualname)
        if found is not None:
            return found
    return unpickled_class(qualname, copy)


def restore_state(obj: Any, state: Any) -> None:
    """Give an object its attributes, whether these are slots or not. Named by pickled results.

    A by-value copy of a class with `__slots__` has none, so its instances and those of the original differ in the form
    of their state.
    """
    for attributes in state if isinstance(state, tuple) else (state,):
        for name, value in (attributes or {}).items():
            object.__setattr__(obj, name, value)


def class_here(module_name: str, qualname: str) -> type | None:
    """Return the class that this process has under that name; None if it has none."""
    found: Any = sys.modules.get(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def unpickled_class(qualname: str, copy: bytes) -> type:
    """Return the class of a by-value copy, with its full name."""
    cls: type = pickle.loads(copy)
    _name_in_full(cls, qualname)
    return cls


def is_by_value(obj: Any) -> bool:
    """Tell whether a class or function is defined in the user's script."""
    return getattr(obj, "__module__", None) in BY_VALUE_MODULES


def _name_in_full(cls: type, qualname: str) -> None:
    # cloudpickle keeps the last part of a name only, and the class may be pickled again.
    cls.__qualname__ = qualname
    for name, inner in list(vars(cls).items()):
        if isinstance(inner, type) and is_by_value(inner) and inner.__qualname__ == name:
            _name_in_full(inner, f"{qualname}.{name}")

"""Which objects have a name in the script, and which modules are the script's: what has one crosses by name."""

from __future__ import annotations

import enum
import functools
import sys
import types
import typing
from contextvars import ContextVar
from typing import Any

import cloudpickle

from dagron.shapes import BY_VALUE_MODULES, SCRIPT, SCRIPTS
from dagron.stored import process

__all__ = ["IDENTITIES", "Names", "called", "module_found", "send_by_value", "sent_by_value", "travels"]

IDENTITIES = frozenset(
    {
        object,
        typing.NewType,
        typing.TypeVar,
        typing.ParamSpec,
        ContextVar,
        type(functools.lru_cache(len)),
        *(getattr(typing, name) for name in ("TypeVarTuple", "TypeAliasType") if hasattr(typing, name)),
    }
)
"""Types whose instances are told apart by identity, and have no state that anybody could change."""

_importable: dict[str, tuple[Any, bool]] = {}


def send_by_value(module: types.ModuleType) -> None:
    """Have what a module defines travel by value from now on, as what a script defines does."""
    cloudpickle.register_pickle_by_value(module)


def sent_by_value(module_name: str) -> bool:
    """Tell whether somebody has asked that what a module defines travels by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module_name == name or module_name.startswith(f"{name}.") for name in registered)


def travels(module_name: str) -> bool:
    """Tell whether the definitions of a module of this process are sent to workers, as these cannot import it."""
    if module_name in BY_VALUE_MODULES:
        return True
    module = sys.modules.get(module_name)
    if module is None or module_name == process.target:
        return False
    if sent_by_value(module_name):
        SCRIPTS.add(module_name)
        return True
    known = _importable.get(module_name)
    if known is None or known[0] is not module:
        known = _importable[module_name] = module, _is_importable(module_name, module)
    if not known[1]:
        SCRIPTS.add(module_name)
    return not known[1]


def _is_importable(name: str, module: types.ModuleType) -> bool:
    """Tell whether a worker would import this very module under its name; one loaded from a path it would not."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "dagron":
        return True
    parent, _, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and path is None:
        return True  # made by its parent, as `os.path` is
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or getattr(module, "__file__", None)
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:
            return True  # it can say nothing; the worker will
        if spec is not None:
            return not (origin and spec.origin and spec.has_location) or spec.origin == origin
    return False


def module_found(module_name: str, path: str) -> Any:
    """Return what a module of this process has under a name; None if it has nothing."""
    found: Any = sys.modules.get(module_name)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


class Names:
    """The names that objects have in the script, as it is now."""

    def __init__(self) -> None:
        self._variables: dict[str, dict[int, tuple[str, Any]]] = {}

    def of(self, obj: Any) -> tuple[str, str] | None:
        """Return module and name of a class, a function or something else that is told apart by identity.

        That is what its own name means, or else a global variable that holds it: classes that a function has made
        often have one name.
        """
        module = getattr(obj, "__module__", None)
        if type(module) is str:
            path = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
            if type(path) is str and "<locals>" not in path and module_found(module, path) is obj:
                return (called(module), path) if module in SCRIPTS else None
        return self.of_variable(obj)

    def of_variable(self, obj: Any) -> tuple[str, str] | None:
        """Return module and name of a global variable of the script that holds an object."""
        for module in sorted(SCRIPTS):
            found = self._variables_of(module).get(id(obj))
            if found is not None and found[1] is obj:
                return called(module), found[0]
        return None

    def _variables_of(self, module: str) -> dict[int, tuple[str, Any]]:
        found = self._variables.get(module)
        if found is None:
            found = self._variables[module] = {}
            held = sys.modules.get(module)
            for name, value in list(vars(held).items()) if held is not None else ():
                if name.startswith("__") or isinstance(value, types.ModuleType):
                    continue
                found.setdefault(id(value), (name, value))
                if isinstance(value, type) and value.__module__ in SCRIPTS and not isinstance(value, enum.EnumMeta):
                    for inner, of_class in vars(value).items():
                        if not inner.startswith("__"):
                            found.setdefault(id(of_class), (f"{name}.{inner}", of_class))
        return found


def called(module: str) -> str:
    """Return what pickles call a module."""
    return SCRIPT if module in BY_VALUE_MODULES or module == process.target else module

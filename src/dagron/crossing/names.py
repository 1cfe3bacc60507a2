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

from dagron.script import BY_VALUE_MODULES, SCRIPT, is_script, known_modules, no_worker_imports, process

__all__ = ["IDENTITIES", "Names", "NamesOfRun", "called", "module_found", "send_by_value"]

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


_globals: dict[int, list[tuple[str, str]]] = {}
"""Where each `object()` and each `ContextVar` is a global variable, by its id."""

_n_modules = 0


def send_by_value(module: types.ModuleType) -> None:
    """Have what a module defines travel by value from now on, as what a script defines does."""
    cloudpickle.register_pickle_by_value(module)


def module_found(module_name: str, path: str) -> Any:
    """Return what a module of this process has under a name; None if it has nothing."""
    found: Any = sys.modules.get(module_name)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


class Names:
    """The names that objects have in the script, as it is now.

    Attributes:
        modules: The names of the script's modules that are known.
    """

    def __init__(self) -> None:
        self.modules = known_modules()
        self._known: dict[str, bool] = {}
        self._variables: dict[str, dict[int, tuple[str, Any]]] = {}

    def has(self, module: str) -> bool:
        """Tell whether a module is the script's."""
        known = self._known.get(module)
        if known is None:
            known = self._known[module] = self._find_out(module)
        return known

    def _find_out(self, module: str) -> bool:
        return is_script(module)

    def travels(self, module: str) -> bool:
        """Tell whether the definitions of a module are sent to workers, as these cannot import it."""
        return self.has(module) and module != process.target

    def of(self, obj: Any) -> tuple[str, str] | None:
        """Return module and name of a class, a function or something else that is told apart by identity.

        That is what its own name means, or else a global variable that holds it: classes that a function has made
        often have one name.
        """
        module = getattr(obj, "__module__", None)
        if type(module) is str:
            path = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
            if type(path) is str and "<locals>" not in path:
                found = module_found(module, path)
                if found is not obj and type(found) is types.MethodType and found.__func__ is obj:
                    found, path = obj, f"{path}.__func__"  # of a class method
                if found is obj:
                    return (called(module), path) if self.has(module) else None
        return self.of_variable(obj)

    def of_variable(self, obj: Any) -> tuple[str, str] | None:
        """Return module and name of a global variable of the script that holds an object."""
        for module in sorted(self.modules):
            found = self._variables_of(module).get(id(obj))
            if found is not None and found[1] is obj:
                return called(module), found[0]
        return None

    def global_of_import(self, obj: Any) -> tuple[str, str] | None:
        """Return module and name of an `object()` or a `ContextVar` that a module has which workers import."""
        global _n_modules
        if len(sys.modules) != _n_modules:
            _n_modules = len(sys.modules)
            _globals.clear()
            for module, held in list(sys.modules.items()):
                if isinstance(held, types.ModuleType):
                    # Not `vars`: that makes a module import itself which was to do so when it is first needed.
                    for name, value in list(object.__getattribute__(held, "__dict__").items()):
                        if type(value) is object or type(value) is ContextVar:
                            _globals.setdefault(id(value), []).append((module, name))
        for module, name in _globals.get(id(obj), ()):
            if module_found(module, name) is obj and not self.has(module):
                return module, name
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
                is_class = isinstance(value, type) and not isinstance(value, enum.EnumMeta)
                if is_class and value.__module__ in self.modules:
                    for inner, of_class in vars(value).items():
                        if not inner.startswith("__"):
                            found.setdefault(id(of_class), (f"{name}.{inner}", of_class))
        return found


class NamesOfRun(Names):
    """The names that objects have in the script of one run: in the modules that its tasks lead to.

    Which these are does not depend on what other runs of this process have led to.

    Attributes:
        modules: The names of these modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.modules = {*BY_VALUE_MODULES, *filter(None, (process.target,))}

    def _find_out(self, module: str) -> bool:
        found = no_worker_imports(module)
        if found:
            self.modules.add(module)
            if process.sent is not None:  # a task makes a run, whose results are read here
                process.sent.add(module)
        return found


def called(module: str) -> str:
    """Return what pickles call a module."""
    return SCRIPT if module in BY_VALUE_MODULES or module == process.target else module

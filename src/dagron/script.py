"""The script: which modules of this process are its own, and what a name of it stands for here.

*The script* is what the user runs: `__main__`, the file that the command line loads, or the module that it imports. All
three are called `__main__` in pickles. Other modules belong to it if no worker could import them: those that were
loaded from a path, and those that the user has asked cloudpickle to pickle by value.

A name of the script is looked up in the modules of the process that loads the pickle: in the user's process these are
the script's own; in a worker they hold the definitions that the run has sent there. So a worker knows the script's
modules from the run, and looks for none.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

__all__ = [
    "BY_VALUE_MODULES",
    "FILE_MODULE",
    "SCRIPT",
    "Process",
    "have_more",
    "is_script",
    "known_modules",
    "lookup",
    "membership",
    "module_here",
    "name_here",
    "no_worker_imports",
    "process",
]

SCRIPT = "__main__"
"""What pickles call the script, whichever module it is."""

FILE_MODULE = "__dagron_file__"
"""The name under which the command line loads a user's file. Its contents travel by value, like those of `__main__`."""

BY_VALUE_MODULES = (SCRIPT, FILE_MODULE)


class Process:
    """What this process knows of the script.

    Attributes:
        target: The module that the command line runs; empty if it is a file, or there is none.
        has_script: Whether what the script does not define now is gone, and not just out of this process's sight.
        sent: In a worker, the modules of the script that its run has sent, and those of runs that its tasks make; None
            elsewhere.
        missing: Why a definition of the script was not sent here, by name.
        more: Brings the definitions that no task was known to use; None if there are none, or they are here.
    """

    def __init__(self) -> None:
        self.target = ""
        self.has_script = False
        self.sent: set[str] | None = None
        self.missing: dict[str, str] = {}
        self.more: Callable[[], None] | None = None


process = Process()

_MISSING = object()


# --- modules ---------------------------------------------------------------------------------------------------------

_importable: dict[str, tuple[types.ModuleType, bool]] = {}


def is_script(name: str) -> bool:
    """Tell whether a module of this process is the script's, so that what it defines crosses by name."""
    return no_worker_imports(name) if process.sent is None else name in process.sent


def membership() -> Callable[[str], bool]:
    """Return what answers as `is_script` does, for whoever asks very often."""
    return is_script if process.sent is None else process.sent.__contains__


def known_modules() -> set[str]:
    """Return the script's modules in this process, as far as they were asked for."""
    if process.sent is not None:
        return process.sent
    found = {*BY_VALUE_MODULES, *_registered()}
    if process.target:
        found.add(process.target)
    return found | {name for name, (module, is_there) in _importable.items() if not is_there and _is(name, module)}


def no_worker_imports(name: str) -> bool:
    """Tell whether a module is the script's as the user's process sees it: no worker would import this very module."""
    if name in BY_VALUE_MODULES or (name and name == process.target) or name in (process.sent or ()):
        return True
    module = sys.modules.get(name)
    if module is None:
        return False
    known = _importable.get(name)
    if known is None or known[0] is not module:
        known = _importable[name] = module, _is_importable(name, module)
    return not known[1] or any(name == other or name.startswith(f"{other}.") for other in _registered())


def _is(name: str, module: types.ModuleType) -> bool:
    return sys.modules.get(name) is module


def _registered() -> set[str]:
    """Return the modules that somebody has asked cloudpickle to pickle by value. Without cloudpickle nobody has."""
    cloudpickle = sys.modules.get("cloudpickle")
    found: set[str] = set() if cloudpickle is None else cloudpickle.list_registry_pickle_by_value()
    return found


def _is_importable(name: str, module: types.ModuleType) -> bool:
    """Tell whether a worker would import this very module under its name; one loaded from a path it would not."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "dagron":
        return True
    parent, _, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if (parent and path is None) or _is_of_extensions(module):
        return True  # made by its parent, as `os.path` is, or by what is imported with it
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or getattr(module, "__file__", None)
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:
            return True  # it can say nothing; the worker will
        if spec is not None:
            return not (origin and spec.origin and spec.has_location) or spec.origin == origin
    return False


def _is_of_extensions(module: types.ModuleType) -> bool:
    """Tell whether extensions have made a module in memory: those of Cython do, for what all of them have in common."""
    if not isinstance(module, types.ModuleType):
        return False
    held = object.__getattribute__(module, "__dict__")  # `vars` would load one that waits for its first use
    if "__builtins__" in held or held.get("__spec__") is not None or "__file__" in held:
        return False  # Python code has run in it, or something has loaded it
    namespaces = (held, *(vars(value) for value in held.values() if isinstance(value, type)))
    return not any(isinstance(value, types.FunctionType) for each in namespaces for value in each.values())


# --- names -----------------------------------------------------------------------------------------------------------


def have_more() -> bool:
    """Bring what definitions there are that no task was known to use, and tell whether there were any."""
    more, process.more = process.more, None
    if more is not None:
        more()
    return more is not None


def lookup(module: str, path: str) -> Any:
    """Return what a name of the script stands for in this process.

    Raises:
        AttributeError: It stands for nothing.
    """
    for name in filter(None, (process.target, FILE_MODULE, SCRIPT)) if module == SCRIPT else (module,):
        found: Any = sys.modules.get(name, _MISSING)
        if found is _MISSING and name not in BY_VALUE_MODULES:
            try:
                found = importlib.import_module(name)
            except ImportError:
                break
        for part in path.split("."):
            if found is _MISSING:
                break
            found = getattr(found, part, _MISSING)
        if found is not _MISSING:
            return found
    if have_more():
        return lookup(module, path)
    why = process.missing.get(path.partition(".")[0])
    raise AttributeError(f"the script defines no {path!r}" + (f" that can be sent to a worker: {why}" if why else ""))


def name_here(module: str) -> str:
    """Return what a module of the script is called in this process."""
    # In a worker all of the script's are one module.
    return module_here(module).__name__ if module == SCRIPT else module


def module_here(name: str) -> types.ModuleType:
    """Return a module of this process, the script's if that is meant."""
    if name == SCRIPT:
        name = process.target or (FILE_MODULE if FILE_MODULE in sys.modules else SCRIPT)
    found = sys.modules.get(name)
    return importlib.import_module(name) if found is None else found

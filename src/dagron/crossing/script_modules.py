"""In a worker: the modules of the script, filled with the definitions that the run sends.

No worker imports the script again. What a name of the script means there is what its table binds to it, for tasks, for
results, and for what tasks start. The table crosses as one part, the first of every task, and is bound when the first
task is loaded.
"""

from __future__ import annotations

import builtins
import copyreg
import importlib
import importlib.util
import io
import pickle
import sys
import types
from typing import Any, NamedTuple

from dagron.script import FILE_MODULE, SCRIPT, have_more, process

__all__ = ["TABLE", "Head", "become_script", "bind", "inherit"]

TABLE = -2
"""The number of the part that is the table."""


class Head(NamedTuple):
    """What is needed before definitions can be unpickled.

    Attributes:
        target: The module that the command line runs; empty if it is a file, or there is none.
        modules: The script's modules with those of their attributes that say where they lie.
        imports: Modules that code finds as attributes of packages, so that these have to have been imported.
        missing: Why a definition could not be pickled, by name.
    """

    target: str
    modules: dict[str, dict[str, Any]]
    imports: tuple[str, ...]
    missing: dict[str, str]


class _Sent(types.ModuleType):
    """A module of the script. What was not sent is looked for in the module's file, if there is one to be found."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        vars(self)["__builtins__"] = builtins

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and have_more():
            return getattr(self, name)
        if not name.startswith("__") and self.__name__ != SCRIPT and not self.__dict__.get("_dagron_complete"):
            bound = dict(vars(self))
            self.__dict__["_dagron_complete"] = True
            spec = _spec_of(self)
            if spec is not None and spec.loader is not None:
                self.__spec__ = spec
                spec.loader.exec_module(self)
                vars(self).update(bound)
                if name in vars(self):
                    return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _spec_of(module: types.ModuleType) -> Any:
    parent = module.__name__.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    for finder in sys.meta_path:
        spec = finder.find_spec(module.__name__, path)
        if spec is not None:
            return spec
    return None


def become_script() -> None:
    """Let `__main__` be a module of the script's from now on, with nothing in it yet."""
    module = _Sent(SCRIPT)
    sys.modules[SCRIPT] = sys.modules[FILE_MODULE] = module
    process.has_script = True
    process.sent = {SCRIPT, FILE_MODULE}


def bind(data: bytes) -> None:
    """Give the script's names their meaning in this process."""
    head_data, needed, others = pickle.loads(data)
    head = Head(*head_data)
    sent = process.sent
    assert sent is not None, "this process has become the script"
    process.missing = head.missing
    process.target = head.target
    if head.target:
        sent.add(head.target)
    for name, attributes in head.modules.items():
        module = sys.modules.get(name)
        if not isinstance(module, _Sent):
            module = sys.modules[name] = _Sent(name)
        vars(module).update(attributes)
        sent.add(name)
    for name in head.imports:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # the code that uses it may never run, or make it first
    file = _File(needed)
    unpickler = pickle.Unpickler(file)
    _bind_next(unpickler)
    file.stream = io.BytesIO(others)
    process.more = lambda: _bind_next(unpickler)


class _File:
    """Two pickles that have one memo, of which the first can be let go."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self.stream.read(size)

    def readline(self) -> bytes:
        return self.stream.readline()


inherited = b""
"""In a process that a task has started: the table that its worker made."""


def inherit(data: bytes) -> None:
    """Keep a table for when the process that a task starts is ready for it. Named by what the worker sends there."""
    global inherited
    inherited = data


def _bind_next(unpickler: pickle.Unpickler) -> None:
    """Bind definitions up to the end of those that tasks need, or to the end of all."""
    module, name, value = unpickler.load()
    while module is not None:
        # `__main__` itself is another module in a process that a task has started; it asks this one.
        vars(sys.modules[FILE_MODULE if module == SCRIPT else module])[name] = value
        module, name, value = unpickler.load()
    reducers, registered = value
    for cls, reducer in reducers:
        copyreg.pickle(cls, reducer)
    for base, cls in registered:
        base.register(cls)

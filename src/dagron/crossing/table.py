"""The table: what the names of the script mean that tasks use, pickled once a run.

A task refers to what the script defines by name. The table holds the definitions: of all names that tasks and the
functions that these call use, and of all classes and functions of the script, as results may be or hold some. They are
pickled as one, so whatever they have in common is one object in a worker, too.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import types
from typing import Any

from dagron.crossing.classes import registered_elsewhere
from dagron.crossing.code import all_names, global_names, modules_below
from dagron.crossing.definitions import PROTOCOL, DefinitionPickler
from dagron.crossing.names import NamesOfRun, called
from dagron.crossing.script_modules import Head
from dagron.errors import TaskNotPicklableError
from dagron.script import BY_VALUE_MODULES, SCRIPT, have_more, name_here, process

__all__ = ["Table", "script_here"]

_ATTRIBUTES = ("__file__", "__package__", "__path__")
_MAX_REASON = 500
"""Characters of why something cannot be pickled, which is told only if a task asks for it; never varied."""

_MAX_OPTIONAL_BYTES = 16 * 1024
"""Pickled, of a global variable that no task is known to use: a flow, say, or a table that only the script reads."""

_Name = tuple[str, str]


class _TablePickler(DefinitionPickler):
    keeps_files = True

    def __init__(self, file: Any, table: Table) -> None:
        super().__init__(file, PROTOCOL, names=table.names)
        self._table = table

    def travels(self, module: str) -> bool:
        return self.names.travels(module)

    def needs(self, module: str, code: types.CodeType) -> None:
        self._table.need_code(module, code)

    def reference(self, module: str, path: str, obj: Any) -> Any:
        # Here is where it is defined; but it has to be bound to its name, too, also if no code names it.
        self._table.need(module, path.partition(".")[0])
        return None


class Table:
    """The names that are needed, and what they mean.

    Attributes:
        names: The names that objects have.
        for_tasks: Whether what is needed from now on is needed by tasks, and not just good to have.
    """

    def __init__(self) -> None:
        self.names = NamesOfRun()
        self.for_tasks = True
        self._values: dict[_Name, Any] = {}
        self._for_tasks: set[_Name] = set()
        self._codes: set[tuple[int, str, bool]] = set()
        self._kept: list[Any] = []
        self._imports: dict[str, None] = {}
        self._missing: dict[str, str] = {}

    def need(self, module: str, name: str) -> None:
        """Take note that a name of the script is needed, if it is defined."""
        found = self._values.get((module, name), self)
        is_new = found is self
        if is_new:
            for other in BY_VALUE_MODULES if module == SCRIPT else (module,):
                variables = vars(sys.modules.get(other, _NOTHING))
                if name in variables:
                    found = variables[name]
                    break
            else:
                return  # built in, or not there yet
            if name in self._missing or not (self.for_tasks or self._is_small(name, found)):
                return
            self._values[module, name] = found
        if self.for_tasks and (module, name) not in self._for_tasks:
            self._for_tasks.add((module, name))
            is_new = True
        if is_new:
            self._look_into(found)

    def need_if_possible(self, module: str, name: str) -> None:
        """Take note of a name that is not known to be used; what cannot be pickled is left out."""
        self.for_tasks = False
        self.need(module, name)

    def need_code(self, module: str, code: types.CodeType) -> None:
        """Take note that code of a module of the script will run."""
        key = id(code), module, self.for_tasks
        if key in self._codes:
            return
        self._codes.add(key)
        self._kept.append(code)
        names = global_names(code)
        variables = vars(sys.modules.get(name_here(module), _NOTHING))
        for name in names:
            if name not in variables:
                continue
            value = variables[name]
            if type(value) is types.ModuleType or isinstance(value, types.ModuleType):
                self._need_of_module(value, code)
            if not name.startswith("__") or name == "__file__":
                self.need(module, name)

    def _is_small(self, name: str, value: Any) -> bool:
        """Tell whether a value is worth sending although no task is known to use it."""
        if isinstance(value, (type, types.FunctionType, types.ModuleType)):
            return True
        try:
            _TablePickler(_Bounded(), self).dump(value)
        except Exception as error:
            self._missing[name] = f"{type(error).__name__}: {error}"[:_MAX_REASON]
            return False
        return True

    def _need_of_module(self, module: types.ModuleType, code: types.CodeType) -> None:
        name = module.__name__
        if sys.modules.get(name) is module and self.names.travels(name):
            for attribute in sorted(all_names(code) & vars(module).keys()):
                if not attribute.startswith("__"):
                    self.need(called(name), attribute)
        self._imports.update(dict.fromkeys(modules_below(module, code)))

    def _look_into(self, value: Any) -> None:
        # What the pickler would find as well, but then the table would have to be pickled again.
        functions = [value]
        if isinstance(value, type):
            functions = list(vars(value).values())
        for function in functions:
            function = getattr(function, "__func__", getattr(function, "fget", function))
            function = getattr(function, "__wrapped__", function)
            if type(function) is types.FunctionType:
                name = function.__globals__.get("__name__")
                if type(name) is str and self.names.travels(name) and vars(sys.modules[name]) is function.__globals__:
                    self.need_code(called(name), function.__code__)

    def _need_definitions(self) -> None:
        for module in sorted(self.names.modules):
            if module == process.target or module not in sys.modules:
                continue
            for name, value in list(vars(sys.modules[module]).items()):
                if isinstance(value, (type, types.FunctionType)) and value.__module__ == module:
                    self.need(called(module), name)

    def dumped(self) -> bytes:
        """Return the table as bytes; empty if there is nothing in it.

        Raises:
            TaskNotPicklableError: Something in it cannot be pickled, and a task needs it; without the task's name.
        """
        self.for_tasks = False
        self._need_definitions()
        if not self._values and not process.target:
            return b""
        needed, others = self._definitions()
        modules: dict[str, dict[str, Any]] = {SCRIPT: {}}
        for module, _ in self._values:
            if module != SCRIPT:
                here = vars(sys.modules[module])
                modules[module] = {name: here[name] for name in _ATTRIBUTES if name in here}
        head = Head(process.target, modules, tuple(self._imports), self._missing)
        return pickle.dumps((tuple(head), needed, others), PROTOCOL)

    def _definitions(self) -> tuple[bytes, bytes]:
        n_names = -1
        data = b"", b""
        while len(self._values) + len(self._for_tasks) > n_names:  # more are found while they are pickled
            n_names = len(self._values) + len(self._for_tasks)
            try:
                data = self._pickled(self._values)
            except Exception:
                if not self._left_out():
                    raise  # each can be pickled, and all of them together cannot
                n_names = -1
        return data

    def _pickled(self, values: dict[_Name, Any]) -> tuple[bytes, bytes]:
        """Return definitions, one after the other, as one may need another: functions, classes, data.

        Those that tasks need first, then the others.
        """
        out = io.BytesIO()
        pickler = _TablePickler(out, self)
        # Each is bound as soon as it is there, and all have one memo.
        needed = {key: value for key, value in values.items() if key in self._for_tasks}
        self.for_tasks = True
        try:
            for (module, name), value in sorted(needed.items(), key=lambda item: _rank(item[1])):
                pickler.dump((module, name, value))
        finally:
            self.for_tasks = False
        reducers = [
            (cls, reducer)
            for cls, reducer in copyreg.dispatch_table.items()
            if getattr(reducer, "__module__", None) in self.names.modules
        ]
        registered: dict[bool, list[tuple[type, type]]] = {True: [], False: []}
        for base, cls in registered_elsewhere(self.names.modules):
            found = self.names.of(cls)
            if found is not None and (key := (found[0], found[1].partition(".")[0])) in values:
                registered[key in self._for_tasks].append((base, cls))
        pickler.dump((None, None, (reducers, registered[True])))
        n_needed = out.tell()
        # What no task is known to use waits in the worker for whoever asks for it: it may name modules that take long
        # to import.
        others = {key: value for key, value in values.items() if key not in self._for_tasks}
        for (module, name), value in sorted(others.items(), key=lambda item: _rank(item[1])):
            pickler.dump((module, name, value))
        pickler.dump((None, None, ([], registered[False])))
        data = out.getvalue()
        return data[:n_needed], data[n_needed:]

    def _left_out(self) -> bool:
        """Leave out what cannot be pickled, and tell whether there was something."""
        n_missing = len(self._missing)
        for key, value in list(self._values.items()):
            try:
                self._pickled({key: value})
            except Exception as error:
                if key in self._for_tasks:
                    raise TaskNotPicklableError("", f"global {key[1]!r}", f"{type(error).__name__}: {error}") from error
                self._missing[key[1]] = f"{type(error).__name__}: {error}"[:_MAX_REASON]
                del self._values[key]
        return len(self._missing) > n_missing


def script_here() -> bytes:
    """Return the table of a worker's script as it is now, for a process that a task starts."""
    have_more()
    table = Table()
    for module in sorted((process.sent or set()) - {process.target}):
        if module in sys.modules:
            for name in list(vars(sys.modules[module])):
                if not name.startswith("__") or name == "__file__":
                    table.need_if_possible(called(module), name)
    return table.dumped()


_NOTHING = types.SimpleNamespace()


def _rank(value: Any) -> int:
    if type(value) is types.FunctionType:
        return 1 if value.__closure__ or value.__defaults__ or value.__kwdefaults__ or value.__dict__ else 0
    return 2 if isinstance(value, type) else 3


class _Bounded:
    """A file that takes so much and no more."""

    def __init__(self) -> None:
        self._left = _MAX_OPTIONAL_BYTES

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("it is large, and no task names it")

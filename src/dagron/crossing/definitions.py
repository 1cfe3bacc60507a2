"""The pickler of definitions: functions, classes and code to bytes, by name or else by value.

A function by value holds its code, and what it is given: defaults, closure, attributes. Its global variables are those
of its module where it arrives, never a copy. Code says which version of Python made it, and no other runs it. What
classes consist of is in `classes`; what the standard library makes of functions and types is in `library`.

Uses public hooks of pickle and cloudpickle only; what neither class nor function is, cloudpickle reduces.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import operator
import sys
import types
import typing
from contextvars import ContextVar
from typing import Any

import cloudpickle
from blake3 import blake3

from dagron.crossing.classes import (
    METACLASSES,
    answers_for_attributes,
    attributes_of,
    has_state,
    is_heap_type,
    is_plain_exception,
    is_row,
    reduced_class,
    reduced_exception,
    reduced_instance,
    reduced_row,
    reduces_itself,
)
from dagron.crossing.code import global_names, marshalled, modules_below, without_file
from dagron.crossing.library import (
    DISPATCH_CODE,
    is_recursive,
    reduced_alias,
    reduced_dispatching,
    reduced_global,
    reduced_identity,
    reduced_subscription,
)
from dagron.crossing.names import IDENTITIES, Names, called, module_found
from dagron.crossing.parts import annotations_of
from dagron.script import SCRIPT
from dagron.stored.classes import bare, known_class, known_key, set_attributes
from dagron.stored.code import (
    empty_cell,
    fill_function,
    full_cell,
    new_code,
    new_function,
    new_namespace,
    python_version,
)
from dagron.stored.library import alias_parameter, cached_property, partial_method
from dagron.stored.names import script_module, script_value

__all__ = ["PROTOCOL", "DefinitionPickler"]

PROTOCOL = 5
"""The newest that every supported Python reads."""


class _Place:
    """Stands for the cell of a variable, which is pickled without its content, as that may hold what holds the cell."""


class _Namespace:
    def __init__(self, name: str) -> None:
        self.name = name


class DefinitionPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles definitions by value. Others decide what they pickle by name.

    Attributes:
        names: The names of the script.
    """

    keeps_files = False
    """Whether code knows the file that it is from."""
    whole = False
    """Whether functions take along a copy of the global variables that they use, whatever their module."""

    def __init__(self, file: Any, protocol: int, buffer_callback: Any = None, names: Names | None = None) -> None:
        super().__init__(file, protocol, buffer_callback)
        self.names = Names() if names is None else names
        self._places: dict[int, tuple[types.CellType, _Place]] = {}
        self._spaces: dict[int, _Namespace] = {}
        self._singletons: dict[type, dict[int, str]] = {}
        self._by_name: set[int] = set()
        self._parameters: dict[int, tuple[Any, int]] = {}
        self._aliases: dict[int, tuple[Any, _Place]] = {}

    # --- what others decide -----------------------------------------------------------------------------------------

    def reference(self, module: str, path: str, obj: Any) -> Any:
        """Return how to refer to something by its name in the script; None to pickle it by value."""
        return None

    def travels(self, module: str) -> bool:
        """Tell whether what a module defines is pickled here, and not imported where it arrives."""
        return self.names.has(module)

    def needs(self, module: str, code: types.CodeType) -> None:
        """Take note that code will look for global variables of a module of the script."""

    def key_of(self, cls: type) -> str:
        """Return what tells a class without a name from others; empty for a class with a name."""
        key = known_key(cls)
        if key is None:
            if self.names.of(cls) is not None:
                return ""
            pieces: list[bytes] = []
            writer = types.SimpleNamespace(write=lambda data: pieces.append(bytes(data)))
            KeyPickler(writer, PROTOCOL, names=self.names).dump(cls)
            key = blake3(b"".join(pieces)).hexdigest(16)
            known_class(key, cls)
        return key

    # --- one object -------------------------------------------------------------------------------------------------

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what is a definition or has a name, or leave an object to cloudpickle."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._function(obj)
        if isinstance(obj, type):
            return self._class(obj)
        if kind is types.CodeType:
            code = obj if self.keeps_files else without_file(obj)
            return new_code, (python_version(), marshalled(code))
        if isinstance(obj, BaseException) and kind not in copyreg.dispatch_table and is_plain_exception(kind):
            return reduced_exception(obj)
        if self.names.has(kind.__module__):
            return self._instance(obj)
        if kind is _Place:
            return empty_cell, ()
        if kind is _Namespace:
            return new_namespace, (obj.name,)
        if kind is types.CellType:
            try:
                return full_cell, (obj.cell_contents,)
            except ValueError:
                return empty_cell, ()
        if kind in IDENTITIES:
            return self._identity(obj)
        if issubclass(kind, types.ModuleType):
            # Of a class of its own is a module in a worker, and one that is imported when it is first needed.
            by_name = self._is_sent(obj) or (kind is not types.ModuleType and sys.modules.get(obj.__name__) is obj)
            return (script_module, (called(obj.__name__),)) if by_name else super().reducer_override(obj)
        if kind is functools.cached_property:
            return cached_property, (obj.func, obj.attrname)
        if kind is functools.partialmethod:  # that of 3.14 is not made without what it calls
            return partial_method, (obj.func, obj.args, obj.keywords)
        singleton = self._singleton(obj)
        return NotImplemented if singleton is None else singleton

    def _is_sent(self, module: types.ModuleType) -> bool:
        name = module.__name__
        return not self.whole and sys.modules.get(name) is module and self.travels(name)

    def _named(self, obj: Any) -> Any:
        found = self.names.of(obj)
        return None if found is None else self._referred(*found, obj)

    def _referred(self, module: str, path: str, obj: Any) -> Any:
        reference = self.reference(module, path, obj)
        if reference is not None:
            self._by_name.add(id(obj))
        return reference

    def _function(self, function: types.FunctionType) -> Any:
        module = function.__module__
        if type(module) is str:
            if not self.travels(module) and module_found(module, function.__qualname__) is function:
                self._by_name.add(id(function))
                return NotImplemented
            reference = self._named(function)
            if reference is not None:
                return reference
        if function.__code__ is DISPATCH_CODE:
            return reduced_dispatching(function)
        return self.function_by_value(function)

    def function_by_value(self, function: types.FunctionType) -> Any:
        """Reduce a function to its code and what it holds."""
        code, variables = function.__code__, function.__globals__
        name = variables.get("__name__")
        name = name if type(name) is str else SCRIPT
        space: Any
        taken: dict[str, Any] | None = None
        module = sys.modules.get(name)
        if module is not None and vars(module) is variables and self.travels(name) and not self.whole:
            space = called(name)
            self.needs(name, code)
        else:
            # A copy of those that it uses, as they are now: a worker that imports the module may find others.
            space = self._spaces.get(id(variables))
            if space is None:
                space = self._spaces[id(variables)] = _Namespace(name)
            taken = self._taken(code, variables)
        cells = function.__closure__
        places = None if cells is None else tuple([self._place(cell) for cell in cells])
        contents = []
        for cell, place in zip(cells or (), places or (), strict=True):
            try:
                contents.append((place, cell.cell_contents))
            except ValueError:
                continue  # it is still empty
        of_module = function.__module__
        state = (
            called(of_module) if type(of_module) is str else None,
            function.__qualname__,
            function.__doc__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__dict__ or None,
            annotations_of(function) or None,
            getattr(function, "__type_params__", None) or None,
            contents or None,
            taken,
        )
        return new_function, (space, code, function.__name__, places), state, None, None, fill_function

    def _taken(self, code: types.CodeType, variables: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in sorted(global_names(code)):
            if name not in variables:
                continue
            value = variables[name]
            if isinstance(value, types.ModuleType):
                for below in modules_below(value, code):
                    found[below] = sys.modules[below]  # under no name that code could have; to be imported
            found[name] = value
        return found

    def _place(self, cell: types.CellType) -> _Place:
        found = self._places.get(id(cell))
        if found is None:
            found = self._places[id(cell)] = cell, _Place()
        return found[1]

    def _identity(self, obj: Any) -> Any:
        kind = type(obj)
        module: Any = getattr(obj, "__module__", None)
        path: Any = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
        is_named = type(module) is str and type(path) is str
        if is_named and not self.travels(module) and module_found(module, path) is obj:
            return NotImplemented
        reference = self._named(obj)
        if reference is not None:
            return reference
        if kind is object or kind is ContextVar:
            home = self.names.global_of_import(obj)
            if home is not None:
                return reduced_global(obj, *home)
        parameter = self._parameters.get(id(obj))
        if parameter is not None:
            return alias_parameter, parameter
        if kind is object or kind is typing.TypeVar:
            return NotImplemented
        if kind.__name__ == "TypeAliasType" and is_recursive(obj):
            for index, parameter_of_it in enumerate(obj.__type_params__):
                self._parameters[id(parameter_of_it)] = obj, index
            place = self._aliases.setdefault(id(obj), (obj, _Place()))[1]
            return reduced_alias(obj, place)
        return reduced_identity(obj)

    def _singleton(self, obj: Any) -> Any:
        """Return a reference to an object without state that the module of its class has under a name."""
        kind = type(obj)
        known = self._singletons.get(kind)
        if known is None:
            known = self._singletons[kind] = {}
            module = kind.__module__
            if is_heap_type(kind) and not reduces_itself(kind):
                for name, value in list(vars(sys.modules.get(module, object)).items()):
                    if type(value) is kind and (module == "dataclasses" or not has_state(value)):
                        known[id(value)] = name
        if not known or id(obj) not in known:
            return None
        return script_value, (kind.__module__, known[id(obj)])

    def _instance(self, obj: Any) -> Any:
        cls = type(obj)
        if cls in copyreg.dispatch_table:
            return NotImplemented
        if isinstance(obj, enum.Enum) and not _reduces_to_name(obj):
            # Not by its value, as `enum` would: that of another process may equal none of the values here.
            return (operator.getitem, (cls, obj._name_)) if obj._name_ in cls.__members__ else NotImplemented
        if is_row(obj):
            return reduced_row(obj)
        if reduces_itself(cls):
            reduced = obj.__reduce_ex__(PROTOCOL)
            if type(reduced) is not str:
                return reduced
            module = getattr(obj, "__module__", None)
            if type(module) is str and module_found(module, reduced) is obj:
                reference = self._referred(called(module), reduced, obj)
            else:
                found = self.names.of_variable(obj)
                reference = None if found is None else self._referred(*found, obj)
            if reference is not None:
                return reference
            return bare, (cls,), attributes_of(obj), None, None, set_attributes
        if not getattr(obj, "__dict__", None) and not has_state(obj):
            found = self.names.of_variable(obj)
            reference = None if found is None else self._referred(*found, obj)
            if reference is not None:
                return reference
        return reduced_instance(obj) if answers_for_attributes(cls) else NotImplemented

    def _class(self, cls: type) -> Any:
        module = cls.__module__
        if type(module) is str and not self.travels(module) and module_found(module, cls.__qualname__) is cls:
            return NotImplemented
        if not is_heap_type(cls):
            return super().reducer_override(cls)
        reference = self._named(cls) or reduced_subscription(cls, self.names.has)
        return self.class_by_value(cls) if reference is None else reference

    def class_by_value(self, cls: type) -> Any:
        """Reduce a class to its bases and attributes."""
        meta: Any = type(cls)
        library = next((base for base in meta.__mro__ if not self.names.has(base.__module__)), type)
        if library not in METACLASSES:
            return super().reducer_override(cls)
        return reduced_class(cls, self.key_of(cls))


class KeyPickler(DefinitionPickler):
    """Pickles a class without a name for the digest that tells it from others."""

    def reference(self, module: str, path: str, obj: Any) -> Any:
        """Refer to what has a name."""
        return script_value, (module, path)

    def key_of(self, cls: type) -> str:
        """Return nothing: this is what it is made from."""
        return ""


def _reduces_to_name(member: enum.Enum) -> bool:
    return type(member).__reduce_ex__ is not enum.Enum.__reduce_ex__

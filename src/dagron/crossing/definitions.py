"""Functions, classes and code to bytes: by the name that they have in the script, or else by value.

A function by value holds its code, and what it is given: defaults, closure, attributes. Its global variables are those
of its module where it arrives, never a copy. Code says which version of Python made it, and no other runs it.

Uses public hooks of pickle and cloudpickle only; what neither class nor function is, cloudpickle reduces.
"""

from __future__ import annotations

import abc
import copyreg
import enum
import functools
import hashlib
import marshal
import sys
import types
import typing
from collections.abc import Iterator
from contextvars import Context, ContextVar
from opcode import opmap
from typing import Any

import cloudpickle

from dagron import stored
from dagron.crossing.names import IDENTITIES, Names, called, module_found
from dagron.crossing.parts import annotations_of
from dagron.script import SCRIPT
from dagron.shapes import operations

__all__ = [
    "PROTOCOL",
    "DefinitionPickler",
    "all_names",
    "global_names",
    "has_state",
    "is_heap_type",
    "modules_below",
    "reduces_itself",
]

PROTOCOL = 5
"""The newest that every supported Python reads."""


# --- code ------------------------------------------------------------------------------------------------------------

_SHIFTED = opmap["LOAD_GLOBAL"]  # its lowest bit means something else
_BY_NAME = {
    opmap[name] for name in ("LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS") if name in opmap
}

_names_of: dict[int, tuple[types.CodeType, frozenset[str]]] = {}


def global_names(code: types.CodeType) -> frozenset[str]:
    """Return the names of global variables that code uses, also in the functions that it makes."""
    known = _names_of.get(id(code))
    if known is None:
        names = code.co_names
        found = (
            {
                names[argument >> 1] if operation == _SHIFTED else names[argument]
                for operation, argument in operations(code.co_code)
                if operation == _SHIFTED or operation in _BY_NAME
            }
            if names
            else set()
        )
        for constant in code.co_consts:
            if type(constant) is types.CodeType:
                found |= global_names(constant)
        if len(_names_of) > 10_000:  # a process that makes code for ever
            _names_of.clear()
        known = _names_of[id(code)] = code, frozenset(found)
    return known[1]


_below: dict[str, list[str]] = {}
_n_modules = 0


def modules_below(package: types.ModuleType, code: types.CodeType) -> list[str]:
    """Return the names of modules in a package that code finds as attributes, so that they have to be imported."""
    global _n_modules
    if not hasattr(package, "__path__"):
        return []
    if len(sys.modules) != _n_modules:
        _n_modules = len(sys.modules)
        _below.clear()
        for name in list(sys.modules):
            if "." in name:
                _below.setdefault(name.partition(".")[0], []).append(name)
    start = f"{package.__name__}."
    used = all_names(code)
    return [
        name
        for name in _below.get(package.__name__.partition(".")[0], ())
        if name.startswith(start) and set(name[len(start) :].split(".")) <= used
    ]


def all_names(code: types.CodeType) -> set[str]:
    """Return all names in code and in the functions that it makes, those of attributes among them."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            found |= all_names(constant)
    return found


_NO_FILE = "<code>"
"""Stands for the file in code of a result, so that its bytes are the same wherever the script lies."""


def _without_file(code: types.CodeType) -> types.CodeType:
    constants = tuple(_without_file(c) if type(c) is types.CodeType else c for c in code.co_consts)
    return code.replace(co_filename=_NO_FILE, co_consts=constants)


def _marshalled(code: types.CodeType) -> bytes:
    try:
        return marshal.dumps(code, 2)  # without references, which depend on what else refers to the parts of the code
    except ValueError:
        return marshal.dumps(code)  # slices among the constants, since Python 3.14


# --- what is left out of classes -------------------------------------------------------------------------------------

_NO_STATE = {"__dict__", "__weakref__", "__module__", "__qualname__", "_abc_impl", "__annotate_func__"}
_NO_STATE |= {"__annotations_cache__", "__classdictcell__"}
_ENUM_OWN = {
    *("_member_names_", "_member_map_", "_value2member_map_", "_unhashable_values_", "_unhashable_values_map_"),
    *("_hashable_values_", "_member_type_", "_value_repr_", "__new__", "_flag_mask_", "_singles_mask_", "_all_bits_"),
    *("_boundary_", "_inverted_", "__members__"),
}
_MEMBER_OWN = {"_value_", "_name_", "__objclass__", "_sort_order_"}


class _SomeTypedDict(typing.TypedDict):
    pass


_METACLASSES = (type, abc.ABCMeta, enum.EnumMeta, typing._ProtocolMeta, type(_SomeTypedDict))

_dispatching: Any = functools.singledispatch(id)
_DISPATCH_CODE = _dispatching.__code__


def is_heap_type(cls: type) -> bool:
    """Tell whether a class was made by Python code."""
    return bool(cls.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE


_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__


def reduces_itself(cls: Any) -> bool:
    """Tell whether a class says how its instances are pickled."""
    return cls.__reduce_ex__ is not _REDUCE_EX or cls.__reduce__ is not _REDUCE


class _Place:
    """Stands for the cell of a variable, which is pickled without its content, as that may hold what holds the cell."""


class _Name:
    """Stands for what a module has under a name and that is told apart by identity."""

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name


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
        self._names_of_modules: dict[tuple[str, str], _Name] = {}

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
        key = stored.known_key(cls)
        if key is None:
            if self.names.of(cls) is not None:
                return ""
            pieces: list[bytes] = []
            writer = types.SimpleNamespace(write=lambda data: pieces.append(bytes(data)))
            KeyPickler(writer, PROTOCOL, names=self.names).dump(cls)
            key = hashlib.blake2b(b"".join(pieces), digest_size=16).hexdigest()
            stored.known_class(key, cls)
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
            code = obj if self.keeps_files else _without_file(obj)
            return stored.code, (stored.python_version(), _marshalled(code))
        if self.names.has(kind.__module__):
            return self._instance(obj)
        if kind is _Place:
            return stored.new_cell, ()
        if kind is _Name:
            return stored.script_value, (obj.module, obj.name)
        if kind is _Namespace:
            return stored.new_namespace, (obj.name,)
        if kind is types.CellType:
            try:
                return stored.cell, (obj.cell_contents,)
            except ValueError:
                return stored.new_cell, ()
        if kind in IDENTITIES:
            return self._identity(obj)
        if kind is types.ModuleType:
            return (stored.module, (called(obj.__name__),)) if self._is_sent(obj) else super().reducer_override(obj)
        if kind is functools.cached_property:
            return stored.cached_property, (obj.func, obj.attrname)
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
        if function.__code__ is _DISPATCH_CODE:
            return self._dispatching(function)
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
        return stored.new_function, (space, code, function.__name__, places), state, None, None, stored.fill_function

    def _taken(self, code: types.CodeType, variables: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        of = variables.get("__name__")
        for name in sorted(global_names(code)):
            if name not in variables:
                continue
            value = variables[name]
            if isinstance(value, types.ModuleType):
                for below in modules_below(value, code):
                    found[below] = sys.modules[below]  # under no name that code could have; to be imported
            if type(value) is object and type(of) is str and module_found(of, name) is value and not self.names.has(of):
                value = self._names_of_modules.setdefault((of, name), _Name(of, name))
            found[name] = value
        return found

    def _place(self, cell: types.CellType) -> _Place:
        found = self._places.get(id(cell))
        if found is None:
            found = self._places[id(cell)] = cell, _Place()
        return found[1]

    def _dispatching(self, function: Any) -> Any:
        registered = tuple((cls, found) for cls, found in function.registry.items() if cls is not object)
        own = {"register", "dispatch", "registry", "_clear_cache", "__wrapped__"}
        attributes = {name: value for name, value in vars(function).items() if name not in own}
        state = registered, attributes
        return stored.dispatching, (function.__wrapped__,), state, None, None, stored.fill_dispatching

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
        if kind is object or kind is typing.TypeVar:
            return NotImplemented
        if kind is ContextVar:
            try:
                default: tuple[Any, ...] = (Context().run(obj.get),)
            except LookupError:
                default = ()
            return stored.context_variable, (obj.name, default)
        if kind is typing.NewType:
            return stored.new_type, (obj.__qualname__, obj.__supertype__, called(obj.__module__))
        if hasattr(obj, "cache_parameters"):
            own = {"cache_parameters", *functools.WRAPPER_ASSIGNMENTS, "__wrapped__"}
            attributes = {name: value for name, value in vars(obj).items() if name not in own}
            parameters = obj.cache_parameters()
            made = stored.cached, (obj.__wrapped__, parameters["maxsize"], parameters["typed"])
            return (*made, attributes, None, None, stored.set_attributes) if attributes else made
        keywords: dict[str, Any] = {}
        if kind.__name__ == "ParamSpec":
            keywords = {"covariant": obj.__covariant__, "contravariant": obj.__contravariant__, "bound": obj.__bound__}
        elif kind.__name__ == "TypeAliasType":
            keywords = {"value": obj.__value__, "type_params": obj.__type_params__}
        return stored.type_parameter, (kind.__name__, obj.__name__, called(str(obj.__module__)), keywords)

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
        return stored.script_value, (kind.__module__, known[id(obj)])

    def _instance(self, obj: Any) -> Any:
        cls = type(obj)
        if cls in copyreg.dispatch_table or (isinstance(obj, enum.Enum) and not _reduces_to_name(obj)):
            return NotImplemented
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
            return stored.bare, (cls,), _attributes(obj), None, None, stored.set_attributes
        if not getattr(obj, "__dict__", None) and not has_state(obj):
            found = self.names.of_variable(obj)
            reference = None if found is None else self._referred(*found, obj)
            if reference is not None:
                return reference
        return NotImplemented

    # --- classes ----------------------------------------------------------------------------------------------------

    def _class(self, cls: type) -> Any:
        module = cls.__module__
        if type(module) is str and not self.travels(module) and module_found(module, cls.__qualname__) is cls:
            return NotImplemented
        if not is_heap_type(cls):
            return super().reducer_override(cls)
        reference = self._named(cls)
        return self.class_by_value(cls) if reference is None else reference

    def class_by_value(self, cls: type) -> Any:
        """Reduce a class to its bases and attributes."""
        meta: Any = type(cls)
        library = next((base for base in meta.__mro__ if not self.names.has(base.__module__)), type)
        if library not in _METACLASSES:
            return super().reducer_override(cls)
        named = self.key_of(cls), meta, cls.__name__, cls.__qualname__, called(cls.__module__), cls.__bases__
        attributes = dict(_attributes_of_class(cls))
        registered: tuple[Any, ...] = ()
        if "_abc_impl" in vars(cls):
            references = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
            registered = tuple(found for found in (reference() for reference in references) if found is not None)
        if isinstance(cls, enum.EnumMeta):
            return self._enum(cls, named, attributes, registered)
        slots = None
        if "__slots__" in vars(cls):
            descriptors = [
                name
                for name, value in vars(cls).items()
                if (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls)
                or (name in ("__dict__", "__weakref__") and isinstance(value, types.GetSetDescriptorType))
            ]
            slots = tuple(sorted(descriptors))
        return stored.new_class, (*named, slots), (attributes, registered, ()), None, None, stored.fill_class

    def _enum(self, cls: Any, named: tuple[Any, ...], attributes: dict[str, Any], registered: tuple[Any, ...]) -> Any:
        base = next(base for base in cls._member_type_.__mro__ if not is_heap_type(base))
        members = tuple((name, _made_from(base, member), member._value_) for name, member in cls.__members__.items())
        for name in (*_ENUM_OWN, *cls.__members__):
            attributes.pop(name, None)
        of_members = tuple(
            (name, own)
            for name, member in {member._name_: member for member in cls.__members__.values()}.items()
            if (own := {key: value for key, value in vars(member).items() if key not in _MEMBER_OWN})
        )
        boundary = cls._boundary_ if issubclass(cls, enum.Flag) else None
        made = stored.new_enum, (*named, base, boundary, members)
        return *made, (attributes, registered, of_members), None, None, stored.fill_class


class KeyPickler(DefinitionPickler):
    """Pickles a class without a name for the digest that tells it from others."""

    def reference(self, module: str, path: str, obj: Any) -> Any:
        """Refer to what has a name."""
        return stored.script_value, (module, path)

    def key_of(self, cls: type) -> str:
        """Return nothing: this is what it is made from."""
        return ""


def _made_from(base: Any, member: Any) -> tuple[Any, ...]:
    if base is object:
        return ()
    if hasattr(base, "__getnewargs__"):
        return tuple(base.__getnewargs__(member))
    return tuple(base.__reduce__(member)[1])


def _reduces_to_name(member: enum.Enum) -> bool:
    return type(member).__reduce_ex__ is not enum.Enum.__reduce_ex__


def has_state(obj: Any) -> bool:
    """Tell whether an object holds anything that another of its class need not hold."""
    if not type(obj).__basicsize__ <= object.__basicsize__ + 16 or type(obj).__itemsize__:
        return True
    if getattr(obj, "__dict__", None):
        return True
    return any(
        isinstance(value, types.MemberDescriptorType) and hasattr(obj, name)
        for cls in type(obj).__mro__
        for name, value in vars(cls).items()
    )


def _attributes(obj: Any) -> dict[str, Any]:
    found = dict(getattr(obj, "__dict__", {}))
    for cls in type(obj).__mro__:
        for name, value in vars(cls).items():
            if isinstance(value, types.MemberDescriptorType) and hasattr(obj, name):
                found[name] = getattr(obj, name)
    return found


def _attributes_of_class(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if name in _NO_STATE or (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls):
            continue
        if name == "__slots__" and not isinstance(value, (str, tuple, list, dict)):
            continue  # an iterator that is used up
        yield name, tuple(sorted(value)) if name == "__static_attributes__" else value
    if "__annotations__" not in vars(cls) and "__annotate_func__" in vars(cls):
        yield "__annotations__", dict(annotations_of(cls))

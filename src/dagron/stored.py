"""What the pickles in a checkpoint name: functions that every later version must have under these names. Frozen.

A result refers to what the user's script defines by name (`of_script`, `member`), and holds code that has no name there
by value (`code`, `new_function`, `new_class`, ...). The names and the parameters of these functions are part of the
format of a checkpoint. So nothing here moves or changes its parameters, and the module imports nothing of the rest of
the package but `shapes`, which is frozen, too, and `script`, which says what the names stand for in this process.
"""

from __future__ import annotations

import abc
import enum
import functools
import marshal
import sys
import types
import typing
import weakref
from contextvars import ContextVar
from typing import Any

from dagron.errors import ClassChangedError, OtherPythonError
from dagron.script import lookup, module_here, name_here, process
from dagron.shapes import Shape, difference, is_of_script, shape_of, stand_in

__all__ = ["python_version"]


def python_version() -> str:
    """Return implementation and minor version of this Python, which decide whose bytecode it can run."""
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


# --- names of the script ---------------------------------------------------------------------------------------------


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


# --- code and functions ----------------------------------------------------------------------------------------------


def code(version: str, data: bytes) -> types.CodeType:
    """Return code.

    Raises:
        OtherPythonError: It is another version's. Nothing is unmarshalled then.
    """
    if version != python_version():
        raise OtherPythonError(version, python_version())
    found: types.CodeType = marshal.loads(data)
    return found


def new_namespace(name: str) -> dict[str, Any]:
    """Return the global variables of functions that are of no module."""
    return {"__name__": name, "__builtins__": sys.modules["builtins"]}


def new_cell() -> types.CellType:
    """Return the place of a variable that has no value yet."""
    return types.CellType()


def cell(content: Any) -> types.CellType:
    """Return the place of a variable."""
    return types.CellType(content)


def new_function(
    namespace: str | dict[str, Any], code: types.CodeType, name: str, cells: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Return a function without what it holds.

    Args:
        namespace: Its global variables, or the name of the module that has these.
        code: Its code.
        name: Its name.
        cells: The places of the variables that it has from the functions around it.
    """
    if isinstance(namespace, str):
        namespace = vars(module_here(namespace))
    return types.FunctionType(code, namespace, name, None, cells)


def fill_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function what it holds.

    Args:
        function: As from `new_function`.
        state: Module, qualified name, documentation, defaults, keyword-only defaults, attributes, annotations, type
            parameters, contents of cells, and global variables for a namespace of its own.
    """
    module, qualname, doc, defaults, kwdefaults, attributes, annotations, parameters, contents, variables = state
    function.__module__ = name_here(module) if module is not None else None  # type: ignore[assignment]
    function.__qualname__ = qualname
    function.__doc__ = doc
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    if annotations:
        function.__annotations__ = annotations
    if parameters:
        function.__type_params__ = parameters
    if contents:
        for place, content in contents:
            place.cell_contents = content
    if variables:
        function.__globals__.update(variables)
    if attributes:
        function.__dict__.update(attributes)


# --- classes ---------------------------------------------------------------------------------------------------------

_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
"""Classes that have no name in the script, by the digest of their definition."""


_key_of: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()

_filled: weakref.WeakSet[type] = weakref.WeakSet()


def known_class(key: str, cls: type) -> None:
    """Let the class of this process be the one that pickles with this key mean."""
    _classes[key] = cls  # the newest: a notebook may have made one again
    _key_of[cls] = key
    _filled.add(cls)


def known_key(cls: type) -> str | None:
    """Return the key of a class without a name that was pickled or unpickled here; None if it never was."""
    return _key_of.get(cls)


def _of_library(meta: type) -> Any:
    """Return the metaclass that makes the classes of a metaclass: the first that is none of the script's."""
    found: Any = next(base for base in meta.__mro__ if base.__module__ in ("builtins", "abc", "enum", "typing"))
    return abc.ABCMeta if found.__name__ == "_ProtocolMeta" else type if found.__name__ == "_TypedDictMeta" else found


class _Quiet:
    """Keeps `__init_subclass__` of bases from being called.

    What that of the script did is in the state of the class already, and with which keywords it was called is not
    known. That of a library is called, which may keep a list of classes of its own.
    """

    def __init__(self, bases: tuple[type, ...]) -> None:
        self._taken = {
            base: vars(base)["__init_subclass__"]
            for cls in bases
            for base in cls.__mro__
            if "__init_subclass__" in vars(base) and (is_of_script(base) or base.__module__ == "typing")
        }

    def __enter__(self) -> None:
        for base in self._taken:
            type.__setattr__(base, "__init_subclass__", classmethod(lambda cls, **_: None))

    def __exit__(self, *_: object) -> None:
        for base, method in self._taken.items():
            type.__setattr__(base, "__init_subclass__", method)


def new_class(
    key: str, meta: Any, name: str, qualname: str, module: str, bases: tuple[type, ...], slots: tuple[str, ...] | None
) -> type:
    """Return a class without its attributes; the one that was made for this key already if there is one.

    Args:
        key: The digest of its definition; empty for one that has a name.
        meta: Its metaclass.
        name: Its name.
        qualname: Its qualified name.
        module: The module that defines it.
        bases: What it is derived from.
        slots: The names of its slots; None if it has a dictionary instead.
    """
    found = _classes.get(key) if key else None
    if found is None:
        namespace: dict[str, Any] = {"__module__": name_here(module), "__qualname__": qualname}
        if slots is not None:
            namespace["__slots__"] = slots
        with _Quiet(bases):
            found = _of_library(meta).__new__(meta, name, bases, namespace)
        if key:
            _classes[key] = found
            _key_of[found] = key
    return found


def fill_class(cls: type, state: tuple[dict[str, Any], tuple[type, ...], tuple[Any, ...]]) -> None:
    """Give a class its attributes.

    Args:
        cls: As from `new_class` or `new_enum`.
        state: Attributes by name; what is registered as its subclasses; for an enum, the attributes of each member.
    """
    if cls in _filled:
        return
    _filled.add(cls)
    attributes, registered, members = state
    for name, value in attributes.items():
        if name != "__firstlineno__":  # setting anything else takes it away
            type.__setattr__(cls, name, value)
    if "__firstlineno__" in attributes:
        type.__setattr__(cls, "__firstlineno__", attributes["__firstlineno__"])
    for other in registered:
        cls.register(other)  # type: ignore[attr-defined]
    for name, of_member in members:
        vars(cls.__members__[name]).update(of_member)  # type: ignore[attr-defined]


def new_enum(
    key: str,
    meta: Any,
    name: str,
    qualname: str,
    module: str,
    bases: tuple[type, ...],
    base: Any,
    boundary: Any,
    members: tuple[tuple[str, tuple[Any, ...], Any], ...],
) -> type:
    """Return an enum with its members, but not their attributes.

    Args:
        key: As of `new_class`.
        meta: Its metaclass.
        name: Its name.
        qualname: Its qualified name.
        module: The module that defines it.
        bases: What it is derived from.
        base: The built-in class that its members are instances of.
        boundary: What a flag does with bits that it has no member for; None if it is no flag.
        members: Name, what the built-in base is made from, and value of each, aliases among them.
    """
    found = _classes.get(key) if key else None
    if found is not None:
        return found

    def new(cls: Any, *args: Any) -> Any:
        index = args[0][0] if isinstance(args[0], tuple) else args[0]
        _, made_from, value = members[index]
        made = base.__new__(cls, *made_from)
        made._value_ = value
        return made

    kwargs = {} if boundary is None else {"boundary": boundary}
    with _Quiet(bases):
        namespace = meta.__prepare__(name, bases, **kwargs)
        # `enum` calls these for each member; what those of the class did is in the attributes of the members already.
        namespace["__new__"] = new
        namespace["__init__"] = lambda self, *_: None
        for index, (member_name, _, _) in enumerate(members):
            namespace[member_name] = index
        namespace["__module__"] = name_here(module)
        namespace["__qualname__"] = qualname
        found = enum.EnumMeta.__new__(meta, name, bases, namespace, **kwargs)
    made: type = found
    for own in ("__init__", "__new_member__"):
        if own in vars(found):
            type.__delattr__(found, own)
    if key:
        _classes[key] = made
        _key_of[made] = key
    return made


# --- what libraries make ---------------------------------------------------------------------------------------------


def bare(cls: type) -> Any:
    """Return an instance of which `__init__` was not called."""
    return object.__new__(cls)


def set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Give an object attributes, whether these are slots or not, and whatever it says to that."""
    for name, value in attributes.items():
        object.__setattr__(obj, name, value)


def module(name: str) -> types.ModuleType:
    """Return a module of the script."""
    return module_here(name)


def cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    """Return a function under `functools.lru_cache`, with nothing in the cache."""
    return functools.lru_cache(maxsize, typed)(function)


def cached_property(function: Any, name: str | None) -> Any:
    """Return a `functools.cached_property`."""
    found: Any = functools.cached_property(function)
    found.attrname = name
    return found


def dispatching(function: Any) -> Any:
    """Return a function under `functools.singledispatch`."""
    return functools.singledispatch(function)


def fill_dispatching(function: Any, state: tuple[tuple[tuple[type, Any], ...], dict[str, Any]]) -> None:
    """Register what a function under `functools.singledispatch` calls, and give it its attributes."""
    registered, attributes = state
    for cls, implementation in registered:
        function.register(cls, implementation)
    function.__dict__.update(attributes)


def new_type(name: str, supertype: Any, module: str) -> Any:
    """Return a `typing.NewType`."""
    make: Any = typing.NewType
    found = make(name, supertype)
    found.__module__ = name_here(module)
    return found


def type_parameter(kind: str, name: str, module: str, keywords: dict[str, Any]) -> Any:
    """Return a `ParamSpec`, a `TypeVarTuple` or a `TypeAliasType` of `typing`."""
    found = getattr(typing, kind)(name, **keywords)
    try:
        found.__module__ = name_here(module)
    except AttributeError:
        pass  # that of an alias cannot be set
    return found


def context_variable(name: str, default: tuple[Any, ...]) -> Any:
    """Return a `ContextVar`.

    Args:
        name: Its name.
        default: Its default, if it has one.
    """
    return ContextVar(name, default=default[0]) if default else ContextVar(name)

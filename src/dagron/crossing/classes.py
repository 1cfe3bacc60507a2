"""What a class consists of, for a pickle that has it by value, and what its instances have of their own."""

from __future__ import annotations

import abc
import enum
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any

from dagron.crossing.names import called
from dagron.crossing.parts import annotations_of
from dagron.stored.classes import bare, bare_exception, fill_class, new_class, new_enum, set_attributes
from dagron.stored.names import row

__all__ = [
    "METACLASSES",
    "answers_for_attributes",
    "attributes_of",
    "has_state",
    "is_heap_type",
    "is_plain_exception",
    "is_row",
    "reduced_class",
    "reduced_exception",
    "reduced_instance",
    "reduced_row",
    "reduces_itself",
    "registered_elsewhere",
]

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


METACLASSES = (type, abc.ABCMeta, enum.EnumMeta, typing._ProtocolMeta, type(_SomeTypedDict))


def is_heap_type(cls: type) -> bool:
    """Tell whether a class was made by Python code."""
    return bool(cls.__flags__ & 1 << 9)  # Py_TPFLAGS_HEAPTYPE


_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__


def reduces_itself(cls: Any) -> bool:
    """Tell whether a class says how its instances are pickled."""
    return cls.__reduce_ex__ is not _REDUCE_EX or cls.__reduce__ is not _REDUCE


def reduced_class(cls: type, key: str) -> Any:
    """Return what a class is reduced to: its bases, and its attributes.

    Args:
        cls: The class; the first of its metaclass's bases that is none of the script's is one of `METACLASSES`.
        key: What tells it from others if it has no name; else empty.
    """
    named = key, type(cls), cls.__name__, cls.__qualname__, called(cls.__module__), cls.__bases__
    attributes = dict(_attributes_of_class(cls))
    registered: tuple[Any, ...] = ()
    if "_abc_impl" in vars(cls):
        registered = tuple(_registered_with(cls))
    if isinstance(cls, enum.EnumMeta):
        return _reduced_enum(cls, named, attributes, registered)
    slots = None
    if "__slots__" in vars(cls):
        descriptors = [
            name
            for name, value in vars(cls).items()
            if (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls)
            or (name in ("__dict__", "__weakref__") and isinstance(value, types.GetSetDescriptorType))
        ]
        slots = tuple(sorted(descriptors))
    return new_class, (*named, slots), (attributes, registered, ()), None, None, fill_class


def _registered_with(cls: type) -> Iterator[type]:
    for reference in abc._get_dump(cls)[0]:  # type: ignore[attr-defined]
        found = reference()
        if found is not None:
            yield found


def registered_elsewhere(modules: Collection[str]) -> Iterator[tuple[type, type]]:
    """Yield the classes of the script that are registered with abstract classes of others, each behind that one.

    Takes 0.1 ms for the 120 abstract classes that dagron loads.

    Args:
        modules: The names of the script's modules.
    """
    met: dict[int, type] = {}
    bases: list[Any] = [object]
    for base in bases:  # it grows meanwhile
        for cls in type.__subclasses__(base):
            if isinstance(cls, abc.ABCMeta) and id(cls) not in met:
                met[id(cls)] = cls
                bases.append(cls)
                if cls.__module__ not in modules:
                    for registered in _registered_with(cls):
                        if registered.__module__ in modules:
                            yield cls, registered


def _reduced_enum(cls: Any, named: tuple[Any, ...], attributes: dict[str, Any], registered: tuple[Any, ...]) -> Any:
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
    made = new_enum, (*named, base, boundary, members)
    return *made, (attributes, registered, of_members), None, None, fill_class


def _made_from(base: Any, member: Any) -> tuple[Any, ...]:
    if base is object:
        return ()
    if hasattr(base, "__getnewargs__"):
        return tuple(base.__getnewargs__(member))
    return tuple(base.__reduce__(member)[1])


def _attributes_of_class(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        if name in _NO_STATE or (isinstance(value, types.MemberDescriptorType) and value.__objclass__ is cls):
            continue
        if name == "__slots__" and not isinstance(value, (str, tuple, list, dict)):
            continue  # an iterator that is used up
        yield name, tuple(sorted(value)) if name == "__static_attributes__" else value
    if "__annotations__" not in vars(cls) and "__annotate_func__" in vars(cls):
        yield "__annotations__", dict(annotations_of(cls))


# --- instances --------------------------------------------------------------------------------------------------------


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


def is_row(obj: Any) -> bool:
    """Tell whether an object is a named tuple."""
    return isinstance(obj, tuple) and type(getattr(obj, "_fields", None)) is tuple


def reduced_row(obj: Any) -> Any:
    """Return what a named tuple is reduced to: values and their names, so that these may get another order."""
    cls = type(obj)
    plain = not reduces_itself(cls) and not getattr(obj, "__dict__", None)
    return (row, (cls, cls._fields, tuple(obj))) if plain else NotImplemented


_HOOKS = ("__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")


def answers_for_attributes(cls: Any) -> bool:
    """Tell whether code of a class answers for attributes that its instances lack, and none says how to pickle these.

    pickle asks an instance for `__setstate__` before it has any attribute. So what hands all questions on to an
    attribute would ask itself for that without end.
    """
    answers = hasattr(cls, "__getattr__") or cls.__getattribute__ not in _FOUND_BY
    return answers and not reduces_itself(cls) and not any(_own(cls, name) for name in _HOOKS)


_FOUND_BY = {object.__getattribute__, dict.__getattribute__, list.__getattribute__}


def _own(cls: type, name: str) -> bool:
    return any(name in vars(base) for base in cls.__mro__ if is_heap_type(base))


def reduced_instance(obj: Any) -> Any:
    """Return what an instance is reduced to, so that nothing is asked of it before it is whole."""
    cls = type(obj)
    builtin = next(base for base in cls.__mro__ if not is_heap_type(base))
    if builtin not in (object, dict, list) or not (attributes := attributes_of(obj)):
        return NotImplemented
    items = iter(list.__iter__(obj)) if builtin is list else None
    pairs = iter(dict.items(obj)) if builtin is dict else None
    return bare, (cls,), attributes, items, pairs, set_attributes


_SIZE_OF_EXCEPTION = BaseException.__basicsize__


def is_plain_exception(cls: Any) -> bool:
    """Tell whether an exception is made in its own way, but has nothing but its arguments and attributes.

    pickle would call its class with the arguments that it handed on to `Exception`, which often are others.
    """
    return (
        cls.__reduce__ is BaseException.__reduce__
        and cls.__reduce_ex__ is _REDUCE_EX
        and any(_own(cls, name) for name in ("__init__", "__new__", "__slots__"))
        and next(base for base in cls.__mro__ if not is_heap_type(base)).__basicsize__ == _SIZE_OF_EXCEPTION
        and not any(_own(cls, name) for name in _HOOKS)
    )


def reduced_exception(error: BaseException) -> Any:
    """Return what such an exception is reduced to: its arguments and its attributes."""
    made = bare_exception, (type(error), error.args)
    attributes = attributes_of(error)
    return (*made, attributes, None, None, set_attributes) if attributes else made


def attributes_of(obj: Any) -> dict[str, Any]:
    """Return all attributes of an instance, also those in slots."""
    found = dict(getattr(obj, "__dict__", {}))
    for cls in type(obj).__mro__:
        for name, value in vars(cls).items():
            if isinstance(value, types.MemberDescriptorType):
                try:
                    found[name] = value.__get__(obj, cls)  # not `getattr`, which the class may answer
                except AttributeError:
                    continue
    return found

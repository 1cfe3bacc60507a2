"""Classes by value, and what is done to their instances. Frozen."""

from __future__ import annotations

import abc
import enum
import weakref
from typing import Any

from dagron.script import name_here
from dagron.shapes import ByClass, is_of_script

__all__ = [
    "bare",
    "bare_exception",
    "fill_class",
    "known_class",
    "known_key",
    "new_class",
    "new_enum",
    "set_attributes",
]

_classes: weakref.WeakValueDictionary[str, type] = weakref.WeakValueDictionary()
"""Classes that have no name in the script, by the digest of their definition."""


_key_of = ByClass[str]()

_filled = ByClass[bool]()


def known_class(key: str, cls: type) -> None:
    """Let the class of this process be the one that pickles with this key mean."""
    _classes[key] = cls  # the newest: a notebook may have made one again
    _key_of.put(cls, key)
    _filled.put(cls, True)


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


def _known(key: str, bases: tuple[type, ...]) -> type | None:
    """Return the class with a key, unless a base of it has been defined anew, in a notebook for instance."""
    found = _classes.get(key) if key else None
    return found if found is not None and found.__bases__ == bases else None


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
    found = _known(key, bases)
    if found is None:
        namespace: dict[str, Any] = {"__module__": name_here(module), "__qualname__": qualname}
        if slots is not None:
            namespace["__slots__"] = slots
        with _Quiet(bases):
            found = _of_library(meta).__new__(meta, name, bases, namespace)
        if key:
            _classes[key] = found
            _key_of.put(found, key)
    return found


def fill_class(cls: type, state: tuple[dict[str, Any], tuple[type, ...], tuple[Any, ...]]) -> None:
    """Give a class its attributes.

    Args:
        cls: As from `new_class` or `new_enum`.
        state: Attributes by name; what is registered as its subclasses; for an enum, the attributes of each member.
    """
    if _filled.get(cls):
        return
    _filled.put(cls, True)
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
    found = _known(key, bases)
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
        _key_of.put(made, key)
    return made


def bare(cls: type) -> Any:
    """Return an instance of which neither `__new__` nor `__init__` of its class was called."""
    builtin: Any = next(base for base in cls.__mro__ if base in (dict, list, object))
    return builtin.__new__(cls)


def bare_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Return an exception of which neither `__new__` nor `__init__` of its class was called."""
    return BaseException.__new__(cls, *args)


def set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Give an object attributes, whether these are slots or not, and whatever it says to that."""
    for name, value in attributes.items():
        object.__setattr__(obj, name, value)

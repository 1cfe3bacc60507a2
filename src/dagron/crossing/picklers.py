"""The picklers: what is defined in the user's script travels by value. Public hooks of pickle and cloudpickle only.

What is defined in `__main__` travels by value, because a worker does not import the script again. For classes this
alone would not do: the coordinator has the class already, and an instance must come back as an instance of that very
class. So such a class is written as "look it up in `__main__`, else take this by-value copy" (`find_class`). In a
worker, where `__main__` is ours, the classes that a task brings are put there (`adopt_class`), so that results of other
nodes, also those of earlier runs, meet the class that the task knows.
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import cloudpickle

from dagron.crossing.parts import annotations_of
from dagron.stored import ADOPTED, class_here, find_class, is_by_value, restore_state, unpickled_class

__all__ = [
    "PROTOCOL",
    "ByValuePickler",
    "CallablePickler",
    "PlainPickler",
    "Writable",
    "adopt_class",
    "dumps",
    "forget_classes",
    "named_code",
    "send_by_value",
    "sent_by_value",
]

PROTOCOL = 5
"""The newest that every supported Python reads."""

_copies: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
_copies_for_tasks: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()


def send_by_value(module: types.ModuleType) -> None:
    """Have what a module defines travel by value from now on, as what a script defines does."""
    cloudpickle.register_pickle_by_value(module)


def sent_by_value(module_name: str) -> bool:
    """Tell whether somebody has asked that what a module defines travels by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module_name == name or module_name.startswith(f"{name}.") for name in registered)


def forget_classes() -> None:
    """Pickle classes anew from now on: one may have changed, in a notebook for instance."""
    _copies.clear()
    _copies_for_tasks.clear()


class Writable(Protocol):
    """What a pickler writes to."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


def adopt_class(module_name: str, qualname: str, copy: bytes) -> type:
    """Return the by-value copy of a class and make it the one that `find_class` finds here. Named by pickled tasks."""
    own = class_here(module_name, qualname)
    if own is not None and own is not ADOPTED.get(qualname):
        return unpickled_class(qualname, copy)  # no worker: this is the process that defines it
    cls = ADOPTED[qualname] = unpickled_class(qualname, copy)
    if "." not in qualname:
        # For what the task itself pickles by reference, to processes that it starts.
        setattr(sys.modules["__main__"], qualname, cls)
    return cls


def _reduce_class(cls: type, rebuild: Callable[[str, str, bytes], type]) -> Any:
    if not is_by_value(cls) or "<locals>" in cls.__qualname__:
        return NotImplemented
    copies = _copies if rebuild is find_class else _copies_for_tasks
    copy = copies.get(cls)
    if copy is None:
        # A result does not know where the script lies, so that its bytes are the same wherever that is.
        copy = dumps(_Pickler, cls) if rebuild is find_class else dumps(_ClassPickler, cls)
        copies[cls] = copy
    return rebuild, (cls.__module__, cls.__qualname__, copy)


def _reduce_instance(obj: Any) -> Any:
    cls = type(obj)
    if hasattr(cls, "__setstate__") or not any(
        "__slots__" in base.__dict__ and is_by_value(base) for base in cls.__mro__
    ):
        return NotImplemented
    reduced = obj.__reduce_ex__(PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or reduced[2] is None:
        return NotImplemented
    return *(*reduced, None, None)[:5], restore_state


def _annotated_with_texts(function: types.FunctionType) -> types.FunctionType:
    code, values, name = function.__code__, function.__globals__, function.__name__
    twin = types.FunctionType(code, values, name, function.__defaults__, function.__closure__)
    functools.update_wrapper(twin, function, ("__module__", "__qualname__", "__doc__"))
    del twin.__wrapped__  # type: ignore[attr-defined]
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, annotations_of(function)
    return twin


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, which also takes functions whose annotations cannot be evaluated, as Python does since 3.14."""

    def reducer_override(self, obj: Any) -> Any:
        try:
            return super().reducer_override(obj)
        except Exception:
            if type(obj) is not types.FunctionType:
                raise
            # The twin stands in for its reduction only; that of a function which had another reason raises again.
            return super().reducer_override(_annotated_with_texts(obj))


class PlainPickler(pickle.Pickler):
    """Pickles a result; quick, and no match for functions of a script and whatever else plain pickle refuses."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce a class or an instance of the script in a way of our own, or leave an object to pickle."""
        if isinstance(obj, type):
            return _reduce_class(obj, find_class)
        if is_by_value(type(obj)):
            return _reduce_instance(obj)
        if type(obj) is types.FunctionType and is_by_value(obj):
            # By reference it would load in this script only.
            raise pickle.PicklingError("a function of __main__")
        return NotImplemented


class ByValuePickler(_Pickler):
    """Pickles results and exceptions; nearly everything."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce a class or an instance of the script in a way of our own, or leave an object to cloudpickle."""
        if isinstance(obj, type):
            reduced = _reduce_class(obj, self._rebuild())
            if reduced is not NotImplemented:
                return reduced
        elif is_by_value(type(obj)):
            reduced = _reduce_instance(obj)
            if reduced is not NotImplemented:
                return reduced
        return super().reducer_override(obj)

    @staticmethod
    def _rebuild() -> Callable[[str, str, bytes], type]:
        return find_class


_NO_FILE = "<dynamic-code>"
"""What cloudpickle writes for the file of any code, since 3.1.2; tracebacks would show neither file nor source."""


def named_code(code: types.CodeType, file_name: str) -> types.CodeType:
    """Return code that knows the file that it is from. Named by pickled tasks."""
    return code.replace(co_filename=file_name)


def _reduce_code(code: types.CodeType) -> Any:
    if code.co_filename == _NO_FILE:
        return NotImplemented
    return named_code, (code.replace(co_filename=_NO_FILE), code.co_filename)


class _KeepsFiles:
    """Keeps the files that code is from."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce code in a way of our own, or leave an object to the pickler."""
        if type(obj) is types.CodeType and (reduced := _reduce_code(obj)) is not NotImplemented:
            return reduced
        return super().reducer_override(obj)  # type: ignore[misc]


class _ClassPickler(_KeepsFiles, _Pickler):
    """Pickles the by-value copy of a class that a task needs."""


class CallablePickler(_KeepsFiles, ByValuePickler):
    """Pickles what a task is made of; its classes become those of the worker, and its code knows its file."""

    @staticmethod
    def _rebuild() -> Callable[[str, str, bytes], type]:
        return adopt_class


class _Pieces:
    """The smallest file that a pickler accepts."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(bytes(data))


def dumps(pickler: Callable[[Writable, int], Any], obj: Any) -> bytes:
    """Return an object as bytes."""
    out = _Pieces()
    pickler(out, PROTOCOL).dump(obj)
    return b"".join(out.pieces)

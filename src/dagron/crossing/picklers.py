"""The picklers: of tasks and of results. What the script defines they refer to by name.

A task refers to a name of the script as it is in this run; the table says what that means. A result may be read by a
later run, so it also says which shape a class had.
"""

from __future__ import annotations

import copyreg
import enum
import pickle
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dagron.crossing.classes import (
    answers_for_attributes,
    has_state,
    is_heap_type,
    is_plain_exception,
    is_row,
    reduced_exception,
    reduced_instance,
    reduced_row,
    reduces_itself,
)
from dagron.crossing.definitions import PROTOCOL, DefinitionPickler
from dagron.crossing.names import IDENTITIES, Names, module_found
from dagron.script import is_script, membership
from dagron.shapes import shape_of
from dagron.stored.names import member, of_script, script_value

if TYPE_CHECKING:
    from dagron.crossing.table import Table

__all__ = [
    "PROTOCOL",
    "CallablePickler",
    "PlainPickler",
    "ResultPickler",
    "WholePickler",
    "Writable",
    "dumps",
]


class Writable(Protocol):
    """What a pickler writes to."""

    def write(self, data: bytes, /) -> object:
        """Take some bytes."""


# --- results ---------------------------------------------------------------------------------------------------------


def _reference(module: str, path: str, obj: Any) -> Any:
    return of_script, (module, path, shape_of(obj) if isinstance(obj, type) else None)


def _reduce_member(found: enum.Enum) -> Any:
    cls = type(found)
    if cls.__reduce_ex__ is not enum.Enum.__reduce_ex__ or not is_script(cls.__module__):
        return NotImplemented
    if isinstance(found, enum.Flag) and found._name_ not in cls.__members__:
        return member, (cls, found._value_, tuple((one._name_, one._value_) for one in found))
    return member, (cls, found._value_, ((found._name_, found._value_),))


class PlainPickler(pickle.Pickler):
    """Pickles a result; quick, and no match for functions without a name and whatever else plain pickle refuses.

    Attributes:
        references: What classes of the script were reduced to, by the id of each: metaclasses may call two equal.
    """

    def __init__(self, file: Any, protocol: int, buffer_callback: Any = None) -> None:
        super().__init__(file, protocol, buffer_callback=buffer_callback)
        self.references: dict[int, Any] = {}
        self._names: Names | None = None
        self._is_script = membership()
        self._reduces: dict[type, bool] = {}
        self._guarded: set[type] = set()
        self._slotted: set[type] = set()  # instances have a state; to look at each takes as long as to pickle it

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what the script defines in a way of our own, or leave an object to pickle."""
        kind = type(obj)
        if self._is_script(kind.__module__):
            if isinstance(obj, enum.Enum):
                return _reduce_member(obj)
            if isinstance(obj, type):
                return self._named(obj)
            if is_row(obj):
                return reduced_row(obj)
            reduces = self._reduces.get(kind)
            if reduces is None:
                reduces = self._reduces[kind] = reduces_itself(kind) and kind not in copyreg.dispatch_table
                if answers_for_attributes(kind) and kind not in copyreg.dispatch_table:
                    self._guarded.add(kind)
                if any(isinstance(held, types.MemberDescriptorType) for c in kind.__mro__ for held in vars(c).values()):
                    self._slotted.add(kind)
            if reduces or (kind not in self._slotted and not (getattr(obj, "__dict__", None) or has_state(obj))):
                raise pickle.PicklingError("it may have a name")
            return reduced_instance(obj) if kind in self._guarded else NotImplemented
        if isinstance(obj, type):
            module = obj.__module__
            if not self._is_script(module) and (not is_heap_type(obj) or module_found(module, obj.__qualname__) is obj):
                return NotImplemented
            return self._named(obj)
        if kind in IDENTITIES or (kind is types.FunctionType and self._is_script(obj.__module__)):
            raise pickle.PicklingError("it may have a name")
        if isinstance(obj, BaseException) and kind not in copyreg.dispatch_table and is_plain_exception(kind):
            return reduced_exception(obj)
        return NotImplemented

    def _named(self, cls: type) -> Any:
        if self._names is None:
            self._names = Names()
        found = self._names.of(cls)
        if found is None:
            raise pickle.PicklingError("a class without a name")
        reduced = self.references[id(cls)] = _reference(*found, cls)
        return reduced


class ResultPickler(DefinitionPickler):
    """Pickles results and exceptions; nearly everything.

    Attributes:
        references: As of `PlainPickler`; it looks each up once more.
    """

    references: Mapping[int, Any] = types.MappingProxyType({})

    def reference(self, module: str, path: str, obj: Any) -> Any:
        """Refer to a name, and say which shape it has."""
        return _reference(module, path, obj)

    def reducer_override(self, obj: Any) -> Any:
        """Reduce a member of an enum in a way of its own, or leave an object to the pickler of definitions."""
        if isinstance(obj, enum.Enum):
            reduced = _reduce_member(obj)
            if reduced is not NotImplemented:
                return reduced
        return super().reducer_override(obj)


# --- tasks -----------------------------------------------------------------------------------------------------------


_ALIKE = frozenset({str, bytes, tuple, type, types.CodeType, types.ModuleType, types.BuiltinFunctionType})


class CallablePickler(DefinitionPickler):
    """Pickles what a task is made of, and tells the table what that needs."""

    keeps_files = True

    def __init__(self, file: Any, protocol: int, table: Table) -> None:
        super().__init__(file, protocol, names=table.names)
        self._table = table

    def travels(self, module: str) -> bool:
        """Tell whether workers have a module by the table only."""
        return self.names.travels(module)

    def reference(self, module: str, path: str, obj: Any) -> Any:
        """Refer to a name, and let the table have it."""
        self._table.need(module, path.partition(".")[0])
        return script_value, (module, path)

    def needs(self, module: str, code: types.CodeType) -> None:
        """Let the table have what code looks for."""
        self._table.need_code(module, code)

    def told_apart(self) -> dict[int, Any]:
        """Return what was pickled that could be told from a copy, by id: all but texts, tuples, code and so on."""
        memo = {
            key: obj
            for key, (_, obj) in self.memo.copy().items()
            if type(obj) not in _ALIKE and key not in self._by_name and not isinstance(obj, type)
        }
        return {**memo, **{key: cell for key, (cell, _) in self._places.items()}}


class WholePickler(DefinitionPickler):
    """Pickles a task with all that it uses, to find what of that cannot be pickled."""

    whole = True

    def travels(self, module: str) -> bool:
        """Tell whether workers have a module by the table only."""
        return self.names.travels(module)


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

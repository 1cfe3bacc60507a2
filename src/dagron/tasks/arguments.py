"""The arguments of a node: handles found in them, and holes put where these stood; see `holes`.

For the process that writes a flow. A handle is found as an argument and, at any depth, in lists, tuples, named tuples,
the values of dicts and the fields of dataclasses. It is refused where a result could not take its place, or only late
and with luck: as a key, in a set (equal results would become one, and a result that cannot be hashed would be noticed
after hours), in a closure, a partial or an attribute.

Lists, dicts and sets are copied when they are read, so what the caller does with them afterwards changes no argument.
Other objects stay the caller's, and are pickled when a run starts; so are containers that hold themselves.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterable
from typing import Any

from dagron.errors import HandleError
from dagron.tasks.handle import Node
from dagron.tasks.holding import held_by
from dagron.tasks.holes import ATOMS, Hole, Holed, differ, fields_of, is_named_tuple, rebuilt
from dagron.tasks.nodes import Nodes

__all__ = ["ArgumentReader", "refuse_hidden_handles"]

_CONTAINERS = frozenset({list, tuple, dict, set, frozenset})

_MAX_COPIES = 10_000
"""A list that many nodes have is copied once, so that it also crosses once. The copies of so many lists are remembered.
Never varied: more would keep more lists alive that the caller has long dropped."""

_NOWHERE = (
    "where no result can take its place; give it to `add` or `map` as an argument, "
    "by itself or in lists, tuples, dicts or dataclasses"
)


class ArgumentReader:
    """Reads the arguments of the nodes of one flow.

    Args:
        owner: The mark of its handles.
    """

    def __init__(self, owner: object) -> None:
        self._owner = owner
        self._n_holes = 0
        self._copies: dict[int, tuple[Any, Any]] = {}  # with the original, or its id might become another object's
        self._open: set[int] = set()
        self._holds_itself = False

    def read(self, argument: Any, parents: dict[str, int]) -> Any:
        """Return an argument with holes where handles stood, as `CallWithHoles` takes it.

        Args:
            argument: What the caller gave.
            parents: The names of the parents and their positions so far; those that are found are added.

        Raises:
            HandleError: A handle is another flow's, or stands where no result can take its place.
        """
        if type(argument) in ATOMS:
            return argument
        before = self._n_holes
        self._holds_itself = False
        found = self._read(argument, parents)
        if self._holds_itself:
            if self._n_holes > before:
                raise HandleError(next(reversed(parents)), f"stands in what holds itself, {_NOWHERE}")
            return argument
        return Holed(found) if self._n_holes > before and type(found) is not Hole else found

    def _read(self, value: Any, parents: dict[str, int]) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is Node:
            if not value.belongs_to(self._owner):
                raise HandleError(value.name, "is of another flow; add both nodes to one flow")
            self._n_holes += 1
            return Hole(parents.setdefault(value.name, len(parents)))
        if kind is Nodes:
            return self._items(value, parents)
        if id(value) in self._open:
            self._holds_itself = True
            return value
        fields = fields_of(kind)
        if not fields and kind not in _CONTAINERS and not is_named_tuple(kind):
            refuse_hidden_handles(value)
            return value
        self._open.add(id(value))
        try:
            return self._read_container(value, kind, fields, parents)
        finally:
            self._open.discard(id(value))

    def _read_container(self, value: Any, kind: type, fields: tuple[str, ...], parents: dict[str, int]) -> Any:
        before = self._n_holes
        if kind in (set, frozenset):
            _refuse_in(value, "in a set")
            return value if kind is frozenset else self._copied(value, set(value))
        if kind is list:
            return self._copied(value, self._items(value, parents), holed_since=before)
        if kind is dict:
            _refuse_in(value, "as a key of a dict")
            items = self._items(value.values(), parents)
            return self._copied(value, dict(zip(value, items, strict=True)), holed_since=before)
        if fields:
            items = self._items([getattr(value, field, None) for field in fields], parents)
            return rebuilt(value, items) if self._n_holes > before else value
        return rebuilt(value, self._items(value, parents))

    def _items(self, values: Any, parents: dict[str, int]) -> list[Any]:
        if set(map(type, values)) <= ATOMS:  # a tenth of the time, where there are many
            return list(values)
        return [self._read(value, parents) for value in values]

    def _copied(self, value: Any, new: Any, holed_since: int | None = None) -> Any:
        """Return the copy of a container that another node has already, if that is the same; else `new`."""
        if holed_since is not None and self._n_holes > holed_since:
            return new
        known = self._copies.get(id(value))
        if known is not None and known[0] is value and _same(known[1], new):
            return known[1]
        if len(self._copies) >= _MAX_COPIES:
            self._copies.clear()
        self._copies[id(value)] = value, new
        return new


def _same(old: Any, new: Any) -> bool:
    # By identity: comparing items might take long, and some cannot be compared.
    if len(old) != len(new) or differ(old, new):
        return False
    return type(old) is not dict or not differ(old.values(), new.values())


def _refuse_in(values: Iterable[Any], where: str) -> None:
    for value in values:
        _refuse(value, where)
        if isinstance(value, (tuple, frozenset)):
            _refuse_in(value, where)


def refuse_hidden_handles(obj: Any) -> None:
    """Look one level deep for handles that an object holds. Those deeper inside are found when it is pickled.

    Partials and methods are no level: what they call is looked at, too.

    Raises:
        HandleError: It holds one.
    """
    if isinstance(obj, (list, tuple, set, frozenset, dict, deque)):  # of classes that are not looked through
        for value in obj.values() if isinstance(obj, dict) else obj:
            _refuse(value, f"in an object of the class {type(obj).__name__!r}")
    for where, value in held_by(obj):
        _refuse(value, f"at {where}")
    if isinstance(obj, functools.partial):
        refuse_hidden_handles(obj.func)
    elif isinstance(obj, types.MethodType):
        refuse_hidden_handles(obj.__self__)


def _refuse(value: Any, where: str) -> None:
    if type(value) is Nodes and value:
        value = value[0]
    if type(value) is Node:
        raise HandleError(value.name, f"stands {where}, {_NOWHERE}")

"""The handles of nodes that were added together, found again by the items that each was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, final, overload

from dagron.errors import UnknownNodeError
from dagron.tasks.handle import Node

__all__ = ["Nodes", "shown_row"]

T_co = TypeVar("T_co", covariant=True)

_MAX_SHOWN = 6
"""Items that a message or a text lists: one of a usual length fits on a line with its axis."""


@final
class Nodes(Sequence[Node[T_co]]):
    """The handles that `Flow.product` returns, or `Flow.map` with items by keyword: a sequence in their order.

    `nodes.at(C=1, gamma=0.1)` is the handle of the node with these items. As an argument of a node, also inside of
    lists and dicts, all of it stands for the list of the results. `result.values(nodes)` is that list.
    """

    __slots__ = ("_axes", "_columns", "_nodes", "_places")

    def __init__(self, nodes: Sequence[Node[T_co]], columns: Mapping[str, Sequence[Any]]) -> None:
        self._nodes = list(nodes)
        self._columns = {axis: list(column) for axis, column in columns.items()}
        # Made when they are first needed: most programs only hand the nodes on.
        self._axes: dict[str, _Axis] = {}
        self._places: dict[tuple[int, ...], list[int]] | None = None

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The items by keyword: of each axis those that occur, in their order and without repetitions."""
        return {axis: list(self._axis(axis).items) for axis in self._columns}

    def at(self, **items: Any) -> Any:
        """Return the handle of the node with these items; for some of the keywords, the `Nodes` that have these.

        An item is found if it is the one that was given, or equal to it: 1 finds 1.0, where there is no 1. The keywords
        decide which of the two comes back, not how many nodes there are; a type checker cannot know, and sees `Any`.

        Args:
            items: By keyword, as they were given to `product` or `map`.

        Raises:
            UnknownNodeError: There is no such axis, no such item, or no node that has all of these items.
        """
        codes = {axis: self._axis(axis, item).code_of(item) for axis, item in items.items()}
        if len(codes) < len(self._columns):
            given = [(self._axis(axis).codes, code) for axis, code in codes.items()]
            found = [i for i in range(len(self._nodes)) if all(column[i] == code for column, code in given)]
        else:
            found = self._found().get(tuple(codes[axis] for axis in self._columns), [])
        if not found:
            raise UnknownNodeError(shown_row(list(items), list(items.values())), "no node has all of these items")
        if len(codes) == len(self._columns) and len(found) == 1:
            return self._nodes[found[0]]
        left = {axis: column for axis, column in self._columns.items() if axis not in items}
        return self._part(found, left or self._columns)

    def items(self) -> Iterator[tuple[dict[str, Any], Node[T_co]]]:
        """Yield each node behind the items that it was given, by keyword."""
        axes = tuple(self._columns)
        for node, *row in zip(self._nodes, *self._columns.values(), strict=True):
            yield dict(zip(axes, row, strict=True)), node

    @overload
    def __getitem__(self, index: int) -> Node[T_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Nodes[T_co]: ...
    def __getitem__(self, index: int | slice) -> Node[T_co] | Nodes[T_co]:
        if isinstance(index, slice):
            return self._part(range(len(self._nodes))[index], self._columns)
        return self._nodes[index]

    def __iter__(self) -> Iterator[Node[T_co]]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        axes = ", ".join(f"{axis}={_shown(items)}" for axis, items in self.axes.items())
        return f"Nodes({len(self._nodes)}: {axes})"

    def _part(self, places: Iterable[int], columns: Mapping[str, Sequence[Any]]) -> Nodes[T_co]:
        places = list(places)
        return Nodes(
            [self._nodes[i] for i in places],
            {axis: [column[i] for i in places] for axis, column in columns.items()},
        )

    def _axis(self, name: str, item: object = None) -> _Axis:
        found = self._axes.get(name)
        if found is None:
            column = self._columns.get(name)
            if column is None:
                raise UnknownNodeError(
                    shown_row([name], [item]), f"there are no items {name!r}, but {', '.join(self._columns)}"
                )
            found = self._axes[name] = _Axis(name, column)
        return found

    def _found(self) -> dict[tuple[int, ...], list[int]]:
        if self._places is None:
            self._places = {}
            for i, codes in enumerate(zip(*(self._axis(axis).codes for axis in self._columns), strict=True)):
                self._places.setdefault(codes, []).append(i)
        return self._places


class _Axis:
    """The different items of one keyword.

    Attributes:
        items: Each once.
        codes: For each node, which of these it was given.
    """

    def __init__(self, name: str, column: Sequence[Any]) -> None:
        self._name = name
        self.items: list[Any] = []
        self.codes: list[int] = []
        self._codes: dict[Any, int] = {}
        for item in column:
            key = _key(item)
            code = self._codes.setdefault(key, len(self.items))
            if code == len(self.items):
                self.items.append(item)
            self.codes.append(code)

    def code_of(self, item: Any) -> int:
        found = self._codes.get(_key(item))
        if found is not None:
            return found
        equal = [code for code, other in enumerate(self.items) if _are_equal(other, item)]
        if len(equal) != 1:
            what = f"several items of {self._name} are equal to it" if equal else f"{self._name} is one of"
            raise UnknownNodeError(shown_row([self._name], [item]), f"{what} {_shown(self.items)}")
        return equal[0]


def _key(item: Any) -> Any:
    # 1, 1.0 and True are equal, and three items.
    try:
        hash(item)
    except TypeError:
        return _ById(item)
    return type(item), item


class _ById:
    """Stands for an item that cannot be hashed; keeps it, or its id might become another object's."""

    __slots__ = ("_item",)

    def __init__(self, item: Any) -> None:
        self._item = item

    def __hash__(self) -> int:
        return id(self._item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other._item is self._item


def _are_equal(item: Any, other: Any) -> bool:
    try:
        return bool(item == other)
    except Exception:
        return False  # as with arrays, of which an item is found by itself


def _shown(items: Sequence[Any]) -> str:
    shown = [_short(item) for item in items[:_MAX_SHOWN]]
    if len(items) > _MAX_SHOWN:
        shown.append(f"... {len(items) - _MAX_SHOWN} more")
    return f"[{', '.join(shown)}]"


def shown_row(axes: Sequence[str], row: Sequence[Any], *, with_types: bool = False) -> str:
    """Return items with their keywords, for a message.

    Args:
        axes: The keywords.
        row: The items.
        with_types: Whether numbers of numpy are shown as such, so that they can be told from others.
    """
    return ", ".join(f"{axis}={_short(item, with_types=with_types)}" for axis, item in zip(axes, row, strict=True))


def _short(item: Any, *, with_types: bool = False) -> str:
    if isinstance(item, Node):
        return item.name
    is_number = type(item).__module__ == "numpy" and getattr(item, "shape", None) == ()
    try:
        text = str(item) if is_number and not with_types else repr(item)
    except Exception:
        text = f"<{type(item).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."

"""Items by keyword: which keywords of `Flow.product` or `Flow.map` have items, their combinations, and what those name.

The name decides: a keyword that it mentions has an item for each node, and every other is the same for all. So no two
nodes can have one name because something that tells them apart does not stand in it, and no list that is an argument is
taken for several.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from dagron.errors import ArgumentsError, DuplicateNodeError, GraphError, HandleError
from dagron.tasks.handle import Node
from dagron.tasks.holes import ATOMS
from dagron.tasks.names import Named, fields_of, namer_by_keyword, shown_items
from dagron.tasks.nodes import shown_row

__all__ = ["KeywordItems", "is_endless", "mentions", "side_by_side"]

_INDEX = "index"


def mentions(name: str | Callable[..., str], keywords: Collection[str]) -> bool:
    """Tell whether a name mentions one of these keywords."""
    return bool(keywords) and not set(keywords).isdisjoint(fields_of(name))


def side_by_side(*columns: Sequence[Any]) -> Iterable[tuple[Any, ...]]:
    """Return the items of columns row by row.

    Raises:
        GraphError: The columns have different lengths.
    """
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise GraphError(f"the items of map have different lengths: {', '.join(map(str, lengths))}")
    return zip(*columns, strict=True)


def is_endless(iterable: object) -> bool:
    """Tell whether an iterable is known to have no end."""
    return isinstance(iterable, (itertools.count, itertools.cycle)) or (
        isinstance(iterable, itertools.repeat) and operator.length_hint(iterable, -1) < 0
    )


class KeywordItems:
    """The items that the nodes of one call are given by keyword.

    Args:
        method: `product` or `map`, for errors.
        name: What names the nodes.
        keywords: What the call was given.
        options: Those of them that are options of the nodes, if it is said there what these are.
        combine: Makes the rows of the columns.

    Attributes:
        axes: The keywords that have items, in the order in which they are given.
        rows: The items of each node.

    Raises:
        GraphError: The name cannot be filled, or what has the items is no iterable or has no end.
        ArgumentsError: An option is mentioned as if it had items.
        HandleError: It is one node.
        UnstableNameError: An item would be named by its position, and comes from a set.
    """

    def __init__(
        self,
        method: str,
        name: str | Callable[..., str],
        keywords: Mapping[str, Any],
        options: Collection[str],
        combine: Callable[..., Iterable[tuple[Any, ...]]],
    ) -> None:
        self._name = name
        self._combine = combine
        self.axes = _axes(method, name, keywords, options)
        self._columns = {axis: _items(method, axis, keywords[axis]) for axis in self.axes}
        self._unordered = {axis for axis in self.axes if isinstance(keywords[axis], (set, frozenset))}
        self.rows = list(combine(*self._columns.values()))

    def axes_to_read(self) -> list[str]:
        """Return the keywords among whose items there may be handles."""
        return [axis for axis, column in self._columns.items() if not set(map(type, column)) <= ATOMS]

    def names(self) -> Iterator[Named]:
        """Yield what names each node."""
        fill = namer_by_keyword(self._name, self.axes)
        # A function takes the items as they are.
        rows = self._shown_rows(self._name) if isinstance(self._name, str) else self.rows
        return itertools.starmap(fill, enumerate(rows))

    def filled(self, text: str) -> Iterator[str]:
        """Yield a text that mentions items, such as a path, for each node."""
        fill = namer_by_keyword(text, self.axes)
        return (fill(index, row).name for index, row in enumerate(self._shown_rows(text)))

    def _shown_rows(self, text: str) -> Iterable[tuple[Any, ...]]:
        shown = [
            shown_items(text, axis, column, ordered=axis not in self._unordered)
            for axis, column in self._columns.items()
        ]
        return self._combine(*shown)

    def alike(self, name: str, index: int, first: int | None) -> DuplicateNodeError:
        """Return the error for a node whose name is that of another one.

        Args:
            name: The name.
            index: The position of the node.
            first: That of the other one; None if it was added by another call.
        """
        row = self.rows[index]
        if first is None:
            return DuplicateNodeError(name, f"{shown_row(self.axes, row)} has the name of a node that was added before")
        other = self.rows[first]
        differ = [place for place, item in enumerate(row) if item is not other[place]]
        if not differ or all(type(row[i]) is type(other[i]) and _are_equal(row[i], other[i]) for i in differ):
            return DuplicateNodeError(name, f"{shown_row(self.axes, row)} is there twice; {{index}} tells them apart")
        axes = [self.axes[place] for place in differ]
        of_first, of_this = (
            shown_row(axes, [items[place] for place in differ], with_types=True) for items in (other, row)
        )
        reason = f"{of_first} and {of_this} are shown alike"
        return DuplicateNodeError(name, f"{reason}; another format in the name, or {{index}}, tells them apart")

    def columns(self) -> dict[str, list[Any]]:
        """Return the items by keyword, one for each node."""
        return {axis: [row[place] for row in self.rows] for place, axis in enumerate(self.axes)}


def _are_equal(item: Any, other: Any) -> bool:
    try:
        return bool(item == other)
    except Exception:
        return False


def _axes(
    method: str, name: str | Callable[..., str], keywords: Mapping[str, Any], options: Collection[str]
) -> list[str]:
    mentioned = fields_of(name)
    shown = f"the name {name!r}" if isinstance(name, str) else "the function that names the nodes"
    for field in mentioned:
        if field in options:
            reason = f"{shown} mentions {field!r}, which is an option of the node"
            raise ArgumentsError(method, f"{reason}; with a Task as the callable, every keyword goes to the callable")
        if field in keywords and field == _INDEX and isinstance(name, str):
            raise GraphError(f"{{index}} in {shown} is the position of a node; call the keyword differently")
        if field not in keywords and not (field == _INDEX and isinstance(name, str)):
            what = f"{{{field}}}" if field else "a {} without a keyword"
            raise GraphError(f"{shown} mentions {what}, and the keywords are {', '.join(keywords) or 'none'}")
    found = [keyword for keyword in keywords if keyword in mentioned]
    if not found:
        fields = [f"{{{keyword}}}" for keyword in keywords if keyword not in options]
        raise GraphError(
            f"{shown} mentions no keyword, so it would be that of every node; "
            f"a keyword that it mentions has items: put {' or '.join(fields) or '{C}'} where they go"
        )
    for keyword, value in keywords.items():
        if keyword not in mentioned and isinstance(value, Iterator):
            raise GraphError(
                f"{keyword!r} of {method} is an iterator, of which one node would leave nothing for the next; put "
                f"{{{keyword}}} into the name if each node is to get an item, or give a list that all of them get"
            )
    return found


def _items(method: str, axis: str, items: Any) -> list[Any]:
    if isinstance(items, Node):
        raise HandleError(
            items.name, f"is one result, and the items of {axis!r}, which the name mentions, are not known"
        )
    why = f"the name mentions {axis!r}, so {method} takes an item of it for each node, and it"
    if isinstance(items, (str, bytes)):
        raise GraphError(f"{why} is text; put it in a list")
    if not isinstance(items, Iterable) and not hasattr(items, "__getitem__"):
        kind = type(items).__name__
        raise GraphError(f"{why} is no iterable, but a {kind}; put it in a list, or take {{{axis}}} out of the name")
    if is_endless(items):
        raise GraphError(f"{why} has no end")
    return list(items)

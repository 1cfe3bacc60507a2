"""Which nodes are asked for at once, and their values in the same shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dagron.errors import HandleError, OptionError, UnknownNodeError
from dagron.results.patterns import hint_at, matching
from dagron.results.tables import COLUMNS
from dagron.tasks.handle import Node
from dagron.tasks.nodes import Nodes

__all__ = ["names_of", "values_of", "with_items"]


def values_of(nodes: Any, known: Mapping[str, Any], value: Callable[[str | Node[Any]], Any]) -> Any:
    """Return the values of nodes in their shape.

    Args:
        nodes: A pattern, for a dict by name; a mapping whose values are nodes, for a dict by its keys; or an iterable
            of nodes, for a list in its order. What is nested in these has its shape, too.
        known: The names of all nodes, in the order of the DAG.
        value: Returns the value of one node.

    Raises:
        UnknownNodeError: A pattern matches no node.
        HandleError: It is one node.
        OptionError: It is no such thing.
    """
    if isinstance(nodes, Node):
        raise HandleError(nodes.name, "is one node; value(node) returns what it gave")
    if isinstance(nodes, str):
        return {name: value(name) for name in _matching(known, nodes)}
    return _shaped(nodes, value)


def _shaped(nodes: Any, value: Callable[[str | Node[Any]], Any]) -> Any:
    if isinstance(nodes, (str, Node)):
        return value(nodes)
    if isinstance(nodes, Mapping):
        return {key: _shaped(item, value) for key, item in nodes.items()}
    if not isinstance(nodes, Iterable):
        raise OptionError("nodes", repr(nodes)[:80], "handles, names, or lists and dicts of these")
    return [_shaped(item, value) for item in nodes]


def names_of(nodes: str | Iterable[str | Node[Any]] | None, known: Mapping[str, Any]) -> list[str | Node[Any]]:
    """Return the nodes that are meant: those that match a pattern, those of an iterable, or all for None.

    Raises:
        UnknownNodeError: A pattern matches no node.
    """
    if nodes is None:
        return list(known)
    return [*_matching(known, nodes)] if isinstance(nodes, str) else [*nodes]


def _matching(known: Mapping[str, Any], pattern: str) -> list[str]:
    found = matching(known, pattern)
    if not found:
        raise UnknownNodeError(pattern, f"the run had no such node{hint_at(pattern, list(known))}")
    return found


def with_items(nodes: Nodes[Any], rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows about nodes with the items in front that the nodes were given."""
    taken = {*COLUMNS, "value"}
    return [
        {
            **{
                f"{axis}_" if axis in taken else axis: item.name if isinstance(item, Node) else item
                for axis, item in items.items()
            },
            **row,
        }
        for (items, _), row in zip(nodes.items(), rows, strict=True)
    ]

"""The handle of a node: what stands for its result while a flow is written."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar, final

from dagron.errors import HandleError

__all__ = ["Node"]

T_co = TypeVar("T_co", covariant=True)


@final
class Node(Generic[T_co]):
    """Stands for the result of a node, of type `T_co`, while a flow is written. Made by `Flow.add` and `Flow.map`.

    As an argument of another node it is an edge. With it a result is found again: `result[node]`, `result.value(node)`.
    A handle is equal to itself only, has no truth value, and does not leave its process.

    Attributes:
        name: The node's name.
        label: What `map` put into the name to tell the node from its siblings; for a node of `add`, the name.
    """

    __slots__ = ("_owner", "label", "name")

    def __init__(self, name: str, label: str, owner: object) -> None:
        self.name = name
        self.label = label
        self._owner = owner

    def belongs_to(self, owner: object) -> bool:
        """Tell whether the node was added to the flow with this mark."""
        return self._owner is owner

    def __bool__(self) -> NoReturn:
        # It would be true whatever the result is going to be.
        raise HandleError(self.name, "has no truth value: its result is not known yet; compare with None if need be")

    def __copy__(self) -> Node[T_co]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Node[T_co]:
        return self

    def __reduce__(self) -> NoReturn:
        # In a worker it would be an object of no use, and the task would find out late.
        raise HandleError(self.name, "cannot be pickled: it stands for a result only among the arguments of a node")

    def __repr__(self) -> str:
        return f"Node({self.name!r})"

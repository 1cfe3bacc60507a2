"""The handle of a node: what stands for its result while a flow is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, final

from dagron.errors import HandleAttributeError, HandleError

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

    __array_ufunc__ = None  # so that numpy leaves `array + handle` to the handle

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

    if not TYPE_CHECKING:  # a type checker knows that there is no such thing, and says so

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__") or name in self.__slots__:
                raise AttributeError(f"a dagron.Node has no attribute {name!r}")  # who asks wants to know what it is
            raise HandleAttributeError(self.name, f"has no attribute {name!r}{_instead(f'value.{name}')}")

        def __getitem__(self, key: Any) -> NoReturn:
            raise HandleError(self.name, f"has no items{_instead(f'value[{_short(key)}]')}")

        def __iter__(self) -> NoReturn:
            raise HandleError(self.name, f"cannot be iterated over{_instead('value[0]')}, for each item")

        def __contains__(self, item: Any) -> NoReturn:
            raise HandleError(self.name, f"contains nothing{_instead(f'{_short(item)} in value')}")

        def __len__(self) -> NoReturn:
            raise HandleError(self.name, f"has no length{_instead('len(value)')}")

        def __format__(self, spec: str) -> NoReturn:
            text = _instead("f'{value}'")
            raise HandleError(self.name, f"cannot be put into a text{text}; for its name write {{handle.name}}")


def _instead(expression: str) -> str:
    return (
        ": its result is not known while the flow is written; make it a node: "
        f"flow.add('name', lambda value: {expression}, handle)"
    )


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = "..."
    return text if len(text) <= 40 else "..."


def _operator(sign: str, *, is_swapped: bool = False) -> Any:
    def refuse(self: Node[Any], other: Any = None, *_: Any) -> NoReturn:
        shown = "other" if isinstance(other, Node) else _short(other)
        expression = f"{shown} {sign} value" if is_swapped else f"value {sign} {shown}"
        raise HandleError(self.name, f"takes no part in {sign!r}{_instead(expression)}")

    return refuse


def _function(name: str) -> Any:
    def refuse(self: Node[Any], *_: Any) -> NoReturn:
        raise HandleError(self.name, f"has no {name}(){_instead(f'{name}(value)')}")

    return refuse


_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "matmul": "@", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}

for _name, _sign in _OPERATORS.items():
    setattr(Node, f"__{_name}__", _operator(_sign))
    setattr(Node, f"__r{_name}__", _operator(_sign, is_swapped=True))
for _name, _sign in _COMPARISONS.items():
    setattr(Node, f"__{_name}__", _operator(_sign))
for _name in ("abs", "int", "float", "complex", "round"):
    setattr(Node, f"__{_name}__", _function(_name))

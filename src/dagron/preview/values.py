"""What stands for the objects of a pickle: inert values that remember how each was made, and do nothing.

Numbers, short texts, lists and tuples are themselves. What Python would hash is a list here (`Pairs`, `Items`), because
the hash of a tuple that holds itself twice, twenty times over, takes forever.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ByteArray", "Items", "Leaf", "LongText", "Name", "Object", "Pairs", "bytes_of", "text_of_value"]

_MAX_LOOKED_AT = 300
"""Pairs of a state among which a reader looks for a key. An estimator has up to a hundred attributes; a forged state
may have millions, and be looked at thousands of times."""


class Name:
    """What a pickle refers to by name: a class, a function, a module's variable.

    Attributes:
        module: The module that it says.
        path: The qualified name there.
        shape: Of a class of the script, what instances consist of (`dagron.shapes`); else None.
    """

    __slots__ = ("module", "path", "shape")

    def __init__(self, module: str, path: str, shape: Any = None) -> None:
        self.module = module
        self.path = path
        self.shape = shape

    @property
    def package(self) -> str:
        """The top of its module."""
        return self.module.partition(".")[0]


class Object:
    """What a call or a class would have made.

    Attributes:
        maker: What was called, in most cases a `Name`.
        args: The arguments.
        keywords: Those that were given by name.
        state: What `__setstate__` would have been given; None if nothing.
        items: What was appended or added.
        pairs: What was set as items.
    """

    __slots__ = ("args", "items", "keywords", "maker", "pairs", "state")

    def __init__(self, maker: Any, args: tuple[Any, ...] = (), keywords: Pairs | None = None) -> None:
        self.maker = maker
        self.args = args
        self.keywords = keywords
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []

    def get(self, name: str) -> Any:
        """Return what the state has under a name; None if nothing."""
        return self.state.get(name) if isinstance(self.state, Pairs) else None


class Pairs:
    """A dict."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs

    def get(self, key: str) -> Any:
        """Return what stands under a text, if that is among the first ones; else None."""
        for found, value in self.pairs[:_MAX_LOOKED_AT]:
            if type(found) is str and found == key:
                return value
        return None


class Items:
    """A set or a frozenset."""

    __slots__ = ("items", "kind")

    def __init__(self, kind: str, items: Any) -> None:
        self.kind = kind
        self.items = items  # a list, or a tuple that nothing is added to


class ByteArray:
    """A bytearray, or a buffer that can be written to."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view


class LongText:
    """A long str, which nobody has decoded yet."""

    __slots__ = ("view",)

    def __init__(self, view: memoryview) -> None:
        self.view = view


class Leaf:
    """What is shown as a text that is known already."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def bytes_of(value: Any) -> memoryview:
    """Return the bytes of a bytes-like value.

    Raises:
        TypeError: It is none.
    """
    return value.view if isinstance(value, ByteArray) else memoryview(value)


def text_of_value(value: Any) -> str:
    """Return a text.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, LongText):
        return str(value.view, "utf-8", "replace")
    if not isinstance(value, str):
        raise TypeError("no text")
    return value

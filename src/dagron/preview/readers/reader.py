"""What a reader is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from dagron.preview.layout import Group, Part, on_one_line
from dagron.preview.values import Object

__all__ = ["Look", "Reader", "Seen", "inline"]

_MARGIN = 12
"""Columns of a line that what stands around an object may take: brackets, a name, indentation."""


class Look(Protocol):
    """Where a value is shown, and how much of it may be."""

    full: bool
    width: int
    max_items: int
    cells_left: int

    def cells(self, n: int) -> int:
        """Return how many of `n` further elements may be shown, and count them."""

    def work(self, n: int) -> None:
        """Count that `n` things are looked at which are not shown; raises if those of all readers are too many."""

    def part(self, value: Any) -> Part:
        """Return what shows a value inside of the one that is being shown."""

    def cell(self, value: Any) -> str:
        """Return a value in a few characters of one line."""

    def call(self, name: str, args: Iterable[Any] = (), named: Iterable[tuple[Any, Any]] = ()) -> Group:
        """Return a call with arguments that are values."""

    def key(self, key: Any) -> str:
        """Return the name of an attribute, safe on a terminal."""

    def name(self, name: Any) -> str:
        """Return the name of a class or function, safe on a terminal."""


class Seen(NamedTuple):
    """What shows an object that takes several lines where there is room.

    Attributes:
        head: What it is, in one line.
        lines: Makes what follows where it has lines of its own.
        inline: What shows it inside of others.
    """

    head: str
    lines: Callable[[], Sequence[str]]
    inline: Part


def inline(head: str, content: Part, look: Look) -> str:
    """Return what shows an object inside of others: what it is, and what it holds if a line has room for that."""
    text = f"<{head}: {on_one_line(content)}>"
    return text if len(text) <= look.width - _MARGIN else f"<{head}>"


Reader = Callable[[Object, Look], "Part | Seen | None"]

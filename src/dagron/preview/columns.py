"""A column of a table: its name, its type, and single values of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Column", "unknown"]


class Column(NamedTuple):
    """A column.

    Attributes:
        name: An inert value, most often a text.
        dtype: The type of its values, as its library calls it.
        length: How many it has, as the pickle claims it.
        at: Returns one as an inert value; raises if the bytes have none there.
    """

    name: Any
    dtype: str
    length: int
    at: Callable[[int], Any]


def unknown(dtype: str, length: int) -> Column:
    """Return a column whose values are in a form that is not read."""

    def at(_: int) -> Any:
        raise LookupError(dtype)

    return Column(None, dtype, length, at)

"""Tables, of whichever library: their size, columns with names and types, and first rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagron.preview.columns import Column
from dagron.preview.readers.numpy_arrays import aligned
from dagron.preview.readers.reader import Look, Seen, inline

__all__ = ["column_seen", "table_seen"]

_MAX_ROWS = 10
"""Without --full; as polars has it. pandas shows five from either end."""

_MAX_COLUMNS = 30
"""Without --full: more than a wide terminal has room for."""

_MAX_NAMED = 8


def table_seen(kind: str, columns: Sequence[Column], look: Look, n_rows: int, index: Column | None = None) -> Seen:
    """Return what shows a table.

    Args:
        kind: What it is called.
        columns: Its columns.
        look: Where it is shown.
        n_rows: How many rows it has.
        index: What names the rows; None for nothing.
    """
    head = f"{kind} of {_n(n_rows, 'row')} and {_n(len(columns), 'column')}"
    names = [look.cell(column.name) for column in columns[:_MAX_NAMED]]
    typed = [f"{name} {column.dtype}" for name, column in zip(names, columns, strict=False)]
    more = f", ... +{len(columns) - _MAX_NAMED}" if len(columns) > _MAX_NAMED else ""
    short = inline(head, ", ".join(typed) + more, look) if columns else f"<{head}>"
    if columns and len(short) == len(head) + 2:
        short = inline(head, ", ".join(names) + more, look)
    return Seen(head, lambda: _lines(columns, look, n_rows, index), short)


def column_seen(kind: str, column: Column, look: Look, index: Column | None = None) -> Seen:
    """Return what shows a single column."""
    named = "" if column.name in (None, "") else f", named {look.cell(column.name)}"
    head = f"{kind} of {_n(column.length, 'value')}, {column.dtype}{named}"
    first = ", ".join(_cell(column, i, look) for i in range(min(5, column.length, look.cells(5))))
    more = f", ... +{column.length - 5}" if column.length > 5 else ""
    short = inline(head, f"[{first}{more}]", look)
    return Seen(head, lambda: _lines([column], look, column.length, index, with_names=False), short)


def _n(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _lines(
    columns: Sequence[Column], look: Look, n_rows: int, index: Column | None, *, with_names: bool = True
) -> Sequence[str]:
    shown = list(columns if look.full else columns[:_MAX_COLUMNS])
    if index is not None:
        shown.insert(0, index)
    if not columns and not n_rows:
        return []
    rows: list[list[str]] = []
    if with_names:
        names = [look.cell("" if column.name is None else column.name) for column in shown]
        rows = [names, [column.dtype if column is not index else "" for column in shown]]
    n_shown = 0
    for i in range(n_rows if look.full else min(n_rows, _MAX_ROWS)):
        if look.cells(len(shown)) < len(shown):
            break
        rows.append([_cell(column, i, look) for column in shown])
        n_shown += 1
    lines = aligned(rows, len(columns) + (index is not None), look.width - 4)
    return [*lines, f"... +{_n(n_rows - n_shown, 'row')}"] if n_rows > n_shown else lines


def _cell(column: Column, row: int, look: Look) -> str:
    try:
        value: Any = column.at(row)
    except Exception:  # of any kind: the bytes are not those of its library
        return "?"
    return look.cell(value)

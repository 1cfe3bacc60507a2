"""Rows of text in columns. Made for a hundred thousand rows, for which the tables of rich take minutes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from dagron.cli.terminal import styled, styled_state
from dagron.shown import glyphs_for, shown_name

__all__ = ["Column", "table"]

_MIN_WIDTH = 12
"""Characters below which no column shrinks: both ends of a name are to be seen."""

_MIN_PROSE = 40
"""Characters that a sentence has at least, or it goes below its row: half of a terminal of 80 columns."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: What stands above it.
        right: Whether its cells are aligned to the right.
        shrinks: Whether it gives way where the terminal is narrow. Cells lose their middle, as ends tell names apart,
            and the errors of lost workers.
        is_prose: Whether its cells stand below their rows where it would get very narrow.
    """

    title: str
    right: bool = False
    shrinks: bool = False
    is_prose: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Return rows under their titles, aligned; the last line has no line break.

    Args:
        columns: What the columns are called; a column whose cells are all empty is left out.
        rows: The cells, safe on a terminal.
        width: The columns that shrink, the last one first, give way until a row fits into this; None for any width.
    """
    shown = [i for i in range(len(columns)) if any(row[i] for row in rows)] or list(range(len(columns)))
    widths = {i: max(len(columns[i].title), max([_width(row[i]) for row in rows], default=0)) for i in shown}
    below: list[int] = []
    if width is not None:
        wanted = dict(widths)
        _shrink(widths, columns, width)
        below = [i for i in shown if columns[i].is_prose and widths[i] < min(_MIN_PROSE, wanted[i])]
        if below:
            shown = [i for i in shown if i not in below]
            widths = {i: wanted[i] for i in shown}
            _shrink(widths, columns, width)
    ellipsis = glyphs_for(getattr(sys.stdout, "encoding", None)).ellipsis
    lines = [styled(_line([columns[i].title for i in shown], shown, columns, widths), "1")]
    for row in rows:
        cells = [_fitted(row[i], widths[i], ellipsis) for i in shown]
        line = _line(cells, shown, columns, widths)
        for i in shown:
            if columns[i].title == "state":
                # After they were aligned: the codes take no room.
                line = line.replace(row[i], styled_state(row[i]), 1) if i == shown[0] else line
        lines.append(line)
        lines += [f"  {_fitted(row[i], max(_MIN_WIDTH, (width or 0) - 2), ellipsis)}" for i in below if row[i]]
    return "\n".join(lines)


def _shrink(widths: dict[int, int], columns: Sequence[Column], width: int) -> None:
    for i in reversed(widths):  # the last one gives way first
        excess = sum(widths.values()) + 2 * (len(widths) - 1) - width
        if columns[i].shrinks and excess > 0:
            widths[i] = max(_MIN_WIDTH, len(columns[i].title), widths[i] - excess)


def _fitted(cell: str, width: int, ellipsis: str) -> str:
    return cell if _width(cell) <= width else shown_name(cell, width, ellipsis)


def _line(cells: Sequence[str], shown: Sequence[int], columns: Sequence[Column], widths: dict[int, int]) -> str:
    padded = []
    for i, cell in zip(shown, cells, strict=True):
        room = " " * (widths[i] - _width(cell))
        padded.append(f"{room}{cell}" if columns[i].right else f"{cell}{room}")
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)

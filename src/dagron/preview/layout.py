"""Lines of text from nested parts: on one line what fits, else one part a line, and short ones as many as fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["Block", "Group", "Part", "laid_out", "on_one_line"]

_INDENT = "    "


class Block:
    """What has lines of its own, such as a table.

    Attributes:
        head: What it is.
        lines: What follows below.
    """

    __slots__ = ("head", "lines")

    def __init__(self, head: str, lines: Sequence[str]) -> None:
        self.head = head
        self.lines = lines


class Group:
    """Parts between brackets.

    Attributes:
        opening: What stands before them.
        parts: Each with what stands before it, such as `x=`.
        closing: What stands behind them.
        size: Characters of it on one line.
        is_flat: Whether it may stand on one line.
        fills: Whether a line may have several of its parts where it is too long for one.
    """

    __slots__ = ("closing", "fills", "is_flat", "opening", "parts", "size")

    def __init__(self, opening: str, parts: Sequence[tuple[str, Part]], closing: str) -> None:
        self.opening = opening
        self.parts = parts
        self.closing = closing
        self.size = len(opening) + len(closing) + sum(len(before) + _size(part) for before, part in parts)
        self.size += 2 * max(0, len(parts) - 1)
        self.is_flat: bool = all(type(part) is str or (isinstance(part, Group) and part.is_flat) for _, part in parts)
        self.fills = all(type(part) is str and not before.endswith(": ") for before, part in parts)


Part = str | Group | Block


def _size(part: Part) -> int:
    return len(part.head) if isinstance(part, Block) else len(part) if isinstance(part, str) else part.size


def laid_out(part: Part, width: int, before: str = "") -> list[str]:
    """Return lines, of up to `width` columns where names and texts allow that.

    Args:
        part: What is laid out.
        width: Columns of a line.
        before: What stands before it on the first line.
    """
    return [*_lines(part, "", before, "", width)]


def _lines(part: Part, indent: str, before: str, behind: str, width: int) -> Iterator[str]:
    if isinstance(part, str):
        yield f"{indent}{before}{part}{behind}"
    elif isinstance(part, Block):
        yield f"{indent}{before}{part.head}"
        further = indent + _INDENT if before or indent else indent
        yield from (further + line for line in part.lines)
    elif part.is_flat and len(indent) + len(before) + part.size + len(behind) <= width:
        yield f"{indent}{before}{on_one_line(part)}{behind}"
    elif part.fills:
        yield from _filled(part, indent, before, behind, width)
    else:
        yield f"{indent}{before}{part.opening}"
        last = len(part.parts) - 1
        for i, (name, inner) in enumerate(part.parts):
            yield from _lines(inner, indent + _INDENT, name, "," if i < last else "", width)
        yield f"{indent}{part.closing}{behind}"


def _filled(part: Group, indent: str, before: str, behind: str, width: int) -> Iterator[str]:
    yield f"{indent}{before}{part.opening}"
    line = indent + _INDENT
    last = len(part.parts) - 1
    for i, (name, inner) in enumerate(part.parts):
        text = f"{name}{inner}," if i < last else f"{name}{inner}"
        if line.strip() and len(line) + len(text) + 1 > width:
            yield line
            line = indent + _INDENT
        line += f" {text}" if line.strip() else text
    yield line
    yield f"{indent}{part.closing}{behind}"


def on_one_line(part: Part) -> str:
    """Return what shows a part without the lines of tables in it."""
    if isinstance(part, str):
        return part
    if isinstance(part, Block):
        return part.head
    return f"{part.opening}{', '.join(before + on_one_line(inner) for before, inner in part.parts)}{part.closing}"

"""numpy: arrays, masked arrays and matrices, scalars, types, random generators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dagron.preview.arrays import Array, array_of, dtype_of
from dagron.preview.layout import Group, Part, laid_out, on_one_line
from dagron.preview.readers.reader import Look, Reader, Seen, inline
from dagron.preview.values import Name, Object, bytes_of

__all__ = ["NUMPY", "aligned", "array_seen"]

_MAX_ROWS = 6
"""Rows of an array that are shown without --full, as numpy shows three from either end of a long one."""

_MAX_INLINE = 5
_MAX_AXES = 4
"""The values of an array with more axes tell nothing that its shape does not, and two for each axis are too many."""

_MAX_DEEP = 2
"""Items of each axis where an array has more than two: together about as many as a matrix has."""


def array_seen(array: Array, look: Look, kind: str = "ndarray") -> Seen:
    """Return what shows an array: its shape, its type and its first values."""
    head = f"{kind} of shape {array.shape!r}, {array.dtype.name}"
    # Elements without bytes would be there however many of them a shape claims.
    if 0 in array.shape or not array.dtype.size or len(array.shape) > _MAX_AXES:
        return Seen(head, list, f"<{head}>")

    def lines() -> Sequence[str]:
        if len(array.shape) == 2:
            return _matrix(array, look)
        n = look.max_items if len(array.shape) == 1 or look.full else _MAX_DEEP
        return laid_out(_nested(array, (), n, look), look.width)

    n = min(look.max_items, _MAX_INLINE if len(array.shape) == 1 else 2)
    return Seen(head, lines, inline(head, _nested(array, (), n, look), look))


def _nested(array: Array, index: tuple[int, ...], n: int, look: Look) -> Part:
    if len(index) == len(array.shape):
        return _shown(array.at(*index), look) if look.cells(1) else "..."
    length = array.shape[len(index)]
    parts: list[tuple[str, Part]] = []
    for i in range(min(length, n)):
        if not look.cells_left:
            break
        parts.append(("", _nested(array, (*index, i), n, look)))
    if length > len(parts):
        parts.append(("", f"... +{length - len(parts)}"))
    return Group("[", parts, "]")


def _shown(value: Any, look: Look) -> Part:
    if isinstance(value, Array):
        return _nested(value, (), _MAX_DEEP, look)
    if type(value) is tuple:  # a record
        return Group("(", [("", _shown(field, look)) for field in value], ")")
    return look.part(value) if isinstance(value, str) else look.cell(value)


def _matrix(array: Array, look: Look) -> list[str]:
    n_rows, n_columns = array.shape
    rows: list[list[str]] = []
    for i in range(min(n_rows, look.max_items, n_rows if look.full else _MAX_ROWS)):
        n = look.cells(min(n_columns, look.max_items))
        if not n:
            break
        rows.append([_text(array.at(i, j), look) for j in range(n)])
    lines = [f"[{line}]" for line in aligned(rows, n_columns, look.width - 4)]
    lines = [f"{' ' if i else '['}{line}" for i, line in enumerate(lines)]
    if len(rows) < n_rows:
        lines.append(f" ... +{n_rows - len(rows):,} rows]")
    elif lines:
        lines[-1] += "]"
    return lines


def _text(value: Any, look: Look) -> str:
    return on_one_line(_shown(value, look))


def aligned(rows: Sequence[Sequence[str]], n_columns: int, width: int) -> list[str]:
    """Return rows of cells under one another, without the columns that have no room.

    Args:
        rows: As many cells in each, which may be fewer than there are columns.
        n_columns: How many there are.
        width: Columns of a line.
    """
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=False)]
    n, room = 0, width - 4  # for what stands for the rest
    while n < len(widths) and room >= widths[n]:
        room -= widths[n] + 2
        n += 1
    n = max(n, 1)
    if n == len(widths) - 1 and room + 6 >= widths[n]:
        n += 1  # there is no rest
    rest = "  ..." if n < n_columns else ""
    return ["  ".join(cell.rjust(w) for cell, w in zip(row[:n], widths[:n], strict=False)) + rest for row in rows]


# --- the readers -----------------------------------------------------------------------------------------------------


def _array(obj: Object, look: Look) -> Seen:
    kind = "ndarray"
    if obj.maker.path != "_frombuffer" and isinstance(obj.args[0], Name):
        kind = look.name(obj.args[0]).removeprefix("numpy.").removeprefix("ma.")
    return array_seen(array_of(obj), look, kind)


def _scalar(obj: Object, look: Look) -> Part | None:
    dtype = dtype_of(obj.args[0])
    if dtype.kind == "O":
        return None
    value = Array((), dtype, bytes_of(obj.args[1])).at()
    if dtype.kind in "Mm":
        return f"np.{dtype.name.partition('[')[0]}({value.text!r})"
    name = {"U": "str_", "S": "bytes_", "V": "void", "b": "bool"}.get(dtype.kind, dtype.name)
    # All digits of a single number, unlike those of an array.
    return Group(f"np.{name}(", [("", look.part(value))], ")")


def _dtype(obj: Object, _: Look) -> str:
    return f"dtype({dtype_of(obj).name!r})"


def _generator(obj: Object, look: Look) -> str:
    made_by = obj.args[0] if obj.args else "MT19937"
    if isinstance(made_by, Object):
        made_by = made_by.args[0]
    name = made_by.path.rpartition(".")[2] if isinstance(made_by, Name) else look.key(made_by)
    return f"{'RandomState' if 'randomstate' in obj.maker.path else 'Generator'}({name})"


def _bit_generator(obj: Object, look: Look) -> str:
    return look.name(obj.args[0]) if isinstance(obj.args[0], Name) else look.key(obj.args[0])


NUMPY: dict[tuple[str, str], Reader] = {
    ("numpy", "_frombuffer"): _array,
    ("numpy", "_reconstruct"): _array,
    ("numpy", "_mareconstruct"): _array,
    ("numpy", "scalar"): _scalar,
    ("numpy", "dtype"): _dtype,
    ("numpy", "__generator_ctor"): _generator,
    ("numpy", "__randomstate_ctor"): _generator,
    ("numpy", "__bit_generator_ctor"): _bit_generator,
}

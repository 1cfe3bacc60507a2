"""Columns in the memory format of Apache Arrow, from a stream of messages or from single buffers. Copies none of them.

The stream is what polars pickles: messages, each `FF FF FF FF`, a size, a FlatBuffers table and a body of buffers.
https://arrow.apache.org/docs/format/Columnar.html specifies both. A column of a type that is not among those below is
known by its name alone, and so are all columns where the body is compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dagron.preview.arrays import time_of
from dagron.preview.columns import Column, unknown
from dagron.preview.values import Leaf, Pairs

__all__ = ["Kind", "buffers_column", "stream_columns"]

# A stream of bytes that were forged may claim anything; real ones have a message for some 100,000 rows.
_MAX_MESSAGES = 10_000
_MAX_NESTING = 3
_MAX_ITEMS = 4
_MAX_TEXT = 200

Work = Callable[[int], None]

_i2 = struct.Struct("<h").unpack_from
_u2 = struct.Struct("<H").unpack_from
_i4 = struct.Struct("<i").unpack_from
_u4 = struct.Struct("<I").unpack_from
_i8 = struct.Struct("<q").unpack_from


class _Table(NamedTuple):
    """A table of FlatBuffers."""

    data: memoryview
    at: int

    def _field(self, n: int) -> int:
        """Return where a field is; 0 where it is left out."""
        fields = self.at - _i4(self.data, self.at)[0]
        if 4 + 2 * n >= _u2(self.data, fields)[0]:
            return 0
        offset = _u2(self.data, fields + 4 + 2 * n)[0]
        return self.at + offset if offset else 0

    def number(self, n: int, unpack: Callable[..., Any], default: int = 0) -> int:
        at = self._field(n)
        found: int = unpack(self.data, at)[0] if at else default
        return found

    def byte(self, n: int) -> int:
        at = self._field(n)
        return self.data[at] if at else 0

    def table(self, n: int) -> _Table | None:
        at = self._field(n)
        return _Table(self.data, at + _u4(self.data, at)[0]) if at else None

    def text(self, n: int) -> str:
        at = self._field(n)
        if not at:
            return ""
        at += _u4(self.data, at)[0]
        return str(self.data[at + 4 : at + 4 + min(_u4(self.data, at)[0], _MAX_TEXT)], "utf-8", "replace")

    def vector(self, n: int) -> tuple[int, int]:
        """Return where a vector has its first element, and how many it has."""
        at = self._field(n)
        if not at:
            return 0, 0
        at += _u4(self.data, at)[0]
        return at + 4, _u4(self.data, at)[0]

    def tables(self, n: int) -> Iterator[_Table]:
        first, length = self.vector(n)
        for at in range(first, first + 4 * length, 4):
            yield _Table(self.data, at + _u4(self.data, at)[0])


# --- types -----------------------------------------------------------------------------------------------------------

_UNITS = ("s", "ms", "us", "ns")


class Kind(NamedTuple):
    """The type of a column.

    Attributes:
        name: As polars calls it.
        how: How its values are laid out: `bits`, `fixed`, `text`, `bytes`, `views`, `list`, `array`, `struct`, `none`,
            or `other`, where it is not known.
        format: Of one value, or of an offset, for `struct`.
        made: Makes a value of the number; None if the number is the value.
    """

    name: str
    how: str
    format: str = ""
    made: Callable[[int], Any] | None = None


def _kind_of(number: int, more: _Table | None) -> Kind:
    if more is None:
        return Kind("?", "other")
    if number == 2:
        bits, signed = more.number(0, _i4), more.byte(1)
        letter = {8: "b", 16: "h", 32: "i", 64: "q"}.get(bits, "")
        return Kind(
            f"{'i' if signed else 'u'}{bits}", "fixed" if letter else "other", letter if signed else letter.upper()
        )
    if number == 3:
        precision = more.number(0, _i2)
        return Kind(f"f{16 << precision}" if precision < 3 else "?", "fixed", "efd"[precision])
    if number in (8, 10, 18):
        return _kind_of_times(number, more)
    return {
        1: Kind("null", "none"),
        4: Kind("binary", "bytes", "i"),
        5: Kind("str", "text", "i"),
        6: Kind("bool", "bits"),
        12: Kind("list", "list", "i"),
        13: Kind("struct", "struct"),
        16: Kind("array", "array", str(more.number(0, _i4))),
        19: Kind("binary", "bytes", "q"),
        20: Kind("str", "text", "q"),
        21: Kind("list", "list", "q"),
        23: Kind("binary", "views", "bytes"),
        24: Kind("str", "views", "text"),
    }.get(number, Kind("?", "other"))


def _kind_of_times(number: int, more: _Table) -> Kind:
    unit = more.number(0, _i2, 0 if number == 10 else 1)
    if number == 8:
        if unit:
            return Kind("date", "fixed", "q", lambda n: Leaf(time_of("M", n, (1, "ms"))))
        return Kind("date", "fixed", "i", lambda n: Leaf(time_of("M", n, (1, "D"))))
    name = _UNITS[unit]
    if number == 18:
        return Kind(f"duration[{name}]", "fixed", "q", lambda n: Leaf(time_of("m", n, (1, name))))
    zone = more.text(1)
    shown = f"datetime[{name}{', ' if zone else ''}{zone}]"
    return Kind(shown, "fixed", "q", lambda n: Leaf(time_of("M", n, (1, name))))


class _Field(NamedTuple):
    """A column as the schema has it."""

    name: str
    kind: Kind
    children: tuple[_Field, ...]
    dictionary: int | None


def _fields(tables: Iterator[_Table], work: Work, depth: int = 0) -> tuple[_Field, ...]:
    found = []
    for table in tables:
        work(1)
        if depth > _MAX_NESTING:
            raise ValueError("lists of lists of lists of lists")
        kind = _kind_of(table.byte(2), table.table(3))
        children = _fields(table.tables(5), work, depth + 1)
        if kind.how in ("list", "array") and children:
            kind = kind._replace(name=f"{kind.name}[{children[0].kind.name}]")
        encoding = table.table(4)
        dictionary = None
        if encoding is not None:
            dictionary = encoding.number(0, _i8)
            indices = encoding.table(1)
            kind = _kind_of(2, indices) if indices is not None else Kind("i32", "fixed", "i")
            kind = kind._replace(name="cat")
        found.append(_Field(table.text(0), kind, children, dictionary))
    return tuple(found)


# --- values ----------------------------------------------------------------------------------------------------------


class _Batch:
    """A batch of rows, whose buffers are taken one after another."""

    def __init__(self, header: _Table, body: memoryview, dictionaries: dict[int, Column]) -> None:
        self._data, self._body, self._dictionaries = header.data, body, dictionaries
        self.length = header.number(0, _i8)
        self._nodes, self._n_nodes = header.vector(1)
        self._buffers, self._n_buffers = header.vector(2)
        self._variadic, self._n_variadic = header.vector(4)
        if header.table(3) is not None:
            raise ValueError("it is compressed")

    def _node(self) -> int:
        if not self._n_nodes:
            raise LookupError("no further node")
        length: int = _i8(self._data, self._nodes)[0]
        self._nodes, self._n_nodes = self._nodes + 16, self._n_nodes - 1
        return length

    def _buffer(self) -> memoryview:
        if not self._n_buffers:
            raise LookupError("no further buffer")
        offset, length = _i8(self._data, self._buffers)[0], _i8(self._data, self._buffers + 8)[0]
        self._buffers, self._n_buffers = self._buffers + 16, self._n_buffers - 1
        if offset < 0 or length < 0:
            raise ValueError("no place")
        return self._body[offset : offset + length]

    def column(self, field: _Field) -> Column:
        """Return the next column."""
        kind, length = field.kind, self._node()
        if kind.how == "none":
            return Column(field.name, kind.name, length, lambda _: None)
        if kind.how == "other":
            raise ValueError("a type whose buffers are not known, so the next ones cannot be found")
        buffers = [self._buffer()]
        if kind.how not in ("struct", "array"):
            buffers.append(self._buffer())
        if kind.how in ("text", "bytes"):
            buffers.append(self._buffer())
        if kind.how == "views":
            if not self._n_variadic:
                raise LookupError("no further number")
            n = _i8(self._data, self._variadic)[0]
            self._variadic, self._n_variadic = self._variadic + 8, self._n_variadic - 1
            if n > self._n_buffers:
                raise LookupError("no further buffers")
            buffers += [self._buffer() for _ in range(n)]
        if field.dictionary is not None:
            found = buffers_column(kind, length, 0, buffers, ())
            return found._replace(name=field.name, at=self._looked_up(found, field.dictionary))
        children = tuple(map(self.column, field.children))
        return buffers_column(kind, length, 0, buffers, children)._replace(name=field.name)

    def _looked_up(self, indices: Column, number: int) -> Callable[[int], Any]:
        def at(row: int) -> Any:
            index = indices.at(row)
            return None if index is None else self._dictionaries[number].at(index)

        return at


def buffers_column(kind: Kind, length: int, offset: int, buffers: list[Any], children: tuple[Column, ...]) -> Column:
    """Return a column from its buffers, the first of which says which values are there.

    Args:
        kind: Its type.
        length: How many values it has.
        offset: Which one is the first.
        buffers: Views; empty or None for one that is left out.
        children: Those of lists and structs.
    """
    valid, *rest = buffers
    read = _HOW[kind.how]

    def at(row: int) -> Any:
        if not 0 <= row < length:
            raise LookupError(row)
        row += offset
        if valid and not valid[row // 8] >> row % 8 & 1:
            return None
        return read(kind, row, rest, children)

    return Column(None, kind.name, length, at)


def _bit(_: Kind, row: int, buffers: list[Any], __: Any) -> bool:
    return bool(buffers[0][row // 8] >> row % 8 & 1)


def _fixed(kind: Kind, row: int, buffers: list[Any], _: Any) -> Any:
    size = struct.calcsize(f"<{kind.format}")
    value = struct.unpack_from(f"<{kind.format}", buffers[0], row * size)[0]
    return value if kind.made is None else kind.made(value)


def _span(kind: Kind, row: int, buffers: list[Any]) -> tuple[int, int]:
    size = struct.calcsize(f"<{kind.format}")
    start, end = struct.unpack_from(f"<2{kind.format}", buffers[0], row * size)
    if not 0 <= start <= end:
        raise ValueError("no span")
    return start, end


def _content(data: Any, *, is_text: bool) -> Any:
    content = bytes(data[: 4 * _MAX_TEXT])
    return content.decode("utf-8", "replace")[:_MAX_TEXT] if is_text else content


def _text(kind: Kind, row: int, buffers: list[Any], _: Any) -> Any:
    start, end = _span(kind, row, buffers)
    return _content(buffers[1][start : min(end, start + 4 * _MAX_TEXT)], is_text=kind.how == "text")


def _view(kind: Kind, row: int, buffers: list[Any], _: Any) -> Any:
    view = buffers[0][16 * row : 16 * row + 16]
    n, number, start = _u4(view, 0)[0], _u4(view, 8)[0], _u4(view, 12)[0]
    data = view[4 : 4 + n] if n <= 12 else buffers[1 + number][start : start + min(n, 4 * _MAX_TEXT)]
    return _content(data, is_text=kind.format == "text")


def _list(kind: Kind, row: int, buffers: list[Any], children: tuple[Column, ...]) -> Any:
    start, end = _span(kind, row, buffers)
    return _items(children[0], start, end)


def _items(child: Column, start: int, end: int) -> list[Any]:
    items = [child.at(i) for i in range(start, min(end, start + _MAX_ITEMS))]
    return [*items, Leaf(f"... +{end - start - len(items)}")] if end - start > len(items) else items


def _array(kind: Kind, row: int, _: Any, children: tuple[Column, ...]) -> Any:
    n = max(0, int(kind.format))
    return _items(children[0], row * n, (row + 1) * n)


def _struct(_: Kind, row: int, __: Any, children: tuple[Column, ...]) -> Any:
    return Pairs([(child.name, child.at(row)) for child in children[:_MAX_ITEMS]])


_HOW: dict[str, Callable[[Kind, int, list[Any], tuple[Column, ...]], Any]] = {
    "bits": _bit,
    "fixed": _fixed,
    "text": _text,
    "bytes": _text,
    "views": _view,
    "list": _list,
    "array": _array,
    "struct": _struct,
}


# --- streams ---------------------------------------------------------------------------------------------------------


def _messages(data: memoryview) -> Iterator[tuple[_Table, memoryview]]:
    at = 0
    for _ in range(_MAX_MESSAGES):
        if _u4(data, at)[0] != 0xFFFFFFFF:
            raise ValueError("no message")
        size = _i4(data, at + 4)[0]
        if size <= 0:
            return
        table = data[at + 8 : at + 8 + size]
        message = _Table(table, _u4(table, 0)[0])
        length = message.number(3, _i8)
        if length < 0:
            raise ValueError("no length")
        body = at + 8 + size
        yield message, data[body : body + length]
        at = body + length


def stream_columns(data: memoryview, work: Work) -> list[Column]:
    """Return the columns of a stream.

    Args:
        data: The stream.
        work: Called with the number of things that were looked at; raises when that is enough.

    Raises:
        Exception: Of any kind; it is none.
    """
    fields: tuple[_Field, ...] = ()
    by_number: dict[int, _Field] = {}
    dictionaries: dict[int, Column] = {}
    batches: list[_Batch] = []
    for message, body in _messages(data):
        work(1)
        kind, header = message.byte(1), message.table(2)
        if header is None:
            raise ValueError("no header")
        if kind == 1:
            fields = _fields(header.tables(1), work)
            by_number = {field.dictionary: field for field in fields if field.dictionary is not None}
        elif kind == 2:
            number, inner = header.number(0, _i8), header.table(1)
            if inner is not None and number in by_number:
                values = _Field("", Kind("str", "views", "text"), (), None)
                dictionaries[number] = _Batch(inner, body, {}).column(values)
        elif kind == 3:
            batches.append(_Batch(header, body, dictionaries))
    return _joined(fields, batches)


def _joined(fields: tuple[_Field, ...], batches: list[_Batch]) -> list[Column]:
    n_rows = sum(batch.length for batch in batches)
    columns = []
    readable = True
    for field in fields:
        try:
            # Only the first batch is read, which has more rows than anybody is shown.
            found = batches[0].column(field) if batches and readable else unknown(field.kind.name, 0)
        except Exception:
            readable, found = False, unknown(field.kind.name, 0)
        columns.append(found._replace(name=field.name, length=n_rows))
    return columns

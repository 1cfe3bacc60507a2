"""Inert values as text, bounded in length, depth and time whatever the bytes held."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from dagron.preview.layout import Block, Group, Part, laid_out, on_one_line
from dagron.preview.making import MEMBER, ROW
from dagron.preview.readers.reader import Seen
from dagron.preview.readers.table import reader_of
from dagron.preview.values import ByteArray, Items, Leaf, LongText, Name, Object, Pairs
from dagron.script import BY_VALUE_MODULES
from dagron.shown import shown_bytes, shown_name

__all__ = ["shown"]

# What is shown of one collection, one text and one nesting: together about a screen. Never varied.
_MAX_ITEMS = 20
_MAX_STRING = 400
_MAX_DEPTH = 6
_MAX_PARTS = 1000
"""What is shown in all: a small pickle may hold the same list a billion times."""

_MAX_DEPTH_IN_FULL = 50
"""Deeper than this no line has room for anything; CPython's limit of recursion is met at some 300."""

_PARTS_FOR_AN_OPERATION = 4
"""In full, what is shown in all for an operation of the pickle, which makes one value: more is the same ones again."""

_MAX_CELLS_IN_FULL = 100_000
"""Elements of arrays and cells of tables, which are no operations of their own. They take half a second, and some
thousand lines."""

_MAX_WORK = 1_000_000
"""Things that readers look at without showing them: about a second's. A frame has one for each column, a graph for each
node."""

_MAX_NAME = 200
_MAX_CELL = 40
_MAX_BLOCKS = 6
"""A collection of up to so many shows each table in it; a longer one a line for each."""


def shown(value: Any, *, full: bool, width: int, n_operations: int = 0) -> str:
    """Return a value as lines.

    Args:
        value: As from `dagron.preview.machine.read`.
        full: Shorten nothing that has been read.
        width: Columns of a line.
        n_operations: How many operations of a pickle have made it.
    """
    look = Look(full=full, width=width, n_operations=n_operations)
    return "\n".join(laid_out(look.part(value, blocks=True), look.width))


class Look:
    """What has been shown until here and what may be yet; `dagron.preview.readers.reader.Look` for readers."""

    def __init__(self, *, full: bool, width: int, n_operations: int) -> None:
        self.full = full
        self.width = max(20, width)
        self.max_items = sys.maxsize if full else _MAX_ITEMS
        self._left = 1000 + _PARTS_FOR_AN_OPERATION * n_operations if full else _MAX_PARTS
        self.cells_left = _MAX_CELLS_IN_FULL if full else _MAX_PARTS
        self._work = _MAX_WORK
        self._string = sys.maxsize if full else _MAX_STRING
        self._max_depth = _MAX_DEPTH_IN_FULL if full else _MAX_DEPTH
        self._depth = -1
        self._open: set[int] = set()

    # --- for readers ---

    def cells(self, n: int) -> int:
        """Return how many of `n` further elements may be shown, and count them."""
        n = max(0, min(n, self.cells_left))
        self.cells_left -= n
        return n

    def work(self, n: int) -> None:
        """Count things that are looked at.

        Raises:
            ValueError: They are too many.
        """
        if n > self._work:
            raise ValueError("too much to look at")
        self._work -= n

    def part(self, value: Any, *, blocks: bool = False) -> Part:
        """Return what shows a value inside of the one that is being shown."""
        self._left -= 1
        if self._left < 0 or self._depth >= self._max_depth:
            return "..."
        if id(value) in self._open:
            return "<itself>"
        self._open.add(id(value))
        self._depth += 1
        try:
            return self._part(value, blocks=blocks)
        finally:
            self._depth -= 1
            self._open.discard(id(value))

    def cell(self, value: Any) -> str:
        """Return a value in a few characters of one line."""
        if type(value) is str:  # in a column they need no quotes
            text = shown_name(value[: _MAX_CELL + 1])
        elif type(value) is float:
            text = repr(value) if self.full else f"{value:.8g}"
            text = text if not text.lstrip("-").isdigit() else f"{text}.0"
        elif value is None or type(value) in (int, bool):
            text = str(value) if type(value) is not int or value.bit_length() < 400 else "<int>"
        else:
            deep = Look(full=False, width=_MAX_CELL, n_operations=0)
            deep._left, deep._depth, deep._work = 10, self._max_depth - 2, self._work
            deep._max_depth, deep._open = self._max_depth, self._open
            text = on_one_line(deep.part(value))
            self._work = deep._work
            if text.startswith("np.") and text.endswith(")"):  # a scalar in a column of objects
                text = text.partition("(")[2][:-1]
        return text if len(text) <= _MAX_CELL or self.full else f"{text[: _MAX_CELL - 3]}..."

    def call(self, name: str, args: Iterable[Any] = (), named: Iterable[tuple[Any, Any]] = ()) -> Group:
        """Return a call with arguments that are values."""
        parts: list[tuple[str, Part]] = [("", self.part(arg)) for arg in self._first(args)]
        parts += [(f"{self.key(key)}=", self.part(value)) for key, value in self._first(named)]
        return Group(f"{name}(", parts, ")")

    def key(self, key: Any) -> str:
        """Return the name of an attribute, safe on a terminal."""
        return shown_name(key[:_MAX_NAME]) if type(key) is str else self.cell(key)

    def name(self, name: Any) -> str:
        """Return the name of a class or function: with its module, unless it is the script's or built in."""
        if isinstance(name, Name):
            module = "" if name.module in (*BY_VALUE_MODULES, "builtins", "") else f"{name.module[:_MAX_NAME]}."
            return shown_name(f"{module}{name.path[:_MAX_NAME]}")
        return "?"

    # --- values ---

    def _first(self, items: Iterable[Any]) -> Iterable[Any]:
        return islice(items, min(self.max_items, max(self._left, 1)))

    def _part(self, value: Any, *, blocks: bool) -> Part:
        kind = type(value)
        if kind is str:
            rest = len(value) - self._string
            return repr(value) if rest <= 0 else f"{value[: self._string]!r}+{rest}"
        if value is None or kind in (bool, float, complex):
            return repr(value)
        if kind is int:
            return _integer(value, self._string)
        if isinstance(value, (bytes, memoryview, ByteArray)):
            return self._bytes(value)
        if kind is list:
            return self._collection("[", value, "]", blocks=blocks)
        if kind is tuple:
            return self._collection("(", value, ",)" if len(value) == 1 else ")", blocks=blocks)
        if isinstance(value, Pairs):
            return self._dict(value.pairs, blocks=blocks)
        if isinstance(value, Object):
            return self._object(value, blocks=blocks)
        if isinstance(value, Items):
            if not value.items:
                return f"{value.kind}()"
            opening, closing = ("{", "}") if value.kind == "set" else (f"{value.kind}({{", "})")
            return self._collection(opening, value.items, closing, blocks=False)
        if isinstance(value, LongText):
            return self._long_text(value)
        if isinstance(value, Leaf):
            return value.text
        return f"<{self.name(value)}>"

    def _collection(self, opening: str, items: Sequence[Any], closing: str, *, blocks: bool) -> Group:
        blocks = blocks and len(items) <= _MAX_BLOCKS
        shown: list[tuple[str, Part]] = [("", self.part(item, blocks=blocks)) for item in self._first(items)]
        if len(items) > len(shown):
            shown.append(("", f"... +{len(items) - len(shown)}"))
        return Group(opening, shown, closing)

    def _dict(self, pairs: list[tuple[Any, Any]], *, blocks: bool = False) -> Group:
        blocks = blocks and len(pairs) <= _MAX_BLOCKS
        shown: list[tuple[str, Part]] = [
            (f"{on_one_line(self.part(key))}: ", self.part(value, blocks=blocks)) for key, value in self._first(pairs)
        ]
        if len(pairs) > len(shown):
            shown.append(("...: ", f"+{len(pairs) - len(shown)}"))
        return Group("{", shown, "}")

    def _bytes(self, value: bytes | memoryview | ByteArray) -> str:
        if isinstance(value, ByteArray):
            return f"bytearray({self._bytes(value.view)})"
        rest = len(value) - self._string
        shown = f"{bytes(value[: self._string])!r}"
        return shown if rest <= 0 else f"{shown}+{rest}"

    def _long_text(self, value: LongText) -> str:
        n_bytes = len(value.view)
        if self.full:
            return repr(str(value.view, "utf-8", "replace"))
        head = str(value.view[: 4 * self._string], "utf-8", "replace")[: self._string]
        if n_bytes > 2**20:  # to count its characters would take longer than to show it
            return f"{head!r}+{shown_bytes(n_bytes)}"
        return f"{head!r}+{len(str(value.view, 'utf-8', 'replace')) - self._string}"

    # --- objects ---

    def _object(self, obj: Object, *, blocks: bool) -> Part:
        seen = self._read(obj)
        if isinstance(seen, Seen):
            if not blocks:
                return seen.inline
            indent = 4 * (self._depth + 1) if self._depth else 0
            self.width -= indent
            try:
                return Block(seen.head, seen.lines())
            except Exception:  # of any kind, as in `_read`
                return f"<{seen.head}>"
            finally:
                self.width += indent
        return self._as_a_call(obj) if seen is None else seen

    def _read(self, obj: Object) -> Part | Seen | None:
        maker = obj.maker
        try:
            if maker is MEMBER:
                return self._member(*obj.args)
            if maker is ROW:
                cls, fields, values = obj.args
                return self.call(self.name(cls), (), zip(fields, values, strict=False))
            if not isinstance(maker, Name):
                return None
            read = reader_of(maker)
            return None if read is None else read(obj, self)
        except Exception:  # of any kind: it is made otherwise than its library makes it
            return None

    def _member(self, cls: Any, value: Any, names: Any) -> str:
        composed = "|".join(f"{self.name(cls)}.{shown_name(name[:_MAX_NAME])}" for name, _ in names[:_MAX_ITEMS])
        return composed or f"{self.name(cls)}({self.cell(value)})"

    def _as_a_call(self, obj: Object) -> Part:
        if isinstance(obj.maker, Name) or not isinstance(obj.maker, Object):
            name = self.name(obj.maker)
        else:
            name = self.cell(obj.maker)
        args: list[Any] = [*self._first(obj.args), *self._first(obj.items)]
        n_more = len(obj.args) + len(obj.items) - len(args)
        parts: list[tuple[str, Part]] = [("", self.part(arg)) for arg in args[: self.max_items]]
        if n_more > 0:
            parts.append(("", f"... +{n_more}"))
        if obj.keywords is not None:
            parts += [(f"{self.key(k)}=", self.part(v)) for k, v in self._first(obj.keywords.pairs)]
        if obj.pairs:
            parts.append(("", self._dict(obj.pairs)))
        parts += self._state(obj)
        return Group(f"{name}(", parts, ")")

    def _state(self, obj: Object) -> list[tuple[str, Part]]:
        state = obj.state
        if state is None:
            return []
        if isinstance(state, list) and (fields := _fields_of(obj.maker, len(state))):
            return [(f"{self.key(k)}=", self.part(v)) for k, v in self._first(zip(fields, state, strict=False))]
        dicts = [state]
        if type(state) is tuple and len(state) == 2 and isinstance(state[1], Pairs):  # of an object with slots
            dicts = [one for one in state if isinstance(one, Pairs)]
        if all(isinstance(one, Pairs) for one in dicts):
            shown: list[tuple[str, Part]] = []
            for one in dicts:
                n = len(one.pairs)
                for key, value in self._first(one.pairs):
                    n -= 1
                    if not (type(key) is str and key.startswith("__") and key.endswith("__")):  # Python's own
                        shown.append((f"{self.key(key)}=", self.part(value)))
                if n:
                    shown.append(("", f"... +{n}"))
            return shown
        return [("", self.part(state))]


def _fields_of(maker: Any, n: int) -> tuple[str, ...]:
    """Return the fields of a frozen dataclass with slots, which is stored as their values."""
    shape = maker.shape if isinstance(maker, Name) else None
    if type(shape) is tuple and len(shape) == 3 and shape[0] == "ordered" and type(shape[1]) is tuple:
        return shape[1] if len(shape[1]) == n else ()
    return ()


def _integer(value: int, limit: int) -> str:
    if value.bit_length() > 4 * min(limit, 1000):  # as text it may be slow, or refused
        return f"<int of {value.bit_length()} bits>"
    return repr(value)

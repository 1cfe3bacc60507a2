"""What a pickle holds, without running any code that it names.

Names of classes and functions that a pickle refers to are not looked up: in their place stand `StandIn` objects, which
remember what they were given and show it. Only a few built-in types that do nothing when they are made are real.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import io
import pickle
import pprint
import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from dagron.script import BY_VALUE_MODULES
from dagron.stored.classes import new_class, new_enum, set_attributes
from dagron.stored.names import member, of_script, row

__all__ = ["MAX_PREVIEW_BYTES", "StandIn", "preview", "shown_value"]

MAX_PREVIEW_BYTES = 32 * 2**20
"""A larger pickle is not loaded unless --full asks for it: reading this much takes about a second."""

# What a preview shows of one collection, one text and one nesting: together about a screen. Never varied.
_MAX_ITEMS = 20
_MAX_STRING = 400
_MAX_DEPTH = 6
_MAX_PARTS = 1000
"""What a whole preview shows: a small pickle may hold the same list a billion times."""

_REAL: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "slice"): slice,
    ("builtins", "range"): range,
    ("collections", "Counter"): Counter,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "deque"): deque,
    ("datetime", "date"): datetime.date,
    ("datetime", "datetime"): datetime.datetime,
    ("datetime", "time"): datetime.time,
    ("datetime", "timedelta"): datetime.timedelta,
    ("datetime", "timezone"): datetime.timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("fractions", "Fraction"): fractions.Fraction,
}


def _name_of(function: Callable[..., object]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


_MAKES_A_CLASS = {
    _name_of(of_script): slice(0, 2),
    _name_of(new_class): slice(3, 4),
    _name_of(new_enum): slice(3, 4),
    "cloudpickle.cloudpickle._make_skeleton_class": slice(1, 2),
}
"""Functions that give a class, with the arguments that are its name."""

_MAKES_AN_INSTANCE = {"copyreg.__newobj__", "copyreg.__newobj_ex__", "copyreg._reconstructor"}
_SETS_A_STATE = {_name_of(set_attributes)}
_MEMBER = _name_of(member)
_ROW = _name_of(row)


class StandIn:
    """Stands for an object whose code was not run.

    Attributes:
        what: The name of what makes it.
        args: What that was called with.
        state: What `__setstate__` was given; None for nothing.
        items: What was appended or added to it.
        pairs: Keys and values that were set.
    """

    def __init__(self, what: str, args: tuple[Any, ...]) -> None:
        self.what = what
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []
        self.pairs: list[tuple[Any, Any]] = []

    def __repr__(self) -> str:
        return shown_value(self, full=True)

    # What the opcodes of a pickle do to an object:

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Take an item of a list."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Take items of a list."""
        self.items.extend(items)

    def add(self, item: Any) -> None:
        """Take an item of a set."""
        self.items.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))


class _Named(type):
    """The type of what stands for classes and functions; calling one gives a `StandIn`."""

    what: str

    def __repr__(cls) -> str:
        return f"<{_short(cls.what)}>"

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.__new__(cls, *args, **kwargs)  # type: ignore[arg-type]


def _named(what: str) -> _Named:
    # A class, because one of the opcodes that make objects insists on it.
    def new(_: type, *args: Any, **kwargs: Any) -> Any:
        return _made(what, args, tuple(kwargs.values()))

    return _Named("StandIn", (), {"what": what, "__new__": new})


def _made(what: str, args: tuple[Any, ...], more: tuple[Any, ...]) -> Any:
    if what in _MAKES_A_CLASS:
        return _named(".".join(map(str, args[_MAKES_A_CLASS[what]])))
    if what in _MAKES_AN_INSTANCE and args and isinstance(args[0], _Named):
        return StandIn(args[0].what, ())
    if what in _SETS_A_STATE and len(args) == 2 and isinstance(args[0], StandIn):
        args[0].state = args[1]
        return args[0]
    if what == _ROW and isinstance(args[0], _Named):
        return _row(args[0].what, args[1], args[2])
    if what == _MEMBER and isinstance(args[0], _Named):
        return StandIn(args[0].what, args[1:2])
    return StandIn(what, (*args, *more))


def _row(what: str, fields: Any, values: Any) -> StandIn:
    found = StandIn(what, ())
    found.state = dict(zip(fields, values, strict=False))
    return found


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _REAL.get((module, name)) or _named(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return StandIn("persistent", (pid,))


def _load_safely(data: bytes | memoryview) -> Any:
    """Return what a pickle holds, with stand-ins for all that would run code.

    Raises:
        ValueError: It cannot be read so.
    """
    try:
        return _SafeUnpickler(io.BytesIO(data)).load()
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# --- as text ---------------------------------------------------------------------------------------------------------


class _Text:
    """Shown as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Call:
    """Shown as a call."""

    def __init__(self, name: str, args: list[Any], named: dict[str, Any]) -> None:
        self._args, self._named = args, named
        self.__class__ = type(name, (_Call,), {})

    def __rich_repr__(self) -> Iterator[Any]:
        yield from self._args
        yield from self._named.items()


class _Bounded:
    """Copies a value, up to so much of it, into what `rich.pretty` lays out."""

    def __init__(self, *, full: bool) -> None:
        self._left = sys.maxsize if full else _MAX_PARTS
        self._items = sys.maxsize if full else _MAX_ITEMS
        self._string = sys.maxsize if full else _MAX_STRING
        self._depth = 50 if full else _MAX_DEPTH

    def of(self, value: Any, depth: int = 0) -> Any:
        """Return the copy."""
        self._left -= 1
        if depth > self._depth or self._left < 0:
            return _Text("...")
        if isinstance(value, (str, bytes, bytearray)):
            rest = len(value) - self._string
            return value if rest <= 0 else _Text(f"{value[: self._string]!r}+{rest}")
        if isinstance(value, int) and value.bit_length() > 4 * self._string:
            return _Text(f"<int of {value.bit_length()} bits>")
        if isinstance(value, _Named):
            return _Text(repr(value))
        if isinstance(value, StandIn):
            return self._of_stand_in(value, depth)
        if isinstance(value, dict):
            pairs = {self._key(k, depth): self.of(v, depth + 1) for k, v in islice(value.items(), self._items)}
            if len(value) > self._items:
                pairs[_Text("...")] = _Text(f"+{len(value) - self._items}")
            return pairs if type(value) is dict else _Call(type(value).__name__, [pairs], {})
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            copied = [self.of(item, depth + 1) for item in islice(value, self._items)]
            if len(value) > self._items:
                copied.append(_Text(f"... +{len(value) - self._items}"))
            if type(value) in (list, tuple):
                return copied if type(value) is list else tuple(copied)
            return _Call(type(value).__name__, [copied], {})
        return _Text(repr(value))

    def _key(self, key: Any, depth: int) -> Any:
        copied = self.of(key, depth + 1)
        return copied if copied.__hash__ is not None else _Text(repr(copied))

    def _of_stand_in(self, found: StandIn, depth: int) -> Any:
        shape = _array_shape(found)
        if shape:
            return _Text(shape)
        args = [self.of(arg, depth + 1) for arg in (*found.args, *found.items)[: self._items]]
        if found.pairs:
            args.append(self.of(dict(enumerate(found.pairs)), depth + 1))
        state, named = found.state, {}
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}  # of an object with slots
        if isinstance(state, dict):
            named = {str(key): self.of(item, depth + 1) for key, item in islice(state.items(), self._items)}
        elif state is not None:
            args.append(self.of(state, depth + 1))
        return _Call(_short(found.what), args, named)


def _short(what: str) -> str:
    for module in BY_VALUE_MODULES:
        what = what.removeprefix(f"{module}.")
    return what


def _array_shape(found: StandIn) -> str:
    """Return what a numpy array is; empty for anything else."""
    state = found.state
    if not (found.what.startswith("numpy.") and isinstance(state, tuple) and len(state) == 5):
        return ""
    dtype = state[2].args[0] if isinstance(state[2], StandIn) and state[2].args else "?"
    return f"<numpy.ndarray of shape {state[1]!r} and dtype {dtype}>" if isinstance(state[1], tuple) else ""


def shown_value(value: Any, *, full: bool = False, width: int = 100) -> str:
    """Return a value as text that is safe on a terminal, shortened unless `full`."""
    from rich.pretty import pretty_repr

    if full and not isinstance(value, StandIn):
        return pprint.pformat(value, width=width, compact=True, sort_dicts=False)
    return pretty_repr(_Bounded(full=full).of(value), max_width=width)


def preview(data: bytes | memoryview, *, full: bool = False, plain: bool = False) -> str:
    """Return what a pickle holds as text, without running code that it names; with `plain`, a str as it is."""
    try:
        value = _load_safely(data)
        return value if plain and isinstance(value, str) else shown_value(value, full=full)
    except ValueError as error:
        return f"<cannot be shown without running its code: {error}>"

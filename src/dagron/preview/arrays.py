"""Arrays of numpy from their bytes: shape, type and single elements. Copies no data, whatever size it has."""

from __future__ import annotations

import datetime
import struct
from typing import Any, NamedTuple

from dagron.preview.values import Leaf, Name, Object, Pairs, bytes_of, text_of_value

__all__ = ["Array", "Dtype", "array_of", "dtype_of", "time_of"]

_MAX_DIMENSIONS = 64
"""As numpy has it."""

_MAX_FIELDS = 20

_MASKED = Leaf("--")
"""As numpy shows it."""


class Dtype(NamedTuple):
    """The type of elements.

    Attributes:
        kind: The letter of numpy: one of `b i u f c O S U V M m T`.
        size: Bytes of an element.
        order: `<` or `>`.
        unit: Of times, how many of what, such as `(1, "ns")`.
        fields: Of records, name, type and offset of each.
        inner: Of an element that is an array itself, type and shape.
    """

    kind: str
    size: int
    order: str = "<"
    unit: tuple[int, str] = (1, "")
    fields: tuple[tuple[str, Dtype, int], ...] = ()
    inner: tuple[Dtype, tuple[int, ...]] | None = None

    @property
    def name(self) -> str:
        """As numpy shows it."""
        kind, size = self.kind, self.size
        if self.inner is not None:
            return f"{self.inner[0].name}{list(self.inner[1])}"
        if self.fields:
            return f"{{{', '.join(f'{name}: {dtype.name}' for name, dtype, _ in self.fields)}}}"
        if kind in _NAMES:
            return f"{_NAMES[kind]}{8 * size}"
        if kind in "Mm":
            n, unit = self.unit
            return f"{'datetime64' if kind == 'M' else 'timedelta64'}[{n if n != 1 else ''}{unit}]"
        if kind == "U":
            return f"str of up to {size // 4}"
        return {"b": "bool", "O": "object", "T": "str", "S": f"bytes of up to {size}"}.get(
            kind, f"void of {size} bytes"
        )


_NAMES = {"i": "int", "u": "uint", "f": "float", "c": "complex"}
_FORMATS = {
    **{("i", size): letter for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
    **{("u", size): letter for size, letter in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))},
    **{("f", size): letter for size, letter in ((2, "e"), (4, "f"), (8, "d"))},
    ("c", 8): "ff",
    ("c", 16): "dd",
    ("b", 1): "?",
    ("M", 8): "q",
    ("m", 8): "q",
}


class Array(NamedTuple):
    """An array.

    Attributes:
        shape: Its shape, as the pickle claims it.
        dtype: The type of its elements.
        data: Their bytes; of objects, a list.
        is_fortran: Whether the first index varies quickest.
        mask: Bytes that are not 0 for elements that are masked; empty if none are.
    """

    shape: tuple[int, ...]
    dtype: Dtype
    data: Any
    is_fortran: bool = False
    mask: Any = b""

    def at(self, *index: int) -> Any:
        """Return an element as a value of Python.

        Raises:
            LookupError: There are fewer bytes than the shape claims.
        """
        place, stride = 0, 1
        axes = zip(index, self.shape, strict=True)
        for i, length in axes if self.is_fortran else reversed([*axes]):
            place += i * stride
            stride *= length
        return self.flat(place)

    def flat(self, place: int) -> Any:
        """Return the element at a place in memory. Raises as `at`."""
        if self.mask and self.mask[place]:
            return _MASKED
        if self.dtype.kind in "OT":
            return self.data[place]
        return _element(self.dtype, self.data, place * self.dtype.size)


def _element(dtype: Dtype, data: Any, offset: int) -> Any:
    kind, size = dtype.kind, dtype.size
    if offset < 0 or offset + size > len(data):
        raise LookupError("there are fewer bytes than the shape claims")
    if dtype.inner is not None:
        return Array(dtype.inner[1], dtype.inner[0], data[offset : offset + size])
    if dtype.fields:
        return tuple(_element(inner, data, offset + at) for _, inner, at in dtype.fields)
    letters = _FORMATS.get((kind, size))
    if letters is not None:
        found = struct.unpack_from(dtype.order + letters, data, offset)
        if kind in "Mm":
            return Leaf(time_of(kind, found[0], dtype.unit))
        if kind == "f" and size < 8:
            return _shortest(found[0], letters)
        return found[0] if len(found) == 1 else complex(*found)
    raw = bytes(data[offset : offset + min(size, 1024)])
    if kind == "U":
        return raw.decode("utf-32-le" if dtype.order == "<" else "utf-32-be", "replace").rstrip("\0")
    return raw.rstrip(b"\0") if kind == "S" else raw


def _shortest(value: float, letter: str) -> float:
    """Return the float with the fewest digits that is this number in fewer bits: 0.1 for 0.10000000149011612."""
    for digits in range(3, 10):
        short = float(f"{value:.{digits}g}")
        try:
            if struct.unpack(letter, struct.pack(letter, short))[0] == value:
                return short
        except OverflowError:
            continue
    return value


# --- times -----------------------------------------------------------------------------------------------------------

_NOT_A_TIME = -(2**63)
_EPOCH = datetime.datetime(1970, 1, 1)
_PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9, "ps": 10**12, "fs": 10**15, "as": 10**18}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "D": 86400, "W": 7 * 86400}


def time_of(kind: str, value: int, unit: tuple[int, str]) -> str:
    """Return a time or, with the kind `m`, a span of time as text."""
    if value == _NOT_A_TIME:
        return "NaT"
    n, name = unit
    value *= n
    if kind == "m":
        return _span_of_time(value, name)
    try:
        if name == "Y":
            return str(1970 + value)
        if name == "M":
            return f"{1970 + value // 12}-{value % 12 + 1:02}"
        if name in _PER_SECOND:
            seconds, rest = divmod(value, _PER_SECOND[name])
            fraction = f".{rest:0{len(str(_PER_SECOND[name])) - 1}}".rstrip("0").rstrip(".")
            text = (_EPOCH + datetime.timedelta(seconds=seconds)).isoformat(" ")
            return f"{text}{fraction}" if fraction or not text.endswith(" 00:00:00") else text[:10]
        text = (_EPOCH + datetime.timedelta(seconds=value * _SECONDS[name])).isoformat(" ")
        return text[:10] if name in "DW" or text.endswith(" 00:00:00") else text
    except (OverflowError, LookupError):
        return f"{value} {name}".rstrip()


def _span_of_time(value: int, name: str) -> str:
    if name not in _SECONDS and name not in _PER_SECOND:
        return f"{value} {name}".rstrip()
    per_second = _PER_SECOND.get(name, 1)
    seconds, rest = divmod(value * _SECONDS.get(name, 1), per_second)
    days, seconds = divmod(seconds, 86400)
    fraction = f".{rest:0{len(str(per_second)) - 1}}" if rest else ""
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
    return clock if not days else f"{days} d" if not (seconds or rest) else f"{days} d {clock}"


# --- from pickles ----------------------------------------------------------------------------------------------------


def dtype_of(value: Any, depth: int = 0) -> Dtype:
    """Return the type that a pickle has made.

    Raises:
        Exception: Of any kind; it is none.
    """
    if not isinstance(value, Object) or depth > 3:
        raise TypeError("no dtype")
    if isinstance(value.maker, Name) and value.maker.path in ("StringDType", "_convert_to_stringdtype_kwargs"):
        return Dtype("T", 16)
    code = text_of_value(value.args[0])
    state = value.state if type(value.state) is tuple else (3, "|", None, None, None, -1, -1, 0)
    kind, size = code[0], int(code[1:] or 0) if code[1:].isdigit() else 0
    order = ">" if state[1] == ">" else "<"
    if kind == "U":
        size *= 4
    elif kind in "Mm":
        size = 8
        unit, n, *_ = state[8][1]
        return Dtype(kind, size, order, (int(n), bytes(bytes_of(unit)).decode("ascii")))
    if state[2] is not None:
        inner, shape = state[2]
        shape = shape if type(shape) is tuple else (shape,)
        return Dtype(kind, size, order, inner=(dtype_of(inner, depth + 1), _shape(shape)))
    if isinstance(state[4], Pairs):
        fields = [(text_of_value(name), *found[:2]) for name, found in state[4].pairs[:_MAX_FIELDS]]
        return Dtype(kind, size, order, fields=tuple((name, dtype_of(one, depth + 1), at) for name, one, at in fields))
    return Dtype(kind, size, order)


def array_of(value: Any) -> Array:
    """Return the array that a pickle has made.

    Raises:
        Exception: Of any kind; it is none.
    """
    if not isinstance(value, Object) or not isinstance(value.maker, Name):
        raise TypeError("no array")
    path = value.maker.path
    if path == "_frombuffer":
        content, dtype, shape, order = value.args
        return Array(_shape(shape), dtype_of(dtype), bytes_of(content), order == "F")
    if path not in ("_reconstruct", "_mareconstruct"):
        raise TypeError("no array")
    state = value.state
    if len(state) == 2 and type(state[0]) is tuple:  # of a class of the user's, with its attributes
        state = state[0]
    _, shape, dtype, is_fortran, content, *more = state
    found = dtype_of(dtype)
    data = content if found.kind in "OT" and type(content) is list else bytes_of(content)
    mask = bytes_of(more[0]) if path == "_mareconstruct" and more else b""
    return Array(_shape(shape), found, data, bool(is_fortran), mask)


def _shape(value: Any) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > _MAX_DIMENSIONS:
        raise TypeError("no shape")
    if not all(type(length) is int and 0 <= length < 2**63 for length in value):
        raise ValueError("no lengths")
    return value

"""pyarrow: arrays, as columns of pandas have them."""

from __future__ import annotations

from typing import Any

from dagron.preview.arrow import Kind, buffers_column
from dagron.preview.columns import Column, unknown
from dagron.preview.readers.reader import Look, Reader, Seen
from dagron.preview.readers.tables import column_seen
from dagron.preview.values import Name, Object, bytes_of

__all__ = ["PYARROW", "arrow_column"]

_KINDS = {
    "string": Kind("str", "text", "i"),
    "large_string": Kind("str", "text", "q"),
    "string_view": Kind("str", "views", "text"),
    "binary": Kind("binary", "bytes", "i"),
    "large_binary": Kind("binary", "bytes", "q"),
    "bool": Kind("bool", "bits"),
    **{
        f"{name}{8 * size}": Kind(f"{name}{8 * size}", "fixed", letter)
        for name, letters in (("int", "bhiq"), ("uint", "BHIQ"))
        for size, letter in zip((1, 2, 4, 8), letters, strict=True)
    },
    "halffloat": Kind("float16", "fixed", "e"),
    "float": Kind("float32", "fixed", "f"),
    "double": Kind("float64", "fixed", "d"),
}


def arrow_column(value: Any, look: Look) -> Column:
    """Return the values of an array, or of one in chunks, of which only the first is read.

    Raises:
        Exception: Of any kind; it is none.
    """
    if value.maker.path == "chunked_array":
        chunks = value.args[0]
        look.work(len(chunks))
        return _chunk(chunks[0])._replace(length=sum(chunk.args[0][1] for chunk in chunks))
    return _chunk(value)


def _chunk(value: Any) -> Column:
    (kind, length, _, offset, buffers, *_), *_ = value.args
    alias = kind.args[0] if isinstance(kind, Object) and kind.args else None
    known = _KINDS.get(alias) if isinstance(alias, str) else None
    if known is None:
        return unknown(alias[:40] if isinstance(alias, str) else "?", length)
    views = [None if one is None else bytes_of(one.args[0]) for one in buffers[:100]]
    return buffers_column(known, length, offset, views, ())


def _array(obj: Object, look: Look) -> Seen | None:
    return column_seen("Array", arrow_column(obj, look), look) if isinstance(obj.maker, Name) else None


PYARROW: dict[tuple[str, str], Reader] = {
    ("pyarrow", "_restore_array"): _array,
    ("pyarrow", "chunked_array"): _array,
}

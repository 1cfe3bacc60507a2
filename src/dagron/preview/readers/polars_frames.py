"""polars: frames and series, which are pickled as streams of Apache Arrow."""

from __future__ import annotations

from dagron.preview.arrow import stream_columns
from dagron.preview.columns import Column
from dagron.preview.readers.reader import Look, Reader, Seen
from dagron.preview.readers.tables import column_seen, table_seen
from dagron.preview.values import Object, bytes_of

__all__ = ["POLARS"]


def _series(obj: Object, look: Look) -> Column:
    return stream_columns(bytes_of(obj.state), look.work)[0]


def _frame_seen(obj: Object, look: Look) -> Seen:
    if isinstance(obj.state, list):  # up to version 1.4
        columns = [_series(one, look) for one in obj.state]
    else:
        columns = stream_columns(bytes_of(obj.state), look.work)
    return table_seen("DataFrame", columns, look, columns[0].length if columns else 0)


def _series_seen(obj: Object, look: Look) -> Seen:
    return column_seen("Series", _series(obj, look), look)


def _lazy_seen(obj: Object, _: Look) -> str:
    return f"<LazyFrame, a plan of {len(bytes_of(obj.state)):,} bytes>"


POLARS: dict[tuple[str, str], Reader] = {
    ("polars", "DataFrame"): _frame_seen,
    ("polars", "Series"): _series_seen,
    ("polars", "LazyFrame"): _lazy_seen,
}

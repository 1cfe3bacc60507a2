"""pandas: frames, series, indices, extension arrays, times. Versions 1 to 3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagron.preview.arrays import Array, array_of, time_of
from dagron.preview.columns import Column, unknown
from dagron.preview.layout import Part
from dagron.preview.readers.pyarrow_arrays import arrow_column
from dagron.preview.readers.reader import Look, Reader, Seen
from dagron.preview.readers.tables import column_seen, table_seen
from dagron.preview.values import Leaf, Name, Object, Pairs, text_of_value

__all__ = ["PANDAS"]

_RESOLUTIONS = {7: "s", 8: "ms", 9: "us", 10: "ns"}
"""Units of a time as numpy numbers them."""

_MAX_NESTING = 4
"""Arrays in arrays: a column has categories, which have an index, which has an array."""


# --- one column ------------------------------------------------------------------------------------------------------


def _values(value: Any, look: Look, row: int = 0, depth: int = 0) -> Column:
    """Return the values of an array of numpy or pandas; of one with two axes, those of a row.

    Raises:
        Exception: Of any kind; it is none.
    """
    look.work(1)
    if depth > _MAX_NESTING:
        raise ValueError("categories of categories of categories")
    if isinstance(value, Object) and isinstance(value.maker, Name):
        read = _ARRAYS.get(value.maker.path.rpartition(".")[2])
        if read is not None:
            return read(value, look, row, depth + 1)
        if value.maker.path in ("_new_Index", "_new_DatetimeIndex", "_new_PeriodIndex"):
            return _index(value, look, depth + 1)
    return _of_numpy(array_of(value), row)


def _of_numpy(array: Array, row: int) -> Column:
    name = array.dtype.name
    if len(array.shape) == 2:
        return Column(None, name, array.shape[1], lambda i: array.at(row, i))
    return Column(None, name, array.shape[0], array.flat)


def _times(value: Object, look: Look, row: int, depth: int) -> Column:
    dtype, data = value.state[:2]
    found = _of_numpy(array_of(data), row)
    if isinstance(dtype, Object) and isinstance(dtype.maker, Name) and dtype.maker.path == "DatetimeTZDtype":
        unit = text_of_value(dtype.get("unit"))
        shown = f"datetime64[{unit}, {_zone(dtype.get('tz'))}]"
        return found._replace(dtype=shown, at=lambda i: Leaf(f"{found.at(i).text}Z"))  # they are stored in UTC
    return found


def _zone(zone: Any) -> str:
    """Return the name of a time zone of `datetime`, `zoneinfo`, `pytz` or `dateutil`."""
    if isinstance(zone, Object):
        texts = [arg for arg in zone.args if isinstance(arg, str)]
        if texts:
            return texts[0]
        return "UTC" if isinstance(zone.maker, Name) and zone.maker.path in ("timezone", "_UTC") else "?"
    return "UTC" if isinstance(zone, Name) else "?"


def _periods(value: Object, look: Look, row: int, depth: int) -> Column:
    dtype, data = value.state[:2]
    name = text_of_value(dtype.args[0])
    unit = name.partition("[")[2].rstrip("]").partition("-")[0]
    unit = {"A": "Y", "H": "h", "T": "m", "min": "m", "S": "s"}.get(unit, unit)
    numbers = array_of(data)
    found = _of_numpy(numbers, row)

    def at(i: int) -> Any:
        number = found.at(i)
        return Leaf(time_of("M", number, (1, unit)))

    return found._replace(dtype=name, at=at)


def _masked(value: Object, look: Look, row: int, depth: int) -> Column:
    data, mask = _of_numpy(array_of(value.get("_data")), row), _of_numpy(array_of(value.get("_mask")), row)
    name = {"b": "boolean"}.get(data.dtype[0], data.dtype.capitalize().replace("Uint", "UInt"))
    return data._replace(dtype=name, at=lambda i: Leaf("<NA>") if mask.at(i) else data.at(i))


def _objects(value: Object, look: Look, row: int, depth: int) -> Column:
    found = _of_numpy(array_of(value.state[1]), row)

    def at(i: int) -> Any:
        text = found.at(i)
        return None if isinstance(text, float) else text  # a nan is what is missing

    return found._replace(dtype="str", at=at)


def _plain(value: Object, look: Look, row: int, depth: int) -> Column:
    return _of_numpy(array_of(value.state[1]), row)


def _of_arrow(value: Object, look: Look, row: int, depth: int) -> Column:
    return arrow_column(value.get("_pa_array") or value.get("_data"), look)


def _categorical(value: Object, look: Look, row: int, depth: int) -> Column:
    if type(value.state) is tuple:
        dtype, data = value.state[:2]
    else:
        dtype, data = value.get("_dtype"), value.get("_codes")
    codes = _of_numpy(array_of(data), row)
    categories = _values(dtype.get("categories"), look, 0, depth)

    def at(i: int) -> Any:
        code = codes.at(i)
        return None if code < 0 else categories.at(code)

    return codes._replace(dtype="category", at=at)


def _intervals(value: Object, look: Look, row: int, depth: int) -> Column:
    state = value.state[0] if type(value.state) is tuple else value.state
    left, right = (_values(state.get(side), look, 0, depth + 2) for side in ("_left", "_right"))
    dtype = state.get("_dtype")
    closed = dtype.get("closed") if isinstance(dtype, Object) else None
    opening, closing = "[" if closed in ("left", "both") else "(", "]" if closed in ("right", "both") else ")"
    return left._replace(
        dtype="interval", at=lambda i: Leaf(f"{opening}{_short(left.at(i))}, {_short(right.at(i))}{closing}")
    )


def _short(value: Any) -> str:
    return value.text if isinstance(value, Leaf) else f"{value:.8g}" if isinstance(value, (int, float)) else "?"


def _sparse(value: Object, look: Look, row: int, depth: int) -> Column:
    state = value.state if isinstance(value.state, Pairs) else value.state[0]
    return unknown("Sparse", state.get("_sparse_index").args[0])


_ARRAYS: dict[str, Callable[[Object, Look, int, int], Column]] = {
    "DatetimeArray": _times,
    "TimedeltaArray": _times,
    "PeriodArray": _periods,
    "IntegerArray": _masked,
    "FloatingArray": _masked,
    "BooleanArray": _masked,
    "StringArray": _objects,
    "StringArrayNumpySemantics": _objects,
    "NumpyExtensionArray": _plain,
    "ArrowStringArray": _of_arrow,
    "ArrowStringArrayNumpySemantics": _of_arrow,
    "ArrowExtensionArray": _of_arrow,
    "Categorical": _categorical,
    "IntervalArray": _intervals,
    "SparseArray": _sparse,
}


# --- indices ---------------------------------------------------------------------------------------------------------


def _index(value: Any, look: Look, depth: int = 0) -> Column:
    """Return the names of rows or columns."""
    if not isinstance(value, Object):
        return _values(value, look)
    cls, made_from = value.args[:2]
    if not isinstance(made_from, Pairs):
        return _values(made_from, look, 0, depth)
    name = made_from.get("name")
    if cls.path == "RangeIndex":
        start, stop, step = (made_from.get(key) for key in ("start", "stop", "step"))
        return Column(name, "range", len(range(start, stop, step)), lambda i: start + i * step)
    if cls.path == "MultiIndex":
        return _levels(made_from, look, depth)
    return _values(made_from.get("data"), look, 0, depth)._replace(name=name)


def _levels(made_from: Pairs, look: Look, depth: int) -> Column:
    levels = [_values(level, look, 0, depth + 2) for level in made_from.get("levels")[:10]]
    codes = [_of_numpy(array_of(one), 0) for one in made_from.get("codes")[:10]]
    names = made_from.get("names")

    def at(i: int) -> Any:
        found = [(level, one.at(i)) for level, one in zip(levels, codes, strict=False)]
        return tuple(None if code < 0 else level.at(code) for level, code in found)

    name = tuple(names[:10]) if isinstance(names, list) and any(one is not None for one in names[:10]) else None
    return Column(name, "multi", codes[0].length, at)


# --- frames and series -----------------------------------------------------------------------------------------------


def _managed(manager: Any) -> tuple[Sequence[Any], list[tuple[Any, Any]]]:
    """Return the axes of a manager of blocks, and the values of each block with its places."""
    if manager.args:
        blocks, axes = manager.args[:2]
        return axes, [(block.args[0], block.args[1]) for block in blocks]
    state = manager.state[3].get("0.14.1")  # the version of pandas that began to pickle them so
    return state.get("axes"), [(block.get("values"), block.get("mgr_locs")) for block in state.get("blocks")]


def _places(value: Any, n: int, look: Look) -> Sequence[int] | Column:
    if isinstance(value, Object) and isinstance(value.maker, Name) and value.maker.path == "slice":
        return range(*slice(*value.args).indices(n))
    if isinstance(value, Object) and isinstance(value.maker, Name) and value.maker.path == "BlockPlacement":
        return _places(value.args[0], n, look)
    return _values(value, look)


def _frame(obj: Object, look: Look) -> Seen:
    axes, blocks = _managed(obj.get("_mgr") or obj.get("_data"))
    names, index = _index(axes[0], look), _index(axes[1], look)
    n = names.length
    look.work(n)
    columns = [unknown("?", index.length)] * n
    for values, at in blocks:
        places = _places(at, n, look)
        n_places = places.length if isinstance(places, Column) else len(places)
        n_places = min(n_places, n)
        look.work(n_places)
        for row in range(n_places):
            place = places.at(row) if isinstance(places, Column) else places[row]
            columns[place] = _column(values, row, index.length, look)
    columns = [column._replace(name=_at(names, i)) for i, column in enumerate(columns)]
    return table_seen(_kind(obj, look), columns, look, index.length, index)


def _column(values: Any, row: int, length: int, look: Look) -> Column:
    try:
        return _values(values, look, row)
    except Exception:  # of any kind: an array of somebody else's
        maker = values.maker if isinstance(values, Object) else None
        return unknown(maker.path[:40] if isinstance(maker, Name) else "?", length)


def _at(column: Column, i: int) -> Any:
    try:
        return column.at(i)
    except Exception:  # of any kind: the bytes are not those of pandas
        return "?"


def _kind(obj: Object, look: Look) -> str:
    return look.name(obj.maker).rpartition(".")[2]


def _series(obj: Object, look: Look) -> Seen:
    axes, blocks = _managed(obj.get("_mgr") or obj.get("_data"))
    name = obj.get("_name")
    index = _index(axes[0], look)
    column = _column(blocks[0][0], 0, index.length, look)
    return column_seen("Series", column._replace(name=obj.get("name") if name is None else name), look, index)


def _index_seen(obj: Object, look: Look) -> Seen:
    return column_seen(look.name(obj.args[0]).rpartition(".")[2], _index(obj, look), look)


def _array_seen(obj: Object, look: Look) -> Seen:
    return column_seen(_kind(obj, look), _values(obj, look), look)


# --- single values ---------------------------------------------------------------------------------------------------


def _timestamp(obj: Object, _: Look) -> str:
    value, *more = obj.args
    unit = _RESOLUTIONS[more[2]] if len(more) > 2 else "ns"
    text = time_of("M", value, (1, unit))
    zone = more[1] if len(more) > 1 else None
    if zone is None:
        return f"Timestamp({text!r})"
    return f"Timestamp({text + 'Z'!r}, tz={_zone(zone)!r})"


def _timedelta(obj: Object, _: Look) -> str:
    unit = _RESOLUTIONS[obj.args[1]] if len(obj.args) > 1 else "ns"
    return f"Timedelta('{time_of('m', obj.args[0], (1, unit))}')"


def _interval(obj: Object, look: Look) -> Part:
    return look.call("Interval", obj.args[:2], [("closed", obj.args[2])])


_FREQUENCIES = {"YearEnd": "Y", "MonthEnd": "M", "Week": "W", "Day": "D", "Hour": "h", "Minute": "m", "Second": "s"}


def _period(obj: Object, _: Look) -> str:
    __, freq, ordinal = obj.state if type(obj.state) is tuple else obj.args
    return f"Period('{time_of('M', ordinal, (1, _FREQUENCIES[freq.maker.path]))}')"


def _not_a_time(_: Object, __: Look) -> str:
    return "NaT"


def _categorical_dtype(obj: Object, look: Look) -> str:
    categories = _values(obj.get("categories"), look)
    return f"CategoricalDtype of {categories.length:,} categories"


PANDAS: dict[tuple[str, str], Reader] = {
    ("pandas", "DataFrame"): _frame,
    ("geopandas", "GeoDataFrame"): _frame,
    ("pandas", "Series"): _series,
    **{("pandas", name): _index_seen for name in ("_new_Index", "_new_DatetimeIndex", "_new_PeriodIndex")},
    **{("pandas", name): _array_seen for name in _ARRAYS},
    ("pandas", "_unpickle_timestamp"): _timestamp,
    ("pandas", "_timedelta_unpickle"): _timedelta,
    ("pandas", "_nat_unpickle"): _not_a_time,
    ("pandas", "__nat_unpickle"): _not_a_time,
    ("pandas", "Interval"): _interval,
    ("pandas", "Period"): _period,
    ("pandas", "CategoricalDtype"): _categorical_dtype,
}

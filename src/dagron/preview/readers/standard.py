"""The standard library: times, paths, numbers, containers, patterns, arrays."""

from __future__ import annotations

import datetime
import ipaddress
import struct
import uuid
from typing import Any

from dagron.preview.layout import Group, Part
from dagron.preview.readers.reader import Look, Reader
from dagron.preview.values import Object, Pairs, bytes_of, text_of_value

__all__ = ["STANDARD"]


def _with_zone(made: Any, zone: tuple[Any, ...], look: Look) -> Part:
    text = repr(made)
    return text if not zone else Group(f"{text[:-1]}, ", [("tzinfo=", look.part(zone[0]))], ")")


def _date(obj: Object, _: Look) -> str:
    data = bytes(bytes_of(obj.args[0]))
    return repr(datetime.date(int.from_bytes(data[:2], "big"), *data[2:4]))


def _datetime(obj: Object, look: Look) -> Part:
    data = bytes(bytes_of(obj.args[0]))
    fold, month = divmod(data[2], 128)
    microsecond = int.from_bytes(data[7:10], "big")
    year = int.from_bytes(data[:2], "big")
    day, hour, minute, second = data[3:7]
    made = datetime.datetime(year, month, day, hour, minute, second, microsecond, fold=fold)
    return _with_zone(made, obj.args[1:], look)


def _time(obj: Object, look: Look) -> Part:
    data = bytes(bytes_of(obj.args[0]))
    fold, hour = divmod(data[0], 128)
    minute, second = data[1:3]
    made = datetime.time(hour, minute, second, int.from_bytes(data[3:6], "big"), fold=fold)
    return _with_zone(made, obj.args[1:], look)


def _timedelta(obj: Object, _: Look) -> str:
    days, seconds, microseconds = obj.args
    return repr(datetime.timedelta(days, seconds, microseconds))


def _timezone(obj: Object, look: Look) -> Part:
    made = _timedelta(obj.args[0], look)
    if len(obj.args) == 1 and made == "datetime.timedelta(0)":
        return "datetime.timezone.utc"
    return Group("datetime.timezone(", [("", made), *(("", look.part(name)) for name in obj.args[1:])], ")")


def _zone_info(obj: Object, look: Look) -> Part:
    return look.call("zoneinfo.ZoneInfo", (), [("key", obj.args[0])])


def _path(obj: Object, look: Look) -> Part:
    kind = obj.maker.path.rpartition(".")[2]
    between = "\\" if "Windows" in kind else "/"
    first, *rest = obj.args or (".",)
    return look.call(kind, [f"{first}{'' if first.endswith(between) or not rest else between}{between.join(rest)}"])


def _uuid(obj: Object, _: Look) -> str:
    return f"UUID('{uuid.UUID(int=obj.get('int'))}')"


def _fraction(obj: Object, look: Look) -> Part:
    return look.call("Fraction", obj.args)


def _decimal(obj: Object, look: Look) -> Part:
    return look.call("Decimal", obj.args)


def _complex(obj: Object, _: Look) -> str:
    real, imaginary = obj.args
    return repr(complex(real, imaginary))


def _counter(obj: Object, look: Look) -> Part:
    (counts,) = obj.args
    return look.call("Counter", [counts])


def _ordered(obj: Object, look: Look) -> Part:
    return look.call("OrderedDict", [Pairs(obj.pairs)])


def _default(obj: Object, look: Look) -> Part:
    return look.call("defaultdict", [*obj.args, Pairs(obj.pairs)])


def _deque(obj: Object, look: Look) -> Part:
    maximum = [("maxlen", obj.args[1])] if len(obj.args) > 1 else []
    return look.call("deque", [obj.items], maximum)


def _namespace(obj: Object, look: Look) -> Part:
    return look.call("SimpleNamespace", (), obj.state.pairs)


def _partial(obj: Object, look: Look) -> Part:
    function, args, keywords, _ = obj.state
    return look.call("functools.partial", [function, *args], keywords.pairs)


def _pattern(obj: Object, look: Look) -> Part:
    pattern, flags = obj.args
    # 32 is what a text has without any flag: re.UNICODE.
    return look.call("re.compile", [pattern] if flags in (0, 32) else [pattern, flags])


def _array(obj: Object, look: Look) -> Part:
    _, code, _, content = obj.args
    letter = text_of_value(code)
    if letter not in "bBhHiIlLqQfd" or len(letter) != 1:
        return look.call("array", [code, content])
    data = bytes_of(content)
    size = struct.calcsize(letter)
    n = len(data) // size
    values = struct.unpack_from(f"{look.cells(min(n, look.max_items))}{letter}", data)
    parts: list[tuple[str, Part]] = [("", repr(value)) for value in values]
    if n > len(parts):
        parts.append(("", f"... +{n - len(parts)}"))
    return Group(f"array({letter!r}, ", [("", Group("[", parts, "]"))], ")")


def _address(obj: Object, _: Look) -> str:
    make = ipaddress.IPv4Address if obj.maker.path == "IPv4Address" else ipaddress.IPv6Address
    return repr(make(*obj.args))


def _random(_: Object, __: Look) -> str:
    return "<random.Random>"


STANDARD: dict[tuple[str, str], Reader] = {
    ("datetime", "date"): _date,
    ("datetime", "datetime"): _datetime,
    ("datetime", "time"): _time,
    ("datetime", "timedelta"): _timedelta,
    ("datetime", "timezone"): _timezone,
    ("zoneinfo", "_unpickle"): _zone_info,
    **{("pathlib", f"{pure}{kind}Path"): _path for pure in ("", "Pure") for kind in ("", "Posix", "Windows")},
    ("uuid", "UUID"): _uuid,
    ("fractions", "Fraction"): _fraction,
    ("decimal", "Decimal"): _decimal,
    ("builtins", "complex"): _complex,
    ("collections", "Counter"): _counter,
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _default,
    ("collections", "deque"): _deque,
    ("types", "SimpleNamespace"): _namespace,
    ("functools", "partial"): _partial,
    ("re", "_compile"): _pattern,
    ("array", "_array_reconstructor"): _array,
    ("random", "Random"): _random,
    ("ipaddress", "IPv4Address"): _address,
    ("ipaddress", "IPv6Address"): _address,
}

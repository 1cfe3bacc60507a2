"""The bodies of records that are JSON: to bytes, and back with a check of every field. Opens nothing.

JSON is UTF-8 without escapes, and lone surrogates are let through, so that any name survives. A body is an object with
the fields of the class of its kind (`records`) under their names. A field with a default is optional, and is left out
if it has that value; tuples are lists, and values such as `Figures` are objects with their fields. A reader passes over
fields and over kinds that it does not know. A field of another type than its class says, or one that is missing and not
optional, is damage: whoever wrote it had the right check, so it is a fault of ours or somebody with the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import index
from typing import Any, get_args

from dagron.checkpoint.format.records import Event, Origin, Output
from dagron.figures import Figures
from dagron.frozen import fields_of

__all__ = ["checked_text", "decode_event", "decode_json", "encode_event", "encode_json"]


def encode_event(event: Event) -> bytes:
    """Return the body of the record of an event."""
    said = {}
    for name, (_, default) in _FIELDS[event.kind].items():
        value = getattr(event, name)
        if value != default:
            said[name] = value._asdict() if isinstance(value, (Figures, Output, Origin)) else value
    return encode_json(said)


def decode_event(kind: int, body: bytes) -> Event | None:
    """Read the body of a record; None if it is of a kind that is not known, or of one whose body is no JSON.

    Raises:
        ValueError: It is no JSON object.
        TypeError: A field is missing or of another type than it has to be.
    """
    fields = _FIELDS.get(kind)
    if fields is None:
        return None
    said = decode_json(body)
    return _CLASSES[kind](**{name: checked(said[name]) for name, (checked, _) in fields.items() if name in said})


def encode_json(said: dict[str, Any]) -> bytes:
    """Return an object as bytes."""
    # Not escaped: two escaped surrogates that stand together would be read back as one character.
    return json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")


def decode_json(data: bytes) -> dict[str, Any]:
    """Read an object.

    Raises:
        ValueError: It is none.
    """
    said = json.loads(data.decode("utf-8", "surrogatepass"))
    if not isinstance(said, dict):
        raise ValueError("it is no JSON object")
    return said


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def checked_text(value: Any) -> str:
    """Return what must be a text.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(checked_text, value))


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return [(first, second) for first, second in value]


def _figures(value: Any) -> Figures:
    started, duration, cpu, system, peak = (value[name] for name in Figures._fields)
    return Figures(_number(started), _number(duration), _number(cpu), _number(system), index(peak))


def _output(value: Any) -> Output:
    stdout, stderr, stdout_bytes, stderr_bytes = (value[name] for name in Output._fields)
    return Output(checked_text(stdout), checked_text(stderr), index(stdout_bytes), index(stderr_bytes))


def _text_pairs(value: Any) -> tuple[tuple[str, str], ...]:
    return tuple((checked_text(name), checked_text(text)) for name, text in _pairs(value))


def _origin(value: Any) -> Origin:
    file, path, module, name, arguments, parameters = (value[field] for field in Origin._fields)
    return Origin(
        checked_text(file),
        checked_text(path),
        checked_text(module),
        checked_text(name),
        _texts(arguments),
        _text_pairs(parameters),
    )


_CHECKED: dict[str, Callable[[Any], Any]] = {
    "float": _number,
    "int": index,
    "str": checked_text,
    "bool": _truth,
    "tuple[str, ...]": _texts,
    "tuple[tuple[str, str], ...]": _text_pairs,
    "tuple[tuple[int, float], ...]": lambda value: tuple((index(pid), _number(at)) for pid, at in _pairs(value)),
    "Figures": _figures,
    "Origin": _origin,
    "Output": _output,
}
"""What makes a field of a JSON value, or refuses it, by the type of the field as its class has it."""

_EVENTS: tuple[Any, ...] = get_args(Event)
_CLASSES: dict[int, Callable[..., Event]] = {cls.kind: cls for cls in _EVENTS}

_FIELDS = {
    int(cls.kind): {name: (_CHECKED[kind], default) for name, (kind, default) in fields_of(cls).items()}
    for cls in _EVENTS
}
"""What checks a field, and its default, by kind and name."""

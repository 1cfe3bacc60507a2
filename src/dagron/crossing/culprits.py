"""What in a task or a result cannot be pickled, and where it hangs."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from dagron.crossing.code import global_names
from dagron.crossing.picklers import Writable, dumps
from dagron.shown import text_of, without_middle
from dagron.tasks.holding import held_by

__all__ = ["find_culprit"]

_MAX_ITEMS = 1000
"""How many of the objects that one object holds are pickled one by one, which takes 20 ms where they are small."""

_MAX_REASON = 16 * 1024
"""Characters of what pickle said: an outcome has to fit on its slot's board."""


def find_culprit(obj: Any, error: BaseException, pickler: Callable[[Writable, int], Any]) -> tuple[str, str]:
    """Return where the innermost object that cannot be pickled hangs, and why."""
    path: list[str] = []
    seen = {id(obj)}
    while len(path) < 20:
        found = _broken_part(obj, seen, pickler)
        if found is None:
            break
        label, obj, error = found
        path.append(label)
    text = text_of(error)
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return " -> ".join(path), f"{type(obj).__name__} object, {without_middle(reason, _MAX_REASON)}"


def _broken_part(
    obj: Any, seen: set[int], pickler: Callable[[Writable, int], Any]
) -> tuple[str, Any, BaseException] | None:
    try:
        for label, part in _parts(obj):
            if id(part) in seen:
                continue
            seen.add(id(part))
            try:
                dumps(pickler, part)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                return label, part, error
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass  # its attributes or its repr raise; so much for this path
    return None


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, dict):
        for name, value in list(obj.items())[:_MAX_ITEMS]:
            yield f"key {name!r}"[:80], value
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj[:_MAX_ITEMS]):
            yield f"item {i}", value
    elif isinstance(obj, (set, frozenset)):
        for value in list(obj)[:_MAX_ITEMS]:
            yield f"element {value!r}"[:80], value
    else:
        yield from islice(held_by(obj), _MAX_ITEMS)
        yield from _globals_of(obj) if isinstance(obj, types.FunctionType) else _slots_of(obj)


def _globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name in sorted(global_names(function.__code__)):
        if name in function.__globals__:
            yield f"global {name!r}", function.__globals__[name]


def _slots_of(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, (type, types.ModuleType)):
        return
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(obj, name):
                yield f"attribute {name!r}", getattr(obj, name)

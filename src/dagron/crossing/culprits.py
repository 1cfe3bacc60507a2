"""What in a task or a result cannot be pickled, and where it hangs."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from dagron.crossing.picklers import Writable, dumps
from dagron.shown import text_of, without_middle

__all__ = ["find_culprit"]

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


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, functools.partial):
        yield "function of the partial", obj.func
        for i, value in enumerate(obj.args):
            yield f"argument {i}", value
        for name, value in obj.keywords.items():
            yield f"argument {name!r}", value
    elif isinstance(obj, types.MethodType):
        yield "object of the method", obj.__self__
    elif isinstance(obj, types.FunctionType):
        for name, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False):
            try:
                yield f"closure variable {name!r}", cell.cell_contents
            except ValueError:
                continue  # the cell is still empty
        for i, value in enumerate(obj.__defaults__ or ()):
            yield f"default {i}", value
        for name, value in (obj.__kwdefaults__ or {}).items():
            yield f"default {name!r}", value
        for name in _names_in(obj.__code__):
            if name in obj.__globals__:
                yield f"global {name!r}", obj.__globals__[name]
    elif isinstance(obj, dict):
        for name, value in list(obj.items())[:1000]:
            yield f"key {name!r}"[:80], value
    elif isinstance(obj, (list, tuple)):
        for i, value in enumerate(obj[:1000]):
            yield f"item {i}", value
    elif isinstance(obj, (set, frozenset)):
        for value in list(obj)[:1000]:
            yield f"element {value!r}"[:80], value
    elif not isinstance(obj, (type, types.ModuleType)):
        attributes = getattr(obj, "__dict__", None)
        if isinstance(attributes, dict):
            for name, value in list(attributes.items())[:1000]:
                yield f"attribute {name!r}", value
        for cls in type(obj).__mro__:
            slots = cls.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(obj, name):
                    yield f"attribute {name!r}", getattr(obj, name)

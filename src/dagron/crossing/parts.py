"""What tasks are made of on their way to a worker, and how they are put together there.

A task crosses as what is its own and the numbers of the parts that it has in common with other tasks; each part is
sent to each worker once. The form of a function or a partial is a part as well: it says which variables and arguments
are parts, and which are the task's own.

`sharing` decides what becomes a part. No worker imports `sharing`, so what pickled tasks name of the two modules is
here.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from dagron.crossing.script_modules import TABLE, bind

__all__ = [
    "EMPTY",
    "IS_EMPTY",
    "IS_OWN",
    "Form",
    "Member",
    "Own",
    "Part",
    "ReceivedParts",
    "annotations_of",
    "fill_places",
    "in_places",
    "instance",
]

Own = bytes | tuple[Any, ...]
"""What is a task's own: as bytes, or as plain values where it consists of nothing else."""


class Part(NamedTuple):
    """Something that several tasks have in common.

    Attributes:
        number: Its number in the run.
        data: The object, pickled.
        fresh: Whether every task gets a copy of its own.
    """

    number: int
    data: bytes
    fresh: bool


class Form(NamedTuple):
    """How a function or a partial is put together. Tasks of one form differ in their own values only.

    Attributes:
        base: The part that is its function: bare, or what a partial calls.
        retry_on: The part that is the exceptions that are worth a retry.
        is_partial: Whether it is a partial.
        n_positional: How many defaults or positional arguments it has; -1 for a function without defaults.
        names: The names of keyword-only defaults or keyword arguments; None for a function without such defaults.
        held: A number for each of these, in this order, and then for each variable of the closure: that of a part,
            `IS_OWN`, or `IS_EMPTY` for a variable without a value yet.
    """

    base: int
    retry_on: int
    is_partial: bool
    n_positional: int
    names: tuple[str, ...] | None
    held: tuple[int, ...]


class Member(NamedTuple):
    """A part that is a piece of another, as the two have something in common.

    Attributes:
        part: The other.
        position: Where in that.
    """

    part: int
    position: int


IS_OWN, IS_EMPTY = 0, -1
"""In a form, in the place of the number of a part; those begin with 1."""


class _Empty:
    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY = _Empty()
"""The value of a variable that has none yet."""


_NAMES = ("__qualname__", "__module__", "__doc__")


def annotations_of(function: types.FunctionType | type) -> dict[str, Any]:
    """Return the annotations of a function or class; texts if one cannot be evaluated, as of type checkers."""
    try:
        return function.__annotations__
    except Exception:
        if sys.version_info >= (3, 14):
            import annotationlib

            return annotationlib.get_annotations(function, format=annotationlib.Format.STRING)
        raise


def instance(
    template: types.FunctionType, defaults: Any, kwdefaults: dict[str, Any] | None, cells: tuple[Any, ...]
) -> types.FunctionType:
    """Return a function like the template that holds these."""
    closure = tuple(types.CellType() if content is EMPTY else types.CellType(content) for content in cells)
    return in_places(template, defaults, kwdefaults, closure)


def in_places(
    template: types.FunctionType, defaults: Any, kwdefaults: dict[str, Any] | None, cells: tuple[types.CellType, ...]
) -> types.FunctionType:
    """Return a function like the template with these places of variables. Named by pickled tasks."""
    function = types.FunctionType(template.__code__, template.__globals__, template.__name__, defaults, cells)
    function.__kwdefaults__ = kwdefaults
    for name in _NAMES:
        setattr(function, name, getattr(template, name))
    if annotations := annotations_of(template):
        function.__annotations__ = dict(annotations)
    return function


def fill_places(_: types.FunctionType, contents: Any) -> None:
    """Give the variables of a function their values. Named by pickled tasks."""
    for place, content in contents:
        place.cell_contents = content


class ReceivedParts:
    """The parts that a worker has been sent, and the tasks that are made of them.

    Args:
        binds: Whether names of the script mean here what the run's table says; in the script's own process they mean
            what they mean there.
    """

    def __init__(self, *, binds: bool) -> None:
        self._parts: dict[int, tuple[bytes, bool]] = {}
        self._kept: dict[int, Any] = {}
        self._binds = binds
        self._not_bound: Exception | None = None

    def add(self, number: int, data: bytes, fresh: bool) -> None:
        """Take a part."""
        if number == TABLE:
            if self._binds:
                # Now, so that it counts for no attempt; that it fails is told by each.
                try:
                    bind(data)
                except Exception as error:
                    self._not_bound = error
            return
        self._parts[number] = data, fresh

    def load(self, own: Own, parts: tuple[int, ...]) -> Any:
        """Return a task: its own with what that refers to; its only part if it has none."""
        if self._not_bound is not None:
            raise self._not_bound
        if isinstance(own, tuple):
            return self._filled(self._part(parts[0], {}), own)
        if not own:
            return self._part(parts[0], {})
        unpickler = _Unpickler(io.BytesIO(own), partial(self._part, copies={}))
        return unpickler.load() if parts else pickle.loads(own)

    def _filled(self, form: Form, values: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return a task of a form with these values."""
        copies: dict[int, Any] = {}
        own = iter(values)
        held = [
            self._part(number, copies) if number > 0 else next(own) if number == IS_OWN else EMPTY
            for number in form.held
        ]
        base, retry_on = self._part(form.base, copies), self._part(form.retry_on, copies)
        n = max(form.n_positional, 0)
        n_names = len(form.names or ())
        by_name = None if form.names is None else dict(zip(form.names, held[n : n + n_names], strict=True))
        if form.is_partial:
            return partial(base, *held[:n], **(by_name or {})), retry_on
        defaults = None if form.n_positional < 0 else tuple(held[:n])
        return instance(base, defaults, by_name, tuple(held[n + n_names :])), retry_on

    def _part(self, number: int, copies: dict[int, Any]) -> Any:
        if number in self._kept:
            return self._kept[number]
        if number in copies:
            return copies[number]  # the same object twice in one task
        data, fresh = self._parts[number]
        value = pickle.loads(data)
        if type(value) is Member:
            value = self._part(value.part, copies)[value.position]
        if fresh:
            copies[number] = value
        else:
            self._kept[number] = value
            self._parts[number] = b"", False
        return value


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, part: Callable[[int], Any]) -> None:
        super().__init__(file)
        self._part = part

    def persistent_load(self, number: int) -> Any:
        return self._part(number)

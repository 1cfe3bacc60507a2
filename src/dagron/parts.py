"""What tasks have in common, apart: pickled once, sent to each worker once, and referred to by number.

A job of many nodes often has one callable for all of them, partials of one function, or closures made in a loop, and
these often hold the same large object. Pickled one by one, each task would carry its function and that object again. So
three kinds of parts are told apart from what is a task's own:

*   a callable that several nodes have: a worker unpickles it once and keeps it;
*   a function that is defined in the script, without what its instances hold (defaults and closure): a worker keeps it
    with its globals, as it would keep an imported module, and makes an instance for each task;
*   an object that several tasks hold: text, bytes and functions without a closure are kept, for nobody can change them;
    of everything else each task gets a copy of its own, unpickled from the bytes that the worker has.

What two parts refer to in common is one object in the script and two in the worker.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import cloudpickle

from dagron.errors import TaskDefinitionError
from dagron.serialize import BY_VALUE_MODULES, CallablePickler, TaskPickler

__all__ = ["Part", "PickledTask", "SharedParts", "pickle_tasks"]

_SHARED_BYTES = 1024
"""What a part has at least, if it is no function: below, to refer to it saves nothing."""

_ATOMS = (int, float, complex, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType)


class Part(NamedTuple):
    """Something that several tasks have in common.

    Attributes:
        number: Its number in the run.
        data: It, pickled.
        fresh: Whether every task gets a copy of its own.
    """

    number: int
    data: bytes
    fresh: bool


class PickledTask(NamedTuple):
    """A task as bytes.

    Attributes:
        data: What is its own; empty if it is its only part, as it is.
        parts: What it shares with others.
    """

    data: bytes
    parts: tuple[Part, ...]


# --- in the coordinator --------------------------------------------------------------------------------------------


class _Reference(NamedTuple):
    number: int


class _OwnPickler(CallablePickler):
    """Pickles what is a task's own, and refers to the parts."""

    def __init__(self, file: io.BytesIO, protocol: int, parts: _Parts) -> None:
        super().__init__(file, protocol)
        self._parts = parts
        self.used: dict[int, Part] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) is _Reference:
            return obj.number
        part = self._parts.objects.get(id(obj))
        if part is None:
            return None
        self.used[part.number] = part
        return part.number

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.FunctionType:
            template = self._parts.templates.get(_template_key(obj))
            if template is not None:
                self.used[template.number] = template
                cells = tuple(map(_content, obj.__closure__ or ()))
                return _instance, (_Reference(template.number), obj.__defaults__, obj.__kwdefaults__, cells)
        return super().reducer_override(obj)


class _Parts:
    def __init__(self) -> None:
        self.objects: dict[int, Part] = {}
        self.templates: dict[tuple[int, int, str, str], Part] = {}
        self.n = 0

    def add(self, data: bytes, *, fresh: bool) -> Part:
        self.n += 1
        return Part(self.n, data, fresh)


def pickle_tasks(tasks: Iterable[tuple[str, tuple[Any, Any]]], n_nodes: Mapping[int, int]) -> list[PickledTask]:
    """Pickle the tasks of a run.

    Args:
        tasks: Of each node the name, and its callable with the exceptions that are worth a retry. Equal pairs are one
            object.
        n_nodes: By the id of a pair, how many nodes have it.

    Raises:
        TaskNotPicklableError: A task cannot be pickled; with the path to the culprit.
        HandleError: A task holds the handle of a node; with the path to that.
    """
    tasks = list(tasks)
    pickler = TaskPickler()
    parts = _Parts()
    single = [(name, pair) for name, pair in tasks if n_nodes[id(pair)] == 1]
    if len(single) > 1:
        _find_parts(single, parts, pickler)
    whole: dict[int, PickledTask] = {}
    sets: dict[tuple[int, ...], tuple[Part, ...]] = {}
    pickled = []
    for name, pair in tasks:
        found = whole.get(id(pair))
        if found is None:
            if n_nodes[id(pair)] > 1:
                found = whole[id(pair)] = PickledTask(b"", (parts.add(pickler.dump(name, pair), fresh=False),))
            else:
                found = _own(name, pair, parts, pickler, sets)
        pickled.append(found)
    return pickled


def _own(
    name: str, pair: tuple[Any, Any], parts: _Parts, pickler: TaskPickler, sets: dict[tuple[int, ...], tuple[Part, ...]]
) -> PickledTask:
    if parts.n:
        out = io.BytesIO()
        own = _OwnPickler(out, pickle.HIGHEST_PROTOCOL, parts)
        try:
            own.dump(pair)
        except Exception:
            pass  # a function that holds itself, say: as a whole it can be pickled, or it is told why it cannot
        else:
            # One tuple for all tasks with the same parts.
            return PickledTask(out.getvalue(), sets.setdefault(tuple(own.used), tuple(own.used.values())))
    return PickledTask(pickler.dump(name, pair), ())


def _find_parts(tasks: list[tuple[str, tuple[Any, Any]]], parts: _Parts, pickler: TaskPickler) -> None:
    held: dict[int, tuple[Any, int]] = {}
    templates: dict[tuple[int, int, str, str], tuple[types.FunctionType, int]] = {}
    for _, (fn, retry_on) in tasks:
        # Not for its size: a reference to it is found at once, and what it consists of is looked at each time.
        if id(retry_on) not in parts.objects:
            parts.objects[id(retry_on)] = parts.add(pickler.dump("", retry_on), fresh=False)
        for obj in _held_by(fn):
            held[id(obj)] = obj, held.get(id(obj), (obj, 0))[1] + 1
            if type(obj) is types.FunctionType and _has_template(obj):
                key = _template_key(obj)
                templates[key] = obj, templates.get(key, (obj, 0))[1] + 1
    for key, (function, n) in templates.items():
        if n > 1:
            try:
                parts.templates[key] = parts.add(pickler.dump("", _bare(function)), fresh=False)
            except TaskDefinitionError:
                continue  # the first task that has it is told so, with its name
    for obj, n in held.values():
        if n > 1 and _may_be_shared(obj):
            try:
                data = pickler.dump("", obj)
            except TaskDefinitionError:
                continue
            kept = isinstance(obj, (str, bytes)) or (type(obj) is types.FunctionType and not _holds_anything(obj))
            if len(data) >= _SHARED_BYTES or type(obj) is types.FunctionType:
                parts.objects[id(obj)] = parts.add(data, fresh=not kept)


def _held_by(fn: Any) -> Iterator[Any]:
    """Yield the callable and what it holds, one level deep, through partials and methods."""
    if isinstance(fn, partial):
        yield from _held_by(fn.func)
        yield from fn.args
        yield from fn.keywords.values()
        return
    if isinstance(fn, types.MethodType):
        yield fn.__self__
        return
    yield fn
    if type(fn) is types.FunctionType:
        yield from fn.__defaults__ or ()
        yield from (fn.__kwdefaults__ or {}).values()
        for cell in fn.__closure__ or ():
            content = _content(cell)
            if content is not _EMPTY:
                yield content


def _may_be_shared(obj: Any) -> bool:
    if isinstance(obj, _ATOMS):
        return False
    if isinstance(obj, (str, bytes)):
        return len(obj) >= _SHARED_BYTES
    return type(obj) is not types.FunctionType or _is_by_value(obj)


def _holds_anything(function: types.FunctionType) -> bool:
    return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__)


def _has_template(function: types.FunctionType) -> bool:
    return not function.__dict__ and _is_by_value(function)


def _is_by_value(function: types.FunctionType) -> bool:
    module = function.__module__
    if module in BY_VALUE_MODULES or module not in sys.modules:
        return True
    registered = cloudpickle.list_registry_pickle_by_value()
    if registered and any(module == name or module.startswith(f"{name}.") for name in registered):
        return True
    found: Any = sys.modules[module]
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not function


def _template_key(function: types.FunctionType) -> tuple[int, int, str, str]:
    return id(function.__code__), id(function.__globals__), function.__qualname__, function.__module__


def _bare(function: types.FunctionType) -> types.FunctionType:
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    bare = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    _name_like(bare, function)
    return bare


def _name_like(function: types.FunctionType, other: types.FunctionType) -> None:
    function.__qualname__ = other.__qualname__
    function.__module__ = other.__module__
    function.__doc__ = other.__doc__
    function.__annotations__ = other.__annotations__


class _Empty:
    def __reduce__(self) -> str:
        return "_EMPTY"


_EMPTY = _Empty()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


# --- in a worker -----------------------------------------------------------------------------------------------------


def _instance(
    template: types.FunctionType, defaults: Any, kwdefaults: dict[str, Any] | None, cells: tuple[Any, ...]
) -> types.FunctionType:
    """Return a function like the template that holds these. Named by pickled tasks."""
    closure = tuple(types.CellType() if content is _EMPTY else types.CellType(content) for content in cells)
    function = types.FunctionType(template.__code__, template.__globals__, template.__name__, defaults, closure)
    function.__kwdefaults__ = kwdefaults
    _name_like(function, template)
    return function


class SharedParts:
    """The parts that a worker has been sent, and the tasks that are made of them."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[bytes, bool]] = {}
        self._kept: dict[int, Any] = {}

    def add(self, number: int, data: bytes, fresh: bool) -> None:
        """Take a part."""
        self._parts[number] = data, fresh

    def load(self, data: bytes, parts: tuple[int, ...]) -> Any:
        """Return a task: its own bytes with what they refer to; its only part if it has none."""
        if not data:
            return self._part(parts[0], {})
        unpickler = _Unpickler(io.BytesIO(data), partial(self._part, copies={}))
        return unpickler.load() if parts else pickle.loads(data)

    def _part(self, number: int, copies: dict[int, Any]) -> Any:
        if number in self._kept:
            return self._kept[number]
        if number in copies:
            return copies[number]  # the same object twice in one task
        data, fresh = self._parts[number]
        value = pickle.loads(data)
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

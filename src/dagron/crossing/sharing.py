"""What tasks have in common, found before the run and pickled once, and what is left as each task's own.

A job of many nodes often has one callable for all of them, partials of one function, or closures made in a loop, and
these often hold the same large object. Pickled one by one, each task would carry its function and that object again.
There are three kinds of parts, beside what is a task's own:

*   a callable that several nodes have: a worker unpickles it once and keeps it;
*   a function that is defined in the script, without what its instances hold (defaults and closure): a worker keeps it
    with its globals, as it would keep an imported module, and makes an instance for each task;
*   an object that several tasks hold: text, bytes and functions without a closure are kept, for nobody can change them;
    of everything else each task gets a copy of its own, unpickled from the bytes that the worker has.

What two parts refer to in common is one object in the script and two in the worker.

Most of what is a task's own are numbers and short texts. Nobody can change these, so they are not pickled here, but go
as they are with the batch that the task is in; a form, which is a part as well, says where they belong. Without forms,
each of 10,000 closures takes 12.5 instead of 4.3 µs here, and 5.2 instead of 2.6 µs in a worker (November 2026): a
resume that has nothing to do would take two fifths longer. `parts` has what a worker makes of all this.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from dagron.crossing.parts import EMPTY, IS_EMPTY, IS_OWN, Form, Own, Part, annotations_of, instance
from dagron.crossing.picklers import CallablePickler, sent_by_value
from dagron.crossing.tasks import TaskPickler
from dagron.errors import TaskDefinitionError
from dagron.stored import BY_VALUE_MODULES

__all__ = ["PickledTasks", "pickle_tasks"]

_SHARED_BYTES = 1024
"""The least size of a part that is no function: a reference to a smaller object saves nothing."""

_ATOMS = (int, float, complex, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType)

_NUMBERS = frozenset({int, float, complex, bool, type(None)})
_TEXTS = frozenset({str, bytes})
_PLAIN = _NUMBERS | _TEXTS

_MAX_PLAIN_ITEMS = 16
"""The longest tuple that is looked through: pickling a longer one takes no more time."""


class PickledTasks(NamedTuple):
    """The tasks of a run, ready to be sent.

    Attributes:
        own: What is each task's own; empty bytes for a task that is a part as a whole.
        parts: What each task shares with others. If its own are plain values, the first is its form.
    """

    own: list[Own]
    parts: list[tuple[Part, ...]]


class _Reference(NamedTuple):
    number: int


class _Template:
    """A function without what its instances hold."""

    def __init__(self, first: types.FunctionType) -> None:
        self.first = first
        self.n = 0
        self.part: Part | None = None
        # Annotations can hold anything, so there is no key to be made of them.
        self._annotations = annotations_of(first)
        self._importable = _importable(first)

    def fits(self, function: types.FunctionType) -> bool:
        """Tell whether a function with the same key is an instance of this and nothing more."""
        if function.__dict__ or function is self._importable:
            return False
        annotations = annotations_of(function)
        if not annotations and not self._annotations:
            return True
        try:
            return bool(annotations == self._annotations)
        except Exception:
            return False  # an annotation is an array, say


_TemplateKey = tuple[int, int, str, str, str, int]


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
            template = self._parts.template_of(obj)
            if template is not None:
                self.used[template.number] = template
                cells = tuple(map(_content, obj.__closure__ or ()))
                return instance, (_Reference(template.number), obj.__defaults__, obj.__kwdefaults__, cells)
        return super().reducer_override(obj)


class _Parts:
    """The parts of a run, and the tasks that are made of them."""

    def __init__(self, pickler: TaskPickler) -> None:
        self.objects: dict[int, Part] = {}
        self._pickler = pickler
        self._templates: dict[_TemplateKey, _Template] = {}
        self._template_of: dict[int, _Template] = {}
        self._seen: dict[int, Any] = {}  # an id is only good while its object lives
        self._forms: dict[tuple[Any, ...], tuple[Part, ...]] = {}
        self._sets: dict[tuple[int, ...], tuple[Part, ...]] = {}
        self._all: list[Part] = []

    def add(self, data: bytes, *, fresh: bool) -> Part:
        """Make a part."""
        part = Part(len(self._all) + 1, data, fresh)
        self._all.append(part)
        return part

    def template_of(self, function: types.FunctionType) -> Part | None:
        """Return the part of which a function is an instance."""
        template = self._template_of.get(id(function))
        if template is None:
            template = self._templates.get(_template_key(function))
            if template is None or not template.fits(function):
                return None
        return template.part

    def find(self, callables: Iterable[tuple[Any, Any]]) -> None:
        """Find what several callables hold, and pickle it."""
        seen = self._seen
        several: dict[int, Any] = {}
        several_as_base: dict[int, Any] = {}
        for fn, retry_on in callables:
            # Not for its size: a reference to it is found at once, and what it consists of is looked at each time.
            if id(retry_on) not in self.objects:
                self.objects[id(retry_on)] = self.add(self._pickler.dump("", retry_on), fresh=False)
            if type(fn) is partial and isinstance(fn.func, (types.FunctionType, types.BuiltinFunctionType)):
                several_as_base[id(fn.func)] = fn.func
            for obj in _held_by(fn):
                kind = type(obj)
                if kind in _NUMBERS or (kind in _TEXTS and len(obj) < _SHARED_BYTES):
                    continue
                if id(obj) in seen:
                    several[id(obj)] = obj
                else:
                    seen[id(obj)] = obj
                if kind is types.FunctionType:
                    self._count(obj)
        for template in self._templates.values():
            if template.n > 1:
                try:
                    template.part = self.add(self._pickler.dump("", _bare(template.first)), fresh=False)
                except TaskDefinitionError:
                    continue  # the first task that has it is told so, with its name
        for obj in several.values():
            if _may_be_shared(obj):
                self._share(obj)
            elif id(obj) in several_as_base and _is_imported(obj):
                self._share(obj, imported=True)

    def _count(self, function: types.FunctionType) -> None:
        key = _template_key(function)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = _Template(function)
        if template.fits(function):
            template.n += 1
            self._template_of[id(function)] = template

    def _share(self, obj: Any, *, imported: bool = False) -> None:
        try:
            data = self._pickler.dump("", obj)
        except TaskDefinitionError:
            return
        is_function = type(obj) is types.FunctionType
        kept = imported or isinstance(obj, (str, bytes)) or (is_function and not _holds_anything(obj))
        if imported or is_function or len(data) >= _SHARED_BYTES:
            self.objects[id(obj)] = self.add(data, fresh=not kept)

    def whole(self, name: str, fn: Any, retry_on: Any) -> tuple[Own, tuple[Part, ...]]:
        """Return a task of several nodes, which is a part as it is; raises what `task` does."""
        return b"", (self.add(self._pickler.dump(name, (fn, retry_on)), fresh=False),)

    def task(self, name: str, fn: Any, retry_on: Any) -> tuple[Own, tuple[Part, ...]]:
        """Return what is a task's own, and its parts.

        Raises:
            TaskNotPicklableError: It cannot be pickled.
            HandleError: It holds the handle of a node.
        """
        if self._all:
            found = self._of_plain_values(fn, retry_on)
            if found is not None:
                return found
            out = io.BytesIO()
            own = _OwnPickler(out, pickle.HIGHEST_PROTOCOL, self)
            try:
                own.dump((fn, retry_on))
            except Exception:
                pass  # a function that holds itself, say: as a whole it can be pickled, or it is told why it cannot
            else:
                # One tuple for all tasks with the same parts.
                return out.getvalue(), self._sets.setdefault(tuple(own.used), tuple(own.used.values()))
        return self._pickler.dump(name, (fn, retry_on)), ()

    def _of_plain_values(self, fn: Any, retry_on: Any) -> tuple[Own, tuple[Part, ...]] | None:
        """Return a task that consists of parts and plain values only; else None."""
        positional: Sequence[Any] | None
        by_name: dict[str, Any] | None
        cells: tuple[types.CellType, ...] = ()
        if id(fn) in self.objects:
            return None  # what it holds may hold it, and is to hold this very one
        if type(fn) is types.FunctionType:
            base = self.template_of(fn)
            positional, by_name, cells = fn.__defaults__, fn.__kwdefaults__, fn.__closure__ or ()
        elif type(fn) is partial and not fn.__dict__:
            base = self.objects.get(id(fn.func))
            positional, by_name = fn.args, fn.keywords
        else:
            return None
        if base is None:
            return None
        values = []
        held = []
        for obj in (*(positional or ()), *(by_name or {}).values(), *map(_content, cells)):
            part = self.objects.get(id(obj))
            if part is not None:
                held.append(part.number)
            elif type(obj) in _PLAIN or (type(obj) is tuple and _is_plain(obj)):
                held.append(IS_OWN)
                values.append(obj)
            elif obj is EMPTY:
                held.append(IS_EMPTY)
            else:
                return None
        n_positional = -1 if positional is None else len(positional)
        names = None if by_name is None else tuple(by_name)
        key = base.number, self.objects[id(retry_on)].number, type(fn) is partial, n_positional, names, tuple(held)
        parts = self._forms.get(key)
        if parts is None:
            form = Form(*key)
            numbers = sorted({form.base, form.retry_on, *held} - {IS_OWN, IS_EMPTY})
            made_of = [self._all[number - 1] for number in numbers]
            first = self.add(pickle.dumps(form, pickle.HIGHEST_PROTOCOL), fresh=False)
            parts = self._forms[key] = (first, *made_of)
        return tuple(values), parts


def pickle_tasks(
    names: Sequence[str], callables: Sequence[Any], retry_on: Sequence[Any], n_nodes: Sequence[int]
) -> PickledTasks:
    """Pickle the tasks of a run.

    Args:
        names: For each task a node that has it.
        callables: What each task calls; no two are the same with the same `retry_on`.
        retry_on: For each task the exceptions that are worth a retry.
        n_nodes: How many nodes have each task.

    Raises:
        TaskNotPicklableError: A task cannot be pickled; with the path to the culprit.
        HandleError: A task holds the handle of a node; with the path to that.
    """
    pickler = TaskPickler()
    parts = _Parts(pickler)
    if n_nodes.count(1) > 1:
        parts.find((fn, exceptions) for fn, exceptions, n in zip(callables, retry_on, n_nodes, strict=True) if n == 1)
    pickled = PickledTasks([], [])
    for name, fn, exceptions, n in zip(names, callables, retry_on, n_nodes, strict=True):
        own, made_of = parts.whole(name, fn, exceptions) if n > 1 else parts.task(name, fn, exceptions)
        pickled.own.append(own)
        pickled.parts.append(made_of)
    return pickled


def _held_by(fn: Any) -> list[Any]:
    """Return the callable and what it holds, one level deep, through partials and methods."""
    if isinstance(fn, partial):
        return [*_held_by(fn.func), *fn.args, *fn.keywords.values()]
    if isinstance(fn, types.MethodType):
        return [fn.__self__]
    held = [fn]
    if type(fn) is types.FunctionType:
        if fn.__defaults__:
            held += fn.__defaults__
        if fn.__kwdefaults__:
            held += fn.__kwdefaults__.values()
        if fn.__closure__:
            held += [content for content in map(_content, fn.__closure__) if content is not EMPTY]
    return held


def _is_plain(items: tuple[Any, ...]) -> bool:
    if len(items) > _MAX_PLAIN_ITEMS:
        return False
    # A long text may be a part.
    return all(type(item) in _NUMBERS or (type(item) in _TEXTS and len(item) < _SHARED_BYTES) for item in items)


def _may_be_shared(obj: Any) -> bool:
    if isinstance(obj, _ATOMS):
        return False
    if isinstance(obj, (str, bytes)):
        return len(obj) >= _SHARED_BYTES
    return type(obj) is not types.FunctionType or _is_by_value(obj)


def _holds_anything(function: types.FunctionType) -> bool:
    return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__)


def _is_by_value(function: types.FunctionType) -> bool:
    return _importable(function) is not function


def _importable(function: types.FunctionType) -> Any:
    """Return what a worker would find under the name of a function; None if it would not look."""
    module = function.__module__
    if module in BY_VALUE_MODULES or module not in sys.modules:
        return None
    if sent_by_value(module):
        return None
    found: Any = sys.modules[module]
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found


def _is_imported(function: Any) -> bool:
    if type(function) is types.FunctionType:
        return not _is_by_value(function)
    return type(function) is types.BuiltinFunctionType and isinstance(function.__self__, types.ModuleType)


def _template_key(function: types.FunctionType) -> _TemplateKey:
    return (
        id(function.__code__),
        id(function.__globals__),
        function.__name__,
        function.__qualname__,
        function.__module__,
        id(function.__doc__),
    )


def _bare(function: types.FunctionType) -> types.FunctionType:
    return instance(function, None, None, (EMPTY,) * len(function.__closure__ or ()))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY

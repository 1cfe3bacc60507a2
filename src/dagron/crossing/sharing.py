"""What tasks have in common, found before the run and pickled once, and what is left as each task's own.

A job of many nodes often has one callable for all of them, partials of one function, or closures made in a loop, and
these often hold the same large object. Pickled one by one, each task would carry its function and that object again.
There are three kinds of parts, besides what is a task's own:

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
import types
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from dagron.crossing.parts import (
    EMPTY,
    IS_EMPTY,
    IS_OWN,
    Form,
    Member,
    Own,
    Part,
    fill_places,
    in_places,
)
from dagron.crossing.picklers import CallablePickler, WholePickler, dumps
from dagron.crossing.script_modules import TABLE
from dagron.crossing.tasks import TaskPickler, not_picklable
from dagron.crossing.templates import Templates
from dagron.errors import TaskDefinitionError, TaskNotPicklableError

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
        modules: The names of the script's modules that the tasks led to.
    """

    own: list[Own]
    parts: list[tuple[Part, ...]]
    modules: Collection[str] = ()


class _Reference(NamedTuple):
    number: int


class _OwnPickler(CallablePickler):
    """Pickles what is a task's own, and refers to the parts."""

    def __init__(self, file: io.BytesIO, protocol: int, parts: _Parts) -> None:
        super().__init__(file, protocol, parts.table)
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
            template = self._parts.templates.part_of(obj)
            if template is not None:
                self.used[template.number] = template
                places = tuple([self._place(cell) for cell in obj.__closure__ or ()])
                contents = [(self._place(cell), _content(cell)) for cell in obj.__closure__ or ()]
                filled = [(place, content) for place, content in contents if content is not EMPTY]
                made = in_places, (_Reference(template.number), obj.__defaults__, obj.__kwdefaults__, places)
                return (*made, filled, None, None, fill_places) if filled else made
        return super().reducer_override(obj)


class _Parts:
    """The parts of a run, and the tasks that are made of them."""

    def __init__(self, pickler: TaskPickler) -> None:
        self.objects: dict[int, Part] = {}
        self._pickler = pickler
        self.templates = Templates(pickler.table.names)
        self._seen: dict[int, Any] = {}  # an id is only good while its object lives
        self._forms: dict[tuple[Any, ...], tuple[Part, ...]] = {}
        self._sets: dict[tuple[int, ...], tuple[Part, ...]] = {}
        self._all: list[Part] = []
        self.table = pickler.table
        self._inside: dict[int, dict[int, Any]] = {}  # by number of a part, what could be told from a copy
        self._whole_of: dict[int, Part] = {}  # by number of a part that is a piece of another, that one
        self._unlike: dict[frozenset[int], bool] = {}

    def add(self, data: bytes, *, fresh: bool) -> Part:
        """Make a part."""
        part = Part(len(self._all) + 1, data, fresh)
        self._all.append(part)
        return part

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
                    self.templates.count(obj)
        for template in self.templates.of_several():
            try:
                template.part = self.add(self._pickler.dump("", template.bare), fresh=False)
            except TaskDefinitionError:
                continue  # the first task that has it is told so, with its name
        shared = [obj for obj in several.values() if self._may_be_shared(obj)]
        for obj in several.values():
            if id(obj) in several_as_base and self.templates.goes_by_name(obj):
                self.objects[id(obj)] = self.add(self._pickler.dump("", obj), fresh=False)
        self._share(shared)

    def _share(self, objects: list[Any]) -> None:
        """Make parts of objects that several tasks hold; of those that have something in common, pieces of one."""
        dumped: list[tuple[Any, bytes, dict[int, Any]]] = []
        for obj in objects:
            try:
                dumped.append((obj, *self._pickler.dump_part(obj)))
            except Exception:
                continue  # the first task that has it is told so, with its name
        for group in _groups([inside for _, _, inside in dumped]):
            found = [dumped[i] for i in group]
            if len(found) > 1 and max(len(data) for _, data, _ in found) >= _SHARED_BYTES:
                data, inside = self._pickler.dump_part(tuple(obj for obj, _, _ in found))
                together = self.add(data, fresh=True)
                self._inside[together.number] = inside
                for index, (obj, _, _) in enumerate(found):
                    piece = pickle.dumps(Member(together.number, index), pickle.HIGHEST_PROTOCOL)
                    part = self.objects[id(obj)] = self.add(piece, fresh=True)
                    self._whole_of[part.number] = together
                continue
            for obj, data, inside in found:
                is_function = type(obj) is types.FunctionType
                if is_function or len(data) >= _SHARED_BYTES:
                    kept = isinstance(obj, (str, bytes)) or (is_function and not _holds_anything(obj))
                    part = self.objects[id(obj)] = self.add(data, fresh=not kept)
                    self._inside[part.number] = inside

    def _are_unlike(self, used: Iterable[int], own: Iterable[int] = ()) -> bool:
        """Tell whether a task would see that it is made of parts: one holds what another or the task itself holds."""
        numbers = frozenset(self._whole_of[n].number if n in self._whole_of else n for n in used)
        if len(numbers & self._inside.keys()) < (1 if own else 2):
            return False
        found = self._unlike.get(numbers)
        if found is None:
            insides = [self._inside[number] for number in numbers if number in self._inside]
            found = self._unlike[numbers] = len(set().union(*insides)) < sum(map(len, insides))
        return found or any(key in self._inside.get(number, ()) for key in own for number in numbers)

    def _with_wholes(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        found = {part.number: part for part in parts}
        for number in list(found):
            if number in self._whole_of:
                whole = self._whole_of[number]
                found[whole.number] = whole
        return tuple(found.values())

    def _may_be_shared(self, obj: Any) -> bool:
        if isinstance(obj, _ATOMS):
            return False
        if isinstance(obj, (str, bytes)):
            return len(obj) >= _SHARED_BYTES
        return type(obj) is not types.FunctionType or not self.templates.goes_by_name(obj)

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
                if not self._are_unlike(own.used, own.told_apart()):
                    # One tuple for all tasks with the same parts.
                    used = tuple(own.used)
                    if used not in self._sets:
                        self._sets[used] = self._with_wholes(own.used.values())
                    return out.getvalue(), self._sets[used]
        return self._pickler.dump(name, (fn, retry_on)), ()

    def _of_plain_values(self, fn: Any, retry_on: Any) -> tuple[Own, tuple[Part, ...]] | None:
        """Return a task that consists of parts and plain values only; else None."""
        positional: Sequence[Any] | None
        by_name: dict[str, Any] | None
        cells: tuple[types.CellType, ...] = ()
        if id(fn) in self.objects:
            return None  # what it holds may hold it, and is to hold this very one
        if type(fn) is types.FunctionType:
            base = self.templates.part_of(fn)
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
        places = map(id, cells)
        if self._are_unlike([number for number in held if number > 0], tuple(places)):
            return None
        if parts is None:
            form = Form(*key)
            numbers = sorted({form.base, form.retry_on, *held} - {IS_OWN, IS_EMPTY})
            made_of = self._with_wholes(self._all[number - 1] for number in numbers)
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
    pickled = PickledTasks([], [], pickler.table.names.modules)
    for name, fn, exceptions, n in zip(names, callables, retry_on, n_nodes, strict=True):
        own, made_of = parts.whole(name, fn, exceptions) if n > 1 else parts.task(name, fn, exceptions)
        pickled.own.append(own)
        pickled.parts.append(made_of)
    try:
        data = pickler.table.dumped()
    except TaskNotPicklableError as error:
        raise _first_that_cannot_be_pickled(names, callables, retry_on, error) from error.__cause__
    if data:
        table = Part(TABLE, data, fresh=False)
        with_table: dict[int, tuple[Part, ...]] = {}
        for i, made_of in enumerate(pickled.parts):
            found = with_table.get(id(made_of))
            if found is None:
                found = with_table[id(made_of)] = (*made_of, table)
            pickled.parts[i] = found
    return pickled


def _first_that_cannot_be_pickled(
    names: Sequence[str], callables: Sequence[Any], retry_on: Sequence[Any], error: TaskNotPicklableError
) -> Exception:
    for name, fn, exceptions in zip(names, callables, retry_on, strict=True):
        task = fn, exceptions
        try:
            dumps(WholePickler, task)
        except Exception as found:
            return not_picklable(name, task, found)
    return TaskNotPicklableError(names[0], error.path, error.reason)


def _groups(insides: list[dict[int, Any]]) -> list[list[int]]:
    """Return the positions of these, those together that have something in common."""
    group_of = list(range(len(insides)))
    first: dict[int, int] = {}
    for i, inside in enumerate(insides):
        for key in inside:
            other = first.setdefault(key, i)
            if group_of[other] != group_of[i]:
                old, new = group_of[i], group_of[other]
                group_of = [new if group == old else group for group in group_of]
    found: dict[int, list[int]] = {}
    for i, group in enumerate(group_of):
        found.setdefault(group, []).append(i)
    return list(found.values())


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


def _holds_anything(function: types.FunctionType) -> bool:
    return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY

"""Tasks, results and exceptions to bytes and back, with public hooks of pickle and cloudpickle only.

What is defined in `__main__` travels by value, because a worker does not import the script again. For classes this
alone would not do: the coordinator has the class already, and an instance must come back as an instance of that very
class. So such a class is written as "look it up in `__main__`, else take this by-value copy" (`find_class`). In a
worker, where `__main__` is ours, the classes that a task brings are put there (`adopt_class`), so that results of other
nodes, also those of earlier runs, meet the class that the task knows.
"""

from __future__ import annotations

import functools
import pickle
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle

from dagron.arguments import CallWithHoles
from dagron.checkpoint.blobs import INLINE_MAX_BYTES, Blob, ResultSink
from dagron.checkpoint.storage import Digests, Storage
from dagron.errors import HandleError, RemoteTraceback, ResultNotPicklableError, TaskFailedError, TaskNotPicklableError
from dagron.stored import (
    ADOPTED,
    BY_VALUE_MODULES,
    class_here,
    find_class,
    is_by_value,
    restore_state,
    unpickled_class,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CallablePickler",
    "TaskPickler",
    "adopt_class",
    "describe_exception",
    "dump_exception",
    "dump_result",
    "load_exception",
]

_PROTOCOL = 5
_ATOMS = frozenset({int, float, bool, str, bytes, type(None), complex})

# An outcome has to fit on its slot's board; these are characters, of up to four bytes.
_MAX_TEXT = 16 * 1024
_MAX_MESSAGE = 4 * 1024
_MAX_EXCEPTION_BYTES = 64 * 1024

_copies: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
_copies_for_tasks: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()


class _Writable(Protocol):
    def write(self, data: bytes, /) -> object: ...


# --- classes of __main__ -------------------------------------------------------------------------------------------


def adopt_class(module_name: str, qualname: str, copy: bytes) -> type:
    """Return the by-value copy of a class and make it the one that `find_class` finds here. Named by pickled tasks."""
    own = class_here(module_name, qualname)
    if own is not None and own is not ADOPTED.get(qualname):
        return unpickled_class(qualname, copy)  # no worker: this is the process that defines it
    cls = ADOPTED[qualname] = unpickled_class(qualname, copy)
    if "." not in qualname:
        # For what the task itself pickles by reference, to processes that it starts.
        setattr(sys.modules["__main__"], qualname, cls)
    return cls


def _reduce_class(cls: type, rebuild: Callable[[str, str, bytes], type]) -> Any:
    if not is_by_value(cls) or "<locals>" in cls.__qualname__:
        return NotImplemented
    copies = _copies if rebuild is find_class else _copies_for_tasks
    copy = copies.get(cls)
    if copy is None:
        # Of a result, without the place of the script: it is to be the same wherever that stands.
        copy = cloudpickle.dumps(cls, _PROTOCOL) if rebuild is find_class else _dumps(_NamingPickler, cls)
        copies[cls] = copy
    return rebuild, (cls.__module__, cls.__qualname__, copy)


def _reduce_instance(obj: Any) -> Any:
    cls = type(obj)
    if hasattr(cls, "__setstate__") or not any(
        "__slots__" in base.__dict__ and is_by_value(base) for base in cls.__mro__
    ):
        return NotImplemented
    reduced = obj.__reduce_ex__(_PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or reduced[2] is None:
        return NotImplemented
    return *(*reduced, None, None)[:5], restore_state


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            return _reduce_class(obj, find_class)
        if is_by_value(type(obj)):
            return _reduce_instance(obj)
        if type(obj) is types.FunctionType and is_by_value(obj):
            # By reference it would load in this script only.
            raise pickle.PicklingError("a function of __main__")
        return NotImplemented


class _ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type):
            reduced = _reduce_class(obj, self._rebuild())
            if reduced is not NotImplemented:
                return reduced
        elif is_by_value(type(obj)):
            reduced = _reduce_instance(obj)
            if reduced is not NotImplemented:
                return reduced
        return super().reducer_override(obj)

    @staticmethod
    def _rebuild() -> Callable[[str, str, bytes], type]:
        return find_class


_NO_FILE = "<dynamic-code>"
"""What cloudpickle writes for the file of any code, since 3.1.2; tracebacks would show neither file nor source."""


def named_code(code: types.CodeType, file_name: str) -> types.CodeType:
    """Return code that knows the file that it is from. Named by pickled tasks."""
    return code.replace(co_filename=file_name)


def _reduce_code(code: types.CodeType) -> Any:
    if code.co_filename == _NO_FILE:
        return NotImplemented
    return named_code, (code.replace(co_filename=_NO_FILE), code.co_filename)


class _NamingPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Cloudpickle's, which also keeps the files that code is from."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.CodeType and (reduced := _reduce_code(obj)) is not NotImplemented:
            return reduced
        return super().reducer_override(obj)


class CallablePickler(_ByValuePickler):
    """Pickles what a task is made of; its classes become those of the worker, and its code knows its file."""

    def reducer_override(self, obj: Any) -> Any:
        """Reduce an object in a way of our own, or leave it to cloudpickle."""
        if type(obj) is types.CodeType and (reduced := _reduce_code(obj)) is not NotImplemented:
            return reduced
        return super().reducer_override(obj)

    @staticmethod
    def _rebuild() -> Callable[[str, str, bytes], type]:
        return adopt_class


class _Parts:
    """The smallest file that a pickler accepts."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.parts.append(bytes(data))


def _dumps(pickler: Callable[[_Writable, int], Any], obj: Any) -> bytes:
    out = _Parts()
    pickler(out, _PROTOCOL).dump(obj)
    return b"".join(out.parts)


# --- tasks ---------------------------------------------------------------------------------------------------------


class TaskPickler:
    """Pickles the tasks of one run; the same object is pickled once."""

    def __init__(self) -> None:
        self._blobs: dict[int, bytes] = {}
        self._kept: list[Any] = []  # an id is only good while its object lives
        _copies.clear()  # a class may have changed since an earlier run
        _copies_for_tasks.clear()

    def dump(self, node: str, task: Any) -> bytes:
        """Return `task`, a callable or a pair of one and something else, as bytes.

        Raises:
            TaskNotPicklableError: It cannot be pickled; with the path to the culprit.
            HandleError: It holds the handle of a node; with the path to that.
        """
        blob = self._blobs.get(id(task))
        if blob is None:
            try:
                blob = _dumps(CallablePickler, task)
            except Exception as error:
                path, reason = _find_culprit(task, error, CallablePickler)
                if isinstance(task, tuple):
                    path = path.removeprefix("item 0").removeprefix(" -> ")  # the callable of the pair
                if isinstance(error, HandleError):
                    where = f"stands in the task of node {node!r} at {path}, where no result can take its place"
                    raise HandleError(error.node, where) from None
                raise TaskNotPicklableError(node, path, reason) from error
            self._blobs[id(task)] = blob
            self._kept.append(task)
        return blob


# --- results -------------------------------------------------------------------------------------------------------


def dump_result(
    node: str,
    value: Any,
    directory: str | Path,
    digests: Digests,
    *,
    durable: bool,
) -> Blob:
    """Pickle what a task returned; a large one goes to a temporary file in `directory`.

    Raises:
        ResultNotPicklableError: It cannot be pickled; with the path to the culprit.
        OSError: The file could not be written.
    """
    if type(value) in _ATOMS and _is_small(value):
        data = pickle.dumps(value, _PROTOCOL)
        if len(data) <= INLINE_MAX_BYTES:
            return Blob(Storage.INLINE, len(data), digests.of(data, Storage.INLINE), data, "")
    for pickler in (_PlainPickler, _ByValuePickler):
        sink = ResultSink(directory, digests, durable=durable)
        try:
            pickler(sink, _PROTOCOL, buffer_callback=sink.expect).dump(value)
            return sink.finish()
        except BaseException as error:
            sink.discard()
            if sink.refusal is not None:
                raise sink.refusal from None
            if pickler is _ByValuePickler:
                if isinstance(error, KeyboardInterrupt):
                    raise
                path, reason = _find_culprit(value, error, _ByValuePickler)
                raise ResultNotPicklableError(node, path, reason) from error
    raise AssertionError("unreachable")


def _is_small(value: Any) -> bool:
    if isinstance(value, (str, bytes)):
        return len(value) * 4 < INLINE_MAX_BYTES
    return not isinstance(value, int) or value.bit_length() < 8 * INLINE_MAX_BYTES


# --- exceptions ----------------------------------------------------------------------------------------------------


def describe_exception(error: BaseException, skip_frames: int = 0) -> tuple[str, str, str]:
    """Return the type's name, the message and the traceback of an exception as text.

    Args:
        error: The exception.
        skip_frames: Outermost frames to leave out of the traceback: those that are ours.
    """
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", *BY_VALUE_MODULES)
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    message = _text_of(error)
    frames = error.__traceback__
    for _ in range(skip_frames):
        if frames is not None and frames.tb_next is not None:
            frames = frames.tb_next
    if frames is not None and frames.tb_next is not None and frames.tb_frame.f_code is CallWithHoles.__call__.__code__:
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(kind, error, frames))
    except BaseException as broken:
        text = f"{name}: <its traceback cannot be formatted: {type(broken).__name__}>\n"
    return name[:_MAX_MESSAGE], _shortened(message, _MAX_MESSAGE), _shortened(text)


def _text_of(error: BaseException) -> str:
    try:
        # Of a subclass of str the plain text, because it is unpickled where there is no such class.
        return str.__str__(str(error))
    except BaseException as broken:
        return f"<its __str__ raised {type(broken).__name__}>"


def _shortened(text: str, limit: int = _MAX_TEXT) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def dump_exception(error: BaseException) -> bytes:
    """Return an exception as bytes, or empty bytes if it does not survive a round trip or is very large."""
    try:
        data = _dumps(_ByValuePickler, error)
        if len(data) > _MAX_EXCEPTION_BYTES or not isinstance(pickle.loads(data), BaseException):
            return b""
    except BaseException:
        return b""
    return data


def load_exception(node: str, data: bytes, type_name: str, message: str, traceback_text: str) -> BaseException:
    """Return the exception that a worker sent, or a `TaskFailedError` with its text, caused by the remote traceback."""
    loaded: Any = None
    if data:
        try:
            loaded = pickle.loads(data)
        except Exception:
            pass  # its text says what there is to say
    fallback = TaskFailedError(node, type_name, message, traceback_text)
    for error in (loaded, fallback):
        if isinstance(error, BaseException):
            try:
                # Past the class's own __setattr__, which may forbid it, as that of a frozen dataclass does.
                BaseException.__setattr__(error, "__cause__", RemoteTraceback(traceback_text))
            except Exception:
                continue  # it lets nothing be set
            return error
    return fallback


# --- finding what cannot be pickled ----------------------------------------------------------------------------------


def _find_culprit(obj: Any, error: BaseException, pickler: Callable[[_Writable, int], Any]) -> tuple[str, str]:
    """Return where the innermost object that cannot be pickled hangs, and why."""
    path: list[str] = []
    seen = {id(obj)}
    while len(path) < 20:
        found = _broken_part(obj, seen, pickler)
        if found is None:
            break
        label, obj, error = found
        path.append(label)
    text = _text_of(error)
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return " -> ".join(path), f"{type(obj).__name__} object, {_shortened(reason)}"


def _broken_part(
    obj: Any, seen: set[int], pickler: Callable[[_Writable, int], Any]
) -> tuple[str, Any, BaseException] | None:
    try:
        for label, part in _parts(obj):
            if id(part) in seen:
                continue
            seen.add(id(part))
            try:
                _dumps(pickler, part)
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

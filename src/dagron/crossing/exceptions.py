"""What a task raised: as text for people, to bytes, and back.

Whatever an exception does when it is looked at is its author's: its `__str__`, its `__reduce__`, its attributes and its
unpickling may raise anything, hang, or end the process. So what is known already is told at each step, before the next
one runs more of the author's code.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Collection
from types import CodeType, TracebackType
from typing import Any

from dagron.crossing.picklers import PROTOCOL, ResultPickler
from dagron.errors import RemoteTraceback, TaskFailedError
from dagron.script import BY_VALUE_MODULES
from dagron.shown import text_of, without_middle

__all__ = ["describe_exception", "dump_exception", "load_exception", "noted", "traceback_of"]

# An outcome has to fit on its slot's board, whose `MAX_OUTCOME_BYTES` follows from these; the first two are characters,
# of up to four bytes.
_MAX_TEXT = 16 * 1024
_MAX_MESSAGE = 4 * 1024
_MAX_EXCEPTION_BYTES = 64 * 1024

# Past the classes of the exceptions, which may have attributes of these names.
_qualname_of: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_module_of: Callable[[type], object] = type.__dict__["__module__"].__get__
_args_of: Callable[[BaseException], tuple[object, ...]] = BaseException.__dict__["args"].__get__
traceback_of: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
"""Return the traceback of an exception."""

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None)})


def _nobody(*_: str) -> None:
    pass


def describe_exception(
    error: BaseException, ours: Collection[CodeType] = (), so_far: Callable[[str, str, str], object] = _nobody
) -> tuple[str, str, str]:
    """Return the type's name, the message and the traceback of an exception as text. Raises nothing.

    Args:
        error: The exception.
        ours: The code that called what raised; its frames are left out at the beginning of the traceback.
        so_far: Given what is known already, the same three texts, before each step that runs code of the exception's.
    """
    name = _type_name(type(error))[:_MAX_MESSAGE]
    frames = traceback_of(error)
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code in ours:
        frames = frames.tb_next
    so_far(name, message := _plain_message(error), f"{name}: {message}\n")
    message = without_middle(text_of(error), _MAX_MESSAGE)
    line = f"{name}: {message}\n" if message else f"{name}\n"
    text = without_middle(f"{_shown_frames(frames)}{line}", _MAX_TEXT)
    so_far(name, message, text)
    try:
        text = without_middle("".join(traceback.format_exception(type(error), error, frames)), _MAX_TEXT)
    except BaseException:
        return name, message, text
    so_far(name, message, text)
    return name, message, text


def _type_name(kind: type) -> str:
    # The plain text of a subclass of str, because it is unpickled where there is no such class.
    name, module = str.__str__(_qualname_of(kind)), _module_of(kind)
    if type(module) is not str or module in ("builtins", *BY_VALUE_MODULES):
        return name
    return f"{module}.{name}"


def _plain_message(error: BaseException) -> str:
    """Return what an exception says, as far as that is known without any code of its own."""
    args = _args_of(error)
    plain = [repr(arg)[:_MAX_MESSAGE] for arg in args[:8] if type(arg) in _ATOMS and not _is_long(arg)]
    return f"<its __str__ did not return; its arguments were ({', '.join(plain)})>" if plain else _NO_TEXT


_NO_TEXT = "<its __str__ did not return>"


def _is_long(arg: Any) -> bool:
    return (
        arg.bit_length() > _MAX_MESSAGE if type(arg) is int else type(arg) in (str, bytes) and len(arg) > _MAX_MESSAGE
    )


def _shown_frames(frames: TracebackType | None) -> str:
    """Return the frames of a traceback as text, which needs nothing of the exception."""
    if frames is None:
        return ""
    try:
        return "Traceback (most recent call last):\n" + "".join(traceback.format_tb(frames))
    except BaseException:  # what a module says of its source is its own
        return ""


class _Short:
    """A file for a pickler that takes only what an outcome has room for."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > _MAX_EXCEPTION_BYTES:
            raise pickle.PicklingError("it is too large")
        self.pieces.append(bytes(data))


def dump_exception(error: BaseException) -> bytes:
    """Return an exception as bytes, or empty bytes if it does not survive a round trip or is very large.

    All that is done with it where it arrives is done here first: it is loaded, gets its cause and a note, and says what
    it is. So what ends or holds up a process does so here.
    """
    out = _Short()
    try:
        ResultPickler(out, PROTOCOL).dump(error)
        data = b"".join(out.pieces)
        again = pickle.loads(data)
        if not issubclass(type(again), BaseException):
            return b""
        noted(_caused(again, ""), "")
        for text in (str, repr):
            try:
                text(again)
            except Exception:
                pass  # whoever reads it there meets the same, and it is an exception that can be told from others
    except BaseException:
        return b""
    return data


def load_exception(node: str, data: bytes, type_name: str, message: str, traceback_text: str) -> BaseException:
    """Return the exception that a worker sent, or a `TaskFailedError` with its text, caused by the remote traceback."""
    fallback = TaskFailedError(node, type_name, message, traceback_text)
    try:
        loaded = pickle.loads(data) if data else None
        if issubclass(type(loaded), BaseException):
            return _caused(loaded, traceback_text)
    except KeyboardInterrupt:
        raise  # the user's: a worker has found that its unpickling raises none
    except BaseException:
        pass  # its text says what there is to say, or it lets nothing be set
    return _caused(fallback, traceback_text)


def _caused(error: Any, traceback_text: str) -> BaseException:
    # Past the class's own __setattr__, which may forbid it, as that of a frozen dataclass does.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(traceback_text))
    found: BaseException = error
    return found


def noted(error: BaseException, note: str) -> None:
    """Add a note to an exception, unless it lets nothing be set."""
    try:
        BaseException.add_note(error, note)
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass

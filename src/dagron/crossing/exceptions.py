"""What a task raised: as text for people, to bytes, and back."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Collection
from types import CodeType
from typing import Any

from dagron.crossing.picklers import ResultPickler, dumps
from dagron.errors import RemoteTraceback, TaskFailedError
from dagron.script import BY_VALUE_MODULES
from dagron.shown import text_of, without_middle

__all__ = ["describe_exception", "dump_exception", "load_exception"]

# An outcome has to fit on its slot's board; these are characters, of up to four bytes.
_MAX_TEXT = 16 * 1024
_MAX_MESSAGE = 4 * 1024
_MAX_EXCEPTION_BYTES = 64 * 1024


def describe_exception(error: BaseException, ours: Collection[CodeType] = ()) -> tuple[str, str, str]:
    """Return the type's name, the message and the traceback of an exception as text.

    Args:
        error: The exception.
        ours: The code that called what raised; its frames are left out at the beginning of the traceback.
    """
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ in ("builtins", *BY_VALUE_MODULES)
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    message = text_of(error)
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code in ours:
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(kind, error, frames))
    except BaseException as broken:
        text = f"{name}: <its traceback cannot be formatted: {type(broken).__name__}>\n"
    return name[:_MAX_MESSAGE], without_middle(message, _MAX_MESSAGE), without_middle(text, _MAX_TEXT)


def dump_exception(error: BaseException) -> bytes:
    """Return an exception as bytes, or empty bytes if it does not survive a round trip or is very large."""
    try:
        data = dumps(ResultPickler, error)
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

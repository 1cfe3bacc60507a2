"""Bytes of a result back to its value, and why that cannot be done.

A result is unpickled in the worker of a child, and in the user's process where its value is asked for. What it names
may be gone by then, renamed, or of another version. That is no fault of who asks: the error names the node that made
the result. Imported by workers, so it stays light.
"""

from __future__ import annotations

import mmap
import pickle
import sys
from types import TracebackType
from typing import Any

from dagron.checkpoint.format.buffers import out_of_band
from dagron.errors import NotLoadableError, ResultNotLoadableError, StoredValueError
from dagron.shown import text_of

__all__ = ["load_result_of", "load_value"]

_SCRIPT = {"__main__", "__mp_main__"}
"""Whose changes have errors of their own."""

_UNSUSPECTED = {*sys.stdlib_module_names, "dagron"}
"""Packages that are suspected only if a name is missing there."""


def load_value(data: bytes | memoryview | mmap.mmap) -> Any:
    """Return what was pickled. Runs code that the pickle names.

    Args:
        data: As `load_result` and `read_blob` return it. Large buffers of a file that is mapped are not copied.

    Raises:
        NotLoadableError: Something was raised meanwhile, of whatever kind; that is its cause, without our frames.
        MemoryError: There is too little memory, which says nothing about the pickle.
        KeyboardInterrupt: From the user.
    """
    try:
        if isinstance(data, mmap.mmap):
            stream, buffers = out_of_band(data)
            return pickle.loads(stream, buffers=buffers)
        return pickle.loads(data)
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        # Past what a class of the user's may have put in its place.
        frames: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
        BaseException.with_traceback(error, frames.tb_next if frames is not None else None)
        raise NotLoadableError(_reason(error), _suspects(error, data)) from error


def load_result_of(node: str, data: bytes | memoryview | mmap.mmap, checkpoint_dir: str) -> Any:
    """Return the result of a node for whoever has asked for it: `load_value` with an error that names the node.

    Raises:
        ResultNotLoadableError: It cannot be loaded.
    """
    try:
        return load_value(data)
    except NotLoadableError as error:
        raise ResultNotLoadableError(node, error.reason, error.modules, checkpoint_dir) from error.__cause__


def _reason(error: BaseException) -> str:
    text = text_of(error)
    if isinstance(error, StoredValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _suspects(error: BaseException, data: bytes | memoryview | mmap.mmap) -> tuple[str, ...]:
    if isinstance(error, StoredValueError):
        return ()
    if isinstance(error, ImportError) and isinstance(error.name, str):
        return (error.name,)
    from dagron.crossing.inert import names_in  # where nothing is wrong, nobody pays for it

    names = [(module, name) for module, name in names_in(data) if module not in _SCRIPT]
    missing = [module for module, name in names if not _is_there(module, name)]
    installed = [module for module, _ in names if module.partition(".")[0] not in _UNSUSPECTED]
    return tuple(dict.fromkeys(missing or installed))


def _is_there(module: str, name: str) -> bool:
    # Loading has imported it, if there is such a module.
    found: Any = sys.modules.get(module)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except Exception:
        return False
    return True

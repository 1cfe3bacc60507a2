"""Which stored results refer to something of the script that has changed. Runs no code that a result names.

A run records what the definitions of the script look like, each as a digest of its shape. As long as they are those of
the last run, which is nearly always, nothing else is looked at. Where they differ, the results are gone through that
would be restored: what each refers to stands in it, with the shape that it had.
"""

from __future__ import annotations

import enum
import io
import pickle
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import repeat
from typing import Any

import cloudpickle
from blake3 import blake3

from dagron.crossing.inert import Inert, pickle_of
from dagron.crossing.names import IDENTITIES, called
from dagron.errors import CheckpointError, ClassChangedError
from dagron.shapes import shape_of
from dagron.stored.names import check_members, of_script

__all__ = ["changed_results", "shapes_now", "versions"]

_DIGEST_BYTES = 8
"""Old and new of one name are compared, not all with all."""


def shapes_now(modules: Collection[str]) -> dict[str, str]:
    """Return the names that the script defines, each with a digest of what instances consist of.

    Args:
        modules: The names of the script's modules.
    """
    found: dict[str, str] = {}
    for name in sorted(modules):
        module = sys.modules.get(name)
        if module is not None:
            for path, value in _definitions(module, modules):
                found[f"{called(name)}:{path}"] = _digest(value)
    return found


def _definitions(module: types.ModuleType, modules: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and value.__module__ in modules:
            yield from _with_inner(name, value)
        elif type(value) is types.FunctionType or type(value) in IDENTITIES:
            yield name, value


def _with_inner(path: str, cls: type, depth: int = 0) -> Iterator[tuple[str, type]]:
    yield path, cls
    for name, value in list(vars(cls).items()):
        if isinstance(value, type) and value.__qualname__ == f"{cls.__qualname__}.{name}" and depth < 10:
            yield from _with_inner(f"{path}.{name}", value, depth + 1)


def _digest(value: Any) -> str:
    if not isinstance(value, type):
        return ""
    told: Any = shape_of(value)
    if isinstance(value, enum.EnumMeta):
        members: Any = value.__members__
        told = told, [(name, repr(member._value_)) for name, member in members.items()]
    return blake3(repr(told).encode("utf-8", "surrogatepass")).hexdigest(_DIGEST_BYTES)


def versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of Python and of what pickles, each with its name."""
    python = ".".join(map(str, sys.version_info[:3]))
    return ("python", python), ("dagron", sys.modules["dagron"].__version__), ("cloudpickle", cloudpickle.__version__)


def changed_results(names: Iterable[str], load: Callable[[str], bytes | memoryview]) -> dict[str, str]:
    """Return the results that this script cannot load as what they were, each with the reason.

    Args:
        names: The nodes whose results are looked at.
        load: Returns the bytes of a result, or raises a `CheckpointError`.
    """
    found: dict[str, str] = {}
    for name in names:
        try:
            data = load(name)
        except CheckpointError:
            continue  # it is told to whoever takes it
        try:
            _Looker(io.BytesIO(pickle_of(data)), buffers=repeat(b"")).load()
        except ClassChangedError as error:
            found[name] = str(error)
        except Exception:
            continue  # it cannot be looked into; loading it will say why
    return found


def _looked_up(module: str, path: str, shape: Any) -> Any:
    found = of_script(module, path, shape)
    # The class itself only where it is asked for its members; nothing else here may run what is the user's.
    return found if isinstance(found, enum.EnumMeta) else Inert


def _member(cls: Any, value: Any, names: Any) -> Any:
    if isinstance(cls, enum.EnumMeta) and not isinstance(value, Inert):
        check_members(cls, names)
    return Inert()


class _Looker(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == of_script.__module__:
            return {"of_script": _looked_up, "member": _member}.get(name, Inert)
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        return Inert()

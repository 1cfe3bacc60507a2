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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any

import cloudpickle
from blake3 import blake3

from dagron.crossing.attributes import renamed, set_later
from dagron.crossing.inert import Inert, pickle_of
from dagron.crossing.names import IDENTITIES, called
from dagron.errors import CheckpointError, ClassChangedError
from dagron.shapes import shape_of
from dagron.stored.classes import bare
from dagron.stored.names import check_members, of_script

__all__ = ["changed_results", "may_have_changed", "shapes_now", "versions"]

_DIGEST_BYTES = 8
"""Old and new of one name are compared, not all with all."""


def shapes_now(modules: Collection[str]) -> dict[str, str]:
    """Return the names that the script defines, each with a digest of what instances consist of.

    Behind the digest of a class, and a blank each, stand the attributes that its methods set later.

    Args:
        modules: The names of the script's modules.
    """
    found: dict[str, str] = {}
    for name in sorted(modules):
        module = sys.modules.get(name)
        if module is not None:
            for path, value in _definitions(module, modules):
                later = set_later(value) if isinstance(value, type) else []
                found[f"{called(name)}:{path}"] = " ".join([_digest(value), *later])
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


def may_have_changed(recorded: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Tell whether a result can refer to something that has changed. A name that is new is in none yet.

    Args:
        recorded: As of `shapes_now`, of the script with which the results were last compared.
        now: Of the script as it is.
    """
    same = all(name in now and now[name].split(" ")[0] == told.split(" ")[0] for name, told in recorded.items())
    return not same or bool(renamed(recorded, now))


def changed_results(
    names: Iterable[str],
    load: Callable[[str], bytes | memoryview],
    recorded: Mapping[str, str],
    now: Mapping[str, str],
) -> dict[str, str]:
    """Return the results that this script cannot load as what they were, each with the reason.

    Args:
        names: The nodes whose results are looked at.
        load: Returns the bytes of a result, or raises a `CheckpointError`.
        recorded: As of `may_have_changed`.
        now: As of `may_have_changed`.
    """
    found: dict[str, str] = {}
    gone = renamed(recorded, now)
    for name in names:
        try:
            data = load(name)
        except CheckpointError:
            continue  # it is told to whoever takes it
        try:
            _Looker(pickle_of(data), gone).load()
        except ClassChangedError as error:
            found[name] = str(error)
        except Exception:
            continue  # it cannot be looked into; loading it will say why
    return found


def _member(cls: Any, value: Any, names: Any) -> Any:
    if isinstance(cls, enum.EnumMeta):
        members: Any = cls.__members__
        # What a value names is not loaded here, so such a member can only be looked for.
        known = [(name, members[name]._value_ if name in members and _is_inert(old) else old) for name, old in names]
        check_members(cls, tuple(known))
    return Inert()


def _is_inert(value: Any) -> bool:
    """Tell whether a value is, or holds, what stands for something that its pickle names."""
    if isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert)):
        return True
    if isinstance(value, dict):
        return any(map(_is_inert, (*value, *value.values())))
    return isinstance(value, (list, tuple, set, frozenset)) and any(map(_is_inert, value))


class _Compared(Inert):
    """Stands for an instance of a class that has other names for some of its attributes."""

    path = ""
    gone: frozenset[str] = frozenset()

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            for name in sorted(self.gone & part.keys()) if isinstance(part, dict) else ():
                raise ClassChangedError(self.path, f"its methods set no attribute {name!r} any more, but others")


def _set_attributes(obj: Inert, attributes: Any) -> None:
    obj.__setstate__(attributes)


def _bare(cls: Any, *_: Any) -> Inert:
    return cls() if isinstance(cls, type) and issubclass(cls, Inert) else Inert()


class _Looker(pickle.Unpickler):
    def __init__(self, data: Any, gone: Mapping[str, frozenset[str]]) -> None:
        super().__init__(io.BytesIO(data), buffers=repeat(b""))
        self._gone = gone

    def find_class(self, module: str, name: str) -> Any:
        if module == of_script.__module__:
            return {"of_script": self._looked_up, "member": _member}.get(name, Inert)
        if module == bare.__module__:
            return {"bare": _bare, "bare_exception": _bare, "set_attributes": _set_attributes}.get(name, Inert)
        return Inert

    def _looked_up(self, module: str, path: str, shape: Any) -> Any:
        found = of_script(module, path, shape)
        if isinstance(found, enum.EnumMeta):
            # The class itself, as it is asked for its members; nothing else here may run what is the user's.
            return found
        gone = self._gone.get(f"{module}:{path}")
        return Inert if gone is None else type("_Compared", (_Compared,), {"path": path, "gone": gone})

    def persistent_load(self, pid: Any) -> Any:
        return Inert()

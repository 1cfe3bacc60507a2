"""What a call in a pickle means where Python or dagron itself has it called: an object of a class, or a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagron.preview.values import ByteArray, Items, Name, Object, Pairs, bytes_of
from dagron.script import SCRIPT
from dagron.stored.classes import bare, bare_exception, fill_class, new_class, new_enum, set_attributes
from dagron.stored.code import fill_function, new_function
from dagron.stored.names import member, of_script, row, script_value

__all__ = ["MEMBER", "ROW", "made"]

MEMBER = Name("", "member")
"""Makes a member of an enum of the script: its class, its value, the names that it is composed of."""

ROW = Name("", "row")
"""Makes a named tuple of the script: its class, its fields, its values."""

# Whatever is made here is made as often as the pickle says so, which for the same arguments takes four bytes. So it
# takes little, and copies none of its arguments.
_MAX_ARGS = 12
_MAX_PATH = 100


def made(maker: Any, args: tuple[Any, ...], keywords: Pairs | None = None) -> Any:
    """Return what stands for what a call gives."""
    if not isinstance(maker, Name):
        return Object(maker, args, keywords)
    if maker.path.startswith("__pyx_unpickle_") and len(args) == 3:  # what Cython calls for a class of its own
        of_cython = Object(args[0])
        of_cython.state = args[2]
        return of_cython
    known = _KNOWN.get((maker.module, maker.path))
    if known is not None and len(args) <= _MAX_ARGS:
        try:
            found = known(*args)
        except (TypeError, ValueError, AttributeError, LookupError):
            found = None  # it is called with what that function does not take
        if found is not None:
            return found
    return Object(maker, args, keywords)


def _reconstructed(cls: Any, _: Any = None, state: Any = None) -> Any:
    return Object(cls, () if state is None else (state,))


def _items(kind: str) -> Callable[..., Any]:
    return lambda items=(): Items(kind, items) if type(items) in (list, tuple) else None


def _attribute(owner: Any, name: Any) -> Any:
    if type(name) is not str or len(owner.path) + len(name) > _MAX_PATH:
        return None
    return Name(owner.module, f"{owner.path}.{name}")


def _class(_key: Any, _meta: Any, _name: Any, qualname: Any, module: Any, *_: Any) -> Any:
    return Name(module, qualname) if type(module) is str and type(qualname) is str else None


def _skeleton(_meta: Any, name: Any, *_: Any) -> Any:
    return Name(SCRIPT, name) if type(name) is str else None


def _of_script(module: Any, path: Any, shape: Any = None) -> Any:
    return Name(module, path, shape) if type(module) is str and type(path) is str else None


def _function(_space: Any, _code: Any, name: Any, _cells: Any) -> Any:
    return Name(SCRIPT, name) if type(name) is str else None


def _with_keywords(cls: Any, args: Any, keywords: Any) -> Any:
    return Object(cls, args, keywords) if type(args) is tuple and isinstance(keywords, Pairs) else None


def _bare(cls: Any, args: Any = ()) -> Any:
    return Object(cls, args) if type(args) is tuple else None


def _with_attributes(obj: Any, attributes: Any) -> Any:
    obj.state = attributes
    return obj


def _name_of(function: Callable[..., object]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("copyreg", "__newobj__"): lambda cls, *args: Object(cls, args),
    ("copyreg", "__newobj_ex__"): _with_keywords,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("builtins", "set"): _items("set"),
    ("builtins", "frozenset"): _items("frozenset"),
    ("builtins", "bytearray"): lambda content=b"": ByteArray(bytes_of(content)),
    ("builtins", "getattr"): _attribute,
    ("cloudpickle.cloudpickle", "_make_skeleton_class"): _skeleton,
    _name_of(of_script): _of_script,
    _name_of(script_value): _of_script,
    _name_of(row): lambda cls, fields, values: Object(ROW, (cls, fields, values)),
    _name_of(member): lambda cls, value, names: Object(MEMBER, (cls, value, names)),
    _name_of(new_class): _class,
    _name_of(new_enum): _class,
    _name_of(fill_class): lambda cls, _: cls,
    _name_of(new_function): _function,
    _name_of(fill_function): lambda function, _: function,
    _name_of(bare): _bare,
    _name_of(bare_exception): _bare,
    _name_of(set_attributes): _with_attributes,
}

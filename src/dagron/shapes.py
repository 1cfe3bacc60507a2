"""What the instances of a class consist of, told in a few names: its shape. Frozen, as `stored` is.

Beside a result stands the shape that each class of the script had when the result was made. Where it is the shape of
the class of today, the stored state of an instance is what today's class expects. Methods do not count, so one that was
mended is used. A process without the script makes a class from the shape that shows what was stored, and nothing else.

A shape is a tuple: kind, names, bases. It does not depend on the version of Python.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import sys
import types
import weakref
from collections.abc import Iterator
from opcode import EXTENDED_ARG, opmap
from typing import Any, Generic, TypeVar

from dagron.script import SCRIPT, is_script

__all__ = [
    "ByClass",
    "Shape",
    "Shown",
    "difference",
    "forget_shapes",
    "is_of_script",
    "operations",
    "set_in",
    "shape_of",
    "stand_in",
]

Shape = tuple[Any, ...]

_INITIALIZERS = ("__new__", "__init__", "__post_init__")
_PICKLING = ("__getnewargs__", "__getnewargs_ex__", "__getstate__", "__reduce__", "__reduce_ex__", "__setstate__")
_KINDS = {
    "enum": "an enum",
    "data": "a dataclass",
    "ordered": "a frozen dataclass with slots",
    "tuple": "a named tuple",
    "own": "a class with pickling of its own",
}

_STORE_ATTR = opmap["STORE_ATTR"]


T = TypeVar("T")


class ByClass(Generic[T]):
    """What is known of classes. By identity: a metaclass may call two classes equal."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[type], T]] = {}

    def get(self, cls: type) -> T | None:
        """Return what is known of a class; None if nothing is."""
        found = self._known.get(id(cls))
        return found[1] if found is not None else None

    def put(self, cls: type, known: T) -> T:
        """Keep something of a class for as long as the class is there, and return it."""
        key = id(cls)
        self._known[key] = weakref.ref(cls, lambda _: self._known.pop(key, None)), known
        return known

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


_shapes = ByClass[Shape]()


def is_of_script(cls: Any) -> bool:
    """Tell whether a class or function is defined in the script."""
    return is_script(getattr(cls, "__module__", ""))


def shape_of(cls: type) -> Shape:
    """Return the shape of a class."""
    found = _shapes.get(cls)
    if found is None:
        kind, names = _own_shape(cls)
        if kind == "data":
            # A pickle of instances has the names twice, of which the second is a reference if the two are one object.
            # They would be in the process that runs the script, and not in a worker, which has the fields by pickle.
            names = tuple(map(sys.intern, names))
        found = _shapes.put(cls, (kind, names, tuple(map(_base_shape, cls.__bases__))))
    return found


def forget_shapes() -> None:
    """Look at each class again: one may have changed, in a notebook for instance."""
    _shapes.clear()


def _base_shape(base: type) -> Any:
    if is_of_script(base):
        return base.__qualname__, shape_of(base)
    return base.__qualname__ if base.__module__ == "builtins" else f"{base.__module__}.{base.__qualname__}"


def _own_shape(cls: type) -> tuple[str, tuple[str, ...]]:
    if isinstance(cls, enum.EnumMeta):
        return "enum", ()  # each member is stored with its value
    own = vars(cls)
    methods = [name for name in _PICKLING if isinstance(own.get(name), types.FunctionType)]
    if "__dataclass_fields__" in own:
        # Frozen ones with slots get methods that pickle values without their names.
        return "ordered" if methods else "data", tuple(field.name for field in dataclasses.fields(cls))
    if isinstance(own.get("_fields"), tuple) and issubclass(cls, tuple):
        return "tuple", own["_fields"]
    if methods:
        return "own", tuple(methods)
    slots = {name for name, value in own.items() if isinstance(value, types.MemberDescriptorType)}
    return "plain", tuple(sorted(slots | _set_by_initializers(cls)))


def _set_by_initializers(cls: type) -> set[str]:
    """Return the names of attributes that are set when an instance is made, also by methods that this calls."""
    own = vars(cls)
    found: set[str] = set()
    methods = [name for name in _INITIALIZERS if name in own]
    for name in methods:  # it grows meanwhile, which list iterators allow
        function = own[name]
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is None:
            continue
        found |= set_in(code)
        methods += [
            other for other in code.co_names if other not in methods and isinstance(own.get(other), types.FunctionType)
        ]
    return found


def set_in(code: types.CodeType) -> set[str]:
    """Return the names of the attributes that code sets, without that of functions in it."""
    if not code.co_names:
        return set()
    found: set[str] = set()
    bytecode = code.co_code
    kinds = bytecode[::2]
    at = kinds.find(_STORE_ATTR)
    while at >= 0:
        argument, above = bytecode[2 * at + 1], at - 1
        while above >= 0 and kinds[above] == EXTENDED_ARG:
            argument |= bytecode[2 * above + 1] << 8 * (at - above)
            above -= 1
        found.add(code.co_names[argument])
        at = kinds.find(_STORE_ATTR, at + 1)
    return found


def operations(bytecode: bytes) -> Iterator[tuple[int, int]]:
    """Yield the operations of some bytecode with their arguments. A tenth of what `dis` takes."""
    above = 0
    for operation, argument in zip(bytecode[::2], bytecode[1::2], strict=True):
        argument |= above
        above = argument << 8 if operation == EXTENDED_ARG else 0
        yield operation, argument


def difference(stored: Shape, found: Shape) -> str:
    """Return in words what tells two shapes apart; empty if nothing does."""
    if stored == found:
        return ""
    if stored[0] != found[0]:
        return f"it was {_KINDS.get(stored[0], 'a class')}, and is {_KINDS.get(found[0], 'a class')}"
    what = {"data": "field", "ordered": "field", "tuple": "field", "own": "method"}.get(stored[0], "attribute")
    told = [f"the {what} {name!r} is gone" for name in stored[1] if name not in found[1]]
    told += [f"the {what} {name!r} is new" for name in found[1] if name not in stored[1]]
    if not told and stored[1] != found[1] and stored[0] == "ordered":  # values of all others have their names
        told = [f"its {what}s were in the order {', '.join(stored[1])}"]
    if len(stored[2]) != len(found[2]) or [_name(base) for base in stored[2]] != [_name(base) for base in found[2]]:
        told.append(f"its bases were {', '.join(map(_name, stored[2]))}")
    else:
        told += [
            f"of its base {old[0]!r}, {difference(old[1], new[1])}"
            for old, new in zip(stored[2], found[2], strict=True)
            if old != new
        ]
    return "; ".join(told)


def _name(base: Any) -> str:
    return base if isinstance(base, str) else str(base[0])


# --- without the script ----------------------------------------------------------------------------------------------

_stand_ins: dict[tuple[str, Any], Any] = {}


class _WithState:
    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)
            elif part is not None:
                self.__dict__["state"] = part


class Shown(_WithState):
    """What stands for something of a script that this process does not have: it shows what was stored."""

    def __init__(self, *args: Any) -> None:
        if args:
            self.args = args

    def __repr__(self) -> str:
        values = [repr(value) for value in vars(self).get("args", ())]
        values += [f"{name}={value!r}" for name, value in vars(self).items() if name != "args"]
        return f"{type(self).__qualname__}({', '.join(values)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = object.__hash__


def stand_in(path: str, shape: Shape | None) -> Any:
    """Return a class that shows what instances of a class consisted of, without its methods."""
    found = _stand_ins.get((path, shape))
    if found is None:
        found = _stand_ins[path, shape] = _class_like(path, shape or ("plain", (), ()))
    return found


def _class_like(path: str, shape: Shape) -> type:
    kind, names, bases = shape
    base = _known_base(bases)
    namespace: dict[str, Any] = {"__module__": SCRIPT, "__qualname__": path, "__doc__": None}
    name = path.rpartition(".")[2]
    if kind == "tuple":
        make: Any = collections.namedtuple
        found: type = make(name, names, rename=True, module=SCRIPT)
        found.__qualname__ = path
        return found
    made_of = (Shown,) if base is object else (_WithState, base)
    return types.new_class(name, made_of, exec_body=lambda given: given.update(namespace))


def _known_base(bases: tuple[Any, ...]) -> type:
    """Return the built-in class that instances are made as; it decides how they are made."""
    for base in bases:
        if not isinstance(base, str):
            found = _known_base(base[1][2])
        elif base.startswith("enum."):
            continue
        else:
            found = getattr(sys.modules["builtins"], base, object)
            found = found if isinstance(found, type) else object
        if found is not object:
            return found
    return object

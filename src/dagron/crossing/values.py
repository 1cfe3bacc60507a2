"""The canonical digest of a value: equal values have equal ones, whatever their pickles look like.

The bytes of a pickle depend on more than the value: sets come in the order of their hashes, and a text that occurs
twice is a reference the second time, but only if it is one object. So a small result gets a second digest, over a walk
that sees neither. Types, the order of dicts, the signs of zeros and the bits of floats count. That a mutable object
occurs twice counts, too, as a task can tell `[a, a]` from `[a, copy(a)]` by changing one; for what cannot change it
does not. Objects are what pickling reduces them to.

No digest is no fault: then the bytes of the pickle decide. They always do for a large result: to look at its items
again takes as long as to pickle them, 0.6 to 1.1 times, and to sort those of a set takes four times as long. What large
results mostly are has the same bytes in each process anyhow: numbers, arrays, tables, instances of classes.
"""

from __future__ import annotations

import copyreg
import marshal
import pickle
import types
from collections.abc import Collection
from gc import get_referents
from typing import Any

from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.crossing.names import module_found
from dagron.crossing.picklers import PROTOCOL, PlainPickler, ResultPickler
from dagron.shapes import ByClass
from dagron.stored.names import member, of_script, row

__all__ = ["value_digest"]

_NUMBERS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes})
_ATOMS = _NUMBERS | _TEXTS | {complex}
_HASHABLE = frozenset({tuple, frozenset})
_CONTAINERS = _HASHABLE | {list, dict, set}
_FLAT = frozenset({list, tuple, dict})

_MAX_ITEMS = INLINE_MAX_BYTES
"""An item takes a byte of a pickle at least, so only what has a part very many times has more items."""

_MAX_ENCODED_BYTES = 16 * INLINE_MAX_BYTES
"""A text that is there many times is in a pickle once, and in what is digested each time. To digest so many bytes takes
0.1 ms."""

_SMALL_BYTES = 512
"""A pickle of so many bytes has no more items, of which none is longer: `_MAX_ENCODED_BYTES` in all, at most."""

_BATCH = 1000
"""So many items are pickled together. Python 3.15 writes a batch of one or none in another way than those before."""

_NONE = "it has no canonical digest"
_NOT_SIMPLE = "it is not as simple as most"

_MARSHAL_VERSION = 2
"""The last one without references, which depend on what is one object. Same bytes from 3.11 to 3.15, which sort sets by
the bytes of their elements."""


def value_digest(value: Any, digests: Digests, pickler: PlainPickler | ResultPickler, size: int) -> bytes:
    """Return the canonical digest of a value with a small pickle, or none.

    There is none if the pickle itself is canonical, nor if a part of the value can be told by its code only, or has
    parts of sets elsewhere, or fails to say what it consists of.

    Args:
        value: The value.
        digests: Those of the checkpoint.
        pickler: The one that has pickled the value; it knows the names of classes already.
        size: How many bytes that has taken.
    """
    kind = type(value)
    if kind in _ATOMS:
        return NO_VALUE_DIGEST
    met: list[Any] = []
    try:
        try:
            tree = _simple(value, pickler, met, {}) if size <= _SMALL_BYTES else None
        except ValueError:
            tree = None
        if kind in _FLAT and (tree is None or len(met) == 1) and _pickles_alike(value, kind):
            return NO_VALUE_DIGEST
        if tree is None or (len(met) > 1 and len(set(map(id, met))) < len(met)):
            tree = _Walk(pickler).tree(value)
            _check_length(tree)
        return digests.check(marshal.dumps(tree, _MARSHAL_VERSION))
    except Exception:  # code of the user's runs here, and the value itself is pickled already
        return NO_VALUE_DIGEST


def _pickles_alike(value: Any, kind: type) -> bool:
    """Tell whether all values that equal a list, a tuple or a dict have the same pickle: no text is there twice."""
    items = [*value, *value.values()] if kind is dict else value
    others = [item for item in items if type(item) not in _NUMBERS]
    return len(items) < _BATCH and _TEXTS.issuperset(map(type, others)) and len(set(others)) == len(others)


def _check_length(tree: Any) -> None:
    """Raise an error if the texts in a tree are too long to be digested as often as they are there."""
    length, held = 0, [tree]
    while held:
        length += sum([len(item) for item in held if type(item) in _TEXTS])
        if length > _MAX_ENCODED_BYTES:
            raise ValueError(_NONE)
        containers = [item for item in held if type(item) in _CONTAINERS]
        # A tenth of what a loop takes; without the keys of a dict, if all are texts.
        held = [*get_referents(*containers), *(key for item in containers if type(item) is dict for key in item)]


# --- small and simple, as most are ------------------------------------------------------------------------------------


def _simple(value: Any, pickler: PlainPickler | ResultPickler, met: list[Any], plain: dict[int, Any]) -> Any:
    """Return the tree of a value, in half of the time that `_Walk` takes, or raise an error.

    Args:
        value: The value.
        pickler: As of `value_digest`.
        met: Gets what could be there twice.
        plain: Gets the trees of classes whose instances are their attributes, by the id of each.
    """
    kind = type(value)
    met.append(value)
    if len(met) > _SMALL_BYTES:
        raise ValueError(_NOT_SIMPLE)
    named = None
    if kind in _CONTAINERS:
        if kind is list:
            return [item if type(item) in _ATOMS else _simple(item, pickler, met, plain) for item in value]
        if kind is tuple:
            return tuple([item if type(item) in _ATOMS else _simple(item, pickler, met, plain) for item in value])
        if kind is not dict:
            if not _ATOMS.issuperset(map(type, value)):
                raise ValueError(_NOT_SIMPLE)
            return value
        state = value
    else:
        named = plain.get(id(kind))
        if named is None:
            reference = pickler.references.get(id(kind))
            if reference is None:
                raise ValueError(_NOT_SIMPLE)
            traits = _traits.get(kind) or _traits_of(kind)
            named = _named_of_script(traits, reference[1])
            if not traits.is_plain or kind in copyreg.dispatch_table:
                return _named_one(value, pickler, met, named)
            plain[id(kind)] = named
        state = value.__dict__
        if not state:
            raise ValueError(_NOT_SIMPLE)
    if not _ATOMS.issuperset(map(type, state)):
        raise ValueError(_NOT_SIMPLE)
    tree = {key: item if type(item) in _ATOMS else _simple(item, pickler, met, plain) for key, item in state.items()}
    return tree if named is None else (..., "plain", named, tree)


def _named_one(value: Any, pickler: PlainPickler | ResultPickler, met: list[Any], named: Any) -> Any:
    """Return the tree of a member of an enum, or of a named tuple, that holds nothing but atoms."""
    reduced = pickler.reducer_override(value)
    if type(reduced) is not tuple or len(reduced) != 2:
        raise ValueError(_NOT_SIMPLE)
    function, (_, *more) = reduced
    if function is member:
        is_simple = type(more[0]) in _ATOMS
    else:
        is_simple = function is row and _ATOMS.issuperset(map(type, more[1]))
    if not is_simple:
        raise ValueError(_NOT_SIMPLE)
    met.pop()  # what cannot change may be there twice
    return ..., function.__name__, named, more


# --- whatever it is ---------------------------------------------------------------------------------------------------


def _n_built_in(keys: Collection[Any]) -> int:
    """Return how many items are in the elements of a set or the keys of a dict; -1 if one is not built in.

    If all are, `marshal` writes them as they are: none can change.
    """
    held, n_items = keys, len(keys)
    while containers := [item for item in held if type(item) not in _ATOMS]:
        if n_items > _MAX_ITEMS or not _HASHABLE.issuperset(map(type, containers)):
            return -1
        held = get_referents(*containers)
        n_items += len(held)
    return n_items


class _Traits:
    """What is known of a type.

    Attributes:
        is_plain: Whether its instances are reduced to their attributes.
        cannot_change: Whether its instances cannot change.
        reference: What a pickler has referred to it by, if that was asked for.
        named: The tree of that.
    """

    __slots__ = ("cannot_change", "is_plain", "named", "reference")

    def __init__(self, kind: type) -> None:
        self.is_plain = _is_plain(kind)
        self.cannot_change = _cannot_change(kind)
        self.reference: tuple[Any, ...] = ()
        self.named: tuple[Any, ...] = ()


_traits = ByClass[_Traits]()


def _traits_of(kind: type) -> _Traits:
    return _traits.get(kind) or _traits.put(kind, _Traits(kind))


def _named_of_script(traits: _Traits, reference: tuple[Any, ...]) -> Any:
    if traits.reference != reference:
        traits.reference, traits.named = reference, _of_script(reference)
    return traits.named


def _of_script(reference: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the tree of what has a name in the script, in one piece: a shape consists of many."""
    return ..., marshal.dumps(reference, _MARSHAL_VERSION)


class _Walk:
    """Makes a tree of one value that `marshal` writes: equal trees for equal values, others for others.

    What is built in stands for itself, if all that it holds does. What begins with an ellipsis stands for all else.

    """

    def __init__(self, pickler: PlainPickler | ResultPickler) -> None:
        self._left = _MAX_ITEMS
        self._met: dict[int, int] = {}  # what can change or holds such, by id, with its number
        self._immutable: dict[int, tuple[Any, int]] = {}  # trees, and how many items they have
        self._in_sets: set[int] = set()  # what can change in parts of sets, by id: it has no number outside
        self._kinds: dict[int, tuple[Any, bool]] = {}  # by the id of each: metaclasses may call two equal
        self._kept: list[Any] = []  # what was made for the walk: its id must stay its own
        self._pickler = pickler

    def tree(self, value: Any) -> Any:
        """Return the tree of a value."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is tuple:
            return tuple(self._trees(value))
        key = id(value)
        if key in self._met or key in self._in_sets:
            return self._again(key)
        if kind in _CONTAINERS:
            if kind is frozenset:
                return self._set(kind, value)
            self._met[key] = len(self._met)
            return self._trees(value) if kind is list else self._dict(value) if kind is dict else self._set(kind, value)
        if key in self._immutable:
            again, n_items = self._immutable[key]
            self._spend(n_items)
            return again
        before, left = len(self._met), self._left
        self._met[key] = before
        named, cannot_change = self._kinds.get(id(kind)) or self._look_at(kind)
        # The attributes are what the reduction comes to, and take a third of the time.
        if named is not None and (state := value.__dict__):
            tree: Any = ..., "plain", named, self._dict(state)
        else:
            self._spend(0)
            tree = self._reduced(value, kind)
        if cannot_change and len(self._met) == before + 1:
            del self._met[key]
            self._immutable[key] = tree, left - self._left
        return tree

    def _again(self, key: int) -> Any:
        if key in self._in_sets:
            raise ValueError(_NONE)
        return ..., "again", self._met[key]

    def _spend(self, count: int) -> None:
        self._left -= 1 + count
        if self._left < 0:
            raise ValueError(_NONE)

    def _trees(self, items: Collection[Any]) -> list[Any]:
        self._left -= 1 + len(items)
        if self._left < 0:
            raise ValueError(_NONE)
        return [item if type(item) in _ATOMS else self.tree(item) for item in items]

    def _dict(self, value: dict[Any, Any]) -> Any:
        self._left -= 1 + 2 * len(value)
        if self._left < 0:
            raise ValueError(_NONE)
        if not _ATOMS.issuperset(map(type, value)):
            n_items = _n_built_in(value)
            if n_items < 0:
                return ..., "dict", self._trees([*value, *value.values()])
            self._spend(n_items)
        return {key: item if type(item) in _ATOMS else self.tree(item) for key, item in value.items()}

    def _set(self, kind: type, elements: Collection[Any]) -> Any:
        n_items = _n_built_in(elements)
        self._spend(max(n_items, len(elements)))
        if n_items >= 0:
            return kind(elements)
        outer, parts, inside = self._met, [], set[int]()
        for element in elements:
            self._met = {}
            parts.append(marshal.dumps(self.tree(element), _MARSHAL_VERSION))
            if inside & self._met.keys() or outer.keys() & self._met.keys():
                raise ValueError(_NONE)
            inside |= self._met.keys()
        self._met = outer
        self._in_sets |= inside
        return ..., kind.__name__, sorted(parts)

    def _look_at(self, kind: type) -> tuple[Any, bool]:
        """Return the tree of a type if its instances are their attributes; and whether these cannot change."""
        traits = _traits_of(kind)
        named = self._named(kind) if traits.is_plain and kind not in copyreg.dispatch_table else None
        self._kinds[id(kind)] = found = named, traits.cannot_change
        return found

    def _named(self, kind: type) -> Any:
        reference = self._pickler.references.get(id(kind))
        return self.tree(kind) if reference is None else _named_of_script(_traits_of(kind), reference[1])

    def _reduced(self, value: Any, kind: type) -> Any:
        if kind is bytearray:
            return ..., "bytearray", bytes(value)
        if kind is types.CodeType:
            raise ValueError(_NONE)  # its bytes depend on what was run before
        if kind is pickle.PickleBuffer:
            return ..., "buffer", bytes(value.raw()), memoryview(value).readonly
        reduced = self._reduce(value)
        if reduced is NotImplemented:  # a class or a function that is pickled by its name
            return ..., "name", _public(value.__module__, value.__qualname__, value), value.__qualname__
        if isinstance(reduced, str):
            return ..., "name", pickle.whichmodule(value, reduced), reduced  # type: ignore[attr-defined]
        parts: list[Any] = [*reduced, *[None] * (6 - len(reduced))]
        function, arguments, state, items, pairs, setter = parts
        if function is of_script:
            return _of_script(arguments)
        if function is member or function is row:
            return ..., function.__name__, self._named(arguments[0]), self._trees(arguments[1:])
        return (
            ...,
            "object",
            self.tree(function),
            self._set(set, arguments[0]) if function is kind and _is_set(kind) else self._trees(arguments),
            self._state(state),
            self._made(items),
            self._made(pairs),
            self.tree(setter),
        )

    def _made(self, items: Any) -> Any:
        made = [] if items is None else list(items)
        self._kept.append(made)
        return self._trees(made)

    def _state(self, state: Any) -> Any:
        """Return a state as a tree. Its containers belong to the object, which may have made them just now."""
        self._kept.append(state)
        if type(state) is tuple:
            return ..., "state", *map(self._state, state)
        kind = type(state)
        return self._trees(state) if kind is list else self._dict(state) if kind is dict else self.tree(state)

    def _reduce(self, value: Any) -> Any:
        """Return what the pickler of the result reduces an object to; NotImplemented if it takes the name."""
        reduced = self._pickler.reducer_override(value)
        if reduced is NotImplemented and not isinstance(value, (type, types.FunctionType)):
            reducer = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(PROTOCOL) if reducer is None else reducer(value)
        self._kept.append(reduced)
        return reduced


def _public(module: str, path: str, obj: Any) -> str:
    """Return where everybody finds what a private module of a package defines: `pathlib._local` is 3.13's only."""
    package, _, name = module.rpartition(".")
    return package if name.startswith("_") and module_found(package, path) is obj else module


def _is_plain(kind: Any) -> bool:
    """Tell whether instances of a type are reduced to their attributes, unless they have none."""
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and not issubclass(kind, (list, dict, type, types.FunctionType))
        and kind.__dictoffset__ != 0
        and not any(type(held) is types.MemberDescriptorType for c in kind.__mro__ for held in vars(c).values())
    )


def _is_set(kind: Any) -> bool:
    """Tell whether instances of a type are reduced to a list of what is in them, in the order of a set."""
    own = kind.__reduce__
    return kind.__reduce_ex__ is object.__reduce_ex__ and (own is set.__reduce__ or own is frozenset.__reduce__)


def _cannot_change(kind: type) -> bool:
    """Tell whether objects of a type, a class or a function among them, stay what they are by their own account."""
    hash_of: Any = kind.__hash__
    if issubclass(kind, (type, types.FunctionType, types.BuiltinFunctionType)):
        return True
    return hash_of is not None and hash_of is not object.__hash__

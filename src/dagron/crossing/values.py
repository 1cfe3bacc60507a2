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
import weakref
from collections.abc import Collection, Iterator
from typing import Any

from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.crossing.names import module_found
from dagron.crossing.picklers import PROTOCOL, PlainPickler, ResultPickler
from dagron.stored.names import of_script

__all__ = ["value_digest"]

_NUMBERS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes})
_ORDERED = frozenset({int, str, bytes})
_ATOMS = _NUMBERS | _TEXTS | {complex}
_FLAT = frozenset({list, tuple, dict})

_MAX_ITEMS = INLINE_MAX_BYTES
"""An item takes a byte of a pickle at least, so only what has a part very many times has more items."""

_MAX_ENCODED_BYTES = 16 * INLINE_MAX_BYTES
"""A text that is there many times is in a pickle once, and in what is digested each time. To digest so many bytes takes
0.1 ms."""

_SURELY_SHORT = 64
"""So many items of a small pickle make no more than four times `_MAX_ENCODED_BYTES`, so nobody has to count."""

_BATCH = 1000
"""So many items are pickled together. Python 3.15 writes a batch of one or none in another way than those before."""

_NONE = "it has no canonical digest"

_MARSHAL_VERSION = 2
"""The last one without references, which depend on what is one object. Same bytes from 3.11 to 3.15."""


def value_digest(value: Any, digests: Digests, pickler: PlainPickler | ResultPickler) -> bytes:
    """Return the canonical digest of a value with a small pickle, or none.

    There is none if the pickle itself is canonical, nor if a part of the value can be told by its code only, or has
    parts of sets elsewhere, or fails to say what it consists of.

    Args:
        value: The value.
        digests: Those of the checkpoint.
        pickler: The one that has pickled the value; it knows the names of classes already.
    """
    kind = type(value)
    if kind in _ATOMS:
        return NO_VALUE_DIGEST
    texts: Collection[str | bytes] = ()  # what may be there more often than in the pickle
    try:
        if kind in _FLAT and (kinds := set(map(type, items := _items_of(value, kind)))) <= _ATOMS:
            texts = () if kinds <= _NUMBERS else [item for item in items if type(item) in _TEXTS]
            if len(set(texts)) == len(texts) and complex not in kinds and len(items) < _BATCH:
                return NO_VALUE_DIGEST  # no text is there twice, so all equal values have this pickle
            tree = value
        elif (tree := _flat_tree(value, kind, pickler)) is None:
            walk = _Walk(pickler)
            tree = walk.tree(value)
            if walk.n_items > _SURELY_SHORT:
                texts = list(_texts(tree))
        if texts and sum(map(len, texts)) > _MAX_ENCODED_BYTES:
            return NO_VALUE_DIGEST
        return digests.check(marshal.dumps(tree, _MARSHAL_VERSION))
    except Exception:  # code of the user's runs here, and the value itself is pickled already
        return NO_VALUE_DIGEST


def _items_of(value: Any, kind: type) -> Any:
    return [*value, *value.values()] if kind is dict else value


def _flat_tree(value: Any, kind: type, pickler: PlainPickler | ResultPickler) -> Any:
    """Return what `_Walk` would, in half of the time; None if the value is not as simple as most."""
    if kind is set:
        return _sorted(kind, value)
    reference = pickler.references.get(kind)
    if reference is None or not _traits_of(kind)[0] or kind in copyreg.dispatch_table:
        return None
    state = vars(value)
    is_flat = (
        0 < len(state) <= _SURELY_SHORT
        and _ATOMS.issuperset(map(type, state.values()))
        and _ATOMS.issuperset(map(type, state))
    )
    return (..., "plain", (..., "of script", *reference[1]), state) if is_flat else None


def _texts(tree: Any) -> Iterator[str | bytes]:
    kind = type(tree)
    if kind in _TEXTS:
        yield tree
    elif kind is dict:
        for pair in tree.items():
            yield from _texts(pair)
    elif kind is list or kind is tuple:
        for item in tree:
            yield from _texts(item)


_traits: weakref.WeakKeyDictionary[type, tuple[bool, bool]] = weakref.WeakKeyDictionary()
"""Whether a type is plain, and whether its instances cannot change."""


def _traits_of(kind: type) -> tuple[bool, bool]:
    found = _traits.get(kind)
    if found is None:
        found = _traits[kind] = _is_plain(kind), _cannot_change(kind)
    return found


class _Walk:
    """Makes a tree of one value that `marshal` writes: equal trees for equal values, others for others.

    Atoms, tuples, lists, and flat dicts stand for themselves. What begins with an ellipsis stands for all else.
    """

    def __init__(self, pickler: PlainPickler | ResultPickler) -> None:
        self._left = _MAX_ITEMS
        self._met: dict[int, int] = {}  # what can change or holds such, by id, with its number
        self._in_sets: set[int] = set()  # the same of parts of sets, which have no number outside
        self._immutable: dict[int, tuple[Any, int]] = {}  # trees, and how many items they have
        self._kinds: dict[type, tuple[Any, bool]] = {}
        self._kept: list[Any] = []  # what was made for the walk: its id must stay its own
        self._pickler = pickler

    @property
    def n_items(self) -> int:
        """How many items the tree has."""
        return _MAX_ITEMS - self._left

    def tree(self, value: Any) -> Any:
        """Return the tree of a value."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind in _FLAT:
            if kind is not tuple:
                key = id(value)
                if key in self._met or key in self._in_sets:
                    return self._again(key)
                self._met[key] = len(self._met)
            return self._items(value, kind)
        if kind is frozenset:
            return self._set(kind, value)
        if kind is set or kind is bytearray:
            key = id(value)
            if key in self._met or key in self._in_sets:
                return self._again(key)
            self._met[key] = len(self._met)
            return self._set(kind, value) if kind is set else (..., "bytearray", bytes(value))
        return self._object(value, kind)

    def _again(self, key: int) -> Any:
        if key in self._in_sets:
            raise ValueError(_NONE)
        return ..., "again", self._met[key]

    def _spend(self, count: int) -> None:
        self._left -= 1 + count
        if self._left < 0:
            raise ValueError(_NONE)

    def _items(self, value: Any, kind: type) -> Any:
        items = _items_of(value, kind)
        self._left -= 1 + len(items)
        if self._left < 0:
            raise ValueError(_NONE)
        if _ATOMS.issuperset(map(type, items)):
            return value
        parts = list(map(self.tree, items))
        return parts if kind is list else tuple(parts) if kind is tuple else (..., "dict", parts)

    def _set(self, kind: type, elements: Collection[Any]) -> Any:
        self._spend(len(elements))
        if (tree := _sorted(kind, elements)) is not None:
            return tree
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

    def _object(self, value: Any, kind: type) -> Any:
        key = id(value)
        if key in self._immutable:
            tree, n_items = self._immutable[key]
            self._spend(n_items)
            return tree
        if key in self._met or key in self._in_sets:
            return self._again(key)
        before, left = len(self._met), self._left
        self._met[key] = before
        self._spend(0)
        named, cannot_change = self._kinds.get(kind) or self._look_at(kind)
        # The attributes are what the reduction comes to, and take a third of the time.
        state = vars(value) if named else None
        tree = (..., "plain", named, self._items(state, dict)) if state else self._reduced(value)
        if cannot_change and len(self._met) == before + 1:
            del self._met[key]
            self._immutable[key] = tree, left - self._left
        return tree

    def _look_at(self, kind: type) -> tuple[Any, bool]:
        """Return the tree of a type if its instances are their attributes; and whether these cannot change."""
        is_plain, cannot_change = _traits_of(kind)
        named = None
        if is_plain and kind not in copyreg.dispatch_table:
            reference = self._pickler.references.get(kind)
            named = self.tree(kind) if reference is None else (..., "of script", *reference[1])
        self._kinds[kind] = found = named, cannot_change
        return found

    def _reduced(self, value: Any) -> Any:
        kind = type(value)
        if kind is types.CodeType:
            raise ValueError(_NONE)  # its bytes depend on what was run before
        if kind is pickle.PickleBuffer:
            return ..., "buffer", bytes(value.raw()), memoryview(value).readonly
        reduced = self._reduce(value)
        if reduced is NotImplemented:  # a class or a function that is pickled by its name
            return ..., "name", _public(value.__module__, value.__qualname__, value), value.__qualname__
        if isinstance(reduced, str):
            return ..., "name", pickle.whichmodule(value, reduced), reduced  # type: ignore[attr-defined]
        if reduced[0] is of_script:
            return ..., "of script", *reduced[1]
        parts: list[Any] = [*reduced, *[None] * (6 - len(reduced))]
        function, arguments, state, items, pairs, setter = parts
        return (
            ...,
            "object",
            self.tree(function),
            self._set(set, arguments[0]) if function is kind and _is_set(kind) else self._items(arguments, tuple),
            self._state(state),
            self._made(items),
            self._made(pairs),
            self.tree(setter),
        )

    def _made(self, items: Any) -> Any:
        made = [] if items is None else list(items)
        self._kept.append(made)
        return self._items(made, list)

    def _state(self, state: Any) -> Any:
        """Return a state as a tree. Its containers belong to the object, which may have made them just now."""
        self._kept.append(state)
        if type(state) is tuple:
            return ..., "state", *map(self._state, state)
        kind = type(state)
        return self._items(state, kind) if kind is list or kind is dict else self.tree(state)

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


def _sorted(kind: type, elements: Collection[Any]) -> Any:
    """Return the tree of a set if there is one order for its elements; else None."""
    kinds = set(map(type, elements))
    return (..., kind.__name__, "sorted", sorted(elements)) if len(kinds) == 1 and kinds <= _ORDERED else None

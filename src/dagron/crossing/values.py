"""The canonical digest of a value: equal values have equal ones, whatever their pickles look like.

The bytes of a pickle depend on more than the value: sets come in the order of their hashes, and a text that occurs
twice is a reference the second time, but only if it is one object. So a small result gets a second digest, over a walk
that sees neither. Types, the order of dicts, the signs of zeros and the bits of floats count. That a mutable object
occurs twice counts, too, as a task can tell `[a, a]` from `[a, copy(a)]` by changing one; for what cannot change it
does not. Objects are what pickling reduces them to.

No digest is no fault: then the bytes of the pickle decide.
"""

from __future__ import annotations

import copyreg
import marshal
import pickle
import types
import weakref
from collections.abc import Collection
from typing import Any

from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.format.digests import NO_VALUE_DIGEST, Digests
from dagron.crossing.picklers import PROTOCOL, PlainPickler, ResultPickler
from dagron.stored.names import of_script

__all__ = ["value_digest"]

_NUMBERS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes})
_ORDERED = frozenset({int, str, bytes})
_ATOMS = _NUMBERS | _TEXTS | {complex}

_MAX_ITEMS = INLINE_MAX_BYTES
"""An item takes a byte of a pickle at least, so only what has a part very many times has more items."""

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
    if _pickles_canonically(value):
        return NO_VALUE_DIGEST
    try:
        kind = type(value)
        encoded = _sorted(kind, value) if kind is set else None
        return digests.check(_Walk(pickler).encode(value) if encoded is None else encoded)
    except Exception:  # code of the user's runs here, and the value itself is pickled already
        return NO_VALUE_DIGEST


def _pickles_canonically(value: Any) -> bool:
    """Tell whether the pickles of all values that equal a flat one are the same: no text is there twice."""
    kind = type(value)
    if kind is list or kind is tuple:
        items = value
    elif kind is dict:
        items = [*value, *value.values()]
    else:
        return kind in _ATOMS
    kinds = set(map(type, items)) - _NUMBERS
    if not kinds:
        return True
    if not kinds <= _TEXTS:
        return False
    texts = [item for item in items if type(item) in _TEXTS]
    return len(set(texts)) == len(texts)


_traits: weakref.WeakKeyDictionary[type, tuple[bool, bool]] = weakref.WeakKeyDictionary()
"""Whether a type is plain, and whether its instances cannot change."""


class _Walk:
    """Encodes one value: equal bytes for equal values, others for others."""

    __slots__ = ("_immutable", "_in_sets", "_kept", "_kinds", "_left", "_met", "_pickler", "_result")

    def __init__(self, pickler: PlainPickler | ResultPickler) -> None:
        self._left = _MAX_ITEMS
        self._met: dict[int, int] = {}  # what can change or holds such, by id, with its number
        self._in_sets: set[int] = set()  # the same of parts of sets, which have no number outside
        self._immutable: dict[int, bytes] = {}
        self._kinds: dict[type, tuple[bytes, bool]] = {}
        self._kept: list[Any] = []  # what was made for the walk: its id must stay its own
        self._pickler = pickler

    def encode(self, value: Any) -> bytes:
        """Return a value as bytes."""
        kind = type(value)
        if kind in _ATOMS:
            return marshal.dumps(value, _MARSHAL_VERSION)
        if kind is tuple:
            return self._items("tuple", value)
        if kind is frozenset:
            return self._set(kind, value)
        if kind is list or kind is dict or kind is set or kind is bytearray:
            again = self._again(value)
            if again is not None:
                return again
            if kind is list:
                return self._items("list", value)
            if kind is dict:
                return self._dict(value)
            return self._set(kind, value) if kind is set else _node("bytearray", bytes(value))
        return self._object(value, kind)

    def _again(self, value: Any) -> bytes | None:
        key = id(value)
        if key in self._in_sets:
            raise ValueError(_NONE)
        number = self._met.get(key)
        if number is not None:
            return _node("again", number)
        self._met[key] = len(self._met)
        self._kept.append(value)
        return None

    def _spend(self, count: int) -> None:
        self._left -= 1 + count
        if self._left < 0:
            raise ValueError(_NONE)

    def _items(self, tag: str, items: list[Any] | tuple[Any, ...]) -> bytes:
        self._spend(len(items))
        if _ATOMS.issuperset(map(type, items)):
            return _node("flat", tag, items)
        return _node(tag, *map(self.encode, items))

    def _dict(self, items: dict[Any, Any]) -> bytes:
        return self._items("dict", [*items, *items.values()])

    def _set(self, kind: type, elements: Collection[Any]) -> bytes:
        self._spend(len(elements))
        if (encoded := _sorted(kind, elements)) is not None:
            return encoded
        outer, parts, inside = self._met, [], set[int]()
        for element in elements:
            self._met = {}
            parts.append(self.encode(element))
            if inside & self._met.keys() or outer.keys() & self._met.keys():
                raise ValueError(_NONE)
            inside |= self._met.keys()
        self._met = outer
        self._in_sets |= inside
        return _node(kind.__name__, *sorted(parts))

    def _object(self, value: Any, kind: type) -> bytes:
        if kind is types.CodeType:
            raise ValueError(_NONE)  # its bytes depend on what was run before
        if kind is pickle.PickleBuffer:
            return _node("buffer", bytes(value.raw()), memoryview(value).readonly)
        known = self._immutable.get(id(value))
        if known is not None:
            return known
        if (again := self._again(value)) is not None:
            return again
        before = len(self._met)
        self._spend(0)
        found = self._kinds.get(kind)
        if found is None:
            traits = _traits.get(kind)
            if traits is None:
                traits = _traits[kind] = _is_plain(kind), _cannot_change(kind)
            is_plain = traits[0] and kind not in copyreg.dispatch_table
            found = self._kinds[kind] = self.encode(kind) if is_plain else b"", traits[1]
        named, cannot_change = found
        state = vars(value) if named else None
        # The attributes are what the reduction comes to, and take a third of the time.
        encoded = _node("plain", named, self._dict(state)) if state else self._reduced(value)
        if cannot_change and len(self._met) == before:
            del self._met[id(value)]
            self._immutable[id(value)] = encoded
        return encoded

    def _reduced(self, value: Any) -> bytes:
        kind, reduced = type(value), self._reduce(value)
        if reduced is NotImplemented:  # a class or a function that is pickled by its name
            return _node("name", value.__module__, value.__qualname__)
        if isinstance(reduced, str):
            return _node("name", pickle.whichmodule(value, reduced), reduced)  # type: ignore[attr-defined]
        if reduced[0] is of_script:
            return _node("of script", *reduced[1])
        parts: list[Any] = [*reduced, *[None] * (6 - len(reduced))]
        function, arguments, state, items, pairs, setter = parts
        return _node(
            "object",
            self.encode(function),
            self._set(set, arguments[0]) if function is kind and _is_set(kind) else self._items("tuple", arguments),
            self._state(state),
            self._items("list", [] if items is None else list(items)),
            self._items("list", [] if pairs is None else list(pairs)),
            self.encode(setter),
        )

    def _state(self, state: Any) -> bytes:
        """Return a state as bytes. Its containers belong to the object, which may have made them just now."""
        self._kept.append(state)
        if type(state) is tuple:
            return _node("state", *map(self._state, state))
        if type(state) is list:
            return self._items("list", state)
        return self._dict(state) if type(state) is dict else self.encode(state)

    def _reduce(self, value: Any) -> Any:
        """Return what the pickler of the result reduces an object to; NotImplemented if it takes the name."""
        reduced = self._pickler.reducer_override(value)
        if reduced is NotImplemented and not isinstance(value, (type, types.FunctionType)):
            reducer = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(PROTOCOL) if reducer is None else reducer(value)
        self._kept.append(reduced)
        return reduced


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


def _sorted(kind: type, elements: Collection[Any]) -> bytes | None:
    """Return a set as bytes if there is one order for its elements; else None."""
    kinds = set(map(type, elements))
    return _node(f"sorted {kind.__name__}", sorted(elements)) if len(kinds) == 1 and kinds <= _ORDERED else None


def _node(*parts: Any) -> bytes:
    return marshal.dumps(parts, _MARSHAL_VERSION)

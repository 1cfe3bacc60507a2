"""The names of nodes that fan out: readable, the same in every run, and different for different items."""

from __future__ import annotations

import enum
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from blake3 import blake3

from dagron.errors import ArgumentsError, GraphError, InvalidNameError, UnstableNameError
from dagron.tasks.handle import Node

__all__ = ["MAX_LABEL_CHARS", "Named", "checked_name", "fields_of", "namer", "namer_by_keyword", "shown_items"]

MAX_LABEL_CHARS = 100
"""A longer text is cut, and told from others by its digest. Never varied: names stand in every record, message and
progress line, and a digest cannot be read."""

_INDEX = "index"

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]{6,}[>,]")


class Named(NamedTuple):
    """The name of a node, and the part of it that tells it from its siblings."""

    name: str
    label: str


def checked_name(name: object) -> str:
    """Return the name of a node as a plain `str`.

    Raises:
        InvalidNameError: It is no string.
        UnstableNameError: It shows the address of an object, as the default `repr` does.
    """
    if type(name) is not str:
        if not isinstance(name, str):
            raise InvalidNameError(repr(name)[:80], type(name).__name__)
        name = str.__str__(name)
    if " at 0x" in name and _ADDRESS.search(name):
        reason = "it shows where an object is in memory; name the node after what the object means"
        raise UnstableNameError(name, reason)
    return name


def namer(name: str | Callable[..., str], n_items: int, *, ordered: bool) -> Callable[[int, Sequence[Any]], Named]:
    """Return what names a node after its position and its items.

    In a text, `{}` stands for the items: for the one item, or for all of them with commas between; with several `{}`,
    each stands for one. `{index}` stands for the position. Text, numbers, paths, dates, times, members of enums, UUIDs,
    None and tuples of these are shown as `str` shows them, handles by their labels, and everything else by its
    position. Format specifications apply, as in `{:03}`.

    Args:
        name: The text, or a function that takes the items and returns the name.
        n_items: How many items each node has.
        ordered: Whether the items come in the same order in every run.

    Raises:
        GraphError: The text has no `{}`, or one that cannot be filled.
    """
    if callable(name):
        return _calling(name)
    return _Template(checked_name(name), n_items, ordered)


def fields_of(name: str | Callable[..., str]) -> list[str]:
    """Return what a name mentions: the fields of a text, or the parameters of a function that have no default.

    Raises:
        GraphError: The text is no format string.
    """
    if callable(name):
        import inspect

        parameters = inspect.signature(name).parameters.values()
        return [item.name for item in parameters if item.default is item.empty]
    return list(dict.fromkeys(_taken_apart(checked_name(name))[0]))


def namer_by_keyword(name: str | Callable[..., str], axes: Sequence[str]) -> Callable[[int, Sequence[Any]], Named]:
    """Return what names a node after its position and its items, which have keywords.

    In a text, `{C}` stands for the item of the keyword `C`, shown as `shown_items` has it, and `{index}` for the
    position. A function is called with the items themselves, by keyword. What tells a node from its siblings is the
    text in the brackets that hold all fields, or else that from the first field to the last.

    Args:
        name: The text, or the function.
        axes: The keywords, in the order of the items.

    Raises:
        GraphError: The text mentions something else.
    """
    if callable(name):
        of_items = name

        def call(_: int, items: Sequence[Any]) -> Named:
            made = checked_name(of_items(**dict(zip(axes, items, strict=True))))
            return Named(made, made)

        return call
    # By position, which takes half of the time.
    places = {field: str(place) for place, field in enumerate([*axes, _INDEX])}
    for field in fields_of(name):
        if field not in places:
            raise GraphError(f"{name!r} cannot be filled: the items are {', '.join(axes)}, and not {field!r}")
    _, before, core, behind = _taken_apart(checked_name(name), places)
    begin, end = before.rfind("[") + 1, behind.find("]")
    if begin and end >= 0 and "]" not in before[begin:]:
        core = _escaped(before[begin:]) + core + _escaped(behind[:end])
        before, behind = before[:begin], behind[end:]
    if core == "{0}":

        def show(_: int, items: Sequence[Any]) -> Named:
            label = str(items[0])
            return Named(checked_name(f"{before}{label}{behind}"), label)

        return show
    template = core.format

    def fill(index: int, items: Sequence[Any]) -> Named:
        try:
            label = template(*items, index)
        except (ValueError, TypeError) as error:
            raise ArgumentsError(name, f"item {index} cannot be put into the name: {error}") from error
        return Named(checked_name(f"{before}{label}{behind}"), label)

    return fill


def shown_items(name: str, axis: str, items: Sequence[Any], *, ordered: bool) -> list[Any]:
    """Return what stands for each item of a keyword in names; for what cannot be shown, its position among the items.

    Args:
        name: The text, for the error.
        axis: The keyword.
        items: Its items.
        ordered: Whether they come in the same order in every run.

    Raises:
        UnstableNameError: They do not, and one is to be named by its position.
    """
    shown = [item if type(item) in _PLAIN else _shown(item) for item in items]
    for place, item in enumerate(items):
        if shown[place] is None:
            if not ordered:
                reason = f"a set has no order, so an item of {axis} cannot be named by its position; pass a sorted list"
                raise UnstableNameError(name, reason)
            shown[place] = place
        elif type(item) is str:
            shown[place] = _shortened(item)
    return shown


_PLAIN = frozenset({int, float, bool, str})


def _calling(name: Callable[..., str]) -> Callable[[int, Sequence[Any]], Named]:
    def call(index: int, items: Sequence[Any]) -> Named:
        made = checked_name(name(*items))
        return Named(made, made)

    return call


class _Template:
    def __init__(self, text: str, n_items: int, ordered: bool) -> None:
        self._text = text
        self._ordered = ordered
        fields, self._before, self._core, self._after = _taken_apart(text)
        plain = [field for field in fields if field != _INDEX]
        wrong = [field for field in plain if field and not (field.isdecimal() and int(field) < n_items)]
        if wrong:
            raise self._unfit(f"nothing is called {wrong[0]!r}")
        if plain.count("") > n_items or (plain.count("") and any(plain)):
            raise self._unfit(f"there are {n_items} item(s) for a node")
        if not fields:
            raise GraphError(f"the name {text!r} would be that of every node; put {{}} where the items go")
        self._joined = n_items > 1 and plain == [""]
        self._simple = fields == [""] and self._core == "{}"
        self._shows_index = _INDEX in fields
        if self._shows_index and not ordered:
            raise UnstableNameError(text, "a set has no order, so {index} would be another one; pass a sorted list")

    def __call__(self, index: int, items: Sequence[Any]) -> Named:
        shown = [self._shown(item, index) for item in items]
        if self._joined:
            shown = [",".join(map(str, shown))]
        if self._simple:
            label = str(shown[0])
        else:
            try:
                label = self._core.format(*shown, index=index)
            except (ValueError, TypeError) as error:
                raise ArgumentsError(self._text, f"item {index} cannot be put into the name: {error}") from error
        return Named(checked_name(f"{self._before}{label}{self._after}"), label)

    def _shown(self, item: Any, index: int) -> Any:
        kind = type(item)
        if kind is int or (kind is str and len(item) <= MAX_LABEL_CHARS):
            return item
        shown = _shown(item)
        if shown is not None:
            return shown
        if not self._ordered:
            reason = f"a set has no order, so a {kind.__name__} cannot be named by its position; pass a sorted list"
            raise UnstableNameError(self._text, reason)
        return index

    def _unfit(self, reason: str) -> GraphError:
        return GraphError(
            f"the name {self._text!r} cannot be filled: {reason}; {{}} stands for the items, {{0}} for the first "
            "of several, {index} for their position"
        )


def _shown(item: Any) -> Any:
    """Return what stands for an item in a name; None if nothing does."""
    if isinstance(item, Node):
        return item.label
    if isinstance(item, os.PathLike):
        item = os.fspath(item)
    if isinstance(item, str):
        return _shortened(str.__str__(item))
    if isinstance(item, _shown_kinds()):
        return "None" if item is None else item
    if type(item) is tuple and item:
        shown = [_shown(part) for part in item]
        return None if None in shown else _shortened(",".join(map(str, shown)))
    return None


@functools.cache
def _shown_kinds() -> tuple[type, ...]:
    """Return what `str` shows in full, and in the same way tomorrow. The numbers of numpy are among them."""
    import datetime
    import numbers
    import uuid

    return numbers.Number, enum.Enum, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, type(None)


def _shortened(text: str) -> str:
    if len(text) <= MAX_LABEL_CHARS:
        return text
    digest = blake3(text.encode("utf-8", "surrogatepass")).hexdigest(8)
    return f"{text[: MAX_LABEL_CHARS - 19]}...{digest}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _taken_apart(text: str, places: Mapping[str, str] | None = None) -> tuple[list[str], str, str, str]:
    """Return the fields of a format string, the text before the first, what is to be formatted, the text after.

    Args:
        text: The format string.
        places: What stands for fields in what is to be formatted. Default: the fields themselves.

    Raises:
        GraphError: It is no format string.
    """
    import string

    fields: list[str] = []
    before, core, behind = "", "", ""
    try:
        for literal, field, spec, conversion in string.Formatter().parse(text):
            behind += literal
            if field is None:
                continue
            if "{" in (spec or ""):
                raise ValueError("a field within a field")
            if fields:
                core += _escaped(behind)
            else:
                before = behind
            behind = ""
            fields.append(field)
            shown = field if places is None else places[field]
            core += "{" + shown + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
    except ValueError as error:
        raise GraphError(f"the name {text!r} is no format string: {error}; write {{{{ and }}}} for braces") from error
    return fields, before, core, behind

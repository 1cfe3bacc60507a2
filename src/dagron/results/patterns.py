"""Which nodes a pattern means, and what to say where that is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate

__all__ = ["hint_at", "matching", "no_such_node"]


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that are a pattern or match it, in their order: `*` stands for any text, `?` for any character.

    Brackets stand for themselves, because names such as `count[3]` have them.
    """
    match = re.compile(translate(pattern.replace("[", "[[]"))).match
    return [name for name in names if name == pattern or match(name)]


def no_such_node(name: str, names: Sequence[str]) -> str:
    """Return what to say of a name that no node of a checkpoint has."""
    return f"the checkpoint knows no node {name!r}{hint_at(name, names)}"


def hint_at(name: str, names: Sequence[str]) -> str:
    """Return which names are close to one that no node has, for the end of a sentence; empty if none is."""
    import difflib  # where nothing is wrong, nobody pays for it

    # Comparing takes some 30 us a name; and a long text is rather pasted than typed.
    close = difflib.get_close_matches(name, names[:5000], n=3) if len(name) <= 50 else []
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""

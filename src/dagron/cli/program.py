"""Commands that are proposed to the user, so that a shell takes them as they stand."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

import click

__all__ = ["as_called", "proposed", "remember_program"]

_KEY = "dagron.program"

_IN_ERRORS = "make it again: dagron "
"""How an error proposes a command, which does not know how the program is called: it may be in a journal."""


def remember_program(context: click.Context) -> None:
    """Find out how this command was called, before a job gets a `sys.argv` of its own."""
    context.meta[_KEY] = _program(sys.argv[0] if sys.argv else "")


def proposed(*words: str) -> str:
    """Return a command of `dagron` with these words: quoted, and with the program as the user has called it."""
    return " ".join([_called(), *map(_quoted, words)])


def as_called(text: str) -> str:
    """Return a text with the command that an error in it proposes as the user would call it."""
    return text.replace(_IN_ERRORS, f"{_IN_ERRORS.removesuffix('dagron ')}{_called()} ") if _IN_ERRORS in text else text


def _called() -> str:
    context = click.get_current_context(silent=True)
    return "dagron" if context is None else str(context.meta.get(_KEY, "dagron"))


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # As bash, zsh and ksh read it: nothing that a terminal would obey, and no byte is lost.
    escaped = "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(word))
    return f"$'{escaped}'"


def _program(called: str) -> str:
    if os.path.basename(called) == "__main__.py":  # `python -m dagron`
        return f"{_on_path(sys.executable or 'python3')} -m dagron"
    return _on_path(called) if os.path.basename(called) != called else "dagron"


def _on_path(path: str) -> str:
    """Return the name of a program if the shell finds this very one by it, else its path."""
    name = os.path.basename(path)
    # Compared as text: the `python3` of a virtual environment is a link to another, and not the same.
    found = shutil.which(name)
    return shlex.quote(name if found is not None and os.path.abspath(found) == os.path.abspath(path) else path)

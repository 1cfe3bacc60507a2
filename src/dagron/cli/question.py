"""Questions to the user, where there is one: asked on standard error, so that standard output is kept for results."""

from __future__ import annotations

import sys
from collections.abc import Mapping

__all__ = ["ask", "is_interactive"]


def is_interactive() -> bool:
    """Tell whether somebody sits there: standard input and standard error are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask(question: str, answers: Mapping[str, str], default: str) -> str:
    """Ask until one of the answers is given, and return its letter; at the end of the input the last one.

    Args:
        question: What to ask.
        answers: Letter -> what it means.
        default: The letter that a mere line break stands for.
    """
    shown = ", ".join(f"[{letter}] {meaning}" for letter, meaning in answers.items())
    while True:
        print(f"dagron: {question}\n        {shown} (default: {default}) ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            print(file=sys.stderr)
            return list(answers)[-1]
        given = line.strip().lower()[:1] or default
        if given in answers:
            return given

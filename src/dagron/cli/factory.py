"""Call a function of a job that makes its flow, with parameters that the command line has as text."""

from __future__ import annotations

import difflib
import enum
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from dagron.cli.exit_codes import UsageError

__all__ = ["call_factory", "parse_parameter"]

_TRUTHS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_parameter(text: str) -> tuple[str, str]:
    """Return name and value of `NAME=VALUE`.

    Raises:
        ValueError: It is none.
    """
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def call_factory(name: str, function: Callable[..., Any], given: Sequence[tuple[str, str]]) -> Any:
    """Call a function, and return what it makes.

    A text becomes what the annotation of its parameter says: text, a number, true or false, a path, a member of an enum
    by its name, one of several literals, None, whatever is made of a text alone; without an annotation, the type of the
    default; without either it stays text. A list has an item for each time its parameter is given.

    Args:
        name: The function, for errors.
        function: The function.
        given: Parameters and their values as text.

    Raises:
        UsageError: A parameter is unknown, missing, given twice, or has a text that does not fit.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError) as error:
        raise UsageError(f"`{name}` cannot be called: {error}") from error
    hints = _hints(function)
    texts: dict[str, list[str]] = {}
    for key, text in given:
        texts.setdefault(key, []).append(text)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {key: p for key, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for key in texts:
        if key not in named and not takes_all:
            raise UsageError(f"`{name}` has no parameter {key!r}{_advice(key, list(named))}")
    missing = [key for key, p in named.items() if p.default is p.empty and key not in texts]
    if missing:
        shown = ", ".join(f"-p {key}=..." for key in missing)
        raise UsageError(f"`{name}` needs {'parameters' if len(missing) > 1 else 'a parameter'}: {shown}")
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for key, parameter in named.items():
        if key in texts:
            value = _value(key, texts[key], hints.get(key, _type_of(parameter.default)))
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            value = parameter.default
        else:
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(value)
        else:
            keywords[key] = value
    for key in texts.keys() - named.keys():
        keywords[key] = _value(key, texts[key], str)
    return function(*positional, **keywords)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    try:
        return typing.get_type_hints(target)
    except Exception:
        return {}  # a name that is not there at run time: the default has to do


def _type_of(default: Any) -> Any:
    return str if default is None or default is inspect.Parameter.empty else type(default)


def _advice(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it has {', '.join(map(repr, known))}" if known else "; it has none"


def _value(key: str, texts: list[str], wanted: Any) -> Any:
    if typing.get_origin(wanted) in (list, tuple, set, frozenset) or wanted in (list, tuple, set, frozenset):
        item, *_ = [*typing.get_args(wanted), str]
        make = typing.get_origin(wanted) or wanted
        return make(_converted(key, text, item) for text in texts)
    if len(texts) > 1:
        raise UsageError(f"-p {key} is given {len(texts)} times, and takes one value")
    return _converted(key, texts[0], wanted)


def _converted(key: str, text: str, wanted: Any) -> Any:
    try:
        return _of_text(text, wanted)
    except Exception as error:
        raise UsageError(f"-p {key}={text}: it has to be {_shown(wanted)}") from error


def _of_text(text: str, wanted: Any) -> Any:
    origin = typing.get_origin(wanted)
    if origin is typing.Annotated:
        return _of_text(text, typing.get_args(wanted)[0])
    if origin in (typing.Union, types.UnionType):
        return _of_one(text, typing.get_args(wanted))
    if origin is typing.Literal:
        return next(value for value in typing.get_args(wanted) if str(value) == text)
    if wanted in (str, Any, object, inspect.Parameter.empty):
        return text
    if wanted is bool:
        return _TRUTHS[text.lower()]
    if wanted in (None, type(None)):
        return {"none": None, "": None}[text.lower()]
    if isinstance(wanted, enum.EnumMeta):
        return wanted[text] if text in wanted.__members__ else wanted(text)
    if wanted is bytes or not callable(wanted) or origin is not None:
        raise TypeError(f"no {wanted} can be made of a text")
    return wanted(text)


def _of_one(text: str, wanted: Sequence[Any]) -> Any:
    # Text fits any text, so it is tried last.
    for one in sorted(wanted, key=lambda one: one is str):
        try:
            return _of_text(text, one)
        except Exception:
            continue
    raise ValueError("it fits none of them")


def _shown(wanted: Any) -> str:
    if isinstance(wanted, enum.EnumMeta):
        return f"one of {', '.join(wanted.__members__)}"
    if typing.get_origin(wanted) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(wanted)))}"
    if wanted is bool:
        return "true or false"
    return f"of type {wanted.__name__ if isinstance(wanted, type) else wanted}"

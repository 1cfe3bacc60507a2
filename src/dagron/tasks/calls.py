"""What the nodes of one `Flow.add` or `Flow.map` have in common: a callable, options, and arguments that fit it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from dagron.errors import ArgumentsError, NotCallableError
from dagron.tasks.arguments import refuse_hidden_handles
from dagron.tasks.binding import refuse_deferred, signature_key, signature_of
from dagron.tasks.holes import CallWithHoles
from dagron.tasks.meant import meant_by
from dagron.tasks.options import Task

__all__ = ["OPTIONS", "Call", "Calls", "TaskLike"]

TaskLike: TypeAlias = Callable[..., Any] | Task[Any]

OPTIONS = frozenset(field.name for field in dataclasses.fields(Task)) - {"fn"}
"""What `Task` says of a node besides its callable: keywords of these names are no arguments of the callable."""


class Call:
    """What the nodes of one `add` or `map` have in common.

    Attributes:
        keywords: The arguments that were given by keyword, without what are options.
    """

    def __init__(self, fn: Callable[..., Any], keywords: Mapping[str, Any], template: TaskLike) -> None:
        self.keywords = keywords
        self._fn = fn
        self._template = template

    @property
    def outputs(self) -> Sequence[str]:
        """The paths of the files that the task writes, in `map` before they are filled with the items."""
        outputs = self._template.outputs if isinstance(self._template, Task) else ()
        return tuple(str(os.fspath(path)) for path in outputs)

    def task(
        self,
        args: Sequence[Any],
        keywords: Mapping[str, Any],
        parents: Mapping[str, int],
        outputs: Sequence[str] = (),
    ) -> TaskLike:
        """Return the task of a node; `outputs` are its own, if they are not those of all."""
        fn = self._fn
        if parents:
            fn = CallWithHoles(fn, *args, **keywords)
        elif args or keywords:
            fn = functools.partial(fn, *args, **keywords)
        if not isinstance(self._template, Task):
            return fn
        return dataclasses.replace(self._template, fn=fn, outputs=outputs or self._template.outputs)


class Calls:
    """The calls of a flow; each callable is looked at once."""

    def __init__(self) -> None:
        self._callables: dict[object, _Callable] = {}

    def read(self, node: str, task: TaskLike, n_args: int, kwargs: dict[str, Any]) -> Call:
        """Check what can be known of a call before its arguments are read, and tell options from keywords.

        Args:
            node: For errors.
            task: What is to be called.
            n_args: How many arguments are given by position.
            kwargs: What is given by keyword.

        Raises:
            TaskDefinitionError: The call cannot be that of a node.
        """
        fn: Any = task.fn if isinstance(task, Task) else task
        if not callable(fn):
            raise NotCallableError(node, type(fn).__name__)
        refuse_hidden_handles(fn)
        key = signature_key(fn)
        key = id(fn) if key is None else key
        found = self._callables.get(key)
        if found is None:
            refuse_deferred(node, fn)
            found = self._callables[key] = _Callable(fn)
        if isinstance(task, Task):
            keywords, options = kwargs, {}
        else:
            keywords = {name: value for name, value in kwargs.items() if name not in OPTIONS}
            options = {name: value for name, value in kwargs.items() if name in OPTIONS}
        found.check(node, n_args, keywords, options, in_task=isinstance(task, Task))
        return Call(fn, keywords, Task(fn, **options) if options else task)


class _Callable:
    """What is known about a callable, and which calls are known to fit it."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn  # kept, or its id might become that of another object
        self._fitting: set[object] = set()
        self._signature: inspect.Signature | None = None
        try:
            self._signature = signature_of(fn)
        except (ValueError, TypeError):
            pass  # as with some built-ins; the call will tell

    def check(
        self, node: str, n_args: int, keywords: Mapping[str, Any], options: Mapping[str, Any], *, in_task: bool
    ) -> None:
        """Check that a call fits.

        Args:
            node: For the error.
            n_args: How many arguments are given by position.
            keywords: Those given by keyword.
            options: What was taken for options of the node.
            in_task: Whether the callable came in a `Task`, which then has the options.

        Raises:
            ArgumentsError: It does not, or an option may be meant for the callable.
        """
        shape = n_args, tuple(keywords), tuple(options)
        if self._signature is None or shape in self._fitting:
            return
        for option in options:
            if self._may_take(option):
                raise ArgumentsError(
                    node,
                    f"{option!r} is an option of the node, and may be a parameter of {self._shown()}, too; with "
                    f"Task({self._name()}, {option}=...) as the callable, that has the options, and every keyword goes "
                    "to the callable",
                )
        try:
            self._signature.bind(*[None] * n_args, **keywords)
        except TypeError as error:
            raise ArgumentsError(node, f"{self._shown()}: {error}{self._hint(keywords, in_task)}") from None
        self._fitting.add(shape)

    def _may_take(self, keyword: str) -> bool:
        assert self._signature is not None
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD or (
                name == keyword and parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL)
            ):
                return True
        return False

    def _hint(self, keywords: Mapping[str, Any], in_task: bool) -> str:
        for keyword in keywords:
            if not self._may_take(keyword):
                if in_task:
                    return "; beside a Task, which has the options of its node, every keyword goes to the callable"
                for close in meant_by(keyword, OPTIONS):
                    return f"; did you mean the option {close!r}?"
        return ""

    def _name(self) -> str:
        return getattr(self._fn, "__name__", type(self._fn).__name__)

    def _shown(self) -> str:
        try:
            shown = str(self._signature)  # with the repr of every default
        except Exception:
            shown = "(...)"
        return self._name() + (shown if len(shown) <= 200 else f"{shown[:200]}...")

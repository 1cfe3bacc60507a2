"""Which parents a callable takes, and how."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dagron.errors import MissingInputError, NotCallableError, NotRunByCallError, OptionError

__all__ = [
    "NO_INPUTS",
    "Binding",
    "Parameters",
    "bind",
    "check_plain_call",
    "inferred_parents",
    "parameters_of",
    "refuse_deferred",
    "signature_key",
    "signature_of",
]


class Binding(NamedTuple):
    """How a callable takes its inputs: parents are given by their position in `DAG.parents(node)`.

    Attributes:
        positional: In order, a parent's position, or the name of a parameter that keeps its default.
        keywords: Parameter name and parent's position.
    """

    positional: tuple[int | str, ...] = ()
    keywords: tuple[tuple[str, int], ...] = ()

    @property
    def consumed(self) -> tuple[int, ...]:
        """The positions of the parents whose results are taken."""
        taken = [p for p in self.positional if isinstance(p, int)]
        return (*taken, *(position for _, position in self.keywords))

    def call(self, fn: Callable[..., Any], inputs: Sequence[Any]) -> Any:
        """Call `fn`.

        Args:
            fn: The callable that was bound.
            inputs: The results of `consumed`, in that order.
        """
        if not self.keywords and not self.positional:
            return fn()
        args, kwargs = self.arguments(fn, inputs)
        return fn(*args, **kwargs)

    def arguments(self, fn: Callable[..., Any], inputs: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with which `call` calls `fn`."""
        values = iter(inputs)
        args = [next(values) if isinstance(p, int) else signature_of(fn).parameters[p].default for p in self.positional]
        return args, {name: next(values) for name, _ in self.keywords}


NO_INPUTS = Binding()

Parameters = Mapping[str, inspect.Parameter]

_NO_PARAMETERS: Parameters = {}

_STARS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


_DEFERRED = {
    inspect.CO_GENERATOR: "generator",
    inspect.CO_COROUTINE: "coroutine",
    inspect.CO_ASYNC_GENERATOR: "asynchronous generator",
}


def refuse_deferred(node: str, fn: Any) -> None:
    """Refuse a callable whose call runs nothing.

    Raises:
        NotRunByCallError: It is a coroutine function or a generator function.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    code = getattr(getattr(fn, "__func__", fn), "__code__", None)
    if type(code) is types.CodeType:
        for flag, kind in _DEFERRED.items():
            if code.co_flags & flag:
                raise NotRunByCallError(node, kind)


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a callable; its annotations are texts where Python evaluates them late.

    Evaluating them would raise an error where a name exists for type checkers only.

    Raises:
        ValueError: It cannot be known, as with some built-ins.
        TypeError: As for `ValueError`.
    """
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(fn)


def check_plain_call(option: str, value: object) -> None:
    """Check an option that is to be called without arguments, and to have done its work then.

    Raises:
        OptionError: It is no callable, a coroutine function or a generator function, or requires arguments.
    """
    shown = repr(value)[:80]
    if not callable(value):
        raise OptionError(option, shown, "a callable without arguments")
    try:
        refuse_deferred("", value)
    except NotRunByCallError as error:
        raise OptionError(option, shown, f"a plain function: a call of it only returns a {error.kind}") from None
    try:
        signature = signature_of(value)
    except (ValueError, TypeError):
        return  # it cannot be known, as with some built-ins
    try:
        signature.bind()
    except TypeError as error:
        raise OptionError(option, shown, f"a callable without arguments ({error}); bind them with partial") from None


def parameters_of(fn: Callable[..., Any]) -> Parameters:
    """Return the parameters of a callable; none if its signature cannot be known, as with some built-ins."""
    if isinstance(fn, types.FunctionType) and not fn.__dict__:
        code = fn.__code__
        if not code.co_argcount and not code.co_kwonlyargcount and not code.co_flags & _STARS:
            return _NO_PARAMETERS  # the common case, twenty times as fast as asking for the signature
    try:
        return signature_of(fn).parameters
    except (ValueError, TypeError):
        return _NO_PARAMETERS


def signature_key(fn: Callable[..., Any]) -> object:
    """Return something that is equal for callables whose parameters have the same names, kinds and defaults.

    Defaults count as the same if there is one in the same places. None if nothing can be said without looking at the
    signature.
    """
    if type(fn) is functools.partial:
        inner = signature_key(fn.func)
        return None if inner is None else (inner, len(fn.args), tuple(fn.keywords))
    if type(fn) is not types.FunctionType or fn.__dict__:  # which may hold a signature of another function
        return None
    return fn.__code__, len(fn.__defaults__ or ()), tuple(fn.__kwdefaults__ or ())


def bind(
    node: str,
    fn: Callable[..., Any],
    parents: Sequence[str],
    is_node: Callable[[str], bool],
    parameters: Parameters | None = None,
) -> Binding:
    """Decide which parents `fn` takes.

    A parameter named like a parent receives its result; `*args` receives the results of the parents not taken by name,
    in the order in which their edges were added, `**kwargs` those parents by name (with both, `*args` has them). A
    parameter with a default whose name is no parent keeps its default. A callable whose signature cannot be known, as
    with some built-ins, takes nothing.

    Args:
        node: For the error.
        fn: The callable.
        parents: `DAG.parents(node)`.
        is_node: Whether a name is a node of the DAG; makes the error's advice better.
        parameters: `parameters_of(fn)`, if it is known already: finding them costs 40 µs.

    Raises:
        MissingInputError: A parameter without a default is named like no parent.
    """
    if parameters is None:
        parameters = parameters_of(fn)
    if not parameters:
        return NO_INPUTS
    position = {name: i for i, name in enumerate(parents)}
    by_name = {
        name for name, p in parameters.items() if name in position and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }
    rest = [i for i, name in enumerate(parents) if name not in by_name]
    spreads = rest and any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    positional: list[int | str] = []
    keywords: list[tuple[str, int]] = []
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend(rest)
            rest = []
        elif parameter.kind is parameter.VAR_KEYWORD:
            keywords.extend((parents[i], i) for i in rest)
        elif name not in by_name and parameter.default is parameter.empty:
            raise MissingInputError(node, name, parents, is_node(name))
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if name in by_name:
                keywords.append((name, position[name]))
        elif parameter.kind is parameter.POSITIONAL_ONLY or spreads:
            # A later argument is given by position, so the default before it has to be given, too.
            positional.append(position[name] if name in by_name else name)
        elif name in by_name:
            keywords.append((name, position[name]))
    while positional and isinstance(positional[-1], str):
        positional.pop()  # no later argument needs the default
    return Binding(tuple(positional), tuple(keywords))


def inferred_parents(name: str, task: object, tasks: Mapping[str, object]) -> list[str]:
    """Return the names of other tasks that the parameters of a task name, in their order.

    A parameter named like its own node counts only if it has no default: then nothing but a cycle could provide it.
    `*args` and `**kwargs` name nothing, nor does a callable whose signature cannot be known.

    Raises:
        NotCallableError: The task is no callable.
    """
    from dagron.tasks.options import Task  # no worker needs it

    function = task.fn if isinstance(task, Task) else task
    if not callable(function):
        raise NotCallableError(name, type(function).__name__)
    try:
        parameters = signature_of(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name in tasks
        and (parameter.name != name or parameter.default is parameter.empty)
    ]

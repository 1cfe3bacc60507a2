"""Code and functions by value. Frozen."""

from __future__ import annotations

import marshal
import sys
import types
from typing import Any

from dagron.errors import OtherPythonError
from dagron.script import module_here, name_here

__all__ = [
    "empty_cell",
    "fill_function",
    "full_cell",
    "new_code",
    "new_function",
    "new_namespace",
    "python_version",
]


def python_version() -> str:
    """Return implementation and minor version of this Python, which decide whose bytecode it can run."""
    return f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def new_code(version: str, data: bytes) -> types.CodeType:
    """Return code.

    Raises:
        OtherPythonError: It is another version's. Nothing is unmarshalled then.
    """
    if version != python_version():
        raise OtherPythonError(version, python_version())
    found: types.CodeType = marshal.loads(data)
    return found


def new_namespace(name: str) -> dict[str, Any]:
    """Return the global variables of functions that are of no module."""
    return {"__name__": name, "__builtins__": sys.modules["builtins"]}


def empty_cell() -> types.CellType:
    """Return the place of a variable that has no value yet."""
    return types.CellType()


def full_cell(content: Any) -> types.CellType:
    """Return the place of a variable."""
    return types.CellType(content)


def new_function(
    namespace: str | dict[str, Any], code: types.CodeType, name: str, cells: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    """Return a function without what it holds.

    Args:
        namespace: Its global variables, or the name of the module that has these.
        code: Its code.
        name: Its name.
        cells: The places of the variables that it has from the functions around it.
    """
    if isinstance(namespace, str):
        namespace = vars(module_here(namespace))
    return types.FunctionType(code, namespace, name, None, cells)


def fill_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    """Give a function what it holds.

    Args:
        function: As from `new_function`.
        state: Module, qualified name, documentation, defaults, keyword-only defaults, attributes, annotations, type
            parameters, contents of cells, and global variables for a namespace of its own.
    """
    module, qualname, doc, defaults, kwdefaults, attributes, annotations, parameters, contents, variables = state
    function.__module__ = name_here(module) if module is not None else None  # type: ignore[assignment]
    function.__qualname__ = qualname
    function.__doc__ = doc
    function.__defaults__ = defaults
    function.__kwdefaults__ = kwdefaults
    if annotations:
        function.__annotations__ = annotations
    if parameters:
        function.__type_params__ = parameters
    if contents:
        for place, content in contents:
            place.cell_contents = content
    if variables:
        function.__globals__.update(variables)
    if attributes:
        function.__dict__.update(attributes)

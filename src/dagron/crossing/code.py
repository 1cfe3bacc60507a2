"""Code: the global variables that it looks for, and its bytes."""

from __future__ import annotations

import marshal
import sys
import types
from opcode import opmap

from dagron.shapes import operations

__all__ = ["all_names", "global_names", "marshalled", "modules_below", "without_file"]

_SHIFTED = opmap["LOAD_GLOBAL"]  # its lowest bit means something else
_BY_NAME = {
    opmap[name] for name in ("LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS") if name in opmap
}

_names_of: dict[int, tuple[types.CodeType, frozenset[str]]] = {}


def global_names(code: types.CodeType) -> frozenset[str]:
    """Return the names of global variables that code uses, also in the functions that it makes."""
    known = _names_of.get(id(code))
    if known is None:
        names = code.co_names
        found = (
            {
                names[argument >> 1] if operation == _SHIFTED else names[argument]
                for operation, argument in operations(code.co_code)
                if operation == _SHIFTED or operation in _BY_NAME
            }
            if names
            else set()
        )
        for constant in code.co_consts:
            if type(constant) is types.CodeType:
                found |= global_names(constant)
        if len(_names_of) > 10_000:  # a process that makes code for ever
            _names_of.clear()
        known = _names_of[id(code)] = code, frozenset(found)
    return known[1]


_below: dict[str, list[str]] = {}
_n_modules = 0


def modules_below(package: types.ModuleType, code: types.CodeType) -> list[str]:
    """Return the names of modules in a package that code finds as attributes, so that they have to be imported."""
    global _n_modules
    if not hasattr(package, "__path__"):
        return []
    if len(sys.modules) != _n_modules:
        _n_modules = len(sys.modules)
        _below.clear()
        for name in list(sys.modules):
            if "." in name:
                _below.setdefault(name.partition(".")[0], []).append(name)
    start = f"{package.__name__}."
    used = all_names(code)
    return [
        name
        for name in _below.get(package.__name__.partition(".")[0], ())
        if name.startswith(start) and set(name[len(start) :].split(".")) <= used
    ]


def all_names(code: types.CodeType) -> set[str]:
    """Return all names in code and in the functions that it makes, those of attributes among them."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            found |= all_names(constant)
    return found


_NO_FILE = "<code>"
"""Stands for the file in code of a result, so that its bytes are the same wherever the script lies."""


def without_file(code: types.CodeType) -> types.CodeType:
    """Return code that does not know the file that it is from."""
    constants = tuple(without_file(c) if type(c) is types.CodeType else c for c in code.co_consts)
    return code.replace(co_filename=_NO_FILE, co_consts=constants)


def marshalled(code: types.CodeType) -> bytes:
    """Return code as bytes."""
    try:
        return marshal.dumps(code, 2)  # without references, which depend on what else refers to the parts of the code
    except ValueError:
        return marshal.dumps(code)  # slices among the constants, since Python 3.14

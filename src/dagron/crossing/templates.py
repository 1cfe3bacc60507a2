"""Functions of the script without what their instances hold: which functions are instances of one, and of which.

An instance holds defaults and a closure; everything else about it, its template has as well.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from dagron.crossing.names import Names, module_found
from dagron.crossing.parts import EMPTY, Part, annotations_of, instance

__all__ = ["Template", "Templates"]

_Key = tuple[int, int, str, str, str, int]


class Template:
    """A function without what its instances hold.

    Attributes:
        part: The part that is this template; None as long as it has not been pickled.
        n: How many instances were counted.
    """

    def __init__(self, first: types.FunctionType) -> None:
        self.part: Part | None = None
        self.n = 0
        self._first = first
        # Annotations can hold anything, so there is no key to be made of them.
        self._annotations = annotations_of(first)

    @property
    def bare(self) -> types.FunctionType:
        """The function, in which all that an instance holds is missing."""
        return instance(self._first, None, None, (EMPTY,) * len(self._first.__closure__ or ()))

    def fits(self, function: types.FunctionType) -> bool:
        """Tell whether a function with the same key is an instance of this and nothing more."""
        if function.__dict__:
            return False
        annotations = annotations_of(function)
        if not annotations and not self._annotations:
            return True
        try:
            return bool(annotations == self._annotations)
        except Exception:
            return False  # an annotation is an array, say


class Templates:
    """The templates of a run.

    Args:
        names: The names of the script.
    """

    def __init__(self, names: Names) -> None:
        self._names = names
        self._by_key: dict[_Key, Template] = {}
        self._of: dict[int, Template] = {}  # by id of a function that was counted, and that somebody keeps

    def count(self, function: types.FunctionType) -> None:
        """Count a function as an instance, unless it is pickled as a name."""
        if self.goes_by_name(function):
            return
        key = _key(function)
        template = self._by_key.get(key)
        if template is None:
            template = self._by_key[key] = Template(function)
        if template.fits(function):
            template.n += 1
            self._of[id(function)] = template

    def of_several(self) -> Iterator[Template]:
        """Yield the templates that were counted more than once."""
        return (template for template in self._by_key.values() if template.n > 1)

    def part_of(self, function: types.FunctionType) -> Part | None:
        """Return the part of which a function is an instance; None if there is none."""
        template = self._of.get(id(function))
        if template is None:
            template = self._by_key.get(_key(function))
            if template is None or self.goes_by_name(function) or not template.fits(function):
                return None
        return template.part

    def goes_by_name(self, function: Any) -> bool:
        """Tell whether something is pickled as the name of a function, of the script or of a module to be imported."""
        if type(function) is types.FunctionType:
            module = function.__module__
            if type(module) is not str:
                return False
            if self._names.travels(module):
                return self._names.of(function) is not None
            return module_found(module, function.__qualname__) is function
        return type(function) is types.BuiltinFunctionType and isinstance(function.__self__, types.ModuleType)


def _key(function: types.FunctionType) -> _Key:
    return (
        id(function.__code__),
        id(function.__globals__),
        function.__name__,
        function.__qualname__,
        function.__module__,
        id(function.__doc__),
    )

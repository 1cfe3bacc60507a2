"""Classes of frozen values, made in a twentieth of the time that `dataclass` takes.

`dataclass(frozen=True, slots=True)` writes six methods for each class and compiles them, in 0.6 ms. A run of one node
loads thirty such classes, of events, commands and records, and makes values of ten of them. So the methods are the same
ones for all classes here and look into `__slots__`; only `__init__`, which has to be quick, is compiled for each class,
with its first value.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, NoReturn, TypeVar, dataclass_transform

__all__ = ["REQUIRED", "fields_of", "frozen", "replaced"]

C = TypeVar("C")

REQUIRED: Final = object()
"""The default of a field that has none."""


class _Value:
    __slots__: tuple[str, ...] = ()

    _fields: ClassVar[dict[str, tuple[str, Any]]]

    def __init__(self, *given: Any, **named: Any) -> None:
        cls = type(self)
        cls.__init__ = _initializer(cls)  # type: ignore[method-assign]
        cls.__init__(self, *given, **named)

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name!r} of {self!r} never changes")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name!r} of {self!r} never changes")

    def __reduce__(self) -> Any:
        return type(self), self._values()


_OF_INSTANCES = ("__dict__", "__weakref__")
"""What a class without slots has for its instances."""


@dataclass_transform(frozen_default=True)
def frozen(cls: type[C]) -> type[C]:
    """Make instances of a class values: what is annotated in it are their fields, which never change.

    Values of one class with equal fields are equal, and those of two classes never. An annotation `ClassVar` is no
    field. The module defers its annotations. The class may have methods and properties, but no `__init__`, and no
    method of it may use `super()`.
    """
    held = vars(cls)
    texts = {name: text for name, text in cls.__annotations__.items() if not text.startswith("ClassVar[")}
    space = {name: value for name, value in held.items() if name not in texts and name not in _OF_INSTANCES}
    space["__slots__"] = space["__match_args__"] = tuple(texts)
    space["_fields"] = {name: (text, held.get(name, REQUIRED)) for name, text in texts.items()}
    made: Any = type(cls.__name__, (_Value,), space)
    return made  # type: ignore[no-any-return]


def fields_of(cls: type) -> dict[str, tuple[str, Any]]:
    """Return the fields of such a class, each with its type as it is written and its default, `REQUIRED` for none."""
    assert issubclass(cls, _Value)
    return cls._fields


def replaced(value: C, **changes: Any) -> C:
    """Return a value like another one, in which these fields are different."""
    cls = type(value)
    return cls(**{name: getattr(value, name) for name in fields_of(cls)} | changes)


def _initializer(cls: type[_Value]) -> Any:
    fields = cls._fields
    parameters = [
        name if default is REQUIRED else f"{name}=_fields[{name!r}][1]" for name, (_, default) in fields.items()
    ]
    lines = [f"def __init__(self, {', '.join(parameters)}):", *(f" _set(self, {name!r}, {name})" for name in fields)]
    space: dict[str, Any] = {"_set": object.__setattr__, "__name__": cls.__module__, "_fields": fields}
    exec("\n".join(lines), space)
    return space["__init__"]

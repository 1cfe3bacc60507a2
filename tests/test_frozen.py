"""Frozen values behave as frozen dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import ClassVar

import pytest

from dagron.frozen import REQUIRED, fields_of, frozen, replaced
from dagron.runs import events


@frozen
class Point:
    """A point."""

    x: int
    y: int = 2

    def total(self):
        return self.x + self.y


@frozen
class Other:
    x: int
    y: int = 2


@frozen
class Kind:
    kind: ClassVar[int] = 7
    x: int


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    x: int
    y: int = 2


def test_it_is_made_as_a_dataclass_is():
    assert (Point(1).x, Point(1).y, Point(y=3, x=1).y, Point(1).total()) == (1, 2, 3, 3)
    assert repr(Point(1)) == repr(Model(1)).replace("Model", "Point")
    assert (Point.__name__, Point.__qualname__, Point.__module__, Point.__doc__) == (
        "Point",
        "Point",
        __name__,
        "A point.",
    )
    for arguments in ((), (1, 2, 3)):
        with pytest.raises(TypeError):
            Point(*arguments)


def test_values_of_one_class_are_equal_by_their_fields_and_those_of_two_never():
    assert Point(1) == Point(1, 2) != Point(1, 3)
    assert Point(1) != Other(1)
    assert Point(1) != (1, 2)
    assert len({Point(1), Point(1, 2), Point(2), Other(1)}) == 3


def test_it_never_changes_and_has_nothing_beside_its_fields():
    point = Point(1)
    for change in (lambda: setattr(point, "x", 2), lambda: setattr(point, "z", 2), lambda: delattr(point, "x")):
        with pytest.raises(AttributeError):
            change()
    assert not hasattr(point, "__dict__")
    assert point == Point(1)


def test_a_copy_equals_it():
    for made in (copy.deepcopy(Point(1, [2])), pickle.loads(pickle.dumps(Point(1, [2])))):
        assert made == Point(1, [2])


def test_it_matches_by_position():
    match Point(1, 5):
        case Point(x, y):
            assert (x, y) == (1, 5)


def test_what_the_state_takes_and_returns_is_frozen():
    made = [held for held in vars(events).values() if isinstance(held, type) and held.__module__ == events.__name__]
    assert all(issubclass(cls, (int, tuple)) or cls.__setattr__ is Point.__setattr__ for cls in made)


def test_its_fields_are_told_and_changed_in_a_copy():
    assert fields_of(Point) == {"x": ("int", REQUIRED), "y": ("int", 2)}
    assert replaced(Point(1), y=5) == Point(1, 5)
    assert [Kind.kind, Kind(1).kind, replaced(Kind(1), x=2).x, *fields_of(Kind)] == [7, 7, 2, "x"]


def test_an_initializer_is_made_with_the_first_value():
    made = frozen(type("Late", (), {"__annotations__": {"x": "int"}, "__module__": __name__}))
    assert "__init__" not in vars(made)
    assert made(x=1) == made(1)
    assert "__init__" in vars(made)

"""Paths as the user has given them, found before the code of a job can change the working directory."""

from __future__ import annotations

import os
from typing import Any

import click

__all__ = ["Place", "PlaceType", "Where", "WhereType"]


class Place(os.PathLike[str]):
    """A path. As text it is what the user has given; whoever opens it finds it wherever the job has gone meanwhile.

    Attributes:
        shown: As it was given, or follows from that.
        path: The same, absolute.
    """

    def __init__(self, shown: str) -> None:
        self.shown = shown
        try:
            self.path = os.path.abspath(shown)
        except (OSError, ValueError):
            self.path = shown  # whoever opens it says what is wrong

    @classmethod
    def found(cls, path: str, here: str) -> Place:
        """Return the place with an absolute path.

        Args:
            path: The path.
            here: The working directory of the user, from which the place is shown if it is in it.
        """
        place = cls(path[len(here) :].lstrip(os.sep) if path.startswith(os.path.join(here, "")) else path)
        place.path = path  # the job may have changed the working directory
        return place

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.shown


class Where(Place):
    """The directory of a checkpoint: the one that was given, or that of a target that was run.

    Attributes:
        given: The directory or the target.
        is_up_to_the_job: Whether the target says itself where its checkpoint is, and its text does not tell.
    """

    def __init__(self, given: str) -> None:
        from dagron.cli.own_place import own_checkpoint_dir
        from dagron.cli.target import default_checkpoint_dir

        self.given = given
        self.is_up_to_the_job = False
        shown = given
        if given and not os.path.isdir(given):
            try:
                own, of_target = own_checkpoint_dir(given), default_checkpoint_dir(given)
                self.is_up_to_the_job = own == ""
                if own or os.path.isdir(of_target) or (os.path.isfile(given) and given.endswith(".py")):
                    shown = own or of_target
            except ValueError:
                pass  # a path that no system call takes
        super().__init__(shown)


class PlaceType(click.Path):
    """An option whose value is a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """Return the place."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return value if isinstance(value, Place) else Place(os.fsdecode(super().convert(value, param, ctx)))


class WhereType(click.Path):
    """An argument that says which checkpoint is meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Where:
        """Return the place of its directory: what was given need not be a path that a system call takes."""
        return value if isinstance(value, Where) else Where(value)

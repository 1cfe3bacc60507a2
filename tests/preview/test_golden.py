"""Pickles of well-known libraries, in two versions of each, are shown where none of them is installed."""

from __future__ import annotations

import pytest
from library_values import LIBRARIES, VALUES, golden_pickles

from dagron.preview.previewing import preview

PICKLES = [*golden_pickles()]

SOUP = ("_frombuffer", "_reconstruct", "_unpickle", "BlockManager", "_new_Index", "?")
"""What a pickle is shown as where no reader knows it."""


def of(library):
    return [(version, name, data) for version, other, name, data in PICKLES if other == library]


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_is_shown_as_what_it_is(library):
    wrong = {}
    for version, name, data in of(library):
        shown = preview(data)
        missing = [text for text in VALUES[library, name][1] if text not in shown]
        soup = [word for word in SOUP if word in shown and (word, name) != ("?", "sparse and zones")]
        if missing or soup:
            wrong[version, name] = missing, soup, shown
    assert wrong == {}


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_line_is_wider_than_a_terminal_where_it_can_be_broken(library):
    wide = {}
    for version, name, data in of(library):
        for width in (30, 72):
            lines = [line for line in preview(data, width=width).split("\n") if len(line) > max(width, 72)]
            if lines:
                wide[version, name, width] = lines
    assert wide == {}


def test_two_versions_of_each_value_are_tried():
    tried = sorted((library, name) for _, library, name, _ in PICKLES)
    assert tried == sorted([*VALUES] * 2)

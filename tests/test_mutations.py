"""The list of `mutations.py` is not out of date: every line that it takes away is there, and so is every test."""

import re
from pathlib import Path

import pytest
from mutations import MUTATIONS, ROOT, SOURCE, mutated, turn


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.module}: {m.old.strip()[:40]}")
def test_what_is_to_be_taken_away_is_there_once_and_the_test_exists(mutation):
    compile(mutated(mutation, (SOURCE / mutation.module).read_text()), mutation.module, "exec")
    files, _, words = mutation.test.partition(" -k ")
    texts = [Path(ROOT / file).read_text() for file in files.split()]
    assert not words or any(re.search(rf"(class|def) \w*{words}", text) for text in texts)


def test_all_have_their_turn():
    n_turns = -(-len(MUTATIONS) // 5)
    for first in (0, 7, 4 * n_turns - 1):
        assert {m for n in range(first, first + n_turns) for m in turn(n)} == set(MUTATIONS)

"""One rule book: what the writer of a checkpoint believes is what a reader of its journal finds.

The code relied on is `Ledger.apply`, which both call, and `JournalWriter.say`.
"""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import NAMES, STRUCTURES, Life, operations

from dagron.checkpoint.files.directory import Directory


@settings(deadline=None, max_examples=60)
@given(st.lists(operations, max_size=12))
def test_the_writer_and_every_reader_have_the_same_ledger_after_any_steps(steps):
    with tempfile.TemporaryDirectory() as directory:
        life = Life(Path(directory) / "ckpt")
        try:
            life.check()
            for step in steps:
                life.do(*step)
                life.check()
        finally:
            life.store.close()


@pytest.fixture
def life(tmp_path):
    life = Life(tmp_path / "ckpt")
    yield life
    life.store.close()


def test_a_file_that_is_of_a_commit_again_is_left_over_no_more(life):
    life.do("commit", {"a": b"1"}, ())
    life.do("again", True, STRUCTURES[0], NAMES)
    assert life.store.ledger.left_over == {"a.pkl"}
    life.do("commit", {"a": b"2"}, ())
    assert life.store.ledger.left_over == set()
    life.check()


def test_what_somebody_puts_in_the_place_of_a_file_that_an_earlier_run_has_deleted_stays(life):
    life.do("commit", {"a": b"1", "b": b"2"}, ())
    life.do("invalidate", ["a"], False)
    life.do("again", False, STRUCTURES[0], ["b"])
    assert not (life.path / "a.pkl").exists()
    (life.path / "a.pkl").write_bytes(b"somebody's")
    life.do("again", False, STRUCTURES[0], ["b"])
    assert (life.path / "a.pkl").read_bytes() == b"somebody's"


# --- small results in memory ---------------------------------------------------------------------------------------


def test_a_result_that_children_have_just_used_stays_in_memory_however_many_come_after(life, monkeypatch):
    monkeypatch.setattr("dagron.checkpoint.writing.results._BUDGET_BYTES", 2_000)
    reads = []
    real = Directory.open_to_read
    monkeypatch.setattr(Directory, "open_to_read", lambda self, name: reads.append(name) or real(self, name))
    nodes = ["shared", *(f"n{i}" for i in range(100))]
    life.do("again", True, STRUCTURES[0], nodes)
    life.do("commit", {"shared": b"of all"}, ())
    reads.clear()
    for name in nodes[1:]:
        life.do("commit", {name: name.encode() * 10}, ())
        # Each next node takes the result of the one before, and that of the first.
        assert life.store.source(name) == name.encode() * 10
        assert life.store.source("shared") == b"of all"
    assert reads == []


def test_a_result_that_was_read_once_is_in_memory_for_the_next_child(life, monkeypatch):
    life.do("commit", {"a": b"1"}, ())
    life.do("again", False, STRUCTURES[0], NAMES)
    reads = []
    real = Directory.open_to_read
    monkeypatch.setattr(Directory, "open_to_read", lambda self, name: reads.append(name) or real(self, name))
    assert [life.store.source("a") for _ in range(3)] == [b"1"] * 3
    assert len(reads) == 1


def test_of_a_result_that_was_made_again_the_new_one_is_given(life):
    life.do("commit", {"a": b"1"}, ())
    old = life.store.commit_of("a")
    life.do("commit", {"a": b"2"}, ())
    assert life.store.source("a") == life.store.load("a") == b"2"
    assert life.store.load_committed(old) == b"1"
    life.do("invalidate", ["a"], False)
    with pytest.raises(KeyError):
        life.store.source("a")

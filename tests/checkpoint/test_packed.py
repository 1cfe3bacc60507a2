"""Commits as the bytes of their records: what comes out is what went in, and little of it is in memory.

Leans on `PackedCommits`, `glance_at_commit` and `encode_commit`.
"""

import gc
import math
import tracemalloc

import pytest
from drawn import commits
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dagron.checkpoint.format.commits import Commit, encode_commit, glance_at_commit
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.figures import Figures

names = st.sampled_from(["", "a", "b", "A", "a/b", "\ud800", "n" * 300, "_meta"])
places = st.tuples(st.integers(0, 2**63 - 1), st.integers(1, 2**64 - 1))


@st.composite
def placed_commits(draw):
    """Commits as a reader finds them, few nodes and many commits."""
    offset, sequence = draw(places)
    found = draw(commits)._replace(name=draw(names), sequence=sequence)
    return found._replace(payload_offset=offset if found.storage == Storage.INLINE else -1)


def is_special(commit):
    more = commit.without, commit.special_name, commit.temp_name, commit.outputs, commit.compressed_size
    return commit.storage == Storage.FILE or any(more)


def check(packed, commits):
    """What `packed` says is what a dict of the commits says."""
    assert packed == commits
    assert list(packed) == list(packed.names) == list(commits)
    assert packed.special == {name for name, commit in commits.items() if is_special(commit)}
    assert packed.files() == {commit.file_name for commit in commits.values()}
    assert packed.ran_without_some() == any(commit.without for commit in commits.values())
    plain = [(c.name, c.sequence, c.size) for c in commits.values() if not is_special(c)]
    assert list(packed.inline()) == plain
    for name, commit in commits.items():
        assert name in packed
        assert packed.get(name) == packed[name] == commit
        assert packed.sequence_of(name) == commit.sequence
        assert packed.file_of(name) == commit.file_name
    assert list(packed.seconds(commits)) == [commit.figures.duration_seconds for commit in commits.values()]


@given(st.lists(placed_commits()), st.data())
@settings(max_examples=150, deadline=None)
def test_it_is_a_mapping_of_what_was_added(added, data):
    here, there = {}, {}
    packed, other = PackedCommits(), PackedCommits()
    for commit in added:
        # As a record that supersedes an earlier one: taken out first, so that it stands at the end.
        assert packed.pop(commit.name) == here.pop(commit.name, None)
        body = encode_commit(commit)
        packed.add(commit.name, body, commit.payload_offset, commit.sequence, special=glance_at_commit(body)[2])
        here[commit.name] = commit
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from([c.name for c in added]))
            other.pop(name)
            there.pop(name, None)
            packed.move(name, other)
            if name in here:
                there[name] = here.pop(name)
        check(packed, here)
        check(other, there)
    gone = set(data.draw(st.lists(st.sampled_from([*here, "nobody"]))))
    check(packed.without(gone), {name: commit for name, commit in here.items() if name not in gone})
    check(packed, here)
    packed.clear()
    check(packed, {})
    assert PackedCommits(there.values()) == there


@given(placed_commits())
@example(Commit("node", 0, 0, 1, 0, bytes(32), bytes(16), Figures(math.inf, -math.inf)))
def test_a_glance_sees_what_stands_there(commit):
    name, ended, special = glance_at_commit(encode_commit(commit))
    assert (name, special) == (commit.name, is_special(commit))
    expected = commit.figures.ended_unix  # no number, if one is infinite and the other minus that
    assert ended == expected or (math.isnan(ended) and math.isnan(expected))


def test_a_glance_at_a_body_that_is_cut_short_raises():
    body = encode_commit(Commit("node", 0, 0, 1, 0, b"", b""))
    for n in range(len(body)):
        with pytest.raises(Exception, match=r"requires a buffer|within the name"):
            glance_at_commit(body[:n])


def test_nodes_without_a_commit():
    packed = PackedCommits()
    assert packed.get("a") is None
    assert packed.pop("a") is None
    assert packed.sequence_of("a") == 0
    assert not packed.move("a", PackedCommits())
    assert [math.isnan(seconds) for seconds in packed.seconds(["a", "b"])] == [True, True]
    with pytest.raises(KeyError):
        packed["a"]


def test_a_commit_takes_little_memory_and_none_of_the_garbage_collectors_time():
    names = [f"node{i:06d}" for i in range(10_000)]
    body = encode_commit(Commit(names[0], 0, 0, 1, 5, bytes(32), bytes(16), Figures(1.0, 2.0, 3.0, 0.0, 4096)))
    packed = PackedCommits()
    gc.collect()
    n_tracked = len(gc.get_objects())
    tracemalloc.start()
    for i, name in enumerate(names):
        packed.add(name, body, 1000 * i, i + 1, special=False)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(names) < 260
    assert len(gc.get_objects()) - n_tracked < 100

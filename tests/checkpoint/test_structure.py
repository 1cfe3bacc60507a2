"""The DAG in the journal: what is written is read, and what no writer of ours wrote is refused."""

import zlib
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format import structure
from dagron.checkpoint.format.structure import decode_dag, digest_of, encode_dag
from dagron.checkpoint.reading.opening import dag_of, read_ledger
from dagron.executor import CheckpointExecutor

STRANGE = ["a", "", "\ud800", 'quote " and \\', "line\nbreak", "ä/日本", "\0"]


@st.composite
def dags(draw):
    names = draw(st.lists(st.sampled_from(STRANGE) | st.text(max_size=5), unique=True, max_size=8))
    pairs = [(i, j) for j in range(len(names)) for i in range(j)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return dagron.DAG(names, [(names[i], names[j]) for i, j in chosen])


def encoded(dag):
    return encode_dag(dag.structure_digest(), dag.nodes, *dag.parent_arrays)


def recorded(path):
    view = read_ledger(Directory(path))
    found = dag_of(view)
    return None if found is None else dagron.DAG.from_arrays(*found)


@given(dags())
def test_a_dag_comes_back_with_its_nodes_and_the_parents_of_each_in_their_order(dag):
    body = encoded(dag)
    assert digest_of(body) == dag.structure_digest()
    assert dagron.DAG.from_arrays(*decode_dag(body)) == dag


def test_what_is_no_recorded_dag_is_a_value_error():
    body = encoded(dagron.DAG(["a", "b"], [("a", "b")]))
    data = zlib.decompress(body[40:])
    assert data.endswith(array("I", [0, 1, 0]).tobytes())
    broken = [b"", body[:39], body[:-3], body[:40] + b"no zlib"]
    broken += [body[:40] + zlib.compress(changed) for changed in (data[:-4], data[:-4] + b"\2\0\0\0", data + b"\0" * 4)]
    broken.append(body[:40] + zlib.compress(data.replace(b'"b"', b'"a"')))
    broken.append(body[:40] + zlib.compress(data.replace(b'"b"', b"123")))
    for bad in broken:
        with pytest.raises(ValueError):
            decode_dag(bad)


def test_a_dag_that_is_too_large_is_not_recorded_and_nothing_else_changes(ckpt, monkeypatch):
    monkeypatch.setattr(structure, "MAX_BYTES", 10)
    dag = dagron.DAG(["a", "b"], [("a", "b")])
    assert encoded(dag) == b""
    assert CheckpointExecutor(dag, ckpt, pool="inline").execute({"a": int, "b": int}).ok
    assert recorded(ckpt) is None


def test_the_dag_is_recorded_once_and_again_only_when_it_is_another_one(ckpt):
    first = dagron.DAG(["a", "b"], [("a", "b")])
    executor = CheckpointExecutor(first, ckpt, pool="inline")
    executor.execute({"a": int, "b": int})
    assert recorded(ckpt) == first
    size = (ckpt / "_journal").stat().st_size
    executor.resume({"a": int, "b": int})
    assert recorded(ckpt) == first
    again = (ckpt / "_journal").stat().st_size - size
    second = dagron.DAG(["a", "b", "c"], [("a", "b"), ("a", "c")])
    CheckpointExecutor(second, ckpt, pool="inline").resume({"a": int, "b": int, "c": int})
    assert recorded(ckpt) == second
    assert again < 1500  # a run that begins and ends

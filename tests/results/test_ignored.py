"""Failures are not overlooked: a result names them with what to do next, and a program that ignores them is told."""

import subprocess
import sys

import pytest

import dagron
from dagron.results import ignored

SCRIPT = """
import dagron

def bad(i):
    if i:
        raise ValueError(f"no {i}")
    return i

flow = dagron.Flow()
nodes = flow.map("n[{}]", bad, range(6))
for _ in range(N_RUNS):
    result = flow.run(f"ckpt-{_}", resume=True, pool="inline", durability="process")
LOOK
"""


def stderr_of(tmp_path, look, n_runs=1):
    text = SCRIPT.replace("LOOK", look).replace("N_RUNS", str(n_runs))
    run = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, check=True, text=True)
    return run.stderr


def test_a_program_that_has_not_looked_at_them_is_told_once(tmp_path):
    (line,) = stderr_of(tmp_path, "print(result.value(nodes[0]))", n_runs=3).splitlines()
    assert line.startswith("dagron: 5 of 6 nodes failed ('n[1]', 'n[2]', 'n[3]' and 2 more), and the program has not")
    assert "/ckpt-0 (and so it is with 2 more runs)" in line


@pytest.mark.parametrize(
    "look",
    [
        "result.ok", "result.failed", "print(result)", "result.node_results", "result[nodes[1]].error",
        "result._repr_html_()", "try: result.raise_for_failures()\nexcept Exception: pass",
    ],
)  # fmt: skip
def test_one_that_has_is_not(look):
    made = result_of_bad()
    assert len(ignored._all) == 1
    exec(look, {"result": made, "nodes": ["good", "bad"]})
    assert ignored._all == []


@pytest.fixture(autouse=True)
def nothing_before(monkeypatch):
    monkeypatch.setattr(ignored, "_all", [])


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def result_of_bad(**options):
    def bad():
        raise ValueError("<b>no</b>\nsecond line")

    flow = dagron.Flow()
    flow.add("good", int)
    flow.add("bad", bad)
    return flow.run("ckpt", resume=True, pool="inline", durability="process", **options)


def test_one_whose_callback_was_told_is_not():
    result_of_bad(callbacks=dagron.ExecutionCallbacks(on_failure=lambda name, error: None))
    assert ignored._all == []


def test_a_later_run_on_the_checkpoint_takes_the_place_of_an_earlier_one():
    result_of_bad()
    result = result_of_bad()
    assert len(ignored._all) == 1
    assert result.failed == 1
    assert ignored._all == []


def test_whoever_reads_the_checkpoint_sees_them(tmp_path):
    result_of_bad()
    found = dagron.load("ckpt")
    assert found["good"] == 0
    assert len(ignored._all) == 1
    assert list(found.failures) == ["bad"]
    assert ignored._all == []


def test_a_result_names_the_nodes_that_failed_and_the_next_step():
    result = result_of_bad()
    lines = repr(result).splitlines()
    assert lines[0].startswith("ExecutionResult(succeeded=1, failed=1, total_duration_seconds=")
    assert lines[1:] == [
        "  'bad' failed: ValueError: <b>no</b> ...",
        "  print(result['bad'].explain()) tells all of it; result.raise_for_failures() raises; a resume tries again",
    ]
    page = result._repr_html_()
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "result[&#x27;bad&#x27;].explain()" in page


def test_of_many_some_are_named_and_the_others_counted():
    def bad(i):
        raise ValueError(i)

    flow = dagron.Flow()
    flow.map("n[{}]", bad, range(9))
    text = repr(flow.run("ckpt", resume=True, pool="inline", durability="process"))
    assert text.count(" failed: ValueError") == 5
    assert "... and 4 more" in text


def test_one_without_failures_is_one_line():
    flow = dagron.Flow()
    flow.add("good", int)
    result = flow.run("ckpt", resume=True, pool="inline", durability="process")
    assert "\n" not in repr(result)
    assert "<table" not in result._repr_html_()
    assert ignored._all == []

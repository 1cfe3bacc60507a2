"""How nodes of a checkpoint stand: one word for one state, while a run goes on and after its death."""

import contextlib
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.history import read_history
from dagron.checkpoint.reading.opening import read_ledger
from dagron.cli.drawing import COLOURS
from dagron.cli.terminal import STYLES
from dagron.report.build import build_report
from dagron.report.render import render
from dagron.results.status import NodeStatus, node_statuses

# On a single slot nodes run in the order in which they were added, so the second run stops at `hold`.
JOB = """
import os, sys, time
from pathlib import Path
import dagron

FIRST = not Path("first").exists()

def hold():
    if FIRST:
        raise ValueError("not yet")
    Path("held").touch()
    time.sleep(600)

def bad():
    raise ValueError("bad")

def slow():
    time.sleep(600)

def large():
    return bytes(1_000_000)

def never():
    raise KeyboardInterrupt

tasks = {
    "hold": hold, "bad": bad, "slow": dagron.Task(slow, timeout=0.2), "ok": lambda: 1, "large": large, "old": lambda: 2,
    "after_bad": lambda bad: 3, "after_old": lambda old: 4, "after_hold": lambda hold: 5,
}
if not FIRST:
    tasks["new"] = lambda: 6
dag = dagron.DAG.from_tasks(tasks)
executor = dagron.CheckpointExecutor(dag, "ckpt", max_workers=1, durability="process", kill_grace_seconds=0)
if __name__ == "__main__":
    executor.resume(tasks)
    Path("first").touch()
"""

AS_LONG_AS_IT_RUNS = {
    "hold": "running",
    "bad": "failed",
    "slow": "timed_out",
    "ok": "completed",
    "large": "lost",
    "old": "stale",
    # A resume that goes on may still get to what is downstream of a node that failed in the run before.
    "after_bad": "pending",
    "after_old": "stale",
    "after_hold": "pending",
    "new": "pending",
}
AFTER_ITS_DEATH = {**AS_LONG_AS_IT_RUNS, "hold": "failed", "after_bad": "skipped", "after_hold": "skipped"}


def dagron_command(*arguments):
    command = [sys.executable, "-m", "dagron", *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def found_by_each():
    """What each of those that show nodes says of them."""
    listed = {node["name"]: node["state"] for node in json.loads(dagron_command("ls", "ckpt", "--json"))}
    exported = {row["name"]: row["state"] for row in csv.DictReader(io.StringIO(dagron_command("export", "ckpt")))}
    drawn = dagron_command("graph", "ckpt", "--format", "mermaid")
    shown = {name: json.loads(dagron_command("show", "ckpt", name, "--json"))["state"] for name in listed}
    status = json.loads(dagron_command("status", "ckpt", "--json"))
    dagron_command("report", "ckpt", "-o", "page.html")
    page = Path("page.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    paged = {name: data["states"][at] for name, at in zip(data["nodes"]["name"], data["nodes"]["state"], strict=True)}
    return listed, exported, shown, drawn, status, paged


def check(expected):
    listed, exported, shown, drawn, status, paged = found_by_each()
    assert listed == expected
    assert exported == expected
    assert shown == expected
    assert {name: label.replace(" ", "_") for name, label in paged.items()} == expected
    assert {node["name"]: node["status"] for node in status["failed"]} == {
        name: state for name, state in expected.items() if state in ("failed", "timed_out")
    }
    assert [node["name"] for node in status["running"]] == [n for n, state in expected.items() if state == "running"]
    assert status["completed"] == list(expected.values()).count("completed")
    assert status["states"] == Counter(expected.values())
    for state in set(expected.values()):
        assert drawn.count(f":::{state}\n") == list(expected.values()).count(state), drawn


def test_all_say_the_same_of_each_node_while_a_run_goes_on_and_after_its_death(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.py").write_text(textwrap.dedent(JOB))
    subprocess.run([sys.executable, "job.py"], check=True)
    dagron_command("invalidate", "ckpt", "old")
    os.unlink("ckpt/large.pkl")
    process = subprocess.Popen([sys.executable, "job.py"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (Path("held").exists() and json.loads(dagron_command("status", "ckpt", "--json"))["running"]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        check(AS_LONG_AS_IT_RUNS)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    check(AFTER_ITS_DEATH)
    # Without a DAG there is nothing to say of what nothing is recorded of, and all the rest is the same.
    history = read_history(Directory(tmp_path / "ckpt"))
    report = build_report(history, None, directory="", version="", generated_unix=0.0, how="interrupted")
    recorded = {name: state for name, state in AFTER_ITS_DEATH.items() if state not in ("pending", "skipped")}
    assert {node.name: node.state for node in report.nodes} == recorded
    assert node_statuses(history.ledger, None, goes_on=False) == recorded


def test_every_state_has_a_colour_in_a_table_in_a_drawing_and_on_the_page():
    assert set(COLOURS) == set(NodeStatus) <= set(STYLES)
    page = Path(dagron.__file__).parent / "report" / "page"
    css = (page / "page.css").read_text()
    assert re.findall(r"--state-(\w+):", css) == [*NodeStatus, *NodeStatus]  # light and dark
    (table,) = re.findall(r"const GLYPHS = \{(.*)\};", (page / "graph.js").read_text())
    glyphs = dict(re.findall(r'(\w+): "(.)"', table))
    assert list(glyphs) == list(NodeStatus)
    assert len(set(glyphs.values())) == len(glyphs)


def test_the_guide_has_each_state_with_what_it_says():
    guide = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    table = guide.split("| state | what it says |\n|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {status.label} | {status.meaning} |" for status in NodeStatus]


def test_a_page_whose_states_have_another_order_draws_each_as_before(tmp_path, monkeypatch):
    def looks(text):
        """The classes and the names by which the page draws its states, in any order."""
        return sorted(re.findall(r'class="(?:swatch )?(state-[^"]*)"', text)), sorted(
            re.findall(r"\.state-\w+(?:\.hatched)? \{.*\}", text)
        )

    dag = dagron.DAG(["good", "bad"])
    dagron.CheckpointExecutor(dag, tmp_path / "ckpt", pool="inline", durability="process").execute(
        {"good": int, "bad": lambda: 1 / 0}
    )
    report = build_report(
        read_history(Directory(tmp_path / "ckpt")), dag, directory="", version="", generated_unix=0.0, how="ended"
    )
    usual = render(report)
    monkeypatch.setattr("dagron.report.render._STATUSES", tuple(NodeStatus)[::-1])
    assert looks(render(report)) == looks(usual)
    assert "state-failed hatched" in looks(usual)[0]
    scripts = "".join(path.read_text() for path in (Path(dagron.__file__).parent / "report" / "page").glob("*.js"))
    assert not re.findall(r"state-\$\{i\}|=== [12] \|\|", scripts)


@pytest.mark.parametrize(("fail_fast", "ended", "expected"), [
    (True, False, "skipped"), (True, True, "skipped"), (False, False, "pending"), (False, True, "skipped"),
])  # fmt: skip
def test_what_an_interrupted_run_would_still_have_tried_is_not_skipped(tmp_path, fail_fast, ended, expected):
    def interrupt(name, error):
        if not ended:
            raise KeyboardInterrupt

    dag = dagron.DAG.builder().add_edge("bad", "takes").add_edge("bad", "after").build()
    tasks = {"bad": lambda: 1 / 0, "takes": lambda bad: 1, "after": lambda: 2}
    executor = dagron.CheckpointExecutor(
        dag, tmp_path, dagron.ExecutionCallbacks(on_failure=interrupt), fail_fast, pool="inline", durability="process"
    )
    with contextlib.nullcontext() if ended else pytest.raises(KeyboardInterrupt):
        executor.execute(tasks)
    ledger = read_ledger(Directory(tmp_path))
    assert (ledger.ended is not None) is ended
    found = node_statuses(ledger, dag, goes_on=False)
    assert found["bad"] == "failed"
    assert found["takes"] == expected
    assert found["after"] == ("completed" if ended and not fail_fast else expected)


def statuses(path, dag):
    """How the nodes stand in a checkpoint whose run has ended."""
    return node_statuses(read_ledger(Directory(path)), dag, goes_on=False)


def of_run(result):
    """How the nodes stood for the run."""
    return {name: node.status for name, node in result.node_results.items()}


def test_what_a_run_without_fail_fast_had_not_reached_when_it_was_cancelled_is_not_skipped(tmp_path):
    cancelled = threading.Event()
    edges = ("bad", "takes"), ("takes", "below"), ("bad", "after"), ("after", "last")
    dag = dagron.DAG(["bad", "takes", "below", "after", "last"], edges)
    tasks = {"bad": lambda: 1 / 0, "takes": lambda bad: 1, "below": lambda takes: 2, "after": int, "last": int}
    callbacks = dagron.ExecutionCallbacks(on_failure=lambda name, error: cancelled.set())
    executor = dagron.CheckpointExecutor(dag, tmp_path, callbacks, False, pool="inline", durability="process")
    result = executor.execute(tasks, cancel_event=cancelled)
    assert of_run(result) == statuses(tmp_path, dag)
    # The engine had `after` already.
    assert of_run(result) == {
        "bad": "failed",
        "takes": "skipped",
        "below": "skipped",
        "after": "completed",
        "last": "cancelled",
    }


def test_what_was_killed_because_the_time_of_the_run_was_over_timed_out_and_the_rest_is_cancelled(tmp_path):
    dag = dagron.DAG.builder().add_edge("slow", "after").add_node("other").build()
    tasks = {"slow": lambda: time.sleep(600), "after": lambda: 1, "other": int}
    executor = dagron.CheckpointExecutor(dag, tmp_path, max_workers=1, durability="process", kill_grace_seconds=0)
    # The other one is as ready; whichever runs first, the slow one is in the end the one that runs.
    result = executor.execute(tasks, run_timeout=1.0)
    found = statuses(tmp_path, dag)
    assert found == of_run(result)
    assert (found["slow"], found["after"]) == ("timed_out", "cancelled")
    listed = dagron_command("ls", str(tmp_path), "--state", "timed out")
    assert listed.splitlines()[1].split() == ["timed", "out", "slow"]
    dagron_command("prune", str(tmp_path), "--yes")
    assert statuses(tmp_path, dag) == found


def test_what_a_run_has_skipped_is_skipped_whatever_became_of_an_older_result(tmp_path):
    fails = []
    dag = dagron.DAG.builder().add_edge("a", "stale").add_edge("b", "lost").add_edge("b", "since").build()
    tasks = {
        "a": lambda: 1 // (0 if fails else 1), "stale": lambda a: 2,
        "b": lambda: 1 // (0 if fails else 1), "lost": lambda b: bytes(1_000_000), "since": lambda: 3,
    }  # fmt: skip
    executor = dagron.CheckpointExecutor(dag, tmp_path, fail_fast=False, pool="inline", durability="process")
    assert executor.execute(tasks).ok
    (tmp_path / "lost.pkl").unlink()
    dagron_command("invalidate", str(tmp_path), "a", "stale", "b")
    fails.append(1)
    result = executor.resume(tasks)
    assert of_run(result) == statuses(tmp_path, dag)
    assert of_run(result) == {"a": "failed", "b": "failed", "stale": "skipped", "lost": "skipped", "since": "completed"}
    dagron_command("invalidate", str(tmp_path), "since")
    assert statuses(tmp_path, dag) == {**of_run(result), "since": "stale"}, "the run has not met that"

"""The commands that look at a checkpoint or change it, in this process, on one checkpoint that all of them share."""

import csv
import dataclasses
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from places import ROOT

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format import structure
from dagron.checkpoint.reading.opening import read_ledger
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.cli import app
from dagron.cli.listing import SortKey, selected, shown_nodes
from dagron.cli.reading import dag_for
from dagron.looking.nodes import Now, node_figures
from dagron.looking.opening import recorded_dag
from dagron.preview.previewing import preview
from dagron.results.patterns import matching
from dagron.results.status import NodeStatus
from dagron.results.tables import NodeFigures
from dagron.runs.options import Options
from dagron.script import FILE_MODULE

JOB = """
import sys
import dagron

def load():
    return list(range(100))

def count(load):
    return {"n": len(load), "text": "two\\nlines \\x1b[31m"}

def big(load):
    return bytes(100_000)

def bad(load):
    print("the last words", file=sys.stderr)
    raise ValueError("no use\\nfor this")

def after(bad):
    return None

def report(**parts):
    return "a text\\nof two lines\\n"

tasks = {"load": load, "count[0]": count, "count[1]": count, "big": big, "bad": bad, "after": after, "report": report}
dag = dagron.DAG(tasks, [
    ("load", "count[0]"), ("load", "count[1]"), ("load", "big"), ("load", "bad"), ("bad", "after"),
    ("count[0]", "report"), ("count[1]", "report"),
])
"""

COMPLETED = ["load", "count[0]", "count[1]", "big", "report"]


def loaded(text):
    namespace = {"__name__": "test_job"}
    exec(text, namespace)
    return namespace["dag"], namespace["tasks"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with a job and the checkpoint of a run of it, in which a node has failed."""
    here = tmp_path_factory.mktemp("cli")
    (here / "job.py").write_text(JOB)
    dag, tasks = loaded(JOB)
    executor = dagron.CheckpointExecutor(dag, here / "checkpoints" / "job", max_workers=1, durability="process")
    result = executor.execute(tasks)
    assert (result.succeeded, result.failed, result.skipped) == (5, 1, 1)
    return here


@pytest.fixture(autouse=True)
def _signals_and_path_as_they_were(monkeypatch):
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "argv", ["dagron"])
    yield
    sys.modules.pop(FILE_MODULE, None)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


def command(*arguments, expect=0, stdin=None):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == expect, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture
def shared(made, monkeypatch):
    """The command on the shared checkpoint: only for what changes nothing."""
    monkeypatch.chdir(made)
    return command


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """The command on a copy of the checkpoint."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return command


def view_of_job():
    return read_ledger(Directory(Path("checkpoints/job").absolute()))


# --- which checkpoint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["checkpoints/job", "job.py", "job"])
def test_a_checkpoint_is_named_by_its_directory_or_by_the_target_that_was_run(shared, where):
    assert json.loads(shared("status", where, "--json").stdout)["completed"] == 5


READERS = (
    *(["status"], ["status", "--watch"], ["ls"], ["show"], ["verify"]),
    *(["trace"], ["report"], ["export"], ["invalidate"], ["prune"], ["clear"]),
)


@pytest.mark.parametrize("arguments", [*READERS, ["graph"]], ids=" ".join)
def test_without_a_checkpoint_every_command_ends_with_3_and_says_where_there_is_one(shared, arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    verb, *options = arguments
    more = {"show": ["a"], "invalidate": ["a"], "trace": ["-o", str(tmp_path / "t")]}.get(verb, [])
    for where in (*(["nowhere", "a\0b", "x" * 5000] if verb != "graph" else []), tmp_path / "empty"):
        ended = shared(verb, where, *more, *options, expect=3)
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
    assert "there is no checkpoint in" in ended.stderr
    assert f"there is one in '{os.path.join('checkpoints', 'job')}'" in ended.stderr


def test_reading_commands_change_nothing(shared, made, tmp_path):
    def everything():
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in made.rglob("*") if p.is_file()}

    before = everything()
    for arguments in (
        ["status", "job.py"],
        ["status", "job.py", "--watch"],
        ["ls", "job.py"],
        ["show", "job.py", "count[0]"],
        ["verify", "job.py"],
        ["graph", "job.py"],
        ["export", "job.py"],
        ["trace", "job.py", "-o", str(tmp_path / "t")],
        ["report", "job.py", "-o", str(tmp_path / "r")],
        ["invalidate", "job.py", "load", "--dry-run"],
        ["prune", "job.py", "--dry-run"],
        ["run", "job.py", "--dry-run"],
    ):
        shared(*arguments, expect=1 if "--watch" in arguments else 0)
    assert everything() == before


# --- status and ls ---------------------------------------------------------------------------------------------------


def test_watching_a_run_that_has_ended_shows_it_once_and_tells_by_its_code_whether_a_node_failed(shared):
    assert (
        shared("status", "job.py", "--watch", expect=1).stdout == "5/7 nodes completed, 1 failed, 0 running; finished\n"
    )
    (line,) = shared("status", "job.py", "--watch", "--json", expect=1).stdout.splitlines()
    assert json.loads(line)["completed"] == 5


def test_ls_shows_every_node_with_its_state_in_the_order_of_the_dag(shared):
    lines = shared("ls", "job.py").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["completed", "load"],
        ["completed", "count[0]"],
        ["completed", "count[1]"],
        ["completed", "big"],
        ["failed", "bad"],
        ["skipped", "after"],
        ["completed", "report"],
    ]
    assert "ValueError: no use ..." in lines[5]
    assert all(line == line.rstrip() for line in lines)


def test_ls_filters_sorts_and_limits(shared):
    def names(*arguments):
        return [node["name"] for node in json.loads(shared("ls", "job.py", *arguments, "--json").stdout)]

    assert names("count[*", "load") == ["load", "count[0]", "count[1]"]
    assert names("count[0]") == ["count[0]"]
    assert names("--state", "failed", "-s", "skipped") == ["bad", "after"]
    assert names("--sort", "size", "-n", "1") == ["big"]
    assert names("--sort", "name", "--reverse")[0] == "report"
    assert names("-R")[-1] == "load"
    assert names("nothing*") == []
    assert "none of the 7 nodes matches" in shared("ls", "job.py", "nothing*").stderr
    assert "'done' is not one of 'completed'" in shared("ls", "job.py", "-s", "done", expect=2).stderr


def test_every_key_sorts_the_largest_figure_first_and_keeps_ties():
    nodes = [NodeFigures(f"n{i}", list(NodeStatus)[i % 3], i % 2, i, i, i % 4, i % 5, i % 6, i % 7) for i in range(12)]
    for key in SortKey:
        for reverse in (False, True):
            assert sorted(selected(nodes, sort=key, reverse=reverse), key=lambda n: n.slot) == nodes
    assert [node.name for node in selected(nodes, sort=SortKey.ATTEMPTS, limit=3)] == ["n1", "n3", "n5"]
    assert [node.name for node in selected(nodes, sort=SortKey.DURATION, limit=2)] == ["n3", "n7"]


def test_in_a_narrow_terminal_the_error_gives_way_before_the_name_and_the_figures_never():
    nodes = [
        NodeFigures(f"a name of some length, {i}", NodeStatus.FAILED, 2, 0, 1.0, 61.0, error="E: " + "w" * 60)
        for i in (1, 2)
    ]
    for width in (140, 120):
        lines = shown_nodes(nodes, width).splitlines()
        assert max(map(len, lines)) <= width
        assert all("a name of some length, 1" in line or "2" in line for line in lines[1:])
        assert all("1 min 01 s" in line and "E: www" in line for line in lines[1:])
    for width in (80, 60):  # too narrow for a sentence beside the figures
        lines = shown_nodes(nodes, width).splitlines()
        assert max(map(len, lines)) <= width
        assert all("1 min 01 s" in line and "a name of some length, " in line for line in lines[1::2])
        assert all(line.startswith("  E: www") for line in lines[2::2])
    assert shown_nodes(nodes, 50).splitlines()[1].split("  ")[1].endswith("ength, 1")


def test_in_a_narrow_terminal_the_error_of_a_lost_worker_still_ends_with_what_it_wrote_last():
    error = (
        "WorkerLostError: the worker of node 'a' was killed by signal 11 (SIGSEGV) in attempt 1; its peak memory was "
    )
    error += "19 MiB; its last line on stderr: cannot open license file"
    nodes = [NodeFigures("a", NodeStatus.FAILED, 1, 0, 1.0, 61.0, 0.5, 2**24, error=error)]
    for width in (100, 80, 60):
        lines = shown_nodes(nodes, width).splitlines()
        assert "  WorkerLostError" in lines[-1]
        assert lines[-1].endswith("stderr: cannot open license file")
        assert max(map(len, lines)) <= width


def test_a_running_node_is_listed_with_how_long_it_has_run_and_with_its_memory(own):
    view = view_of_job()
    dag = recorded_dag(view)
    view.ended, view.failures = None, {}
    (node,) = [
        node for node in node_figures(view, dag, [Now("bad", 3, 1_000.0, 2048)], 1_061.0) if node.state == "running"
    ]
    assert node == NodeFigures(
        "bad", "running", slot=3, started_unix=1_000.0, duration_seconds=61.0, peak_rss_bytes=2048
    )
    assert re.split(" {2,}", shown_nodes([node], None).splitlines()[1]) == ["running", "bad", "1 min 01 s", "2.0 KiB"]


def test_brackets_of_a_pattern_stand_for_themselves():
    names = ["count[3]", "count3", "Count"]
    assert matching(names, "count[3]") == ["count[3]"]
    assert matching(names, "count[?]") == ["count[3]"]
    assert matching(names, "count*") == ["count[3]", "count3"]
    assert matching(names, "count") == []


def test_an_interrupted_run_has_pending_nodes_and_none_that_are_skipped(own):
    view = view_of_job()
    with open("checkpoints/job/_journal", "r+b") as file:
        file.truncate(view.commits["load"].payload_offset + view.commits["load"].size)
    states = {node["name"]: node["state"] for node in json.loads(own("ls", "job.py", "--json").stdout)}
    assert states == {**dict.fromkeys(states, "pending"), "load": "completed"}


def test_of_a_dag_that_is_not_recorded_the_nodes_that_have_ended_are_shown(own, monkeypatch):
    monkeypatch.setattr(structure, "MAX_BYTES", 1)
    dag, tasks = loaded(JOB)
    dagron.CheckpointExecutor(dag, "small", pool="inline", durability="process").execute(tasks)
    ended = own("ls", "small")
    assert len(ended.stdout.splitlines()) == 1 + 6
    assert "no record of its DAG" in ended.stderr
    assert "pass --dag" in own("invalidate", "small", "load", expect=2).stderr
    assert "report" in own("invalidate", "small", "load", "--dag", "job.py", "--dry-run").stdout
    assert "n0 --> n1" in own("graph", "small", "--dag", "job.py").stdout


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_has_figures_neighbours_and_the_result_of_a_completed_node(shared):
    text = shared("show", "job.py", "count[0]").stdout
    assert "\x1b" not in text
    assert "state     completed" in text
    assert "parents   load\n" in text
    assert "children  report\n" in text
    assert r"{'n': 100, 'text': 'two\nlines \x1b[31m'}" in text


def test_show_has_traceback_and_last_words_of_a_failed_node(shared):
    text = shared("show", "job.py", "bad").stdout
    assert "ValueError: no use\nfor this" in text
    assert "\ninputs\nload = [0, 1, 2, 3, 4, 5, ... 94 more]\n" in text
    assert "in bad: " in text
    assert "\nstderr\nthe last words\n" in text
    fields = json.loads(shared("show", "job.py", "bad", "--json").stdout)
    assert fields["state"] == "failed"
    assert fields["stderr"] == "the last words"
    assert fields["inputs"] == [["load", "[0, 1, 2, 3, 4, 5, ... 94 more]"]]
    assert f"slot 0, process {fields['pid']}, " in text
    assert fields["children"] == ["after"]


def test_show_says_nothing_of_a_failure_and_its_process_where_a_node_has_completed(shared):
    fields = json.loads(shared("show", "job.py", "load", "--json").stdout)
    assert {key: fields[key] for key in ("pid", "traceback", "inputs", "error")} == {
        "pid": 0, "traceback": "", "inputs": [], "error": "",
    }  # fmt: skip
    assert "process" not in shared("show", "job.py", "load").stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({i: i for i in range(25)}, "...: +5}"),
        ({i: i for i in range(20)}, "19: 19}"),
        (list(range(25)), "19, ... +5]"),
        (tuple(range(25)), "19, ... +5)"),
        ("x" * 405, "'+5"),
        ({"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}, "{'f': {...: ...}}"),
    ],
)
def test_a_preview_tells_how_much_of_a_value_it_leaves_out(value, text):
    shown = preview(pickle.dumps(value))
    assert shown.replace("\n", "").endswith(text) or text in shown
    assert ("..." in shown or "+" in shown) == (text != "19: 19}")
    assert "..." not in preview(pickle.dumps(value), full=True)


def test_show_has_the_end_of_what_a_completed_node_has_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dag = dagron.DAG.builder().add_node("a").build()
    executor = dagron.CheckpointExecutor(dag, "ckpt", max_workers=1, durability="process", pass_output=False)
    executor.execute({"a": lambda: print("\n".join(f"line {i} \x1b[2J" for i in range(2000)))})
    text = command("show", "ckpt", "a").stdout
    assert "\nstdout, the last 20 lines of 28.2 KiB; --full shows more\nline 1980 \n" in text
    assert text.endswith("\nline 1999 \n")
    assert "\nline 1979 \n" in command("show", "ckpt", "a", "--full").stdout
    assert json.loads(command("show", "ckpt", "a", "--json").stdout)["stdout_bytes"] == 28890


def test_show_value_prints_the_result_and_nothing_else(shared):
    assert shared("show", "job.py", "report", "--value").stdout == "a text\nof two lines\n"
    assert shared("show", "job.py", "report", "--value", "--unpickle").stdout == "a text\nof two lines\n"
    assert shared("show", "job.py", "load", "--value").stdout.count(",") == 99
    assert "it is skipped" in shared("show", "job.py", "after", "--value", expect=2).stderr


def test_a_misspelt_node_is_answered_with_what_may_be_meant(shared):
    assert "did you mean 'report'?" in shared("show", "job.py", "repport", expect=2).stderr
    assert "did you mean 'report'?" in shared("invalidate", "job.py", "repport", "--dry-run", expect=2).stderr


def test_show_runs_no_code_of_a_result_unless_it_is_asked_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Trap:
        def __reduce__(self):
            return os.mkdir, ("sprung",)

    @dataclasses.dataclass
    class Point:
        x: int

    Point.__module__ = Trap.__module__ = "elsewhere"
    dag = dagron.DAG(["trap"])
    executor = dagron.CheckpointExecutor(dag, "ckpt", pool="inline", durability="process")
    executor.execute({"trap": lambda: Trap()})
    text = command("show", "ckpt", "trap").stdout
    assert "mkdir('sprung')" in text
    assert not os.path.exists("sprung")
    command("show", "ckpt", "trap", "--unpickle")
    assert os.path.isdir("sprung")


def test_show_loads_a_result_of_an_untrusted_checkpoint_only_if_that_is_said(own):
    os.chmod("checkpoints/job", 0o777)
    assert own("show", "job.py", "report").exit_code == 0
    for verb in ("show", "debug"):
        more = ["--unpickle"] if verb == "show" else []
        ended = own(verb, "job.py", "report", *more, expect=3)
        assert "is writable by everyone" in ended.stderr
        assert "--allow-untrusted" in ended.stderr
        own(verb, "job.py", "report", *more, "--allow-untrusted")


def test_an_untrusted_checkpoint_is_gone_on_with_invalidated_pruned_and_cleared_only_if_that_is_said(own):
    os.chmod("checkpoints/job", 0o777)
    for arguments in (
        ["invalidate", "job.py", "load"],
        ["run", "job.py", "--resume", "--inline"],
        smaller(),
        ["clear", "job.py", "-y"],
    ):
        assert "--allow-untrusted" in own(*arguments, expect=3).stderr
        own(*arguments, "--allow-untrusted", expect=1 if arguments[0] == "run" else 0)


# --- verify ----------------------------------------------------------------------------------------------------------


def test_verify_ends_with_0_if_all_is_as_it_was_written(shared):
    assert shared("verify", "job.py").stdout.startswith("5 results, ")
    assert json.loads(shared("verify", "job.py", "--json").stdout)["findings"] == []


def test_verify_ends_with_1_and_names_the_node_whose_file_is_damaged(own):
    with open("checkpoints/job/big.pkl", "r+b") as file:
        file.seek(50_000)
        file.write(b"?")
    os.unlink("checkpoints/job/load.pkl")
    ended = own("verify", "job.py", expect=1)
    assert "node big: big.pkl: its digest is not the one" in ended.stdout
    assert "node load: load.pkl: cannot read it" in ended.stdout
    found = {f["node"]: f["costs"] for f in json.loads(own("verify", "job.py", "--json", expect=1).stdout)["findings"]}
    assert found == {"big": True, "load": False}
    assert own("show", "job.py", "big", expect=3).stdout == ""


def test_verify_tells_a_damaged_record_and_what_stands_behind_it_is_looked_at(own):
    offset = view_of_job().commits["load"].payload_offset
    with open("checkpoints/job/_journal", "r+b") as file:
        file.seek(offset - 10)
        file.write(b"?")
    assert "bytes at offset" in own("verify", "job.py", expect=1).stdout


# --- invalidate, prune and clear -------------------------------------------------------------------------------------


def smaller():
    """A pruning that has something to drop."""
    Path("smaller.py").write_text("import dagron\nflow = dagron.Flow()\nflow.add('load', int)\n")
    return ["prune", "job.py", "--dag", "smaller.py", "--yes"]


def resumed():
    dag, tasks = loaded(JOB)
    result = dagron.CheckpointExecutor(dag, "checkpoints/job", pool="inline", durability="process").resume(tasks)
    return {name for name, node in result.node_results.items() if node.restored}


def test_invalidate_takes_a_node_and_its_descendants_away(own):
    ended = own("invalidate", "job.py", "count[1]")
    assert ended.stdout == "2 nodes will run again with the next resume:\n  count[1]\n  report\n"
    states = {node["name"]: node["state"] for node in json.loads(own("ls", "job.py", "--json").stdout)}
    assert (states["count[1]"], states["report"], states["count[0]"]) == ("stale", "stale", "completed")
    assert json.loads(Path("checkpoints/job/_meta.json").read_text())["completed_nodes"] == ["load", "count[0]", "big"]
    assert own("invalidate", "job.py", "count[1]").stdout.startswith("nothing to invalidate")
    own("verify", "job.py")
    assert resumed() == {"load", "count[0]", "big"}
    assert resumed() == set(COMPLETED)


def test_invalidate_if_changed_leaves_what_is_downstream_until_a_result_has_changed(own):
    assert own("invalidate", "job.py", "load", "--if-changed").stdout.splitlines()[1:] == ["  load"]
    assert resumed() == set(COMPLETED) - {"load"}


def test_invalidate_takes_patterns_and_says_beforehand_what_it_would_take(own):
    ended = own("invalidate", "job.py", "count*", "bad", "--dry-run", "--json")
    assert json.loads(ended.stdout) == {"nodes": ["count[0]", "count[1]", "report"], "dry_run": True}
    assert resumed() == set(COMPLETED)


def test_invalidate_of_an_interrupted_checkpoint_goes_on_behind_its_last_whole_record(own):
    view = view_of_job()
    with open("checkpoints/job/_journal", "r+b") as file:
        file.truncate(view.commits["report"].payload_offset + view.commits["report"].size + 17)
    own("invalidate", "job.py", "report")
    assert not view_of_job().damage
    assert resumed() == set(COMPLETED) - {"report"}


def test_invalidate_that_is_asked_to_end_ends_with_143_and_has_changed_nothing(own, monkeypatch):
    def asked_to_end(*_):
        assert callable(signal.getsignal(signal.SIGTERM)), "it would end this process"
        signal.raise_signal(signal.SIGTERM)

    before = Path("checkpoints/job/_journal").read_bytes()
    monkeypatch.setattr("dagron.cli.verbs.invalidate.dag_for", asked_to_end)
    assert own("invalidate", "job.py", "load", expect=143).stderr == "dagron: interrupted\n"
    assert Path("checkpoints/job/_journal").read_bytes() == before


def test_invalidate_says_so_if_the_checkpoint_is_cleared_after_it_was_read(own, monkeypatch):
    def dag_and_a_clearing(view, target):
        own("clear", "job.py", "--yes")
        return dag_for(view, target)

    monkeypatch.setattr("dagron.cli.verbs.invalidate.dag_for", dag_and_a_clearing)
    ended = own("invalidate", "job.py", "load", expect=3)
    assert ended.stderr == f"dagron: error: there is no checkpoint in {os.path.abspath('checkpoints/job')!r}\n"


def test_invalidate_prune_and_clear_are_refused_while_a_run_holds_the_checkpoint(own):
    store = CheckpointStore(Path("checkpoints/job").absolute())
    store.open()
    try:
        for arguments in (["invalidate", "job.py", "load"], smaller(), ["clear", "job.py", "--yes"]):
            assert "is held by another run" in own(*arguments, expect=3).stderr
            assert view_of_job().commits.keys() == set(COMPLETED)
    finally:
        store.close()


def test_prune_says_what_it_would_drop_and_drops_it_only_with_a_word(own):
    resumed()
    foreseen = own("run", "job.py", "--resume", "--dry-run").stdout
    assert "records of the journal, of which" in own("prune", "job.py", "--dry-run").stdout
    before = view_of_job().valid_size
    assert "pass --yes" in own("prune", "job.py", expect=2).stderr
    assert view_of_job().valid_size == before
    found = json.loads(own("prune", "job.py", "--yes", "--json").stdout)
    assert (found["dry_run"], found["nodes"], found["freed_bytes"]) == (False, [], before - view_of_job().valid_size)
    assert len(view_of_job().commits) == 5
    assert own("prune", "job.py", "-y").stdout.startswith("nothing to drop")
    own("verify", "job.py")
    assert own("run", "job.py", "--resume", "--dry-run").stdout == foreseen


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0)])
def test_prune_asks_where_there_is_somebody(own, monkeypatch, answer, code):
    resumed()
    before = view_of_job().valid_size
    monkeypatch.setattr("dagron.cli.verbs.prune.is_interactive", lambda: True)
    monkeypatch.setattr("dagron.cli.verbs.prune.ask", lambda *_: answer)
    ended = own("prune", "job.py", expect=code)
    assert "records of the journal, of which" in ended.stderr
    assert (view_of_job().valid_size < before) is (answer == "y")
    assert ended.stdout.endswith("were dropped\n" if answer == "y" else "")
    assert ended.stdout.count("\n") == (answer == "y")


def test_prune_drops_what_the_dag_of_a_target_does_not_have(own):
    said = own(*smaller()).stdout
    assert "results or failures of" in said
    assert "that the DAG does not have: " in said
    assert [*view_of_job().commits] == ["load"]


def test_prune_drops_nothing_for_the_dag_of_another_job_unless_that_is_said(own):
    Path("other.py").write_text("tasks = {'x': int}\n")
    assert "6 nodes that the DAG does not have" in own("prune", "job.py", "--dag", "other.py", "--dry-run").stdout
    assert "(--even-all)" in own("prune", "job.py", "--dag", "other.py", "--yes", expect=3).stderr
    assert len(view_of_job().commits) == 5
    own("prune", "job.py", "--dag", "other.py", "--yes", "--even-all")
    assert not view_of_job().commits


def test_clear_deletes_nothing_without_a_word_and_its_own_files_with_one(own):
    Path("checkpoints/job/mine.txt").touch()
    assert "pass --yes" in own("clear", "job.py", expect=2).stderr
    assert len(view_of_job().commits) == 5
    own("clear", "job.py", "--yes")
    assert os.listdir("checkpoints/job") == ["mine.txt"]
    own("clear", "job.py", "--yes", expect=3)


def test_clear_deletes_a_checkpoint_whose_journal_is_damaged(own):
    with open("checkpoints/job/_journal", "r+b") as file:
        file.write(b"?")
    own("status", "job.py", expect=3)
    own("clear", "checkpoints/job", "-y")
    assert os.listdir("checkpoints/job") == []


# --- export, trace, graph --------------------------------------------------------------------------------------------


def test_export_has_every_field_of_every_node_as_csv_and_as_json(shared, tmp_path):
    rows = list(csv.DictReader(io.StringIO(shared("export", "job.py").stdout)))
    assert list(rows[0]) == [field.name for field in dataclasses.fields(NodeFigures)]
    assert [row["name"] for row in rows][:2] == ["load", "count[0]"]
    shared("export", "job.py", "-o", tmp_path / "nodes.json")
    nodes = json.loads((tmp_path / "nodes.json").read_text())
    assert [{key: str(value) for key, value in node.items()} for node in nodes] == rows
    assert float(rows[3]["result_bytes"]) > 100_000
    shared("export", "job.py", "-o", tmp_path / "no" / "such", expect=4)


def test_a_trace_has_the_last_attempt_of_every_node_that_has_ended(shared, tmp_path):
    shared("trace", "job.py", "-o", tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    begun = {event["name"]: event["cat"] for event in events if event["ph"] == "B"}
    assert begun == {**dict.fromkeys(COMPLETED, "completed"), "bad": "raised"}


def test_a_graph_is_drawn_as_mermaid_dot_and_svg_with_its_states(shared, tmp_path):
    import xml.etree.ElementTree as ET

    mermaid = shared("graph", "job.py").stdout
    assert mermaid.startswith("flowchart TD\n")
    assert '["bad"]:::failed' in mermaid
    assert mermaid.count("-->") == 7
    dot = shared("graph", "job.py", "--format", "dot").stdout
    assert dot.count("->") == 7
    shared("graph", "job.py", "-o", tmp_path / "job.svg")
    root = ET.parse(tmp_path / "job.svg").getroot()
    assert {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")} == {*COMPLETED, "bad", "after"}
    assert "after: skipped" in (tmp_path / "job.svg").read_text()


def test_only_a_part_of_a_graph_is_drawn_where_that_is_asked_for_or_it_is_too_large(shared):
    assert "3 nodes" not in shared("graph", "job.py", "--around", "bad").stdout
    assert shared("graph", "job.py", "--around", "bad").stdout.count("-->") == 2
    assert shared("graph", "job.py", "--around", "bad", "--depth", "0").stdout.count("-->") == 0
    assert "7 nodes make no picture" in shared("graph", "job.py", "--max-nodes", "6", expect=2).stderr
    shared("graph", "job.py", "--around", "nobody", expect=2)


def test_a_job_that_has_not_run_yet_is_drawn_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.py").write_text("tasks = {'a': lambda: 1, 'b': lambda a: a}")
    assert '["a"]:::pending' in command("graph", "new.py").stdout


def test_strange_names_are_drawn_and_shown_without_harm(tmp_path, monkeypatch):
    import xml.etree.ElementTree as ET

    names = ['"];x["', "<b>&amp;", "line\nbreak", "\x1b[31mred", "\ud800", "", "end", "a|b"]
    monkeypatch.chdir(tmp_path)
    dag = dagron.DAG(names, [(names[0], name) for name in names[1:]])
    dagron.CheckpointExecutor(dag, "ckpt", pool="inline", durability="process").execute(dict.fromkeys(names, int))
    for verb in (["ls"], ["graph"], ["graph", "-f", "dot"], ["verify"], ["export", "-f", "json"]):
        assert "\x1b" not in command(verb[0], "ckpt", *verb[1:]).stdout
    command("export", "ckpt", "-o", "nodes.csv")
    assert "\\ud800" in Path("nodes.csv").read_text()
    command("graph", "ckpt", "-o", "g.svg")
    assert len(list(ET.parse("g.svg").getroot().iter("{http://www.w3.org/2000/svg}text"))) == len(names)


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_run_and_why(own):
    ended = own("run", "job.py", "--dry-run")
    assert ended.stdout.splitlines() == [
        "2 of 7 nodes would run, 5 keep their results:",
        "  bad  (failed)",
        "  after  (has not completed)",
    ]
    own("invalidate", "job.py", "count[0]", "--if-changed")
    os.unlink("checkpoints/job/big.pkl")
    fields = json.loads(own("run", "job.py", "--dry-run", "--json").stdout)
    assert {item["name"]: item["reason"] for item in fields["to_run"]} == {
        "count[0]": "stale",
        "big": "lost",
        "bad": "failed",
        "after": "has not completed",
    }
    assert fields["held"] == ["report"]
    assert fields["restored"] == 2
    assert own("run", "job.py", "--dry-run", "--fresh").stdout.startswith("7 of 7 nodes would run:")


def test_a_dry_run_checks_the_tasks_and_the_options_as_a_run_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text("import dagron\ndag = dagron.DAG(['a', 'b'])\ntasks = {'a': int}")
    assert "no task for" in command("run", "wrong.py", "--dry-run", expect=2).stderr
    (tmp_path / "right.py").write_text("tasks = {'a': int}")
    too_many = ["right.py", "--pin-cpus", "--workers", "100000"]
    for how in ([], ["--dry-run"]):
        assert "at most as many workers as processors" in command("run", *too_many, *how, expect=2).stderr
    assert not os.path.exists("checkpoints")


TARGETS = """
import dagron
tasks = {"a": lambda: 1, "b": lambda a: a + 1}
others = {"c": lambda: 3}
dag = dagron.DAG(["a", "b"], [("a", "b")])
number = 7
"""


def test_what_stands_behind_a_colon_may_be_tasks_a_dag_or_a_flow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.py").write_text(TARGETS)
    assert command("run", "jobs.py:others", "--dry-run").stdout.splitlines()[1:] == ["  c"]
    assert command("run", "jobs.py:dag", "--dry-run").stdout.splitlines()[1:] == ["  a", "  b"]
    assert "is of type int" in command("run", "jobs.py:number", "--dry-run", expect=2).stderr
    assert "is not defined" in command("run", "jobs:missing", "--dry-run", expect=2).stderr


# --- doctor and help -------------------------------------------------------------------------------------------------


def test_doctor_tries_a_run_and_leaves_nothing(tmp_path):
    checks = {check["name"]: check for check in json.loads(command("doctor", tmp_path, "--json").stdout)}
    assert checks["run"]["verdict"] == "ok"
    assert checks["lock"]["verdict"] == "ok"
    assert "a run of one node took" in checks["run"]["text"]
    assert os.listdir(tmp_path) == []
    assert "bad   directory" in command("doctor", tmp_path / "nowhere", expect=1).stdout


PAGE = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def test_doctor_fails_where_the_other_project_of_that_name_is_installed(tmp_path, monkeypatch):
    assert json.loads(command("doctor", tmp_path, "--json").stdout)[1]["verdict"] == "ok"
    info = tmp_path / "site" / "dagron-0.1.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dagron\nVersion: 0.1.1\n")
    (tmp_path / "site" / "dagron").mkdir()
    (tmp_path / "site" / "dagron" / "_internal.abi3.so").touch()
    (info / "RECORD").write_text("dagron/_internal.abi3.so,,\ndagron-0.1.1.dist-info/RECORD,,\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    checks = {check["name"]: check for check in json.loads(command("doctor", tmp_path, "--json", expect=1).stdout)}
    assert [name for name, check in checks.items() if check["verdict"] == "bad"] == ["package"]
    text = checks["package"]["text"]
    assert "version 0.1.1" in text
    assert str(tmp_path / "site" / "dagron" / "_internal.abi3.so") in text
    assert "dist-info" not in text


def test_no_text_tells_to_install_the_other_project():
    texts = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "pyproject.toml"]
    texts += [path for folder in ("docs", "src", "benchmarks") for path in (ROOT / folder).rglob("*.*")]
    texts = [path for path in texts if path.suffix in (".md", ".py", ".toml")]
    asks = re.compile(
        r"(pip3?|uv|uvx|pipx|poetry|conda)\s+(pip\s+)?(install|add|run)[^\n]*[\s'\"]dagron(?![-\w./])|dagron\["
    )
    assert [path.name for path in texts if asks.search(path.read_text(encoding="utf-8"))] == []
    assert asks.search("pip install 'dagron[report]'")
    assert asks.search("uv pip install dagron")


def test_the_commands_of_the_guide_do_what_it_says_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    Path("sweep.py").write_text(re.search(r"<!-- file sweep.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1])
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) > 25
    for line in lines:
        line, _, comment = line.partition(" #")
        program, *arguments = shlex.split(re.split(r" [|>] ", line)[0])
        assert program == "dagron"
        expected = re.search(r"exit code (\d)", comment)
        if arguments[0] == "run":
            arguments.insert(1, "--inline")  # rather than a worker for each
        ended = command(*arguments, expect=int(expected[1]) if expected else 0)
        if (said := re.match(r" (\d+|job  .*)", comment)) and not expected:
            assert said[1] in ended.stdout.splitlines()
    assert {"job.svg", "trace.json", "nodes.json", "report.html"} <= set(os.listdir())


def test_the_guide_and_the_readme_have_every_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"\n## {verb}\n" in PAGE
        assert f"| `dagron {verb}" in readme


VERBS = (
    *("run", "debug", "status", "ls", "show", "verify", "invalidate", "prune", "clear"),
    *("graph", "trace", "report", "export", "doctor"),
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_explains_itself_with_examples_and_exit_codes(verb):
    text = command(verb, "--help").stdout
    assert "Examples:" in text
    assert f"dagron {verb}" in text
    assert "Exit codes:" in text
    listed = text.split("\nArguments:\n")[1].split("\n\n")[0]
    assert re.match(r"  (DIR|TARGET|\[DIR\])  +[AWT]", listed)
    assert text.index("\nArguments:") < text.index("\nOptions:") < text.index("Examples:")


def test_the_list_of_commands_is_complete_and_says_what_each_is_for():
    listed = command("--help").stdout.split("Running:\n")[1].split("  Examples:")[0]
    assert re.findall(r"^  (\w+)  ", listed, re.MULTILINE) == list(VERBS)
    assert "..." not in listed
    folder = Path(dagron.__file__).parent / "cli" / "verbs"
    assert {path.stem for path in folder.glob("*.py")} == {*VERBS, "__init__"}


def test_a_command_loads_no_other_one_and_the_list_of_commands_loads_none(tmp_path):
    def verbs_of(*arguments):
        code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from dagron.cli import main; main()"
        ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
        loaded = ended.stdout.splitlines()[-1].split()
        return {name.rpartition(".")[2] for name in loaded if name.startswith("dagron.cli.verbs.")}, loaded

    assert verbs_of("--help")[0] == verbs_of("nothing")[0] == set()
    for verb in VERBS:
        assert verbs_of(verb, "--help")[0] == {verb}
    found, loaded = verbs_of("status", ".")
    assert found == {"status"}
    assert not {"rich", "cloudpickle", "jinja2"} & set(loaded)


def options_of_all_verbs():
    found = {}
    for verb in VERBS:
        context = click.Context(app.get_command(click.Context(app), verb))
        for parameter in context.command.get_params(context):
            if isinstance(parameter, click.Option):
                for text in (*parameter.opts, *parameter.secondary_opts):
                    found.setdefault(text, {})[verb] = parameter
    return found


def test_a_letter_and_a_name_of_an_option_mean_one_thing_for_all_commands():
    for text, uses in options_of_all_verbs().items():
        meanings = {(o.name, tuple(o.opts), o.is_flag, o.metavar, o.multiple) for o in uses.values()}
        assert len(meanings) == 1, (text, meanings)
    assert {"--timeout", "--run-timeout", "--pass-output", "--output"} <= options_of_all_verbs().keys()


def test_the_defaults_of_a_run_are_those_of_the_executor():
    defaults = app.get_command(click.Context(app), "run").make_context("run", ["job.py"]).params
    for field in dataclasses.fields(Options):
        if field.name in defaults and field.name != "progress":  # which depends on the terminal
            assert defaults[field.name] == field.default, field.name


def test_a_misspelt_command_or_option_ends_with_2_and_what_may_be_meant():
    assert "No such command 'statsu'. Did you mean 'status'?" in command("statsu", expect=2).stderr

    ended = command("ls", "job.py", "--sotr", "size", expect=2)
    assert "--sort" in ended.stderr
    assert "Usage: dagron ls" in ended.stderr
    assert "Missing argument 'DIR'" in command("ls", expect=2).stderr


def test_rerun_is_understood_as_invalidate_and_listed_nowhere(own):
    asked = own("rerun", "job.py", "load", "--dry-run", "--json").stdout
    assert asked == own("invalidate", "job.py", "load", "--dry-run", "--json").stdout
    assert "load" in json.loads(asked)["nodes"]
    assert "rerun" not in command("--help").stdout


def completions(words):
    """What bash is told to complete; `file` stands for names of files."""
    count = len(words.split(" ")) - 1
    environment = {"_DAGRON_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    code = "from dagron.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    kinds = [line.split(",", 1) for line in run.stdout.splitlines()]
    return ["file" if kind == "file" else value for kind, value in kinds]


def test_a_shell_completes_commands_options_choices_and_files():
    assert completions("dagron st") == ["status"]
    assert completions("dagron ") == list(VERBS)
    assert completions("dagron run --dur") == ["--durability"]
    assert completions("dagron run --durability p") == ["power", "process"]
    assert completions("dagron ls job.py --sort s") == ["state", "started", "size"]
    assert completions("dagron ls job.py --state s") == ["skipped", "stale"]
    assert completions("dagron graph job.py --format d") == ["dot"]
    for words in ("run jo", "status check", "debug job.py node jo", "trace job.py -o t", "graph job.py --dag j"):
        assert completions(f"dagron {words}") == ["file"]
    assert completions("dagron --show-completion z") == ["zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_a_shell_can_be_shown_and_the_guide_says_where_it_goes(shell):
    script = command("--show-completion", shell).stdout
    assert f"_DAGRON_COMPLETE={shell}_complete" in script
    assert "dagron" in script
    assert f"dagron --show-completion {shell} >" in PAGE
    assert f"dagron --show-completion {shell} >" in command("--help").stdout


def test_reading_a_hundred_thousand_nodes_takes_seconds_at_most(tmp_path, monkeypatch):
    nodes = [NodeFigures(f"n{i}", NodeStatus.COMPLETED, 1, 0, 1.0, i / 1000, i / 1000, i, i) for i in range(100_000)]
    began = time.process_time()
    text = shown_nodes(selected(nodes, sort=SortKey.SIZE), 100)
    assert time.process_time() - began < 10
    assert text.count("\n") == 100_000

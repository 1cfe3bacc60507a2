"""`dagron.load`: the results of a checkpoint without its script, without a run, and while a run goes on."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import textwrap
import types

import cloudpickle
import pytest
from places import SRC

import dagron
from dagron import CheckpointDirectoryError, Flow, NodeStatus, ResultUnavailableError, UnknownNodeError
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclasses.dataclass
class Score:
    mean: float


def square(i):
    return i * i


def fail():
    raise ValueError("too bad")


def run(ckpt, *, broken=True, **options):
    flow = Flow()
    parts = flow.map("part[{}]", square, range(3))
    flow.add("large", lambda: bytes(100_000))
    flow.add("total", sum, parts)
    flow.add("score", Score, 0.5)
    if broken:
        bad = flow.add("bad", fail)
        flow.add("after", len, bad)
    return flow.run(ckpt, **{"pool": "inline", "durability": "process", "resume": True, **options})


@pytest.fixture
def found(ckpt):
    run(ckpt)
    return dagron.load(ckpt)


class TestResults:
    def test_a_name_gives_what_the_task_returned(self, found):
        assert (found["total"], found["part[2]"], len(found["large"])) == (5, 4, 100_000)

    def test_what_has_a_result_is_in_it_in_the_order_of_the_dag(self, found):
        names = ["part[0]", "part[1]", "part[2]", "large", "total", "score"]
        assert list(found) == list(found.keys()) == names
        assert len(found) == 6
        assert "total" in found
        assert "bad" not in found
        assert [name for name, value in found.items() if isinstance(value, int)] == [*names[:3], "total"]
        assert found.get("bad", 3) == 3
        assert found.get("total") == 5

    def test_a_handle_is_as_good_as_a_name(self, found):
        total = Flow().add("total", sum, [1])
        assert found[total] == 5
        assert total in found

    def test_a_pattern_gives_those_that_match(self, found):
        parts = found["part[?]"]
        assert dict(parts) == {"part[0]": 0, "part[1]": 1, "part[2]": 4}
        assert list(parts.nodes) == list(parts)
        assert list(found.select("to*", "ba?")) == ["total"]
        assert list(found.select("to*", "ba?").nodes) == ["total", "bad"]
        with pytest.raises(UnknownNodeError):
            parts["total"]

    def test_a_name_with_a_star_is_first_of_all_a_name(self, ckpt):
        flow = Flow()
        flow.add("a*", square, 2)
        flow.add("ab", square, 3)
        flow.run(ckpt, pool="inline")
        assert dagron.load(ckpt)["a*"] == 4
        assert dict(dagron.load(ckpt).select("a*")) == {"a*": 4, "ab": 9}

    @pytest.mark.parametrize("wrong", ["totl", "totl*"])
    def test_a_name_that_no_node_has_is_told_with_one_that_is_close(self, found, wrong):
        with pytest.raises(UnknownNodeError, match="the checkpoint has no such node; did you mean 'total'"):
            found[wrong]
        with pytest.raises(KeyError):
            found.nodes[wrong]

    def test_classes_of_this_program_are_its_own(self, found):
        assert found["score"] == Score(0.5)

    def test_a_result_is_loaded_each_time(self, found):
        assert found["score"] is not found["score"]

    def test_two_are_equal_only_if_they_are_one(self, found, ckpt):
        assert found == found
        assert found != dagron.load(ckpt)
        assert len({found, dagron.load(ckpt)}) == 2


class TestFailures:
    def test_what_has_no_result_says_why(self, found):
        with pytest.raises(dagron.TaskFailedError, match=r"'bad' raised ValueError: too bad") as caught:
            found["bad"]
        assert "in fail" in str(caught.value.__cause__)
        with pytest.raises(ResultUnavailableError, match="it is skipped: a node upstream of it failed"):
            found["after"]

    def test_they_are_those_that_failed_with_all_that_is_known(self, found):
        assert list(found.failures) == ["bad"]
        bad = found.failures["bad"]
        assert (bad.status, bad.attempts, bad.result) == (NodeStatus.FAILED, 1, None)
        assert "raise ValueError" in bad.explain()

    def test_one_that_a_run_had_no_time_for_is_told(self, ckpt):
        flow = Flow()
        flow.add("a", abs, -1)
        flow.run(ckpt, pool="inline", durability="process", run_timeout=1e-9)
        node = dagron.load(ckpt).nodes["a"]
        assert (node.status, node.result) == (NodeStatus.CANCELLED, None)
        with pytest.raises(ResultUnavailableError, match="it is cancelled"):
            dagron.load(ckpt)["a"]

    def test_one_whose_worker_died_has_the_text_of_that(self, ckpt):
        flow = Flow()
        flow.add("dies", os._exit, 3)
        flow.run(ckpt, max_workers=1, durability="process")
        error = dagron.load(ckpt).failures["dies"].error
        assert isinstance(error, dagron.NodeError)
        assert "exited with code 3" in str(error)


class TestNodes:
    def test_each_has_its_figures(self, found):
        nodes = found.nodes
        assert len(nodes) == 8
        large = nodes["large"]
        assert (large.status, large.attempts) == (NodeStatus.COMPLETED, 1)
        assert large.result_bytes > 100_000
        assert large.ended_unix == pytest.approx(large.started_unix + large.duration_seconds)
        assert len(large.result) == 100_000
        assert nodes["after"].status is NodeStatus.SKIPPED

    def test_as_dicts_they_are_those_of_export(self, found, ckpt, call):
        rows = found.to_dicts()
        out, _ = call("export", str(ckpt), "--format", "json")
        assert rows == json.loads(out)
        with_values = found["part*"].to_dicts(values=True)
        assert [row["value"] for row in with_values] == [0, 1, 4]
        assert [row["value"] for row in found.select("bad").to_dicts(values=True)] == [None]

    def test_as_a_frame_they_have_times(self, found):
        pandas = pytest.importorskip("pandas")
        frame = found.to_frame(values=True)
        assert list(frame.index) == list(found.nodes)
        assert frame.loc["total", "value"] == 5
        assert frame.loc["bad", "state"] == "failed"
        assert str(frame["started"].dtype).endswith("UTC]")
        assert frame.loc["total", "started"].timestamp() == pytest.approx(found.nodes["total"].started_unix, abs=1e-3)
        assert pandas.isna(frame.loc["after", "started"])
        assert list(found.select("bad").to_frame().index) == ["bad"]

    def test_without_pandas_it_is_told_what_to_install(self, found, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(dagron.MissingPackageError, match=r"pip install pandas; to_dicts\(\) gives the same"):
            found.to_frame()

    def test_its_texts_say_how_many_nodes_stand_how(self, found, ckpt):
        assert repr(found) == f"Checkpoint({str(ckpt)!r}: 6 completed, 1 failed, 1 skipped)"
        page = found._repr_html_()
        assert "6 completed, 1 failed, 1 skipped" in page
        assert "ValueError: too bad" in page

    def test_in_html_every_name_is_text(self, ckpt):
        flow = Flow()
        flow.add("<script>", square, 1)
        flow.map("{}", square, range(30))
        flow.run(ckpt, pool="inline", durability="process")
        page = dagron.load(ckpt)._repr_html_()
        assert "<script>" not in page
        assert "&lt;script&gt;" in page
        assert "and 11 more" in page


class TestWithoutTheScript:
    JOB = """
    import dagron, enum, typing

    class Color(enum.Enum):
        RED = 1

    class Point(typing.NamedTuple):
        x: int

    class Model:
        def __init__(self):
            self.weights = [1, 2]

    flow = dagron.Flow()
    flow.add("number", int, "7")
    flow.add("model", Model)
    flow.add("color", lambda: Color.RED)
    flow.add("point", Point, 3)
    flow.run("ckpt", pool="inline", durability="process")
    """

    READER = """
    import dagron
    found = dagron.load("ckpt")
    print(found["number"], found["model"].weights, repr(found["color"]), found["point"])
    """

    def test_instances_of_its_classes_show_what_is_in_them(self, tmp_path):
        env = {**os.environ, "PYTHONPATH": SRC}
        for name, text in (("job.py", self.JOB), ("reader.py", self.READER)):
            (tmp_path / name).write_text(textwrap.dedent(text))
            done = subprocess.run(
                [sys.executable, name], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=True
            )
        assert done.stdout.startswith("7 [1, 2] ")
        assert "RED" in done.stdout
        assert "3" in done.stdout.rsplit(" ", 1)[-1]


class TestWhileARunGoesOn:
    def test_what_is_there_can_be_read_and_the_run_is_not_disturbed(self, ckpt):
        seen = []

        def look(name, value):
            found = dagron.load(ckpt)
            seen.append((len(found), found[name], {node.status for node in found.nodes.values()}))

        run(ckpt, broken=False, callbacks=dagron.ExecutionCallbacks(on_complete=look))
        assert [n for n, _, _ in seen] == [1, 2, 3, 4, 5, 6]
        assert NodeStatus.PENDING in seen[0][2]
        assert seen[-1][2] == {NodeStatus.COMPLETED}

    def test_a_result_that_a_later_run_has_replaced_is_an_error_and_never_another_value(self, ckpt):
        flow = Flow()
        flow.add("large", lambda: bytes(100_000))
        flow.add("small", square, 3)
        flow.run(ckpt, pool="inline", durability="process")
        before = dagron.load(ckpt)
        flow = Flow()
        flow.add("large", lambda: b"x" * 100_000)
        flow.add("small", square, 4)
        flow.run(ckpt, pool="inline", durability="process", resume=False)
        for name in ("large", "small"):
            with pytest.raises(ResultUnavailableError, match="load the checkpoint again"):
                before[name]
        assert dagron.load(ckpt)["large"] == b"x" * 100_000

    def test_a_file_that_has_not_got_its_name_yet_is_found(self, ckpt):
        run(ckpt, broken=False)
        temp = read_ledger(Directory(ckpt)).commits["large"].temp_name
        assert temp
        (ckpt / "large.pkl").rename(ckpt / temp)
        assert len(dagron.load(ckpt)["large"]) == 100_000

    def test_nothing_is_written(self, ckpt):
        run(ckpt)
        before = {path.name: path.stat().st_mtime_ns for path in ckpt.iterdir()}
        found = dagron.load(ckpt)
        dict(found)
        found.to_dicts()
        assert {path.name: path.stat().st_mtime_ns for path in ckpt.iterdir()} == before


class TestTrust:
    def test_what_everyone_may_write_is_refused_as_by_a_resume(self, ckpt):
        run(ckpt, broken=False)
        ckpt.chmod(0o777)
        with pytest.raises(CheckpointDirectoryError, match="writable by everyone"):
            dagron.load(ckpt)
        assert dagron.load(ckpt, allow_untrusted=True)["total"] == 5

    def test_a_checkpoint_with_a_key_needs_the_key(self, ckpt, monkeypatch):
        run(ckpt, broken=False, signing_key=b"secret")
        for key in (None, b"other"):
            with pytest.raises(dagron.CheckpointDamagedError):
                dagron.load(ckpt, signing_key=key)
        assert dagron.load(ckpt, signing_key=b"secret")["total"] == 5
        monkeypatch.setenv("DAGRON_SIGNING_KEY", "secret")
        assert dagron.load(ckpt)["total"] == 5
        with pytest.raises(dagron.OptionError):
            dagron.load(ckpt, signing_key=b"")

    def test_bytes_that_were_exchanged_are_not_unpickled(self, ckpt):
        run(ckpt, broken=False)
        path = ckpt / "large.pkl"
        path.write_bytes(pickle.dumps(types.SimpleNamespace()) + bytes(path.stat().st_size))
        with pytest.raises(ResultUnavailableError):
            dagron.load(ckpt)["large"]

    def test_where_there_is_none_it_is_told_where_it_was_looked_for(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(dagron.NoCheckpointError) as caught:
            dagron.load("nowhere")
        assert str(tmp_path / "nowhere") in str(caught.value)
        run(tmp_path / "checkpoints" / "job", broken=False)
        with pytest.raises(dagron.NoCheckpointError, match="there is one in 'checkpoints/job'"):
            dagron.load("nowhere")

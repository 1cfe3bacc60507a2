"""What execute and resume promise, end to end on real workers."""

import itertools
import pickle
import threading
import time

import pytest
from waiting import growing

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks, NodeStatus, Task


def chain(*names):
    builder = DAG.builder()
    for name in names:
        builder.add_node(name)
    return builder.add_edges(itertools.pairwise(names)).build()


def diamond():
    return DAG.builder().add_edges([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]).build()


def run(dag, ckpt, tasks, how="execute", **options):
    options = {"max_workers": 2, "retry_delay": 0.0, **options}
    run_options = {name: options.pop(name) for name in ("run_timeout", "cancel_event") if name in options}
    return getattr(CheckpointExecutor(dag, ckpt, **options), how)(tasks, **run_options)


class TestInputs:
    def test_a_parameter_named_like_a_parent_receives_its_result(self, ckpt):
        result = run(
            diamond(), ckpt, {"a": lambda: 1, "b": lambda a: a + 1, "c": lambda a: a + 2, "d": lambda c, b: (b, c)}
        )
        assert result["d"].result == (2, 3)

    def test_args_receive_the_rest_in_edge_order(self, ckpt):
        dag = DAG.builder().add_edges([("z", "sum"), ("y", "sum"), ("x", "sum")]).build()
        result = run(
            dag, ckpt, {"x": lambda: "x", "y": lambda: "y", "z": lambda: "z", "sum": lambda y, *rest: (y, rest)}
        )
        assert result["sum"].result == ("y", ("z", "x"))

    def test_kwargs_receive_the_rest_by_name(self, ckpt):
        dag = DAG.builder().add_edges([("z", "sum"), ("y", "sum")]).build()
        result = run(dag, ckpt, {"y": lambda: 1, "z": lambda: 2, "sum": lambda **parents: parents})
        assert result["sum"].result == {"z": 2, "y": 1}

    def test_a_default_stays_where_no_parent_has_its_name(self, ckpt):
        result = run(chain("a", "b"), ckpt, {"a": lambda: 1, "b": lambda a, factor=10: a * factor})
        assert result["b"].result == 10

    def test_a_reducer_takes_a_thousand_parents(self, ckpt):
        shards = [f"s{i}" for i in range(1000)]
        dag = DAG.builder().add_edges((shard, "total") for shard in shards).build()
        tasks = {shard: (lambda i=i: i) for i, shard in enumerate(shards)}
        result = run(dag, ckpt, {**tasks, "total": lambda *parts: sum(parts)})
        assert result["total"].result == sum(range(1000))

    def test_a_large_result_goes_by_file_and_arrives(self, ckpt):
        result = run(chain("a", "b"), ckpt, {"a": lambda: bytes(5_000_000), "b": lambda a: len(a)})
        assert result["b"].result == 5_000_000
        assert (ckpt / "a.pkl").stat().st_size > 5_000_000
        assert len(result["a"].result) == 5_000_000


class TestCheckpoint:
    def test_every_completed_node_has_a_file_that_pickle_opens(self, ckpt):
        run(diamond(), ckpt, {"a": lambda: {1: "x"}, "b": lambda: [2], "c": lambda: "c", "d": lambda: None})
        loaded = {}
        for name in "abcd":
            with open(ckpt / f"{name}.pkl", "rb") as file:
                loaded[name] = pickle.load(file)
        assert loaded == {"a": {1: "x"}, "b": [2], "c": "c", "d": None}

    def test_resume_repeats_nothing(self, ckpt, log):
        tasks = {name: (lambda name=name: log.note(name)) for name in "abcd"}
        run(diamond(), ckpt, tasks, pool="inline")
        result = run(diamond(), ckpt, tasks, "resume")
        assert (result.succeeded, result.restored) == (4, 4)
        assert log.counts() == {"a": 1, "b": 1, "c": 1, "d": 1}

    def test_execute_starts_afresh_and_removes_files_of_nodes_that_are_gone(self, ckpt, log):
        run(diamond(), ckpt, {name: (lambda: 1) for name in "abcd"}, pool="inline")
        run(chain("a", "x"), ckpt, {"a": lambda: log.note("a"), "x": lambda: 2})
        assert log.count("a") == 1
        assert sorted(p.name for p in ckpt.glob("*.pkl")) == ["a.pkl", "x.pkl"]

    def test_the_result_of_a_new_execute_replaces_the_old_file(self, ckpt):
        values = [("first, and longer", "inline"), ("second", "inline"), (b"x" * 100_000, "process"), (4, "process")]
        for value, pool in values:
            run(chain("a"), ckpt, {"a": lambda value=value: value}, pool=pool)
            assert pickle.loads((ckpt / "a.pkl").read_bytes()) == value

    def test_resume_runs_what_failed_and_keeps_the_rest(self, ckpt, log):
        def tasks(ok):
            return {
                "a": lambda: log.note("a"),
                "b": lambda: log.note("b") if ok else 1 / 0,
                "c": lambda: log.note("c"),
                "d": lambda: log.note("d"),
            }

        first = run(diamond(), ckpt, tasks(False), pool="inline")
        assert (first.succeeded, first.failed, first.skipped) == (2, 1, 1)
        info = CheckpointExecutor(diamond(), ckpt).checkpoint_info()
        assert (sorted(info.completed_nodes), info.failed_nodes, info.total_nodes) == (["a", "c"], ["b"], 4)
        second = run(diamond(), ckpt, tasks(True), "resume")
        assert (second.succeeded, second.restored) == (4, 2)
        assert log.counts() == {"a": 1, "b": 1, "c": 1, "d": 1}

    def test_a_resume_that_fails_again_forgets_nothing(self, ckpt, log):
        dag = DAG.builder().add_edges([("src", "a"), ("src", "b"), ("src", "c")]).build()
        tasks = {name: (lambda name=name: log.note(name)) for name in ("src", "b", "c")}
        for how, pool in (("execute", "inline"), ("resume", "inline"), ("resume", "process")):
            result = run(dag, ckpt, {**tasks, "a": lambda: 1 / 0}, how, pool=pool)
            assert (result.succeeded, result.failed) == (3, 1)
        assert log.counts() == {"b": 1, "c": 1, "src": 1}

    def test_resume_without_a_checkpoint_runs_everything(self, ckpt):
        result = run(chain("a", "b"), ckpt, {"a": lambda: 1, "b": lambda a: a + 1}, "resume")
        assert (result.succeeded, result.restored) == (2, 0)

    def test_clear_checkpoint_leaves_other_peoples_files(self, ckpt):
        executor = CheckpointExecutor(chain("a"), ckpt, pool="inline")
        executor.execute({"a": lambda: 1})
        (ckpt / "notes.txt").write_text("mine")
        (ckpt / "mine.pkl").write_text("mine")
        (ckpt / "sub").mkdir()
        executor.clear_checkpoint()
        assert executor.checkpoint_info() is None
        assert sorted(p.name for p in ckpt.iterdir()) == ["mine.pkl", "notes.txt", "sub"]

    def test_a_result_in_memory_outlives_clear_checkpoint_and_a_large_one_says_why_not(self, ckpt):
        executor = CheckpointExecutor(chain("a", "b"), ckpt)
        result = executor.execute({"a": lambda: 1, "b": lambda: bytes(100_000)})
        executor.clear_checkpoint()
        assert result["a"].result == 1
        with pytest.raises(dagron.ResultUnavailableError, match="'b'"):
            _ = result["b"].result


class TestChangedDag:
    def test_a_new_node_runs_and_a_vanished_one_is_ignored(self, ckpt, log):
        run(chain("a", "b"), ckpt, {"a": lambda: 1, "b": lambda: log.note("b")}, pool="inline")
        dag = DAG.builder().add_node("a").add_node("new").add_edge("a", "new").build()
        result = run(dag, ckpt, {"a": lambda: log.note("a"), "new": lambda a: a + 1}, "resume")
        assert (result.succeeded, result.restored) == (2, 1)
        assert (result["new"].result, log.counts()) == (2, {"b": 1})

    def test_a_node_whose_parents_changed_runs_again_with_its_descendants(self, ckpt, log):
        before = DAG.builder().add_edges([("a", "b"), ("b", "c"), ("a", "other")]).build()
        after = DAG.builder().add_edges([("a", "b"), ("x", "b"), ("b", "c"), ("a", "other")]).build()
        tasks = {name: (lambda name=name: log.note(name)) for name in ("a", "b", "c", "other")}
        run(before, ckpt, tasks, pool="inline")
        result = run(after, ckpt, {**tasks, "x": lambda: 1}, "resume")
        assert result.succeeded == 5
        assert log.counts() == {"a": 1, "b": 2, "c": 2, "other": 1}
        run(after, ckpt, {**tasks, "x": lambda: 1}, "resume", pool="inline")
        assert log.counts() == {"a": 1, "b": 2, "c": 2, "other": 1}


class TestNoStaleChild:
    def test_a_child_that_ran_while_its_parent_was_failed_runs_again_when_the_parent_completes(self, ckpt, log):
        dag = DAG.builder().add_edges([("p", "q"), ("q", "r"), ("q", "same")]).build()

        def tasks(p, q):
            return {
                "p": p,
                "q": lambda: (log.note("q"), q)[1],
                "r": lambda q: (log.note("r"), q)[1],
                "same": lambda q: log.note("same"),
            }

        first = run(dag, ckpt, tasks(lambda: 1 / 0, 1), fail_fast=False, pool="inline")
        assert (first.failed, first.succeeded) == (1, 3)
        # The parent fails again: nothing changed for q.
        run(dag, ckpt, tasks(lambda: 1 / 0, 1), "resume", fail_fast=False, pool="inline")
        assert log.count("q") == 1
        second = run(dag, ckpt, tasks(lambda: 42, 43), "resume", fail_fast=False)
        assert (second["q"].result, second["r"].result) == (43, 43)
        assert log.counts() == {"q": 2, "r": 2, "same": 2}

    def test_a_child_is_kept_when_its_parent_ran_again_and_gave_the_same(self, ckpt, log):
        dag = chain("p", "q", "r")

        def tasks(p):
            return {"p": p, "q": lambda: (log.note("q"), 1)[1], "r": lambda q: (log.note("r"), q)[1]}

        run(dag, ckpt, tasks(lambda: 1 / 0), fail_fast=False, pool="inline")
        result = run(dag, ckpt, tasks(lambda: 42), "resume", fail_fast=False)
        assert log.counts() == {"q": 2, "r": 1}
        assert (result.succeeded, result.restored) == (3, 1)

    def test_a_lost_result_costs_its_node_only(self, ckpt, log, caplog):
        dag = chain("a", "b", "c")

        def tasks(n):
            return {
                "a": lambda: (log.note("a"), bytes(50_000) + n)[1],
                "b": lambda a: log.note("b"),
                "c": lambda: log.note("c"),
            }

        run(dag, ckpt, tasks(b"1"), pool="inline")
        (ckpt / "a.pkl").unlink()
        result = run(dag, ckpt, tasks(b"2"), "resume")
        assert (result.succeeded, result.restored) == (3, 2)
        assert log.counts() == {"a": 2, "b": 1, "c": 1}
        assert "a.pkl" in caplog.text
        run(dag, ckpt, tasks(b"3"), "resume", pool="inline")
        assert log.counts() == {"a": 2, "b": 1, "c": 1}

    def test_a_damaged_input_is_named_and_made_again_by_the_next_resume(self, ckpt, log):
        dag = chain("a", "b")
        tasks = {"a": lambda: (log.note("a"), bytes(50_000))[1], "b": lambda a: 1 / 0}
        run(dag, ckpt, tasks, pool="inline")
        data = bytearray((ckpt / "a.pkl").read_bytes())
        data[30_000] ^= 1
        (ckpt / "a.pkl").write_bytes(data)
        tasks["b"] = lambda a: len(a)
        damaged = run(dag, ckpt, tasks, "resume")
        assert damaged["b"].status is NodeStatus.FAILED
        assert "a.pkl" in str(damaged["b"].error)
        mended = run(dag, ckpt, tasks, "resume", pool="inline")
        assert (mended["b"].result, log.count("a")) == (50_000, 2)


class TestFailures:
    def test_fail_fast_skips_every_descendant_and_finishes_independent_branches(self, ckpt):
        dag = DAG.builder().add_edges([("a", "b"), ("b", "c"), ("x", "y")]).build()
        result = run(dag, ckpt, {"a": lambda: 1 / 0, "b": lambda: 1, "c": lambda: 1, "x": lambda: 1, "y": lambda: 1})
        assert {n: r.status.value for n, r in result.node_results.items()} == {
            "a": "failed", "b": "skipped", "c": "skipped", "x": "completed", "y": "completed",
        }  # fmt: skip
        assert isinstance(result["c"].error, dagron.NodeSkippedError)
        assert result["c"].error.cause == "a"

    def test_without_fail_fast_only_those_that_take_the_result_are_skipped(self, ckpt):
        dag = DAG.builder().add_edges([("a", "takes"), ("a", "ignores"), ("takes", "end"), ("ignores", "end")]).build()
        tasks = {"a": lambda: 1 / 0, "takes": lambda a: a, "ignores": lambda: 1, "end": lambda ignores: ignores + 1}
        result = run(dag, ckpt, tasks, fail_fast=False)
        assert {n: r.status.value for n, r in result.node_results.items()} == {
            "a": "failed", "takes": "skipped", "ignores": "completed", "end": "completed",
        }  # fmt: skip

    def test_the_exception_arrives_with_its_remote_traceback(self, ckpt):
        def breaks():
            raise ValueError("no such thing")

        result = run(chain("a"), ckpt, {"a": breaks})
        error = result["a"].error
        assert type(error) is ValueError
        assert str(error) == "no such thing"
        assert "in breaks" in str(error.__cause__)
        assert "dagron/engines/" not in str(error.__cause__)

    def test_an_exception_that_cannot_be_pickled_arrives_as_text(self, ckpt):
        class Stubborn(Exception):
            def __reduce__(self):
                raise TypeError("no")

        def breaks():
            raise Stubborn("still readable")

        error = run(chain("a"), ckpt, {"a": breaks})["a"].error
        assert isinstance(error, dagron.TaskFailedError)
        assert "still readable" in str(error)

    def test_a_result_that_cannot_be_pickled_fails_that_node_only(self, ckpt):
        result = run(
            diamond(), ckpt, {"a": lambda: 1, "b": lambda: {"x": [threading.Lock()]}, "c": lambda: 2, "d": lambda: 3}
        )
        error = result["b"].error
        assert isinstance(error, dagron.ResultNotPicklableError)
        assert error.path == "key 'x' -> item 0"
        assert result["c"].result == 2
        assert not (ckpt / "b.pkl").exists()

    def test_no_exception_of_a_task_ends_the_run(self, ckpt):
        def breaks(raised):
            raise raised

        all_raised = {"b": SystemExit(0), "c": KeyboardInterrupt(), "d": GeneratorExit()}
        dag = DAG.builder().add_edge("a", "b").add_edge("a", "c").add_edge("a", "d").add_node("e").build()
        tasks = {name: (lambda raised=raised: breaks(raised)) for name, raised in all_raised.items()}
        result = run(dag, ckpt, {"a": lambda: 1, "e": lambda: 2, **tasks}, max_workers=1)
        assert {name: type(result[name].error) for name in all_raised} == {n: type(e) for n, e in all_raised.items()}
        assert (result["a"].result, result["e"].result) == (1, 2)


class TestRetries:
    def test_a_node_is_attempted_again_until_it_completes(self, ckpt, log):
        def flaky():
            log.note("flaky")
            if log.count("flaky") < 3:
                raise OSError("not yet")
            return "done"

        result = run(chain("a"), ckpt, {"a": Task(flaky, retries=5)})
        assert (result["a"].result, result["a"].attempts, log.count("flaky")) == ("done", 3, 3)

    def test_only_the_exceptions_asked_for_are_retried(self, ckpt, log):
        def breaks():
            log.note("tries")
            raise KeyError("no")

        result = run(chain("a"), ckpt, {"a": Task(breaks, retries=3, retry_on=(OSError,))})
        assert (result.failed, log.count("tries")) == (1, 1)

    def test_on_retry_tells_of_each_failed_attempt(self, ckpt):
        told = []
        callbacks = ExecutionCallbacks(on_retry=lambda name, attempt, error: told.append((name, attempt, type(error))))
        run(chain("a"), ckpt, {"a": lambda: 1 / 0}, retries=2, callbacks=callbacks)
        assert told == [("a", 1, ZeroDivisionError), ("a", 2, ZeroDivisionError)]


class TestCancelling:
    def test_a_set_event_stops_what_runs_and_leaves_a_checkpoint_that_resumes(self, ckpt, log):
        event = threading.Event()
        callbacks = ExecutionCallbacks(on_complete=lambda name, result: event.set())

        tasks = {"a": lambda: log.note("a"), "b": lambda: time.sleep(60), "c": lambda: 2}  # b is killed long before
        first = run(chain("a", "b", "c"), ckpt, tasks, callbacks=callbacks, cancel_event=event)
        assert (first.succeeded, first.cancelled) == (1, 2)
        assert isinstance(first["c"].error, dagron.NodeCancelledError)
        second = run(chain("a", "b", "c"), ckpt, {**tasks, "b": lambda: 1}, "resume", pool="inline")
        assert (second.succeeded, second.restored, log.count("a")) == (3, 1, 1)

    def test_the_timeout_of_a_run_kills_what_runs(self, ckpt, log):
        tasks = {"a": lambda: 1, "b": lambda: (log.note("b"), time.sleep(600)), "c": lambda: 2}
        for seconds in growing(0.5):
            result = run(chain("a", "b", "c"), ckpt, tasks, run_timeout=seconds)
            if log.count("b"):
                break
        assert [result[name].status.value for name in "abc"] == ["completed", "timed_out", "cancelled"]

    def test_a_node_that_takes_too_long_is_killed_and_its_neighbour_is_not(self, ckpt, log):
        def neighbour():
            log.note("neighbour")
            while not log.count("over"):
                time.sleep(0.01)  # in a task: waits for the fact
            return "unharmed"

        dag = DAG.builder().add_node("slow").add_node("neighbour").build()
        callbacks = ExecutionCallbacks(on_failure=lambda name, error: log.note("over"))
        tasks = {"slow": Task(lambda: time.sleep(60), timeout=0.3), "neighbour": neighbour}
        result = run(dag, ckpt, tasks, callbacks=callbacks)
        assert result["slow"].status is NodeStatus.TIMED_OUT
        assert isinstance(result["slow"].error, TimeoutError)
        assert (result["neighbour"].result, log.count("neighbour")) == ("unharmed", 1)
        assert result.timed_out == 1


class TestCallbacks:
    def test_they_run_in_the_calling_thread_in_commit_order(self, ckpt):
        told = []

        def tell(*what):
            assert threading.current_thread() is caller
            told.append(what)

        caller = threading.current_thread()
        callbacks = ExecutionCallbacks(
            on_start=lambda name: tell("start", name),
            on_complete=lambda name, result: tell("complete", name, result),
            on_failure=lambda name, error: tell("failure", name, type(error)),
            on_skip=lambda name: tell("skip", name),
        )
        run(chain("a", "b", "c"), ckpt, {"a": lambda: 1, "b": lambda: 1 / 0, "c": lambda: 2}, callbacks=callbacks)
        assert told == [
            ("start", "a"), ("complete", "a", 1), ("start", "b"), ("skip", "c"), ("failure", "b", ZeroDivisionError),
        ] or told == [
            ("start", "a"), ("complete", "a", 1), ("start", "b"), ("failure", "b", ZeroDivisionError), ("skip", "c"),
        ]  # fmt: skip

    def test_the_file_is_there_when_on_complete_is_called(self, ckpt):
        seen = []
        callbacks = ExecutionCallbacks(on_complete=lambda name, result: seen.append((ckpt / f"{name}.pkl").exists()))
        run(chain("a", "b"), ckpt, {"a": lambda: 1, "b": lambda: 2}, callbacks=callbacks)
        assert seen == [True, True]

    def test_one_that_raises_changes_nothing(self, ckpt, caplog):
        def breaks(*_):
            raise RuntimeError("from the callback")

        callbacks = ExecutionCallbacks(on_start=breaks, on_complete=breaks, on_failure=breaks)
        result = run(chain("a", "b"), ckpt, {"a": lambda: 1, "b": lambda: 1 / 0}, callbacks=callbacks)
        assert (result.succeeded, result.failed) == (1, 1)
        assert "from the callback" in caplog.text

    def test_on_restore_names_what_was_taken_from_the_checkpoint(self, ckpt):
        restored = []
        tasks = {"a": lambda: 1, "b": lambda: 2}
        run(chain("a", "b"), ckpt, tasks, pool="inline")
        run(chain("a", "b"), ckpt, tasks, "resume", callbacks=ExecutionCallbacks(on_restore=restored.append))
        assert restored == ["a", "b"]


class TestInline:
    def test_it_gives_the_same_results_in_this_process(self, ckpt):
        import os

        result = run(
            diamond(), ckpt, {"a": os.getpid, "b": lambda a: a, "c": lambda: 1 / 0, "d": lambda: 1}, pool="inline"
        )
        assert result["b"].result == os.getpid()
        assert isinstance(result["c"].error, ZeroDivisionError)
        assert result["d"].status is NodeStatus.SKIPPED

    def test_a_limit_that_cannot_be_kept_there_is_told_with_its_nodes(self, ckpt, caplog):
        tasks = {"a": Task(int, timeout=1.0), "b": int, "c": Task(int, memory_limit="1GB")}
        dag = DAG.builder().add_nodes(tasks).build()
        run(dag, ckpt, tasks, pool="inline")
        assert [record.getMessage() for record in caplog.records] == [
            "timeout is not kept where nothing can be killed; of these nodes: 'a'",
            "memory_limit is not kept where nothing can be killed; of these nodes: 'c'",
        ]
        caplog.clear()
        run(dag, ckpt, tasks)
        run(chain(*(f"n{i}" for i in range(10))), ckpt, {f"n{i}": lambda: 1 for i in range(10)}, pool="inline")
        assert not caplog.records

    def test_an_attempt_that_is_ready_when_the_run_is_cancelled_is_not_made(self, ckpt, log):
        class Cancel:
            def is_set(self):
                return bool(log.count("a"))

        tasks = {name: (lambda name=name: log.note(name)) for name in "ab"}
        dag = DAG.builder().add_nodes(tasks).build()
        result = run(dag, ckpt, tasks, pool="inline", cancel_event=Cancel())
        assert [node.status.value for node in result.node_results.values()] == ["completed", "cancelled"]
        assert not log.count("b")

    def test_a_checkpoint_of_workers_resumes_inline(self, ckpt, log):
        run(chain("a", "b"), ckpt, {"a": lambda: log.note("a"), "b": lambda: 1 / 0})
        result = run(chain("a", "b"), ckpt, {"a": lambda: log.note("a"), "b": lambda: 5}, "resume", pool="inline")
        assert (result["b"].result, log.count("a")) == (5, 1)


class TestScheduling:
    def test_the_higher_priority_starts_first(self, ckpt):
        started = []
        dag = DAG.builder().add_nodes(["low", "mid", "high"]).build()
        tasks = {"low": Task(lambda: 1, priority=-1), "mid": lambda: 1, "high": Task(lambda: 1, priority=5)}
        run(dag, ckpt, tasks, max_workers=1, callbacks=ExecutionCallbacks(on_start=started.append))
        assert started == ["high", "mid", "low"]

    def test_both_workers_work_at_once(self, ckpt, log):
        def meet(mine, other):
            log.note(mine)
            while not log.count(other):
                time.sleep(0.005)  # in a task: waits for its neighbour

        dag = DAG.builder().add_nodes(["a", "b"]).build()
        result = run(dag, ckpt, {"a": lambda: meet("a", "b"), "b": lambda: meet("b", "a")})
        assert result.succeeded == 2

    def test_ten_thousand_nodes_of_no_work_complete(self, ckpt):
        dag = DAG.builder().add_nodes(f"n{i}" for i in range(10_000)).build()
        tasks = {name: (lambda i=i: i) for i, name in enumerate(dag.nodes)}
        result = run(dag, ckpt, tasks, durability="process")
        assert [r.result for r in result.node_results.values()] == list(range(10_000))

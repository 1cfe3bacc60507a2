"""The loop of a run on a scripted pool: what it makes of what happens, without a process and without a clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from scripted import ScriptedPool, ScriptedRun

from dagron import DAG, ExecutionCallbacks, Task, WorkerLostError
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.errors import MemoryLimitExceededError, NodeTimeoutError, OptionError
from dagron.runs import coordinator
from dagron.runs.options import Options
from dagron.runs.plan import plan_run
from dagron.runs.prepare import check_limits

MIB = 2**20


class Flag:
    """A cancel event."""

    value = False

    def is_set(self):
        return self.value


class Calls(list):
    """Callbacks that note what they are told."""

    def callbacks(self, *names):
        return ExecutionCallbacks(**{f"on_{name}": self.noting(name) for name in names})

    def noting(self, name):
        return lambda *args: self.append((name, *args))


def one():
    return 1


class TestAScript:
    def test_nodes_run_and_are_committed_in_the_order_of_the_script(self, ckpt):
        def script(pool):
            yield [pool.ran(1)]
            yield [pool.ran(0)]
            yield [pool.ran(0)]

        calls = Calls()
        tasks = {"a": lambda: 1, "b": lambda: 2, "c": lambda a, b: a + b}
        run = ScriptedRun(
            ckpt, tasks, script, edges=[("a", "c"), ("b", "c")], n_slots=2, callbacks=calls.callbacks("complete")
        ).run()
        assert calls == [("complete", "b", 2), ("complete", "a", 1), ("complete", "c", 3)]
        assert run.spans == [("b", 1, "completed"), ("a", 1, "completed"), ("c", 1, "completed")]
        assert run.pool.closed

    def test_what_comes_in_together_is_committed_together(self, ckpt):
        def script(pool):
            yield [pool.ran(0), pool.ran(1)]

        run = ScriptedRun(ckpt, {"a": one, "b": one}, script, n_slots=2)
        groups = []
        commit = run.store.commit
        run.store.commit = lambda pending, doubtful: groups.append(len(pending)) or commit(pending, doubtful)
        run.run()
        assert groups == [2]


class TestDecidesNothing:
    def test_the_state_is_told_and_asked_and_its_tables_are_not_looked_at(self):
        tree = ast.parse(Path(coordinator.__file__).read_text(encoding="utf-8"))
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("state", "self._state")
        }
        asked = {"attempts_of", "expected_seconds", "is_in_doubt", "parents_without_result"}
        assert used == asked | {"cancelled", "finished", "handle", "n_running", "wake_at"}


class TestLimits:
    def test_an_engine_that_cannot_keep_a_limit_refuses_it_and_names_the_nodes(self):
        tasks = {"a": Task(one, timeout=1.5), "b": one, "c": Task(one, memory_limit=1000)}
        dag = DAG(list(tasks))
        plan = plan_run(dag, tasks, Options())
        check_limits(dag, plan, Options(), ScriptedPool.features)
        with pytest.raises(OptionError, match=r"^timeout=1\.5 \(nodes: 'a'\) .* cannot kill what runs$"):
            check_limits(dag, plan, Options(), ScriptedPool.features._replace(kills=False))
        with pytest.raises(
            OptionError, match=r"^memory_limit=1,000 bytes \(nodes: 'c'\) .* cannot see how much memory"
        ):
            check_limits(dag, plan, Options(), ScriptedPool.features._replace(observes_memory=False))
        with pytest.raises(OptionError, match=r"^max_tasks_per_worker=3 .* cannot replace a worker$"):
            check_limits(dag, plan, Options(max_tasks_per_worker=3), ScriptedPool.features._replace(replaces=False))

    def test_an_engine_without_limits_to_keep_may_be_unable_to(self):
        dag = DAG(["a"])
        plan = plan_run(dag, {"a": one}, Options())
        check_limits(dag, plan, Options(), ScriptedPool.features._replace(kills=False, observes_memory=False))


class TestLosses:
    LIMIT = 100 * MIB

    def test_a_node_whose_worker_is_replaced_for_its_memory_has_no_failure_and_its_attempt_does_not_count(self, ckpt):
        def script(pool):
            pool.observed(0, memory=self.LIMIT + 2, before=self.LIMIT + 1)
            while pool.calls[-1][0] != "kill":
                yield None
            yield [pool.lost(0)]
            yield [pool.ran(0)]

        calls = Calls()
        tasks = {"a": Task(one, memory_limit=self.LIMIT)}
        run = ScriptedRun(ckpt, tasks, script, callbacks=calls.callbacks("retry", "failure", "start")).run()
        assert run.pool.calls == [("submit", 0, ["a"]), ("kill", 0, True), ("submit", 0, ["a"])]
        assert run.failures == {}
        assert run.spans == [("a", 1, "put_back"), ("a", 1, "completed")]
        assert calls == [("start", "a"), ("start", "a")]

    def test_a_node_that_came_next_when_another_was_to_be_killed_has_no_failure(self, ckpt):
        def script(pool):
            yield [pool.ran(0)]  # teaches that the kind is short, so the next two make a batch
            assert pool.names(0) == ["b", "c"]
            pool.observed(0, seconds=5.0)
            while pool.calls[-1][0] != "kill":
                yield None
            yield [pool.lost(0, 1)]
            yield [pool.ran(0)]

        def make():
            return 0

        tasks = {name: Task(make, timeout=5.0) for name in "abc"}
        run = ScriptedRun(ckpt, tasks, script, edges=[("a", "b"), ("a", "c")]).run()
        assert run.failures == {}
        assert run.spans == [
            ("a", 1, "completed"),
            ("b", 1, "completed"),
            ("c", 1, "put_back"),
            ("c", 1, "completed"),
        ]

    def test_a_node_that_is_killed_for_its_timeout_when_the_run_is_cancelled_was_cancelled(self, ckpt):
        flag = Flag()

        def script(pool):
            pool.observed(0, seconds=5.0)
            while pool.calls[-1][0] != "kill":
                yield None
            flag.value = True
            yield None
            yield [pool.lost(0)]

        run = ScriptedRun(ckpt, {"a": Task(one, timeout=5.0)}, script, cancel_event=flag).run()
        assert run.spans == [("a", 1, "cancelled")]
        assert not isinstance(run.failures["a"].error("a"), NodeTimeoutError)

    @pytest.mark.parametrize(
        ("seen", "outcome", "error", "at_once"),
        [
            ({"seconds": 5.0}, "timed_out", NodeTimeoutError, False),
            ({"memory": LIMIT + 1}, "out_of_memory", MemoryLimitExceededError, True),
        ],
    )
    def test_a_node_that_is_killed_for_a_limit_has_failed_for_that(self, ckpt, seen, outcome, error, at_once):
        def script(pool):
            pool.observed(0, **seen)
            while pool.calls[-1][0] != "kill":
                yield None
            yield [pool.lost(0)]

        calls = Calls()
        tasks = {"a": Task(one, timeout=5.0, memory_limit=self.LIMIT)}
        run = ScriptedRun(ckpt, tasks, script, callbacks=calls.callbacks("failure")).run()
        assert run.pool.calls[-1] == ("kill", 0, at_once)
        assert run.spans == [("a", 1, outcome)]
        ((_, name, told),) = calls
        assert name == "a"
        assert type(told) is error
        if error is MemoryLimitExceededError:
            assert told.memory_bytes == self.LIMIT + 1

    def test_what_was_not_begun_is_told_of_when_it_starts_and_not_as_an_attempt(self, ckpt):
        def script(pool):
            yield [pool.ran(0)]
            assert pool.names(0) == ["b", "c", "d"]
            yield [pool.lost(0, 1)]
            yield [pool.ran(0)]

        def make():
            return 0

        run = ScriptedRun(ckpt, dict.fromkeys("abcd", make), script, edges=[("a", name) for name in "bcd"]).run()
        assert run.spans == [
            ("a", 1, "completed"),
            ("b", 1, "completed"),
            ("c", 1, "lost"),
            ("d", 1, "completed"),
        ]
        assert isinstance(run.failures["c"].error("c"), WorkerLostError)


class TestChanges:
    def test_a_child_that_took_the_old_result_is_invalidated_before_the_new_one_is_committed(self, ckpt):
        def script(pool):
            while True:
                yield [pool.ran(0)]

        edges = [("a", "b")]
        ScriptedRun(ckpt, {"a": lambda: 1, "b": lambda a: a}, script, edges=edges).run()
        store = CheckpointStore(ckpt, durability="process")
        store.open()
        store.invalidate_between_runs(["a"], "to make it again")
        store.close()

        run = ScriptedRun(ckpt, {"a": lambda: 2, "b": lambda a: a}, script, edges=edges, resume=True)
        store, done = run.store, []
        commit, invalidate = store.commit, store.invalidate

        def committed(pending, doubtful):
            done.append(("commit", [item.commit.name for item in pending], list(doubtful)))
            commit(pending, doubtful)

        def invalidated(names, *args, **options):
            done.append(("invalidate", names))
            invalidate(names, *args, **options)

        store.commit, store.invalidate = committed, invalidated
        run.run()
        assert done == [("invalidate", ["b"]), ("commit", ["a"], []), ("commit", ["b"], ["b"])]


class TestRetries:
    def test_each_is_told_once_with_the_attempt_that_failed(self, ckpt, log):
        def flaky():
            log.note("a")
            if log.count("a") == 1:
                raise ValueError("first")
            return 7

        def script(pool):
            yield [pool.ran(0)]
            while not pool.batches[0]:
                yield None
            yield [pool.lost(0)]
            while not pool.batches[0]:
                yield None
            yield [pool.ran(0)]

        calls = Calls()
        run = ScriptedRun(
            ckpt, {"a": flaky}, script, callbacks=calls.callbacks("retry", "failure"), retries=2, retry_delay=60.0
        ).run()
        assert [(what, name, attempt, type(error)) for what, name, attempt, error in calls] == [
            ("retry", "a", 1, ValueError),
            ("retry", "a", 2, WorkerLostError),
        ]
        assert run.spans == [("a", 1, "raised"), ("a", 2, "lost"), ("a", 3, "completed")]
        assert run.clock.now > 1000.0 + 60.0 + 120.0

    def test_a_callback_that_interrupts_costs_nothing_of_what_came_in_with_the_retry(self, ckpt):
        def fails():
            raise ValueError

        def script(pool):
            yield [pool.ran(0), pool.ran(1)]

        def interrupt(*_):
            raise KeyboardInterrupt

        tasks = {"a": Task(fails, retries=1), "b": one}
        run = ScriptedRun(ckpt, tasks, script, n_slots=2, callbacks=ExecutionCallbacks(on_retry=interrupt))
        with pytest.raises(KeyboardInterrupt):
            run.run()
        assert run.store.commit_of("b") is not None

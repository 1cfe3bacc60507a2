"""Results that are not to be kept: they go when all that take them are recorded, not before, and come back if they are
needed."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dagron
from dagron import DAG, CheckpointExecutor, Flow, ResultNotKeptError, Task
from dagron.checkpoint.files.scratch import SCRATCH
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.names import scratch_name
from dagron.checkpoint.reading.packed import PackedCommits
from dagron.runs.restore import plan_restore

INLINE = {"pool": "inline"}


def make(name, log, *parents, size=0, factor=1):
    log.note(name)
    return [name, [parent[0] for parent in parents], random.Random(name).randbytes(size) * factor]


def chain(log, size=30_000, last="c", keep=False, **more):
    """`a` is taken by `b`, `b` by `c`."""
    flow = Flow()
    before = ()
    for name in "abcd"[: "abcd".index(last) + 1]:
        before = (flow.add(name, make, name, log, *before, size=size, keep=keep, **more),)
    return flow


def files(path):
    return sorted(file.name for file in Path(path).glob("*.pkl"))


class TestWhatGoes:
    @pytest.mark.parametrize("size", [0, 30_000])
    def test_a_result_goes_when_all_that_take_it_are_recorded_and_what_nobody_takes_stays(self, ckpt, log, size):
        result = chain(log, size).run(ckpt, keep=True, **INLINE)
        assert result.ok
        assert result.value("c")[0] == "c"
        assert files(ckpt) == ["c.pkl"]
        with pytest.raises(ResultNotKeptError, match="give the node keep=True and resume") as raised:
            result.value("b")
        assert raised.value.node == "b"
        assert result["b"].result_bytes > size

    def test_the_flow_and_a_node_may_say_it(self, ckpt, log):
        flow = Flow()
        a = flow.add("a", make, "a", log)
        b = flow.add("b", make, "b", log, a, keep=True)
        flow.add("c", Task(make), "c", log, b)
        assert flow.run(ckpt, keep=False, **INLINE).ok
        assert files(ckpt) == ["b.pkl", "c.pkl"]

    def test_a_node_that_is_only_ordered_behind_another_does_not_take_its_result(self, ckpt):
        dag = DAG(["a", "b", "c"], [("a", "b"), ("a", "c")])
        tasks = {"a": Task(lambda: 1, keep=False), "b": lambda a: a, "c": lambda: 3}
        assert CheckpointExecutor(dag, ckpt, **INLINE).execute(tasks).ok
        assert files(ckpt) == ["b.pkl", "c.pkl"]
        tasks["b"] = lambda: 2
        assert CheckpointExecutor(dag, ckpt, **INLINE).execute(tasks).ok
        assert files(ckpt) == ["a.pkl", "b.pkl", "c.pkl"]

    def test_what_a_failed_node_takes_stays_until_it_completes(self, ckpt, log):
        def fragile(parent):
            log.note("fragile")
            if log.count("fragile") == 1:
                raise ValueError
            return parent[0]

        def flow():
            made = Flow()
            a = made.add("a", make, "a", log, keep=False)
            made.add("b", make, "b", log, a)
            made.add("fragile", fragile, a)
            return made

        assert flow().run(ckpt, **INLINE).failed == 1
        assert "a.pkl" in files(ckpt)
        assert flow().run(ckpt, resume=True, **INLINE).ok
        assert files(ckpt) == ["b.pkl", "fragile.pkl"]
        assert log.count("a") == 1

    def test_on_workers_it_is_the_same(self, ckpt, log):
        flow = Flow()
        parts = flow.map("part[{}]", lambda i: bytes(20_000) + bytes([i]), range(6), keep=False)
        sums = [flow.add(f"sum{i}", lambda *parts: len(parts), *parts[i:]) for i in range(3)]
        result = flow.run(ckpt, max_workers=2)
        assert [result.value(node) for node in sums] == [6, 5, 4]
        assert files(ckpt) == ["sum0.pkl", "sum1.pkl", "sum2.pkl"]

    def test_while_a_run_goes_on_no_more_is_there_than_is_needed(self, ckpt, log):
        seen = []

        def look(name, *_):
            seen.append((name, files(ckpt)))

        callbacks = dagron.ExecutionCallbacks(on_start=look)
        chain(log, last="d").run(ckpt, callbacks=callbacks, **INLINE)
        assert ("d", ["b.pkl", "c.pkl"]) in seen or ("d", ["c.pkl"]) in seen


class TestAResume:
    def test_with_nothing_to_do_it_makes_nothing_again(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        result = chain(log).run(ckpt, resume=True, **INLINE)
        assert (result.restored, result.succeeded) == (3, 3)
        assert log.counts() == {"a": 1, "b": 1, "c": 1}
        with pytest.raises(ResultNotKeptError):
            result.value("a")
        assert CheckpointExecutor(chain(log).dag, ckpt).checkpoint_info().completed_nodes == ["a", "b", "c"]

    def test_a_new_node_that_takes_a_result_has_it_made_again_with_what_that_takes(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        flow = chain(log)
        flow.add("new", lambda b: b[1], flow.add("b2", make, "b2", log, keep=False))
        again = Flow()
        a = again.add("a", make, "a", log, size=30_000, keep=False)
        b = again.add("b", make, "b", log, a, size=30_000, keep=False)
        again.add("c", make, "c", log, b, size=30_000, keep=False)
        new = again.add("new", lambda b: b[1], b)
        result = again.run(ckpt, resume=True, **INLINE)
        assert result.value(new) == ["a"]
        assert log.counts() == {"a": 2, "b": 2, "c": 1}
        assert files(ckpt) == ["c.pkl", "new.pkl"]

    def test_a_child_that_runs_again_has_it_made_again(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        store = dagron.checkpoint.writing.store.CheckpointStore(ckpt)
        store.open()
        store.invalidate_between_runs(["c"], "by hand")
        store.close()
        result = chain(log).run(ckpt, resume=True, **INLINE)
        assert result.ok
        assert log.counts() == {"a": 2, "b": 2, "c": 2}
        assert files(ckpt) == ["c.pkl"]

    def test_keep_true_has_it_made_again(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        flow = Flow()
        a = flow.add("a", make, "a", log, size=30_000, keep=False)
        b = flow.add("b", make, "b", log, a, size=30_000)
        flow.add("c", make, "c", log, b, size=30_000, keep=False)
        assert flow.run(ckpt, resume=True, **INLINE).value(b)[0] == "b"
        assert log.counts() == {"a": 2, "b": 2, "c": 1}
        assert files(ckpt) == ["b.pkl", "c.pkl"]

    def test_what_takes_it_stays_as_it_is_although_it_came_out_otherwise(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        flow = chain(log, factor=2)
        b = flow.add("b2", len, "x")
        del b
        again = Flow()
        a = again.add("a", make, "a", log, size=30_000, factor=2, keep=False)
        b = again.add("b", make, "b", log, a, size=30_000, keep=False)
        again.add("c", make, "c", log, b, size=30_000, keep=False)
        again.add("new", lambda a: len(a[2]), a)
        assert again.run(ckpt, resume=True, **INLINE).value("new") == 60_000
        assert log.counts() == {"a": 2, "b": 1, "c": 1}  # as with a result that was lost

    def test_keep_false_that_comes_later_drops_what_is_not_needed(self, ckpt, log):
        chain(log, keep=True).run(ckpt, **INLINE)
        assert files(ckpt) == ["a.pkl", "b.pkl", "c.pkl"]
        assert chain(log).run(ckpt, resume=True, **INLINE).restored == 3
        assert files(ckpt) == ["c.pkl"]

    def test_a_stale_ancestor_decides_about_those_below_by_the_digest_of_what_is_gone(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        store = dagron.checkpoint.writing.store.CheckpointStore(ckpt)
        store.open()
        store.invalidate_between_runs(["a"], "by hand")
        store.close()
        assert chain(log).run(ckpt, resume=True, **INLINE).ok
        assert log.count("c") == 1
        assert files(ckpt) == ["c.pkl"]

    def test_one_that_fails_when_it_is_made_again_leaves_what_was_made_from_it(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)

        def fails(*_, **__):
            raise ValueError

        again = Flow()
        a = again.add("a", fails)
        b = again.add("b", make, "b", log, a, keep=False)
        again.add("c", make, "c", log, b, keep=False)
        result = again.run(ckpt, resume=True, **INLINE)
        assert (result.failed, result["c"].status) == (1, "completed")
        assert chain(log).run(ckpt, resume=True, **INLINE).ok
        assert log.counts() == {"a": 2, "b": 1, "c": 1}

    @pytest.mark.parametrize("keep", [False, True], ids=["dropped", "lost"])
    def test_one_that_fails_when_what_it_is_made_of_has_changed_leaves_what_was_made_from_it_in_doubt(
        self, ckpt, log, keep
    ):
        def flow(factor, fails=False):
            def middle(parent):
                if fails:
                    raise ValueError
                return parent * 10_000

            made = Flow()
            a = made.add("a", lambda: [factor])
            made.add("c", lambda b: b[0], made.add("b", middle, a, keep=keep))
            return made

        flow(1).run(ckpt, **INLINE)
        if keep:
            (ckpt / "b.pkl").unlink()
        flow(1).invalidate(ckpt, "a", if_changed=True)
        assert flow(2, fails=True).run(ckpt, resume=True, **INLINE).failed == 1
        assert flow(2).run(ckpt, resume=True, **INLINE).value("c") == 2

    def test_one_that_has_failed_when_it_was_made_again_can_be_invalidated(self, ckpt):
        def flow(factor, *more, fails=False):
            def first():
                if fails:
                    raise ValueError
                return factor

            made = Flow()
            a = made.add("a", first, keep=False)
            for name in ("b", *more):
                made.add(name, lambda a: a, a)
            return made

        flow(1).run(ckpt, **INLINE)
        assert flow(1, "c", fails=True).run(ckpt, resume=True, **INLINE).failed == 1
        assert flow(2, "c").invalidate(ckpt, "a", if_changed=True) == ["a"]
        assert flow(2, "c").run(ckpt, resume=True, **INLINE).value("b") == 2

    def test_what_is_left_of_the_scratch_directory_of_one_that_is_gone_goes(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        left = ckpt / SCRATCH / scratch_name("a")
        left.mkdir(parents=True)
        assert CheckpointExecutor(chain(log).dag, ckpt).prune_checkpoint(dry_run=True).scratches == 1
        chain(log).run(ckpt, resume=True, **INLINE)
        assert not left.exists()

    def test_somebody_elses_file_under_the_name_of_one_that_is_gone_stays(self, ckpt, log):
        chain(log).run(ckpt, **INLINE)
        (ckpt / "a.pkl").write_text("theirs")
        with pytest.raises(dagron.ForeignFilesError):  # as if the node were to run
            chain(log).run(ckpt, resume=True, **INLINE)
        store = dagron.checkpoint.writing.store.CheckpointStore(ckpt)
        store.open()
        store.invalidate_between_runs(["a"], "by hand")
        store.close()
        with pytest.raises(dagron.ForeignFilesError):
            chain(log).run(ckpt, resume=True, **INLINE)
        assert (ckpt / "a.pkl").read_text() == "theirs"

    @pytest.mark.parametrize("size", [0, 30_000])
    def test_a_pruning_forgets_the_bytes_and_nothing_else(self, ckpt, log, size):
        chain(log, size).run(ckpt, **INLINE)
        for _ in range(5):
            chain(log, size).run(ckpt, resume=True, **INLINE)
        before = (ckpt / "_journal").stat().st_size
        assert CheckpointExecutor(chain(log).dag, ckpt).prune_checkpoint().freed_bytes
        assert (ckpt / "_journal").stat().st_size < before
        result = chain(log, size).run(ckpt, resume=True, **INLINE)
        assert result.restored == 3
        with pytest.raises(ResultNotKeptError):
            result.value("b")
        assert chain(log, size, last="d").run(ckpt, resume=True, **INLINE).ok
        assert log.counts() == {"a": 1, "b": 1, "c": 1, "d": 1}

    def test_the_bytes_of_small_ones_leave_the_journal_with_a_pruning(self, ckpt):
        flow = Flow()
        flow.add("b", len, flow.add("a", bytes, b"s" * 9_000, keep=False))
        flow.run(ckpt, **INLINE)
        assert b"s" * 9_000 in (ckpt / "_journal").read_bytes()
        CheckpointExecutor(flow.dag, ckpt).prune_checkpoint()
        assert b"sss" not in (ckpt / "_journal").read_bytes()
        assert flow.run(ckpt, resume=True, **INLINE).restored == 2


class TestAnyGraph:
    """Drawn graphs, resumed after drawn invalidations: what is computed is what is computed when all is kept."""

    @staticmethod
    def flow(parents, keeps):
        def task(name, *values):
            return [name, *values]

        flow = Flow()
        handles = []
        for i, (above, keep) in enumerate(zip(parents, keeps, strict=True)):
            handles.append(flow.add(f"n{i}", task, f"n{i}", *[handles[p] for p in above], keep=keep))
        return flow

    @settings(max_examples=25)
    @given(st.data())
    def test_results_are_the_same_and_only_what_is_needed_is_there(self, tmp_path_factory, data):
        n = data.draw(st.integers(2, 6))
        parents = [sorted(data.draw(st.sets(st.integers(0, i - 1), max_size=2))) if i else [] for i in range(n)]
        keeps = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
        ckpt = tmp_path_factory.mktemp("drawn") / "ckpt"
        options = {"durability": "process", **INLINE}
        self.flow(parents, keeps).run(ckpt, **options)
        taken = {p for above in parents for p in above}
        stay = {f"n{i}" for i in range(n) if keeps[i] or i not in taken}
        assert files(ckpt) == sorted(f"{name}.pkl" for name in stay)
        again = data.draw(st.sets(st.sampled_from([f"n{i}" for i in range(n)])))
        if again:
            store = dagron.checkpoint.writing.store.CheckpointStore(ckpt)
            store.open()
            store.invalidate_between_runs(sorted(again), "drawn")
            store.close()
        result = self.flow(parents, keeps).run(ckpt, resume=True, **options)
        assert result.ok
        assert not any(result[name].restored for name in again)
        assert files(ckpt) == sorted(f"{name}.pkl" for name in stay)
        fresh = self.flow(parents, [True] * n).run(ckpt.parent / "kept", **options)
        assert {name: result.value(name) for name in stay} == {name: fresh.value(name) for name in stay}


class TestThePlan:
    DAG = DAG(list("abc"), [("a", "b"), ("b", "c")])

    def commit(self, name):
        return Commit(name, 1, 0, 1, 9, b"", self.DAG.parents_fingerprint(self.DAG.index_of(name)))

    def plan(self, kept, dropped, stale=(), keeps=()):
        return plan_restore(
            self.DAG,
            PackedCommits(map(self.commit, kept)),
            stale,
            same_structure=True,
            dropped=PackedCommits(map(self.commit, dropped)),
            keeps=lambda node: self.DAG.name_of(node) in keeps,
        )

    def test_what_is_gone_is_restored_as_long_as_all_that_takes_it_is(self):
        assert self.plan("c", "ab").restored == [0, 1, 2]
        assert self.plan("c", "ab").remade == []

    def test_it_is_made_again_with_what_it_takes_itself_if_something_runs_or_may_run(self):
        assert sorted(self.plan("", "ab").remade) == [0, 1]
        found = self.plan("c", "b", stale="a")  # c may run: then it is too late to make b again
        assert (found.remade, [*found.held]) == ([1], [2])

    def test_it_is_made_again_if_it_is_to_be_kept_now_or_nobody_takes_it(self):
        assert self.plan("c", "ab", keeps="b").remade == [1, 0]
        assert self.plan("ab", "c").remade == [2]


class TestWhatIsTold:
    JOB = """
        from dagron import Flow
        flow = Flow()
        parts = flow.map("part[{}]", lambda i: bytes(20_000), range(2), keep=False)
        flow.add("total", lambda *parts: sum(map(len, parts)), *parts)
    """

    @pytest.fixture
    def job(self, tmp_path, call):
        (tmp_path / "job.py").write_text("\n".join(line[8:] for line in self.JOB.splitlines()))
        out, _ = call("run", "job.py", "--inline", "--dry-run")
        assert "2 results go when all that take them are recorded" in out
        call("run", "job.py", "--inline")

    @pytest.mark.usefixtures("job")
    def test_every_command_says_so(self, call, tmp_path):
        out, _ = call("status", "job.py")
        assert "3/3 100%" in out
        assert "of 39.1 KiB, 2 nodes not kept" in out
        found = json.loads(call("status", "job.py", "--json")[0])
        assert (found["completed"], found["n_dropped"], found["result_bytes"] - found["stored_bytes"]) == (3, 2, 40_036)
        assert [(group["group"], group["nodes"], group["stored_bytes"]) for group in found["groups"]] == [
            ("total", 1, found["stored_bytes"]), ("part[*]", 2, 0)
        ]  # fmt: skip
        out, _ = call("ls", "job.py", "--groups")
        assert "part[*]" in out
        assert out.count("not kept") == 1
        out, _ = call("ls", "job.py")
        assert out.count("not kept") == 2
        rows = json.loads(call("ls", "job.py", "--json")[0])
        assert {row["name"]: (row["state"], row["stored_bytes"] > 0) for row in rows} == {
            "part[0]": ("completed", False), "part[1]": ("completed", False), "total": ("completed", True)
        }  # fmt: skip
        out, _ = call("show", "job.py", "part[0]")
        assert "not kept; keep=True and a resume make it again" in out
        out, _ = call("run", "job.py", "--resume", "--dry-run")
        assert "nothing would run" in out
        assert "recorded, and deleted as keep=False asks for: 2" in out
        loaded = dagron.load(tmp_path / "checkpoints/job")
        assert list(loaded) == ["total"]
        with pytest.raises(ResultNotKeptError):
            loaded["part[0]"]
        call("verify", "job.py")
        call("report", "job.py", "-o", "page.html")

    @pytest.mark.usefixtures("job")
    def test_what_is_taken_away_or_debugged_names_it(self, call):
        _, err = call("debug", "job.py", "total", expect=3)
        assert "was not kept" in err
        out, _ = call("invalidate", "job.py", "part[*", "--if-changed")
        assert "2 nodes will run again" in out
        out, _ = call("run", "job.py", "--resume", "--dry-run")
        assert "part[0]  (stale)" in out

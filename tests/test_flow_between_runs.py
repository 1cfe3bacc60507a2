"""What a notebook asks of a flow between its runs, without a shell: how it stands, what would run, run that again."""

import json
import math
import sys
import threading

import cloudpickle
import pytest

import dagron
from dagron import Flow, HandleError, NoCheckpointError, OptionError, TaskNotPicklableError, UnknownNodeError

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

OPTIONS = {"pool": "inline", "durability": "process"}


def make(factor=1):
    flow = Flow()
    parts = flow.map("part[{}]", lambda i: i * factor, range(3))
    return flow, parts, flow.add("total", sum, parts), flow.add("alone", abs, -1)


@pytest.fixture
def made(ckpt):
    flow, *nodes = make()
    flow.run(ckpt, **OPTIONS)
    return flow, *nodes


class TestPlan:
    def test_without_a_checkpoint_everything_would_run(self, ckpt):
        flow = make()[0]
        plan = flow.plan(ckpt)
        assert [item.name for item in plan.to_run] == ["part[0]", "part[1]", "part[2]", "total", "alone"]
        assert (plan.restored, plan.total, plan.held) == (0, 5, [])
        assert not ckpt.exists()

    def test_it_says_what_the_verb_says(self, made, ckpt, tmp_path, call):
        flow, parts, *_ = made
        flow.invalidate(ckpt, parts[1])
        (tmp_path / "job.py").write_text(
            "import dagron\nflow = dagron.Flow()\nparts = flow.map('part[{}]', abs, range(3))\n"
            "flow.add('total', sum, parts)\nflow.add('alone', abs, -1)\n"
        )
        plan = flow.plan(ckpt)
        assert [(item.name, item.reason) for item in plan.to_run] == [
            ("part[1]", "stale"),
            ("total", "stale"),
        ]
        assert all(item.seconds >= 0 for item in plan.to_run)
        out, _ = call("run", "job.py", "-d", str(ckpt), "--dry-run")
        assert out == f"{plan}\n"
        out, _ = call("run", "job.py", "-d", str(ckpt), "--dry-run", "--json")
        assert json.loads(out) == json.loads(plan.as_json())
        assert "stale" in plan._repr_html_()

    def test_afresh_everything_would_run(self, made, ckpt):
        plan = made[0].plan(ckpt, fresh=True)
        assert len(plan.to_run) == 5
        assert all(math.isnan(item.seconds) for item in plan.to_run)

    def test_tasks_and_options_are_checked_as_for_a_run(self, ckpt):
        flow = Flow()
        flow.add("a", lambda lock: 1, threading.Lock())
        with pytest.raises(TaskNotPicklableError):
            flow.plan(ckpt)
        with pytest.raises(OptionError):
            flow.plan(ckpt, retries=-1)
        for use in (flow.plan, flow.rerun):
            with pytest.raises(dagron.UnknownOptionError, match="max_workers"):
                use(ckpt, n_jobs=2)


class TestStatus:
    def test_it_says_what_the_verb_says(self, made, ckpt, call):
        status = made[0].status(ckpt)
        assert (status.completed, status.total, status.state) == (5, 5, "finished")
        out, _ = call("status", str(ckpt))
        assert out.splitlines()[:3] == str(status).splitlines()[:3]
        assert status._repr_html_().startswith("<pre>")
        assert isinstance(status, dagron.CheckpointStatus)

    def test_while_a_run_goes_on_it_is_how_that_stands(self, ckpt):
        flow, seen = make()[0], []
        callbacks = dagron.ExecutionCallbacks(on_complete=lambda name, value: seen.append(flow.status(ckpt)))
        flow.run(ckpt, callbacks=callbacks, **OPTIONS)
        assert [status.completed for status in seen] == [1, 2, 3, 4, 5]
        assert {status.state for status in seen} == {"running"}

    def test_without_a_checkpoint_it_is_an_error(self, ckpt):
        with pytest.raises(NoCheckpointError):
            make()[0].status(ckpt)

    def test_with_a_key_it_needs_the_key(self, ckpt):
        flow = make()[0]
        flow.run(ckpt, signing_key=b"k", **OPTIONS)
        assert flow.status(ckpt, signing_key=b"k").completed == 5
        with pytest.raises(dagron.CheckpointDamagedError):
            flow.status(ckpt)


class TestInvalidate:
    def test_nodes_are_meant_by_handle_list_name_and_pattern(self, made, ckpt):
        flow, parts, total, alone = made
        for nodes, expected in (
            ([alone], ["alone"]),
            ([parts[1:]], ["part[1]", "part[2]", "total"]),
            (["part[0]"], ["part[0]", "total"]),
            (["p*", "al?ne"], ["part[0]", "part[1]", "part[2]", "total", "alone"]),
            ([total, "alone"], ["total", "alone"]),
        ):
            assert flow.invalidate(ckpt, *nodes, dry_run=True) == expected
        assert flow.invalidate(ckpt, parts[0], if_changed=True, dry_run=True) == ["part[0]"]
        assert flow.run(ckpt, resume=True, **OPTIONS).restored == 5

    def test_the_next_resume_makes_them_again(self, made, ckpt):
        flow, parts, *_ = made
        assert flow.invalidate(ckpt, parts[2]) == ["part[2]", "total"]
        assert flow.invalidate(ckpt, parts[2]) == []
        assert flow.run(ckpt, resume=True, **OPTIONS).restored == 3

    def test_it_is_what_the_verb_does(self, made, ckpt, call):
        out, _ = call("invalidate", str(ckpt), "part[2]", "--dry-run", "--json")
        assert json.loads(out)["nodes"] == made[0].invalidate(ckpt, "part[2]", dry_run=True)

    def test_a_handle_is_its_name_and_no_pattern(self, ckpt):
        flow = Flow()
        star = flow.add("a*", abs, 1)
        flow.add("ab", abs, 1)
        flow.run(ckpt, **OPTIONS)
        assert flow.invalidate(ckpt, star, dry_run=True) == ["a*"]
        assert flow.invalidate(ckpt, "a*", dry_run=True) == ["a*", "ab"]

    def test_what_is_no_node_of_the_flow_is_an_error(self, made, ckpt):
        flow, *_ = made
        with pytest.raises(UnknownNodeError, match="did you mean 'total'"):
            flow.invalidate(ckpt, "totl")
        with pytest.raises(HandleError, match="another flow"):
            flow.invalidate(ckpt, Flow().add("total", abs, 1))
        for wrong in ((), ([3],)):
            with pytest.raises(OptionError):
                flow.invalidate(ckpt, *wrong)
        assert flow.status(ckpt).completed == 5

    def test_while_a_run_goes_on_it_is_refused(self, ckpt):
        flow, errors = make()[0], []

        def try_it(name, value):
            with pytest.raises(dagron.CheckpointLockedError) as caught:
                flow.invalidate(ckpt, "alone")
            errors.append(caught.value)

        flow.run(ckpt, callbacks=dagron.ExecutionCallbacks(on_complete=try_it), **OPTIONS)
        assert len(errors) == 5


class TestRerun:
    def test_code_that_was_mended_is_used_by_these_nodes_and_what_is_downstream(self, made, ckpt):
        flow, parts, total, alone = make(factor=10)
        result = flow.rerun(ckpt, parts[1:], **OPTIONS)
        assert result.values(parts) == [0, 10, 20]
        assert (result.value(total), result.value(alone), result.restored) == (30, 1, 2)

    def test_if_nothing_has_changed_what_is_downstream_keeps_its_result(self, made, ckpt):
        flow, parts, *_ = make()
        assert flow.rerun(ckpt, parts[1], if_changed=True, **OPTIONS).restored == 4

    def test_what_failed_is_run_as_well(self, ckpt):
        def build(fix):
            flow = Flow()
            flow.add("a", abs, -1)
            flow.add("b", lambda: 1 // fix)
            return flow

        build(0).run(ckpt, **OPTIONS)
        result = build(1).rerun(ckpt, "a", **OPTIONS)
        assert (result.ok, result.restored) == (True, 0)

    def test_where_the_flow_is_wrong_nothing_is_given_up(self, made, ckpt):
        flow, *_ = make()
        flow.add("wrong", lambda lock: 1, threading.Lock())
        with pytest.raises(TaskNotPicklableError):
            flow.rerun(ckpt, "alone")
        assert flow.status(ckpt).completed == 5

    def test_loading_the_job_gives_nothing_up(self, made, ckpt, tmp_path, call):
        (tmp_path / "job.py").write_text(
            "import dagron\nflow = dagron.Flow()\nflow.map('part[{}]', abs, range(3))\n"
            f"flow.invalidate({str(ckpt)!r}, 'part[0]')\nflow.rerun({str(ckpt)!r}, 'part[1]')\n"
        )
        call("run", "job.py", "-d", "other", "--inline")
        assert made[0].status(ckpt).completed == 5

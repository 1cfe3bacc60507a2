"""What is asked for the workers of a run as such: how many attempts each makes."""

import logging
import os
import signal
from collections import Counter

import pytest

from dagron import DAG, CheckpointExecutor, Flow, NodeStatus, Task


def independent(n):
    return DAG([f"n{i}" for i in range(n)])


class TestMaxTasksPerWorker:
    @pytest.mark.parametrize("max_tasks", [1, 3, 5])
    @pytest.mark.parametrize("n_workers", [1, 2])
    def test_no_worker_makes_more_and_nobody_is_blamed(self, ckpt, max_tasks, n_workers):
        n = 24
        executor = CheckpointExecutor(
            independent(n), ckpt, max_workers=n_workers, max_tasks_per_worker=max_tasks, enable_tracing=True
        )
        result = executor.execute(dict.fromkeys(independent(n).nodes, os.getpid))
        assert result.succeeded == n
        assert {node.attempts for node in result.node_results.values()} == {1}
        assert max(Counter(node.result for node in result.node_results.values()).values()) <= max_tasks
        assert [span.outcome for span in result.trace.spans] == ["completed"] * n
        assert {f"n{i}.pkl" for i in range(n)} <= set(os.listdir(ckpt)), "no copy is lost with a worker"

    def test_they_are_counted_anew_behind_a_death(self, ckpt, tmp_path):
        def dies_at_first(mark=tmp_path / "mark"):
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return os.getpid()

        tasks = {f"n{i}": os.getpid for i in range(8)} | {"n3": Task(dies_at_first, retries=1, retry_delay=0)}
        result = CheckpointExecutor(independent(8), ckpt, max_workers=1, max_tasks_per_worker=2).execute(tasks)
        attempts = {name: node.attempts for name, node in result.node_results.items()}
        assert attempts == {f"n{i}": 1 for i in range(8)} | {"n3": 2}
        assert max(Counter(node.result for node in result.node_results.values()).values()) <= 2

    def test_a_failed_attempt_is_one_as_well(self, ckpt, tmp_path):
        def fails(directory=tmp_path):
            (directory / str(os.getpid())).touch()
            raise ValueError

        executor = CheckpointExecutor(
            independent(1), ckpt, max_workers=1, max_tasks_per_worker=1, retries=2, retry_delay=0
        )
        result = executor.execute({"n0": fails})
        assert (result["n0"].status, result["n0"].attempts) == (NodeStatus.FAILED, 3)
        assert len([name for name in os.listdir(tmp_path) if name.isdigit()]) == 3

    def test_a_flow_takes_it_and_a_run_in_this_process_says_that_it_is_not_kept(self, ckpt, caplog):
        flow = Flow()
        nodes = flow.map("n[{}]", lambda _: os.getpid(), range(4))
        with caplog.at_level(logging.WARNING, "dagron"):
            result = flow.run(ckpt, pool="inline", max_tasks_per_worker=1)
        assert {result.value(node) for node in nodes} == {os.getpid()}
        assert "max_tasks_per_worker is not kept" in caplog.text

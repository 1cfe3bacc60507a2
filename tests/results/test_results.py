"""What a run gives back: what its texts hold, and which figures nodes have."""

import os

import pytest

from dagron import DAG, CheckpointExecutor


def long_text():
    return "x" * 100_000


def die(long_text):
    os._exit(3)


@pytest.fixture
def result(ckpt):
    tasks = {"long_text": long_text, "die": die, "after": lambda die: die}
    dag = DAG(["long_text", "die", "after"], [("long_text", "die"), ("die", "after")])
    return CheckpointExecutor(dag, ckpt, max_workers=1, durability="process").execute(tasks)


class TestTexts:
    def test_that_of_a_node_does_not_hold_its_result(self, result):
        node = result["long_text"]
        before = repr(node)
        assert len(node.result) == 100_000
        assert repr(node) == before
        assert len(before) < 500
        assert before.startswith("NodeResult(name='long_text', status=<NodeStatus.COMPLETED: 'completed'>")


class TestFigures:
    def test_a_node_that_completed_has_those_of_its_last_attempt(self, result):
        node = result["long_text"]
        assert node.started_unix > 0
        assert node.ended_unix == node.started_unix + node.duration_seconds > node.started_unix
        assert node.user_seconds == node.cpu_seconds - node.system_seconds
        assert node.peak_rss_bytes > 2**20
        assert node.result_bytes > 100_000

    def test_so_has_one_whose_worker_died(self, result):
        node = result["die"]
        assert node.started_unix > 0
        assert node.duration_seconds > 0

    def test_one_that_was_never_attempted_has_none(self, result):
        node = result["after"]
        figures = (node.started_unix, node.ended_unix, node.duration_seconds, node.cpu_seconds, node.user_seconds)
        assert (*figures, node.system_seconds, node.peak_rss_bytes) == (0,) * 7

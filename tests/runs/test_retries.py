"""Attempts that another one followed: what is kept of them, for how long, and that it is bounded."""

import dagron
from dagron import Task
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.reading.history import read_history
from dagron.checkpoint.reading.opening import read_ledger, retried_of
from dagron.runs import retries


class Flaky:
    """Raises in its first attempts of each run."""

    def __init__(self, n_failures, text="no route"):
        self.n_failures = n_failures
        self.text = text

    def __call__(self):
        attempt = dagron.current().attempt
        if attempt <= self.n_failures:
            raise ConnectionError(f"{self.text}, attempt {attempt}" if self.text == "no route" else self.text)
        return attempt


def run(ckpt, task, *, resume=False):
    tasks = {"a": Task(task, retries=20, retry_delay=0)}
    executor = dagron.CheckpointExecutor(dagron.DAG(["a"], []), ckpt, pool="inline", durability="process")
    return executor.resume(tasks) if resume else executor.execute(tasks)


def recorded(ckpt):
    directory = Directory(ckpt)
    return retried_of(read_ledger(directory), directory, "a", Digests())


def test_attempts_before_the_last_one_are_in_the_checkpoint_with_their_errors_and_figures(ckpt):
    result = run(ckpt, Flaky(2))
    assert (result.retries, result["a"].attempts, result.value("a")) == (2, 3, 3)
    first, second = recorded(ckpt)
    assert (first.attempt, first.type, first.message) == (1, "ConnectionError", "no route, attempt 1")
    assert (second.attempt, second.outcome, second.slot) == (2, "raised", 0)
    assert "in __call__" in first.traceback
    assert first.figures.started_unix > 0
    (history,) = read_history(Directory(ckpt)).runs
    assert history.retried == [first, second]


def test_explain_tells_them_also_of_a_node_that_was_restored(ckpt):
    told = run(ckpt, Flaky(2))["a"].explain()
    assert told.startswith("node 'a' completed in attempt 3\n")
    assert "ConnectionError: no route, attempt 2" in told
    assert told.count("raise ConnectionError") == 1  # the same place
    again = run(ckpt, Flaky(0), resume=True)
    assert again["a"].restored
    assert "ConnectionError: no route, attempt 1" in again["a"].explain()


def test_of_many_the_first_and_the_last_ones_are_kept(ckpt):
    assert run(ckpt, Flaky(12)).retries == 12
    assert [attempt.attempt for attempt in recorded(ckpt)] == [1, 2, 3, 10, 11, 12]


def test_so_they_are_of_a_node_that_fails_in_the_end(ckpt):
    told = run(ckpt, Flaky(99))["a"].explain()
    assert [attempt.attempt for attempt in recorded(ckpt)] == [1, 2, 3, 18, 19, 20]
    assert "... attempts 4 to 17 are not recorded" in told
    assert told.count("no route, attempt 21") == 2  # that of the last one, at the top and in its traceback


def test_each_is_bounded_and_a_traceback_that_is_that_of_the_one_before_is_not_kept_twice(ckpt):
    run(ckpt, Flaky(3, "x" * 50_000))
    first, second, third = recorded(ckpt)
    assert len(first.message) < 1100
    assert 0 < len(first.traceback) < 6100
    assert (second.traceback, third.traceback) == ("", "")


def test_those_of_a_run_too_are_bounded(ckpt, monkeypatch):
    monkeypatch.setattr(retries, "_BUDGET_CHARACTERS", 100)
    run(ckpt, Flaky(3))
    first, second, third = recorded(ckpt)
    assert (bool(first.traceback), second.traceback, third.traceback) == (True, "", "")
    assert third.message == "no route, attempt 3"


def test_a_node_that_begins_anew_has_only_those_of_its_last_run(ckpt):
    run(ckpt, Flaky(99))
    assert run(ckpt, Flaky(1), resume=True).retries == 1
    assert [attempt.attempt for attempt in recorded(ckpt)] == [1]
    run(ckpt, Flaky(99))
    run(ckpt, Flaky(0), resume=True)
    assert recorded(ckpt) == []
    assert len(read_history(Directory(ckpt)).runs[0].retried) == 6  # the report has them still


def test_a_log_has_a_line_for_each_at_the_level_info(ckpt, caplog):
    caplog.set_level("INFO", "dagron.attempts")
    run(ckpt, Flaky(1))
    (line,) = caplog.messages
    assert line == "a (attempt 1 of 21): ConnectionError: no route, attempt 1; again at once"

"""`dagron.current()`: what a task is told of itself, and the directory in which it keeps what it has done so far."""

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from click.testing import CliRunner
from waiting import wait_for

import dagron
from dagron import NodeStatus, NotInTaskError
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.scratch import SCRATCH
from dagron.checkpoint.format.names import scratch_name
from dagron.checkpoint.reading.opening import read_ledger
from dagron.cli import app
from dagron.shown import iso_time

# Or every worker would import pytest first.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

POOLS = ["process", "inline"]


def told():
    found = dagron.current()
    return found.node, found.attempt, found.run, found.slot


def run(ckpt, *tasks, resume=True, **options):
    """Run nodes that take nothing: functions, or pairs of a name and a function."""
    flow = dagron.Flow()
    for task in tasks:
        name, fn = task if isinstance(task, tuple) else (task.__name__, task)
        flow.add(name, fn)
    options = {"max_workers": 1, "durability": "process", "retry_delay": 0.0, "pass_output": False, **options}
    return flow.run(ckpt, resume=resume, **options)


def counts(scratch):
    """In a task: count how often it was called with this directory, and return that."""
    with open(scratch / "calls", "a") as file:
        file.write("x")
    return (scratch / "calls").stat().st_size


@pytest.mark.parametrize("pool", POOLS)
class TestInEachEngine:
    def test_a_task_knows_its_node_its_attempt_its_run_and_its_slot(self, ckpt, pool):
        def second_time():
            if dagron.current().attempt == 1:
                raise ValueError("once more")
            return told()

        result = run(ckpt, ("a/b", told), second_time, pool=pool, retries=1)
        began = iso_time(read_ledger(Directory(ckpt)).run.at)
        assert result["a/b"].result == ("a/b", 1, began, 0)
        assert result["second_time"].result == ("second_time", 2, began, 0)

    def test_what_it_has_kept_is_given_to_the_next_attempt_and_goes_when_the_node_completes(self, ckpt, pool):
        def third_time():
            n = counts(dagron.current().scratch)
            if n < 3:
                raise ValueError(n)
            return n

        first = run(ckpt, third_time, ("other", int), pool=pool, retries=1)
        assert first["third_time"].status is NodeStatus.FAILED
        assert os.listdir(ckpt / SCRATCH) == [scratch_name("third_time")]
        second = run(ckpt, third_time, ("other", int), pool=pool)
        assert second.value("third_time") == 3
        assert not (ckpt / SCRATCH).exists()

    def test_outside_of_a_task_it_is_an_error_that_says_so(self, ckpt, pool):
        def init():
            with pytest.raises(NotInTaskError):
                dagron.current()

        with pytest.raises(NotInTaskError, match="no task runs in this process"):
            dagron.current()
        assert run(ckpt, told, pool=pool, worker_init=init).ok
        with pytest.raises(NotInTaskError):
            dagron.current()

    def test_threads_that_it_starts_are_part_of_it(self, ckpt, pool):
        def starts_a_thread():
            with ThreadPoolExecutor(1) as threads:
                found = threads.submit(dagron.current).result()
            return found is dagron.current()

        assert run(ckpt, starts_a_thread, pool=pool).value("starts_a_thread") is True

    def test_any_name_of_a_node_will_do(self, ckpt, pool):
        names = ["..", "a/b", "CON", "é" * 300, "x\n\x00y", "\ud800"]

        def path():
            scratch = dagron.current().scratch
            return str(scratch.parent.parent), scratch.is_dir(), len(scratch.name)

        result = run(ckpt, *((name, path) for name in names), pool=pool)
        assert [result.value(name) for name in names] == [(str(ckpt / SCRATCH), True, 32)] * len(names)
        assert not (ckpt / SCRATCH).exists()


def test_it_survives_the_end_of_its_worker_and_a_timeout(ckpt):
    def third_time():
        n = counts(dagron.current().scratch)
        if n == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if n == 2:
            time.sleep(600)  # in a task: ends by its timeout
        return n, dagron.current().attempt

    result = run(ckpt, third_time, retries=2, timeout=0.5, kill_grace_seconds=0.0)
    assert result.value("third_time") == (3, 3)
    assert not (ckpt / SCRATCH).exists()


def test_it_goes_with_the_commit_also_where_the_attempt_that_completes_has_not_asked_for_it(ckpt):
    def dies_once():
        if dagron.current().attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL if dagron.current().scratch else 0)

    flow = dagron.Flow()
    parent = flow.add("parent", dies_once, retries=1, retry_delay=0.0)
    left = str(ckpt / SCRATCH / scratch_name("parent"))
    child = flow.add("child", lambda parent: os.path.exists(left), parent)
    assert flow.run(ckpt, resume=False, max_workers=1).value(child) is False


def test_what_was_made_from_another_result_is_not_given(ckpt):
    def make(value):
        flow = dagron.Flow()
        parent = flow.add("parent", lambda: value)

        def child(parent):
            scratch = dagron.current().scratch
            n = counts(scratch)
            if parent == 1 or n == 1:
                raise ValueError(n)
            return n, sorted(os.listdir(scratch.parent)) == [scratch.name]

        flow.add("child", child, parent)
        return flow

    options = {"max_workers": 1, "durability": "process"}
    assert make(1).run(ckpt, resume=True, retries=1, retry_delay=0.0, **options)["child"].error.args == (2,)
    CliRunner().invoke(app, ["invalidate", str(ckpt), "parent"])
    result = make(2).run(ckpt, resume=True, retries=1, retry_delay=0.0, **options)
    assert result.value("child") == (2, True), "what was made from 1 is gone, what was made from 2 is kept"


def fails_with_scratch():
    raise ValueError(counts(dagron.current().scratch))


def test_a_fresh_run_begins_without_it_and_clear_removes_it(ckpt):
    assert run(ckpt, fails_with_scratch)["fails_with_scratch"].error.args == (1,)
    assert run(ckpt, fails_with_scratch)["fails_with_scratch"].error.args == (2,)
    assert run(ckpt, fails_with_scratch, resume=False)["fails_with_scratch"].error.args == (1,)
    assert (ckpt / SCRATCH).exists()
    dagron.CheckpointExecutor(dagron.DAG.builder().add_node("a").build(), ckpt).clear_checkpoint()
    assert os.listdir(ckpt) == []


def test_what_a_kill_has_left_behind_a_commit_and_what_left_the_dag_goes_with_the_next_run(ckpt):
    run(ckpt, fails_with_scratch, told)
    kept, done, gone = map(scratch_name, ("fails_with_scratch", "told", "gone"))
    for name in (done, gone):
        shutil.copytree(ckpt / SCRATCH / kept, ckpt / SCRATCH / name)
    assert run(ckpt, fails_with_scratch, told).restored == 1
    assert os.listdir(ckpt / SCRATCH) == [kept]


def test_only_what_is_ours_is_removed_and_no_link_is_followed(ckpt, tmp_path):
    run(ckpt, fails_with_scratch)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    folder = ckpt / SCRATCH
    (folder / "notes").mkdir()
    (folder / scratch_name("told")).symlink_to(outside)
    (folder / scratch_name("fails_with_scratch") / "link").symlink_to(outside)
    run(ckpt, told, resume=False)
    assert os.listdir(folder) == ["notes"]
    assert os.listdir(outside) == ["file"]
    shutil.rmtree(folder)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(outside, elsewhere / scratch_name("told"))
    folder.symlink_to(elsewhere)
    run(ckpt, told, resume=False)
    assert os.listdir(elsewhere) == [scratch_name("told")]
    # Nor is anything put there.
    error = run(ckpt, fails_with_scratch, resume=False)["fails_with_scratch"].error
    assert isinstance(error, FileExistsError)


def test_readers_have_no_use_for_it(ckpt):
    run(ckpt, fails_with_scratch, told)
    os.chmod(ckpt / SCRATCH, 0)
    try:
        for args in (["status"], ["ls"], ["verify"], ["show", "told"]):
            done = CliRunner().invoke(app, [args[0], str(ckpt), *args[1:]])
            assert done.exit_code in (0, 1), done.output
            assert SCRATCH not in done.output
    finally:
        os.chmod(ckpt / SCRATCH, 0o700)


def test_what_cannot_be_removed_is_told_and_ends_nothing(ckpt, caplog, monkeypatch):
    run(ckpt, fails_with_scratch)

    def refuses(self, name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dagron.checkpoint.writing.scratches.remove_scratch", refuses)
    assert run(ckpt, told, resume=False).ok
    assert "the scratch directory of a node that completed cannot be removed" in caplog.text


def test_debug_gives_it_a_directory_that_goes_with_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("job.py").write_text(
        "import dagron, os\n"
        "def task():\n"
        "    here = dagron.current()\n"
        "    (here.scratch / 'file').touch()\n"
        "    return f'{here.node} {here.attempt} {os.listdir(here.scratch)} {here.scratch}'\n"
        "flow = dagron.Flow()\n"
        "flow.add('task', task)\n"
    )
    runner = CliRunner()
    assert runner.invoke(app, ["run", "job.py", "-d", "ckpt"]).exit_code == 0
    done = runner.invoke(app, ["debug", "ckpt", "task", "job.py"])
    assert done.exit_code == 0, done.output
    assert "task 1 ['file'] " in done.output
    assert "dagron-debug-" in done.output
    assert not Path("ckpt", SCRATCH).exists()


def _in_a_process(pipe, packed):
    found = dagron.current() if packed is None else pickle.loads(packed)
    (found.scratch / "child").touch()
    pipe.send((found.node, found.attempt, str(found.scratch)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_it_starts_knows_it_by_fork_or_is_given_it(ckpt, method):
    def starts_a_process():
        context = multiprocessing.get_context(method)
        here, there = context.Pipe()
        packed = None if method == "fork" else pickle.dumps(dagron.current())
        context.Process(target=_in_a_process, args=(there, packed)).start()
        found = here.recv()
        here = dagron.current()
        return found == (here.node, here.attempt, str(here.scratch)), (here.scratch / "child").exists()

    assert run(ckpt, starts_a_process).value("starts_a_process") == (True, True)
    assert not (ckpt / SCRATCH).exists()


def test_runs_in_several_threads_of_a_program_do_not_mix(tmp_path):
    def task(directory=str(tmp_path)):
        Path(directory, f"{dagron.current().node} has begun").touch()
        while not os.path.exists(f"{directory}/go"):
            time.sleep(0.002)  # in a task: waits for the fact
        return told()

    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(run, tmp_path / name, (name, task), pool="inline") for name in ("a", "b")]
        try:
            wait_for(lambda: all((tmp_path / f"{name} has begun").exists() for name in ("a", "b")))
            with pytest.raises(NotInTaskError, match="2 tasks run in threads of this process"):
                dagron.current()
        finally:
            (tmp_path / "go").touch()
        found = [ended.result().value(name)[0] for ended, name in zip(runs, ("a", "b"), strict=True)]
    assert found == ["a", "b"]


def test_a_task_that_makes_a_run_of_its_own_in_its_thread_is_itself_again_afterwards(ckpt, tmp_path):
    def outer():
        inner = run(tmp_path / "inner", told, pool="inline").value("told")
        return inner[0], told()[0]

    assert run(ckpt, outer, pool="inline").value("outer") == ("told", "outer")

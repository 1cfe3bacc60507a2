"""The real job, killed at random moments: nothing committed runs twice, nothing is left, the report is exact."""

import os
import random
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

import dagron
from dagron.checkpoint.files import Directory
from dagron.checkpoint.view import read_view

SRC = os.path.dirname(os.path.dirname(dagron.__file__))

# The job of the package, on a twelfth of the files; each node leaves a line outside the checkpoint when it runs.
JOB = textwrap.dedent(
    """
    import functools, os, sys
    import dagron
    from dagron.jobs import stdlib_analysis as job

    directory, log, how = sys.argv[1:4]

    def noted(task, name, *args, **kwargs):
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, (name + "\\n").encode())
        os.close(fd)
        return task(*args, **kwargs)

    class Noted:
        def __init__(self, task, name):
            self.task, self.name = task, name
            functools.update_wrapper(self, task if not isinstance(task, functools.partial) else task.func)
            import inspect
            self.__signature__ = inspect.signature(task)
        def __call__(self, *args, **kwargs):
            return noted(self.task, self.name, *args, **kwargs)

    dag, tasks = job.build(job.FILES[::12], job.LIBRARY_ROOT)
    tasks = {name: Noted(task, name) for name, task in tasks.items()}
    executor = dagron.CheckpointExecutor(dag, directory, max_workers=2)
    result = getattr(executor, how)(tasks)
    assert result.ok, [r for r in result.node_results.values() if r.error][:3]
    print(result["report"].result)
    """
)


def start(directory, log, how):
    env = {**os.environ, "PYTHONPATH": SRC}
    command = [sys.executable, "-c", JOB, str(directory), str(log), how]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def counts(log):
    found = {}
    if log.exists():
        for name in log.read_text().splitlines():
            found[name] = found.get(name, 0) + 1
    return found


@pytest.mark.timeout(300)
def test_killed_at_twenty_random_moments_it_repeats_nothing_and_reports_the_same(tmp_path, all_dead_in):
    rng = random.Random(20261123)
    process = start(tmp_path / "undisturbed", tmp_path / "undisturbed.log", "execute")
    began = time.monotonic()
    expected = process.communicate(timeout=120)[0]
    undisturbed = time.monotonic() - began
    assert process.returncode == 0
    assert expected

    kills, round_number = 0, 0
    while kills < 20:
        directory, log = tmp_path / f"ckpt{round_number}", tmp_path / f"log{round_number}"
        round_number += 1
        allowed: dict[str, int] = {}
        how = "execute"
        for _ in range(8):
            process = start(directory, log, how)
            try:
                report = process.communicate(timeout=rng.uniform(0.3, 0.5 * undisturbed))[0]
                break
            except subprocess.TimeoutExpired:
                family = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.communicate()
                kills += 1
                assert all_dead_in(2, family), "a process was left"
                view = read_view(Directory(directory))
                committed = set(view.commits) if view is not None else set()
                done = counts(log)
                # What ran and was not committed may run once more; what was committed may not.
                allowed = {name: done[name] + (name not in committed) for name in done}
                how = "resume"
        else:
            process = start(directory, log, how)
            report = process.communicate(timeout=120)[0]
        assert process.returncode == 0
        assert report == expected
        done = counts(log)
        repeated = {name: n for name, n in done.items() if n > allowed.get(name, 1)}
        assert not repeated, f"ran again although committed: {repeated}"

"""What a killed run could not end itself is ended by the next one, and nothing else is."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest
from places import SRC

from dagron import DAG, CheckpointExecutor
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.engines.local.leftovers import sweep
from dagron.engines.local.processes import created_at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers do not outlive their server so")


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def sleeper():
    """Starts processes that sleep, each in a session of its own."""
    started = []

    def start(code="import time; time.sleep(600)"):
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


class TestSweep:
    def test_a_process_goes_by_its_id_and_its_creation_with_what_is_below_it(self, sleeper):
        code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, "
        parent = sleeper(code + "flush=True); time.sleep(600)")
        child = int(parent.stdout.readline())
        assert sweep({parent.pid: created_at(parent.pid)}) == sorted([parent.pid, child])
        assert not alive(child)

    def test_another_process_that_has_got_the_id_is_left_alone_with_its_session(self, sleeper):
        """Fails if `_left` looks at process ids alone."""
        process = sleeper()
        assert sweep({process.pid: created_at(process.pid) - 1}) == []
        assert sweep({process.pid: created_at(process.pid) + 1}) == []
        assert process.poll() is None

    def test_the_session_of_a_worker_that_has_ended_goes(self, sleeper):
        code = "import os, subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
        worker = sleeper(code)
        created = created_at(worker.pid)
        child = int(worker.stdout.readline())
        worker.wait()
        assert alive(child)
        assert sweep({worker.pid: created}) == [child]
        assert not alive(child)

    def test_what_is_older_than_the_worker_is_not_of_its_session(self, sleeper):
        code = "import os, subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
        other = sleeper(code)
        child = int(other.stdout.readline())
        other.wait()
        try:
            assert sweep({other.pid: created_at(child) + 1}) == []
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)

    def test_this_process_is_never_among_them(self):
        assert sweep({os.getpid(): created_at(os.getpid())}) == []


STUBBORN = """
    import ctypes, os, subprocess, sys, time, dagron

    directory = sys.argv[1]

    def stubborn():
        # As on a system without the death signal: the end of the server does not end the worker.
        ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
        child = subprocess.Popen(["sleep", "600"])
        with open(os.path.join(directory, "pids.new"), "w") as file:
            file.write(f"{os.getppid()} {os.getpid()} {child.pid}")
        os.rename(os.path.join(directory, "pids.new"), os.path.join(directory, "pids"))
        time.sleep(600)

    dag = dagron.DAG.builder().add_nodes(["a"]).build()
    dagron.CheckpointExecutor(dag, os.path.join(directory, "ckpt"), max_workers=1).execute({"a": stubborn})
    """


class TestRuns:
    def killed_with_its_server(self, tmp_path):
        """Kill a run in a way that its workers survive; return the worker and its child."""
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(STUBBORN))
        env = {**os.environ, "PYTHONPATH": SRC}
        process = subprocess.Popen([sys.executable, path, tmp_path], env=env)
        deadline = time.monotonic() + 30
        while not (tmp_path / "pids").exists():
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        server, worker, child = map(int, (tmp_path / "pids").read_text().split())
        os.kill(server, signal.SIGSTOP)  # so that it cannot do what it is there for
        process.kill()
        process.wait()
        os.kill(server, signal.SIGKILL)
        assert alive(worker)
        assert alive(child)
        return worker, child

    def executor(self, tmp_path):
        return CheckpointExecutor(DAG.builder().add_nodes(["a"]).build(), tmp_path / "ckpt", max_workers=1)

    @pytest.mark.parametrize("how", ["resume", "execute", "clear_checkpoint"])
    def test_whatever_comes_next_ends_what_is_left_first_and_says_so(self, tmp_path, how, caplog):
        """Fails if `Coordinator._dispatch` does not record the processes, or `end_leftovers` is not called."""
        left = self.killed_with_its_server(tmp_path)

        def task():
            return [alive(pid) for pid in left]

        if how == "clear_checkpoint":
            self.executor(tmp_path).clear_checkpoint()
        else:
            result = getattr(self.executor(tmp_path), how)({"a": task})
            assert result["a"].result == [False, False]
        assert not any(map(alive, left))
        assert "killed processes that an earlier run had left" in caplog.text

    @pytest.mark.parametrize("field", ["boot", "namespace"])
    def test_of_another_machine_or_before_its_restart_nothing_is_meant(self, tmp_path, monkeypatch, field):
        left = self.killed_with_its_server(tmp_path)
        if field == "boot":
            monkeypatch.setattr("dagron.checkpoint.writing.store.boot_id", lambda: "another boot")
        else:
            monkeypatch.setattr("dagron.engines.local.processes.pid_namespace", lambda: "another namespace")
        try:
            assert self.executor(tmp_path).resume({"a": lambda: 1}).succeeded == 1
            assert all(map(alive, left))
        finally:
            for pid in left:
                os.kill(pid, signal.SIGKILL)

    def test_after_a_run_that_ended_there_is_nothing_to_look_for(self, tmp_path):
        self.executor(tmp_path).execute({"a": lambda: 1})
        assert read_ledger(Directory(tmp_path / "ckpt")).processes == {}

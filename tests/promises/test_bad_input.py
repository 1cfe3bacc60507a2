"""Bad input gets a clear error of ours before anything runs, and nothing on disk is changed."""

import os
import struct
import subprocess
import sys
import threading

import pytest
from places import SRC

import dagron
from dagron import DAG, CheckpointExecutor, Task
from dagron.checkpoint.format.journal import FORMAT_VERSION


def one_node():
    return DAG.builder().add_node("a").build()


def listing(directory):
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(directory.iterdir())}


@pytest.fixture
def never(log):
    """A task that notes that it ran, which it must not."""
    yield lambda: log.note("ran")
    assert log.counts() == {}


class TestTasks:
    @pytest.mark.parametrize("how", ["execute", "resume"])
    def test_a_missing_task(self, ckpt, never, how):
        dag = DAG.builder().add_nodes(["a", "b"]).build()
        with pytest.raises(dagron.MissingTaskError, match="'b'"):
            getattr(CheckpointExecutor(dag, ckpt), how)({"a": never})
        assert not ckpt.exists()

    def test_a_task_for_an_unknown_node(self, ckpt, never):
        with pytest.raises(dagron.UnknownTaskError, match="'typo'"):
            CheckpointExecutor(one_node(), ckpt).execute({"a": never, "typo": never})
        assert not ckpt.exists()

    def test_a_task_that_is_not_callable(self, ckpt):
        with pytest.raises(dagron.NotCallableError, match=r"'a'.*int"):
            CheckpointExecutor(one_node(), ckpt).execute({"a": 42})
        assert not ckpt.exists()

    def test_a_required_parameter_that_no_parent_provides(self, ckpt, never):
        dag = DAG.builder().add_edge("a", "c").add_node("b").build()
        with pytest.raises(dagron.MissingInputError, match=r"'c' requires the parameter 'b'.*add the edge 'b' -> 'c'"):
            CheckpointExecutor(dag, ckpt).execute({"a": never, "b": never, "c": lambda b: b})
        assert not ckpt.exists()

    def test_a_task_that_cannot_be_pickled_is_named_with_the_path_to_the_culprit(self, ckpt, never):
        class Client:
            def __init__(self):
                self.settings = {"lock": threading.Lock()}

        client = Client()
        dag = DAG.builder().add_nodes(["fine", "broken"]).build()
        with pytest.raises(dagron.TaskNotPicklableError) as caught:
            CheckpointExecutor(dag, ckpt).execute({"fine": never, "broken": lambda: client.settings})
        assert caught.value.node == "broken"
        assert "closure variable 'client' -> attribute 'settings' -> key 'lock'" in caught.value.path
        assert not ckpt.exists()


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_workers", 0), ("max_workers", -1), ("max_workers", True), ("max_workers", 1.5),
            ("durability", "fast"),
            ("pool", "threads"), ("retries", -1), ("retry_delay", -0.1), ("timeout", 0), ("timeout", float("nan")),
            ("retry_on", ["x"]), ("signing_key", b""), ("signing_key", "text"),
        ],
    )  # fmt: skip
    def test_a_value_that_an_option_cannot_have(self, ckpt, option, value):
        with pytest.raises(dagron.OptionError, match=option):
            CheckpointExecutor(one_node(), ckpt, **{option: value})

    @pytest.mark.parametrize(
        ("option", "value"), [("retries", -1), ("timeout", -2), ("priority", 1.5), ("retry_on", ())]
    )
    def test_a_value_that_an_option_of_a_task_cannot_have(self, option, value):
        if value == ():
            assert Task(print, retry_on=()).retry_on == ()
            return
        with pytest.raises(dagron.OptionError, match=option):
            Task(print, **{option: value})

    @pytest.mark.parametrize("dag", [None, "a", {"a": []}])
    def test_something_that_is_no_dag(self, ckpt, dag):
        with pytest.raises(dagron.OptionError, match="dag"):
            CheckpointExecutor(dag, ckpt)

    @pytest.mark.parametrize("directory", ["", None, 3])
    def test_something_that_is_no_path(self, directory):
        with pytest.raises(dagron.OptionError, match="checkpoint_dir"):
            CheckpointExecutor(one_node(), directory)

    def test_a_timeout_of_the_run_that_is_none(self, ckpt, never):
        with pytest.raises(dagron.OptionError, match="run_timeout=0 is not valid"):
            CheckpointExecutor(one_node(), ckpt).execute({"a": never}, run_timeout=0)

    def test_that_of_an_attempt_given_for_that_of_the_run(self, ckpt, never):
        with pytest.raises(TypeError, match="no option timeout=; did you mean run_timeout="):
            CheckpointExecutor(one_node(), ckpt).execute({"a": never}, timeout=60)


@pytest.mark.parametrize("how", ["execute", "resume"])
class TestDirectory:
    def test_a_file_in_its_place(self, tmp_path, never, how):
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(dagron.CheckpointDirectoryError, match="is a file"):
                getattr(CheckpointExecutor(one_node(), path), how)({"a": never})
        assert (tmp_path / "file").read_text() == "mine"

    def test_one_that_is_not_writable(self, tmp_path, never, how):
        closed = tmp_path / "closed"
        closed.mkdir()
        code = (
            # All before: another user may not be allowed to read the interpreter's library, nor dagron.
            "import dagron, fcntl, importlib, os, pkgutil, sys\n"
            "for module in pkgutil.walk_packages(dagron.__path__, 'dagron.'):\n"
            "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
            "if os.getuid() == 0: os.setuid(65534)  # root may write anywhere\n"
            "dag = dagron.DAG.builder().add_node('a').build()\n"
            "try: getattr(dagron.CheckpointExecutor(dag, sys.argv[1]), sys.argv[2])({'a': lambda: 1})\n"
            "except dagron.CheckpointDirectoryError as error: print(error)\n"
        )
        closed.chmod(0o555)
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents:
            if parent.owner() != "root" or parent.name.startswith("pytest"):
                parent.chmod(0o755)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([SRC, *(p for p in sys.path if "site-packages" in p)])}
        done = subprocess.run([sys.executable, "-c", code, str(closed), how], env=env, capture_output=True, text=True)
        assert "not writable" in done.stdout, done.stderr
        assert list(closed.iterdir()) == []

    def test_other_peoples_pickles(self, ckpt, never, how):
        ckpt.mkdir()
        (ckpt / "model.pkl").write_bytes(b"mine")
        before = listing(ckpt)
        with pytest.raises(dagron.ForeignFilesError, match=r"model\.pkl"):
            getattr(CheckpointExecutor(one_node(), ckpt), how)({"a": never})
        assert listing(ckpt) == before

    def test_a_checkpoint_of_a_newer_format(self, ckpt, never, how):
        CheckpointExecutor(one_node(), ckpt).execute({"a": lambda: 1})
        journal = ckpt / "_journal"
        data = bytearray(journal.read_bytes())
        struct.pack_into("<I", data, 8, FORMAT_VERSION + 1)
        journal.write_bytes(data)
        before = listing(ckpt)
        executor = CheckpointExecutor(one_node(), ckpt)
        newer = rf"format {FORMAT_VERSION + 1}.*reads format {FORMAT_VERSION} only"
        with pytest.raises(dagron.FormatVersionError, match=newer):
            getattr(executor, how)({"a": never})
        with pytest.raises(dagron.FormatVersionError):
            executor.checkpoint_info()
        with pytest.raises(dagron.FormatVersionError):
            executor.clear_checkpoint()
        assert listing(ckpt) == before

    def test_one_that_another_run_holds(self, ckpt, log, how):
        code = (
            "import dagron, sys, os, time\n"
            "dag = dagron.DAG.builder().add_node('a').build()\n"
            "def hold():\n    open(sys.argv[2], 'w').close(); time.sleep(600)\n"
            "dagron.CheckpointExecutor(dag, sys.argv[1]).execute({'a': hold})\n"
        )
        flag = os.path.join(log.directory, "holding")
        env = {**os.environ, "PYTHONPATH": SRC}
        process = subprocess.Popen([sys.executable, "-c", code, str(ckpt), flag], env=env)
        try:
            while not os.path.exists(flag):
                assert process.poll() is None
                threading.Event().wait(0.01)
            executor = CheckpointExecutor(one_node(), ckpt)
            with pytest.raises(dagron.CheckpointLockedError) as caught:
                getattr(executor, how)({"a": lambda: 1})
            assert caught.value.pid == process.pid
            assert str(process.pid) in str(caught.value)
            assert caught.value.since.startswith("20")
            with pytest.raises(dagron.CheckpointLockedError):
                executor.clear_checkpoint()
            assert executor.checkpoint_info().completed_nodes == []
        finally:
            process.kill()
            process.wait()
        # The lock of a killed run blocks nobody.
        assert getattr(executor, how)({"a": lambda: 1}).succeeded == 1

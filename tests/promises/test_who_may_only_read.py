"""Whoever may only read a checkpoint, or has it on a medium that cannot be written, sees all that is in it."""

import errno
import os

import pytest
from disk import stand_in

import dagron

JOB = """
import dagron

flow = dagron.Flow()
small = flow.add("small", lambda: [1, 2, 3])
large = flow.add("large", lambda small: bytes(100_000), small)
flow.add("sizes", lambda small, large: len(small) + len(large), small, large)
"""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class ReadOnly:
    """Stands in for `os` where files of a checkpoint are touched: below `path` nothing can be changed."""

    def __init__(self, path):
        self._path = str(path)

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "mkdir", "unlink", "replace", "truncate", "access"):
            return real

        def call(path, *args, **kwargs):
            if not os.path.abspath(path).startswith(self._path):
                return real(path, *args, **kwargs)
            if name == "access":
                return real(path, *args) and not args[0] & os.W_OK
            if name != "open" or args[0] & WRITES:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *args, **kwargs)

        return call


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """`read_only()`: from now on nothing in the checkpoint can be written. It is as it was at the end."""
    ckpt = tmp_path / "checkpoints" / "job"

    def look():
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in ckpt.iterdir()}

    def begin():
        before.append(look())
        calls = ReadOnly(ckpt)
        stand_in(monkeypatch, calls)
        monkeypatch.setattr("dagron.checkpoint.writing.claim.os", calls)

    before = []
    yield begin
    monkeypatch.undo()
    assert before == [look()]


@pytest.fixture(autouse=True)
def job(tmp_path):
    (tmp_path / "job.py").write_text(JOB)


READS = [
    ("status", "job.py"),
    ("status", "job.py", "--watch"),
    ("ls", "job.py"),
    ("show", "job.py", "large", "--full"),
    ("show", "job.py", "small", "--unpickle", "--value"),
    ("verify", "job.py"),
    ("debug", "job.py", "sizes"),
    ("report", "job.py"),
    ("export", "job.py"),
    ("trace", "job.py", "-o", "trace.json"),
    ("graph", "job.py"),
    ("invalidate", "job.py", "small", "--dry-run"),
    ("run", "job.py", "--dry-run"),
]


def test_every_command_that_only_looks_works_and_leaves_nothing(call, read_only):
    call("run", "job.py", "--inline")
    read_only()
    for arguments in READS:
        _, err = call(*arguments)
        assert "dagron: error" not in err, arguments
    assert "all as they were written" in call("verify", "job.py")[0]
    assert call("show", "job.py", "small", "--unpickle", "--value")[0] == "[1, 2, 3]\n"


def test_what_would_write_says_that_it_cannot_and_changes_nothing(call, read_only):
    call("run", "job.py", "--inline")
    read_only()
    for arguments in (("clear", "job.py", "-y"), ("invalidate", "job.py", "small"), ("run", "job.py", "--fresh")):
        assert "is not writable" in call(*arguments, expect=3)[1]


def flow(*more):
    made = dagron.Flow()
    small = made.add("small", lambda: [1, 2, 3])
    large = made.add("large", lambda small: bytes(100_000), small)
    made.add("sizes", lambda small, large: len(small) + len(large), small, large)
    for name in more:
        made.add(name, str, name)
    return made


@pytest.mark.parametrize("after", [False, True], ids=["of a run", "of a resume that has nothing to run"])
def test_results_are_given(tmp_path, read_only, after):
    path, restored = tmp_path / "checkpoints" / "job", []
    callbacks = dagron.ExecutionCallbacks(on_restore=restored.append)
    result = flow().run(path, resume=True, pool="inline")
    read_only()
    if after:
        result = flow().run(path, resume=True, callbacks=callbacks, enable_tracing=True)
        assert (result.succeeded, result.restored, restored) == (3, 3, ["small", "large", "sizes"])
        assert (result["large"].attempts, result["large"].result_bytes > 100_000) == (1, True)
    assert (result.value("small"), result.value("large"), result.value("sizes")) == ([1, 2, 3], bytes(100_000), 100_003)


def test_a_resume_that_has_something_to_run_says_what_and_changes_nothing(tmp_path, read_only):
    path = tmp_path / "checkpoints" / "job"
    flow().run(path, resume=True, pool="inline")
    read_only()
    with pytest.raises(dagron.CheckpointDirectoryError, match="not writable, and 2 of 5 nodes would run: 'x', 'y'"):
        flow("x", "y").run(path, resume=True)
    with pytest.raises(dagron.CheckpointDirectoryError, match="is not writable"):
        flow().run(path, resume=False)


def test_where_a_file_is_missing_its_node_would_run(tmp_path, read_only):
    path = tmp_path / "checkpoints" / "job"
    flow().run(path, resume=True, pool="inline")
    (path / "large.pkl").unlink()
    read_only()
    with pytest.raises(dagron.CheckpointDirectoryError, match="1 of 3 nodes would run: 'large'"):
        flow().run(path, resume=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_belongs_to_somebody_else_is_read_only_if_that_is_trusted(tmp_path, read_only):
    path = tmp_path / "checkpoints" / "job"
    flow().run(path, resume=True, pool="inline")
    os.chown(path, 12345, 12345)
    read_only()
    with pytest.raises(dagron.CheckpointDirectoryError, match="owned by user 12345"):
        flow().run(path, resume=True)
    assert flow().run(path, resume=True, allow_untrusted=True).value("sizes") == 100_003

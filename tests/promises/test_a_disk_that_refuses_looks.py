"""A look that the system refuses, in whatever call, is an error of ours that names the directory or a file in it.

`test_disk` refuses what changes a directory. Here the calls that only look are refused, one by one, for every public
way in: the status of a file, a list of names, an open, a read, a lock. And some paths are refused for real: links that
lead in circles, names that are too long, a working directory that is gone.
"""

import errno
import fcntl
import itertools
import os
import shutil
import sys

import pytest

import dagron
from dagron import DAG, CheckpointExecutor
from dagron.looking.status import checkpoint_status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the calls of Linux")

DAG_OF_TWO = DAG.builder().add_edge("large", "small").build()
TASKS = {"large": lambda: bytes(40_000), "small": lambda large: len(large)}
VALUES = {"large": bytes(40_000), "small": 40_000}


def executor(path):
    return CheckpointExecutor(DAG_OF_TWO, path, pool="inline", durability="process")


USES = {
    "execute": lambda path: executor(path).execute(TASKS),
    "resume": lambda path: executor(path).resume(TASKS),
    "checkpoint_info": lambda path: executor(path).checkpoint_info(),
    "clear_checkpoint": lambda path: executor(path).clear_checkpoint(),
    "status": checkpoint_status,
}


def said_by(use, path):
    """The text of the error that a use ends with, which must be one of ours; None if it ends without one."""
    try:
        result = USES[use](path)
    except dagron.DagronError as error:
        return str(error)
    if isinstance(result, dagron.ExecutionResult):
        for name, node in result.node_results.items():
            if node.error is None:
                try:
                    assert node.result == VALUES[name]
                except dagron.ResultUnavailableError:
                    pass
            else:
                assert isinstance(node.error, dagron.DagronError)
    return None


# --- any call ------------------------------------------------------------------------------------------------------


class RefusedLook:
    """Makes the n-th call that looks at something below a directory fail, whoever makes it; counts them."""

    KINDS = {os: ("open", "stat", "lstat", "fstat", "listdir", "scandir", "access", "pread"), fcntl: ("flock",)}

    def __init__(self, monkeypatch, root, n, number):
        self.calls = []
        self._root = str(root)
        self._n, self._number = n, number
        for module, names in self.KINDS.items():
            for name in names:
                monkeypatch.setattr(module, name, self._instead_of(name, getattr(module, name), os.readlink))

    def _instead_of(self, name, real, readlink):
        def call(what, *arguments, **options):
            if self._is_below(what, readlink):
                self.calls.append(f"{name} {what}")
                if len(self.calls) - 1 == self._n:
                    if name == "access":
                        return False
                    raise OSError(self._number, os.strerror(self._number), None if isinstance(what, int) else what)
            return real(what, *arguments, **options)

        return call

    def _is_below(self, what, readlink):
        try:
            path = readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)
        except OSError:
            return False
        return path.startswith(self._root) if isinstance(path, str) else False


NUMBERS = [errno.ENOENT, errno.EIO, errno.EACCES, errno.ESTALE, errno.ENOLCK]
THERE = ["nothing", "a checkpoint"]


def cases():
    """Every use meets every error, with a checkpoint or without one; ENOENT, which may be no error, with both."""
    for use, number, there in itertools.product(USES, NUMBERS, THERE):
        i, j, k = [*USES].index(use), NUMBERS.index(number), THERE.index(there)
        marks = () if number == errno.ENOENT or (i + j + k) % 2 == 0 else pytest.mark.campaign
        yield pytest.param(use, there, number, marks=marks, id=f"{use}-{there}-{errno.errorcode[number]}")


@pytest.mark.parametrize(("use", "there", "number"), [*cases()])
def test_a_call_that_is_refused_is_an_error_of_ours(tmp_path, monkeypatch, use, there, number):
    """Relies on every `except OSError` of `claim`, `view` and `store`."""
    start, path = tmp_path / "start", tmp_path / "ckpt"
    if there == "a checkpoint":
        executor(start).execute(TASKS)
    n, n_errors = 0, 0
    while True:
        shutil.rmtree(path, ignore_errors=True)
        if there == "a checkpoint":
            shutil.copytree(start, path)
        with monkeypatch.context() as patched:
            look = RefusedLook(patched, path, n, number)
            said = said_by(use, path)
        if len(look.calls) <= n:
            break
        if said is not None:
            n_errors += 1
            assert str(path) in said, look.calls[n]
        assert said_by("resume", path) is None, f"{use} after {look.calls[n]}"
        n += 1
    assert n >= (1 if there == "nothing" else 4)


# --- paths that no call takes ----------------------------------------------------------------------------------------


def a_link_to_itself(tmp_path):
    (tmp_path / "link").symlink_to("link")
    return tmp_path / "link"


def below_a_link_to_itself(tmp_path):
    return a_link_to_itself(tmp_path) / "ckpt"


def a_link_to_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path / "link"


def a_link_to_a_name_that_is_too_long(tmp_path):
    (tmp_path / "link").symlink_to("x" * 300)
    return tmp_path / "link"


def a_name_that_is_too_long(tmp_path):
    return tmp_path / ("x" * 300)


def below_a_name_that_is_too_long(tmp_path):
    return tmp_path / ("x" * 300) / "ckpt"


def a_path_that_is_too_long(tmp_path):
    return tmp_path.joinpath(*["x" * 200] * 30)


def below_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"theirs")
    return tmp_path / "file" / "ckpt"


def in_a_file_system_that_takes_nothing(tmp_path):
    return "/proc/ckpt"


PATHS = [
    a_link_to_itself,
    below_a_link_to_itself,
    a_link_to_nowhere,
    a_link_to_a_name_that_is_too_long,
    a_name_that_is_too_long,
    below_a_name_that_is_too_long,
    a_path_that_is_too_long,
    below_a_file,
    in_a_file_system_that_takes_nothing,
]


@pytest.mark.parametrize("make", PATHS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("use", USES)
def test_a_path_that_cannot_be_one_is_an_error_that_names_it(tmp_path, use, make):
    path = make(tmp_path)
    said = said_by(use, path)
    if use in ("execute", "resume"):
        assert said is not None
    assert said is None or str(path) in said


@pytest.mark.parametrize("path", ["\ud800", "a\0b"])
def test_a_path_that_is_no_name_for_the_system_is_refused_at_once(path):
    with pytest.raises(dagron.OptionError, match="checkpoint_dir"):
        executor(path)
    with pytest.raises(dagron.CheckpointDirectoryError):
        checkpoint_status(path)


def test_a_relative_path_in_a_working_directory_that_is_gone_is_an_error_of_ours(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for use in (executor, checkpoint_status):
        with pytest.raises(dagron.CheckpointDirectoryError, match=r"'ckpt'.*working directory"):
            use("ckpt")
    monkeypatch.undo()

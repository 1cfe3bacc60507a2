"""The file operations under a checkpoint: nothing is followed, nothing is half there, nothing hangs."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from disk import stand_in
from places import SRC

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.locks import DirectoryLock
from dagron.checkpoint.files.modes import current_umask, mode_for
from dagron.checkpoint.files.opened import TEMP_PREFIX, TEMP_SUFFIX, AppendFile, ReadFile, TempFile

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, modes and FIFOs are those of POSIX")


class Calls:
    """Stands in for `os` in the module under test: notes the calls that change something, and can make one fail."""

    NOTED = ("open", "write", "fdatasync", "fsync", "ftruncate", "replace", "unlink")

    def __init__(self, fail=None, error=None):
        self.made = []
        self._fail, self._error = fail, error

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.NOTED:
            return real

        def call(*args, **kwargs):
            self.made.append((name, *args))
            if name == self._fail:
                raise self._error or OSError(errno.ENOSPC, "no space left on this test's device")
            return real(*args, **kwargs)

        return call

    @property
    def names(self):
        return [name for name, *_ in self.made]


@pytest.fixture
def calls(monkeypatch):
    def install(fail=None, error=None):
        made = Calls(fail, error)
        stand_in(monkeypatch, made)
        return made

    return install


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "ckpt"
    path.mkdir()
    return Directory(path)


@pytest.fixture
def victim(tmp_path):
    """A file elsewhere that must stay as it is."""
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    yield path
    assert path.read_bytes() == b"precious"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.fixture(autouse=True)
def usual_umask():
    old = os.umask(0o022)
    yield
    os.umask(old)


@pytest.fixture(autouse=True)
def no_descriptor_is_left():
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    yield
    if before:
        assert set(os.listdir("/proc/self/fd")) <= before


def finishes(action):
    """Run what could block in a thread, so that a hang fails instead of stopping the tests."""
    raised = []

    def act():
        try:
            action()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(10)
    return not thread.is_alive(), raised


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def entries(directory):
    return sorted(os.listdir(directory.path))


class TestWriteView:
    @pytest.mark.parametrize("expected", [False, True])
    def test_a_missing_file_is_made_and_is_ours_alone(self, directory, expected):
        os.umask(0)
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert (directory.path / "a.pkl").read_bytes() == b"value"
        assert mode_of(directory.path / "a.pkl") == 0o600

    @pytest.mark.parametrize("expected", [False, True])
    @pytest.mark.parametrize("old", [b"", b"old", b"much longer than the new one"])
    def test_an_existing_file_gets_the_new_content_and_nothing_else(self, directory, old, expected):
        (directory.path / "a.pkl").write_bytes(old)
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert (directory.path / "a.pkl").read_bytes() == b"value"
        assert entries(directory) == ["a.pkl"]

    @pytest.mark.parametrize("expected", [False, True])
    def test_a_link_in_its_place_is_replaced_and_not_followed(self, directory, victim, expected):
        (directory.path / "a.pkl").symlink_to(victim)
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert not (directory.path / "a.pkl").is_symlink()
        assert (directory.path / "a.pkl").read_bytes() == b"value"

    @pytest.mark.parametrize("expected", [False, True])
    def test_a_link_to_nowhere_makes_no_file_there(self, directory, tmp_path, expected):
        (directory.path / "a.pkl").symlink_to(tmp_path / "nowhere")
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert not (tmp_path / "nowhere").exists()
        assert (directory.path / "a.pkl").read_bytes() == b"value"

    @pytest.mark.parametrize("expected", [False, True])
    def test_a_link_to_a_directory_is_replaced(self, directory, tmp_path, expected):
        (tmp_path / "elsewhere").mkdir()
        (directory.path / "a.pkl").symlink_to(tmp_path / "elsewhere")
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert (directory.path / "a.pkl").read_bytes() == b"value"
        assert os.listdir(tmp_path / "elsewhere") == []

    @pytest.mark.parametrize("expected", [False, True])
    def test_another_name_of_the_same_file_keeps_its_content(self, directory, tmp_path, expected):
        (directory.path / "a.pkl").write_bytes(b"old")
        os.link(directory.path / "a.pkl", tmp_path / "backup")  # as `cp -al` and snapshot tools make them
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert (directory.path / "a.pkl").read_bytes() == b"value"
        assert (tmp_path / "backup").read_bytes() == b"old"

    @pytest.mark.parametrize("expected", [False, True])
    def test_a_read_only_file_is_no_obstacle(self, directory, expected):
        (directory.path / "a.pkl").write_bytes(b"old")
        (directory.path / "a.pkl").chmod(0o400)
        directory.write_copy("a.pkl", b"value", exists=expected)
        assert (directory.path / "a.pkl").read_bytes() == b"value"

    @pytest.mark.parametrize("expected", [False, True])
    def test_a_fifo_in_its_place_does_not_hold_us_up(self, directory, expected):
        path = directory.path / "a.pkl"
        os.mkfifo(path)
        done, raised = finishes(lambda: directory.write_copy("a.pkl", b"value", exists=expected))
        if not done:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # lets the thread go
        assert done, "write_copy waits for a reader of the FIFO"
        assert raised == []
        assert path.read_bytes() == b"value"

    @pytest.mark.parametrize("expected", [False, True])
    def test_a_directory_in_its_place_is_an_error_and_stays(self, directory, expected):
        (directory.path / "a.pkl").mkdir()
        (directory.path / "a.pkl" / "inside").write_bytes(b"theirs")
        with pytest.raises(OSError):
            directory.write_copy("a.pkl", b"value", exists=expected)
        assert (directory.path / "a.pkl" / "inside").read_bytes() == b"theirs"

    def test_a_full_disk_is_an_error(self, directory, calls):
        calls(fail="write")
        with pytest.raises(OSError, match="no space"):
            directory.write_copy("a.pkl", b"value", exists=False)

    def test_it_takes_as_many_writes_as_the_file_system_wants(self, directory, monkeypatch):
        class Slow(Calls):
            def write(self, fd, data):
                return os.write(fd, bytes(data)[:3])

        stand_in(monkeypatch, Slow())
        directory.write_copy("a.pkl", b"0123456789", exists=False)
        assert (directory.path / "a.pkl").read_bytes() == b"0123456789"


class TestReplace:
    @pytest.mark.parametrize("durable", [False, True])
    def test_the_content_is_the_new_one_and_ours_alone(self, directory, durable):
        os.umask(0)
        directory.replace("x", b"old", durable=durable)
        directory.replace("x", b"new", durable=durable)
        assert (directory.path / "x").read_bytes() == b"new"
        assert mode_of(directory.path / "x") == 0o600
        assert entries(directory) == ["x"]

    @pytest.mark.parametrize("fail", ["open", "write", "fdatasync", "replace"])
    @pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
    def test_if_it_fails_the_old_content_stays_and_no_temporary_file(self, directory, calls, fail, error):
        (directory.path / "x").write_bytes(b"old")
        calls(fail=fail, error=error)
        with pytest.raises(type(error)):
            directory.replace("x", b"new", durable=True)
        assert (directory.path / "x").read_bytes() == b"old"
        assert entries(directory) == ["x"]

    def test_a_reader_sees_the_old_content_up_to_the_rename_and_then_the_new_one(self, directory, monkeypatch):
        path = directory.path / "x"
        path.write_bytes(b"old")
        seen = []

        class Watched(Calls):
            def __getattr__(self, name):
                real = super().__getattr__(name)
                if name not in self.NOTED:
                    return real

                def call(*args, **kwargs):
                    seen.append((name, path.read_bytes()))
                    result = real(*args, **kwargs)
                    seen.append((name, path.read_bytes()))
                    return result

                return call

        stand_in(monkeypatch, Watched())
        directory.replace("x", b"new", durable=True)
        renamed = seen.index(("replace", b"new"))
        assert {content for _, content in seen[:renamed]} == {b"old"}
        assert {content for _, content in seen[renamed:]} == {b"new"}

    @pytest.mark.skipif(sys.platform != "linux", reason="the calls of Linux")
    def test_durable_syncs_the_bytes_before_the_name_and_the_name_last(self, directory, calls):
        made = calls()
        directory.replace("x", b"new", durable=True)
        assert made.names == ["open", "write", "fdatasync", "replace", "open", "fsync"]

    def test_without_durable_nothing_is_synced(self, directory, calls):
        made = calls()
        directory.replace("x", b"new", durable=False)
        assert made.names == ["open", "write", "replace"]

    def test_a_link_in_its_place_is_replaced_and_not_followed(self, directory, victim):
        (directory.path / "x").symlink_to(victim)
        directory.replace("x", b"new", durable=False)
        assert not (directory.path / "x").is_symlink()
        assert (directory.path / "x").read_bytes() == b"new"

    def test_another_name_of_the_same_file_keeps_its_content(self, directory, victim):
        os.link(victim, directory.path / "x")
        directory.replace("x", b"new", durable=False)
        assert (directory.path / "x").read_bytes() == b"new"

    def test_if_it_fails_it_closes_no_descriptor_of_somebody_else(self, directory, monkeypatch, victim):
        # Another thread may open a file as soon as the temporary one is closed; the kernel gives it the same number.
        theirs = []

        class Busy(Calls):
            def replace(self, *_):
                theirs.append(os.open(victim, os.O_RDONLY))
                raise OSError(errno.EIO, "broken")

        stand_in(monkeypatch, Busy())
        with pytest.raises(OSError, match="broken"):
            directory.replace("x", b"new", durable=False)
        [fd] = theirs
        assert os.read(fd, 100) == b"precious"
        os.close(fd)


class TestTempFile:
    def test_its_name_is_known_as_ours_and_new_every_time(self, directory):
        made = [TempFile(directory.path) for _ in range(20)]
        for temp in made:
            name = temp.finish(durable=False)
            assert name.startswith(TEMP_PREFIX)
            assert name.endswith(TEMP_SUFFIX)
            assert mode_of(directory.path / name) == 0o600
        assert len({temp.name for temp in made}) == 20

    @pytest.mark.parametrize("mask", [0, 0o077, 0o777])
    def test_it_has_its_mode_whatever_the_umask_of_a_process_in_which_tasks_have_run(self, directory, mask):
        os.umask(mask)
        name = TempFile(directory.path, 0o640).finish(durable=False)
        assert mode_of(directory.path / name) == 0o640

    def test_what_was_written_is_there_when_it_is_finished_and_published(self, directory):
        temp = TempFile(directory.path)
        temp.write(b"one ")
        temp.write(memoryview(b"two"))
        name = temp.finish(durable=True)
        (directory.path / "big.pkl").write_bytes(b"old")
        directory.publish(name, "big.pkl")
        assert entries(directory) == ["big.pkl"]
        assert (directory.path / "big.pkl").read_bytes() == b"one two"

    def test_published_over_a_link_it_replaces_the_link(self, directory, victim):
        temp = TempFile(directory.path)
        name = temp.finish(durable=False)
        (directory.path / "big.pkl").symlink_to(victim)
        directory.publish(name, "big.pkl")
        assert not (directory.path / "big.pkl").is_symlink()

    def test_discarded_it_is_gone_whether_finished_or_not(self, directory):
        TempFile(directory.path).discard()
        finished = TempFile(directory.path)
        finished.finish(durable=False)
        finished.discard()
        assert entries(directory) == []

    def test_discarded_after_a_failure_it_closes_no_descriptor_of_somebody_else(self, directory, victim):
        temp = TempFile(directory.path)
        temp.finish(durable=False)
        fd = os.open(victim, os.O_RDONLY)  # takes the lowest free number: the one that the temporary file had
        temp.discard()
        assert os.read(fd, 100) == b"precious"
        os.close(fd)

    def test_discarded_twice_it_is_just_gone(self, directory):
        temp = TempFile(directory.path)
        temp.discard()
        temp.discard()
        assert entries(directory) == []


class TestAppendFile:
    @pytest.fixture
    def path(self, directory):
        path = directory.path / "journal"
        path.write_bytes(b"valid torn")
        return path

    def test_it_cuts_off_what_stands_behind_the_valid_bytes_and_goes_on_there(self, path):
        file = AppendFile(path, 6)
        assert path.read_bytes() == b"valid "
        file.append(b"and ")
        file.append(b"more")
        assert file.size == 14
        file.sync()
        assert path.read_bytes()[6:] == b"and more"
        file.close()
        assert path.read_bytes() == b"valid and more"

    def test_a_whole_file_is_not_truncated(self, path, calls):
        made = calls()
        AppendFile(path, 10).close()
        assert "ftruncate" not in made.names

    def test_what_was_appended_is_seen_by_others_before_it_is_closed(self, path):
        file = AppendFile(path, 10)
        file.append(b"!")
        assert path.read_bytes() == b"valid torn!"
        file.close()

    def test_a_link_is_not_followed(self, directory, victim):
        (directory.path / "journal").symlink_to(victim)
        with pytest.raises(OSError):
            AppendFile(directory.path / "journal", 0)

    def test_it_must_exist(self, directory):
        with pytest.raises(FileNotFoundError):
            AppendFile(directory.path / "journal", 0)

    def test_a_full_disk_is_an_error(self, path, calls):
        file = AppendFile(path, 10)
        calls(fail="write")
        with pytest.raises(OSError, match="no space"):
            file.append(b"more")
        file.close()
        assert path.read_bytes() == b"valid torn"

    def test_a_torn_tail_that_cannot_be_cut_off_is_an_error(self, path, calls):
        calls(fail="ftruncate")
        with pytest.raises(OSError, match="no space"):
            AppendFile(path, 6)


class TestReadFile:
    def test_it_reads_from_any_place_and_no_further_than_the_end(self, directory):
        (directory.path / "x").write_bytes(b"0123456789")
        with directory.open_to_read("x") as file:
            assert file.size == 10
            assert file.read_at(0, 4) == b"0123"
            assert file.read_at(8, 4) == b"89"
            assert file.read_at(10, 4) == file.read_at(99, 4) == b""
            with file.map() as mapped:
                assert mapped[:] == b"0123456789"
        assert directory.read("x") == b"0123456789"

    def test_it_takes_as_many_reads_as_the_file_system_wants(self, directory, monkeypatch):
        (directory.path / "x").write_bytes(b"0123456789")
        monkeypatch.setattr(os, "pread", lambda fd, n, at, real=os.pread: real(fd, min(n, 3), at))
        assert directory.read("x") == b"0123456789"

    def test_a_fifo_is_refused_at_once(self, directory):
        os.mkfifo(directory.path / "x")
        done, raised = finishes(lambda: directory.open_to_read("x"))
        assert done, "it waits for a writer of the FIFO"
        assert "not a regular file" in str(raised[0])

    def test_a_directory_a_socket_and_a_device_are_refused(self, directory):
        (directory.path / "sub").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(directory.path / "sock"))
            for name in ("sub", "sock"):
                with pytest.raises(OSError):
                    directory.open_to_read(name)
        with pytest.raises(OSError, match="not a regular file"):
            ReadFile(os.devnull)

    def test_a_link_is_not_followed(self, directory, victim):
        (directory.path / "x").symlink_to(victim)
        with pytest.raises(OSError):
            directory.open_to_read("x")

    def test_what_is_missing_is_told_as_missing(self, directory):
        with pytest.raises(FileNotFoundError):
            directory.read("x")


@pytest.mark.parametrize(("umask", "alone", "in_setgid"), [
    (0o022, 0o700, 0o750),  # the usual one is no wish to share; a directory for a group is
    (0o002, 0o770, 0o770),
    (0o000, 0o700, 0o770),  # nor is one that lets everyone write
    (0o007, 0o770, 0o770),
    (0o027, 0o750, 0o750),
    (0o077, 0o700, 0o700),
    (0o012, 0o765, 0o765),
    (0o777, 0o700, 0o700),  # what its owner cannot read is no use
])  # fmt: skip
def test_who_may_look_follows_from_the_umask_and_from_a_setgid_directory(tmp_path, umask, alone, in_setgid):
    assert (mode_for(umask, in_setgid=False), mode_for(umask, in_setgid=True)) == (alone, in_setgid)
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o2700)
    os.umask(umask)
    assert (Directory(tmp_path / "ckpt").mode, Directory(tmp_path / "ckpt").file_mode) == (alone, alone & 0o666)
    assert Directory(tmp_path / "group" / "a" / "ckpt").mode == in_setgid


def test_the_umask_is_read_also_where_the_system_does_not_list_it(monkeypatch):
    def no_file(*_):
        raise FileNotFoundError

    os.umask(0o027)
    assert current_umask() == 0o027
    monkeypatch.setattr("builtins.open", no_file)
    assert current_umask() == 0o027
    assert current_umask() == 0o027  # and is as it was


class TestDirectory:
    def test_it_is_created_with_its_parents_and_is_ours_alone(self, tmp_path):
        os.umask(0)
        Directory(tmp_path / "a" / "b" / "ckpt").create()
        assert mode_of(tmp_path / "a" / "b" / "ckpt") == 0o700

    def test_one_that_exists_stays_as_it_is(self, tmp_path):
        (tmp_path / "ckpt").mkdir(mode=0o755)
        Directory(tmp_path / "ckpt").create()
        assert mode_of(tmp_path / "ckpt") == 0o755
        (tmp_path / "link").symlink_to(tmp_path / "ckpt")
        Directory(tmp_path / "link").create()
        assert (tmp_path / "link").is_symlink()

    def test_a_file_in_its_place_or_above_it_is_an_error(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path / "file", tmp_path / "file" / "ckpt"):
            with pytest.raises(OSError):
                Directory(path).create()

    def test_sizes_are_those_of_regular_files_only(self, directory, victim):
        (directory.path / "a").write_bytes(b"123")
        (directory.path / "empty").write_bytes(b"")
        (directory.path / "sub").mkdir()
        (directory.path / "link").symlink_to(victim)
        (directory.path / "nowhere").symlink_to("nowhere")
        os.mkfifo(directory.path / "fifo")
        assert directory.sizes() == {"a": 3, "empty": 0}

    def test_an_entry_of_any_kind_exists(self, directory):
        (directory.path / "nowhere").symlink_to("else")
        (directory.path / "sub").mkdir()
        assert directory.exists("nowhere")
        assert directory.exists("sub")
        assert not directory.exists("else")

    def test_remove_takes_files_and_links_and_nothing_behind_a_link(self, directory, victim, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (directory.path / "file").write_bytes(b"")
        (directory.path / "read-only").write_bytes(b"")
        (directory.path / "read-only").chmod(0o400)
        (directory.path / "link").symlink_to(victim)
        (directory.path / "link-to-directory").symlink_to(tmp_path / "elsewhere")
        os.link(victim, directory.path / "hard-link")
        os.mkfifo(directory.path / "fifo")
        directory.remove_all(["file", "read-only", "link", "link-to-directory", "hard-link", "fifo", "missing"])
        assert entries(directory) == []
        assert (tmp_path / "elsewhere").is_dir()

    def test_remove_leaves_directories(self, directory):
        (directory.path / "empty").mkdir()
        (directory.path / "full").mkdir()
        (directory.path / "full" / "inside").write_bytes(b"theirs")
        directory.remove_all(["empty", "full"])
        assert entries(directory) == ["empty", "full"]
        assert (directory.path / "full" / "inside").read_bytes() == b"theirs"

    @pytest.mark.parametrize("error", [PermissionError(errno.EPERM, "immutable"), OSError(errno.EIO, "broken")])
    def test_remove_tells_what_it_could_not_remove(self, directory, calls, error):
        (directory.path / "file").write_bytes(b"")
        calls(fail="unlink", error=error)
        with pytest.raises(type(error)):
            directory.remove("file")


HOLDER = """
import sys
from pathlib import Path
from dagron.checkpoint.files.locks import DirectoryLock

lock = DirectoryLock(Path(sys.argv[1]))
assert lock.acquire()
{then}
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path):
    lock = DirectoryLock(path)
    assert lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def hold(path, then=""):
    """Start a process that holds the lock until it is killed or its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(then=then), str(path)],
        env={**os.environ, "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


class TestLock:
    def test_it_is_free_then_taken_then_free_again(self, directory):
        path = directory.path / "lock"
        first, second = DirectoryLock(path), DirectoryLock(path)
        assert first.acquire()
        assert not second.acquire()
        assert not second.acquire()
        second.release()  # holds nothing, so this gives nothing back
        assert not second.acquire()
        first.release()
        assert second.acquire()
        assert not first.acquire()
        second.release()
        second.release()
        assert path.exists(), "another process may be waiting on the file"
        assert mode_of(path) == 0o600

    def test_another_process_is_refused_and_its_death_frees_it(self, directory):
        path = directory.path / "lock"
        lock = DirectoryLock(path)
        process = hold(path)
        try:
            assert not lock.acquire()
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert lock.acquire()
            lock.release()
        finally:
            process.kill()
            process.communicate()

    def test_a_program_that_the_holder_started_does_not_keep_it(self, directory):
        path = directory.path / "lock"
        then = (
            "import subprocess\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], close_fds=False)"
        )
        process = hold(path, then)
        try:
            process.send_signal(signal.SIGKILL)
            process.wait()
            lock = DirectoryLock(path)
            # The kernel closes what the program does not inherit when it starts, and may be about to.
            deadline = time.monotonic() + 10
            while not lock.acquire():
                assert time.monotonic() < deadline
            lock.release()
        finally:
            process.communicate()  # closes the pipe, and so ends the child, which holds its other end
            assert process.stdout.closed

    def test_it_is_the_lock_of_the_kernel(self, directory):
        path = directory.path / "lock"
        with held(path), path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_what_stands_in_the_lock_file_stays(self, directory):
        (directory.path / "lock").write_bytes(b"whatever")
        with held(directory.path / "lock"):
            pass
        assert (directory.path / "lock").read_bytes() == b"whatever"

    def test_a_link_in_its_place_is_refused_and_not_followed(self, directory, victim):
        (directory.path / "lock").symlink_to(victim)
        with pytest.raises(OSError):
            DirectoryLock(directory.path / "lock").acquire()

    def test_a_directory_in_its_place_is_refused(self, directory):
        (directory.path / "lock").mkdir()
        with pytest.raises(OSError):
            DirectoryLock(directory.path / "lock").acquire()

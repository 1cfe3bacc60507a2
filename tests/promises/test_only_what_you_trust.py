"""Who may read a checkpoint, whose checkpoint is believed, and that nothing is unpickled before it is authenticated.

Loading a pickle runs code, so these tests lay out pickles that leave a trace when they are loaded. What holds this up:
`modes.mode_for`, `claim._check_owner`, and for everything that is unpickled the digest in
`blobs.read_blob` and `blobs.load_result`, itself under the check of its record (`format.scan`), which is under that of
the header (`format.decode_header`); each compared by `Digests.equal`, and keyed with the signing key.
"""

import hmac
import json
import logging
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import traceback
from pathlib import Path

import psutil
import pytest
from blake3 import blake3
from disk import stand_in
from places import SRC

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks
from dagron.checkpoint.format.commits import _COMMIT, decode_commit
from dagron.checkpoint.format.digests import CHECK_SIZE, Digests
from dagron.checkpoint.format.journal import HEADER_SIZE, RECORD_SIZE, Record, decode_header, scan
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.records import Kind
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.engines.attempt import WorkerSetup

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners are those of POSIX")
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")

KEY = b"a key of 32 bytes, for all tests"
SIZE = 20_000
RIGHT = (1, 2, 3, 4)


def large(byte):
    return bytes([byte]) * SIZE


def small(byte):
    return bytes([byte]) * 300  # room for a pickle with a path in it


VALUES = {"x": "x", "a": large(1), "b": large(2), "s": small(3), "t": small(4), "reads": RIGHT}
WRONG = {"a": lambda: large(9), "b": lambda: large(8), "s": lambda: small(7), "t": lambda: small(6)}
EDGES = [(name, "reads") for name in "abst"]
WHOLE = DAG.builder().add_edges([("x", name) for name in "abst"] + EDGES).build()
WITHOUT_X = DAG.builder().add_edges(EDGES).build()


def tasks(**others):
    """Two large results, two small ones, each pair of one size, a node above them, and one that reads them all."""
    return {
        "x": lambda: "x",
        "a": lambda: large(1),
        "b": lambda: large(2),
        "s": lambda: small(3),
        "t": lambda: small(4),
        "reads": lambda a, b, s, t: (a[0], b[0], s[0], t[0]),
        **others,
    }


def executor(ckpt, *, key=KEY, dag=WHOLE, **options):
    options = {"pool": "inline", "durability": "process", "signing_key": key, **options}
    return CheckpointExecutor(dag, ckpt, **options)


def without_x(**others):
    return {name: task for name, task in tasks(**others).items() if name != "x"}


def fails(*_):
    return 1 / 0


class Canary:
    """Unpickled, also in a worker, it makes a directory."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something was unpickled that had not been authenticated"


def forged(canary, size):
    """A pickle of this size that leaves a trace when it is loaded."""
    data = pickle.dumps(Canary(canary), 5)
    assert len(data) <= size
    return data + bytes(size - len(data))


def records_of(ckpt, key=KEY):
    journal = (ckpt / JOURNAL).read_bytes()
    checkpoint_id = decode_header(journal, Digests(key)).checkpoint_id
    items = scan(lambda offset, n: journal[offset : offset + n], len(journal), checkpoint_id, Digests(key))
    return [item for item in items if isinstance(item, Record)]


def commit_in(record):
    return decode_commit(record.body, record.payload_offset, record.sequence)


def commits_of(ckpt, key=KEY):
    return {commit.name: commit for commit in map(commit_in, filter(is_commit, records_of(ckpt, key)))}


def is_commit(record):
    return record.kind == Kind.COMMITTED


def overwrite(path, data, offset=0):
    """Change bytes of a file in place, as whoever may write it can."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


# --- modes ----------------------------------------------------------------------------------------------------------


class Watched:
    """Stands in for `os` in `files`, and notes the modes of all that is there at every call that changes something."""

    def __init__(self, watched):
        self.watched, self.modes = watched, {}

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("open", "write", "replace", "unlink", "close"):
            return real

        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            # What was opened this instant may still have too few rights for ourselves, and never any for others.
            self.look(0o077 if name == "open" else 0o777)
            return result

        return call

    def look(self, bits):
        for entry in (self.watched, *self.watched.iterdir()) if self.watched.exists() else ():
            mode = stat.S_IMODE(entry.lstat().st_mode)
            if mode & bits:
                kind = "temporary" if entry.name.endswith(".tmp") else entry.name
                self.modes.setdefault(kind, set()).add(mode)


class TestModes:
    @pytest.fixture
    def umask(self):
        before = os.umask(0)
        yield os.umask
        os.umask(before)

    @pytest.mark.parametrize("mask", [0, 0o022, 0o077], ids=oct)
    def test_at_every_moment_everything_is_ours_alone_whatever_the_umask_that_says_nothing_of_sharing(
        self, ckpt, monkeypatch, umask, mask
    ):
        watched = Watched(ckpt)
        stand_in(monkeypatch, watched)
        umask(mask)
        executor(ckpt).execute(tasks(reads=fails))
        executor(ckpt).resume(tasks())
        executor(ckpt).execute(tasks())
        executor(ckpt).clear_checkpoint()
        names = ["x.pkl", "a.pkl", "b.pkl", "s.pkl", "t.pkl", "reads.pkl", "temporary", JOURNAL, META, LOCK]
        assert watched.modes == {ckpt.name: {0o700}, **{name: {0o600} for name in names}}

    def test_what_a_worker_is_writing_is_ours_alone(self, ckpt, tmp_path, umask):
        def writes():
            class Looks:
                def __reduce__(self):
                    # In the middle of the writing of a large result, which has a temporary name.
                    modes = {name: os.stat(os.path.join(ckpt, name)).st_mode & 0o777 for name in os.listdir(ckpt)}
                    with open(seen, "w") as file:
                        json.dump(modes, file)
                    return int, ()

            return [bytes(200_000), Looks()]

        seen = tmp_path / "seen"
        umask(0)
        dag = DAG.builder().add_node("a").build()
        CheckpointExecutor(dag, ckpt, max_workers=1, durability="process").execute({"a": writes})
        modes = json.loads(seen.read_text())
        assert [name for name in modes if name.endswith(".tmp")]
        assert set(modes.values()) == {0o600}
        assert stat.S_IMODE((ckpt / "a.pkl").stat().st_mode) == 0o600

    def test_a_directory_that_exists_keeps_its_mode_and_its_files_are_ours_alone(self, ckpt, umask):
        ckpt.mkdir()
        ckpt.chmod(0o755)
        umask(0)
        for use in (executor(ckpt).execute, executor(ckpt).resume):
            use(tasks())
            assert stat.S_IMODE(ckpt.stat().st_mode) == 0o755
            assert {stat.S_IMODE((ckpt / name).stat().st_mode) for name in os.listdir(ckpt)} == {0o600}
        executor(ckpt).clear_checkpoint()
        assert stat.S_IMODE(ckpt.stat().st_mode) == 0o755

    @pytest.mark.parametrize(("mask", "setgid", "directory", "file"), [
        (0o007, False, 0o770, 0o660),
        (0o027, False, 0o750, 0o640),
        (0o002, True, 0o770, 0o660),  # nothing for the rest of the world
        (0o022, True, 0o750, 0o640),
    ])  # fmt: skip
    def test_the_group_gets_what_the_umask_or_a_setgid_directory_says_also_where_a_task_has_set_the_umask(
        self, tmp_path, umask, mask, setgid, directory, file
    ):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o2770 if setgid else 0o770)
        ckpt = tmp_path / "shared" / "ckpt"

        def sets_umask(value):
            os.umask(0o777)
            return value

        umask(mask)
        flow = dagron.Flow()
        flow.map("n{}", sets_umask, [large(1), b"small", b"small, too", large(2)])
        flow.run(ckpt, resume=True, max_workers=1, durability="process").raise_for_failures()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ckpt.iterdir()}
        assert modes == dict.fromkeys(["n0.pkl", "n1.pkl", "n2.pkl", "n3.pkl", JOURNAL, META, LOCK], file)
        assert stat.S_IMODE(ckpt.stat().st_mode) & 0o777 == directory
        if setgid and sys.platform == "linux":
            assert ckpt.stat().st_mode & stat.S_ISGID


# --- owners ---------------------------------------------------------------------------------------------------------


class TestOwners:
    """The journal and the directory must be ours. The files of results need not be: the journal knows their digests."""

    @pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
    @pytest.mark.parametrize("name", ["a.pkl", "s.pkl", META])
    @pytest.mark.parametrize("what", ["owner", "mode"])
    def test_a_file_that_somebody_else_can_write_is_used_if_it_is_what_was_committed(self, ckpt, name, what, key):
        executor(ckpt, key=key).execute(tasks(reads=fails))
        if what == "mode":
            (ckpt / name).chmod(0o666)
        elif os.geteuid() == 0:
            os.chown(ckpt / name, 12345, 12345)
        else:
            pytest.skip("only root can give a file away")
        result = executor(ckpt, key=key).resume(tasks())
        assert (result["reads"].result, result.restored) == (RIGHT, 5)

    @pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
    @pytest.mark.parametrize("reader", ["a child", "a child in a worker", "NodeResult.result", "on_complete"])
    def test_one_that_somebody_changed_is_refused_before_it_is_unpickled(
        self, ckpt, canary, monkeypatch, caplog, reader, key
    ):
        executor(ckpt, key=key).execute(tasks(reads=fails))
        size = (ckpt / "a.pkl").stat().st_size
        told = {}

        def change():
            (ckpt / "a.pkl").chmod(0o666)
            overwrite(ckpt / "a.pkl", forged(canary, size))

        if reader == "on_complete":
            # Between the commit and the callback that is given the value.
            def commit(self, pending, doubtful=(), real=CheckpointStore.commit):
                real(self, pending, doubtful)
                if pending[0].commit.name == "a":
                    change()

            monkeypatch.setattr(CheckpointStore, "commit", commit)
            callbacks = ExecutionCallbacks(on_complete=told.__setitem__)
            executor(ckpt, key=key, callbacks=callbacks).execute(tasks())
            assert told.keys() == {"x", "b", "s", "t"}, "the other callbacks are called"
            assert "a.pkl" in caplog.text
            return
        change()
        if reader == "NodeResult.result":
            result = executor(ckpt, key=key).resume(tasks(reads=lambda s: s))
            with pytest.raises(dagron.ResultUnavailableError, match=r"a\.pkl"):
                _ = result["a"].result
            return
        pool = {"pool": "process", "max_workers": 1} if reader == "a child in a worker" else {}
        result = executor(ckpt, key=key, **pool).resume(tasks())
        assert isinstance(result["reads"].error, dagron.CheckpointDamagedError)
        assert executor(ckpt, key=key).resume(tasks())["reads"].result == RIGHT

    @only_root
    @pytest.mark.parametrize("name", [".", JOURNAL])
    @pytest.mark.parametrize("owner", [0, 12345, 54321])
    def test_a_checkpoint_may_belong_to_its_user_and_to_root_and_to_nobody_else(self, ckpt, monkeypatch, name, owner):
        executor(ckpt).execute(tasks())
        os.chown(ckpt, 12345, -1)
        os.chown(ckpt / JOURNAL, 12345, -1)
        os.chown(ckpt / name, owner, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        if owner == 54321:
            for use in (executor(ckpt).execute, executor(ckpt).resume):
                with pytest.raises(dagron.CheckpointDirectoryError, match=r"user 54321.*allow_untrusted=True"):
                    use(tasks())
            with pytest.raises(dagron.CheckpointDirectoryError, match="user 54321"):
                executor(ckpt).clear_checkpoint()
            assert executor(ckpt, allow_untrusted=True).resume(tasks()).restored == 6
        else:
            assert executor(ckpt).resume(tasks()).restored == 6


# --- nothing is unpickled before its time ---------------------------------------------------------------------------

WITHOUT_PICKLE = """
import sys, pickle, _pickle

def refuse(*_, **__):
    sys.exit("something was unpickled")

pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse
_pickle.load = _pickle.loads = _pickle.Unpickler = refuse

import dagron
directory = sys.argv[1]
executor = dagron.CheckpointExecutor(dagron.DAG(["a", "b", "c"]), directory)
info = executor.checkpoint_info()
print(info.completed_nodes, info.failed_nodes)
if sys.argv[2:] == ["clear"]:
    executor.clear_checkpoint()
    sys.exit()
from dagron.cli import main
sys.argv[1:] = ["status", directory, *sys.argv[2:]]
main()
"""


class TestLooking:
    @pytest.mark.parametrize("arguments", [["--json"], [], ["clear"]], ids=["status --json", "status", "clear"])
    def test_from_outside_unpickles_nothing(self, ckpt, canary, arguments):
        dag = DAG.builder().add_nodes(["a", "b", "c"]).build()
        made = {"a": lambda: Canary(canary), "b": lambda: [Canary(canary), bytes(SIZE)], "c": lambda: 1 / 0}
        CheckpointExecutor(dag, ckpt, pool="inline").execute(made)
        command = [sys.executable, "-c", WITHOUT_PICKLE, str(ckpt), *arguments]
        env = {**os.environ, "PYTHONPATH": SRC}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stderr) == (0, "")
        first, rest = ended.stdout.split("\n", 1)
        assert first == "['a', 'b'] ['c']"
        if arguments == ["--json"]:
            assert json.loads(rest)["completed"] == 2
        assert ckpt.is_dir()
        assert bool(os.listdir(ckpt)) is (arguments != ["clear"])


# --- signing --------------------------------------------------------------------------------------------------------


def swap_large(ckpt, canary):
    a, b = (ckpt / "a.pkl").read_bytes(), (ckpt / "b.pkl").read_bytes()
    overwrite(ckpt / "a.pkl", b)
    overwrite(ckpt / "b.pkl", a)


def swap_large_by_name(ckpt, canary):
    (ckpt / "a.pkl").rename(ckpt / "x")
    (ckpt / "b.pkl").rename(ckpt / "a.pkl")
    (ckpt / "x").rename(ckpt / "b.pkl")


def swap_small(ckpt, canary):
    s, t = commits_of(ckpt)["s"], commits_of(ckpt)["t"]
    first, second = (ckpt / "s.pkl").read_bytes(), (ckpt / "t.pkl").read_bytes()
    overwrite(ckpt / JOURNAL, second, s.payload_offset)
    overwrite(ckpt / JOURNAL, first, t.payload_offset)
    overwrite(ckpt / "s.pkl", second)
    overwrite(ckpt / "t.pkl", first)


def forge_large(ckpt, canary):
    overwrite(ckpt / "a.pkl", forged(canary, (ckpt / "a.pkl").stat().st_size))


def forge_small(ckpt, canary):
    commit = commits_of(ckpt)["s"]
    overwrite(ckpt / JOURNAL, forged(canary, commit.size), commit.payload_offset)
    overwrite(ckpt / "s.pkl", forged(canary, commit.size))


def forge_small_and_its_digest(ckpt, canary):
    record = next(r for r in records_of(ckpt) if is_commit(r) and commit_in(r).name == "s")
    commit = commit_in(record)
    digest = Digests().of(forged(canary, commit.size))
    forge_small(ckpt, canary)
    overwrite(ckpt / JOURNAL, digest, record.offset + RECORD_SIZE + record.body.index(commit.digest))


def put_files(ckpt, saved):
    """Put files back as they were saved, and nothing else."""
    shutil.rmtree(ckpt)
    shutil.copytree(saved, ckpt)


def other_checkpoint(ckpt):
    """The journal of another checkpoint with the same key and the same nodes, and other results."""
    other = ckpt.parent / "other"
    executor(other).execute(tasks(**WRONG, reads=fails))
    return (other / JOURNAL).read_bytes(), records_of(other)


def append_records_of_another(ckpt, canary):
    journal, records = other_checkpoint(ckpt)
    with (ckpt / JOURNAL).open("ab") as file:
        file.write(journal[records[0].offset :])


def put_records_of_another_in_place(ckpt, canary):
    journal, theirs = other_checkpoint(ckpt)
    ours = records_of(ckpt)
    at = ours[1].offset
    data = (ckpt / JOURNAL).read_bytes()
    (ckpt / JOURNAL).write_bytes(data[:at] + journal[theirs[1].offset :] + data[at:])


def result_files_of_another(ckpt, canary):
    other_checkpoint(ckpt)
    for name in ("a.pkl", "b.pkl", "s.pkl", "t.pkl"):
        overwrite(ckpt / name, (ckpt.parent / "other" / name).read_bytes())


def records_of_the_superseded_checkpoint(ckpt, canary):
    with (ckpt / JOURNAL).open("ab") as file:
        file.write((ckpt.parent / "superseded" / JOURNAL).read_bytes()[HEADER_SIZE:])


def replay_earlier_records(ckpt, canary):
    with (ckpt / JOURNAL).open("ab") as file:
        file.write((ckpt.parent / "earlier" / JOURNAL).read_bytes()[HEADER_SIZE:])


def replay_earlier_commits_with_their_files(ckpt, canary):
    data = (ckpt.parent / "earlier" / JOURNAL).read_bytes()
    with (ckpt / JOURNAL).open("ab") as file:
        for record in filter(is_commit, records_of(ckpt.parent / "earlier")):
            file.write(data[record.offset : record.payload_offset + record.payload_size])
    earlier_files(ckpt, canary)


def earlier_files(ckpt, canary):
    for name in ("a.pkl", "b.pkl", "s.pkl", "t.pkl", META):
        overwrite(ckpt / name, (ckpt.parent / "earlier" / name).read_bytes())


def everything_as_it_was_earlier(ckpt, canary):
    put_files(ckpt, ckpt.parent / "earlier")


def replay_all_records(ckpt, canary):
    records = records_of(ckpt)
    data = (ckpt / JOURNAL).read_bytes()
    with (ckpt / JOURNAL).open("ab") as file:
        file.write(data[records[0].offset :] * 2)


def reverse_all_records(ckpt, canary):
    records = records_of(ckpt)
    data = (ckpt / JOURNAL).read_bytes()
    ends = [*(record.offset for record in records[1:]), len(data)]
    parts = [data[record.offset : end] for record, end in zip(records, ends, strict=True)]
    (ckpt / JOURNAL).write_bytes(data[: records[0].offset] + b"".join(reversed(parts)))


def exchange_names_in_records(ckpt, canary):
    data = (ckpt / JOURNAL).read_bytes()
    for record in records_of(ckpt):
        if is_commit(record):
            name = commit_in(record).name
            other = {"a": b"b", "b": b"a", "s": b"t", "t": b"s", "x": b"y"}[name]
            at = record.offset + RECORD_SIZE + _COMMIT.size
            assert data[at : at + 1] == name.encode()
            overwrite(ckpt / JOURNAL, other, at)


ATTACKS = [
    swap_large,
    swap_large_by_name,
    swap_small,
    forge_large,
    forge_small,
    forge_small_and_its_digest,
    append_records_of_another,
    put_records_of_another_in_place,
    result_files_of_another,
    records_of_the_superseded_checkpoint,
    replay_earlier_records,
    replay_earlier_commits_with_their_files,
    earlier_files,
    everything_as_it_was_earlier,
    replay_all_records,
    reverse_all_records,
    exchange_names_in_records,
]


class TestAttacks:
    """On a signed checkpoint, by somebody who may write everything in the directory and has not the key."""

    def sign(self, ckpt):
        """A checkpoint whose results have replaced others, by a fresh run and because their parents changed."""
        for saved in ("superseded", "earlier"):
            executor(ckpt, dag=WITHOUT_X).execute(without_x(**WRONG, reads=fails))
            shutil.copytree(ckpt, ckpt.parent / saved)
        for restored in (0, 5):
            result = executor(ckpt).resume(tasks(reads=fails))
            assert (result.succeeded, result.restored) == (5, restored)

    def resume_until_done(self, ckpt, **options):
        """Whatever a resume gives on the way is right or an error; in the end everything is right."""
        for _ in range(4):
            try:
                result = executor(ckpt, **options).resume(tasks())
            except dagron.ForeignFilesError as error:
                # Results that the journal knows no more: it is for the user to say that they may go.
                for name in error.names:
                    (ckpt / name).unlink()
                continue
            for name, expected in VALUES.items():
                node = result[name]
                if node.error is not None:
                    assert isinstance(node.error, (dagron.CheckpointDamagedError, dagron.NodeSkippedError))
                    continue
                try:
                    assert node.result == expected
                except dagron.ResultUnavailableError:
                    pass
            if result.ok:
                return
        pytest.fail("it does not recover")

    @pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
    def test_give_no_wrong_result_and_run_no_code(self, ckpt, canary, attack):
        self.sign(ckpt)
        attack(ckpt, canary)
        self.resume_until_done(ckpt)

    @pytest.mark.parametrize("attack", [swap_large, swap_small, forge_large], ids=lambda attack: attack.__name__)
    def test_give_no_wrong_result_to_workers(self, ckpt, canary, attack):
        self.sign(ckpt)
        attack(ckpt, canary)
        self.resume_until_done(ckpt, pool="process", max_workers=1)

    def test_cutting_the_journal_anywhere_gives_an_earlier_state_and_right_results(self, ckpt, canary):
        self.sign(ckpt)
        journal = (ckpt / JOURNAL).read_bytes()
        saved = Path(shutil.copytree(ckpt, ckpt.parent / "saved"))
        for record in records_of(ckpt):
            for length in (record.offset, record.payload_offset - 1):
                for files_of in (saved, ckpt.parent / "earlier"):
                    put_files(ckpt, files_of)
                    (ckpt / JOURNAL).write_bytes(journal[:length])
                    self.resume_until_done(ckpt)

    def test_leaving_out_any_record_gives_right_results(self, ckpt, canary):
        for journal, record, end in self.cut_out(ckpt):
            (ckpt / JOURNAL).write_bytes(journal[: record.offset] + journal[end:])
            self.resume_until_done(ckpt)

    @pytest.mark.parametrize("name", ["s", "t"])
    def test_leaving_out_that_a_result_was_replaced_does_not_bring_the_old_one_back(self, ckpt, canary, name):
        cut_out = self.cut_out(ckpt)
        journal = cut_out[0][0]
        [invalidated] = [record.sequence for _, record, _ in cut_out if record.kind == Kind.INVALIDATED]

        def is_left_out(record):
            new = is_commit(record) and record.sequence > invalidated and commit_in(record).name == name
            return new or record.sequence == invalidated

        kept = [journal[record.offset : end] for _, record, end in cut_out if not is_left_out(record)]
        assert len(kept) == len(cut_out) - 2
        (ckpt / JOURNAL).write_bytes(journal[:HEADER_SIZE] + b"".join(kept))
        self.resume_until_done(ckpt)

    def test_leaving_out_a_record_that_others_follow_is_told_of(self, ckpt, canary, caplog):
        for journal, record, end in self.cut_out(ckpt):
            caplog.clear()
            (ckpt / JOURNAL).write_bytes(journal[: record.offset] + journal[end:])
            executor(ckpt).resume(tasks())
            told = any(str(ckpt / JOURNAL) in entry.getMessage() for entry in caplog.records)
            assert told is (end < len(journal)), f"record {record.sequence}"

    def cut_out(self, ckpt):
        self.sign(ckpt)
        journal, records = (ckpt / JOURNAL).read_bytes(), records_of(ckpt)
        ends = [*(record.offset for record in records[1:]), len(journal)]
        assert len(records) >= 7
        return [(journal, record, end) for record, end in zip(records, ends, strict=True)]

    @pytest.mark.parametrize("reader", ["a child", "NodeResult.result", "on_complete"])
    def test_changing_a_file_between_the_check_and_the_loading_comes_too_late(
        self, ckpt, tmp_path, monkeypatch, reader
    ):
        canary = tmp_path / "canary"
        self.sign(ckpt)
        result = executor(ckpt).resume(tasks(reads=fails))
        size = (ckpt / "a.pkl").stat().st_size

        def digest_of(digests, data, real=Digests.of):
            found = real(digests, data)
            if len(data) == size:
                for name in ("a.pkl", "b.pkl"):
                    overwrite(ckpt / name, forged(canary, size))
            return found

        told = {}
        monkeypatch.setattr(Digests, "of", digest_of)
        if reader == "NodeResult.result":
            assert result["a"].result == large(1)
        elif reader == "a child":
            assert executor(ckpt).resume(tasks(reads=lambda a: a[0]))["reads"].result == 1
        else:
            callbacks = ExecutionCallbacks(on_complete=told.__setitem__)
            executor(ckpt, callbacks=callbacks).execute(tasks(reads=fails))
            assert told["a"] == large(1)
        assert not canary.exists()


class TestComparing:
    """Digests are compared by `Digests.equal` and nothing else; with a key in a time that does not depend on them."""

    def refuse_after(self, monkeypatch, n_agreed):
        """Let `Digests.equal` agree `n_agreed` times more and then to nothing."""
        left = n_agreed

        def equal(self, one, other, real=Digests.equal):
            nonlocal left
            left -= 1
            return left >= 0 and real(self, one, other)

        monkeypatch.setattr(Digests, "equal", equal)

    def test_with_a_key_in_a_time_that_does_not_depend_on_them(self, monkeypatch):
        asked = []
        monkeypatch.setattr(hmac, "compare_digest", lambda one, other: asked.append((one, other)))
        Digests(KEY).equal(b"one", b"other")
        assert asked == [(b"one", b"other")]

    @pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
    def test_of_the_header(self, ckpt, monkeypatch, key):
        executor(ckpt, key=key).execute(tasks())
        self.refuse_after(monkeypatch, 0)
        with pytest.raises(dagron.CheckpointDamagedError, match="check of its header fails"):
            executor(ckpt, key=key).checkpoint_info()

    def test_of_every_record(self, ckpt, monkeypatch):
        executor(ckpt).execute(tasks())
        records = records_of(ckpt)
        for n in range(len(records)):
            with monkeypatch.context() as patched:
                self.refuse_after(patched, 1 + n)
                info = executor(ckpt).checkpoint_info()
                assert len(info.completed_nodes) == sum(map(is_commit, records[:n]))

    @pytest.mark.parametrize("name", ["a", "s"])
    def test_of_every_result(self, ckpt, monkeypatch, name):
        executor(ckpt).execute(tasks())
        result = executor(ckpt).resume(tasks())
        self.refuse_after(monkeypatch, 0)
        with pytest.raises(dagron.ResultUnavailableError, match="digest"):
            _ = result[name].result

    @pytest.mark.parametrize("name", ["a", "s"])
    def test_of_every_input_of_a_child(self, ckpt, monkeypatch, name):
        executor(ckpt).execute(tasks(reads=fails))
        monkeypatch.setattr(Digests, "equal", lambda self, one, other: len(one) == CHECK_SIZE and one == other)
        reads = {"a": lambda a: a, "s": lambda s: s}[name]
        result = executor(ckpt).resume(tasks(reads=reads))
        assert isinstance(result["reads"].error, dagron.CheckpointDamagedError)


class TestTheKey:
    """Belongs to the user: it is in no file, no command, no text."""

    SECRET = b"S3cr3t-0123456789-S3cr3t-0123456"

    def is_in(self, data):
        data = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
        derived = (blake3(self.SECRET).digest(), Digests(self.SECRET)._key)
        # Its beginning is enough, for a text that is cut.
        return any(form in data for form in (self.SECRET[:12], self.SECRET.hex()[:24].encode(), *derived))

    def test_is_in_no_file_no_command_no_log_and_no_text_of_a_run_with_workers(self, ckpt, caplog):
        caplog.set_level(logging.DEBUG)
        commands, texts = [], []

        def look(*_):
            for process in psutil.Process().children(recursive=True):
                commands.append(" ".join(process.cmdline()))
                commands.append(str(process.environ()))

        def on_failure(name, error):
            texts.append("".join(traceback.format_exception(error)) + repr(error))

        def breaks(a):
            raise ValueError("on purpose")

        options = {"pool": "process", "max_workers": 2, "key": self.SECRET, "enable_tracing": True}
        callbacks = ExecutionCallbacks(on_start=look, on_complete=look, on_failure=on_failure)
        run = executor(ckpt, callbacks=callbacks, **options)
        result = run.execute(tasks(reads=breaks, t=lambda: os._exit(3)))
        assert result.failed == 1
        texts += [repr(run), repr(result), repr(result.node_results), str(run.checkpoint_info()), repr(result.trace)]
        texts += [repr(node) + str(node) for node in result.node_results.values()]
        result = run.resume(tasks(reads=breaks))
        assert (result.succeeded, result.failed) == (5, 1)
        assert len(commands) > 2
        assert len(texts) > 8
        assert not any(map(self.is_in, commands))
        assert not any(map(self.is_in, texts))
        assert not self.is_in(caplog.text)
        for name in os.listdir(ckpt):
            assert not self.is_in((ckpt / name).read_bytes()), name

    @pytest.mark.parametrize("given", [bytearray(SECRET), SECRET.decode(), [SECRET], {"key": SECRET}])
    def test_is_not_shown_by_the_error_that_refuses_it(self, ckpt, given):
        with pytest.raises(dagron.OptionError) as caught:
            executor(ckpt, key=given)
        assert not self.is_in(str(caught.value) + repr(caught.value))

    @pytest.mark.parametrize("use", ["execute", "resume", "checkpoint_info"])
    def test_is_not_shown_when_it_is_the_wrong_one(self, ckpt, use):
        executor(ckpt).execute(tasks())
        arguments = [] if use == "checkpoint_info" else [tasks()]
        with pytest.raises(dagron.CheckpointDamagedError) as caught:
            getattr(executor(ckpt, key=self.SECRET), use)(*arguments)
        assert not self.is_in("".join(traceback.format_exception(caught.value)) + repr(caught.value))

    def test_is_not_shown_by_what_a_worker_is_started_with(self, ckpt):
        # Loggers, debuggers and crash reports print the variables of a frame.
        assert not self.is_in(repr(WorkerSetup(str(ckpt), Digests(self.SECRET), True)))


class TestExceptions:
    def test_of_tasks_are_never_stored_as_pickles(self, ckpt, canary):
        # What is unpickled of them comes from the worker's memory; the directory has their text only.
        def breaks():
            error = ValueError("their text")
            error.attribute = ["HIDDEN-IN-THE-PICKLE"]
            raise error

        for pool in ({}, {"pool": "process", "max_workers": 1}):
            result = executor(ckpt, **pool).execute(tasks(a=breaks))
            assert result["a"].error.attribute == ["HIDDEN-IN-THE-PICKLE"]
            data = b"".join((ckpt / name).read_bytes() for name in os.listdir(ckpt))
            assert b"their text" in data
            assert b"HIDDEN" not in data
            assert not re.search(rb"\x80[\x04\x05]\x95.{8}\x8c.builtins", data, re.DOTALL)

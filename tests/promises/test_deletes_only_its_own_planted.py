"""What somebody put in the place of a file of ours, or beside it, at any moment: not followed, not lost, not deleted.

`test_files` proves single operations. Here whole runs meet links, FIFOs, directories and second names, and afterwards
the victims are as they were, what was recorded is still recorded, and what happened was a result or an error of ours.
What holds this up in `files`: `O_EXCL` and `O_NOFOLLOW` in `CREATE`, `_open_to_overwrite` with its look at `st_nlink`,
`ReadFile` with `O_NOFOLLOW`, `O_NONBLOCK` and `S_ISREG`, `Directory.remove`, which takes no directory; in `store`: that
only names from the journal are deleted (`Ledger.files`), and only regular files (`Directory.sizes`).
"""

import itertools
import os
import pickle
import socket
import stat
from pathlib import Path

import pytest

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks, NodeStatus
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.reading.opening import read_ledger

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, modes and FIFOs are those of POSIX")

OUR_OWN = {JOURNAL, LOCK, META}
LARGE = bytes(range(256)) * 100
VALUES = {"a": 1, "b": LARGE, "c": 3, "d": LARGE[::-1]}
NODES = list(VALUES)


class Outside:
    """Things beside the checkpoint that must stay as they are."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        (path / "victim").write_bytes(b"precious")
        (path / "victim").chmod(0o644)
        (path / "directory").mkdir()
        (path / "directory" / "inside").write_bytes(b"precious")
        self._before = self._seen()

    def _seen(self):
        found = {}
        for directory, subdirectories, files in os.walk(self.path):
            for name in (*subdirectories, *files):
                path = Path(directory) / name
                status = path.lstat()
                data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                # Not the time of its status, which the making of a second name changes.
                found[str(path)] = (status.st_ino, status.st_mode, status.st_uid, data)
        return found

    def is_intact(self):
        """Whether everything is as it was, and nothing more was made."""
        return self._seen() == self._before

    def keep(self, path):
        """Make a second name of a file, as a backup that consists of hard links has it, and watch its content."""
        os.link(path, self.path / path.name)
        self._before = self._seen()


KINDS = {
    "link to a file": lambda place, outside: place.symlink_to(outside / "victim"),
    "link to nowhere": lambda place, outside: place.symlink_to(outside / "nowhere"),
    "link to a directory": lambda place, outside: place.symlink_to(outside / "directory"),
    "link to itself": lambda place, outside: place.symlink_to(place.name),
    "second name of a file": lambda place, outside: os.link(outside / "victim", place),
    "fifo": lambda place, outside: os.mkfifo(place),
    "directory": lambda place, outside: place.mkdir(),
    "full directory": lambda place, outside: (place.mkdir(), (place / "inside").write_bytes(b"theirs")),
}

PLACES = ["a.pkl", "b.pkl", "d.pkl", META, JOURNAL, LOCK]


class Scene:
    """A chain of a small, a large, a small and a large result; who planted what; and what became of it."""

    def __init__(self, tmp_path, log):
        self.ckpt = tmp_path / "ckpt"
        self.outside = Outside(tmp_path / "outside")
        self.log = log
        self.dag = DAG.builder().add_edges(itertools.pairwise(NODES)).build()
        self.displaced = tmp_path / "displaced"
        self.place = None
        self.completed_before = []

    def plant(self, name, kind):
        """Put something in the place of a file, whether it is there or not."""
        self.completed_before = self.completed()
        self.place = self.ckpt / name
        self.ckpt.mkdir(exist_ok=True)
        if os.path.lexists(self.place):
            self.place.rename(self.displaced)
        KINDS[kind](self.place, self.outside.path)
        self.planted = self.place.lstat()

    def completed(self):
        found = read_ledger(Directory(self.ckpt))
        return [] if found is None else list(found.commits)

    def executor(self, **callbacks):
        return CheckpointExecutor(
            self.dag, self.ckpt, ExecutionCallbacks(**callbacks), pool="inline", durability="process"
        )

    def tasks(self, **others):
        def task_of(name, value):
            def task(*parents):
                log.note(name)
                assert list(parents) == expected
                return value

            expected = [] if name == "a" else [VALUES[NODES[NODES.index(name) - 1]]]
            return task

        log = self.log
        return {**{name: task_of(name, value) for name, value in VALUES.items()}, **others}

    def attempt(self, act):
        """Do something that must end with what was asked for or with an error of ours."""
        refusal = None
        try:
            result = act()
        except dagron.CheckpointError as error:
            refusal = error
        if refusal is not None:
            assert str(self.ckpt) in str(refusal)
            return None
        if result is not None:
            for name, node in result.node_results.items():
                if node.status is NodeStatus.COMPLETED:
                    try:
                        assert node.result == VALUES[name]
                    except dagron.ResultUnavailableError:
                        assert self.place.name in (f"{name}.pkl", JOURNAL)
                else:
                    assert isinstance(node.error, (dagron.CheckpointDamagedError, dagron.NodeSkippedError))
        return result

    def give_back(self):
        """Take away what was planted, and put back what had been there, unless it was replaced."""
        if not os.path.lexists(self.place) or self.place.lstat().st_ino == self.planted.st_ino:
            if stat.S_ISDIR(self.planted.st_mode):
                assert self.place.is_dir(), "a directory of somebody else is never removed"
                for inside in self.place.iterdir():
                    assert inside.read_bytes() == b"theirs"
                    inside.unlink()
                self.place.rmdir()
            else:
                self.place.unlink(missing_ok=True)
            if self.displaced.exists():
                self.displaced.rename(self.place)

    def everything_is_well(self):
        """Whether the victims are intact and a resume has every result and repeats nothing that was recorded."""
        assert self.outside.is_intact()
        self.give_back()
        before = self.log.counts()
        result = self.executor().resume(self.tasks())
        assert {name: result[name].result for name in NODES} == VALUES
        again = {name for name in NODES if self.log.count(name) > before.get(name, 0)}
        lost = {self.place.name.removesuffix(".pkl")}
        assert not again & set(self.completed_before) - lost
        found = {name: pickle.loads((self.ckpt / f"{name}.pkl").read_bytes()) for name in NODES}
        assert found == VALUES
        assert set(os.listdir(self.ckpt)) == {f"{name}.pkl" for name in NODES} | OUR_OWN
        assert self.outside.is_intact()


@pytest.fixture
def scene(tmp_path, log):
    return Scene(tmp_path, log)


def breaks(*_):
    raise ValueError("not yet")


planting: list = []


def plants_and_returns(*_):
    # Tasks travel as bytes, also to this thread; so what this one is to do here waits in a list of this module.
    planting.pop()()
    return VALUES["c"]


def in_every_place(way, ways):
    """Every kind in every place, in one of these ways each, so that every kind and every place meets all ways.

    The campaign has the full product.
    """
    cases = []
    for (i, name), (j, kind), (k, value) in itertools.product(enumerate(PLACES), enumerate(KINDS), enumerate(ways)):
        marks = () if (i + j + k) % len(ways) == 0 else pytest.mark.campaign
        cases.append(pytest.param(name, kind, value, marks=marks, id=f"{name}-{kind}-{value}"))
    return pytest.mark.parametrize(("name", "kind", way), cases)


class TestInTheirPlace:
    """One of our names is taken by something else."""

    @in_every_place("how", ["execute", "resume"])
    def test_before_there_is_a_checkpoint(self, scene, name, kind, how):
        scene.plant(name, kind)
        scene.attempt(lambda: getattr(scene.executor(), how)(scene.tasks()))
        scene.everything_is_well()

    @in_every_place("how", ["execute", "resume"])
    def test_before_a_further_run(self, scene, name, kind, how):
        scene.executor().execute(scene.tasks(c=breaks))
        scene.plant(name, kind)
        if how == "execute":
            scene.completed_before = []  # they are superseded
        scene.attempt(lambda: getattr(scene.executor(), how)(scene.tasks()))
        scene.everything_is_well()

    @in_every_place("by", ["task", "callback", "callback of a further run"])
    def test_in_the_middle_of_a_run(self, scene, name, kind, by):
        def plant(*_):
            if scene.place is None:
                scene.plant(name, kind)

        if by == "callback of a further run":
            # The files of the one before are there and are about to be written over.
            scene.executor().execute(scene.tasks())
            result = scene.attempt(lambda: scene.executor(on_start=plant).execute(scene.tasks()))
        elif by == "callback":
            result = scene.attempt(lambda: scene.executor(on_complete=plant).execute(scene.tasks()))
        else:
            planting.append(plant)
            result = scene.attempt(lambda: scene.executor().execute(scene.tasks(c=plants_and_returns)))
        assert scene.place is not None
        assert result is None or result["a"].status is NodeStatus.COMPLETED
        scene.everything_is_well()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", PLACES)
    def test_before_it_is_cleared(self, scene, name, kind):
        scene.executor().execute(scene.tasks())
        scene.plant(name, kind)
        cleared = []
        scene.attempt(lambda: cleared.append(scene.executor().clear_checkpoint()))
        if cleared and name != META:
            assert set(os.listdir(scene.ckpt)) <= {name}
            assert scene.executor().checkpoint_info() is None
        if cleared:
            scene.completed_before = []
            scene.displaced.unlink()
        scene.everything_is_well()


class TestSecondNames:
    """A backup that consists of hard links, such as `cp -al` and snapshot tools make, keeps its content."""

    @pytest.mark.parametrize("name", ["a.pkl", "b.pkl", META, JOURNAL, LOCK])
    @pytest.mark.parametrize("use", ["resume", "execute", "clear_checkpoint"])
    def test_of_every_file_stay_as_they_were(self, scene, name, use):
        scene.executor().execute(scene.tasks(c=breaks))
        scene.outside.keep(scene.ckpt / name)
        if use == "clear_checkpoint":
            scene.executor().clear_checkpoint()
            assert scene.outside.is_intact()
        tasks = {name: lambda *_, name=name: f"another {name}" for name in NODES}
        getattr(scene.executor(), "resume" if use == "clear_checkpoint" else use)(tasks)
        assert scene.outside.is_intact()

    def test_of_a_whole_checkpoint_are_a_checkpoint_of_their_own(self, scene, tmp_path):
        scene.executor().execute(scene.tasks(c=breaks))
        copy = tmp_path / "copy"
        copy.mkdir(mode=0o700)
        for name in os.listdir(scene.ckpt):
            os.link(scene.ckpt / name, copy / name)
        scene.executor().clear_checkpoint()
        scene.ckpt = copy
        result = scene.executor().resume(scene.tasks())
        assert {name: result[name].result for name in NODES} == VALUES
        assert scene.log.counts() == {"a": 1, "b": 1, "c": 1, "d": 1}


class TestTemporaryNames:
    """Somebody guessed, or waits for, the name of a temporary file."""

    NAME = "_dagron-0123456789abcdef.tmp"

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_stands_there_is_not_written_to(self, scene, monkeypatch, kind):
        scene.executor().execute(scene.tasks(c=breaks))
        monkeypatch.setattr(os, "urandom", lambda n: bytes.fromhex("0123456789abcdef")[:n].ljust(n, b"0"))
        scene.plant(self.NAME, kind)
        scene.completed_before = []  # they may be superseded
        assert scene.attempt(lambda: scene.executor().execute(scene.tasks())) is None
        scene.attempt(lambda: scene.executor().resume(scene.tasks()))
        assert scene.outside.is_intact()
        monkeypatch.undo()
        scene.give_back()
        assert scene.executor().resume(scene.tasks()).succeeded == 4
        assert scene.outside.is_intact()

    @pytest.mark.parametrize("kind", ["link to a file", "link to nowhere", "link to a directory", "full directory"])
    @pytest.mark.parametrize("use", ["execute", "resume", "clear_checkpoint"])
    def test_what_is_no_file_stays_when_left_over_ones_are_removed(self, scene, kind, use):
        scene.executor().execute(scene.tasks())
        scene.plant(self.NAME, kind)
        scene.attempt(every_use(scene)[use])
        assert scene.place.lstat() == scene.planted
        assert scene.outside.is_intact()

    @pytest.mark.parametrize("left", ["shorter", "longer", "the same size"])
    def test_one_that_is_not_what_was_recorded_does_not_replace_a_good_result(self, scene, left):
        # As a restored backup has it, or a copy that was made while a run went on.
        scene.executor().execute(scene.tasks())
        [temp_name] = [
            commit.temp_name for commit in read_ledger(Directory(scene.ckpt)).commits.values() if commit.name == "b"
        ]
        whole = (scene.ckpt / "b.pkl").read_bytes()
        data = {"shorter": whole[:5000], "longer": whole + b"x", "the same size": bytes(len(whole))}[left]
        (scene.ckpt / temp_name).write_bytes(data)
        result = scene.executor().resume(scene.tasks())
        assert result.restored == 4
        assert result["b"].result == LARGE


def every_use(scene):
    return {
        "execute": lambda: scene.executor().execute(scene.tasks()),
        "resume": lambda: scene.executor().resume(scene.tasks()),
        "clear_checkpoint": lambda: scene.executor().clear_checkpoint(),
    }


class TestBeside:
    """Files and directories of other people in our directory, also with names like ours."""

    FILES = (
        "x.pkl.bak",
        ".pkl",
        "theirs.pkl",
        "_journal.bak",
        "_meta.json~",
        "_lock.old",
        "_dagron-x",
        "x.tmp",
        "a",
        "A.pkl",
    )

    def plant(self, scene):
        ckpt = scene.ckpt
        for name in self.FILES:
            (ckpt / name).write_bytes(b"theirs")
        for name in ("sub", "_dagron-foo.tmp", "z.pkl", "_JOURNAL"):
            (ckpt / name).mkdir()
            (ckpt / name / "a.pkl").write_bytes(b"theirs")
        (ckpt / "empty.pkl").mkdir()
        (ckpt / "nowhere.pkl").symlink_to(scene.outside.path / "nowhere")
        (ckpt / "link.pkl").symlink_to(scene.outside.path / "victim")
        (ckpt / "_dagron-link.tmp").symlink_to(scene.outside.path / "victim")
        os.mkfifo(ckpt / "fifo.pkl")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(ckpt / "socket.pkl"))

    def seen(self, scene):
        found = {}
        for directory, subdirectories, files in os.walk(scene.ckpt):
            for name in (*subdirectories, *files):
                path = Path(directory) / name
                if path.parent != scene.ckpt or name not in self.ours:
                    status = path.lstat()
                    data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                    found[str(path)] = (status.st_ino, status.st_mode, status.st_mtime_ns, data)
        return found

    @property
    def ours(self):
        return OUR_OWN | {f"{name}.pkl" for name in NODES}

    def test_they_survive_every_use_and_are_all_that_is_left_in_the_end(self, scene):
        scene.executor().execute(scene.tasks(c=breaks))
        self.plant(scene)
        before = self.seen(scene)
        for how in ("resume", "execute", "resume"):
            assert getattr(scene.executor(), how)(scene.tasks()).ok
            assert self.seen(scene) == before
        scene.executor().clear_checkpoint()
        assert self.seen(scene) == before
        assert not self.ours & set(os.listdir(scene.ckpt))
        assert scene.outside.is_intact()

    def test_they_survive_a_fresh_run_of_other_nodes_that_removes_the_files_of_the_old_ones(self, scene):
        scene.executor().execute(scene.tasks())
        self.plant(scene)
        before = self.seen(scene)
        dag = DAG.builder().add_nodes(["other"]).build()
        CheckpointExecutor(dag, scene.ckpt, pool="inline", durability="process").execute({"other": lambda: 1})
        assert not self.ours - OUR_OWN & set(os.listdir(scene.ckpt))
        (scene.ckpt / "other.pkl").unlink()
        assert self.seen(scene) == before


class TestForeignResultFiles:
    """A `.pkl` that our journal never recorded is not ours, whatever node it is named after."""

    @pytest.mark.parametrize("value", [1, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("how", ["execute", "resume"])
    def test_one_where_a_node_will_write_is_refused_before_anything_runs(self, scene, how, value):
        old = DAG.builder().add_nodes(["a"]).build()
        CheckpointExecutor(old, scene.ckpt, pool="inline", durability="process").execute({"a": lambda: 1})
        (scene.ckpt / "x.pkl").write_bytes(b"theirs")
        dag = DAG.builder().add_nodes(["a", "x"]).build()
        executor = CheckpointExecutor(dag, scene.ckpt, pool="inline", durability="process")
        tasks = {"a": lambda: scene.log.note("a"), "x": lambda: value}
        with pytest.raises(dagron.ForeignFilesError, match=r"x\.pkl"):
            getattr(executor, how)(tasks)
        assert (scene.ckpt / "x.pkl").read_bytes() == b"theirs"
        assert executor.checkpoint_info().completed_nodes == ["a"]
        assert scene.log.counts() == {}
        (scene.ckpt / "x.pkl").unlink()
        assert getattr(executor, how)(tasks).succeeded == 2

    def test_one_that_was_put_there_after_a_node_had_failed_stays_when_the_checkpoint_is_cleared(self, scene):
        scene.executor().execute(scene.tasks(c=breaks))
        (scene.ckpt / "c.pkl").write_bytes(b"theirs")
        scene.executor().clear_checkpoint()
        assert os.listdir(scene.ckpt) == ["c.pkl"]
        assert (scene.ckpt / "c.pkl").read_bytes() == b"theirs"

    @pytest.mark.parametrize("use", ["execute", "resume", "clear_checkpoint"])
    def test_one_that_has_the_name_of_a_file_that_was_removed_long_ago_stays(self, scene, use):
        old = DAG.builder().add_nodes(["small", "large"]).build()
        values = {"small": lambda: 1, "large": lambda: LARGE}
        CheckpointExecutor(old, scene.ckpt, pool="inline", durability="process").execute(values)
        scene.executor().execute(scene.tasks())
        assert not (scene.ckpt / "small.pkl").exists()
        for name in ("small.pkl", "large.pkl"):
            (scene.ckpt / name).write_bytes(b"theirs")
        every_use(scene)[use]()
        for name in ("small.pkl", "large.pkl"):
            assert (scene.ckpt / name).read_bytes() == b"theirs"

    @pytest.mark.parametrize("what", ["a text", "a link", "a directory"])
    def test_what_stands_in_the_place_of_the_lock_is_told_as_what_it_is(self, scene, what):
        scene.executor().execute(scene.tasks())
        lock = scene.ckpt / LOCK
        lock.unlink()
        if what == "a text":
            lock.write_bytes(b"4711 on node7\nsince yesterday, and more than is shown")
        elif what == "a link":
            lock.symlink_to("elsewhere")
        else:
            lock.mkdir()
        said = "53 byte(s), beginning with b'4711 on node7" if what == "a text" else "is no regular file"
        for use in every_use(scene).values():
            with pytest.raises(dagron.CheckpointDirectoryError) as caught:
                use()
            assert said in str(caught.value)
            assert "move '_lock' away" in str(caught.value)
            assert ".pkl" not in str(caught.value)

    @pytest.mark.parametrize("name", [META, JOURNAL, LOCK])
    @pytest.mark.parametrize("use", ["execute", "resume", "clear_checkpoint"])
    def test_files_with_our_own_names_that_are_not_ours_stay(self, scene, name, use):
        scene.ckpt.mkdir()
        (scene.ckpt / name).write_bytes(b'{"mine": "since 1999"}')
        before = (scene.ckpt / name).lstat()
        scene.attempt(every_use(scene)[use])
        if use == "execute" and name == LOCK:
            scene.executor().clear_checkpoint()
        assert (scene.ckpt / name).lstat().st_ino == before.st_ino
        assert (scene.ckpt / name).read_bytes() == b'{"mine": "since 1999"}'


class TestTheJournalIsTakenAway:
    """Someone tidies up while a run goes on. It must not go on writing to a file that nobody will ever find."""

    @pytest.mark.parametrize("how", ["removed", "replaced by an older copy"])
    def test_the_run_ends_with_an_error_instead_of_a_success_that_is_recorded_nowhere(self, scene, how):
        scene.executor().execute(scene.tasks(c=breaks))
        journal = (scene.ckpt / JOURNAL).read_bytes()

        def take_away(*_):
            (scene.ckpt / JOURNAL).unlink(missing_ok=True)
            if how != "removed":
                (scene.ckpt / JOURNAL).write_bytes(journal)
                (scene.ckpt / JOURNAL).chmod(0o600)

        executor = scene.executor(on_start=lambda name: take_away() if name == "c" else None)
        with pytest.raises(dagron.CheckpointGoneError, match=rf"{JOURNAL}.*removed or replaced"):
            executor.resume(scene.tasks())

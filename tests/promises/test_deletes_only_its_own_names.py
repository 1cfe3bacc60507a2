"""Node names that want out of the directory, into our own files or onto each other's, in every use of a checkpoint.

`test_names` proves the function from names to file names; here the names travel: tasks, records, `_meta.json`, files,
errors, and everything around the directory is watched. What holds this up is `names._stem` (its escapes, the cut with
the digest, the mask of `FileNames.file_name`), and `surrogatepass` wherever `format` encodes and decodes a name.
"""

import itertools
import json
import os
import pickle
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dagron
from dagron import DAG, CheckpointExecutor, ExecutionCallbacks, NodeStatus
from dagron.checkpoint.blobs import INLINE_MAX_BYTES
from dagron.checkpoint.format.names import JOURNAL, LOCK, META, SUFFIX
from dagron.looking.status import checkpoint_status

OUR_OWN = {JOURNAL, LOCK, META}

# Two surrogates that stand together: other code would take them for one character.
PAIR = "\ud83d\ude00"

HOSTILE = [
    *("a/b", "a_b", "a\\b", "a:b", "..", ".", "...", "", "/", "//", "/etc/passwd", "../victim", "../../victim.pkl"),
    *("x" * 300, "X" * 300, "é" * 100, "x" * 100_000, "x" * 180, "X" * 180, "x" * 181),
    *("😀", "\ud83d", "\ude00", PAIR, "\0", "a\0b", "a\nb", "\r\n", "\x1b[31m", "\x7f", "\u202egnp.exe", "\ufeff"),
    *("é", "e\u0301", "Å", "\u212b", "A\u030a", "ﬁ", "fi", "K", "\u212a", "ß", "ẞ", "\u0131", "İ"),
    *("A", "a", "load", "Load", "LOAD", "lOAD"),
    *("_meta", "_meta.json", "_META.JSON", "_journal", "_Journal", "_lock", "_dagron-0123456789abcdef.tmp", "_dagron-"),
    *("_", "%", "%25", "%2f", "a%2fb", "%~", "%^1", "A%^1", "a%^0", "%2e", "%2e."),
    *("CON", "con", "nul.txt", "COM1", "aux ", "a.pkl", "A.PKL", "a.pkl.pkl", ".pkl", "a.", "a ", " a", "a. ", " "),
    *("~", "-rf", "--help", "*", "?", "$HOME", "`id`", "'", '"', "{0}", "%s", "\t", "..\\..\\victim", "C:\\victim"),
]


class World:
    """A checkpoint directory with other people's files around it, and later in it."""

    def __init__(self, path):
        self.path = Path(path)
        self.ckpt = self.path / "a" / "ckpt"
        self.ckpt.parent.mkdir(parents=True)
        names = (
            "victim",
            "victim.pkl",
            ".pkl",
            "%.pkl",
            "a.pkl",
            "passwd.pkl",
            "..pkl",
            JOURNAL,
            META,
            LOCK,
            "keep.tmp",
        )
        for directory in (self.path, self.ckpt.parent):
            for name in names:
                (directory / name).write_bytes(b"precious")
        self._around = self._seen_around()
        self.foreign = {}

    def _seen_around(self):
        found = {}
        for directory, subdirectories, files in os.walk(self.path):
            if directory == str(self.ckpt.parent):
                subdirectories[:] = [name for name in subdirectories if name != "ckpt"]
            for name in (*subdirectories, *files):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if name in subdirectories:
                    found[path] = status.st_ino
                else:
                    found[path] = (status.st_ino, status.st_mode, status.st_mtime_ns, Path(path).read_bytes())
        return found

    def nothing_around_changed(self):
        """Whether no file outside of the directory was made, changed or removed."""
        return self._seen_around() == self._around

    def plant(self):
        """Put files of other people into the checkpoint."""
        for name in ("theirs.pkl", "a.pkl.bak", ".pkl", "_journal~", "notes.txt", "_dagron-notes", "~lock.tmp"):
            if not (self.ckpt / name).exists():
                (self.ckpt / name).write_bytes(b"theirs")
                self.foreign[name] = os.lstat(self.ckpt / name)
        (self.ckpt / "_dagron-theirs.tmp").mkdir()
        (self.ckpt / "_dagron-theirs.tmp" / "inside").write_bytes(b"theirs")
        self.foreign["_dagron-theirs.tmp"] = os.lstat(self.ckpt / "_dagron-theirs.tmp")

    def foreign_is_intact(self):
        """Whether what was planted is there as it was."""
        return {name: os.lstat(self.ckpt / name) for name in self.foreign} == self.foreign

    def result_files(self):
        """What `pickle.load` finds in the files of results, by the name of the node that is in there."""
        found = {}
        names = set(os.listdir(self.ckpt)) - OUR_OWN - self.foreign.keys()
        assert len({name.casefold() for name in names}) == len(names), "files that are one where case does not count"
        for name in names:
            assert name.endswith(SUFFIX), name
            with open(self.ckpt / name, "rb") as file:
                value = pickle.load(file)
            assert value["name"] not in found
            found[value["name"]] = value
        return found


def value_of(name, generation, large, parents=()):
    return {"name": name, "generation": generation, "padding": bytes(20_000) if large else b"", "parents": [*parents]}


def task_of(name, generation, large):
    def task(*parents):
        padding = bytes(20_000) if large else b""
        return {
            "name": name,
            "generation": generation,
            "padding": padding,
            "parents": [parent["name"] for parent in parents],
        }

    return task


def breaks(*_):
    raise ValueError("on purpose")


class Life:
    """A chain of nodes, used in every way. Names and results are compared at every step."""

    def __init__(self, world, generation, names, large, **options):
        self.world, self.names = world, names
        builder = DAG.builder().add_nodes(names)
        self.dag = builder.add_edges(itertools.pairwise(names)).build()
        self.tasks = {name: task_of(name, generation, name in large) for name in names}
        self.values = {
            name: value_of(name, generation, name in large, names[i - 1 : i] if i else ())
            for i, name in enumerate(names)
        }
        self.started = []
        self.executor = CheckpointExecutor(
            self.dag,
            world.ckpt,
            ExecutionCallbacks(on_start=self.started.append),
            **{"pool": "inline", "durability": "process", **options},
        )

    def run(self, how, *, broken=()):
        """Run, and return the names of the nodes that were attempted."""
        self.started.clear()
        result = getattr(self.executor, how)({**self.tasks, **dict.fromkeys(broken, breaks)})
        completed = [name for name in self.names if name not in broken]
        assert list(result.node_results) == self.names
        assert {name: result[name].result for name in completed} == {name: self.values[name] for name in completed}
        for name in broken:
            assert result[name].status is NodeStatus.FAILED
            assert isinstance(result[name].error, ValueError)
        info = self.executor.checkpoint_info()
        assert (set(info.completed_nodes), set(info.failed_nodes)) == (set(completed), set(broken))
        assert info.total_nodes == len(self.names)
        assert self.world.result_files() == {name: self.values[name] for name in completed}
        meta = json.loads((self.world.ckpt / META).read_text(encoding="ascii"))
        # As JSON, in which two surrogates that stand together are one character.
        assert meta["completed_nodes"] == json.loads(json.dumps(info.completed_nodes))
        return self.started


def live(world, names, large):
    """Everything that can be done with a checkpoint, with these names."""
    first = Life(world, 1, names, large)
    assert first.run("execute", broken=names[-1:]) == names
    world.plant()
    assert first.run("resume") == names[-1:]
    assert first.run("resume") == []
    others = list(dict.fromkeys([*(name.swapcase() for name in names), *names[::2]]))
    second = Life(world, 2, others, large)
    assert second.run("execute") == others
    assert second.run("resume") == []
    second.executor.clear_checkpoint()
    assert second.executor.checkpoint_info() is None
    assert set(os.listdir(world.ckpt)) == world.foreign.keys(), "after clearing there is nothing but what is foreign"
    assert world.foreign_is_intact()
    assert world.nothing_around_changed()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "world")


decorated = st.builds(
    lambda name, change: change(name),
    st.sampled_from([name for name in HOSTILE if len(name) < 1000]),
    st.sampled_from(
        [
            str.swapcase,
            str.upper,
            str.lower,
            lambda name: name + SUFFIX,
            lambda name: name + "/",
            lambda name: "../" + name,
            lambda name: name + ".",
            lambda name: name + " ",
            lambda name: "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "surrogatepass")),
            lambda name: f"{name}%^1",
        ]
    ),
)
any_name = st.one_of(
    st.sampled_from(HOSTILE), decorated, st.text("aA%^~./\\ 0e2_\0", max_size=6), st.text(st.characters(), max_size=20)
)


class TestAnySetOfNames:
    @settings(deadline=None, max_examples=40)
    @given(st.lists(any_name, unique=True, min_size=1, max_size=6), st.integers(0, 63))
    @example(["A", "a", "a%^1", "A%^1", "a%^0", "%41"], 0b010101)
    @example(["", ".", "..", "/", "\0", "%"], 0b101010)
    @example([PAIR, "😀", "\ud83d", "\ude00"], 0b0011)
    def test_lives_its_life_in_the_directory_and_nowhere_else(self, names, which_are_large):
        large = {name for i, name in enumerate(names) if which_are_large >> i & 1}
        with tempfile.TemporaryDirectory() as directory:
            live(World(Path(directory) / "world"), names, large)


class TestAllHostileNamesTogether:
    @pytest.mark.parametrize("parity", [0, 1])
    def test_live_their_lives_in_one_directory(self, world, parity):
        live(world, HOSTILE, set(HOSTILE[parity::2]))

    def test_every_one_can_fail_and_is_told_of_by_its_name(self, world):
        life = Life(world, 1, HOSTILE, ())
        dag = DAG.builder().add_nodes(HOSTILE).add_edge("\0", "skipped\ud800").build()
        executor = CheckpointExecutor(dag, world.ckpt, pool="inline", durability="process")
        tasks = {**dict.fromkeys(HOSTILE, breaks), "skipped\ud800": lambda: 1}
        result = executor.execute(tasks)
        assert (result.failed, result.skipped) == (len(HOSTILE), 1)
        assert set(executor.checkpoint_info().failed_nodes) == set(HOSTILE)
        assert str(result["skipped\ud800"].error) == (
            r"node 'skipped\ud800' was skipped because '\x00' did not complete"
        )
        status = checkpoint_status(world.ckpt)
        assert {failed.name for failed in status.failed} == set(HOSTILE)
        told = json.loads(json.dumps(asdict(status)))
        assert [failed["name"] for failed in told["failed"]] == json.loads(
            json.dumps([failed.name for failed in status.failed])
        )
        assert set(os.listdir(world.ckpt)) == OUR_OWN
        assert life.run("resume") == HOSTILE
        assert world.nothing_around_changed()

    def test_results_that_are_lost_are_made_again_and_small_ones_come_from_the_journal(self, world, caplog):
        life = Life(world, 1, HOSTILE, set(HOSTILE[::2]))
        life.run("execute")
        large = {name for name, value in life.values.items() if len(pickle.dumps(value, 5)) > INLINE_MAX_BYTES}
        assert set(HOSTILE[::2]) <= large
        for name in os.listdir(world.ckpt):
            if name.endswith(SUFFIX):
                (world.ckpt / name).unlink()
        assert set(life.run("resume")) == large
        warned = [record.getMessage() for record in caplog.records]
        assert len(warned) == len(large)
        assert all(any(f"node {name!r} runs again" in text for text in warned) for name in large)
        assert world.nothing_around_changed()

    def test_without_its_journal_the_checkpoint_is_cleared_by_the_meta_file(self, world):
        # In its JSON a pair of surrogates is one character, and so the name of another file.
        names = [name for name in HOSTILE if name != PAIR]
        life = Life(world, 1, names, set(names[::2]))
        life.run("execute")
        world.plant()
        (world.ckpt / JOURNAL).unlink()
        life.executor.clear_checkpoint()
        assert set(os.listdir(world.ckpt)) == world.foreign.keys()
        assert world.foreign_is_intact()
        assert world.nothing_around_changed()

    def test_workers_take_them_give_them_and_hand_them_on_by_name(self, world):
        end = "the end\ud800/.."
        dag = DAG.builder().add_edges((name, end) for name in HOSTILE).build()

        def task_named(name, size):
            return lambda: (name, bytes(size))

        def collect(**parents):
            return {name: (given[0], len(given[1])) for name, given in parents.items()}

        sizes = {name: 20_000 * (i % 2) for i, name in enumerate(HOSTILE)}
        tasks = {name: task_named(name, size) for name, size in sizes.items()}
        executor = CheckpointExecutor(dag, world.ckpt, max_workers=2, durability="process")
        failed = executor.execute({**tasks, end: lambda: 1 / 0})
        assert (failed.succeeded, type(failed[end].error)) == (len(HOSTILE), ZeroDivisionError)
        result = executor.resume({**tasks, end: collect})
        assert (result.succeeded, result.restored) == (len(HOSTILE) + 1, len(HOSTILE))
        assert result[end].result == {name: (name, size) for name, size in sizes.items()}
        assert {name: result[name].result for name in HOSTILE} == {n: (n, bytes(size)) for n, size in sizes.items()}
        executor.clear_checkpoint()
        assert os.listdir(world.ckpt) == []
        assert world.nothing_around_changed()

    def test_a_worker_that_dies_names_the_node(self, world):
        names = ["../victim\n", "\ud800\0", "x" * 100_000]
        dag = DAG.builder().add_nodes(names).build()
        executor = CheckpointExecutor(dag, world.ckpt, max_workers=1, durability="process")
        result = executor.execute(dict.fromkeys(names, lambda: os._exit(3)))
        for name in names:
            assert isinstance(result[name].error, dagron.WorkerLostError)
            assert repr(name) in str(result[name].error)
        assert set(executor.checkpoint_info().failed_nodes) == set(names)

    def test_a_result_that_cannot_be_pickled_names_the_node(self, world):
        names = ["../victim\n", "\ud800\0", "x" * 100_000, "😀" * 40_000]
        dag = DAG.builder().add_nodes(names).build()
        executor = CheckpointExecutor(dag, world.ckpt, max_workers=1, durability="process")
        result = executor.execute(dict.fromkeys(names, lambda: (i for i in ())))
        for name in names:
            assert name[:1000] in str(result[name].error) or repr(name)[1:1000] in str(result[name].error)
            assert "generator" in str(result[name].error)
        assert set(executor.checkpoint_info().failed_nodes) == set(names)


class TestTheDirectoryItself:
    @pytest.mark.parametrize(
        "name", ["é", "e\u0301", "a b", " ", "-rf", "a\nb", "😀", "%2f", "*", "_journal", "x.pkl", "\udc80", "~"]
    )
    def test_may_have_any_name_that_the_file_system_takes(self, world, name, monkeypatch):
        world.ckpt.mkdir()
        monkeypatch.chdir(world.ckpt)
        dag = DAG.builder().add_edge("a", "b").build()
        executor = CheckpointExecutor(dag, name, pool="inline", durability="process")
        result = executor.execute({"a": lambda: 1, "b": lambda a: bytes(20_000)})
        assert result.succeeded == 2
        assert os.listdir(world.ckpt) == [name]
        assert executor.checkpoint_info().checkpoint_dir == name
        assert executor.resume({"a": lambda: 1, "b": lambda a: 1}).restored == 2
        executor.clear_checkpoint()
        assert os.listdir(world.ckpt / name) == []
        shutil.rmtree(world.ckpt)
        assert world.nothing_around_changed()

"""A checkpoint that is written in drawn steps, without a run around it."""

from hypothesis import strategies as st

from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.files.opened import TempFile
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.records import Failed, Output, Retried
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.opening import read_ledger, read_on
from dagron.checkpoint.writing.committing import PendingCommit
from dagron.checkpoint.writing.store import CheckpointStore

NAMES = ["a", "A", "b", "c/d", "e%2ff"]
STRUCTURES = [bytes([i]) * 32 for i in range(2)]

names = st.sampled_from(NAMES)
several = st.lists(names, min_size=1, max_size=3, unique=True)
small_values = st.binary(max_size=8)
operations = st.one_of(
    st.tuples(st.just("commit"), st.dictionaries(names, small_values, min_size=1, max_size=3), st.sets(names)),
    st.tuples(st.just("commit large"), names, small_values),
    st.tuples(st.just("commit, printed"), names, st.text(max_size=5)),
    st.tuples(st.just("fail"), several),
    st.tuples(st.just("retried"), names, st.integers(1, 3)),
    st.tuples(st.just("invalidate"), several, st.booleans()),
    st.tuples(st.just("drop"), several, st.booleans()),
    st.tuples(st.just("reconcile"), several, st.sampled_from(STRUCTURES)),
    st.tuples(st.just("note_processes"), st.dictionaries(st.integers(1, 99), st.floats(0, 9), max_size=2)),
    st.tuples(st.just("write_copies")),
    st.tuples(st.just("tend")),
    st.tuples(st.just("again"), st.booleans(), st.sampled_from(STRUCTURES), several),
    st.tuples(st.just("killed, again"), st.booleans(), st.sampled_from(STRUCTURES), several),
)


def pending(path, name, data, *, large=False, printed=None):
    temp_name = ""
    if large:
        temp = TempFile(path)
        temp.write(data)
        temp_name = temp.finish(durable=False)
    storage = Storage.FILE if large else Storage.INLINE
    commit = Commit(name, storage, 0, 1, len(data), Digests().of(data), bytes(16))
    return PendingCommit(commit, b"" if large else data, temp_name, printed)


class Life:
    """A checkpoint that is written; after each step its writer and a reader are compared."""

    def __init__(self, path):
        self.path = path
        self.store = None
        self.follower = None
        self.begin(fresh=True, structure=STRUCTURES[0], nodes=NAMES)

    def begin(self, *, fresh, structure, nodes):
        self.store = CheckpointStore(self.path, durability="process")
        self.store.open()
        self.store.begin(fresh=fresh, nodes=nodes, structure=structure)

    def do(self, what, *arguments):
        store = self.store
        match what:
            case "commit":
                values, doubtful = arguments
                store.commit([pending(self.path, name, data) for name, data in values.items()], doubtful)
            case "commit large":
                name, data = arguments
                store.commit([pending(self.path, name, data * 3000, large=True)])
            case "commit, printed":
                name, text = arguments
                store.commit([pending(self.path, name, b"x", printed=Output(text, "", len(text), 0))])
            case "fail":
                store.fail([Failed(name, message="m") for name in arguments[0]])
            case "retried":
                name, n = arguments
                store.note_retried([Retried(name, attempt=attempt) for attempt in range(1, n + 1)])
            case "invalidate":
                store.invalidate(arguments[0], "why", lost=arguments[1])
            case "drop":
                store.drop(arguments[0])
                if arguments[1]:
                    store.tend()
            case "reconcile":
                store.reconcile(arguments[0], [NAMES[0]], arguments[1])
            case "note_processes":
                store.note_processes(arguments[0], "namespace")
            case "write_copies" | "tend":
                getattr(store, what)()
            case "again" | "killed, again":
                if what == "again":
                    store.end(succeeded=1)
                store.close()
                fresh, structure, nodes = arguments
                self.begin(fresh=fresh, structure=structure, nodes=nodes)

    def check(self):
        written = self.store.ledger
        found = read_ledger(Directory(self.path))
        self.follower = found if self.follower is None else read_on(self.follower, Directory(self.path))
        for name, expected in vars(written).items():
            if name != "size":  # that of the file when it was read
                assert getattr(found, name) == expected, name
                assert getattr(self.follower, name) == expected, name
        assert list(found.commits) == list(written.commits)
        assert found.completed == written.completed

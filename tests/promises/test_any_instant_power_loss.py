"""Power is lost at every operation of a run: what was acknowledged is there, in order, and nothing is ever wrong.

Every run is recorded once; then, for a crash after each of its operations, the states that `power_loss` holds for legal
are made in a directory and opened. All tests here together try some 27,000 states; each prints its number. A thorough
search runs with `-m campaign`.

Each sync that a promise leans on has a test here that fails without it; the docstrings say which. Those behind the
records of a run's start and end only spare the next run work.
"""

import itertools
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from disk import stand_in
from power_loss import Disk, Effort, Killed, Recorder

import dagron
from dagron.checkpoint.files.opened import TempFile
from dagron.checkpoint.format.commits import Commit
from dagron.checkpoint.format.names import JOURNAL, META
from dagron.checkpoint.format.records import Failed
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.writing import hold, store
from dagron.checkpoint.writing.committing import PendingCommit
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.figures import Figures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the model knows the calls of Linux")

NODES = ("a", "b", "c", "d", "e", "x", "y", "big", "huge", "last")
STRUCTURE = bytes(range(16))
THEIRS = "theirs.txt"

SUITE = Effort(cuts=12, blocks=8, contents=10, entries=8, together=3)
AGAIN = Effort(cuts=4, blocks=4, contents=4, entries=3, together=2)
LEAST = Effort(cuts=2, blocks=2, contents=3, entries=2, together=1)
THOROUGH = Effort(cuts=2000, blocks=256, contents=2000, entries=256, together=400)


# --- what may be found -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What a checkpoint says: its commits in order, as names and bytes, its failed nodes, and those whose results were
    dropped."""

    commits: tuple = ()
    failed: frozenset = frozenset()
    dropped: frozenset = frozenset()

    def committed(self, name, value):
        known = self.without([name])
        return Known((*known.commits, (name, value)), self.failed - {name}, known.dropped)

    def without(self, names):
        left = tuple(commit for commit in self.commits if commit[0] not in names)
        return Known(left, self.failed, self.dropped.difference(names))

    def with_failed(self, name):
        known = self.without([name])
        return Known(known.commits, self.failed | {name}, known.dropped)

    def with_dropped(self, names):
        return Known(self.without(names).commits, self.failed, self.dropped.union(names))

    def pruned_to(self, nodes):
        gone = {name for name, _ in self.commits} - set(nodes)
        return Known(self.without(gone).commits, self.failed & set(nodes), self.dropped & set(nodes))


@dataclass(frozen=True)
class Legal:
    """What was known for sure, None if no checkpoint was, and the changes that were on their way, in order."""

    sure: Known | None
    changes: tuple = ()

    def after(self, kept):
        state = self.sure
        for change in kept:
            state = change(state)
        return state

    def check(self, found, announced):
        """A prefix of the changes is there, or, if that was announced as damage, any of them.

        All changes of one time are one append, and the nodes of one append do not depend on each other. Its blocks may
        become durable in any order: a record may be there whose predecessor is not, or is without its payload. Then the
        gap has to be seen and told.
        """
        n = len(self.changes)
        if found in [self.after(self.changes[:kept]) for kept in range(n + 1)]:
            return
        legal = [self.after([c for i, c in enumerate(self.changes) if bits >> i & 1]) for bits in range(2**n)]
        assert announced, f"neither what was acknowledged nor a prefix of what was on its way: {shown(found)}"
        assert found is not None
        said = [(state.commits, state.dropped) for state in legal if state]
        assert (found.commits, found.dropped) in said, f"not what was written: {shown(found)}"


def shown(found):
    return found and (
        [(name, len(value)) for name, value in found.commits],
        sorted(found.failed),
        sorted(found.dropped),
    )


# --- a run -----------------------------------------------------------------------------------------------------------


class NoLock:
    """The kernel's locks end with the machine; taking one for every state would only cost time."""

    def __init__(self, path, **_):
        pass

    def acquire(self):
        return True

    def mark(self):
        pass

    def release(self):
        pass


_numbers = itertools.count()


@contextmanager
def machine(boot, recorder=None):
    """What happens inside happens after the start `boot` of the machine, and is recorded if there is a recorder."""

    def discard(self, real=TempFile.discard):
        if recorder is not None and recorder.dead:
            self._close()  # the dead delete nothing
        else:
            real(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "boot_id", lambda: f"start {boot}")
        # What the length of a record depends on, so that the same search goes the same way.
        patched.setattr(store.time, "time", lambda: 1_000_000.25)
        patched.setattr(store.os, "getpid", lambda: 4242)
        patched.setattr(os, "urandom", lambda n: next(_numbers).to_bytes(n))
        patched.setattr(hold, "DirectoryLock", NoLock)
        if recorder is not None:
            stand_in(patched, recorder)
            patched.setattr(TempFile, "discard", discard)
        yield


class Life:
    """Runs on one directory, step by step, with what may be found if power is lost in each step."""

    def __init__(self, recorder, path, sure=None, *, durability="power"):
        self.recorder, self.path, self.durability = recorder, path, durability
        self.sure = sure
        self.marks = [(0, Legal(sure))]
        self.history = [sure]
        self.since = 0
        self.store = None

    def _step(self, act, *changes):
        at = len(self.recorder.log)
        self.marks.append((at, Legal(self.sure, changes)))
        for change in changes:
            self.sure = change(self.sure)
            self.history.append(self.sure)
        try:
            act()
        except Killed:
            self.close()
            raise
        self.marks.append((len(self.recorder.log), Legal(self.sure)))

    def legal_after(self, n_operations):
        return [legal for at, legal in self.marks if at <= n_operations][-1]

    def open(self):
        self.store = CheckpointStore(self.path, durability=self.durability)
        self.store.open()

    def begin(self, *, fresh=False):
        def act():
            self.open()
            self.store.begin(fresh=fresh, nodes=NODES, structure=STRUCTURE)

        self._step(act, *[lambda _: Known()] if fresh or self.sure is None else [])

    def take_over(self, legal):
        """Begin after a kill, in which no operation was lost. What is found is from then on acknowledged."""
        self.since = len(self.recorder.log)
        self.marks.append((self.since, legal))
        self.open()
        found, announced = what_is_found(self.store)
        legal.check(found, announced)
        self.sure = found or Known()
        self.marks.append((len(self.recorder.log), Legal(self.sure)))

    def commit(self, *, drops=(), **values):
        """Commit a group: those of upper-case names in files of their own, written before by a worker.

        With `drops`, the results of these nodes are dropped with it.
        """
        pending = []

        def work():
            for name, value in values.items():
                pending.append(self._pending(name.lower(), value, is_large=name.isupper()))

        self._step(work)
        changes = [partial(Known.committed, name=name.lower(), value=value) for name, value in values.items()]
        if drops:
            self.store.drop(drops)
            changes.append(partial(Known.with_dropped, names=drops))
        self._step(lambda: self.store.commit(pending), *changes)

    def _pending(self, name, value, *, is_large):
        storage = Storage.FILE if is_large else Storage.INLINE
        digest = self.store.digests.of(value)
        commit = Commit(name, storage, 0, 1, len(value), digest, bytes(16), Figures(1.0, 0.5, 0.25, 0.0, 4096))
        if not is_large:
            return PendingCommit(commit, value, "")
        temp = TempFile(self.path)
        try:
            for start in range(0, len(value), 3000):
                temp.write(value[start : start + 3000])
            return PendingCommit(commit, b"", temp.finish(durable=self.durability == "power"))
        except Killed:
            temp.discard()
            raise

    def fail(self, *names):
        changes = [partial(Known.with_failed, name=name) for name in names]
        self._step(lambda: self.store.fail([Failed(name, message="x" * 300) for name in names]), *changes)

    def invalidate(self, *names):
        self._step(lambda: self.store.invalidate(names, "changed"), lambda known: known.without(names))

    def drop(self, *names):
        self.store.drop(names)
        self._step(lambda: self.store.tend(), partial(Known.with_dropped, names=names))

    def write_copies(self):
        self._step(lambda: self.store.write_copies())

    def end(self):
        self._step(lambda: self.store.end())
        self.close()

    def clear(self):
        def act():
            self.open()
            self.store.clear()

        self._step(act, lambda _: None)
        self.close()

    def prune(self, *nodes):
        def act():
            self.open()
            self.store.prune(nodes, even_all=True)

        self._step(act, lambda known: known.pruned_to(nodes))
        self.close()

    def close(self):
        if self.store is not None:
            self.store.close()
            self.store = None


def what_is_found(opened, *, promised=True):
    """Begin to resume; return what there is, None if there is no checkpoint, and whether damage was told.

    Unless every result is `promised` to be there, one that cannot be read is one that is not found.
    """
    was_there = opened.ledger is not None and not opened.ledger.cleared
    damaged = was_there and bool(opened.ledger.damage)
    commits = opened.begin(fresh=False, nodes=NODES, structure=STRUCTURE)
    if not was_there:
        return None, False
    found = []
    unreadable = False
    for name in commits:
        try:
            found.append((name, bytes(opened.load(name))))
        except dagron.CheckpointDamagedError as error:
            if promised:
                raise
            check_named(error, opened.directory.path / f"{name}.pkl")
            unreadable = True
    known = Known(tuple(found), frozenset(opened.ledger.failures), frozenset(opened.ledger.dropped))
    return known, damaged or unreadable or bool(opened.ledger.lost)


def check_named(error, path):
    assert str(path) in str(error)


def data(size, seed):
    return random.Random(seed).randbytes(size)


# Of the same size, so that only a look at the bytes tells the old from the new.
OLD, NEW = data(700, 1), data(700, 2)
OLD_BIG, NEW_BIG = data(5000, 3), data(5000, 4)


def groups_of_small_results(life):
    life.begin()
    life.commit(a=OLD, b=data(300, 5), c=data(1500, 6))
    life.write_copies()
    life.commit(x=b"", y=data(60, 7))
    life.end()


def large_results(life):
    life.begin()
    life.commit(BIG=OLD_BIG, a=OLD)
    life.commit(HUGE=data(9000, 8))
    life.commit(b=data(90, 9))
    life.end()


def failures_and_invalidations(life):
    life.begin()
    life.commit(a=OLD, BIG=OLD_BIG)
    life.write_copies()
    life.fail("x", "c")
    life.commit(x=data(90, 10))
    life.fail("b", "a")
    life.invalidate("big", "x")
    life.commit(a=NEW)
    life.write_copies()
    life.commit(BIG=NEW_BIG, x=data(90, 11))
    life.end()


def results_that_are_not_kept(life):
    life.begin()
    life.commit(a=OLD, BIG=OLD_BIG)
    life.write_copies()
    life.commit(drops=("a", "big"), b=data(90, 30))
    life.commit(BIG=NEW_BIG)
    life.commit(HUGE=data(4200, 31), c=data(60, 32))
    life.drop("big", "c")
    life.end()


def an_older_checkpoint(life):
    life.begin()
    life.commit(a=OLD, BIG=OLD_BIG)
    life.commit(y=data(200, 12), HUGE=data(4200, 13))
    life.fail("b")
    life.end()


def a_fresh_execute(life):
    life.begin(fresh=True)
    life.commit(a=NEW)
    life.write_copies()
    life.commit(BIG=NEW_BIG)
    life.end()


def a_resume_that_makes_lost_results_again(life):
    life.begin()
    life.commit(BIG=OLD_BIG)
    life.commit(b=data(70, 14), c=data(40, 15))
    life.end()


def a_fresh_execute_after_an_interrupted_run(life):
    life.begin()
    life.commit(a=OLD, b=data(300, 5), BIG=OLD_BIG)
    life.write_copies()
    life.close()
    life.since = len(life.recorder.log)
    a_fresh_execute(life)


def clearing(life):
    life.clear()


def clearing_and_starting_again(life):
    life.clear()
    life.begin()
    life.commit(a=NEW)
    life.end()


def pruning_and_going_on(life):
    life.prune("a", "big", "c")
    life.begin()
    life.commit(c=data(650, 20))
    life.end()


def pruning_what_a_kill_has_left(life):
    life.begin()
    life.commit(a=OLD, b=data(300, 5), BIG=OLD_BIG)
    life.fail("x", "c")
    life.commit(HUGE=data(4200, 13))
    life.close()
    life.since = len(life.recorder.log)
    life.prune("a", "big", "x")


# --- losing power in it ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, "dagron.checkpoint")  # thousands of warnings that are as they should be


@pytest.fixture
def root():
    """Two directories for checkpoints, in memory where there is one: these tests write some hundred thousand files."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dagron-test-", dir=memory) as path:
        (Path(path) / "lived").mkdir()
        (Path(path) / "left").mkdir()
        yield Path(path)


class Left:
    """A directory that takes one state after another."""

    def __init__(self, path):
        self.path = path

    def make(self, state):
        path = str(self.path)
        if state is None:
            shutil.rmtree(path, ignore_errors=True)
            return
        try:
            for name in os.listdir(path):
                os.unlink(f"{path}/{name}")
        except FileNotFoundError:
            os.mkdir(path, 0o700)
        for name, content in state.items():
            descriptor = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, content)
            os.close(descriptor)

    def state(self):
        return {name: (self.path / name).read_bytes() for name in os.listdir(self.path)}


def lived(root, *lives, before=None, sure=None):
    """Live all of it without a loss of power; return the life, its log to be lost at any place.

    `before` is a state that is durable when life begins.
    """
    path = root / "lived" / "new" / "ckpt"
    if before is not None:
        path.parent.mkdir()
        Left(path).make(before)
    recorder = Recorder(root / "lived")
    life = Life(recorder, path, sure)
    with machine(0, recorder):
        for one in lives:
            one(life)
    return life


def older(root):
    """The files of `an_older_checkpoint`, with one of somebody else; and what it says."""
    path = root / "left" / "older"
    path.mkdir()
    (path / THEIRS).write_bytes(b"theirs")
    with machine(0):
        life = Life(Recorder(path), path)
        an_older_checkpoint(life)
    state = Left(path).state()
    shutil.rmtree(path)
    return state, life.sure


def recover(path, legal, *, to_the_end):
    """Open what was left and check it; return what was found. Nothing may be refused. Called on a `machine`."""
    theirs = (path / THEIRS).exists()
    made = CheckpointStore(path, durability="power")
    try:
        made.open()
        found, announced = what_is_found(made)
        legal.check(found, announced)
        if to_the_end:
            made.end()
    finally:
        made.close()
    if to_the_end:
        results = {f"{name}.pkl": value for name, value in found.commits} if found else {}
        there = Left(path).state()
        ours = {JOURNAL, META} | ({THEIRS} if theirs else set())
        assert there.keys() == results.keys() | ours, f"in the directory: {sorted(there)}"
        assert {name: there[name] for name in results} == results, "the files of results"
        assert not theirs or there[THEIRS] == b"theirs"
    return found


def crashes(life, effort, seed=0):
    """Every state that a loss of power may leave: the number of operations before it, what is legal, and the state."""
    disk = Disk(life.recorder.root, seed)
    seen = set()
    recorder = life.recorder
    for n, operation in enumerate([*recorder.log, None]):
        if n >= max(life.since, recorder.n_before):
            legal = life.legal_after(n)
            for state in disk.states(str(life.path), effort):
                key = (id(legal), None if state is None else frozenset(state.items()))
                if key not in seen:
                    seen.add(key)
                    yield n, legal, state
        if operation is not None:
            disk.apply(operation)


def when(life, n, state):
    done = " ".join(str(x) for x in life.recorder.log[n - 1] if not isinstance(x, bytes)) if n else "nothing"
    left = state and {name: len(content) for name, content in sorted(state.items())}
    return f"power was lost after operation {n} ({done}); left: {left}"


def explore(life, left, effort, *, boot=1, seed=0, one_in=1, all_before=0):
    """Check the states, or the first and each of so many after every operation; return how many these were.

    Before the operation `all_before` none is left out.
    """
    n_states = 0
    n_after = Counter()
    with machine(boot):
        for n, legal, state in crashes(life, effort, seed):
            n_after[n] += 1
            if n >= all_before and n_after[n] % one_in != 1 % one_in:
                continue
            n_states += 1
            left.make(state)
            try:
                recover(left.path, legal, to_the_end=n_states % 3 == 0)
                if n_states % 17 == 0 and state is not None:
                    left.make(state)
                    start_again(left, clear=n_states % 2 == 0)
            except Exception as error:
                raise AssertionError(when(life, n, state)) from error
    return n_states


def start_again(left, *, clear):
    """What was left can be cleared, and superseded by a new `execute`; either way nothing of it stays."""
    made = CheckpointStore(left.path, durability="power")
    try:
        made.open()
        if clear:
            made.clear()
        else:
            made.begin(fresh=True, nodes=NODES, structure=STRUCTURE)
            made.end()
    finally:
        made.close()
    there = left.state()
    assert there.pop(THEIRS, b"theirs") == b"theirs"
    assert there.keys() == (set() if clear else {JOURNAL, META})


def run_over_an_older(root, run, lost=()):
    before, sure = older(root)
    for name in lost:
        del before[f"{name}.pkl"]
    return lived(root, run, before=before, sure=sure.without(lost))


# Each with the least number of states that the default search finds.
RUNS = {
    "a group of small results": (lambda root: lived(root, groups_of_small_results), 1900),
    "large results": (lambda root: lived(root, large_results), 1300),
    "failures and invalidations": (lambda root: lived(root, failures_and_invalidations), 2550),
    "results that are not kept": (lambda root: lived(root, results_that_are_not_kept), 1600),
    "execute over an older one": (lambda root: run_over_an_older(root, a_fresh_execute), 1300),
    "execute after an interrupted run": (lambda root: lived(root, a_fresh_execute_after_an_interrupted_run), 2650),
    "resume with a lost result": (
        lambda root: run_over_an_older(root, a_resume_that_makes_lost_results_again, lost=["big"]),
        1050,
    ),
    "pruning": (lambda root: run_over_an_older(root, pruning_and_going_on), 770),
    "pruning what a kill has left": (lambda root: lived(root, pruning_what_a_kill_has_left), 290),
    "clearing": (lambda root: run_over_an_older(root, clearing), 22),
    "clearing and starting again": (lambda root: run_over_an_older(root, clearing_and_starting_again), 560),
}


@pytest.fixture(params=RUNS)
def run(request, root):
    make, least = RUNS[request.param]
    return make(root), least


@pytest.fixture
def left(root):
    return Left(root / "left" / "ckpt")


@pytest.fixture
def count(record_property):
    def check(n, least):
        record_property("states", n)
        print(f"{n} states")
        assert n >= least, "the search is thinner than it was"

    return check


class TestLosingPower:
    """Relies on every sync in `commit`, `replace`, `TempFile.finish`, `Directory.create` and `clear`, and on a recovery
    that cuts off a torn tail and compares digests."""

    def test_what_was_acknowledged_is_there_in_order_and_right(self, run, left, count):
        life, least = run
        count(explore(life, left, SUITE), least)

    @pytest.mark.campaign
    @pytest.mark.timeout(7200)
    @pytest.mark.parametrize("seed", range(3))
    def test_the_same_in_a_thorough_search(self, run, left, count, seed):
        life, least = run
        count(explore(life, left, THOROUGH, seed=seed), least)


class TestLosingPowerWhileADamagedCheckpointIsCleared:
    """Its files are known from `_meta.json` only. Relies on a sync of the directory between them and it in `clear`."""

    def test_clearing_it_again_leaves_nothing_of_it(self, root, left):
        before, _ = older(root)
        before[JOURNAL] = before[JOURNAL][:20] + b"?" + before[JOURNAL][21:]

        def clear(life):
            life.store = CheckpointStore(life.path, durability="power")
            life.store.open(accept_damage=True)
            life.store.clear()
            life.close()

        life = lived(root, clear, before=before)
        n = 0
        for at, _, state in crashes(life, SUITE):
            n += 1
            left.make(state)
            if JOURNAL in state or META in state:
                with machine(1):
                    clear(Life(None, left.path))
            assert left.state() == {THEIRS: b"theirs"}, when(life, at, state)
        assert n >= 14


# --- losing it again -------------------------------------------------------------------------------------------------


def going_on(life):
    life.begin()
    life.commit(d=data(650, 20), e=data(20, 21))
    life.commit(LAST=data(4500, 22))
    life.end()


def explore_twice(first, root, left, n_first, effort, *, one_in=1):
    """Lose power in the recovery of some of the states of a life; return their number and that of what they led to."""
    again = Left(root / "again" / "ckpt")
    again.path.parent.mkdir()
    n_states = 0
    states = list(crashes(first, SUITE, seed=1))
    chosen = range(0, len(states), max(1, len(states) // n_first))
    for i in chosen:
        n, legal, state = states[i]
        left.make(state)
        with machine(1):
            found = recover(left.path, legal, to_the_end=False)
        again.make(state)
        second = Life(Recorder(again.path.parent), again.path, found)
        with machine(1, second.recorder):
            going_on(second)
        try:
            n_states += explore(second, left, effort, boot=2, seed=i, one_in=one_in)
        except AssertionError as error:
            raise AssertionError(f"at first, {when(first, n, state)}") from error
    return len(chosen), n_states


class TestLosingPowerAgainDuringRecovery:
    def test_what_was_acknowledged_before_and_since_is_there(self, run, root, left, count):
        n_first, n_states = explore_twice(run[0], root, left, 4, AGAIN, one_in=4)
        count(n_states, 50 * n_first)

    @pytest.mark.campaign
    @pytest.mark.timeout(7200)
    def test_the_same_in_a_thorough_search(self, run, root, left, count):
        n_first, n_states = explore_twice(run[0], root, left, 300, AGAIN)
        count(n_states, 100 * n_first)


# --- a kill, and a loss of power in the next run ---------------------------------------------------------------------


def short(life):
    life.begin()
    life.commit(a=OLD, b=data(300, 5))
    life.commit(BIG=OLD_BIG)
    life.fail("x")
    life.end()


def deaths(root, before, sure, run):
    """Every way in which a run can be killed: its life, with what it did not sync, and what may be found."""

    def live(name, die_at=None, *, half=False):
        path = root / name / "ckpt"
        path.parent.mkdir()
        if before is not None:
            Left(path).make(before)
        recorder = Recorder(path.parent, die_at, half=half)
        life = Life(recorder, path, sure)
        with machine(0, recorder):
            try:
                run(life)
            except Killed:
                life.close()
        return life

    whole = live("whole").recorder
    for die_at in range(whole.n_before, len(whole.log)):
        for half in (False, True) if whole.log[die_at][0] == "write" else (False,):
            life = live(f"{die_at}-{half}", die_at, half=half)
            assert life.recorder.dead
            yield life, life.marks[-1][1]
            shutil.rmtree(life.path.parent)


class TestLosingPowerAfterAKill:
    """What a run finds may not be durable, because the one before was killed between a change and its sync.

    Relies on the syncs of the journal and of the directory in `_begin_again`, and of what is above in `create`.
    """

    @pytest.mark.parametrize("over", ["nothing", "an older one"])
    def test_what_the_next_run_found_or_committed_is_there(self, root, left, count, over):
        before, sure = older(root) if over == "an older one" else (None, None)
        n_deaths = n_states = 0
        for killed, legal in deaths(root, before, sure, short if before is None else a_fresh_execute):
            n_deaths += 1
            killed.recorder.revive()
            life = Life(killed.recorder, killed.path, durability="power")
            with machine(0, life.recorder):
                life.take_over(legal)
                taken_over = len(life.recorder.log)
                life.commit(d=data(650, 20), e=data(20, 21))  # small ones, which need no sync of the directory
                life.end()
            n_states += explore(life, left, LEAST, one_in=20, all_before=taken_over)
        assert n_deaths >= 35
        count(n_states, 30 * n_deaths)

    def test_what_a_run_without_syncs_left_is_synced_by_one_with_them(self, root, left, count):
        life = lived(root, lambda life: setattr(life, "durability", "process"), short, before={})
        life.durability = "power"
        with machine(0, life.recorder):
            life.take_over(Legal(life.sure))
            life.since = len(life.recorder.log)
            life.commit(d=data(650, 20))
            life.end()
        n = 0
        for at, legal, state in crashes(life, SUITE):
            n += 1
            left.make(state)
            try:
                with machine(1):
                    made = CheckpointStore(left.path, durability="power")
                    made.open()
                    found, announced = what_is_found(made, promised=False)
                    made.close()
                if "big" not in dict(found.commits):
                    # Its bytes were never synced, so nobody promised it.
                    assert announced
                    legal = Legal(legal.sure.without(["big"]), legal.changes)
                legal.check(found, announced)
            except Exception as error:
                raise AssertionError(when(life, at, state)) from error
        count(n, 300)

    def test_a_recovery_that_is_killed_leaves_nothing_unchecked(self, root, left):
        """After a loss of power every byte is looked at once, and a kill in that run must not make the next one, on the
        same start of the machine, believe that it was. Relies on RUN_STARTED being written last in `_begin_again`."""
        life = lived(root, lambda life: setattr(life, "durability", "process"), interrupted)
        state = Left(life.path).state()
        # What a disk may keep of a run without syncs: sizes, and no bytes.
        state["big.pkl"], state["a.pkl"] = bytes(len(state["big.pkl"])), bytes(len(state["a.pkl"]))

        def resume(life):
            with machine(1, life.recorder):
                life.begin()
                life.end()

        n = 0
        for killed, _ in deaths(root, state, life.sure.without(["big"]), resume):
            n += 1
            left.make(Left(killed.path).state())
            with machine(1):
                recover(left.path, Legal(life.sure.without(["big"])), to_the_end=True)
        assert n > 20


def interrupted(life):
    life.begin()
    life.commit(a=OLD, b=data(300, 5))
    life.commit(BIG=OLD_BIG)
    life.write_copies()
    life.close()


# --- without syncs ---------------------------------------------------------------------------------------------------


class TestLosingPowerWithoutSyncs:
    """With `durability="process"` it may cost anything, and yet gives no wrong value and no strange error."""

    @pytest.mark.parametrize("run", [groups_of_small_results, failures_and_invalidations, a_fresh_execute])
    def test_it_opens_or_is_refused_and_what_it_has_was_committed_so(self, root, left, count, run):
        before, sure = older(root)
        path = root / "lived" / "ckpt"
        Left(path).make(before)
        life = Life(Recorder(path.parent), path, sure, durability="process")
        with machine(0, life.recorder):
            run(life)
        committed = {commit for state in life.history if state for commit in state.commits}
        refused = n = 0
        for at, _, state in crashes(life, AGAIN):
            n += 1
            left.make(state)
            try:
                refused += not self._opens(left.path, committed, life.history)
            except Exception as error:
                raise AssertionError(when(life, at, state)) from error
        assert refused < n / 2
        count(n, 500)

    def _opens(self, path, committed, history):
        with machine(1):
            made = CheckpointStore(path, durability="process")
            try:
                made.open()
                found, announced = what_is_found(made, promised=False)
            except dagron.CheckpointError as error:
                check_named(error, path)
                return False
            finally:
                made.close()
        assert found is None or set(found.commits) <= committed
        assert announced or found in history or found is None, f"no state that ever was: {shown(found)}"
        return True


# --- the model itself ------------------------------------------------------------------------------------------------


class Checked(Recorder):
    """Compares, after every operation, what the model holds for written with what is in the directory."""

    def __init__(self, root):
        self.disk = Disk(str(root))
        super().__init__(root)

    def _note(self, *operation):
        super()._note(*operation)
        self.disk.apply(operation)
        path = Path(self.root) / "ckpt"
        if path.is_dir():
            assert self.disk.latest(str(path)) == Left(path).state(), operation


ALL = Effort(cuts=100, blocks=100, contents=1000, entries=100, together=10_000)


def states_after(*operations):
    """All states of the directory /r/c, which held a durable file `f` with `old`."""
    disk = Disk("/r")
    first = [("mkdir", "/r", "c"), ("sync_directory", "/r")]
    first += [("create", "/r/c", "f", 1), ("write", 1, 0, b"old"), ("sync", 1), ("sync_directory", "/r/c")]
    for operation in [*first, *operations]:
        disk.apply(operation)
    return list(disk.states("/r/c", ALL))


class TestTheModel:
    def test_with_everything_durable_it_is_what_is_there(self, root):
        recorder = Checked(root / "lived")
        life = Life(recorder, root / "lived" / "ckpt")
        with machine(0, recorder):
            failures_and_invalidations(life)
            a_fresh_execute(life)
            clearing_and_starting_again(life)
        assert len(recorder.log) > 100

    def test_an_operation_that_it_does_not_know_is_an_error(self, root):
        with pytest.raises(AssertionError, match="truncate"):
            Recorder(root).truncate("file", 0)

    def test_what_was_synced_is_there_for_sure(self):
        assert states_after() == [{"f": b"old"}]
        written = [("write", 1, 3, b"new"), ("create", "/r/c", "g", 2)]
        assert states_after(*written, ("sync", 1), ("sync_directory", "/r/c")) == [{"f": b"oldnew", "g": b""}]

    def test_bytes_that_were_not_synced_may_be_absent_torn_or_only_counted(self):
        found = {state["f"] for state in states_after(("write", 1, 3, b"new"))}
        assert found == {b"old", b"oldn", b"oldne", b"oldnew", b"old\0\0\0", b"oldold"}

    def test_blocks_may_become_durable_in_any_order(self):
        [a, b, c] = [letter * 512 for letter in (b"a", b"b", b"c")]
        found = {state["f"] for state in states_after(("write", 1, 0, a + b + c))}
        assert found >= {a + bytes(512) + c, b"old" + bytes(509) + b + c, b"old" + bytes(1021) + c, a + b, b"old"}

    def test_of_two_writes_the_later_may_be_durable_alone_in_another_file(self):
        found = states_after(("write", 1, 3, b"1"), ("create", "/r/c", "g", 2), ("write", 2, 0, b"2"))
        assert {"f": b"old", "g": b"2"} in found
        assert {"f": b"old1"} in found

    def test_a_truncation_may_be_undone_and_what_was_written_after_it_not(self):
        found = {state["f"] for state in states_after(("truncate", 1, 1), ("write", 1, 1, b"X"))}
        assert found >= {b"old", b"o", b"oX", b"oXd"}

    def test_entries_may_become_durable_in_any_order_and_without_their_bytes(self):
        found = states_after(
            ("create", "/r/c", "t", 2),
            ("write", 2, 0, b"xyz"),
            ("rename", "/r/c", "t", "g"),
            ("unlink", "/r/c", "f"),
        )
        names = {frozenset(state) for state in found}
        assert names == {frozenset(one) for one in ([], ["f"], ["t"], ["g"], ["f", "t"], ["f", "g"])}
        assert {state["g"] for state in found if "g" in state} == {b"", b"x", b"xy", b"xyz", bytes(3)}

    def test_a_synced_file_may_be_without_its_entry_and_an_entry_without_its_bytes(self):
        made = [("create", "/r/c", "g", 2), ("write", 2, 0, b"x")]
        assert {"f": b"old"} in states_after(*made, ("sync", 2))
        assert {"f": b"old", "g": b""} in states_after(*made, ("sync_directory", "/r/c"))

    def test_a_directory_whose_name_was_not_synced_may_be_gone_with_all_that_is_in_it(self):
        disk = Disk("/r")
        for operation in [("mkdir", "/r", "c"), ("create", "/r/c", "f", 1), ("sync", 1), ("sync_directory", "/r/c")]:
            disk.apply(operation)
        assert list(disk.states("/r/c", ALL)) == [None, {"f": b""}]
        disk.apply(("sync_directory", "/r"))
        assert list(disk.states("/r/c", ALL)) == [{"f": b""}]

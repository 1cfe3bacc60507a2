"""A real checkpoint, damaged in every file at every place: right values, or an error that names the file."""

import json
import os
import pickle
import random
import tempfile
from pathlib import Path

import pytest

import dagron
from dagron import DAG, CheckpointExecutor, NodeStatus
from dagron.checkpoint import blobs
from dagron.checkpoint.blobs import BlobFile, VerifiedFiles, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import HEADER_SIZE, Damage, Record, decode_header, scan
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.records import Kind
from dagron.checkpoint.reading.damaged import files_of_damaged
from dagron.checkpoint.reading.opening import read_ledger
from dagron.crossing.results import dump_result
from dagron.errors import CheckpointDamagedError

# --- a checkpoint and what becomes of it ---------------------------------------------------------------------------

PAIR = DAG.builder().add_edge("src", "a").build()
DIAMOND = DAG.builder().add_edges([("src", "a"), ("src", "b"), ("a", "big"), ("b", "big"), ("big", "end")]).build()
LONE = DAG.builder().add_edges(DIAMOND.edges).add_node("lone").build()


def src():
    return 7


def a(src):
    return {"a": src + 1}


def b(src):
    return [src] * 30


def big(a, b):
    return bytes(range(256)) * 80 + bytes([a["a"], *b])


def end(big):
    return (len(big), big[-3:])


def lone():
    return "nobody's child"


def fails(big):
    raise OSError("not yet")


TASKS = {"src": src, "a": a, "b": b, "big": big, "end": end, "lone": lone}
BIG = bytes(range(256)) * 80 + bytes([8, *[7] * 30])
VALUES = {"src": 7, "a": {"a": 8}, "b": [7] * 30, "big": BIG, "end": (len(BIG), BIG[-3:]), "lone": "nobody's child"}


class Checkpoint:
    """A checkpoint that can be made again as it was, and what a run on it may come to."""

    def __init__(self, path, dag, tasks, values):
        self.path, self.dag, self.tasks, self.values = path, dag, tasks, values
        self.files = {name: (path / name).read_bytes() for name in sorted(os.listdir(path)) if name != LOCK}

    def restore(self, **changed):
        """Write every file as it was, except those of `changed`: name -> bytes, or None for no such file."""
        wanted = {name: data for name, data in {**self.files, **changed}.items() if data is not None}
        for name in set(os.listdir(self.path)) - wanted.keys():
            (self.path / name).unlink()
        for name, data in wanted.items():
            (self.path / name).write_bytes(data)

    def executor(self):
        return CheckpointExecutor(self.dag, self.path, pool="inline", durability="process", retry_delay=0.0)

    def records(self):
        journal = self.files[JOURNAL]
        header = decode_header(journal, Digests())
        items = scan(lambda offset, n: journal[offset : offset + n], len(journal), header.checkpoint_id, Digests())
        return [item for item in items if isinstance(item, Record)]

    def resume(self, names):
        """Resume, and check that what comes of it is right or an error that names one of the files in `names`.

        Returns:
            The result, or None if the run was refused; and the nodes that have no value now.
        """
        executor = self.executor()
        try:
            executor.checkpoint_info()
        except dagron.DagronError as error:
            self.check_named(error, names)
        try:
            result = executor.resume(self.tasks)
        except dagron.DagronError as error:
            self.check_named(error, names)
            return None, set(self.values)
        missing = set()
        for name, node in result.node_results.items():
            if node.status is NodeStatus.COMPLETED:
                try:
                    value = node.result
                except dagron.ResultUnavailableError as error:
                    self.check_named(error, names)
                    missing.add(name)
                else:
                    assert value == self.values[name], f"a wrong value of {name!r}"
            elif node.status is NodeStatus.SKIPPED:
                missing.add(name)
            else:
                assert isinstance(node.error, dagron.CheckpointDamagedError), repr(node.error)
                self.check_named(node.error, names)
                missing.add(name)
        return result, missing

    def check_named(self, error, names):
        if isinstance(error, (dagron.FormatVersionError, dagron.ForeignFilesError)):
            assert str(self.path) in str(error)
        else:
            assert any(str(self.path / name) in str(error) for name in names), str(error)

    def start_again(self):
        """What is left to do after a refusal."""
        executor = self.executor()
        executor.clear_checkpoint()
        result = executor.execute(self.tasks)
        assert {name: node.result for name, node in result.node_results.items()} == self.values


@pytest.fixture(scope="module")
def directory():
    """A place for checkpoints; in memory where there is one, because these tests write thousands of small files."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dagron-test-", dir=memory) as path:
        yield Path(path)


def make(path, dag, tasks, values, *, first=None):
    executor = CheckpointExecutor(dag, path, pool="inline", durability="process", retry_delay=0.0)
    executor.execute(first or tasks)
    return Checkpoint(path, dag, tasks, values)


@pytest.fixture(scope="module")
def complete(directory):
    """Every node completed."""
    return make(directory / "complete", LONE, TASKS, VALUES)


@pytest.fixture(scope="module")
def small(directory):
    """A parent and its child: so few bytes that each of them can be tried."""
    names = PAIR.nodes
    return make(
        directory / "small", PAIR, {name: TASKS[name] for name in names}, {name: VALUES[name] for name in names}
    )


@pytest.fixture(scope="module")
def unfinished(directory):
    """The child of the large result failed, so that a resume reads that result."""
    return make(directory / "unfinished", LONE, TASKS, VALUES, first={**TASKS, "end": fails})


@pytest.fixture(params=["complete", "unfinished"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def spread(n, most):
    """At most so many numbers below `n`, the first and the last among them; the same ones every time."""
    if n <= most:
        return list(range(n))
    step = (n - 1) / (most - 1)
    return sorted({round(i * step) for i in range(most)})


def test_the_undamaged_ones_are_what_these_tests_take_them_for(complete, unfinished):
    complete.restore()
    result, missing = complete.resume([])
    assert (result.restored, missing) == (6, set())
    unfinished.restore()
    result, missing = unfinished.resume([])
    assert (result.restored, missing) == (5, set())
    for one, nodes in ((complete, set(TASKS)), (unfinished, set(TASKS) - {"end"})):
        assert set(one.files) == {JOURNAL, META} | {f"{name}.pkl" for name in nodes}
        assert len(one.files["big.pkl"]) > 16 * 1024
    kinds = [Kind.RUN_STARTED, Kind.DAG_RECORDED, *[Kind.COMMITTED] * 6, Kind.COPIES_WRITTEN, Kind.RUN_ENDED]
    assert [r.kind for r in complete.records()] == kinds


# --- cut ---------------------------------------------------------------------------------------------------------


class TestCut:
    @pytest.mark.parametrize(
        ("of", "most"),
        [
            ("small", None),
            ("complete", 150),
            ("unfinished", 150),
            pytest.param("complete", None, marks=pytest.mark.campaign),
            pytest.param("unfinished", None, marks=pytest.mark.campaign),
        ],
    )
    def test_the_journal_at_any_length_costs_what_was_behind_the_cut(self, request, of, most):
        checkpoint = request.getfixturevalue(of)
        journal = checkpoint.files[JOURNAL]
        records = checkpoint.records()
        for length in spread(len(journal), most or len(journal)):
            checkpoint.restore(**{JOURNAL: journal[:length]})
            result, missing = checkpoint.resume([JOURNAL])
            if length < HEADER_SIZE:
                assert result is None
                continue
            whole = [r for r in records if r.payload_offset + r.payload_size <= length]
            assert missing == set(), f"cut at {length}"
            assert result.restored == sum(r.kind == Kind.COMMITTED for r in whole), f"cut at {length}"

    @pytest.mark.parametrize(
        ("of", "names"),
        [("small", ["src.pkl", "a.pkl"]), ("complete", ["lone.pkl", "end.pkl"]), ("unfinished", ["src.pkl", "b.pkl"])],
    )
    def test_a_file_of_a_small_result_at_any_length_costs_nothing_and_is_made_again(self, request, of, names):
        checkpoint = request.getfixturevalue(of)
        n_restored = sum(record.kind == Kind.COMMITTED for record in checkpoint.records())
        for name in names:
            data = checkpoint.files[name]
            for length in range(len(data)):
                checkpoint.restore(**{name: data[:length]})
                result, missing = checkpoint.resume([name])
                assert missing == set()
                assert result.restored == n_restored
                assert (checkpoint.path / name).read_bytes() == data

    def test_the_file_of_a_large_result_at_any_length_costs_that_node_and_is_warned_of(self, checkpoint, caplog):
        data = checkpoint.files["big.pkl"]
        for length in spread(len(data), 60):
            caplog.clear()
            checkpoint.restore(**{"big.pkl": data[:length]})
            result, missing = checkpoint.resume(["big.pkl"])
            assert missing == set()
            assert not result["big"].restored
            assert result.restored == len(checkpoint.files) - 3
            assert str(checkpoint.path / "big.pkl") in caplog.text
            assert (checkpoint.path / "big.pkl").read_bytes() == data

    def test_the_meta_file_at_any_length_costs_nothing(self, small):
        for length in range(len(small.files[META])):
            small.restore(**{META: small.files[META][:length]})
            result, missing = small.resume([META])
            assert (result.restored, missing) == (2, set())


# --- flipped bits --------------------------------------------------------------------------------------------------


class TestFlippedBits:
    def test_in_the_journal_they_cost_what_stood_there_and_are_warned_of(self, checkpoint, caplog):
        journal = checkpoint.files[JOURNAL]
        records = checkpoint.records()
        n_committed = sum(r.kind == Kind.COMMITTED for r in records)
        for i, bit in enumerate(spread(len(journal) * 8, 200)):
            caplog.clear()
            checkpoint.restore(**{JOURNAL: flipped(journal, bit)})
            result, missing = checkpoint.resume([JOURNAL])
            if bit < HEADER_SIZE * 8:
                assert result is None, f"bit {bit}"
                continue
            touched = max((r for r in records if r.offset <= bit // 8), key=lambda r: r.offset)
            assert missing == set(), f"bit {bit}"
            if touched.kind == Kind.COMMITTED and bit // 8 < touched.payload_offset:
                assert result.restored == n_committed - 1, f"bit {bit}"
            else:
                assert result.restored == n_committed, f"bit {bit}"
            if touched is not records[-1] and bit // 8 < touched.payload_offset:
                assert str(checkpoint.path / JOURNAL) in caplog.text
                assert f"offset {touched.offset} " in caplog.text
            if i % 5 == 0:
                result, missing = checkpoint.resume([JOURNAL])
                assert (result.restored, missing) == (6, set()), f"the next resume, bit {bit}"

    def test_any_bit_of_the_journal_is_seen_by_who_only_looks(self, small):
        journal, records, path = small.files[JOURNAL], small.records(), small.path / JOURNAL
        small.restore()
        whole = read_ledger(Directory(small.path))
        assert list(whole.commits) == ["src", "a"]
        for bit in range(len(journal) * 8):
            path.write_bytes(flipped(journal, bit))
            if bit < HEADER_SIZE * 8:
                with pytest.raises(dagron.CheckpointError) as raised:
                    read_ledger(Directory(small.path))
                small.check_named(raised.value, [JOURNAL])
                continue
            touched = max((r for r in records if r.offset <= bit // 8), key=lambda r: r.offset)
            view = read_ledger(Directory(small.path))
            if bit // 8 >= touched.payload_offset:
                # Seen by who reads the value.
                assert (view.commits, view.damage) == (whole.commits, []), f"bit {bit}"
                continue
            kept = {
                name: commit
                for name, commit in whole.commits.items()
                if commit.payload_offset != touched.payload_offset
            }
            assert view.commits == kept, f"bit {bit}"
            # The last record looks like one that was not written to its end.
            assert [damage.offset for damage in view.damage] == [touched.offset][: touched is not records[-1]], (
                f"bit {bit}"
            )

    def test_any_bit_of_a_small_result_is_right_from_the_other_place(self, small):
        journal = small.files[JOURNAL]
        damaged = [{name: flipped(small.files[name], bit)} for name in small.files if name.endswith(".pkl")
                   for bit in range(len(small.files[name]) * 8)]  # fmt: skip
        damaged += [{JOURNAL: flipped(journal, record.payload_offset * 8 + bit)} for record in small.records()
                    for bit in range(record.payload_size * 8)]  # fmt: skip
        assert len(damaged) == 2 * 8 * (5 + 21)
        for changed in damaged:
            small.restore(**changed)
            result, missing = small.resume(list(changed))
            assert (result.restored, missing) == (2, set())

    def test_in_the_header_everything_can_be_cleared_and_started_again(self, complete):
        for bit in spread(HEADER_SIZE * 8, 60):
            complete.restore(**{JOURNAL: flipped(complete.files[JOURNAL], bit)})
            result, _ = complete.resume([JOURNAL])
            assert result is None
            if 64 <= bit < 96 and (1).__xor__(1 << bit - 64) > 1:
                continue  # it looks like a newer version, which is not ours to delete
            complete.start_again()

    def test_in_files_of_small_results_they_never_reach_a_value(self, checkpoint):
        for name in ("src.pkl", "a.pkl", "b.pkl", "lone.pkl"):
            data = checkpoint.files[name]
            for bit in spread(len(data) * 8, 8):
                checkpoint.restore(**{name: flipped(data, bit)})
                result, missing = checkpoint.resume([name])
                assert missing == set()
                assert result.restored >= 5

    def test_in_the_file_of_a_large_result_that_nobody_reads_the_value_is_refused(self, complete):
        data = complete.files["big.pkl"]
        for bit in spread(len(data) * 8, 40):
            complete.restore(**{"big.pkl": flipped(data, bit)})
            _, missing = complete.resume(["big.pkl"])
            assert missing == {"big"}
            # The error names the file; without it, the node runs again.
            (complete.path / "big.pkl").unlink()
            result, missing = complete.resume(["big.pkl"])
            assert (result.restored, missing) == (5, set())

    def test_in_an_input_they_are_the_childs_error_and_the_next_resume_is_right(self, unfinished):
        data = unfinished.files["big.pkl"]
        for bit in spread(len(data) * 8, 40):
            unfinished.restore(**{"big.pkl": flipped(data, bit)})
            result, missing = unfinished.resume(["big.pkl"])
            assert isinstance(result["end"].error, dagron.CheckpointDamagedError)
            assert missing == {"end", "big"}
            result, missing = unfinished.resume([])
            assert missing == set(), f"bit {bit}"
            assert result.restored == 4
            assert (unfinished.path / "big.pkl").read_bytes() == data

    def test_in_the_meta_file_they_cost_nothing(self, small):
        data = small.files[META]
        small.restore(**{JOURNAL: None})
        for bit in range(len(data) * 8):
            # Who has no journal reads it, to know what to delete.
            (small.path / META).write_bytes(flipped(data, bit))
            files = files_of_damaged(Directory(small.path), None)
            assert all(os.path.basename(name) == name and name.endswith(".pkl") for name in files), f"bit {bit}"
        for bit in spread(len(data) * 8, 80):
            small.restore(**{META: flipped(data, bit)})
            result, missing = small.resume([META])
            assert (result.restored, missing) == (2, set())


# --- more than one thing at once -------------------------------------------------------------------------------------


class TestMore:
    def test_missing_files_one_or_two_of_them(self, checkpoint):
        names = list(checkpoint.files)
        for i, one in enumerate(names):
            for two in names[i:]:
                checkpoint.restore(**{one: None, two: None})
                result, missing = checkpoint.resume([one, two])
                if JOURNAL in (one, two):
                    assert result is None
                    if META not in (one, two):
                        checkpoint.start_again()
                else:
                    assert missing == set()

    def test_a_small_result_that_is_damaged_in_both_places_is_right_in_the_next_resume(self, checkpoint):
        for name in ("src", "b", "lone"):
            journal = bytearray(checkpoint.files[JOURNAL])
            journal[read_commit(checkpoint, name).payload_offset + 2] ^= 4
            for left in (None, b"", flipped(checkpoint.files[f"{name}.pkl"], 20)):
                checkpoint.restore(**{JOURNAL: bytes(journal), f"{name}.pkl": left})
                checkpoint.resume([f"{name}.pkl", JOURNAL])
                if left:
                    # It has its size: only who reads it finds out.
                    (checkpoint.path / f"{name}.pkl").unlink()
                checkpoint.resume([f"{name}.pkl", JOURNAL])
                result, missing = checkpoint.resume([f"{name}.pkl", JOURNAL])
                assert missing == set(), f"{name}.pkl {'missing' if left is None else left!r}"
                assert result.restored == 6

    def test_two_records_at_once(self, checkpoint):
        journal, records = checkpoint.files[JOURNAL], checkpoint.records()
        for i, first in enumerate(records):
            for second in records[i:]:
                damaged = flipped(journal, (first.offset + 41) * 8)
                damaged = damaged if first is second else flipped(damaged, (second.offset + 30) * 8)
                checkpoint.restore(**{JOURNAL: damaged})
                result, missing = checkpoint.resume([JOURNAL])
                lost = {r.offset for r in (first, second) if r.kind == Kind.COMMITTED}
                assert missing == set()
                assert result.restored == sum(r.kind == Kind.COMMITTED for r in records) - len(lost)

    def test_files_that_were_exchanged(self, checkpoint):
        for one in checkpoint.files:
            for two in checkpoint.files:
                if one < two:
                    checkpoint.restore(**{one: checkpoint.files[two], two: checkpoint.files[one]})
                    checkpoint.resume([one, two])

    @pytest.mark.parametrize("seed", [0, 1, *[pytest.param(seed, marks=pytest.mark.campaign) for seed in range(2, 20)]])
    def test_whatever_is_written_wherever(self, checkpoint, seed):
        chance = random.Random(seed)
        for _ in range(50):
            changed = {}
            for name in chance.sample(list(checkpoint.files), chance.choice([1, 1, 2, 3])):
                data = bytearray(checkpoint.files[name])
                for _ in range(chance.choice([1, 2, 5])):
                    at, n = chance.randrange(len(data)), chance.choice([1, 4, 40, 400])
                    data[at : at + n] = chance.choice([bytes(n), chance.randbytes(n), b"", b"\xb7DG\xc3" * (n // 4)])
                    data = data or bytearray(b"\0")
                changed[name] = bytes(data)
            checkpoint.restore(**changed)
            names = [*changed, "big.pkl"] if JOURNAL in changed else list(changed)
            checkpoint.resume(names)
            result, _ = checkpoint.resume(names)
            if result is None and META not in changed and changed[JOURNAL][8:12] == b"\1\0\0\0":
                checkpoint.start_again()


def read_commit(checkpoint, name):
    checkpoint.restore()
    return read_ledger(Directory(checkpoint.path)).commits[name]


# --- records that take something away --------------------------------------------------------------------------------

PQR = DAG.builder().add_edges([("p", "q"), ("q", "r")]).build()


def p_fails():
    raise OSError("not yet")


def p():
    return 42


def q_without_p():
    return "made without p"


def q():
    return "made with p"


def r(q):
    return f"r of {q}"


def r_interrupted(q):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted(directory):
    """`q` and `r` ran while `p` was failed; then `p` completed and `q` ran again, and `r` has not yet."""
    path = directory / "interrupted"
    executor = CheckpointExecutor(PQR, path, fail_fast=False, pool="inline", durability="process")
    executor.execute({"p": p_fails, "q": q_without_p, "r": r})
    with pytest.raises(KeyboardInterrupt):
        executor.resume({"p": p, "q": q, "r": r_interrupted})
    values = {"p": 42, "q": "made with p", "r": "r of made with p"}
    return Checkpoint(path, PQR, {"p": p, "q": q, "r": r}, values)


class TestDamagedInvalidations:
    """Without its record, a commit that was taken away must not come back: a child would keep what old inputs gave."""

    def test_the_journal_is_the_one_that_this_is_about(self, interrupted):
        kinds = [Kind(record.kind).name for record in interrupted.records()]
        assert [kind for kind in kinds if kind != "COPIES_WRITTEN"] == [
            "RUN_STARTED", "DAG_RECORDED", "FAILED", "COMMITTED", "COMMITTED", "RUN_ENDED",
            "RUN_STARTED", "COMMITTED", "INVALIDATED", "COMMITTED",
        ]  # fmt: skip
        [invalidated] = [record for record in interrupted.records() if record.kind == Kind.INVALIDATED]
        assert json.loads(invalidated.body)["names"] == ["r"]
        interrupted.restore()
        assert interrupted.resume([])[1] == set()

    def test_no_stale_child_comes_back_whichever_record_is_damaged(self, interrupted):
        journal = interrupted.files[JOURNAL]
        for record in interrupted.records():
            for bit in spread((record.payload_offset - record.offset) * 8, 8):
                interrupted.restore(**{JOURNAL: flipped(journal, record.offset * 8 + bit)})
                result, missing = interrupted.resume([JOURNAL])
                assert missing == set()
                assert result is not None

    def test_no_stale_child_comes_back_wherever_the_journal_is_cut(self, interrupted):
        journal = interrupted.files[JOURNAL]
        [ended] = [record for record in interrupted.records() if record.kind == Kind.RUN_ENDED]
        whole = ended.payload_offset
        for length in spread(len(journal), 100):
            if length >= HEADER_SIZE and length != whole:
                interrupted.restore(**{JOURNAL: journal[:length]})
                assert interrupted.resume([JOURNAL])[1] == set()
        # Cut exactly there, it looks whole, and a file that it does not know looks like somebody else's.
        interrupted.restore(**{JOURNAL: journal[:whole]})
        with pytest.raises(dagron.ForeignFilesError, match=r"\.pkl"):
            interrupted.executor().resume(interrupted.tasks)


# --- what is refused is refused before anything changes ---------------------------------------------------------------


def test_a_refused_resume_changes_nothing(complete):
    for bit in range(0, HEADER_SIZE * 8, 37):
        damaged = flipped(complete.files[JOURNAL], bit)
        complete.restore(**{JOURNAL: damaged})
        with pytest.raises(dagron.CheckpointError):
            complete.executor().resume(complete.tasks)
        found = {name: (complete.path / name).read_bytes() for name in os.listdir(complete.path)}
        assert found == {**complete.files, JOURNAL: damaged}


def test_damage_stays_visible_and_costs_its_node_only_once(complete, caplog):
    record = next(r for r in complete.records() if r.kind == Kind.COMMITTED)
    complete.restore(**{JOURNAL: flipped(complete.files[JOURNAL], record.offset * 8)})
    for restored in (5, 6, 6):
        caplog.clear()
        result, missing = complete.resume([JOURNAL])
        assert (result.restored, missing) == (restored, set())
    view = read_ledger(Directory(complete.path))
    assert view.damage == [Damage(record.offset, record.payload_offset + record.payload_size - record.offset)]


def test_a_checkpoint_of_which_only_the_results_are_left_is_not_touched(complete):
    complete.restore(**{JOURNAL: None, META: None})
    with pytest.raises(dagron.ForeignFilesError, match="6 "):
        complete.executor().resume(complete.tasks)
    left = {name: pickle.loads((complete.path / name).read_bytes()) for name in os.listdir(complete.path)}
    assert left == {f"{name}.pkl": value for name, value in VALUES.items()}


class TestVerifiedOnce:
    """Leans on `read_blob` and `VerifiedFiles.has` comparing the identity of the file."""

    PLAIN = Digests()
    DATA = bytes(range(256)) * 400

    def blob(self, directory):
        (directory / "a.pkl").write_bytes(self.DATA)
        return BlobFile("a.pkl", len(self.DATA), self.PLAIN.of(self.DATA))

    def test_a_file_that_was_compared_is_not_compared_again(self, tmp_path, monkeypatch):
        blob, verified = self.blob(tmp_path), VerifiedFiles()
        assert bytes(read_blob(tmp_path, blob, self.PLAIN, verified)) == self.DATA
        monkeypatch.setattr(Digests, "of", lambda *_: pytest.fail("it was compared again"))
        assert bytes(read_blob(tmp_path, blob, self.PLAIN, verified)) == self.DATA

    @pytest.mark.parametrize("how", ["in place", "replaced", "cut"])
    def test_one_that_was_changed_since_is(self, tmp_path, how):
        blob, verified = self.blob(tmp_path), VerifiedFiles()
        os.utime(tmp_path / "a.pkl", (1, 1))  # its times are coarse, and this test is quick
        read_blob(tmp_path, blob, self.PLAIN, verified)
        damaged = bytes([self.DATA[0] ^ 1]) + self.DATA[1 : -1 if how == "cut" else None]
        if how == "replaced":
            (tmp_path / "other").write_bytes(damaged)
            os.replace(tmp_path / "other", tmp_path / "a.pkl")
        else:
            (tmp_path / "a.pkl").write_bytes(damaged)
        with pytest.raises(CheckpointDamagedError):
            read_blob(tmp_path, blob, self.PLAIN, verified)

    def written(self, directory, digests):
        made = dump_result("node", self.DATA, directory, digests, durable=False)
        os.replace(directory / made.temp_name, directory / "a.pkl")  # as the coordinator does
        return BlobFile("a.pkl", made.size, made.digest, made.identity)

    def test_what_a_worker_of_this_run_wrote_is_not_compared_either(self, tmp_path, monkeypatch):
        blob = self.written(tmp_path, self.PLAIN)
        monkeypatch.setattr(Digests, "of", lambda *_: pytest.fail("it was compared"))
        assert pickle.loads(read_blob(tmp_path, blob, self.PLAIN)) == self.DATA

    @pytest.mark.parametrize("how", ["in place", "copied"])
    def test_once_it_is_another_file_or_written_to_it_is(self, tmp_path, how):
        blob = self.written(tmp_path, self.PLAIN)
        data = (tmp_path / "a.pkl").read_bytes()
        if how == "copied":
            (tmp_path / "other").write_bytes(data)
            os.utime(tmp_path / "other", ns=(blob.identity[-1],) * 2)
            os.replace(tmp_path / "other", tmp_path / "a.pkl")
            assert pickle.loads(read_blob(tmp_path, blob, self.PLAIN)) == self.DATA
        (tmp_path / "a.pkl").write_bytes(data[:-1] + b"!")
        os.utime(tmp_path / "a.pkl", ns=(blob.identity[-1] + 1,) * 2)  # its times are coarse, and this test is quick
        with pytest.raises(CheckpointDamagedError):
            read_blob(tmp_path, blob, self.PLAIN)

    def test_with_a_key_what_a_worker_wrote_is_compared_all_the_same(self, tmp_path):
        digests = Digests(b"key")
        blob = self.written(tmp_path, digests)
        assert pickle.loads(read_blob(tmp_path, blob, digests)) == self.DATA
        with pytest.raises(CheckpointDamagedError):
            read_blob(tmp_path, blob._replace(digest=bytes(32)), digests)

    def test_a_result_that_is_damaged_in_the_run_that_made_it_reaches_no_worker(self, tmp_path):
        def damage(name, _):
            if name == "a":
                path = tmp_path / "ckpt" / "a.pkl"
                data = bytearray(path.read_bytes())
                data[-100] ^= 1
                path.write_bytes(data)
                os.utime(path, (1, 1))

        children = [f"c{i}" for i in range(4)]
        tasks = {"a": lambda: self.DATA, **dict.fromkeys(children, lambda a: len(a))}
        callbacks = dagron.ExecutionCallbacks(on_complete=damage)
        dag = DAG(list(tasks), [("a", child) for child in children])
        executor = CheckpointExecutor(dag, tmp_path / "ckpt", callbacks, fail_fast=False, max_workers=2)
        result = executor.execute(tasks)
        assert {type(result[child].error) for child in children} == {CheckpointDamagedError}

    def test_a_result_that_was_made_again_is_read_as_it_is_now(self, tmp_path):
        dag = DAG(["a", "b"], [("a", "b")])
        for pool in ("inline", "process"):
            executor = CheckpointExecutor(dag, tmp_path / pool, pool=pool, max_workers=2)
            for i in range(3):
                tasks = {"a": lambda i=i: self.DATA * (i + 1), "b": lambda a: len(a)}
                assert executor.execute(tasks)["b"].result == len(self.DATA) * (i + 1)

    def test_with_a_key_it_is_compared_each_time(self, tmp_path):
        blob, verified = self.blob(tmp_path), VerifiedFiles()
        digests = Digests(b"key")
        keyed = blob._replace(digest=digests.of(self.DATA))
        read_blob(tmp_path, keyed, digests, verified)
        wrong = keyed._replace(digest=bytes(32))
        with pytest.raises(CheckpointDamagedError):
            read_blob(tmp_path, wrong, digests, verified)

    def test_what_is_remembered_is_bounded(self, tmp_path):
        verified = VerifiedFiles()
        for i in range(blobs._MAX_VERIFIED + 10):
            verified.add((i,), b"")
        assert len(verified._digests) == blobs._MAX_VERIFIED

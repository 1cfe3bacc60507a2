"""Damage that no disk makes: bytes of another checkpoint, sizes that nothing has, records that are valid and absurd.

Never a value of somebody else's under the name of a node, never more memory than the bytes are worth, and never an
error that is none of ours. Files in each other's place are in `test_damage`, links and FIFOs in `test_planted_files`.
"""

import json
import os
import platform
import shutil
import struct
import time
import tracemalloc

import pytest

import dagron
from dagron import DAG, CheckpointExecutor, NodeStatus
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.commits import encode_commit
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.journal import HEADER_SIZE, MARKER, RecordWriter, decode_header
from dagron.checkpoint.format.names import JOURNAL, LOCK, META
from dagron.checkpoint.format.records import Kind
from dagron.checkpoint.reading.boot import boot_id
from dagron.checkpoint.reading.opening import read_ledger
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.figures import Figures
from dagron.looking.status import checkpoint_status, shown_status

CHAIN = DAG.builder().add_edges([("small", "large"), ("large", "end")]).build()
MANY_BYTES = 2**26
MEMORY_BYTES = 2**24


def values_of(seed):
    """Of equal sizes whatever the seed, so that no size tells them apart."""
    return {"small": seed, "large": bytes([seed]) * 40_000, "end": f"end of {seed}"}


def run(path, seed, how="resume"):
    values = values_of(seed)
    tasks = {
        "small": lambda: values["small"],
        "large": lambda small: values["large"],
        "end": lambda large: values["end"],
    }
    return getattr(CheckpointExecutor(CHAIN, path, pool="inline", durability="process"), how)(tasks)


def shown(path):
    found = checkpoint_status(path)
    return None if found is None else shown_status(found, "utf-8", time.time())


def the_lock_is_asked(path):
    """What a second run does that is told who holds the directory."""
    holder = CheckpointStore(path, durability="process")
    other = CheckpointStore(path, durability="process")
    try:
        holder.open()
        with pytest.raises(dagron.CheckpointLockedError):
            other.open()
    finally:
        holder.close()
        other.close()


def executor(path):
    return CheckpointExecutor(CHAIN, path, pool="inline", durability="process")


USES = {
    "checkpoint_info": lambda path: executor(path).checkpoint_info(),
    "status": shown,
    "lock": the_lock_is_asked,
    "resume": lambda path: run(path, 1),
    "execute": lambda path: run(path, 1, "execute"),
    "clear_checkpoint": lambda path: executor(path).clear_checkpoint(),
}


@pytest.fixture
def ckpt(tmp_path):
    """A checkpoint that is complete."""
    run(tmp_path / "ckpt", 1, "execute")
    return tmp_path / "ckpt"


@pytest.fixture
def another(tmp_path):
    """One of the same nodes with other results."""
    run(tmp_path / "another", 2, "execute")
    return tmp_path / "another"


def found_in(result):
    """The values of a run; nodes that have none are left out."""
    found = {}
    for name, node in result.node_results.items():
        try:
            found[name] = node.result
        except dagron.ResultUnavailableError:
            pass
        except dagron.CheckpointDamagedError:
            assert node.status is not NodeStatus.COMPLETED
    return found


def used(use, ckpt):
    """What a use comes to, or None if it says that the journal is damaged; every other error comes through."""
    try:
        return USES[use](ckpt)
    except dagron.CheckpointDamagedError as error:
        if error.path != str(ckpt / JOURNAL):
            raise
    return None


# --- bytes of another checkpoint -------------------------------------------------------------------------------------


class TestAnotherCheckpoint:
    @pytest.mark.parametrize("name", ["small.pkl", "large.pkl", "end.pkl"])
    def test_a_file_of_its_node_of_the_same_name_gives_no_value(self, ckpt, another, name):
        shutil.copyfile(another / name, ckpt / name)
        found = found_in(run(ckpt, 1))
        assert found.items() <= values_of(1).items()
        assert values_of(1).keys() - found.keys() <= {"large"}

    @pytest.mark.parametrize("whole", [True, False], ids=["with its header", "its records"])
    def test_its_journal_behind_ours_is_a_torn_tail(self, ckpt, another, whole):
        theirs = (another / JOURNAL).read_bytes()
        with open(ckpt / JOURNAL, "ab") as file:
            file.write(theirs if whole else theirs[HEADER_SIZE:])
        result = run(ckpt, 1)
        assert result.restored == 3
        assert found_in(result) == values_of(1)

    @pytest.mark.parametrize("whole", [True, False], ids=["with its header", "its records"])
    def test_our_own_journal_a_second_time_is_a_torn_tail(self, ckpt, whole):
        ours = (ckpt / JOURNAL).read_bytes()
        with open(ckpt / JOURNAL, "ab") as file:
            file.write(ours if whole else ours[HEADER_SIZE:])
        assert read_ledger(Directory(ckpt)).damage == []
        result = run(ckpt, 1)
        assert result.restored == 3
        assert found_in(result) == values_of(1)

    def test_its_journal_in_the_place_of_ours_makes_it_that_checkpoint_without_our_large_results(self, ckpt, another):
        """The journal is the truth; what it does not know by its digest is nobody's result."""
        shutil.copyfile(another / JOURNAL, ckpt / JOURNAL)
        found = found_in(run(ckpt, 2))
        assert found.items() <= values_of(2).items()
        assert "large" not in found

    def test_its_meta_file_in_the_place_of_ours_changes_nothing(self, ckpt, another):
        shutil.copyfile(another / META, ckpt / META)
        result = run(ckpt, 1)
        assert result.restored == 3
        assert found_in(result) == values_of(1)


# --- sizes that nothing has ------------------------------------------------------------------------------------------


def claiming(body_size, payload_size):
    return struct.pack("<4sB3sIIQ", MARKER, Kind.COMMITTED, b"\0\0\0", body_size, payload_size, 99) + bytes(16)


def a_record_that_claims_more_than_there_is(ckpt):
    with open(ckpt / JOURNAL, "ab") as file:
        file.write(claiming(2**32 - 1, 2**32 - 1))


def a_record_that_claims_what_is_a_hole(ckpt):
    with open(ckpt / JOURNAL, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(claiming(MANY_BYTES, 0))
        file.truncate(file.tell() + MANY_BYTES)


def a_hole_behind_the_records(ckpt):
    os.truncate(ckpt / JOURNAL, MANY_BYTES)


def a_hole_between_records(ckpt):
    view = read_ledger(Directory(ckpt))
    os.truncate(ckpt / JOURNAL, MANY_BYTES)
    with open(ckpt / JOURNAL, "ab") as file:
        file.write(
            RecordWriter(view.checkpoint_id, Digests(), view.sequence).frame(Kind.COPIES_WRITTEN, b'{"at": 1.0}')
        )


def a_result_that_is_a_hole(ckpt):
    os.truncate(ckpt / "large.pkl", 2**36)


def a_small_result_that_is_a_hole(ckpt):
    os.truncate(ckpt / "small.pkl", 2**36)


def a_meta_file_that_is_a_hole(ckpt):
    os.truncate(ckpt / META, 2**36)


def a_meta_file_that_is_a_hole_and_no_journal(ckpt):
    a_meta_file_that_is_a_hole(ckpt)
    (ckpt / JOURNAL).unlink()


SIZES = [
    a_record_that_claims_more_than_there_is,
    a_record_that_claims_what_is_a_hole,
    a_hole_behind_the_records,
    a_hole_between_records,
    a_result_that_is_a_hole,
    a_small_result_that_is_a_hole,
    a_meta_file_that_is_a_hole,
    a_meta_file_that_is_a_hole_and_no_journal,
]


@pytest.mark.skipif(os.name != "posix", reason="files with holes")
@pytest.mark.parametrize("change", SIZES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("use", USES)
def test_a_size_takes_no_memory(ckpt, use, change):
    """Relies on `whole_at` in `scan`, on `_META_MAX_BYTES`, and on sizes being compared before anything is read."""
    change(ckpt)
    tracemalloc.start()
    try:
        result = used(use, ckpt)
        if isinstance(result, dagron.ExecutionResult):
            assert found_in(result) == values_of(1)
        assert use not in ("resume", "execute") or result or change is a_meta_file_that_is_a_hole_and_no_journal
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < MEMORY_BYTES


# --- a meta file that is something else ------------------------------------------------------------------------------

TEXTS = ["", "[]", "3", "null", '"x"', "{}", "NaN", "[" * 100_000, '{"a":' * 100_000, '{"completed_nodes": 3}']


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:20])
class TestMetaFiles:
    def test_of_any_content_cost_nothing(self, ckpt, text):
        (ckpt / META).write_text(text)
        result = run(ckpt, 1)
        assert result.restored == 3
        assert found_in(result) == values_of(1)

    def test_that_say_nothing_are_not_taken_for_a_checkpoint_that_may_be_deleted(self, ckpt, text):
        (ckpt / META).write_text(text)
        (ckpt / JOURNAL).unlink()
        before = {entry.name: entry.read_bytes() for entry in ckpt.iterdir() if entry.name != LOCK}
        for use in USES:
            with pytest.raises(dagron.CheckpointDamagedError) as caught:
                USES[use](ckpt)
            assert ("by hand" in str(caught.value)) == (use == "clear_checkpoint")
        assert {entry.name: entry.read_bytes() for entry in ckpt.iterdir() if entry.name != LOCK} == before


# --- records that are valid and absurd -------------------------------------------------------------------------------

RUN = {"at": 1.0, "fresh": False, "pid": 1, "host": "h", "boot": "b", "total": 3, "structure": "", "absent": []}

ABSURD = [
    *(
        (Kind.RUN_STARTED, {**RUN, "host": platform.node(), "boot": boot_id(), name: value})
        for name, value in [
            *(("pid", pid) for pid in ("x", "5", 2**70, 2**31, -1, None, 1.5)),
            *(("total", total) for total in ("x", -5, 10**30, None)),
            *(("at", at) for at in (1e300, -1e300, float("nan"), float("inf"), "x", None)),
            *(("host", host) for host in ([], None, 5)),
            ("boot", [1]),
            ("structure", 5),
            ("absent", 3),
            ("fresh", None),
        ]
    ),
    *((Kind.RUN_STARTED, {key: value for key, value in RUN.items() if key != name}) for name in RUN),
    (Kind.FAILED, {}),
    (Kind.FAILED, {"name": 3}),
    (Kind.FAILED, {"name": []}),
    (Kind.FAILED, {"name": "small", "attempts": "x"}),
    (Kind.FAILED, {"name": "small", "type": {}, "message": [], "traceback": 3}),
    (Kind.RETRIED, {"name": "small", "attempt": "x"}),
    (Kind.RETRIED, {"name": "nobody", "attempt": -(2**70), "message": "m"}),
    (Kind.RETRIED, {"name": "small", "attempt": 7, "figures": [1, 2]}),
    (Kind.INVALIDATED, {"names": 3, "lost": False}),
    (Kind.INVALIDATED, {"names": ["nobody"], "lost": True}),
    (Kind.WORKERS_STARTED, {"processes": [[2**70, 1.0], [-1, 1.0]], "namespace": ""}),
    (Kind.CLEARED, {"owns": ["../victim.pkl"]}),
    (Kind.CLEARED, {"owns": 5}),
    (Kind.RUN_ENDED, {"at": float("inf")}),
]


def append(ckpt, frame_of):
    view = read_ledger(Directory(ckpt))
    checkpoint_id = decode_header((ckpt / JOURNAL).read_bytes(), Digests()).checkpoint_id
    with open(ckpt / JOURNAL, "ab") as file:
        file.write(frame_of(RecordWriter(checkpoint_id, Digests(), view.sequence), view))


def check_every_use(ckpt, tmp_path):
    """Each does its work or says that the journal is damaged, and never anything else."""
    shutil.copytree(ckpt, tmp_path / "forged")
    for use in USES:
        shutil.rmtree(ckpt)
        shutil.copytree(tmp_path / "forged", ckpt)
        result = used(use, ckpt)
        if isinstance(result, dagron.ExecutionResult):
            assert found_in(result) == values_of(1)


@pytest.mark.parametrize(("kind", "fields"), ABSURD, ids=lambda value: str(value)[:60])
def test_a_record_with_absurd_fields_is_damage_or_does_no_harm(ckpt, tmp_path, kind, fields):
    """Relies on `Ledger.apply`, which looks at what others will use."""
    append(ckpt, lambda writer, _: writer.frame(kind, json.dumps(fields).encode()))
    check_every_use(ckpt, tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        *({"figures": Figures(1.0, seconds)} for seconds in (float("inf"), float("nan"), -1e300, 1e300)),
        *({"figures": Figures(seconds, 0.0)} for seconds in (float("inf"), float("nan"), -1e300, 1e300)),
        *({"size": size} for size in (0, 1, 2**63)),
        *({"storage": storage} for storage in (0, 7, 255)),
        *({"name": name} for name in ("", "../x", "_meta", "x" * 70_000)),
        {"since": 2**60},
        {"without": ("small", "nobody")},
        {"attempts": 2**31},
    ],
    ids=lambda changed: str(changed)[:60],
)
def test_a_commit_with_absurd_fields_is_damage_or_costs_its_node(ckpt, tmp_path, changed):
    append(
        ckpt,
        lambda writer, view: writer.frame(Kind.COMMITTED, encode_commit(view.commits["large"]._replace(**changed))),
    )
    check_every_use(ckpt, tmp_path)


def test_a_record_of_json_without_end_is_damage(ckpt, tmp_path):
    append(ckpt, lambda writer, _: writer.frame(Kind.FAILED, b'{"name":' + b"[" * 200_000))
    check_every_use(ckpt, tmp_path)

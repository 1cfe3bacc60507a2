"""The digest of results and records: BLAKE3, keyed with what is derived from the signing key.

The code relied on is `Digests`.
"""

import json
import pickle
import sys

import pytest
from blake3 import blake3

import dagron
from dagron import CheckpointExecutor
from dagron.checkpoint.blobs import INLINE_MAX_BYTES, BlobFile, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.storage import Storage
from dagron.checkpoint.reading.opening import read_ledger
from dagron.checkpoint.reading.verify import verify
from dagron.cli import app
from dagron.crossing.results import dump_result
from dagron.errors import CheckpointDamagedError
from dagron.testing.evidence import check_finished, look

KEY = b"0123456789abcdef" * 4  # as long as a key may be
LARGE = bytes(range(256)) * 400
VALUES = {"small": 42, "large": LARGE, "reads": len(LARGE)}

JOB = """
tasks = {"small": lambda: 42, "large": lambda: bytes(range(256)) * 400, "reads": lambda large: len(large)}
"""


@pytest.fixture(params=[None, b"k", KEY], ids=["unsigned", "signed with a byte", "signed"])
def key(request):
    return request.param


def run(ckpt, key=None, verb="resume", pool="inline", **tasks):
    dag = dagron.DAG(["small", "large", "reads"], [("large", "reads")])
    tasks = {"small": lambda: 42, "large": lambda: bytes(range(256)) * 400, "reads": lambda large: len(large), **tasks}
    executor = CheckpointExecutor(dag, ckpt, durability="process", pool=pool, max_workers=1, signing_key=key)
    return getattr(executor, verb)(tasks)


def view_of(ckpt, key=None):
    return read_ledger(Directory(ckpt), key)


def findings(ckpt, key=None):
    return [found for found in verify(Directory(ckpt), view_of(ckpt, key), key) if found is not None]


def expected(data, key):
    """From the specification: the context is a part of the format."""
    context = "dagron checkpoint 2026-11-29 signing key"
    return blake3(data, key=blake3(key, derive_key_context=context).digest() if key else None).digest()


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# --- one result ----------------------------------------------------------------------------------------------------


class TestOneResult:
    @pytest.mark.parametrize(
        "value",
        [
            42,
            "x" * 1_000,
            [LARGE[i:5_000] for i in range(3)],
            LARGE,
            [LARGE[i:9_000] for i in range(3)],
            [*range(50_000)],
        ],
    )
    def test_has_the_digest_of_its_bytes_wherever_they_are(self, tmp_path, value, key):
        made = dump_result("node", value, tmp_path, Digests(key), durable=False)
        data = (tmp_path / made.temp_name).read_bytes() if made.storage == Storage.FILE else made.data
        assert pickle.loads(data) == value
        assert made.digest == expected(data, key)

    @pytest.mark.parametrize("size", range(INLINE_MAX_BYTES - 40, INLINE_MAX_BYTES + 40, 8))
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_of_any_size_about_the_limit_has_the_digest_of_its_bytes(self, tmp_path, size, wrapped):
        made = dump_result("node", [bytes(size)] if wrapped else bytes(size), tmp_path, Digests(), durable=False)
        data = (tmp_path / made.temp_name).read_bytes() if made.storage else made.data
        assert made.digest == expected(data, None)

    def test_of_which_a_bit_is_flipped_is_refused(self, tmp_path, key):
        digests = Digests(key)
        made = dump_result("node", LARGE, tmp_path, digests, durable=False)
        blob = BlobFile(made.temp_name, made.size, made.digest)
        assert pickle.loads(read_blob(tmp_path, blob, digests)) == LARGE
        for other in (Digests(b"another"), Digests(None if key else b"key")):
            with pytest.raises(CheckpointDamagedError):
                read_blob(tmp_path, blob, other)
        for offset in (0, 5_000, made.size - 1):
            flip(tmp_path / made.temp_name, offset)
            with pytest.raises(CheckpointDamagedError):
                read_blob(tmp_path, blob, digests)
            flip(tmp_path / made.temp_name, offset)

    def test_shows_no_key_and_keeps_no_signing_key(self):
        assert repr(Digests(KEY)) == "Digests(...)"
        assert KEY[:16] not in pickle.dumps(Digests(KEY))
        assert pickle.loads(pickle.dumps(Digests(KEY))).of(b"x") == Digests(KEY).of(b"x")


# --- a checkpoint --------------------------------------------------------------------------------------------------


class TestACheckpoint:
    @pytest.mark.parametrize("pool", ["inline", "process"])
    @pytest.mark.parametrize("verb", ["execute", "resume"])
    def test_has_the_digest_of_each_result(self, ckpt, key, pool, verb):
        result = run(ckpt, key, verb, pool)
        assert {name: result[name].result for name in VALUES} == VALUES
        for name, commit in view_of(ckpt, key).commits.items():
            assert commit.digest == expected((ckpt / f"{name}.pkl").read_bytes(), key)
        assert findings(ckpt, key) == []

    @pytest.mark.parametrize("pool", ["inline", "process"])
    def test_with_a_flipped_bit_costs_the_node_and_is_never_taken(self, ckpt, key, pool):
        run(ckpt, key, reads=lambda large: 1 / 0)
        result = run(ckpt, key, reads=lambda large: 1 / 0)
        flip(ckpt / "large.pkl", 70_000)
        [found] = findings(ckpt, key)
        assert (found.node, found.costs) == ("large", True)
        with pytest.raises(dagron.ResultUnavailableError, match="digest"):
            _ = result["large"].result
        assert isinstance(run(ckpt, key, pool=pool)["reads"].error, CheckpointDamagedError)
        again = run(ckpt, key, pool=pool)
        assert {name: again[name].result for name in VALUES} == VALUES
        assert findings(ckpt, key) == []

    def test_that_was_renamed_too_late_is_recovered(self, ckpt, key):
        run(ckpt, key)
        commit = view_of(ckpt, key).commits["large"]
        (ckpt / "large.pkl").rename(ckpt / commit.temp_name)
        (ckpt / "large.pkl").write_bytes(b"an older one")
        assert findings(ckpt, key) == []
        assert run(ckpt, key).restored == 3
        assert pickle.loads((ckpt / "large.pkl").read_bytes()) == LARGE

    def test_is_whole_for_a_campaign(self, ckpt):
        run(ckpt)
        assert check_finished(ckpt, look(ckpt), {}, 3) == []
        flip(ckpt / "large.pkl", 70_000)
        [finding] = check_finished(ckpt, look(ckpt), {}, 3)
        assert "large" in finding.evidence


# --- from the command line -----------------------------------------------------------------------------------------


class TestCommands:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch, key):
        monkeypatch.setattr(sys, "path", sys.path[:])
        monkeypatch.setattr(sys, "argv", sys.argv[:])
        if key is not None:
            monkeypatch.setenv("DAGRON_SIGNING_KEY", key.decode())
        yield
        sys.modules.pop("__dagron_file__", None)

    def command(self, capsys, *arguments):
        with pytest.raises(SystemExit) as ended:
            app([*map(str, arguments)])
        assert ended.value.code == 0, capsys.readouterr().err
        told = capsys.readouterr()
        return told.out + told.err

    @pytest.mark.parametrize("name", ["small", "large"])
    def test_show_names_the_digest(self, ckpt, key, capsys, name):
        run(ckpt, key)
        kind, digest = "keyed blake3" if key else "blake3", view_of(ckpt, key).commits[name].digest.hex()
        assert f"{kind} {digest}" in self.command(capsys, "show", ckpt, name)
        details = json.loads(self.command(capsys, "show", ckpt, name, "--json"))
        assert (details["digest_algorithm"], details["digest"]) == (kind, digest)

    def test_verify_show_and_debug_read_it(self, ckpt, tmp_path, key, capsys):
        run(ckpt, key)
        (tmp_path / "job.py").write_text(JOB)
        self.command(capsys, "verify", ckpt)
        assert "42" in self.command(capsys, "show", ckpt, "small")
        assert "byte for byte" in self.command(capsys, "debug", ckpt, "large", tmp_path / "job.py")
        assert "byte for byte" in self.command(capsys, "debug", ckpt, "reads", tmp_path / "job.py")

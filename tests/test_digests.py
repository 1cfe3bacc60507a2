"""What digests a result, for checkpoints of either kind on machines of either kind.

The code relied on is `Digests`, `has_sha256`, which decides for a new checkpoint, and `CheckpointStore._begin_again`,
which keeps what the journal says.
"""

import hashlib
import hmac
import io
import json
import pickle
import struct
import sys

import pytest

import dagron
from dagron import CheckpointExecutor, processor
from dagron.checkpoint import commits
from dagron.checkpoint.blobs import INLINE_MAX_BYTES, BlobFile, read_blob
from dagron.checkpoint.files import Directory
from dagron.checkpoint.format import HEADER_SIZE
from dagron.checkpoint.names import JOURNAL, META
from dagron.checkpoint.storage import Digests, Storage
from dagron.checkpoint.verify import verify
from dagron.checkpoint.view import read_view
from dagron.cli import build_app
from dagron.crossing.results import dump_result
from dagron.errors import CheckpointDamagedError
from dagron.testing.evidence import check_finished, look

KEY = b"0123456789abcdef" * 4  # as long as a key may be
LARGE = bytes(range(256)) * 400
VALUES = {"small": 42, "large": LARGE, "reads": len(LARGE)}

JOB = """
tasks = {"small": lambda: 42, "large": lambda: bytes(range(256)) * 400, "reads": lambda large: len(large)}
"""


@pytest.fixture(params=[False, True], ids=["without", "with"])
def sha256(request, monkeypatch):
    """Make this a machine without the instructions, and one with them."""
    machine(monkeypatch, has=request.param)
    return request.param


@pytest.fixture(params=[None, KEY], ids=["unsigned", "signed"])
def key(request):
    return request.param


def machine(monkeypatch, *, has):
    monkeypatch.setattr(commits, "has_sha256", lambda: has)


def run(ckpt, key=None, verb="resume", pool="inline", **tasks):
    dag = dagron.DAG(["small", "large", "reads"], [("large", "reads")])
    tasks = {"small": lambda: 42, "large": lambda: bytes(range(256)) * 400, "reads": lambda large: len(large), **tasks}
    executor = CheckpointExecutor(dag, ckpt, durability="process", pool=pool, max_workers=1, signing_key=key)
    return getattr(executor, verb)(tasks)


def view_of(ckpt, key=None):
    return read_view(Directory(ckpt), key)


def findings(ckpt, key=None):
    return [found for found in verify(Directory(ckpt), view_of(ckpt, key), key) if found is not None]


def expected(data, key, *, sha256):
    if not sha256:
        return hashlib.blake2b(data, digest_size=32, key=key or b"").digest()
    return hmac.digest(key, data, "sha256") if key else hashlib.sha256(data).digest()


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def forge_header(ckpt, *, sha256, key=None):
    """Say that the digests are of the other kind, with a check that agrees for whoever has `key`."""
    journal = (ckpt / JOURNAL).read_bytes()
    head = b"dagronJ\n" + struct.pack("<II", 1 + sha256, 2 * sha256) + journal[16:32]
    check = hashlib.blake2b(head, digest_size=16, key=key or b"").digest()
    (ckpt / JOURNAL).write_bytes(head + check + journal[HEADER_SIZE:])


# --- what is chosen ------------------------------------------------------------------------------------------------


class TestTheChoice:
    @pytest.mark.parametrize(
        ("cpuinfo", "has"),
        [
            ("processor\t: 0\nflags\t\t: fpu sse4_2 sha_ni vaes\nbugs\t\t: spectre_v1\n", True),
            ("processor\t: 0\nflags\t\t: fpu sse4_2 vaes\nbugs\t\t: sha_ni\n", False),
            ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd aes sha1 sha2 crc32\n", True),
            ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd sha1 sha3 sha512\n", False),
            ("processor\t: 0\nmodel name\t: sha_ni sha2\n", False),
            ("", False),
        ],
    )
    def test_follows_the_flags_of_the_processor(self, cpuinfo, has):
        assert processor.is_flagged(cpuinfo) is has

    @pytest.mark.parametrize(("kind", "has"), [("arm64", True), ("x86_64", False)])
    def test_on_macos_follows_the_kind_of_processor(self, monkeypatch, kind, has):
        monkeypatch.setattr(processor.sys, "platform", "darwin")
        monkeypatch.setattr(processor.platform, "machine", lambda: kind)
        assert processor.has_sha256.__wrapped__() is has

    def test_is_blake2b_where_nothing_can_be_told(self, monkeypatch):
        def refuse(*_, **__):
            raise FileNotFoundError

        monkeypatch.setattr(processor, "open", refuse, raising=False)
        monkeypatch.setattr(processor.sys, "platform", "linux")
        assert processor.has_sha256.__wrapped__() is False

    def test_looks_at_little_of_what_there_is(self, monkeypatch):
        text = "flags\t: sse\n" + "x" * 100_000
        given = io.StringIO(text)
        monkeypatch.setattr(processor, "open", lambda *_, **__: given, raising=False)
        monkeypatch.setattr(processor.sys, "platform", "linux")
        monkeypatch.setattr(given, "close", lambda: None)
        assert processor.has_sha256.__wrapped__() is False
        assert given.tell() < 10_000


# --- one result ----------------------------------------------------------------------------------------------------


class TestOneResult:
    @pytest.mark.parametrize("value", [LARGE, [LARGE[i:9_000] for i in range(3)], list(range(50_000))])
    @pytest.mark.parametrize("sha256", [False, True])
    def test_in_a_file_is_digested_as_the_checkpoint_says(self, tmp_path, value, key, sha256):
        made = dump_result("node", value, tmp_path, Digests(key, sha256), durable=False)
        data = (tmp_path / made.temp_name).read_bytes()
        assert (made.storage, pickle.loads(data)) == (Storage.FILE, value)
        assert made.digest == expected(data, key, sha256=sha256)

    @pytest.mark.parametrize("value", [42, [42], "x" * 1_000, [LARGE[i:5_000] for i in range(3)]])
    @pytest.mark.parametrize("sha256", [False, True])
    def test_that_is_small_is_digested_with_blake2b(self, tmp_path, value, key, sha256):
        made = dump_result("node", value, tmp_path, Digests(key, sha256), durable=False)
        assert (made.storage, pickle.loads(made.data)) == (Storage.INLINE, value)
        assert made.digest == expected(made.data, key, sha256=False)

    @pytest.mark.parametrize("size", range(INLINE_MAX_BYTES - 40, INLINE_MAX_BYTES + 40, 8))
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_of_any_size_about_the_limit_has_the_digest_of_its_storage(self, tmp_path, size, wrapped):
        digests = Digests(None, sha256=True)
        made = dump_result("node", [bytes(size)] if wrapped else bytes(size), tmp_path, digests, durable=False)
        data = (tmp_path / made.temp_name).read_bytes() if made.storage else made.data
        assert made.digest == expected(data, None, sha256=len(data) > INLINE_MAX_BYTES)

    @pytest.mark.parametrize("sha256", [False, True])
    def test_of_which_a_bit_is_flipped_is_refused(self, tmp_path, key, sha256):
        digests = Digests(key, sha256)
        made = dump_result("node", LARGE, tmp_path, digests, durable=False)
        blob = BlobFile(made.temp_name, made.size, made.digest, made.storage)
        assert pickle.loads(read_blob(tmp_path, blob, digests)) == LARGE
        others = [Digests(key, not sha256), Digests(b"another", sha256), Digests(None if key else b"key", sha256)]
        for other in others:
            with pytest.raises(CheckpointDamagedError):
                read_blob(tmp_path, blob, other)
        if sha256:
            with pytest.raises(CheckpointDamagedError):
                read_blob(tmp_path, blob._replace(storage=Storage.INLINE), digests)
        for offset in (0, 5_000, made.size - 1):
            flip(tmp_path / made.temp_name, offset)
            with pytest.raises(CheckpointDamagedError):
                read_blob(tmp_path, blob, digests)
            flip(tmp_path / made.temp_name, offset)

    def test_shows_no_key(self):
        assert "0123456789" not in repr(Digests(KEY, sha256=True))


# --- a checkpoint --------------------------------------------------------------------------------------------------


class TestACheckpoint:
    @pytest.mark.parametrize("pool", ["inline", "process"])
    @pytest.mark.parametrize("verb", ["execute", "resume"])
    def test_has_the_digests_that_are_quickest_where_it_was_begun(self, ckpt, sha256, key, pool, verb):
        result = run(ckpt, key, verb, pool)
        assert {name: result[name].result for name in VALUES} == VALUES
        view = view_of(ckpt, key)
        assert (ckpt / JOURNAL).read_bytes()[8:12] == struct.pack("<I", 1 + sha256)
        assert json.loads((ckpt / META).read_bytes())["format_version"] == 1 + sha256
        for name, commit in view.commits.items():
            data = (ckpt / f"{name}.pkl").read_bytes()
            assert commit.digest == expected(data, key, sha256=sha256 and name == "large")
        assert findings(ckpt, key) == []

    @pytest.mark.parametrize("pool", ["inline", "process"])
    def test_keeps_them_on_a_machine_that_would_choose_others(self, ckpt, sha256, key, pool, monkeypatch):
        run(ckpt, key)
        before, header = view_of(ckpt, key), (ckpt / JOURNAL).read_bytes()[:HEADER_SIZE]
        machine(monkeypatch, has=not sha256)
        assert run(ckpt, key, pool=pool).restored == 3
        (ckpt / "large.pkl").unlink()  # made again, it has to be what it was
        result = run(ckpt, key, pool=pool)
        assert (result.ok, result.restored) == (True, 2)
        after = view_of(ckpt, key)
        assert (ckpt / JOURNAL).read_bytes()[:HEADER_SIZE] == header
        assert {name: commit.digest for name, commit in after.commits.items()} == {
            name: commit.digest for name, commit in before.commits.items()
        }
        assert json.loads((ckpt / META).read_bytes())["format_version"] == 1 + sha256
        assert findings(ckpt, key) == []

    def test_begun_anew_has_what_is_quickest_then(self, ckpt, sha256, key, monkeypatch):
        run(ckpt, key)
        machine(monkeypatch, has=not sha256)
        assert run(ckpt, key, "execute").ok
        assert view_of(ckpt, key).sha256 is not sha256
        assert findings(ckpt, key) == []

    @pytest.mark.parametrize("pool", ["inline", "process"])
    def test_with_a_flipped_bit_costs_the_node_and_is_never_taken(self, ckpt, sha256, key, pool):
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

    def test_whose_header_says_another_kind_is_damaged_and_believes_nothing(self, ckpt, sha256):
        run(ckpt)
        forge_header(ckpt, sha256=not sha256)
        assert [found.node for found in findings(ckpt)] == ["large"]
        with pytest.raises(dagron.ResultUnavailableError):
            _ = run(ckpt)["large"].result
        again = run(ckpt, reads=lambda large: len(large) + 1)
        assert again["small"].result == 42

    @pytest.mark.parametrize("forger", [None, b"another key"])
    def test_that_is_signed_cannot_be_made_to_say_another_kind(self, ckpt, sha256, forger):
        run(ckpt, KEY)
        journal = (ckpt / JOURNAL).read_bytes()
        forge_header(ckpt, sha256=not sha256, key=forger)
        flags = 1 | 2 * (not sha256)
        headers = [
            (ckpt / JOURNAL).read_bytes()[:HEADER_SIZE],
            journal[:8] + struct.pack("<II", 2 - sha256, flags) + journal[16:HEADER_SIZE],
            journal[:12] + struct.pack("<I", flags) + journal[16:HEADER_SIZE],
        ]
        for header in headers:
            (ckpt / JOURNAL).write_bytes(header + journal[HEADER_SIZE:])
            with pytest.raises(CheckpointDamagedError):
                run(ckpt, KEY)

    def test_of_version_1_goes_on_as_one(self, ckpt, key, monkeypatch):
        machine(monkeypatch, has=False)
        run(ckpt, key, reads=lambda large: 1 / 0)
        machine(monkeypatch, has=True)
        assert run(ckpt, key, reads=lambda large: large[1:]).restored == 2
        assert (ckpt / JOURNAL).read_bytes()[8:12] == struct.pack("<I", 1)
        data = (ckpt / "reads.pkl").read_bytes()
        assert view_of(ckpt, key).commits["reads"].digest == expected(data, key, sha256=False)
        assert findings(ckpt, key) == []

    def test_that_was_renamed_too_late_is_recovered(self, ckpt, sha256, key):
        run(ckpt, key)
        commit = view_of(ckpt, key).commits["large"]
        (ckpt / "large.pkl").rename(ckpt / commit.temp_name)
        (ckpt / "large.pkl").write_bytes(b"an older one")
        assert findings(ckpt, key) == []
        assert run(ckpt, key).restored == 3
        assert pickle.loads((ckpt / "large.pkl").read_bytes()) == LARGE

    def test_is_whole_for_a_campaign(self, ckpt, sha256):
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
            build_app()([*map(str, arguments)])
        assert ended.value.code == 0, capsys.readouterr().err
        told = capsys.readouterr()
        return told.out + told.err

    def test_show_names_the_digest(self, ckpt, sha256, key, capsys):
        run(ckpt, key)
        small = "keyed blake2b-256" if key else "blake2b-256"
        large = ("hmac-sha-256" if key else "sha-256") if sha256 else small
        for name, kind in (("small", small), ("large", large)):
            digest = view_of(ckpt, key).commits[name].digest.hex()
            assert f"{kind} {digest}" in self.command(capsys, "show", ckpt, name)
            details = json.loads(self.command(capsys, "show", ckpt, name, "--json"))
            assert (details["digest_algorithm"], details["digest"]) == (kind, digest)

    def test_verify_show_and_debug_read_either_kind(self, ckpt, tmp_path, sha256, key, capsys, monkeypatch):
        run(ckpt, key)
        (tmp_path / "job.py").write_text(JOB)
        machine(monkeypatch, has=not sha256)
        self.command(capsys, "verify", ckpt)
        assert "42" in self.command(capsys, "show", ckpt, "small")
        assert "byte for byte" in self.command(capsys, "debug", ckpt, "large", tmp_path / "job.py")
        assert "byte for byte" in self.command(capsys, "debug", ckpt, "reads", tmp_path / "job.py")

"""Compressed results: the same values and digests, in less space, by whichever module has zstd."""

from __future__ import annotations

import importlib
import os
import random

import pytest

import dagron
from dagron import CheckpointDamagedError, CheckpointExecutor, Flow, MissingPackageError, OptionError
from dagron.checkpoint.blobs import SAMPLE_BYTES, blob_file, read_blob
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format import compression
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.reading.opening import read_ledger
from dagron.crossing.results import dump_result

INLINE = {"pool": "inline"}


def installed(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


MODULES = [name for name in ("compression.zstd", "backports.zstd", "zstandard") if installed(name)]

needs_zstd = pytest.mark.skipif(not MODULES, reason="no module for zstd is installed")


@pytest.fixture(params=MODULES or [pytest.param("", marks=needs_zstd)])
def module(request, monkeypatch):
    monkeypatch.setattr(compression, "_zstd", lambda: importlib.import_module(request.param))
    return request.param


def text(n):
    """So many bytes that shrink."""
    return b"".join(b"line %d of many\n" % i for i in range(n // 10))[:n]


def noise(n):
    return random.Random(n).randbytes(n)


def commits(ckpt):
    return read_ledger(Directory(ckpt)).commits


class TestAFrame:
    def read(self, frame, size):
        """What the frame holds, None if it is told that it is none."""
        try:
            return compression.decompressed(frame, size)
        except ValueError:
            return None

    @pytest.mark.usefixtures("module")
    def test_comes_back_and_never_gives_much_more_than_was_asked_for(self):
        data = text(3_000_000)
        compressor = compression.new_compressor()
        frame = b"".join(
            [compressor.compress(data[:1_000_000]), compressor.compress(data[1_000_000:]), compressor.flush()]
        )
        assert len(frame) < len(data) / 3
        assert compression.decompressed(frame, len(data)) == data
        assert len(self.read(frame, 1000) or b"") <= 1001
        for broken in (b"", frame[:-5], frame[:100], b"x" + frame, noise(100)):
            assert self.read(broken, len(data)) != data

    @pytest.mark.usefixtures("module")
    def test_a_bomb_takes_no_more_memory_than_the_record_says(self):
        compressor = compression.new_compressor()
        bomb = compressor.compress(bytes(2**26)) + compressor.flush()
        assert len(bomb) < 10_000
        assert len(self.read(bomb, 5000) or b"") <= 5001


@needs_zstd
class TestWhatIsCompressed:
    def dumped(self, tmp_path, value, **options):
        return dump_result("n", value, tmp_path, Digests(), durable=False, compresses=True, **options)

    @pytest.mark.parametrize(
        ("value", "compresses"),
        [
            (text(SAMPLE_BYTES - 1000), False),
            (text(SAMPLE_BYTES + 1), True),
            (text(5_000_000), True),
            (noise(500_000), False),
            ([text(10_000)] * 3 + [noise(2_000_000)], False),
            ([noise(20_000), text(3_000_000)], True),
            ([bytearray(text(200_000)), bytearray(text(300_000))], True),
        ],
        ids=["small", "just above", "text", "noise", "a head unlike the rest", "a body unlike the head", "buffers"],
    )
    def test_a_sample_decides_and_digest_and_size_are_those_of_the_pickle(self, tmp_path, value, compresses):
        blob, plain = self.dumped(tmp_path, value), dump_result("n", value, tmp_path, Digests(), durable=False)
        assert (blob.size, blob.digest) == (plain.size, plain.digest)
        assert bool(blob.compressed_size) is compresses
        size = os.stat(tmp_path / blob.temp_name).st_size
        assert size == (blob.compressed_size or blob.size)
        assert size < blob.size or not compresses

    def test_a_small_result_stays_in_the_journal(self, tmp_path):
        assert self.dumped(tmp_path, text(10_000)) == dump_result("n", text(10_000), tmp_path, Digests(), durable=False)


@needs_zstd
class TestARun:
    def flow(self, n=400_000):
        flow = Flow()
        large = flow.add("large", text, n)
        flow.add("length", len, large)
        flow.add("noise", noise, 200_000)
        return flow

    @pytest.mark.parametrize("signing_key", [None, b"key"])
    def test_results_are_read_by_children_resumes_and_load(self, ckpt, signing_key):
        options = {"signing_key": signing_key, "max_workers": 1}
        result = self.flow().run(ckpt, compression="zstd", **options)
        assert (result.value("length"), result.value("large")) == (400_000, text(400_000))
        assert os.stat(ckpt / "large.pkl").st_size < 100_000
        assert os.stat(ckpt / "noise.pkl").st_size > 200_000
        again = self.flow().run(ckpt, resume=True, **options)  # without asking for it
        assert (again.restored, again.value("large")) == (3, text(400_000))
        assert dagron.load(ckpt, signing_key=signing_key)["large"] == text(400_000)

    def test_the_record_says_both_sizes(self, ckpt, call):
        self.flow().run(ckpt, compression="zstd", **INLINE)
        commit = commits(ckpt)["large"]
        assert (
            commit.size > 400_000 > commit.compressed_size == commit.stored_size == os.stat(ckpt / "large.pkl").st_size
        )
        call("verify", str(ckpt))
        out, _ = call("ls", str(ckpt), "--json")
        assert f'"stored_bytes": {commit.stored_size}' in out
        out, _ = call("show", str(ckpt), "large")
        assert "line 0 of many" in out

    def test_one_that_is_damaged_or_cut_is_found(self, ckpt, caplog):
        self.flow().run(ckpt, compression="zstd", **INLINE)
        path = ckpt / "large.pkl"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
        commit = commits(ckpt)["large"]
        with pytest.raises(CheckpointDamagedError):
            read_blob(ckpt, blob_file(commit), Digests())
        path.write_bytes(data[:-1])
        result = self.flow().run(ckpt, resume=True, compression="zstd", **INLINE)
        assert (result.restored, result.value("large")) == (2, text(400_000))

    def test_one_that_holds_another_size_is_refused_whatever_its_digest(self, ckpt):
        self.flow().run(ckpt, compression="zstd", **INLINE)
        blob = blob_file(commits(ckpt)["large"])
        data = read_blob(ckpt, blob, Digests())
        shorter = blob._replace(size=blob.size - 1, digest=Digests().of(data))
        with pytest.raises(CheckpointDamagedError, match=r"it holds other than|no zstd frame"):
            read_blob(ckpt, shorter, Digests())

    def test_a_rename_that_a_kill_cut_short_is_made_up_for(self, ckpt):
        self.flow().run(ckpt, compression="zstd", **INLINE)
        commit = commits(ckpt)["large"]
        os.rename(ckpt / "large.pkl", ckpt / commit.temp_name)
        assert self.flow().run(ckpt, resume=True, **INLINE).restored == 3
        assert (ckpt / "large.pkl").exists()

    def test_a_result_that_is_made_again_without_it_is_the_same(self, ckpt):
        self.flow().run(ckpt, compression="zstd", **INLINE)
        store = dagron.checkpoint.writing.store.CheckpointStore(ckpt)
        store.open()
        store.invalidate_between_runs(["large"], "by hand")
        store.close()
        result = self.flow().run(ckpt, resume=True, **INLINE)
        assert [result[name].restored for name in ("large", "length")] == [False, True]
        assert not commits(ckpt)["large"].compressed_size

    def test_a_pruning_keeps_it(self, ckpt):
        for _ in range(4):
            self.flow().run(ckpt, resume=True, compression="zstd", **INLINE)
        CheckpointExecutor(self.flow().dag, ckpt).prune_checkpoint()
        assert self.flow().run(ckpt, resume=True, **INLINE).value("large") == text(400_000)


class TestWithoutAModule:
    @pytest.fixture
    def none(self, monkeypatch):
        monkeypatch.setattr(compression, "_zstd", lambda: None)

    @pytest.mark.usefixtures("none")
    def test_it_is_refused_before_anything_runs(self, ckpt):
        with pytest.raises(
            MissingPackageError, match=r"compression='zstd' needs backports\.zstd, which is not installed"
        ):
            Flow().run(ckpt, compression="zstd")
        assert not ckpt.exists()

    @pytest.mark.parametrize("value", ["gzip", True, ""])
    def test_another_is_none(self, ckpt, value):
        with pytest.raises(OptionError, match="'zstd' or None"):
            Flow().run(ckpt, compression=value)

    @needs_zstd
    def test_what_was_compressed_is_not_taken_for_damaged(self, ckpt, monkeypatch):
        flow = TestARun().flow()
        flow.run(ckpt, compression="zstd", **INLINE)
        monkeypatch.setattr(compression, "_zstd", lambda: None)
        result = flow.run(ckpt, resume=True, **INLINE)
        assert result.restored == 3
        with pytest.raises(MissingPackageError, match="a result that is compressed needs"):
            result.value("large")

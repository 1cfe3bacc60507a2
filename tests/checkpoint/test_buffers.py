"""Large buffers in a result file: it stays a plain pickle, and a reader that maps it copies none of them."""

from __future__ import annotations

import mmap
import pickle
import pickletools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagron import DAG, CheckpointExecutor
from dagron.checkpoint.blobs import BlobFile, read_blob
from dagron.checkpoint.format.buffers import MIN_BYTES, out_of_band
from dagron.checkpoint.format.digests import Digests
from dagron.crossing.results import dump_result


class Elements:
    """Takes part in out-of-band pickling as PEP 574 describes it, and so as the arrays of numpy do."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce_ex__(self, protocol):
        return type(self), (pickle.PickleBuffer(self.buffer),)

    def __eq__(self, other):
        return type(other) is Elements and memoryview(self.buffer) == memoryview(other.buffer)


def dumped(value, directory):
    blob = dump_result("node", value, directory, Digests(), durable=False)
    return BlobFile(blob.temp_name, blob.size, blob.digest)


def mapped(blob, directory):
    data = read_blob(directory, blob, Digests())
    assert isinstance(data, mmap.mmap)
    return out_of_band(data)


SIZES = st.one_of(st.integers(MIN_BYTES - 2, MIN_BYTES + 70), st.integers(0, 300), st.just(3 * MIN_BYTES))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["writable", "read-only", "bytes", "bytearray", "text"]), SIZES), max_size=6))
def test_it_is_a_plain_pickle_and_large_buffers_are_found_in_it(tmp_path_factory, parts):
    directory = tmp_path_factory.mktemp("results")
    make = {
        "writable": lambda n: Elements(bytearray(b"w" * n)),
        "read-only": lambda n: Elements(b"r" * n),
        "bytes": lambda n: b"b" * n,
        "bytearray": lambda n: bytearray(b"a" * n),
        "text": lambda n: "t" * n,
    }
    value = [make[kind](n) for kind, n in parts] + ["x" * 20_000]  # large enough for a file
    blob = dumped(value, directory)
    plain = (directory / blob.file_name).read_bytes()
    assert pickle.loads(plain) == value
    assert pickle._loads(plain) == value  # the one in Python is stricter about frames
    stream, buffers = mapped(blob, directory)
    loaded = pickle.loads(stream, buffers=buffers)
    assert loaded == value
    assert [type(part) for part in loaded] == [type(part) for part in value]
    large = [(kind, n) for kind, n in parts if kind in ("writable", "read-only") and n >= MIN_BYTES]
    assert [buffer.nbytes for buffer in buffers] == [n for _, n in large]
    elements = [part for part in loaded if isinstance(part, Elements) and len(part.buffer) >= MIN_BYTES]
    for (kind, _), part in zip(large, elements, strict=True):
        assert memoryview(part.buffer).readonly == (kind == "read-only")
    begins = _begins(plain)
    assert [begin % 64 for begin in begins] == [0] * len(large)
    assert len(stream) <= len(plain) - sum(n for _, n in large)


def _begins(plain):
    """Where the large buffers stand, as the standard library's own reader of opcodes finds it."""
    header = {"BYTEARRAY8": 9, "BINBYTES8": 9, "BINBYTES": 5}
    return [
        at + header[opcode.name]
        for opcode, argument, at in pickletools.genops(plain)
        if opcode.name in header and len(argument) >= MIN_BYTES and argument[0] in b"wr"
    ]


@pytest.mark.parametrize("n_before", range(64))
def test_at_every_offset_it_is_aligned(tmp_path, n_before):
    value = ["x" * (20_000 + n_before), Elements(bytearray(b"w" * MIN_BYTES))]
    blob = dumped(value, tmp_path)
    (begin,) = _begins((tmp_path / blob.file_name).read_bytes())
    assert begin % 64 == 0
    stream, buffers = mapped(blob, tmp_path)
    assert pickle.loads(stream, buffers=buffers) == value


def test_what_is_written_to_a_buffer_stays_private(tmp_path):
    blob = dumped(Elements(bytearray(b"w" * MIN_BYTES)), tmp_path)
    before = (tmp_path / blob.file_name).read_bytes()
    stream, buffers = mapped(blob, tmp_path)
    other_stream, other_buffers = mapped(blob, tmp_path)
    memoryview(pickle.loads(stream, buffers=buffers).buffer)[:] = b"v" * MIN_BYTES
    assert bytes(pickle.loads(other_stream, buffers=other_buffers).buffer) == b"w" * MIN_BYTES
    assert (tmp_path / blob.file_name).read_bytes() == before


def test_a_buffer_outlives_its_file(tmp_path):
    blob = dumped(Elements(bytearray(b"w" * MIN_BYTES)), tmp_path)
    stream, buffers = mapped(blob, tmp_path)
    (tmp_path / blob.file_name).unlink()
    assert bytes(pickle.loads(stream, buffers=buffers).buffer) == b"w" * MIN_BYTES


def test_with_a_key_nothing_is_mapped(tmp_path):
    made = dump_result("node", Elements(bytearray(b"w" * MIN_BYTES)), tmp_path, Digests(b"key"), durable=False)
    data = read_blob(tmp_path, BlobFile(made.temp_name, made.size, made.digest), Digests(b"key"))
    assert isinstance(data, bytes)
    assert bytes(pickle.loads(data).buffer) == b"w" * MIN_BYTES


@pytest.mark.parametrize("options", [{"max_workers": 2}, {"pool": "inline"}])
def test_a_child_may_write_to_what_it_is_given(tmp_path, options):
    def first(source):
        memoryview(source.buffer)[:] = b"1" * (2 * MIN_BYTES)
        return bytes(source.buffer[:3])

    def second(source, first):
        return bytes(source.buffer[:3])

    dag = DAG(["source", "first", "second"], [("source", "first"), ("source", "second"), ("first", "second")])
    tasks = {"source": lambda: Elements(bytearray(b"w" * (2 * MIN_BYTES))), "first": first, "second": second}
    result = CheckpointExecutor(dag, tmp_path / "ckpt", **options).execute(tasks)
    assert (result["first"].result, result["second"].result) == (b"111", b"www")
    assert bytes(result["source"].result.buffer) == b"w" * (2 * MIN_BYTES)

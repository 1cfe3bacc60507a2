"""The channel of a slot: whole batches down, reports up, and neither side ever hangs on the other's account."""

import os
import threading

import pytest

from dagron.checkpoint.blobs import Blob
from dagron.engines.local.channel import Channel, WorkerEnd
from dagron.engines.local.worker import pack_outcome, unpack_outcome
from dagron.engines.outcomes import Fault, Outcome, OutcomeKind
from dagron.figures import Figures


class Raw:
    """Stands for what a worker unpickles a descriptor from."""

    def __init__(self, fd):
        self.fd = fd

    def detach(self):
        return self.fd


@pytest.fixture
def ends():
    ours = Channel()
    theirs = WorkerEnd(Raw(os.dup(ours._theirs.fileno())))
    ours.passed()
    yield ours, theirs
    ours.close()
    theirs._batches.close()


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 16, 5 << 20])
def test_a_batch_arrives_whole_also_if_it_does_not_fit_at_once(ends, size):
    ours, theirs = ends
    payload = os.urandom(size)
    received = []
    reader = threading.Thread(target=lambda: received.extend([theirs.receive(), theirs.receive()]))
    sent = ours.send(payload) & ours.send(b"behind it")
    assert sent or size > 1 << 16, "what fits must not wait"
    reader.start()
    while not sent:
        sent = ours.flush()
    reader.join()
    assert received == [payload, b"behind it"]


def test_reports_come_back_in_order_and_nothing_is_no_error(ends):
    ours, theirs = ends
    assert ours.finished() == []
    reports = [(1, False), (2, True), (2**63, False)]
    for number, copies_refused in reports:
        theirs.report(number, copies_refused)
    assert ours.finished() == reports
    assert ours.finished() == []


def test_a_report_that_comes_in_pieces_is_put_together(ends):
    ours, theirs = ends
    os.write(theirs.fd, (7).to_bytes(8, "little") + b"\0\x08\0\0")
    assert ours.finished() == [(7, False)]
    os.write(theirs.fd, bytes(5) + b"\1")
    assert ours.finished() == [(8, True)]


def test_a_worker_that_is_gone_is_told_and_takes_what_is_sent(ends):
    ours, theirs = ends
    theirs._batches.close()
    assert ours.send(bytes(1 << 20))
    assert ours.finished() is None


@pytest.mark.parametrize("cut", [0, 4, 8, 12])
def test_a_channel_that_is_closed_in_the_midst_of_a_batch_brings_none(ends, cut):
    ours, theirs = ends
    ours._ours.send(((10).to_bytes(8, "little") + bytes(10))[:cut])
    ours.close()
    assert theirs.receive() is None


FIGURES = Figures(1.5, 0.25, 0.125, 0.0625, 2**40)
BLOB = Blob(0, 2, b"d" * 32, b"ab", "")
COMPLETED = Outcome(2**40, OutcomeKind.COMPLETED, FIGURES, BLOB)
FILE = Blob(1, 2**40, b"d" * 32, b"", "file", (2**64 - 1, 2, 3, -4))
FAULT = Fault("E", "text", "tb", b"error", retryable=True)
FAILED = Outcome(3, OutcomeKind.RAISED, FIGURES, fault=FAULT)


@pytest.mark.parametrize("written", [None, (0, 5, 7, 7)], ids=["silent", "printed"])
@pytest.mark.parametrize(
    "outcome",
    [
        COMPLETED,
        COMPLETED._replace(blob=BLOB._replace(data=b"", size=0)),
        COMPLETED._replace(blob=FILE),
        COMPLETED._replace(blob=BLOB._replace(value_digest=b"v" * 16)),
        FAILED,
        FAILED._replace(fault=FAULT._replace(inputs=(("x", "1"),), pid=4)),
        FAILED._replace(kind=OutcomeKind.DISK, figures=Figures(), fault=Fault("OSError", "no space", "")),
    ],
    ids=["inline", "empty", "file", "with a digest of the value", "failed", "failed with inputs", "disk"],
)
def test_an_outcome_is_the_same_behind_the_board(outcome, written):
    assert unpack_outcome(pack_outcome(outcome, written)) == (outcome, written)

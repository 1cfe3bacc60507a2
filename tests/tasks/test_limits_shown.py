"""A limit is told as it was given, and what was seen in its unit."""

import pytest

from dagron.engines.outcomes import NOTHING_PRINTED
from dagron.engines.protocol import Lost
from dagron.errors import MemoryLimitExceededError, NodeTimeoutError
from dagron.figures import NO_FIGURES
from dagron.flow import Flow
from dagron.runs.events import End, NoteLoss
from dagron.runs.losses import error_of_loss
from dagron.runs.options import Options
from dagron.runs.plan import plan_run
from dagron.tasks.options import in_unit_of


@pytest.mark.parametrize(
    ("limit", "seen", "text"),
    [
        ("2 GB", 2_130_000_001, "had 2.14 GB of memory in attempt 1, more than its limit of 2 GB,"),
        ("1.5GiB", 2**31, "had 2.00 GiB of memory in attempt 1, more than its limit of 1.5GiB,"),
        (" 300 mb ", 300_000_001, "had 300.01 mb of memory in attempt 1, more than its limit of 300 mb,"),
        (1_000_000, 1_000_001, "had 1,000,001 bytes of memory in attempt 1, more than its limit of 1,000,000 bytes,"),
        ("1000000", 1_000_001, "had 1,000,001 bytes of memory in attempt 1, more than its limit of 1000000 bytes,"),
    ],
)
@pytest.mark.parametrize("of_node", [True, False])
def test_that_of_memory(limit, seen, text, of_node):
    flow = Flow()
    flow.add("a", int, **({"memory_limit": limit} if of_node else {}))
    options = Options(memory_limit="7 TB" if of_node else limit)
    (policy,) = plan_run(flow.dag, flow.tasks, options).policies
    lost = Lost(0, [], 0, [], -9, NO_FIGURES, NOTHING_PRINTED)
    error = error_of_loss("a", NoteLoss(0, 1, End.OUT_OF_MEMORY, seen), policy, lost)
    assert isinstance(error, MemoryLimitExceededError)
    assert text in str(error)


@pytest.mark.parametrize(
    ("seconds", "text"), [(120, "120 s"), (86_400.0, "86400 s"), (1_234_567, "1234567 s"), (0.25, "0.25 s")]
)
def test_that_of_time(seconds, text):
    assert f"longer than {text} in" in str(NodeTimeoutError("a", 1, seconds))


def test_what_has_no_unit_is_bytes():
    assert in_unit_of(None, 5) == "5 bytes"

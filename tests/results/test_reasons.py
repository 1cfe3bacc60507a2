"""Why an attempt failed, in one line: that of a lost worker ends with the line that it wrote last."""

import pytest

from dagron.errors import WorkerLostError
from dagron.results.reasons import shown_error, shown_line

REPORT = """\
about to begin
Fatal Python error: Segmentation fault

Current thread 0x00007f4c8d9f3740 (most recent call first):
  File "/usr/lib/python3.12/ctypes/__init__.py", line 519 in string_at
  File "/home/me/job.py", line 12 in crash
"""


def lost(tail):
    error = WorkerLostError("a", 1, -11, 2**25, tail)
    return shown_error(type(error).__name__, str(error))


HOW = (
    "WorkerLostError: the worker of node 'a' was killed by signal 11 (SIGSEGV) in attempt 1; its peak memory was 32 MiB"
)


@pytest.mark.parametrize(
    ("tail", "last"),
    [
        ("one\ntwo\n\n", "two"),
        ("only", "only"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        (REPORT, 'Fatal Python error: Segmentation fault at File "/home/me/job.py", line 12 in crash'),
        (f"{REPORT}\nsaid after it", "said after it"),
        ("x" * 1000, "x" * 200 + "..."),
    ],
)
def test_that_of_a_lost_worker_ends_with_its_last_line(tail, last):
    assert lost(tail) == f"{HOW}; its last line on stderr: {last}"


def test_one_that_wrote_nothing_has_none():
    assert lost("") == HOW


def test_other_errors_of_several_lines_say_that_there_is_more():
    assert shown_error("ValueError", "one\ntwo") == "ValueError: one ..."
    assert shown_line("") == ""
    assert shown_line("\none\n") == "one"
    assert shown_line("x" * 1000) == "x" * 200 + "..."
    assert shown_error("KeyError", "") == "KeyError"

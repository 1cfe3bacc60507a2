"""What is kept of standard error: the last lines, and the head of a report of a fatal error, whatever follows it."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dagron
from dagron.results.last_words import last_words
from dagron.runs.output import last_lines, printed_text

OURS = os.path.dirname(dagron.__file__).encode("ascii", "backslashreplace").decode()

HEAD = """\
Fatal Python error: Segmentation fault
"""
OTHER_THREAD = """
Thread 0x00007f9ab8fdd6c0 [Thread-1 (sleep] (most recent call first):
  File "/usr/lib/python3.14/threading.py", line 1025 in run
  File "/usr/lib/python3.14/threading.py", line 1083 in _bootstrap_inner
"""
STACK = """
Current thread 0x00007f9ab9415200 [python3] (most recent call first):
  File "/usr/lib/python3.14/ctypes/__init__.py", line 624 in string_at
  File "/home/me/job.py", line 6 in crashes
"""
WORKER = "".join(f'  File "{OURS}/{name}.py", line 9 in f\n' for name in ("task", "workers/child", "workers/server"))
C_STACK = """
Current thread's C stack trace (most recent call first):
""" + "".join(f'  Binary file "python3", at _PyEval+0x{i:x} [0x{i:x}]\n' for i in range(32))
MODULES = "\nExtension modules: " + ", ".join(f"numpy.part{i}" for i in range(400)) + " (total: 400)\n"
TOLD = [HEAD.strip(), *STACK.strip().split("\n")]


@pytest.mark.parametrize("others", ["", OTHER_THREAD * 40])
@pytest.mark.parametrize("more", ["", C_STACK, MODULES, C_STACK + MODULES])
def test_a_report_is_cut_to_the_error_and_the_frames_of_the_task(others, more):
    assert last_words((HEAD + others + STACK + WORKER + more).strip()) == TOLD


def test_without_threads_the_stack_has_another_heading():
    text = HEAD + STACK.replace("Current thread 0x00007f9ab9415200 [python3]", "Stack")
    assert last_words(text.strip())[1] == "Stack (most recent call first):"


def test_what_is_said_before_and_behind_it_is_kept_to_the_last_lines():
    before = "".join(f"before {i}\n" for i in range(100))
    behind = "".join(f"behind {i}\n" for i in range(100))
    told = last_words((before + HEAD + STACK + WORKER + C_STACK + behind).strip())
    assert told[:5] == [f"before {i}" for i in range(95, 100)]
    assert told[5 : 5 + len(TOLD)] == TOLD
    assert told[5 + len(TOLD) :] == ["...", *(f"behind {i}" for i in range(80, 100))]


def test_the_last_report_counts_because_the_first_may_be_that_of_a_child():
    told = last_words((HEAD + STACK + "then\n" + HEAD.replace("Segmentation fault", "Aborted") + STACK).strip())
    assert "then" in told
    assert told[-len(TOLD) :] == ["Fatal Python error: Aborted", *TOLD[1:]]


def test_of_a_deep_recursion_both_ends_are_shown():
    frames = "".join(f'  File "/home/me/job.py", line {i} in f\n' for i in range(100))
    told = last_words(HEAD + STACK.split("  File")[0] + frames)
    assert told[2] == '  File "/home/me/job.py", line 0 in f'
    assert told[-1] == '  File "/home/me/job.py", line 99 in f'
    assert told[10] == "  ..."
    assert len(told) == 2 + 17


def test_frames_of_our_own_are_shown_where_there_are_no_others_and_those_of_the_examples_always():
    assert len(last_words((HEAD + STACK.split("  File")[0] + WORKER).strip())) == 2 + 3
    example = f'  File "{OURS}/jobs/chess_perft.py", line 9 in f'
    assert last_words(HEAD + STACK.split("  File")[0] + example + "\n" + WORKER)[-1] == example


def test_a_text_without_a_report_has_its_last_twenty_lines():
    lines = [f"line {i}" for i in range(100)]
    assert last_words("\n".join(lines)) == lines[-20:]
    assert last_words("x" * 10_000) == ["x" * 4000]


def test_a_record_has_them_however_long_the_report_is():
    text = "early\n" * 1000 + HEAD + OTHER_THREAD * 100 + STACK + WORKER + C_STACK + MODULES
    kept = printed_text(text.encode())
    assert len(kept) <= 4096
    assert last_lines(kept.encode()) == last_lines(text.encode()) == "\n".join(["early"] * 16 + TOLD)
    short = HEAD + STACK + C_STACK
    assert printed_text(short.encode()) == short.rstrip()  # a C stack tells something, too


pieces = st.sampled_from([HEAD, OTHER_THREAD, STACK, WORKER, C_STACK, MODULES, "\n", "...\n", "  ...\n", "word\n" * 30])
texts = st.lists(pieces | st.text("F x\n.", max_size=50) | st.integers(1, 5000).map("x".__mul__), max_size=8)


@given(texts)
@example([HEAD, "x" * 5000])
@example([HEAD, STACK.replace("crashes", "f" * 3000)])
def test_they_are_bounded_and_have_themselves_whole(parts):
    told = last_words("".join(parts).strip("\n"))
    assert len("\n".join(told)) <= 4000
    assert len(told) <= 45
    assert last_words("\n".join(told)) == told

"""What tasks print: handed on whole, in time, by line, and kept for the error of a node that dies."""

import faulthandler
import os
import re
import subprocess
import sys
import textwrap
from functools import partial

import pytest
from places import SRC
from waiting import growing

from dagron import DAG, CheckpointDamagedError, CheckpointExecutor, ExecutionCallbacks, Task
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.format.records import NO_OUTPUT
from dagron.checkpoint.reading.opening import printed_by, read_ledger
from dagron.checkpoint.writing.store import CheckpointStore
from dagron.engines.local import capture
from dagron.engines.local.board import Board
from dagron.engines.local.capture import Capture
from dagron.results.failures import shown_failure
from dagron.runs import output
from dagron.runs.output import last_lines


def run(ckpt, tasks, **options):
    dag = DAG.builder().add_nodes(tasks).build()
    return CheckpointExecutor(dag, ckpt, durability="process", **{"max_workers": 1, **options}).execute(tasks)


@pytest.fixture
def captured():
    made = Capture()
    yield made
    made.close()


class TestCapture:
    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files without a file system")
    def test_output_and_boards_are_in_memory_and_on_no_disk(self, captured):
        board = Board()
        try:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in (captured.fd, board._fd)]
        finally:
            board.close()
        assert links == ["/memfd:dagron-output (deleted)", "/memfd:dagron-board (deleted)"]

    def test_new_output_comes_once_and_by_whole_lines(self, captured):
        os.write(captured.fd, b"one\ntw")
        assert list(captured.lines()) == [b"one\n"]
        assert list(captured.lines()) == []
        os.write(captured.fd, b"o\nthree")
        assert list(captured.lines()) == [b"two\n"]
        assert list(captured.lines(ended=True)) == [b"three"]
        assert list(captured.lines(ended=True)) == []

    def test_a_carriage_return_ends_a_line(self, captured):
        os.write(captured.fd, b"10%\r20%")
        assert list(captured.lines()) == [b"10%\r"]

    def test_a_line_without_an_end_is_not_held_back_for_ever(self, captured):
        os.write(captured.fd, b"x" * 100_000)
        assert list(captured.lines()) == [b"x" * 100_000]

    def test_much_output_comes_whole_and_its_memory_is_given_back(self, captured):
        lines = b"".join(b"%07d\n" % i for i in range(1_000_000))
        for start in range(0, len(lines), 1 << 20):
            os.write(captured.fd, lines[start : start + (1 << 20)])
        assert b"".join(captured.lines()) == lines
        if sys.platform == "linux":
            assert os.fstat(captured.fd).st_blocks * 512 < 2**21
        assert captured.size() == len(lines)  # and positions are as before
        os.write(captured.fd, b"more\n")
        assert list(captured.lines()) == [b"more\n"]

    def test_what_was_written_between_two_positions_can_be_had_before_and_after_it_was_handed_on(self, captured):
        os.write(captured.fd, b"first\n")
        start = captured.size()
        os.write(captured.fd, b"second\n")
        end = captured.size()
        os.write(captured.fd, b"third\n")
        assert captured.between(start, end) == b"second\n"
        assert b"".join(captured.lines()) == b"first\nsecond\nthird\n"
        assert captured.between(start, end) == b"second\n"
        assert captured.between(start) == b"second\nthird\n"

    def test_of_very_much_the_end_is_kept(self, captured):
        os.write(captured.fd, b"a" * 200_000 + b"b" * 70_000)
        kept = captured.between(0)
        assert capture._TAIL_BYTES <= len(kept) <= 2 * capture._READ_BYTES
        assert kept.endswith(b"b" * 65_000)

    def test_what_is_written_after_a_truncation_is_not_lost(self, captured):
        os.write(captured.fd, b"a long line that was read\n")
        assert len(list(captured.lines())) == 1
        os.ftruncate(captured.fd, 0)
        os.write(captured.fd, b"after\n")
        assert list(captured.lines()) == [b"after\n"]


class TestLastLines:
    def test_they_are_at_most_twenty_and_of_a_line_written_over_the_last_state(self):
        text = "".join(f"line {i}\n" for i in range(100)) + "10%\r20%\r30%\n"
        lines = last_lines(text.encode()).split("\n")
        assert lines[-2:] == ["line 99", "30%"]
        assert len(lines) == 20

    def test_what_is_no_text_is_shown_escaped(self):
        assert last_lines(b"\xff!\n") == "\\xff!"

    def test_a_long_line_keeps_its_end(self):
        assert last_lines(b"x" * 10_000 + b"END").endswith("xEND")


class TestHandedOn:
    def test_it_comes_to_the_streams_of_this_process_before_the_callback(self, ckpt, capsys):
        def task():
            print("to stdout")
            print("to stderr", file=sys.stderr)

        callbacks = ExecutionCallbacks(on_complete=lambda name, result: print(f"completed {name}"))
        run(ckpt, {"a": task}, callbacks=callbacks)
        assert capsys.readouterr() == ("to stdout\ncompleted a\n", "to stderr\n")

    def test_a_script_shows_what_tasks_and_their_children_print_unchanged_and_nothing_twice(self, tmp_path):
        text = """
            import os, subprocess, sys, dagron

            def task():
                print("from the task é", flush=True)
                os.write(1, b"\\xff raw\\n")
                subprocess.run(["echo", "from a child"])
                print("without an end", end="")

            dag = dagron.DAG.builder().add_nodes(["a"]).build()
            dagron.CheckpointExecutor(dag, sys.argv[1]).execute({"a": task})
            """
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        env = {**os.environ, "PYTHONPATH": SRC, "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run([sys.executable, path, tmp_path / "ckpt"], env=env, capture_output=True, timeout=60)
        assert done.stdout == "from the task é\n".encode() + b"\xff raw\nfrom a child\nwithout an end"
        assert done.stderr == b""

    @pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
    def test_a_script_whose_standard_streams_are_closed_runs(self, tmp_path, closed):
        text = """
            import os, sys, dagron

            def task():
                print("somewhere")
                print("or other", file=sys.stderr)
                return 1

            dag = dagron.DAG.builder().add_nodes(["a"]).build()
            result = dagron.CheckpointExecutor(dag, sys.argv[1]).execute({"a": task})
            sys.exit(0 if result["a"].result == 1 else 7)
            """
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        shut = " ".join(f"{fd}>&-" for fd in closed.split())
        command = f'exec "$0" "$@" {shut}'
        done = subprocess.run(
            ["sh", "-c", command, sys.executable, path, tmp_path / "ckpt"],
            env={**os.environ, "PYTHONPATH": SRC},
            timeout=60,
        )
        assert done.returncode == 0

    def test_it_comes_while_the_task_runs(self, ckpt, tmp_path, capsys, log):
        # The task goes on only when its line was seen.
        seen = tmp_path / "seen"

        class Watch:
            def run_started(self, snapshot):
                pass

            def run_moved(self, snapshot):
                if "started" in capsys.readouterr().out:
                    seen.touch()

            run_ended = run_started

        def task():
            import time

            print("started")
            for _ in range(3000):
                if seen.exists():
                    return True
                time.sleep(0.01)
            return False

        assert run(ckpt, {"a": task}, progress=Watch())["a"].result

    def test_the_end_of_the_reader_does_not_end_the_run(self, tmp_path):
        text = """
            import sys, dagron
            dag = dagron.DAG.builder().add_nodes(["a", "b"]).build()
            tasks = {"a": lambda: print("x" * 1_000_000), "b": lambda: print("y" * 1_000_000)}
            result = dagron.CheckpointExecutor(dag, sys.argv[1], max_workers=1).execute(tasks)
            print(result.succeeded, file=sys.stderr)
            sys.stdout = None
            """
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        ours, theirs = os.pipe()
        os.close(ours)
        with open(theirs, "wb") as stdout:
            done = subprocess.run(
                [sys.executable, path, tmp_path / "ckpt"],
                env={**os.environ, "PYTHONPATH": SRC},
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
        lines = done.stderr.splitlines()
        assert "2" in lines
        assert sum("can no longer be shown" in line for line in lines) == 1

    def test_after_closing_its_streams_a_worker_works_on(self, ckpt, capsys):
        def closes():
            sys.stdout.close()
            os.close(2)
            return 1

        assert run(ckpt, {"a": closes, "b": lambda: 2}).succeeded == 2


def escaped(path):
    """As a report of a fatal error has it."""
    return path.encode("ascii", "backslashreplace").decode()


def printed(ckpt, name):
    directory = Directory(ckpt)
    return printed_by(read_ledger(directory), directory, name)


class TestRecorded:
    def test_what_each_node_of_a_batch_wrote_is_in_the_checkpoint_and_nothing_for_the_silent_ones(self, ckpt):
        def speaks(i):
            print(f"out {i}")
            os.write(2, b"err \xff\n" if i else b"")

        tasks = {f"n{i}": partial(speaks, i) if i % 2 == 0 else partial(int, i) for i in range(40)}
        tasks["raises"] = lambda: print("before") or 1 / 0
        run(ckpt, tasks)
        view = read_ledger(Directory(ckpt))
        assert view.printed.keys() == {f"n{i}" for i in range(0, 40, 2)}
        fields = printed(ckpt, "n8")
        assert (fields.stdout, fields.stderr) == ("out 8", "err \\xff")
        assert (fields.stdout_bytes, fields.stderr_bytes) == (6, 6)
        assert printed(ckpt, "n0").stderr_bytes == 0
        assert printed(ckpt, "n1") == NO_OUTPUT
        assert printed(ckpt, "raises").stdout == "before"

    def test_of_much_the_end_is_kept_and_how_much_it_was(self, ckpt, capsys):
        def talks():
            for _ in range(300):
                os.write(1, b"\xfe" * 9_999 + b"\n")
            print("\r".join(f"{i}%" for i in range(50_000)))
            print("the end")

        run(ckpt, {"a": talks, "b": lambda: print("b")})
        fields = printed(ckpt, "a")
        assert fields.stdout.endswith("49999%\nthe end")
        assert len(fields.stdout) <= 4096
        assert fields.stdout_bytes > 3_000_000
        assert printed(ckpt, "b").stdout == "b"
        assert (ckpt / "_journal").stat().st_size < 20_000

    def test_the_last_attempt_counts_and_a_silent_one_takes_the_words_away(self, ckpt, tmp_path):
        def flaky(mark):
            print("attempt", os.path.exists(mark), flush=True)
            if not os.path.exists(mark):
                open(mark, "w").close()
                os._exit(1)

        dag = DAG.builder().add_node("a").build()
        executor = CheckpointExecutor(dag, ckpt, durability="process", max_workers=1, retries=1, retry_delay=0.0)
        assert executor.execute({"a": partial(flaky, str(tmp_path / "mark"))}).succeeded == 1
        assert printed(ckpt, "a").stdout == "attempt True"
        store = CheckpointStore(ckpt, durability="process")
        store.open()
        store.invalidate_between_runs(["a"], "for this test")
        store.close()
        assert printed(ckpt, "a").stdout == "attempt True"
        executor.resume({"a": int})
        assert printed(ckpt, "a") == NO_OUTPUT

    def test_no_more_than_the_budget_of_a_run_is_recorded(self, ckpt, monkeypatch):
        monkeypatch.setattr(output, "_BUDGET_CHARACTERS", 100)
        run(ckpt, {f"n{i}": lambda: print("x" * 40) for i in range(10)})
        assert len(read_ledger(Directory(ckpt)).printed) == 3

    def test_what_a_task_puts_in_the_place_of_its_streams_is_its_own_and_no_other_nodes(self, ckpt, tmp_path):
        file = tmp_path / "file"

        def redirects():
            fd = os.open(file, os.O_RDWR | os.O_CREAT)
            os.write(fd, b"0123456789")
            os.lseek(fd, 2, os.SEEK_SET)
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            return os.dup(fd)

        def writes():
            os.write(1, b"ab")

        run(ckpt, {"a": redirects, "b": writes}, max_workers=1)
        assert file.read_bytes() == b"0123456789"
        assert printed(ckpt, "b").stdout == "ab"
        assert "a" not in read_ledger(Directory(ckpt)).printed

    def test_it_need_not_be_passed_on(self, ckpt, capsys):
        run(ckpt, {"a": lambda: print("quiet")}, pass_output=False)
        assert capsys.readouterr().out == ""
        assert printed(ckpt, "a").stdout == "quiet"

    def test_a_record_that_is_damaged_is_told(self, ckpt):
        run(ckpt, {"a": lambda: print("words")})
        directory = Directory(ckpt)
        view = read_ledger(directory)
        journal = ckpt / "_journal"
        journal.write_bytes(journal.read_bytes().replace(b"words", b"sword"))
        with pytest.raises(CheckpointDamagedError, match="no longer there"):
            printed_by(view, directory, "a")


class TestFailures:
    """Each fails if `Board.attempt_started` does not note where the output of an item begins."""

    def test_a_node_whose_worker_died_has_the_last_lines_that_it_wrote_and_no_others(self, ckpt):
        def dies():
            print("what went wrong", file=sys.stderr)
            os.write(2, b"from C\n")
            os._exit(3)

        tasks = {"before": lambda: print("innocent", file=sys.stderr), "dies": dies}
        result = run(ckpt, tasks)
        error = result["dies"].error
        assert error.stderr_tail == result["dies"].stderr_tail == "what went wrong\nfrom C"
        assert "stderr:\n    what went wrong\n    from C" in str(error)
        assert read_ledger(Directory(ckpt)).failures["dies"].output.stderr == "what went wrong\nfrom C"

    def test_a_node_that_raised_or_took_too_long_has_them_too(self, ckpt, log):
        def raises():
            print("before it raised", file=sys.stderr)
            raise ValueError

        def hangs():
            import time

            print("before it hung", file=sys.stderr, flush=True)
            log.note("printed")
            time.sleep(600)

        for seconds in growing(0.25):
            result = run(ckpt, {"raises": raises, "quiet": lambda: 1 / 0, "hangs": Task(hangs, timeout=seconds)})
            if log.count("printed"):
                break
        assert [result[name].stderr_tail for name in result.node_results] == ["before it raised", "", "before it hung"]

    def test_python_says_where_a_segmentation_fault_was(self, ckpt):
        def crashes():
            import ctypes

            faulthandler.enable()
            ctypes.string_at(0)

        result = run(ckpt, {"a": crashes})["a"]
        tail = result.error.stderr_tail
        assert tail.startswith("Fatal Python error: Segmentation fault\n")
        assert " in string_at\n" in tail
        assert re.search(r'File "(.+)", line \d+ in crashes$', tail, re.MULTILINE)[1] == escaped(__file__)
        assert "_run_batch" not in tail  # nor what else every task has below it
        assert textwrap.indent(tail, "    ") in str(result.error)

    @pytest.mark.parametrize("n", [0, 200])
    def test_whatever_comes_before_and_behind_a_fatal_error_the_record_has_what_tells(self, ckpt, n):
        def deep(n):
            if n:
                return deep(n - 1)
            os.write(2, b"filler\n" * 2000 + b"libx: cannot go on\n")
            faulthandler.enable()
            if os.fork() == 0:
                os.abort()
            os.wait()
            os.write(2, b"noise\n" * 3000 + b"the last line\n")
            os._exit(3)

        result = run(ckpt, {"a": lambda: deep(n)})
        told = result["a"].error.stderr_tail.split("\n")
        at = told.index("Fatal Python error: Aborted")
        assert told[at - 1] == "libx: cannot go on"
        assert told[-1] == "the last line"
        assert f'  File "{escaped(__file__)}", line ' in told[at + 2]
        assert told[at + 2].endswith(" in deep")
        assert len(told) <= 50
        fields = read_ledger(Directory(ckpt)).failures["a"]
        assert last_lines(fields.output.stderr.encode()).split("\n") == told
        # The error has it, so the report does not repeat it.
        assert shown_failure(fields).count("Fatal Python error") == 1

"""The files that tasks write beside their results: an attempt has to write them, and a resume knows what became of
them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import dagron
from dagron import Flow, OptionError, OutputNotWrittenError, SharedOutputError, Task
from dagron.checkpoint.format.digests import Digests
from dagron.checkpoint.format.outputs import FileState
from dagron.engines.local.board import MAX_OUTCOME_BYTES
from dagron.engines.local.worker import pack_outcome, unpack_outcome
from dagron.engines.outcomes import Outcome, OutcomeKind
from dagron.figures import NO_FIGURES
from dagron.outputs import difference, identities, states_written
from dagron.tasks.options import MAX_OUTPUTS

INLINE = {"pool": "inline"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text, log=None):
    if log is not None:
        log.note("write")
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)
    return len(text)


def read(n, path, log):
    log.note("read")
    return n, Path(path).read_text()


def writes_and_reads(log, text="one"):
    flow = Flow()
    written = flow.add("written", write, "out/a.txt", text, log, outputs=["out/a.txt"])
    flow.add("read", read, written, "out/a.txt", log)
    return flow


def touched(path, seconds=100):
    """Another time of the last change, and the same bytes."""
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


class TestAnAttempt:
    def test_one_that_does_not_write_an_output_fails_and_says_which(self, ckpt, log):
        flow = Flow()
        node = flow.add("n", log.note, "n", outputs=["a.txt"])
        child = flow.add("child", repr, node)
        result = flow.run(ckpt, retries=2, retry_delay=0.0, **INLINE)
        error = result[node].error
        assert type(error) is OutputNotWrittenError
        assert (error.node, error.path, error.reason) == (
            "n",
            str(Path("a.txt").absolute()),
            "no such file or directory",
        )
        assert "'n' did not write its output" in str(error)
        assert result[child].status == "skipped"
        assert log.count("n") == 3  # it is retried as what raises is

    def test_on_a_worker_it_is_the_same(self, ckpt, log):
        flow = writes_and_reads(log)
        missing = flow.add("missing", log.note, "missing", outputs=["b.txt"])
        result = flow.run(ckpt, max_workers=1)
        assert type(result[missing].error) is OutputNotWrittenError
        assert result.value("read") == (3, "one")
        assert flow.run(ckpt, resume=True, max_workers=1).restored == 2

    def test_a_file_that_was_there_before_is_not_taken_for_written(self, here):
        path, digests = here / "a.txt", Digests()
        path.write_text("old")
        paths = [str(path)]
        before, later = identities(paths), time.time_ns() + 10 * 10**9
        with pytest.raises(OutputNotWrittenError, match="was there before, and was not written to"):
            states_written("n", paths, before, later, digests, durable=False)
        # What was changed a moment before may be changed again without a difference.
        assert states_written("n", paths, before, time.time_ns(), digests, durable=False)
        path.touch()
        assert states_written("n", paths, before, later, digests, durable=False)
        path.unlink()
        path.write_text("old")
        assert states_written("n", paths, before, later, digests, durable=False)

    def test_what_is_no_file_is_refused(self, here):
        os.mkdir("folder")
        os.mkfifo("fifo")
        for path, reason in (
            ("folder", "it is a directory"),
            ("fifo", "it is no regular file"),
            ("a/b", "no such file"),
        ):
            with pytest.raises(OutputNotWrittenError, match=reason):
                states_written("n", [str(here / path)], [None], 0, Digests(), durable=True)

    def test_a_failed_check_leaves_the_file_as_it_is(self, ckpt):
        flow = Flow()
        flow.add("n", write, "a.txt", "one", outputs=["a.txt", "b.txt"])
        assert flow.run(ckpt, **INLINE).failed == 1
        assert Path("a.txt").read_text() == "one"

    def test_as_many_as_there_may_be_have_room_in_an_outcome(self):
        states = tuple(FileState(2**63 + i, 2**62 + i, os.urandom(32)) for i in range(MAX_OUTPUTS))
        outcome = Outcome(1, OutcomeKind.COMPLETED, NO_FIGURES, outputs=states)
        packed = pack_outcome(outcome)
        assert unpack_outcome(packed)[0] == outcome
        assert len(packed) + 20 * 1024 < MAX_OUTCOME_BYTES


class TestAResume:
    def run(self, log, ckpt, **options):
        return writes_and_reads(log, **options).run(ckpt, resume=True, **INLINE)

    def test_outputs_that_stand_as_they_did_change_nothing(self, log, ckpt):
        self.run(log, ckpt)
        assert self.run(log, ckpt).restored == 2
        touched("out/a.txt")  # another time: then the digest decides
        assert self.run(log, ckpt).restored == 2
        assert log.counts() == {"read": 1, "write": 1}

    @pytest.mark.parametrize("signing_key", [None, b"key"])
    def test_one_that_is_gone_is_written_again_and_what_took_the_result_stays(self, log, ckpt, caplog, signing_key):
        options = {"signing_key": signing_key, **INLINE}
        writes_and_reads(log).run(ckpt, **options)
        Path("out/a.txt").unlink()
        result = writes_and_reads(log).run(ckpt, resume=True, **options)
        assert (result.restored, result.succeeded) == (1, 2)
        assert Path("out/a.txt").read_text() == "one"
        assert log.counts() == {"read": 1, "write": 2}
        assert "node 'written' is made again: its output 'out/a.txt' is gone" in caplog.text
        assert writes_and_reads(log).run(ckpt, resume=True, **options).restored == 2

    @pytest.mark.parametrize("text", ["longer", "two"])
    def test_one_that_somebody_has_changed_is_written_again(self, log, ckpt, caplog, text):
        self.run(log, ckpt)
        Path("out/a.txt").write_text(text)
        touched("out/a.txt")
        assert self.run(log, ckpt).restored == 1
        assert Path("out/a.txt").read_text() == "one"
        assert "its output 'out/a.txt' has changed" in caplog.text

    def test_what_took_the_result_runs_again_if_the_output_became_another(self, log, ckpt):
        # The result is the same, 3; the child reads the file.
        self.run(log, ckpt)
        Path("out/a.txt").unlink()
        result = self.run(log, ckpt, text="two")
        assert result.value("read") == (3, "two")
        assert log.counts() == {"read": 2, "write": 2}

    def test_a_kill_between_the_look_and_the_new_result_loses_no_word_of_it(self, log, ckpt):
        self.run(log, ckpt)
        Path("out/a.txt").unlink()

        class Stop(BaseException):
            pass

        def stop(*_):
            raise Stop

        with pytest.raises(Stop):
            writes_and_reads(log).run(ckpt, resume=True, callbacks=dagron.ExecutionCallbacks(on_start=stop), **INLINE)
        assert dagron.CheckpointExecutor(writes_and_reads(log).dag, ckpt).checkpoint_info().completed_nodes == ["read"]
        Path("out/a.txt").write_text("two")
        assert self.run(log, ckpt).restored == 1
        assert Path("out/a.txt").read_text() == "one"

    def test_an_output_that_was_declared_later_has_only_to_be_there(self, log, ckpt):
        flow = Flow()
        flow.add("written", write, "out/a.txt", "one", log)
        flow.run(ckpt, **INLINE)
        declared = Flow()
        declared.add("written", write, "out/a.txt", "one", log, outputs=["out/a.txt"])
        assert declared.run(ckpt, resume=True, **INLINE).restored == 1
        Path("out/a.txt").unlink()
        assert declared.run(ckpt, resume=True, **INLINE).restored == 0

    def test_one_that_is_no_longer_declared_is_no_longer_looked_at(self, log, ckpt):
        self.run(log, ckpt)
        Path("out/a.txt").unlink()
        flow = Flow()
        flow.add("read", read, flow.add("written", write, "out/a.txt", "one", log), "out/a.txt", log)
        assert flow.run(ckpt, resume=True, **INLINE).restored == 2

    def test_a_checkpoint_that_can_only_be_read_gives_nothing_stale(self, log, ckpt, monkeypatch):
        self.run(log, ckpt)
        monkeypatch.setattr("dagron.checkpoint.files.directory.Directory.can_only_be_read", lambda self: True)
        assert self.run(log, ckpt).restored == 2
        Path("out/a.txt").unlink()
        with pytest.raises(dagron.CheckpointDirectoryError, match="would run: 'written'"):
            self.run(log, ckpt)

    def test_a_pruning_keeps_what_is_known_of_them(self, log, ckpt):
        self.run(log, ckpt)
        for _ in range(3):
            self.run(log, ckpt)
        flow = writes_and_reads(log)
        executor = dagron.CheckpointExecutor(flow.dag, ckpt, **INLINE)
        assert executor.prune_checkpoint().freed_bytes
        assert self.run(log, ckpt).restored == 2
        Path("out/a.txt").write_text("two")
        touched("out/a.txt")
        assert self.run(log, ckpt).restored == 1

    def test_a_directory_in_the_place_of_one_is_no_file(self, here):
        os.mkdir("a")
        status = os.stat("a")
        state = FileState(status.st_size, status.st_mtime_ns, b"")
        assert difference(str(here / "a"), state, Digests()) == "is no longer a file"
        assert difference(str(here / "a"), None, Digests()) == "is no longer a file"


class TestDeclaring:
    def test_each_node_of_a_map_has_its_own(self, ckpt):
        flow = Flow()
        nodes = flow.map("copy[{}]", lambda x: write(f"out/{x}.txt", x), ["a", "b"], outputs=[Path("out") / "{}.txt"])
        assert flow.run(ckpt, **INLINE).ok
        os.unlink("out/b.txt")
        result = flow.run(ckpt, resume=True, **INLINE)
        assert [result[node].restored for node in nodes] == [True, False]

    def test_one_path_for_all_nodes_of_a_map_is_refused(self):
        with pytest.raises(dagron.GraphError, match=r"'a\.txt' would be that of every node"):
            Flow().map("n[{}]", str, [1, 2], outputs=["a.txt"])

    def test_two_nodes_cannot_have_the_same(self, ckpt):
        flow = Flow()
        flow.add("a", print, outputs=["x/../same.txt"])
        flow.add("b", print, outputs=[os.path.abspath("same.txt")])
        with pytest.raises(SharedOutputError, match=r"nodes 'a' and 'b' have the same output '.*same\.txt'"):
            flow.run(ckpt, **INLINE)
        assert not ckpt.exists()

    def test_one_behind_a_symbolic_link_is_the_file_that_the_task_opens(self, ckpt, log, here):
        (here / "real/sub").mkdir(parents=True)
        (here / "link").symlink_to("real/sub")
        for _ in range(2):
            flow = Flow()
            flow.add("a", write, "link/../a.txt", "text", log, outputs=["link/../a.txt"])
            assert flow.run(ckpt, resume=True, **INLINE).ok
        assert (here / "real/a.txt").read_text() == "text"
        (here / "real/a.txt").unlink()
        assert flow.run(ckpt, resume=True, **INLINE).ok
        assert log.count("write") == 2
        flow.add("other", write, "a.txt", "another", outputs=["a.txt"])
        assert flow.run(ckpt, resume=True, **INLINE).ok
        flow.add("same", print, outputs=["real/a.txt"])
        with pytest.raises(SharedOutputError):
            flow.run(ckpt, resume=True, **INLINE)

    @pytest.mark.parametrize(
        "outputs", ["a.txt", b"a", {"a"}, [1], [""], ["a", "a"], ["\0"], [b"a"], None, ["a"] * 1001]
    )
    def test_what_is_no_list_of_paths_is_refused(self, outputs):
        with pytest.raises(OptionError, match="outputs"):
            Task(print, outputs=outputs)

    def test_a_task_has_them_as_texts(self):
        assert Task(print, outputs=[Path("a"), "b"]).outputs == ("a", "b")

    def test_relative_paths_follow_the_working_directory(self, log, ckpt, here, monkeypatch):
        writes_and_reads(log).run(ckpt, **INLINE)
        os.rename("out", "moved")
        os.mkdir("elsewhere")
        os.rename("moved", "elsewhere/out")
        monkeypatch.chdir("elsewhere")
        assert writes_and_reads(log).run(ckpt, resume=True, **INLINE).restored == 2


class TestTheCommandLine:
    JOB = """
        from pathlib import Path
        from dagron import Flow
        flow = Flow()
        flow.map("copy[{}]", lambda x: Path(f"{x}.txt").write_text(x), ["a", "b"], outputs=["{}.txt"])
    """

    @pytest.fixture
    def job(self, here, call):
        (here / "job.py").write_text("\n".join(line[8:] for line in self.JOB.splitlines()))
        call("run", "job.py", "--inline")
        os.unlink("b.txt")

    @pytest.mark.usefixtures("job")
    def test_what_would_run_again_and_why_is_said_before_it_does(self, call):
        out, _ = call("run", "job.py", "--resume", "--dry-run")
        assert "copy[b]  (its output 'b.txt' is gone)" in out
        out, _ = call("run", "job.py", "--resume", "--dry-run", "--json")
        assert [item["reason"] for item in json.loads(out)["to_run"]] == ["its output 'b.txt' is gone"]

    @pytest.mark.usefixtures("job")
    def test_status_and_show_say_it(self, call):
        out, _ = call("status", "job.py")
        assert "outputs  1 gone or changed" in out
        assert "copy[b]: b.txt is gone" in out
        found = json.loads(call("status", "job.py", "--json")[0])
        assert found["changed_outputs"] == [{"name": "copy[b]", "path": "b.txt", "difference": "is gone"}]
        out, _ = call("show", "job.py", "copy[b]")
        assert "output    b.txt is gone" in out
        out, _ = call("show", "job.py", "copy[a]")
        assert "output    1 B in a.txt" in out

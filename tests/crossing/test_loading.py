"""Results that no longer load: what they are made of is gone, was renamed, or is of another version."""

import pickle
import sys
from functools import partial

import pytest

import dagron
from dagron.cli import app
from dagron.crossing import loading
from dagron.errors import InputNotLoadableError, NotLoadableError, ResultNotLoadableError

PACKAGE = """
class Plain:
    pass

class Picky:
    def __init__(self):
        self.size = 1

    def __setstate__(self, state):
        self.__dict__.update(state)

class Leaving:
    def __setstate__(self, state):
        pass

    def __getstate__(self):
        return {"a": 1}

class Opening(Leaving):
    pass
"""

CHANGED = """
class Picky:
    def __setstate__(self, state):
        self.width = state["width"]

class Leaving:
    def __setstate__(self, state):
        raise SystemExit(7)

class Opening:
    def __setstate__(self, state):
        open("/no such file")
"""

JOB = """
import sys
import dagron

def make(kind):
    import of_results
    return [kind, getattr(of_results, kind)()]

def use(made, number):
    return number

flow = dagron.Flow()
for kind in ("Plain", "Picky", "Leaving", "Opening"):
    made = flow.add(f"make {kind}", make, kind)
    flow.add(f"use {kind}", use, made, flow.add(f"number {kind}", int), retries=2, retry_delay=0.0)
"""

KINDS = ("Plain", "Picky", "Leaving", "Opening")


def write_package(path, source):
    path.write_text(source)
    sys.modules.pop("of_results", None)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that results are made of, as a file that may be written again."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "of_results.py"
    write_package(path, PACKAGE)
    yield path
    sys.modules.pop("of_results", None)


def make(kind):
    import of_results

    return [kind, getattr(of_results, kind)()]


def use(made, number):
    return number


def flow_of():
    flow = dagron.Flow()
    for kind in KINDS:
        made = flow.add(f"make {kind}", partial(make, kind))
        flow.add(f"use {kind}", use, made, flow.add(f"number {kind}", int), retries=2, retry_delay=0.0)
    return flow


def made_only(flow, directory):
    """A checkpoint in which no result of a child counts."""
    assert flow.run(directory, pool="inline", durability="process").ok
    invalidate(directory, "use *")


def invalidate(directory, *names):
    with pytest.raises(SystemExit) as ended:
        app(["invalidate", str(directory), *names])
    assert not ended.value.code


REASONS = {
    "Plain": "AttributeError: ",
    "Picky": "KeyError: 'width'",
    "Leaving": "SystemExit: 7",
    "Opening": "FileNotFoundError: ",
}


@pytest.mark.parametrize("pool", ["inline", "process"])
def test_whoever_takes_one_names_its_parent_the_module_and_what_to_do_and_spends_no_retries(package, tmp_path, pool):
    flow, directory = flow_of(), tmp_path / "ckpt"
    made_only(flow, directory)
    write_package(package, CHANGED)
    result = flow.run(directory, resume=True, pool=pool, max_workers=1, durability="process")
    assert (result.restored, result.failed) == (8, 4)
    for kind in KINDS:
        child, parent = result[f"use {kind}"], f"make {kind}"
        assert isinstance(child.error, InputNotLoadableError)
        assert (child.error.node, child.error.parent, child.error.modules) == (f"use {kind}", parent, ["of_results"])
        # A file that cannot be opened now may be opened in a further attempt.
        assert child.attempts == (3 if kind == "Opening" else 1)
        with pytest.raises(ResultNotLoadableError) as asked:
            _ = result[parent].result
        for error in (child.error, asked.value):
            assert REASONS[kind] in str(error)
            assert str(error).endswith(f"make it again: dagron invalidate {directory} '{parent}'")
        assert f"use {kind}' was not called, as the result of its parent" in child.explain()
    assert "in __setstate__: self.width = state" in result["use Picky"].explain()
    assert "loading.py" not in result["use Plain"].explain()

    invalidate(directory, "make *")
    write_package(package, PACKAGE)
    assert flow.run(directory, resume=True, pool="inline", durability="process").ok


def test_a_module_that_is_gone_is_named_and_so_are_those_of_a_pickle_that_says_nothing_else(package, tmp_path):
    import of_results

    data = pickle.dumps([of_results.Plain(), of_results.Picky(), tmp_path])
    write_package(package, CHANGED)
    with pytest.raises(NotLoadableError) as missing:
        loading.load_value(data)
    assert missing.value.modules == ["of_results"]
    with pytest.raises(NotLoadableError) as broken:
        loading.load_value(data[: len(data) // 2])
    assert broken.value.reason.startswith(("UnpicklingError: ", "EOFError: "))
    package.unlink()
    sys.modules.pop("of_results", None)
    with pytest.raises(NotLoadableError, match="No module named 'of_results'") as gone:
        loading.load_value(data)
    assert gone.value.modules == ["of_results"]


def test_too_little_memory_and_ctrl_c_say_nothing_about_a_result():
    for kind in (MemoryError, KeyboardInterrupt):
        with pytest.raises(kind):
            loading.load_value(pickle.dumps(Raising(kind)))


class Raising:
    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return _raise, (self.kind,)


def _raise(kind):
    raise kind


def test_a_callback_that_is_to_have_one_is_told_by_a_warning_that_names_the_node(package, tmp_path, caplog):
    def unloadable():
        return Raising(ValueError)

    flow = dagron.Flow()
    flow.add("raises", unloadable)
    given = []
    callbacks = dagron.ExecutionCallbacks(on_complete=lambda *args: given.append(args))
    assert flow.run(tmp_path / "ckpt", pool="inline", callbacks=callbacks).ok
    assert not given
    assert "the result of node 'raises' cannot be loaded: ValueError" in caplog.text


class TestCommands:
    @pytest.fixture
    def job(self, package, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("path", "argv"):
            monkeypatch.setattr(sys, name, getattr(sys, name)[:])
        (tmp_path / "job.py").write_text(JOB)
        made_only(flow_of(), tmp_path / "checkpoints" / "job")
        write_package(package, CHANGED)
        yield f"dagron invalidate {tmp_path}/checkpoints/job 'make Plain'"
        sys.modules.pop("__dagron_file__", None)

    @pytest.mark.parametrize(
        "command",
        [
            ("debug", "job.py", "use Plain"),
            ("show", "job.py", "make Plain", "--unpickle"),
            ("run", "job.py", "--resume", "--inline", "--show", "make Plain", "--show", "number Plain"),
        ],
        ids=lambda command: command[0],
    )
    def test_each_that_loads_one_ends_with_3_and_what_to_paste(self, job, capsys, command):
        with pytest.raises(SystemExit) as ended:
            app([*command])
        out, err = capsys.readouterr()
        assert ended.value.code == 3
        assert job in err.splitlines()[-1]
        assert "please report" not in err
        assert "of_results" in err
        if command[0] == "run":
            assert out == "0\n"  # what can be shown is shown
            assert err.count(job) >= 3  # in its line, in the report, and of what was to be shown
            assert "dagron debug" not in err

    def test_what_to_paste_is_called_as_the_program_was_also_where_a_journal_has_the_text(
        self, job, monkeypatch, capsys
    ):
        monkeypatch.setattr("dagron.cli.program._program", lambda called: "python -m dagron")
        for command in (
            ("run", "job.py", "--resume", "--inline", "--show", "make Plain"),
            ("show", "job.py", "use Plain"),
            ("show", "job.py", "make Plain", "--unpickle"),
        ):
            with pytest.raises(SystemExit):
                app([*command])
            out, err = capsys.readouterr()
            assert f"make it again: python -m {job}" in out + err
            assert f"make it again: {job}" not in out + err

    def test_one_whose_repr_raises_is_told_as_that(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        for name in ("path", "argv"):
            monkeypatch.setattr(sys, name, getattr(sys, name)[:])
        (tmp_path / "job.py").write_text(
            "import dagron\nclass A:\n    def __repr__(self): return 1 / 0\n"
            "def make(): return A()\nflow = dagron.Flow()\nflow.add('make', make)\n"
        )
        with pytest.raises(SystemExit) as ended:
            app(["run", "job.py", "--inline", "--show", "make"])
        assert not ended.value.code
        assert "A, whose repr raised ZeroDivisionError: division by zero>" in capsys.readouterr().out

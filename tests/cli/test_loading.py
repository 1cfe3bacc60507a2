"""Loading a job runs no job: not its nodes, whichever command loads it; and what a job is given reaches it."""

import json
import shlex

import pytest

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.cli.exit_codes import UsageError
from dagron.cli.factory import call_factory

WORK = """
import dagron

def work(i):
    with open("effects", "a") as file:
        file.write("x")
    return i * i

flow = dagron.Flow()
xs = flow.map("x[{}]", work, range(3))
total = flow.add("total", sum, xs)
"""

EXECUTOR = "dagron.CheckpointExecutor(flow.dag, 'own', pool='inline')"


def write(tmp_path, text, name="job.py"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return name


def ran(tmp_path):
    return len((tmp_path / "effects").read_text()) if (tmp_path / "effects").exists() else 0


LASTS = {
    "a flow": "result = flow.run('own', resume=False)\n",
    "a flow in a function": "def main():\n    return flow.run('own', resume=True)\n\nmain()\n",
    "execute": f"{EXECUTOR}.execute(flow.tasks)\n",
    "resume": f"{EXECUTOR}.resume(flow.tasks)\n",
    "a script that catches what it can": "try:\n    flow.run('own', resume=True)\nexcept BaseException:\n    pass\n",
    "the same again": f"import subprocess\nflow.run('a', resume=True)\n{EXECUTOR}.resume(flow.tasks)\n"
    f"again = {EXECUTOR}\nagain.resume(flow.tasks)\n"
    "for n in range(3):\n    flow.run(str(n))\nsubprocess.run(['true'])\n",
    "twice the same": "for _ in range(2):\n    try:\n        flow.run('own', resume=True)\n    except:\n        pass\n",
}


@pytest.mark.parametrize("last", LASTS.values(), ids=LASTS)
def test_no_command_that_loads_a_job_runs_it_and_run_runs_it_once(call, tmp_path, last):
    job = write(tmp_path, WORK + last + "import sys\nprint('after the run', file=sys.stderr)\n")
    assert "4 of 4 nodes would run" in call("run", job, "--dry-run")[0]
    assert "total" in call("graph", job)[0]
    assert ran(tmp_path) == 0
    out, err = call("run", job, "--inline", "--show", "total")
    assert (out, ran(tmp_path)) == ("5\n", 3)
    assert "begins a run itself in line" in err
    call("debug", job, "total")
    call("report", job, "--dag", job)
    call("graph", job, "--dag", job)
    call("invalidate", job, "total", "--dag", job, "--dry-run")
    assert ran(tmp_path) == 3
    assert "after the run" in err if "except" in last else "after the run" not in err


def test_a_run_that_would_be_refused_is_a_run_like_any_other(call, tmp_path):
    job = write(tmp_path, WORK + "flow.run('own')\n")
    for _ in range(2):  # the second time there is a checkpoint, and the script does not say what becomes of it
        call("run", job, "--inline", "-d", "own", "--resume")
    assert ran(tmp_path) == 3


def test_a_module_whose_import_a_run_has_ended_is_a_job_like_a_file(call, tmp_path):
    write(tmp_path, "", "package/__init__.py")
    write(tmp_path, WORK + "flow.run('own', resume=True)\n", "package/job.py")
    assert "4 of 4 nodes would run" in call("run", "package.job", "--dry-run")[0]
    assert call("run", "package.job", "--inline", "--show", "total")[0] == "5\n"
    assert ran(tmp_path) == 3


MEANT = {
    "another flow is named": ("other = dagron.Flow()\nother.add('one', work, 1)\nflow.run('own')\n", "job.py:other"),
    "the flow of the module": ("flow.run('own')\n", "job.py:flow"),
}


@pytest.mark.parametrize(("last", "target"), MEANT.values(), ids=MEANT)
def test_what_a_colon_names_counts_also_where_the_job_begins_a_run(call, tmp_path, last, target):
    write(tmp_path, WORK + last)
    out, _ = call("run", target, "--dry-run", "--json")
    assert json.loads(out)["to_run"][0]["name"] == ("one" if "other" in target else "x[0]")


UNCLEAR = {
    "two flows": ("other = dagron.Flow()\nother.add('one', work, 1)\ntry:\n    other.run('a')\nexcept BaseException:\n"
                  "    flow.run('b')\n", "job.py", "more than one flow"),
    "a second stage": ("n = flow.run('a').value(total)\nsecond = dagron.Flow()\nsecond.run('b')\n", "job.py",
                       "begins several runs, in lines 12 and 14"),
    "a flow made before": ("other = dagron.Flow()\nother.add('o', work, 1)\nflow.run('a')\nother.run('b')\n", "job.py",
                           "begins several runs, in lines 14 and 15"),
    "made by a function": ("del flow\ndef make(n):\n    flow = dagron.Flow()\n    return flow\n"
                           "make(1).run('a')\nprint(make(2).run('b'))\n", "job.py", "in lines 16 and 17"),
    "made in a loop": ("for n in range(2):\n    flow = dagron.Flow()\n    flow.run(str(n))\n", "job.py",
                       "in line 14 again and again"),
    "another executor": (f"{EXECUTOR}.execute(flow.tasks)\ndagron.CheckpointExecutor(dagron.DAG([]), 'b')"
                         ".execute({})\n",
                         "job.py", "in lines 12 and 13"),
    "another than `flow`": ("other = dagron.Flow()\nother.run('a')\n", "job.py", "has a `flow`"),
    "not defined yet": ("flow.run('a')\nlater = flow\n", "job.py:later", "has no `later`"),
    "an import runs one": ("import helper\n", "job.py", "the module 'helper', which 'job.py' imports,"),
    "a package around it": ("", "package.job", "a package around 'package.job'"),
}  # fmt: skip


@pytest.mark.parametrize(("last", "target", "message"), UNCLEAR.values(), ids=UNCLEAR)
def test_where_it_is_not_clear_which_job_is_meant_the_error_says_to_guard_it(call, tmp_path, last, target, message):
    write(tmp_path, WORK + last)
    write(tmp_path, WORK + "flow.run('own')\n", "helper.py")
    write(tmp_path, WORK + "flow.run('own')\n", "package/__init__.py")
    write(tmp_path, WORK, "package/job.py")
    _, err = call("run", target, expect=2)
    assert message in err
    assert "if __name__ == '__main__':" in err
    assert ran(tmp_path) == 0


def test_a_guarded_run_is_no_matter_and_runs_begin_again_once_the_job_is_loaded(call, tmp_path):
    nested = "def work(i):\n    inner = dagron.Flow()\n    inner.add('a', lambda: i)\n"
    nested += "    return inner.run(f'inner-{i}', resume=True, pool='inline').value('a')\n"
    text = (
        f"import dagron\n{nested}flow = dagron.Flow()\nflow.add('n', work, 7)\nif __name__ == '__main__':\n    1 / 0\n"
    )
    assert call("run", write(tmp_path, text), "--inline", "--show", "n")[0] == "7\n"


def test_a_worker_runs_no_flow_of_a_module_that_it_imports(tmp_path, monkeypatch):
    write(tmp_path, WORK + "flow.run('own', resume=True)\n", "alone.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def task():
        import alone

        return alone.total

    flow = dagron.Flow()
    node = flow.add("node", task)
    error = flow.run("ckpt", resume=True, max_workers=1)[node].error
    assert isinstance(error, dagron.UnguardedRunError)
    assert "'alone' begins a run while it is only loaded" in str(error)
    assert ran(tmp_path) == 0


# --- what a job is given ---------------------------------------------------------------------------------------------

PARSING = """
import argparse
import dagron

parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int, default=1)
n = parser.parse_args().n
flow = dagron.Flow()
flow.add("n", lambda: 1 / n)

def make(n: int, word="a"):
    flow = dagron.Flow()
    flow.add("n", lambda: (1 / n, word))
    return flow
"""


def recorded(where):
    return read_ledger(Directory(where)).origin


def test_what_follows_two_dashes_is_in_argv_is_recorded_and_is_in_what_is_proposed(call, tmp_path):
    job = write(tmp_path, PARSING)
    _, err = call("run", job, "--inline", "--", "--n", "0", expect=1)
    assert recorded(tmp_path / "checkpoints" / "job").arguments == ("--n", "0")
    assert f"run {job} --inline --resume -- --n 0" in err
    assert f"job      {job} -- --n 0\n" in call("status", job)[0]
    assert json.loads(call("status", job, "--json")[0])["arguments"] == ["--n", "0"]
    (command,) = [line.partition("here: ")[2] for line in err.splitlines() if "to try that node" in line]
    assert "ZeroDivisionError" in call(*shlex.split(command)[1:-1], expect=1)[1]  # without --pdb
    _, err = call("run", job, "--inline", "--resume", "--", "--n", "2")
    assert "the run before gave the job `-- --n 0`, this one gives it `-- --n 2`" in err
    assert "gave the job" not in call("run", job, "--inline", "--resume", "--", "--n", "2")[1]
    assert "this one gives it nothing" in call("run", job, "--resume", "--dry-run")[1]


def test_a_function_that_makes_the_flow_gets_parameters_which_are_recorded_and_proposed(call, tmp_path):
    job = write(tmp_path, PARSING) + ":make"
    _, err = call("run", job, "--inline", "-p", "n=0", "-p", "word=b c", expect=1)
    assert recorded(tmp_path / "checkpoints" / "job.make").parameters == (("n", "0"), ("word", "b c"))
    assert f"run {job} --inline -p n=0 -p 'word=b c' --resume" in err
    assert f"job      {job} -p n=0 -p 'word=b c'\n" in call("status", job)[0]
    assert "ZeroDivisionError" in call("debug", job, "n", expect=1)[1]
    assert "this one gives it `-p n=4`" in call("run", job, "--resume", "--dry-run", "-p", "n=4")[1]
    assert call("run", job, "--inline", "--fresh", "-p", "n=4", "--show", "n")[0] == "(0.25, 'a')\n"


def test_a_drawing_of_a_job_that_has_not_run_takes_what_the_job_is_given(call, tmp_path):
    write(tmp_path, PARSING)
    assert '["n"]' in call("graph", "job.py:make", "-p", "n=3", "--", "--n", "2")[0]


WRONG = {
    "unknown": (("job.py:make", "-p", "n=1", "-p", "wrd=2"), "no parameter 'wrd'; did you mean 'word'?"),
    "missing": (("job.py:make",), "needs a parameter: -p n=..."),
    "no number": (("job.py:make", "-p", "n=one"), "-p n=one: it has to be of type int"),
    "twice": (("job.py:make", "-p", "n=1", "-p", "n=2"), "-p n is given 2 times"),
    "no function": (("job.py:flow", "-p", "n=1"), "-p is for a function"),
    "none named": (("job.py", "-p", "n=1"), "-p is for a function"),
    "no pair": (("job.py:make", "-p", "n"), "'n' is not of the form NAME=VALUE"),
    "an option of the job": (("job.py", "--n", "3"), "What is for the job comes after `--`"),
    "a word of the job": (("job.py", "3"), "What is for the job comes after `--`"),
    "not taken": (("job.py", "--", "--m", "3"), "'job.py' has ended before it made a job; nothing was run"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_an_error_before_anything_runs(call, tmp_path, arguments, message):
    write(tmp_path, PARSING)
    _, err = call("run", *arguments, expect=2)
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "checkpoints").exists()


def test_a_job_that_only_has_a_function_is_told_how_that_is_named(call, tmp_path):
    text = f"def main():\n    {WORK.replace(chr(10), chr(10) + '    ')}\n    flow.run('own')\n"
    write(tmp_path, text + "if __name__ == '__main__':\n    main()\n")
    assert "can be named: job.py:main" in call("run", "job.py", expect=2)[1]
    assert "4 of 4 nodes would run" in call("run", "job.py:main", "--dry-run")[0]


def test_a_function_that_fails_is_told_with_its_traceback_and_what_is_no_flow_with_its_type(call, tmp_path):
    write(tmp_path, "def fail():\n    return 1 / 0\n\ndef other():\n    return 3\n")
    assert "ZeroDivisionError" in call("run", "job.py:fail", expect=2)[1]
    assert "returned a value of type int" in call("run", "job.py:other", expect=2)[1]


def test_texts_become_what_annotations_or_defaults_say():
    from enum import Enum
    from pathlib import Path
    from typing import Literal

    class Colour(Enum):
        RED = 1

    def every(a: int, b: float, /, c: bool, d: Path, *, e: Colour, f: Literal["x", 3], g: int | str | None,
              h: list[int], i=2.5, j="j", k=None, **others):  # fmt: skip
        return a, b, c, d, e, f, g, h, i, j, k, others

    texts = {
        "a": "1",
        "b": "2",
        "c": "off",
        "d": "x/y",
        "e": "RED",
        "f": "3",
        "g": "none",
        "i": "7",
        "k": "5",
        "z": "z",
    }
    given = [*texts.items(), ("h", "1"), ("h", "2")]
    expected = 1, 2.0, False, Path("x/y"), Colour.RED, 3, None, [1, 2], 7.0, "j", "5", {"z": "z"}
    assert call_factory("every", every, given) == expected
    for wrong in ({"c": "perhaps"}, {"e": "BLUE"}, {"f": "y"}):
        with pytest.raises(UsageError, match="it has to be"):
            call_factory("every", every, [*{**dict(given), **wrong}.items()])

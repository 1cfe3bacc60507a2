"""Paths are found whatever the job does to the working directory, and commands that are proposed can be pasted."""

import json
import os
import subprocess
import sys

import pytest
from proposed import MANY_FAIL, PROPOSED

from dagron.cli import program

JOB = """
import os
import dagron

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "data"))

def bad(i):
    return 1 / (i - 7)

flow = dagron.Flow()
parts = flow.map("part[{}]", bad, range(6, 9))
"""


@pytest.fixture
def call(call, tmp_path):
    """As elsewhere, and each command is begun in the directory of the job."""
    (tmp_path / "data").mkdir()
    (tmp_path / "job.py").write_text(JOB)

    def call_here(*arguments, **options):
        os.chdir(tmp_path)
        return call(*arguments, **options)

    return call_here


@pytest.mark.parametrize("directory", [(), ("-d", "ck")], ids=["default", "given"])
def test_a_job_that_changes_the_directory_keeps_its_checkpoint_and_its_files_where_the_user_is(
    call, tmp_path, directory
):
    where = directory[-1] if directory else "job.py"
    _, err = call("run", "job.py", *directory, "--inline", "--trace", "trace.json", expect=1)
    shown = "ck" if directory else "checkpoints/job"
    assert f"checkpoint in {shown}\n" in err
    assert {path.name for path in tmp_path.iterdir()} == {"data", "job.py", "trace.json", shown.partition("/")[0]}
    assert f"debug {shown} 'part[7]' job.py --pdb" in err
    assert "ZeroDivisionError" in call("debug", where, "part[7]", "job.py", expect=1)[1]
    assert "2/3" in call("status", where)[0]
    assert json.loads(call("run", "job.py", *directory, "--dry-run", "--resume", "--json")[0])["restored"] == 2
    assert "2 restored" in call("run", "job.py", *directory, "--inline", "--resume", expect=1)[1]
    call("graph", where, "--dag", "job.py", "-o", "graph.svg")
    call("report", where, "--dag", "job.py", "-o", "page.html")
    call("invalidate", where, "part[6]", "--dag", "job.py")
    assert "1/3" in call("status", where)[0]
    assert {"graph.svg", "page.html"} < {path.name for path in tmp_path.iterdir()}
    assert [*(tmp_path / "data").iterdir()] == []


def test_where_a_checkpoint_is_looked_for_in_vain_is_told_as_an_absolute_path(call, tmp_path):
    _, err = call("status", "job.py", expect=3)
    assert repr(str(tmp_path / "checkpoints" / "job")) in err
    assert repr(str(tmp_path / "nowhere")) in call("ls", "nowhere", expect=3)[1]


def test_a_path_that_is_empty_is_an_error_and_not_the_directory_of_now(call, tmp_path):
    assert "the path is empty" in call("run", "job.py", "-d", "", expect=2)[1]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "job.py"}


# --- commands that are proposed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-x"], ["two\nlines", "\x1b[31m"], ["it's", "\\", "", "ä", "\udcff\x07ab"]])
def test_no_word_reaches_the_shell_as_another_or_the_terminal_as_an_escape(words):
    command = program.proposed(*words)
    assert command.isprintable()
    found = subprocess.check_output(["bash", "-c", command.replace("dagron", "printf '%s\\0'", 1)])
    assert [os.fsdecode(word) for word in found.split(b"\0")[:-1]] == words


def test_a_node_that_looks_like_an_option_is_proposed_as_none(call, tmp_path):
    (tmp_path / "job.py").write_text(MANY_FAIL.replace("it's $HOME & more", "-x"))
    _, err = call("run", "job.py", "--inline", expect=1)
    (command,) = [text for text in PROPOSED.findall(err) if " debug " in text]
    assert command == "dagron debug --pdb -- checkpoints/job -x job.py"
    words = command.replace("--pdb ", "").split()[1:]
    assert "ValueError: 0" in call(*words, expect=1)[1]


def test_the_job_is_proposed_that_the_checkpoint_has_recorded(call, tmp_path):
    call("run", "job.py", "--inline", expect=1)
    _, err = call("debug", "checkpoints/job", "part[6]", expect=2)
    assert err.endswith("too: dagron debug checkpoints/job 'part[6]' job.py\n")


def test_the_program_is_proposed_by_its_name_only_where_a_shell_finds_that_very_one(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagron").touch(mode=0o755)
        (tmp_path / name / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    assert program._program(str(tmp_path / "first" / "dagron")) == "dagron"
    assert program._program(str(tmp_path / "second" / "dagron")) == str(tmp_path / "second" / "dagron")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "second" / "python3"))
    assert program._program("/x/dagron/__main__.py") == f"{tmp_path / 'second' / 'python3'} -m dagron"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "first" / "python3"))
    assert program._program("/x/dagron/__main__.py") == "python3 -m dagron"

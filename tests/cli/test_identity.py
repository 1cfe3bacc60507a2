"""Whose checkpoint it is: two jobs share none by accident, and one job keeps its own when it is moved or renamed."""

import os
import shlex
import shutil
from pathlib import Path

import pytest

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.cli.target import default_checkpoint_dir

JOB = "import dagron\nflow = dagron.Flow()\nflow.add('report', lambda: 'experiment {}')\n"
EDITED = JOB + "flow.add('more', lambda: 1)\n"


@pytest.fixture
def call(call, tmp_path):
    """As elsewhere, with `--inline` for each run, in a directory with two experiments."""
    for number in "12":
        (tmp_path / f"exp{number}").mkdir()
        (tmp_path / f"exp{number}" / "job.py").write_text(JOB.format(number))
    return lambda verb, *arguments, **options: call(
        verb, *(["--inline"] if verb == "run" else []), *arguments, **options
    )


def test_two_files_of_one_name_have_two_checkpoints_each_beside_its_file(call, tmp_path):
    for number in "12":
        out, _ = call("run", f"exp{number}/job.py", "--resume", "--show", "report")
        assert out == f"experiment {number}\n"
        assert (tmp_path / f"exp{number}" / "checkpoints" / "job" / "_journal").exists()
    assert "exp1/checkpoints/job" in call("status", "exp1/job.py")[0]


@pytest.mark.parametrize(
    ("target", "directory"),
    [
        ("job.py", "checkpoints/job"),
        ("exp/job.py:make", "exp/checkpoints/job.make"),
        ("../exp/job", "../exp/checkpoints/job"),
        ("job", "checkpoints/job"),
        ("package.job:nightly", "checkpoints/package.job.nightly"),
    ],
)
def test_the_default_is_beside_a_file_and_for_a_module_in_the_working_directory_under_its_full_name(target, directory):
    assert default_checkpoint_dir(target) == directory


OTHERS = {
    "the same nodes": (JOB.format(2), "exp2/job.py"),
    "other nodes": (EDITED.format(2), "exp2/job.py"),
    "a copy of the file": (JOB.format(1), "exp1/copy.py"),
    "another flow of the file": (JOB.format(1) + "other = flow\n", "exp1/job.py:other"),
}


@pytest.mark.parametrize(("text", "target"), OTHERS.values(), ids=OTHERS)
def test_another_job_on_the_same_directory_is_an_error_that_names_both_and_adopt_goes_on(call, tmp_path, text, target):
    call("run", "exp1/job.py", "-d", "ck")
    journal = (tmp_path / "ck" / "_journal").read_bytes()
    Path(target.partition(":")[0]).write_text(text)
    for how in (["--resume"], ["--fresh"], ["--dry-run"], ["--dry-run", "--fresh"], []):
        _, err = call("run", target, "-d", "ck", *how, expect=3)
        assert err.startswith("dagron: error: the checkpoint in 'ck' is of another job, 'exp1/job.py', which is still")
        assert f"and not of {target!r}; give that a directory of its own with -d, or pass --adopt" in err
    assert (tmp_path / "ck" / "_journal").read_bytes() == journal
    assert "note: the checkpoint is of the job exp1/job.py" in call("debug", "ck", "report", target)[1]
    assert call("run", target, "-d", "ck", "--resume", "--adopt", "--show", "report")[0] == "experiment 1\n"
    call("run", target, "-d", "ck", "--resume")  # it is this job's now
    call("run", "exp1/job.py:flow", "-d", "ck", "--resume", expect=3)


def test_a_checkpoint_without_results_is_nobodys(call):
    Path("exp1/job.py").write_text(JOB.format(1).replace("'experiment 1'", "1 / 0"))
    call("run", "exp1/job.py", "-d", "ck", expect=1)
    assert call("run", "exp2/job.py", "-d", "ck", "--resume", "--show", "report")[0] == "experiment 2\n"


def edited(path):
    Path(path).write_text(EDITED.format(1))


def moved_with_its_checkpoint():
    os.rename("exp1", "moved")
    return "moved/job.py", ()


def moved_and_edited():
    os.rename("exp1", "moved")
    edited("moved/job.py")
    return "moved/job.py", ()


def copied():
    shutil.copytree("exp1", "copied")
    edited("copied/job.py")
    return "copied/job.py", ()


def renamed():
    os.rename("exp1/job.py", "exp1/new.py")
    return "exp1/new.py", ("-d", "exp1/checkpoints/job")


def checkpoint_moved_and_edited():
    os.rename("exp1/checkpoints", "elsewhere")
    edited("exp1/job.py")
    return "exp1/job.py", ("-d", "elsewhere/job")


def over_a_link():
    os.rename("exp1/checkpoints", "elsewhere")
    os.symlink("../elsewhere", "exp1/checkpoints")
    return "exp1/job.py", ()


def from_another_directory():
    edited("exp1/job.py")
    os.chdir("exp1")
    return "job.py", ()


SAME = [
    *(moved_with_its_checkpoint, moved_and_edited, copied, renamed),
    *(checkpoint_moved_and_edited, over_a_link, from_another_directory),
]


@pytest.mark.parametrize("change", SAME, ids=lambda change: change.__name__)
def test_a_job_that_was_moved_renamed_or_edited_goes_on(call, change):
    call("run", "exp1/job.py")
    target, options = change()
    _, err = call("run", target, *options, "--resume")
    assert "(1 restored)" in err


def test_a_job_that_was_renamed_is_told_what_it_has_made_under_its_old_name(call, tmp_path):
    call("run", "exp1/job.py")
    os.rename("exp1/job.py", "exp1/new.py")
    _, err = call("run", "exp1/new.py", "--dry-run", "--retries", "1")
    text = (
        "'exp1/checkpoints/job' is of the job 'exp1/job.py', which is no longer there and has the same nodes; to go on"
    )
    assert err.startswith(f"dagron: {text}")
    command = shlex.split(err.partition("to go on with that: ")[2])
    assert command[:2] == ["dagron", "run"]
    assert "--adopt" not in command
    assert "--dry-run" in command
    assert "nothing would run" in call(*command[1:])[0]
    assert "is of the job" not in call("run", "exp1/new.py", "--fresh")[1]
    assert "is of the job" not in call("run", "exp1/new.py", "--resume")[1], "it has a checkpoint of its own by now"


def test_what_may_be_the_same_job_is_told_with_what_takes_it_over(call):
    call("run", "exp1/job.py")
    shutil.copy("exp1/job.py", "exp1/copy.py")
    _, err = call("run", "exp1/copy.py")
    assert "'exp1/checkpoints/job' is of the job 'exp1/job.py', which has the same nodes; to go on with that:" in err
    assert "1 restored" in call(*shlex.split(err.partition("with that: ")[2].splitlines()[0])[1:])[1]
    os.rename("exp1/copy.py", "exp1/new.py")
    edited("exp1/new.py")
    _, err = call("run", "exp1/new.py")
    assert "'exp1/copy.py', which is no longer there; to go on with that: " in err
    assert "--adopt" in err


def test_a_job_beside_others_is_told_nothing(call):
    Path("exp1/other.py").write_text(EDITED.format(1))
    call("run", "exp1/other.py")
    assert "is of the job" not in call("run", "exp1/job.py")[1]
    assert "is of the job" not in call("run", "exp2/job.py", "-d", "exp1/checkpoints/mine")[1], (
        "a place that was chosen"
    )


def test_a_function_that_was_renamed_goes_on_and_what_was_renamed_and_has_other_nodes_is_asked_about(call):
    text = "import dagron\ndef {}():\n    flow = dagron.Flow()\n    flow.add({!r}, lambda: 1)\n    return flow\n"
    Path("exp1/job.py").write_text(text.format("first", "node"))
    call("run", "exp1/job.py:first", "-d", "ck")
    Path("exp1/job.py").write_text(text.format("second", "node"))
    assert "(1 restored)" in call("run", "exp1/job.py:second", "-d", "ck", "--resume")[1]
    os.unlink("exp1/job.py")
    _, err = call("run", "exp2/job.py", "-d", "ck", "--resume", expect=3)
    assert "of another job, 'exp1/job.py:second', which is no longer there and had other nodes or edges" in err
    call("run", "exp2/job.py", "-d", "ck", "--resume", "--adopt")


def test_modules_are_told_apart_by_their_names_and_one_named_as_a_file_is_the_same(call):
    for name in ("one", "two"):
        Path(f"{name}.py").write_text(JOB.format(name))
    call("run", "one", "-d", "ck")
    assert "'one'" in call("run", "two", "-d", "ck", "--resume", expect=3)[1]
    assert "(1 restored)" in call("run", "one", "-d", "ck", "--resume")[1]
    assert "(1 restored)" in call("run", "one.py", "-d", "ck", "--resume")[1]


def test_a_directory_beside_the_file_that_cannot_be_written_is_told_with_the_option_that_says_another(call):
    Path("exp1/checkpoints").touch()
    assert "-d says where else" in call("run", "exp1/job.py", expect=3)[1]
    Path("ck").touch()
    assert "-d says where else" not in call("run", "exp1/job.py", "-d", "ck", expect=3)[1]


def test_programs_share_a_directory_as_they_say_and_the_command_line_takes_what_they_have_made(call, tmp_path):
    def run(*names):
        flow = dagron.Flow()
        for name in names:
            flow.add(name, lambda: "of a program")
        return flow.run(tmp_path / "ck", resume=True, pool="inline").restored

    assert run("report") == 0
    assert run("report", "another") == 1  # another DAG, which is changed as ever
    assert call("run", "exp1/job.py", "-d", "ck", "--resume", "--show", "report")[0] == "of a program\n"
    assert run("report") == 1
    assert read_ledger(Directory(tmp_path / "ck")).origin.path == str(tmp_path / "exp1" / "job.py")
    call("run", "exp2/job.py", "-d", "ck", "--resume", expect=3)  # the program's run has not made it forget whose it is

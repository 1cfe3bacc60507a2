"""What the guides in `docs/` tell people to type in a shell, typed: line by line, with the exit codes they name."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from places import ROOT, SRC

from dagron.looking.status import checkpoint_status

DOCS = ROOT / "docs"

JOB = """
import dagron

flow = dagron.Flow()
parts = flow.map("parse[{}]", abs, range(-2, 1))
flow.add("total", sum, parts)
"""


def page(name):
    return (DOCS / name).read_text(encoding="utf-8")


def marked(text, marker):
    """The code block behind a marker."""
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"nothing is marked as {marker}"
    return found[1]


@pytest.fixture
def shell(tmp_path):
    """`shell(script)`: run it in a directory, with a command `dagron` that is this one; what it printed."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "dagron").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dagron "$@"\n')
    (commands / "dagron").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": SRC, "PATH": f"{commands}:{os.environ['PATH']}"}

    def run(script, expect=0, **variables):
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=work,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == expect, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run.directory = work
    return run


def checked(block):
    """A block as a script that ends with an error where a line has another exit code than its comment says."""
    lines = []
    for line in block.splitlines():
        expected = re.search(r"# .*\bexit code (\d+)", line)
        command = line.partition("   #")[0]
        if command.startswith("export "):
            lines.append(command)
        else:
            lines.append(f"{command}\n[ $? = {expected[1] if expected else 0} ] || exit 99")
    return "\n".join(lines)


def test_the_commands_about_resuming(shell):
    (shell.directory / "job.py").write_text(JOB)
    shell("dagron run job.py --inline")
    block = re.search(r"```sh\n(.*?)```", page("resuming.md"), re.DOTALL)[1]
    assert block.count("dagron") == 4
    said = shell(checked(block.replace("--fresh", "--fresh --inline")))
    assert "4 of 4 nodes would run" in said


def test_the_commands_about_a_signing_key(shell):
    (shell.directory / "job.py").write_text(JOB)
    steps = marked(page("security.md"), "steps")
    assert "exit code 3" in steps
    shell(checked(re.sub(r"dagron run job.py", "dagron run job.py --inline", steps)))


def test_the_scripts_for_a_cluster(shell):
    text = page("cluster.md")
    for name in re.findall(r"<!-- file (\S+) -->", text):
        (shell.directory / name).write_text(marked(text, f"file {name}"))
    for name in re.findall(r"<!-- script (\S+) -->", text):
        (shell.directory / name).write_text(marked(text, f"script {name}"))
    (shell.directory / "job.py").write_text(JOB)
    pieces = range(2)
    assert f"--array=0-{pieces[-1]}" in text

    slurm = {"SLURM_CPUS_PER_TASK": "1"}
    shell("bash job.sh", **slurm)
    for piece in pieces:
        shell("bash piece.sh", SLURM_ARRAY_TASK_ID=str(piece), **slurm)
    expected = sum(int(digit) for number in range(200) for digit in str(2**number))
    assert shell("bash merge.sh", **slurm) == f"{expected}\n"
    # On a copy of what the first script has made: nothing is left to do, and it is copied back.
    before = (shell.directory / "checkpoints/job/_journal").stat().st_ino
    shell("bash local.sh", TMPDIR=str(shell.directory), **slurm)
    after = (shell.directory / "checkpoints/job/_journal").stat().st_ino
    assert after != before
    assert checkpoint_status(shell.directory / "checkpoints/job").completed == 4


def test_the_jobs_that_are_shown_exist():
    from importlib import import_module

    commands = re.findall(r"dagron run (dagron\.jobs\.\w+) --show (\S+)", page("examples.md"))
    assert len(commands) == 3
    for module, node in commands:
        job = import_module(module)
        assert node in (job.flow.dag if hasattr(job, "flow") else job.dag)


def test_the_index_has_every_guide():
    listed = set(re.findall(r"\]\((\w[\w-]*\.md)\)", page("README.md")))
    assert listed == {path.name for path in DOCS.glob("*.md")} - {"README.md"}

"""What the README and the pages beside it show is what happens: code blocks run, tables agree with the code."""

import os
import re
import subprocess
import sys

import pytest
from places import ROOT, SRC

README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV = {**os.environ, "PYTHONPATH": SRC}

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}

PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def blocks_of_pages():
    """Page -> its Python blocks; one that needs what may not be installed, such as another engine, by itself."""
    found = {}
    for name, text in PAGES.items():
        for i, (needed, block) in enumerate(re.findall(r"```python(?: needs=([\w,]+))?\n(.*?)```", text, re.DOTALL)):
            found.setdefault((needed, f"{name}-{i}" if needed else name), []).append(block)
    return found


BLOCKS = blocks_of_pages()

RUN_EACH = """
import os, runpy, sys, dagron
dagron.CheckpointExecutor  # which imports it
for i, directory in enumerate(sys.argv[1:]):
    pid = os.fork()
    if pid == 0:
        os.chdir(directory)
        for fd in (1, 2):
            os.dup2(os.open(f"{i}-{fd}", os.O_WRONLY | os.O_CREAT), fd)
        sys.argv, sys.path[0] = ["block.py"], directory
        runpy.run_path("block.py", run_name="__main__")
        sys.exit()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(os.path.join(directory, f"{i}-code"), "w") as file:
        file.write(str(code))
"""
"""Runs scripts one after another, each in a process of its own, into which the library was imported beforehand."""


def run_each(directories):
    """Run `block.py` in each of these directories; the exit codes with what was printed and what was said."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_EACH, *map(str, directories)],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [
        (int((at / f"{i}-code").read_text()), (at / f"{i}-1").read_text(), (at / f"{i}-2").read_text())
        for i, at in enumerate(directories)
    ]


def marked(marker):
    """The code block behind a marker."""
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README has no {marker}"
    return found[1]


@pytest.mark.parametrize(
    ("needed", "blocks"), [(key[0], found) for key, found in BLOCKS.items()], ids=[k[1] for k in BLOCKS]
)
def test_each_python_block_runs_as_a_script(needed, blocks, tmp_path):
    for package in filter(None, needed.split(",")):
        pytest.importorskip(package)
    directories = [tmp_path / str(i) for i in range(len(blocks))]
    for directory, block in zip(directories, blocks, strict=True):
        directory.mkdir()
        (directory / "block.py").write_text(block)
    for block, (code, out, err) in zip(blocks, run_each(directories), strict=True):
        assert (code, err) == (0, ""), block
        # A comment behind a print says what it prints, on the first run before a comma, with ... for what differs.
        for shown in re.findall(r"^ *print\(.*\)\s+# (.*)$", block, re.MULTILINE):
            pattern = re.escape(shown.split(", and")[0]).replace(re.escape("..."), ".*")
            assert re.search(pattern, out), (shown, out)


@pytest.mark.parametrize(
    ("ckpt", "printed"),
    [("ckpt-primes", ["9592 0\n", "9592 11\n"]), ("ckpt-squares", ["333083000 0\n", "333083000 4\n"])],
)
def test_the_first_examples_say_what_their_second_runs_print(tmp_path, ckpt, printed):
    (block,) = [block for block in PYTHON_BLOCKS if ckpt in block]
    (tmp_path / "block.py").write_text(block)
    assert [out for _, out, _ in run_each([tmp_path, tmp_path])] == printed


def test_the_kill_demonstration_gives_the_report_of_an_undisturbed_run(tmp_path):
    demonstration = marked("kill demonstration")
    assert "kill -9" in demonstration
    # As the README has it, but with this interpreter, and with fewer files so that it is quick.
    (tmp_path / "small.py").write_text(
        "from dagron.jobs import stdlib_analysis as job\ndag, tasks = job.build(job.FILES[::24], job.LIBRARY_ROOT)\n"
    )
    command = f'"{sys.executable}" -m dagron'
    script = re.sub(r"^dagron ", f"{command} ", demonstration, flags=re.MULTILINE)
    script = script.replace("dagron.jobs.stdlib_analysis", "small.py")
    # However long its start takes on a busy machine, it is to be in the middle.
    script = script.replace("sleep 2", "until ls ckpt-demo/*.pkl >/dev/null 2>&1; do sleep 0.05; done")
    assert "until" in script
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=100)
    assert "small" in done.stdout or "ckpt-demo" in done.stdout, done.stderr
    once = subprocess.run(
        ["bash", "-c", f"{command} run small.py -d undisturbed --inline --show report"],
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
    )
    assert once.returncode == 0, once.stderr
    assert (tmp_path / "report.txt").read_text() == once.stdout


def test_the_table_of_exit_codes_is_that_of_the_command():
    from dagron.cli.exit_codes import MEANINGS

    table = re.search(r"\| code \| meaning \|\n\|.*\n((?:\| *\d+ .*\n)+)", README)
    assert table is not None
    codes = [int(row.split("|")[1]) for row in table[1].splitlines()]
    assert codes == [int(code) for code in MEANINGS]


def test_the_two_commands_need_only_python_and_pip():
    for marker in ("run command", "test command"):
        command = marked(marker).strip()
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert all(part.strip().startswith((".venv/bin/", "python3 -m venv")) for part in command.split("&&"))


def anchors(path):
    """What the headings of a page can be linked by, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists(page):
    for target, anchor in re.findall(r"\]\(([^):#]*)(?:#([\w-]+))?\)", PAGES[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), (target, anchor)

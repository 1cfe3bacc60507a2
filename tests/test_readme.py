"""What the README and the pages beside it show is what happens: code blocks run, tables agree with the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dagron

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SRC = os.path.dirname(os.path.dirname(dagron.__file__))
ENV = {**os.environ, "PYTHONPATH": SRC}

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
}

PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# What a block says that it needs, such as another engine to compare with, may not be installed.
ALL_BLOCKS = {
    f"{name}-{i}": found
    for name, text in PAGES.items()
    for i, found in enumerate(re.findall(r"```python(?: needs=(\w+))?\n(.*?)```", text, re.DOTALL))
}


def marked(marker):
    """The code block behind a marker."""
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README has no {marker}"
    return found[1]


@pytest.mark.parametrize(("needed", "block"), ALL_BLOCKS.values(), ids=ALL_BLOCKS)
def test_each_python_block_runs_as_a_script(needed, block, tmp_path):
    if needed:
        pytest.importorskip(needed)
    (tmp_path / "block.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "-W", "error", "block.py"], cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    # A comment behind a print says what it prints, on the first run before a comma, with ... for what differs.
    for shown in re.findall(r"^ *print\(.*\)\s+# (.*)$", block, re.MULTILINE):
        pattern = re.escape(shown.split(", and")[0]).replace(re.escape("..."), ".*")
        assert re.search(pattern, done.stdout), (shown, done.stdout)


@pytest.mark.parametrize(
    ("ckpt", "printed"),
    [("ckpt-primes", ("9592 0\n", "9592 11\n")), ("ckpt-squares", ("333083000 0\n", "333083000 4\n"))],
)
def test_the_first_examples_say_what_their_second_runs_print(tmp_path, ckpt, printed):
    (block,) = [block for block in PYTHON_BLOCKS if ckpt in block]
    for expected in printed:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=ENV, capture_output=True, text=True)
        assert done.stdout == expected


def test_the_kill_demonstration_gives_the_report_of_an_undisturbed_run(tmp_path):
    demonstration = marked("kill demonstration")
    assert "kill -9" in demonstration
    # As the README has it, but with this interpreter, and with fewer files so that it is quick.
    (tmp_path / "small.py").write_text(
        "from dagron.jobs import stdlib_analysis as job\ndag, tasks = job.build(job.FILES[::4], job.LIBRARY_ROOT)\n"
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
        ["bash", "-c", f"{command} run small.py -d undisturbed --show report"],
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

"""A job that says where its checkpoint is keeps it there: for `run`, and for whoever looks, who executes nothing."""

import json
import os
import shlex
from pathlib import Path

import pytest

from dagron.cli.own_place import own_checkpoint_dir

HEAD = """
import subprocess
import dagron
from dagron import CheckpointExecutor

with open("executed", "a") as file:
    file.write("x")
flow = dagron.Flow()
flow.add("n", lambda: 7)
"""

SAYS = {
    "a text": ("flow.run('ck', resume=True)\n", "ck"),
    "by name": ("where = 'ck'\nresult = flow.run(checkpoint_dir=where)\nprint(result.value('n'))\n", "ck"),
    "beside the file": ("from pathlib import Path\nHERE = Path(__file__).resolve().parent\nflow.run(HERE / 'ck')\n",
                        "exp/ck"),
    "os.path": ("import os.path as p\nflow.run(p.join(p.dirname(__file__), 'c' + 'k'))\n", "exp/ck"),
    "formatted": ("n = 3\nflow.run(f'ck-{n}')\n", "ck-3"),
    "in a function": ("def main(where='ck'):\n    return flow.run(where)\n\nmain()\n", "ck"),
    "given to a function": ("def main(where):\n    flow.run(where)\nmain('ck')\n", "ck"),
    "an executor": ("executor = dagron.CheckpointExecutor(flow.dag, 'ck')\nexecutor.resume(flow.tasks)\n", "ck"),
    "an executor at once": ("CheckpointExecutor(flow.dag, checkpoint_dir='ck').execute(flow.tasks)\n", "ck"),
    "in a block": ("try:\n    with open(__file__):\n        flow.run('ck')\nexcept ValueError:\n    pass\n", "ck"),
    "behind other runs": ("subprocess.run(['true'])\nf = lambda: flow.run('no')\nflow.run('ck')\n", "ck"),
    "in a chain": ("print(flow.run('ck').value('n'))\n", "ck"),
    "it changes the directory": ("import os\nos.makedirs('other', exist_ok=True)\nos.chdir('other')\nflow.run('ck')\n",
                                 "other/ck"),
    "from outside": ("import sys\nflow.run('ck-' + (sys.argv[1:] or ['0'])[0])\n", "ck-0"),
    "perhaps another": ("where = 'ck'\nif len(where) > 1:\n    where = 'other'\nflow.run(where)\n", "other"),
}  # fmt: skip
UNTOLD = ("it changes the directory", "from outside", "perhaps another")


@pytest.fixture
def job(tmp_path):
    def write(text, name="exp/job.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD + text)
        return name

    return write


@pytest.mark.parametrize("case", SAYS)
def test_it_is_where_the_script_puts_it_for_run_and_for_whoever_looks(call, tmp_path, job, case):
    text, directory = SAYS[case]
    name = job(text)
    call("run", name, "--inline")
    os.chdir(tmp_path)
    assert (tmp_path / directory / "_journal").exists()
    assert not (tmp_path / "exp" / "checkpoints").exists()
    executed = Path("executed").read_text()
    if case in UNTOLD:
        _, err = call("status", name, expect=3)
        assert f"{name!r} says itself where its checkpoint is, so give that directory" in err
        where = directory
    else:
        where = name
    assert json.loads(call("status", where, "--json")[0])["completed"] == 1
    assert call("ls", where, "--json")[0].count('"name"') == 1
    assert call("show", where, "n", "--value")[0] == "7\n"
    call("verify", where)
    call("export", where)
    call("invalidate", where, "n")
    call("prune", where, "--dry-run")
    assert Path("executed").read_text() == executed, "who looks executes nothing"
    call("debug", where, "n", name)
    os.chdir(tmp_path)
    call("clear", where, "--yes")
    assert not (tmp_path / directory / "_journal").exists()


def test_it_goes_on_from_what_the_script_itself_has_begun(call, tmp_path, job, monkeypatch):
    name = job("flow.run('ck', resume=True, pool='inline')\n")
    exec(compile(Path(name).read_text(), name, "exec"), {"__name__": "__main__"})
    assert "1 restored" in call("run", name, "--inline", "--resume")[1]
    _, err = call("run", name, "--inline", expect=2)
    assert "'ck' holds a checkpoint with 1/1 nodes completed; pass --resume" in err


def test_an_option_says_more_than_the_script(call, tmp_path, job):
    call("run", job("flow.run('ck')\n"), "--inline", "-d", "mine")
    assert (tmp_path / "mine" / "_journal").exists()
    assert not (tmp_path / "ck").exists()


def test_a_proposed_command_finds_it_from_where_the_user_is(call, tmp_path, job):
    text = "flow.add('bad', lambda: 1 / 0)\nimport os\nos.mkdir('other')\nos.chdir('other')\nflow.run('ck')\n"
    _, err = call("run", job(text), "--inline", expect=1)
    os.chdir(tmp_path)
    command = err.partition("to try that node here: ")[2].splitlines()[0]
    assert command == "dagron debug other/ck bad exp/job.py --pdb"
    assert "ZeroDivisionError" in call("show", *shlex.split(command)[2:4])[0]


NAMED = {
    "the flow": ("flow.run('ck')\n", "exp/job.py:flow", "ck"),
    "another flow": ("other = dagron.Flow()\nother.add('n', lambda: 7)\nflow.run('ck')\n", "exp/job.py:other",
                     "exp/checkpoints/job.other"),
    "a function": ("def make():\n    flow.run('ck')\n", "exp/job.py:make", "ck"),
    "a function that returns it": ("def make():\n    return flow\nflow.run('ck')\n", "exp/job.py:make",
                                   "exp/checkpoints/job.make"),
    "a function called flow": ("def flow():\n    f = dagron.Flow()\n    f.add('n', lambda: 7)\n    f.run('ck')\n",
                               "exp/job.py", "ck"),
    "a guarded run": ("if __name__ == '__main__':\n    flow.run('ck')\n", "exp/job.py", "exp/checkpoints/job"),
    "a module": ("flow.run('ck')\n", "exp.job", "ck"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "target", "directory"), NAMED.values(), ids=NAMED)
def test_what_counts_is_the_run_of_what_is_meant(call, tmp_path, job, text, target, directory):
    job(text)
    call("run", target, "--inline")
    assert (tmp_path / directory / "_journal").exists()
    assert "1/1" in call("status", target)[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import app\napp.run('127.0.0.1')\n", None),
        ("connection.execute('select 1')\n", None),
        ("def main():\n    flow.run('ck')\n", None),
        ("def main():\n    main()\n    flow.run('ck')\nmain()\n", "ck"),
        ("flow.run(1)\n", ""),
        ("flow.run()\n", ""),
        ("for where in ('a', 'b'):\n    flow.run(where)\n", ""),
        ("where = 'a'\nwhere += 'b'\nflow.run(where)\n", ""),
        ("flow.run(\n", None),
    ],
)
def test_what_the_text_does_not_tell_is_not_guessed(tmp_path, text, found):
    path = tmp_path / "job.py"
    path.write_text(text)
    assert own_checkpoint_dir(str(path)) == found

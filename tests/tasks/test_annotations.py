"""Annotations that exist for type checkers only: since Python 3.14 nobody need evaluate them, so a run must not."""

import os
import subprocess
import sys

import pytest
from places import SRC

JOB = """
import dataclasses, functools, sys, tempfile, typing
import dagron
if typing.TYPE_CHECKING:
    from nowhere import Missing

@dataclasses.dataclass
class Row:
    a: int
    b: typing.Any = None

    def method(self, other: Missing) -> Missing:
        return self.a

class Slots:
    __slots__ = ("x",)
    x: Missing

def first() -> Missing:
    return Row(1, 2)

def second(first: Missing, *rest: Missing, key: Missing = 3) -> Missing:
    class Local:
        x: Missing
        y: int = 2

    return [Row(first.method(None), Local().y), Slots, Local, lambda q: q, first_again]

def first_again(n: Missing) -> Missing:
    return first_again(n - 1) if n else first()

def third(second: Missing, n: int) -> Missing:
    def inner(q: Missing) -> Missing:
        return q

    return [inner(second[0].a), second[4](3).a, n, inner]

def fails(third: Missing) -> Missing:
    raise ValueError(third[0])

def shared(i: Missing):
    def task(third: Missing) -> Missing:
        return i

    return task

tasks = {"first": first, "second": second, "third": functools.partial(third, n=5), "fails": fails}
tasks |= {f"shared{i}": shared(i) for i in range(3)}
flow = dagron.Flow()
handle = flow.add("s", second, flow.add("f", first), key=4)
if __name__ == "__main__":
    for pool in ("process", "inline"):
        executor = dagron.CheckpointExecutor(dagron.DAG.from_tasks(tasks), tempfile.mkdtemp(), pool=pool)
        executor.execute(tasks)
        result = executor.resume(tasks)
        assert result["third"].result[:3] == [1, 1, 5]
        assert result["shared2"].result == 2
        assert isinstance(result["first"].result, Row)
        assert "third = [1, 1, 5" in result["fails"].explain(), result["fails"].explain()
        assert flow.run(tempfile.mkdtemp(), pool=pool).value(handle)[0].b == 2
    try:
        first.__annotations__
    except NameError:
        print("untouched")
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="before, the script itself could not be run")
def test_a_script_with_names_for_type_checkers_in_its_annotations_runs(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    for command in (["job.py"], ["-m", "dagron", "run", "job.py:tasks", "-d", "ckpt"]):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": SRC},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if command == ["job.py"]:
            assert done.returncode == 0, done.stderr
            assert done.stdout == "untouched\n"
        else:
            assert done.returncode == 1, done.stderr
            assert "ValueError: 1" in done.stderr
            assert "NameError" not in done.stderr

"""One job and one checkpoint, run as a script, as a file and as a module: its results are the same things each time."""

from __future__ import annotations

import os
import subprocess
import sys

import dagron

SRC = os.path.dirname(os.path.dirname(dagron.__file__))

JOB = """
import collections, dataclasses, enum, functools, os, typing
import dagron

class Kind(enum.Enum):
    GOOD = 1

class Bits(enum.Flag):
    A = 1
    B = 2

@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    kind: Kind = Kind.GOOD

class Base:
    class Inner:
        def __init__(self):
            self.y = 2

class Sub(Base):
    def __init__(self):
        self.z = 3

class Slots:
    __slots__ = ("q",)

class Oops(Exception):
    pass

User = collections.namedtuple("Row", "a b")
MISSING = object()
T = typing.TypeVar("T")
SETTINGS = {"limit": 3}

@functools.cache
def cached():
    return 3

def main():  # the command line has one, too
    return "job"

def closure(kind):
    return lambda: (Point(1).kind is kind, main(), SETTINGS["limit"])

def make(i):
    slots = Slots()
    slots.q = 1
    return [
        Point(1), Kind.GOOD, Bits.A | Bits.B, Sub(), Base.Inner(), User(1, 2), MISSING, T, Oops("x"), cached, main,
        Point, slots, {Point(1), Kind.GOOD}, closure(Kind.GOOD),
    ]

def differs(found):
    point, kind, bits, sub, inner, row, missing, t, oops, c, f, cls, slots, both, anonymous = found
    seen = {
        "point": type(point) is Point and point == Point(1) and point.kind is Kind.GOOD,
        "members": kind is Kind.GOOD and bits is (Bits.A | Bits.B),
        "classes": (type(sub), type(inner), type(row), type(slots), cls) == (Sub, Base.Inner, User, Slots, Point),
        "functions": c is cached and f is main,
        "identities": missing is MISSING and t is T,
        "exception": isinstance(oops, Oops),
        "set": both == {Point(1), Kind.GOOD},
        "anonymous": anonymous() == (True, "job", 3),
    }
    return [name for name, is_same in seen.items() if not is_same]

def check(found):
    return [differs(one) for one in found]

class Shown:
    def __init__(self, found):
        self.found = found

    def __repr__(self):  # where it is shown
        return f"shown: {check(self.found)}"

STAGE = int(os.environ["STAGE"])
flow = dagron.Flow()
made = [flow.add(f"made[{i}]", make, i) for i in range(STAGE)]
checked = flow.add(f"check[{STAGE}]", check, made)
shown = flow.add(f"shown[{STAGE}]", Shown, made)
if __name__ == "__main__":
    result = flow.run("ckpt", resume=True, max_workers=1)
    assert result.restored == STAGE - 1
    print(result.value(shown))
    print("checked:", result.value(checked))
"""

WAYS = {"script": ["job.py"], "file": ["-m", "dagron", "run", "job.py"], "module": ["-m", "dagron", "run", "job"]}


def test_each_way_takes_the_results_of_each_other_way_for_its_own(tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    # Each runs behind each other one.
    for stage, way in enumerate(["script", "file", "module", "script", "file"], start=1):
        show = [] if way == "script" else ["--show", f"shown[{stage}]", "--show", f"check[{stage}]"]
        options = show and ["--resume", "-w", "1", "-d", "ckpt", *show]
        done = subprocess.run(
            [sys.executable, *WAYS[way], *options],
            env={**os.environ, "PYTHONPATH": SRC, "STAGE": str(stage)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "made again" not in done.stderr
        same = [[]] * stage
        assert f"shown: {same}" in done.stdout, way
        assert str(same) in done.stdout.replace(f"shown: {same}", ""), way

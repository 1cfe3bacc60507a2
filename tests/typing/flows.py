"""What a type checker makes of flows; `# E:` stands where it has to complain. For `test_typing.py`; never run."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, assert_type

from dagron import (
    Checkpoint,
    CheckpointStatus,
    ExecutionResult,
    Flow,
    Forecast,
    Node,
    NodeResult,
    Nodes,
    Task,
    load,
)

flow = Flow()


def count(path: str, language: str = "en", *, deep: bool = False) -> Counter[str]:
    raise NotImplementedError


def merge(parts: list[Counter[str]]) -> int:
    raise NotImplementedError


def pair(a: int, b: str) -> float:
    raise NotImplementedError


def triple(a: int, b: str, c: bytes) -> float:
    raise NotImplementedError


def keyword_only(x: int, *, k: str) -> bytes:
    raise NotImplementedError


def many(*xs: int) -> int:
    raise NotImplementedError


def maybe(x: int | None) -> int:
    raise NotImplementedError


def scaled(x: float) -> float:
    raise NotImplementedError


class Model:
    def __init__(self, data: list[int], *, depth: int) -> None:
        raise NotImplementedError

    def predict(self, x: int) -> float:
        raise NotImplementedError


# A node has the type of what its callable returns.
part = flow.add("a", count, "x", retries=2)
assert_type(part, Node[Counter[str]])
assert_type(flow.add("n", count, "x", "de", deep=True), Node[Counter[str]])
assert_type(flow.add("n", count, path="x", language="de"), Node[Counter[str]])
assert_type(flow.add("n", lambda: 3), Node[int])
number = flow.add("n", merge, [part, part])
assert_type(number, Node[int])
assert_type(flow.add("n", str), Node[str])

# What takes a T takes a handle of a T, too, and what takes a list takes one of handles.
text = flow.add("n", str, 3)
assert_type(flow.add("n", pair, number, text), Node[float])
assert_type(flow.add("n", pair, number, "x"), Node[float])
assert_type(flow.add("n", pair, 3, text), Node[float])
assert_type(flow.add("n", triple, number, "x", b"x"), Node[float])
assert_type(flow.add("n", keyword_only, number, k="x"), Node[bytes])
assert_type(flow.add("n", many, number, 3, number, 4, number), Node[int])
assert_type(flow.add("n", maybe, number), Node[int])
assert_type(flow.add("n", maybe, None), Node[int])
assert_type(flow.add("n", scaled, number), Node[float])
assert_type(flow.add("n", sum, [number, 3]), Node[int])
assert_type(flow.add("n", len, {"a": number}), Node[int])
assert_type(flow.add("n", Path, text), Node[Path])
assert_type(flow.add("n", partial(pair, 3), text), Node[float])

# A lambda is right with whatever it is given; what comes back is known if that is no handle.
assert_type(flow.add("n", lambda x: x.upper(), "a"), Node[str])
flow.add("n", lambda x: (x, 1), number)
flow.add("n", lambda x, y: (x, y), number, text)
flow.add("n", lambda x, y: (x, y), number, b"x")
flow.add("n", lambda x, y: (x, y), b"x", text)

# Classes, methods, and a Task with its own options.
model = flow.add("n", Model, [number], depth=3)
assert_type(model, Node[Model])
assert_type(flow.add("n", Model.predict, model, number), Node[float])
assert_type(flow.add("n", Task(pair, retries=2), number, "x"), Node[float])

# Many nodes at once.
counts = flow.map("c[{}]", count, ["a", "b"], deep=True, retries=1)
assert_type(counts, list[Node[Counter[str]]])
assert_type(flow.add("n", merge, counts), Node[int])
assert_type(flow.map("n[{}]", len, counts), list[Node[int]])
assert_type(flow.map("n[{}]", lambda i: i + 1, range(3)), list[Node[int]])
assert_type(flow.map("n[{}]", lambda c: c.total(), counts), list[Node[int]])
assert_type(flow.map("n[{}]", pair, range(3), "abc"), list[Node[float]])
assert_type(flow.map("n[{}]", merge, [[part], counts]), list[Node[int]])
assert_type(flow.map("n[{}]", keyword_only, range(3), k="x"), list[Node[bytes]])
assert_type(flow.map("n[{}]", triple, [1], ["b"], [b"c"]), list[Node[float]])
assert_type(flow.map(lambda path: path.upper(), count, ["a"]), list[Node[Counter[str]]])
assert_type(flow.map("n[{}]", Task(count), ["a"], deep=True), list[Node[Counter[str]]])

# Items by keyword.
grid = flow.product("g[{a},{b}]", pair, a=[1, 2], b="xy")
assert_type(grid, Nodes[float])
assert_type(grid[0], Node[float])
assert_type(grid[1:], Nodes[float])
assert_type(list(grid), list[Node[float]])
assert_type(flow.product("g[{a},{b}]", Task(pair), a=[1, 2], b="xy"), Nodes[float])
assert_type(flow.map("g[{a},{b}]", pair, a=[1, 2], b=["x", "y"]), Nodes[float])
assert_type(flow.add("n", merge, grid), Node[int])  # a list, as far as is seen here
assert_type(flow.map("n[{}]", round, grid), list[Node[int]])
single: Node[float] = grid.at(a=1, b="x")
part_of_grid: Nodes[float] = grid.at(a=1)

# Results have the types of their handles.
result = flow.run("ckpt", resume=True, max_workers=2, pool="inline")
assert_type(result, ExecutionResult)
assert_type(result.value(number), int)
assert_type(result.value("n"), Any)
assert_type(result[number], NodeResult[int | None])
assert_type(result[number].result, int | None)
assert_type(result["n"].result, Any)
assert_type([result.value(node) for node in counts], list[Counter[str]])
assert_type(result.values(counts), list[Counter[str]])
assert_type(result.values(grid), list[float])
assert_type(result.values({"a": number}), dict[str, int])
assert_type(result.values("c*"), dict[str, Any])
assert_type(result.to_dicts(grid, values=True), list[dict[str, Any]])

# Between runs, and from a checkpoint.
assert_type(flow.plan("ckpt", max_workers=2), Forecast)
assert_type(flow.status("ckpt"), CheckpointStatus)
assert_type(flow.invalidate("ckpt", number, counts, grid, "c*"), list[str])
assert_type(flow.rerun("ckpt", number, max_workers=2), ExecutionResult)
found = load("ckpt")
assert_type(found, Checkpoint)
assert_type(found[number], int)
assert_type(found["n"], Any)
assert_type(found.nodes["n"], NodeResult[Any])

# A handle of a more special type is one of a more general type.
general: Node[object] = number
functions: list[Callable[..., Any]] = [count, merge]
assert_type(flow.add("n", functions[0], number, anything="x"), Node[Any])

# What does not fit.
flow.add("n", count, 3)  # E: incompatible type
flow.add("n", pair, "x", "y")  # E: incompatible type
flow.add("n", pair, part, "y")  # E: incompatible type
flow.add("n", pair, number, 3)  # E: incompatible type
flow.add("n", merge, part)  # E: incompatible type
flow.add("n", pair, 3, "x", b"x", 4)  # not seen here: `add` itself says so
flow.add(3, count, "x")  # E: No overload variant
flow.add("n", 3)  # E: No overload variant
flow.map("n", count, [1, 2])  # E: List item 0 has incompatible type
flow.map("n", scaled, counts)  # E: incompatible type
flow.map("n", count, 3)  # E: No overload variant
flow.map("n", count, part)  # E: No overload variant
flow.run("ckpt", workers=3)  # E: Unexpected keyword argument
flow.run("ckpt", max_workers="3")  # E: incompatible type
result.value(number).upper()  # E: has no attribute "upper"
result[number].result + 1  # E: Unsupported operand types
specific: Node[bool] = number  # E: Incompatible types in assignment

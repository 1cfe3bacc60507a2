"""Whether a script that begins a run would begin another one after that, as far as its text tells."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from dagron.executor import CheckpointExecutor
from dagron.flow import Flow
from dagron.graph.dag import DAG

__all__ = ["further_run"]

_BEGIN = ("run", "rerun", "invalidate", "execute", "resume")
_MAKERS = ("Flow", "CheckpointExecutor")


def further_run(source: bytes | str, variables: Mapping[str, Any], line: int, dag: DAG) -> int:
    """Return the line in which a script begins a run of another DAG than in this line; 0 if none is known.

    Looks at what the script does at its top level: at variables that hold a flow or an executor, or are going to, at
    what is made on the spot, and at a loop that makes each time what it runs.

    Args:
        source: The script.
        variables: Its global variables when it has come to the first run.
        line: That line.
        dag: What that is to run.
    """
    ahead = [statement for statement in ast.parse(source).body if (statement.end_lineno or 0) >= line]
    if not ahead or ahead[0].lineno > line:
        return 0  # it was edited meanwhile
    first, *later = ahead
    called = {_called(receiver) for receiver, at in _begun(first) if at == line} - {None}
    if isinstance(first, (ast.For, ast.While)):
        anew = {name for name, value in _assigned(first) if isinstance(value, ast.Call)}
        for receiver, at in _begun(first):
            if isinstance(receiver, ast.Call) or (isinstance(receiver, ast.Name) and receiver.id in anew):
                return at
    made = {name for statement in later for name, value in _assigned(statement) if _makes_other(value, variables, dag)}
    for statement in later:
        for receiver, at in _begun(statement):
            if isinstance(receiver, ast.Name):
                found = variables.get(receiver.id)
                is_other = isinstance(found, (Flow, CheckpointExecutor)) and found.dag is not dag
                if is_other or receiver.id in made:
                    return at
            elif _called(receiver) in called or _makes_other(receiver, variables, dag):
                return at
    return 0


def _begun(statement: ast.stmt) -> Iterator[tuple[ast.expr, int]]:
    """Yield what the calls of a statement that may begin a run are calls of, each with its line."""
    is_main = isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
    if is_main or isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _BEGIN:
            yield node.func.value, node.lineno


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))


def _called(value: ast.expr) -> str | None:
    """Return the name of the function of the script that a call calls."""
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else None


def _makes_other(value: ast.expr, variables: Mapping[str, Any], dag: DAG) -> bool:
    """Tell whether an expression makes a flow, or an executor of another DAG."""
    if not isinstance(value, ast.Call) or ast.unparse(value.func).rpartition(".")[2] not in _MAKERS:
        return False
    of = value.args[0] if value.args else next((k.value for k in value.keywords if k.arg == "dag"), None)
    if isinstance(of, ast.Name):
        return variables.get(of.id) is not dag
    if isinstance(of, ast.Attribute) and isinstance(of.value, ast.Name):
        return getattr(variables.get(of.value.id), "dag", None) is not dag
    return True

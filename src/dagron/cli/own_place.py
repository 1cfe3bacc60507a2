"""Where the text of a job says that its checkpoint is: a script that ends in `flow.run("ck")` keeps it in `ck`.

`dagron run` knows that from executing the script. Whoever only looks at the checkpoint, as `dagron status` does,
executes nothing and reads the text: up to its first run, as far as constants, paths and plain names tell.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dagron.cli.target import is_file_target, split_target

__all__ = ["own_checkpoint_dir"]

_MAX_DEPTH = 3
"""Functions of the script that call one another, above a run: `main`, what it calls, and one more."""

_METHODS = ("absolute", "expanduser", "joinpath", "resolve", "with_name", "with_stem", "with_suffix")
_ATTRIBUTES = ("name", "parent", "stem", "suffix")

_FUNCTIONS: dict[str, Any] = {
    "str": str,
    "os.fspath": os.fspath,
    "os.getcwd": os.getcwd,
    "pathlib.Path": Path,
    "pathlib.PurePath": Path,
    "pathlib.Path.cwd": Path.cwd,
    "pathlib.Path.home": Path.home,
    **{
        f"os.path.{name}": getattr(os.path, name)
        for name in ("abspath", "basename", "dirname", "expanduser", "join", "normpath", "realpath")
    },
}
"""What a script makes paths with, by its full name."""


def own_checkpoint_dir(target: str) -> str | None:
    """Return where a job that begins a run by itself says that its checkpoint is. Executes nothing of it.

    Args:
        target: The file or module, perhaps with a colon and a name.

    Returns:
        The directory as the text has it; "" if that is not to be told from the text; None if it begins no run.
    """
    source, name = split_target(target)
    path = source if is_file_target(source) else os.path.join(*source.split(".")) + ".py"
    try:
        with open(path, "rb") as file:
            text = file.read()
        if not any(call in text for call in (b".run(", b".execute(", b".resume(")):
            return None
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    found = _Reader(tree, os.path.abspath(path)).directory(name)
    # After a change of the working directory it is somewhere else.
    return "" if found and b"chdir" in text and not os.path.isabs(found) else found


_BEGINS = ("run", "rerun", "invalidate")
"""Methods of a flow whose first argument is the directory of its checkpoint; none begins while the flow is loaded."""


class _Begun(Exception):  # what is looked for, and no error
    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.directory = directory


_Values = dict[str, Any]
"""What names mean: a text, a number or a path; a call that makes something else; None for what is not known."""


class _Reader:
    """Goes through the statements of a script in the order in which they would be executed."""

    def __init__(self, tree: ast.Module, path: str) -> None:
        self._body = tree.body
        self._functions = {item.name: item for item in tree.body if isinstance(item, ast.FunctionDef)}
        self._imported = {"str": "str"}
        self._path = path
        self._of = ""
        self._is_looking = True

    def directory(self, name: str) -> str | None:
        """Return the directory of the first run; of a flow of this name, or that a function of this name begins."""
        known: _Values = {"__file__": self._path}
        maker = name if name in self._functions else ""
        self._of, self._is_looking = "" if maker else name, not maker
        try:
            self._execute(self._body, known, 0)
            if not name and "tasks" not in known:
                maker = "flow"  # as `load_job` has it
            if maker in self._functions:
                self._of, self._is_looking = "", True
                self._execute(self._functions[maker].body, known, 0)
        except _Begun as begun:
            return begun.directory
        return None

    def _execute(self, body: list[ast.stmt], known: _Values, depth: int) -> None:
        for statement in body:
            match statement:
                case ast.Import(names=names):
                    self._imported |= {item.asname or item.name: item.name for item in names}
                case ast.ImportFrom(module=str(module), names=names):
                    self._imported |= {item.asname or item.name: f"{module}.{item.name}" for item in names}
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    pass
                case ast.If(test=test) if "__name__" in ast.unparse(test):
                    pass
                case ast.With(body=inside) | ast.Try(body=inside):
                    self._execute(inside, known, depth)
                case _:
                    self._evaluate(statement, known, depth)

    def _evaluate(self, statement: ast.stmt, known: _Values, depth: int) -> None:
        nodes = list(_executed(statement))
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        is_plain = isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None
        if not is_plain:
            known |= dict.fromkeys(stored)  # perhaps, or again and again
        if self._is_looking:
            for call in nodes:
                if isinstance(call, ast.Call):
                    self._look_at(call, known, depth)
        if is_plain:
            assert isinstance(statement, (ast.Assign, ast.AnnAssign))
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            value = self._value(statement.value, known) if statement.value is not None else None
            plain = {target.id for target in targets if isinstance(target, ast.Name)}
            known |= {name: value if name in plain else None for name in stored}

    def _look_at(self, call: ast.Call, known: _Values, depth: int) -> None:
        """Raise `_Begun` if a call begins a run."""
        match call.func:
            case ast.Name(id=name) if name in self._functions and depth < _MAX_DEPTH:
                function = self._functions[name]
                parameters = [item.arg for item in function.args.args]
                inside = {**known, **dict.fromkeys([*parameters, *(item.arg for item in function.args.kwonlyargs)])}
                defaults = [self._value(value, known) for value in function.args.defaults]
                inside |= zip(reversed(parameters), reversed(defaults), strict=False)
                inside |= zip(parameters, (self._value(value, known) for value in call.args), strict=False)
                inside |= {item.arg: self._value(item.value, known) for item in call.keywords if item.arg}
                self._execute(function.body, inside, depth + 1)
            case ast.Attribute(value=receiver, attr=name) if name in _BEGINS and self._may_be_a_flow(receiver, known):
                if not self._of or (isinstance(receiver, ast.Name) and receiver.id == self._of):
                    raise _Begun(self._directory_of(call, 0, known))
            case ast.Attribute(value=receiver, attr="execute" | "resume"):
                made = known.get(receiver.id) if isinstance(receiver, ast.Name) else receiver
                if isinstance(made, ast.Call) and self._name_of(made.func).endswith("CheckpointExecutor"):
                    dag = ast.unparse(made.args[0]) if made.args else ""
                    if not self._of or dag in (self._of, f"{self._of}.dag"):
                        raise _Begun(self._directory_of(made, 1, known))

    def _may_be_a_flow(self, receiver: ast.expr, known: _Values) -> bool:
        if isinstance(receiver, ast.Name):  # and no module, such as `subprocess`
            return receiver.id not in self._imported or receiver.id in known
        return isinstance(receiver, ast.Call)

    def _directory_of(self, call: ast.Call, position: int, known: _Values) -> str:
        named = [item.value for item in call.keywords if item.arg == "checkpoint_dir"]
        given = [*call.args[position : position + 1], *named]
        value = self._value(given[0], known) if given else None
        return os.fspath(value) if isinstance(value, (str, Path)) else ""

    def _value(self, node: ast.expr, known: _Values) -> Any:
        match node:
            case ast.Constant(value=str() | int() as value):
                return value
            case ast.Name(id=name):
                return known.get(name)
            case ast.JoinedStr(values=values):
                parts = [self._value(part, known) for part in values]
                return "".join(map(str, parts)) if all(isinstance(part, (str, int, Path)) for part in parts) else None
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self._value(value, known)
            case ast.BinOp(left=left, op=ast.Add() | ast.Div() as op, right=right):
                first, second = self._value(left, known), self._value(right, known)
                if isinstance(op, ast.Div):
                    return first / second if isinstance(first, Path) and isinstance(second, (str, Path)) else None
                return first + second if isinstance(first, str) and isinstance(second, str) else None
            case ast.Attribute(value=of, attr=name) if name in _ATTRIBUTES:
                path = self._value(of, known)
                return getattr(path, name) if isinstance(path, Path) else None
            case ast.Call():
                return self._result(node, known)
        return None

    def _result(self, call: ast.Call, known: _Values) -> Any:
        function = _FUNCTIONS.get(self._name_of(call.func))
        if function is None and isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS:
            path = self._value(call.func.value, known)
            function = getattr(path, call.func.attr) if isinstance(path, Path) else None
        if function is None:
            return call
        arguments = [self._value(value, known) for value in call.args]
        if call.keywords or not all(isinstance(value, (str, int, Path)) for value in arguments):
            return None
        try:
            return function(*arguments)
        except (OSError, TypeError, ValueError, RuntimeError):
            return None

    def _name_of(self, function: ast.expr) -> str:
        """Return the full name of what an expression of names and dots means, by the imports so far."""
        match function:
            case ast.Name(id=name):
                return self._imported.get(name, "")
            case ast.Attribute(value=of, attr=name):
                return f"{self._name_of(of)}.{name}"
        return ""


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what is in it, without what is only defined there."""
    yield node
    for inner in ast.iter_child_nodes(node):
        if not isinstance(inner, (ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _executed(inner)

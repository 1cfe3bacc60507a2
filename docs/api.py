"""Write `docs/api.md`, the reference of all public names, from the docstrings: `python docs/api.py`.

Reads the source with griffe (`pip install griffelib`, one of the `test` extra), and imports nothing of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

DOCS = Path(__file__).parent
PAGE = DOCS / "api.md"

GROUPS = {
    "Writing a job": ["Flow", "Node", "Nodes", "Task", "DAG", "DAGBuilder"],
    "Running it": ["CheckpointExecutor", "ExecutionCallbacks", "RunObserver", "RunSnapshot", "RunningNode"],
    "In a task": ["current", "CurrentAttempt"],
    "What comes of it": [
        "ExecutionResult",
        "NodeResult",
        "NodeStatus",
        "CheckpointInfo",
        "CheckpointStatus",
        "Forecast",
        "load",
        "Checkpoint",
        "PruneReport",
        "ExecutionTrace",
        "Span",
    ],
    "Errors": [],  # all others, in the order of their tree
}

CONSTRUCTED = {"CheckpointExecutor", "DAG", "DAGBuilder", "ExecutionCallbacks", "Flow", "Task"}
"""What users make themselves; the rest they are given."""

HEAD = """# API reference

Generated from the docstrings by `docs/api.py`. Everything here is in the package `dagron`; names that are not here are
not public.
"""


def public_names() -> dict[str, griffe.Class]:
    """Return the public classes by name, as they are written in the source."""
    package = griffe.load("dagron", search_paths=[DOCS.parent / "src"], docstring_parser="google")
    found = {}
    for name in package.exports or []:
        item = package[str(name)]
        found[str(name)] = item.final_target if item.is_alias else item
    return found


def public_members(item: griffe.Class) -> Iterator[griffe.Object]:
    """Yield the public methods and properties of a class in the order of the source."""
    for name, member in item.members.items():
        if name.startswith("_") or member.is_alias or not (member.is_function or "property" in member.labels):
            continue
        yield member


def reference() -> str:
    """Return the text of the page."""
    items = public_names()
    errors = items["DagronError"].module
    groups = {title: list(names) for title, names in GROUPS.items()}
    grouped = {name for names in groups.values() for name in names}
    groups["Errors"] = [name for name in errors.members if name in items and name not in grouped]
    parts = [HEAD]
    parts += [f"- {title}: {', '.join(map(_link, names))}" for title, names in groups.items() if title != "Errors"]
    parts.append("- [Errors](#errors)")
    for title, names in groups.items():
        parts.append(f"\n## {title}")
        if title == "Errors":
            tree = re.search(r"::\n\n(.*?)\n\n(?=\S)", errors.docstring.value, re.DOTALL)
            assert tree is not None
            parts.append("\n```\n" + "\n".join(line[4:] for line in tree[1].splitlines()) + "\n```")
        for name in names:
            item = items[name]
            parts += _function(item) if isinstance(item, griffe.Function) else _class(item)
    return "\n".join(parts) + "\n"


def _link(name: str) -> str:
    return f"[`{name}`](#{name.lower()})"


def _function(item: griffe.Function) -> Iterator[str]:
    yield f"\n### {item.name}"
    yield f"\n```py\n{_signature(item.name, item.parameters, item.returns)}\n```"
    yield from _docstring(item)


def _class(item: griffe.Class) -> Iterator[str]:
    yield f"\n### {item.name}"
    bases = [str(base) for base in item.bases]
    line = f"class {item.name}" + (f"({', '.join(bases)})" if bases else "")
    if item.name in CONSTRUCTED:
        line += f"\n\n{_signature(item.name, item.parameters, None)}"
    yield f"\n```py\n{line}\n```"
    yield from _docstring(item)
    if "Enum" in bases or "StrEnum" in bases:
        yield f"\n{', '.join(f'`{name}`' for name in item.members if name.isupper())}"
    for member in public_members(item):
        yield f"\n#### {item.name}.{member.name}"
        if "property" in member.labels:
            yield f"\n```py\n{member.name}: {_annotation(member)}\n```"
        else:
            marks = "".join(f"@{label}\n" for label in ("classmethod", "staticmethod") if label in member.labels)
            yield f"\n```py\n{marks}{_signature(member.name, member.parameters, member.returns)}\n```"
        yield from _docstring(member)


def _annotation(member: Any) -> str:
    found = getattr(member, "annotation", None) or getattr(member, "returns", None)
    return str(found)


def _signature(name: str, parameters: griffe.Parameters, returns: Any) -> str:
    """Return the signature on one line, or with a line for each parameter if that is too long."""
    shown: list[str] = []
    kinds = griffe.ParameterKind
    last: griffe.ParameterKind | None = None
    for parameter in parameters:
        kind = parameter.kind
        if parameter.name in ("self", "cls"):
            continue
        if last is kinds.positional_only and kind is not kinds.positional_only:
            shown.append("/")
        if kind is kinds.keyword_only and last not in (kinds.keyword_only, kinds.var_positional):
            shown.append("*")
        last = kind
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(kind, "")
        text = f"{stars}{parameter.name}"
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None and not stars:
            text += f" = {parameter.default}" if parameter.annotation is not None else f"={parameter.default}"
        shown.append(text)
    if last is kinds.positional_only:
        shown.append("/")
    arrow = "" if returns is None else f" -> {returns}"
    line = f"{name}({', '.join(shown)}){arrow}"
    if len(line) <= 100:
        return line
    lines = "".join(f"    {text},\n" for text in shown)
    return f"{name}(\n{lines}){arrow}"


def _docstring(item: griffe.Object) -> Iterator[str]:
    assert item.docstring is not None, item.path
    for section in item.docstring.parsed:
        kind = section.kind.value
        if kind == "text":
            yield f"\n{section.value}"
        elif kind == "parameters":
            yield "\n| parameter | |\n|---|---|"
            for entry in section.value:
                yield f"| `{entry.name}` | {_one_line(entry.description)} |"
        elif kind == "attributes":
            yield "\n| attribute | type | |\n|---|---|---|"
            for entry in section.value:
                kind_of = "" if entry.annotation is None else f"`{_one_line(str(entry.annotation))}`"
                yield f"| `{entry.name}` | {kind_of} | {_one_line(entry.description)} |"
        elif kind == "raises":
            yield "\nRaises:\n"
            for entry in section.value:
                yield f"- `{entry.annotation}`: {_one_line(entry.description)}"
        elif kind in ("returns", "yields"):
            yield f"\n{kind.capitalize()}: {_one_line(' '.join(entry.description for entry in section.value))}"
        elif kind == "admonition":
            yield f"\n{section.title}: {_one_line(section.value.description)}"
        else:
            raise ValueError(f"{item.path}: a section of kind {kind}")


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")

"""A DAG as text that other programs draw: Mermaid and DOT, with the nodes coloured by their states. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dagron.shown import shown_name

__all__ = ["COLOURS", "Drawing", "as_dot", "as_mermaid"]

COLOURS = {
    "completed": ("#d3f2d9", "#2f8f46"),
    "running": ("#cfe8fc", "#1f77c4"),
    "failed": ("#fbd0d0", "#c62828"),
    "timed_out": ("#fbd0d0", "#c62828"),
    "skipped": ("#fdeec2", "#b98900"),
    "stale": ("#fdeec2", "#b98900"),
    "lost": ("#fdeec2", "#b98900"),
    "pending": ("#f2f2f2", "#888888"),
}
"""State -> fill and border."""


class Drawing(NamedTuple):
    """What is to be drawn.

    Attributes:
        names: The nodes, parents first.
        edges: Positions of parent and child.
        states: The state of each node that has one.
    """

    names: Sequence[str]
    edges: Sequence[tuple[int, int]]
    states: Mapping[str, str]

    def state_of(self, name: str) -> str:
        """Return the state of a node."""
        return self.states.get(name, "pending")


def as_mermaid(drawing: Drawing) -> str:
    """Return a Mermaid flowchart."""
    lines = ["flowchart TD"]
    lines += [f'  n{i}["{_mermaid_text(name)}"]:::{drawing.state_of(name)}' for i, name in enumerate(drawing.names)]
    lines += [f"  n{parent} --> n{child}" for parent, child in drawing.edges]
    used = dict.fromkeys(map(drawing.state_of, drawing.names))
    lines += [f"  classDef {state} fill:{COLOURS[state][0]},stroke:{COLOURS[state][1]},color:#222" for state in used]
    return "\n".join(lines) + "\n"


def _mermaid_text(name: str) -> str:
    # The codes of what would end the text, or be taken for Markdown or a line break.
    return "".join(c if c.isalnum() or c in " _-.:/[](),=" else f"#{ord(c)};" for c in name) or " "


def as_dot(drawing: Drawing) -> str:
    """Return a graph in the DOT language."""
    lines = ["digraph dagron {", '  node [shape=box, style="rounded,filled", fontname="sans-serif"];']
    for i, name in enumerate(drawing.names):
        fill, border = COLOURS[drawing.state_of(name)]
        text = shown_name(name).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'  n{i} [label="{text}", fillcolor="{fill}", color="{border}"];')
    lines += [f"  n{parent} -> n{child};" for parent, child in drawing.edges]
    return "\n".join([*lines, "}"]) + "\n"

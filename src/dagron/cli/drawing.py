"""A DAG as text that other programs draw: Mermaid and DOT, with the nodes coloured by their states. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dagron.cli.exit_codes import UsageError
from dagron.results.status import NodeStatus
from dagron.shown import shown_name

if TYPE_CHECKING:
    from dagron.graph.dag import DAG

__all__ = ["COLOURS", "Drawing", "as_dot", "as_mermaid", "drawing_of"]

COLOURS = {
    NodeStatus.COMPLETED: ("#d3f2d9", "#2f8f46"),
    NodeStatus.RUNNING: ("#cfe8fc", "#1f77c4"),
    NodeStatus.FAILED: ("#fbd0d0", "#c62828"),
    NodeStatus.TIMED_OUT: ("#fbd0d0", "#c62828"),
    NodeStatus.SKIPPED: ("#fdeec2", "#b98900"),
    NodeStatus.CANCELLED: ("#fdeec2", "#b98900"),
    NodeStatus.STALE: ("#fdeec2", "#b98900"),
    NodeStatus.LOST: ("#fdeec2", "#b98900"),
    NodeStatus.PENDING: ("#f2f2f2", "#888888"),
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
    states: Mapping[str, NodeStatus]

    def state_of(self, name: str) -> NodeStatus:
        """Return the state of a node."""
        return self.states.get(name, NodeStatus.PENDING)


def drawing_of(
    dag: DAG, states: Mapping[str, NodeStatus], around: Sequence[str], depth: int, max_nodes: int
) -> Drawing:
    """Return what is to be drawn of a DAG.

    Args:
        dag: The DAG.
        states: The states of its nodes.
        around: Draw only what is near these nodes; empty for all.
        depth: How many edges away that is.
        max_nodes: How many nodes may be drawn.

    Raises:
        UsageError: There are more.
        UnknownNodeError: `around` names a node that there is not.
    """
    kept = set(range(len(dag)))
    if around:
        kept = {dag.index_of(name) for name in around}
        for neighbours in (dag.parent_indices, dag.child_indices):
            edge = {dag.index_of(name) for name in around}
            for _ in range(depth):
                edge = {j for i in edge for j in neighbours(i)} - kept
                kept |= edge
    if len(kept) > max_nodes:
        raise UsageError(
            f"{len(kept)} nodes make no picture; choose some with --around NODE, or pass --max-nodes {len(kept)}"
        )
    order = [i for i in dag.order if i in kept]
    at = {i: position for position, i in enumerate(order)}
    edges = [(at[parent], at[i]) for i in order for parent in dag.parent_indices(i) if parent in at]
    return Drawing([dag.name_of(i) for i in order], edges, states)


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

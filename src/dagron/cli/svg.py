"""A DAG as an SVG picture: nodes in layers, parents above their children. Pure.

The method is that of Sugiyama, Tagawa and Toda (IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981), as far
as a picture of some hundred nodes needs it: layers by longest path, order within a layer by the mean position of the
neighbours, curved edges. `dot` draws more from what `as_dot` gives. It is here because a picture is to come out where
neither Graphviz nor a browser is at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean as mean
from xml.sax.saxutils import escape

from dagron.cli.drawing import COLOURS, Drawing
from dagron.shown import shown_name

__all__ = ["as_svg"]

_SWEEPS = 8
"""Passes over the layers: with 24 of them random graphs of 100 to 500 nodes had no fewer crossings."""
# In pixels: from one layer to the next, height of a node, between two nodes, around all. A node has room for a line of
# 12 pixels, and an edge for its bend between two layers; chosen by eye, never varied.
_ROW = 70
_BOX = 30
_GAP = 14
_MARGIN = 16
_LETTER = 7.2
"""Width of a letter of 12 pixels in a monospaced font, rounded up."""
_MAX_LETTERS = 28
"""Letters of a name; the title of a box has all of it."""


def as_svg(drawing: Drawing) -> str:
    """Return a picture."""
    labels = [shown_name(name, _MAX_LETTERS) or "''" for name in drawing.names]
    widths = [max(40.0, _LETTER * len(label) + 16) for label in labels]
    layers = _ordered(_layers(len(labels), drawing.edges), drawing.edges)
    total = max((sum(widths[i] + _GAP for i in layer) for layer in layers), default=0.0)
    x, y = _places(layers, widths, total)
    width, height = total + 2 * _MARGIN, max(1, len(layers)) * _ROW - (_ROW - _BOX) + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="ui-monospace, monospace" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#888"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<g fill="none" stroke="#888" stroke-width="1" marker-end="url(#tip)">',
    ]
    for parent, child in drawing.edges:
        x1, y1, x2, y2 = x[parent], y[parent] + _BOX, x[child], y[child]
        bend = (y2 - y1) / 2
        parts.append(f'<path d="M{x1:.0f} {y1} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2}"/>')
    parts.append("</g>")
    for i, name in enumerate(drawing.names):
        state = drawing.state_of(name)
        fill, border = COLOURS[state]
        title = escape(f"{shown_name(name)}: {state}")
        parts.append(
            f"<g><title>{title}</title>"
            f'<rect x="{x[i] - widths[i] / 2:.0f}" y="{y[i]}" width="{widths[i]:.0f}" height="{_BOX}" rx="6" '
            f'fill="{fill}" stroke="{border}"/>'
            f'<text x="{x[i]:.0f}" y="{y[i] + 19}" text-anchor="middle" fill="#222">{escape(labels[i])}</text></g>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layers(n: int, edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    depth = [0] * n
    for parent, child in sorted(edges, key=lambda edge: edge[1]):  # parents stand before their children
        depth[child] = max(depth[child], depth[parent] + 1)
    layers: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for i, at in enumerate(depth):
        layers[at].append(i)
    return layers


def _ordered(layers: list[list[int]], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Order each layer by where the neighbours stand, from above and from below in turn."""
    parents: dict[int, list[int]] = {}
    children: dict[int, list[int]] = {}
    for parent, child in edges:
        parents.setdefault(child, []).append(parent)
        children.setdefault(parent, []).append(child)
    at: dict[int, float] = {}

    def place(layer: list[int]) -> None:
        for position, i in enumerate(layer):
            at[i] = (position + 0.5) / len(layer)

    for layer in layers:
        place(layer)
    for sweep in range(_SWEEPS):
        neighbours = children if sweep % 2 else parents
        for layer in reversed(layers) if sweep % 2 else layers:
            means = {i: mean(at[j] for j in neighbours[i]) if i in neighbours else at[i] for i in layer}
            layer.sort(key=means.__getitem__)
            place(layer)
    return layers


def _places(layers: list[list[int]], widths: Sequence[float], total: float) -> tuple[dict[int, float], dict[int, int]]:
    x: dict[int, float] = {}
    y: dict[int, int] = {}
    for row, layer in enumerate(layers):
        room = total - sum(widths[i] for i in layer)
        gap = room / len(layer)  # spread over the whole width, as the parents and children are
        left = _MARGIN + gap / 2
        for i in layer:
            x[i], y[i] = left + widths[i] / 2, _MARGIN + row * _ROW
            left += widths[i] + gap
    return x, y

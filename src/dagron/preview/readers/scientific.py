"""scipy's sparse matrices, estimators of scikit-learn, graphs of networkx, images of Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from dagron.preview.arrays import Array, array_of, dtype_of
from dagron.preview.layout import Part, laid_out
from dagron.preview.readers.reader import Look, Reader, Seen
from dagron.preview.values import Object, Pairs, bytes_of, text_of_value

__all__ = ["SCIENTIFIC", "estimator"]

_MAX_STORED = 10
_MAX_NAMED = 10


def _n(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


# --- scipy -----------------------------------------------------------------------------------------------------------


def _sparse(obj: Object, look: Look) -> Seen:
    kind = look.name(obj.maker).rpartition(".")[2]
    shape = obj.get("_shape")
    n: int | None = None
    stored: list[tuple[Any, ...]] = []
    if kind.startswith("dok"):
        values = obj.get("_dict") or obj.args[0]
        name, n = dtype_of(obj.get("dtype")).name, len(values.pairs)
        stored = [(*key, value) for key, value in values.pairs[:_MAX_STORED]]
    elif kind.startswith("lil"):
        name = dtype_of(obj.get("dtype")).name
        rows = array_of(obj.get("data")).data
        look.work(len(rows))
        n = sum(len(row) for row in rows)
    else:
        data = array_of(obj.get("data"))
        name = data.dtype.name
        if kind[:3] in ("csr", "csc", "coo"):
            n = data.shape[0]
            stored = _stored(kind, obj, data, min(n, _MAX_STORED))
    head = f"{kind} of shape {_shape(shape)}, {name}" + ("" if n is None else f", {_n(n, 'stored value')}")

    def lines() -> Sequence[str]:
        shown = [f"({', '.join(look.cell(i) for i in index)})  {look.cell(value)}" for *index, value in stored]
        return [*shown, f"... +{n - len(shown):,}"] if shown and n is not None and n > len(shown) else shown

    return Seen(head, lines, f"<{head}>")


def _shape(shape: Any) -> str:
    lengths = [length for length in shape[:8] if isinstance(length, int) and length.bit_length() < 64]
    return f"({', '.join(map(str, lengths))})"


def _stored(kind: str, obj: Object, data: Array, n: int) -> list[tuple[Any, ...]]:
    """Return the first stored values with their indices."""
    if kind.startswith("coo"):
        axes = obj.get("coords") or (obj.get("row"), obj.get("col"))
        indices = [array_of(axis) for axis in axes[:8]]
        return [(*(axis.flat(i) for axis in indices), data.flat(i)) for i in range(n)]
    starts, inner = array_of(obj.get("indptr")), array_of(obj.get("indices"))
    found: list[tuple[Any, ...]] = []
    outer = 0
    for i in range(n):
        while outer + 2 < min(starts.shape[0], 10_000) and starts.flat(outer + 1) <= i:
            outer += 1
        pair = (outer, inner.flat(i))
        found.append((*(pair if kind.startswith("csr") else pair[::-1]), data.flat(i)))
    return found


# --- scikit-learn ----------------------------------------------------------------------------------------------------


def estimator(obj: Object, look: Look) -> Seen | None:
    """Return what shows an estimator: parameters that are set, and what it has learned."""
    version = obj.get("_sklearn_version")
    if version is None:
        return None
    kind = look.name(obj.maker).rpartition(".")[2]
    attributes = [(name, value) for name, value in obj.state.pairs[:200] if isinstance(name, str)]
    given = [
        (name, value)
        for name, value in attributes
        if not name.startswith("_") and not name.endswith("_") and value not in (None, "deprecated")
    ]
    learned = [(name, value) for name, value in attributes if name.endswith("_") and not name.startswith("_")]
    call = look.call(kind, (), given)
    head = f"{kind} of scikit-learn {look.cell(version)}{', fitted' if learned else ''}"

    def lines() -> Sequence[str]:
        shown = laid_out(call, look.width)
        for name, value in islice(learned, look.max_items):
            shown += laid_out(look.part(value), look.width, f"{look.key(name)} = ")
        return shown

    return Seen(head, lines, call)


def _tree(obj: Object, _: Look) -> str:
    return f"<Tree of {_n(int(obj.get('node_count')), 'node')}, depth {int(obj.get('max_depth'))}>"


def _bunch(obj: Object, look: Look) -> Part:
    return look.call("Bunch", (), obj.pairs)


# --- networkx --------------------------------------------------------------------------------------------------------


def _graph(obj: Object, look: Look) -> Seen:
    kind = look.name(obj.maker).rpartition(".")[2]
    nodes, adjacent = obj.get("_node").pairs, obj.get("_adj").pairs
    is_multi, is_directed = kind.startswith("Multi"), "Di" in kind
    n_edges, n_loops = 0, 0
    look.work(len(adjacent))
    for node, neighbours in adjacent:
        look.work(len(neighbours.pairs))
        for other, edges in neighbours.pairs:
            n = len(edges.pairs) if is_multi else 1
            n_edges += n
            if type(node) is type(other) and isinstance(node, (int, str)) and node == other:
                n_loops += n
    n_edges = n_edges if is_directed else (n_edges + n_loops) // 2  # an edge stands at both of its ends
    name = obj.get("graph").get("name")
    head = f"{kind} of {_n(len(nodes), 'node')} and {_n(n_edges, 'edge')}"
    if name is not None:
        head += f", named {look.cell(name)}"

    def lines() -> Sequence[str]:
        first: list[str] = []
        before: set[str] = set()
        for node, neighbours in adjacent[:_MAX_NAMED]:
            others = [look.cell(other) for other, _ in neighbours.pairs[: 2 * _MAX_NAMED]]
            first += [f"({look.cell(node)}, {other})" for other in others if other not in before]
            if not is_directed:
                before.add(look.cell(node))
        first = first[:_MAX_NAMED]
        named = [look.cell(node) for node, _ in nodes[:_MAX_NAMED]]
        return [
            f"{what}: {', '.join(shown)}{', ...' if n > len(shown) else ''}"
            for what, shown, n in (("nodes", named, len(nodes)), ("edges", first, n_edges))
            if shown
        ]

    return Seen(head, lines, f"<{head}>")


# --- Pillow ----------------------------------------------------------------------------------------------------------


def _image(obj: Object, look: Look) -> Part:
    info, mode, size, _, data, *_ = obj.state
    kind = look.name(obj.maker).rpartition(".")[2]
    kind = "Image" if kind == "Image" else f"{kind.removesuffix('ImageFile')} image"
    n = len(bytes_of(data)) if isinstance(info, Pairs) else 0
    width, height = size
    return f"<{kind} of {int(width)} x {int(height)} pixels, {text_of_value(mode)[:20]}, {n:,} bytes>"


SCIENTIFIC: dict[tuple[str, str], Reader] = {
    **{
        ("scipy", f"{kind}_{what}"): _sparse
        for kind in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
        for what in ("array", "matrix")
    },
    ("sklearn", "Tree"): _tree,
    ("sklearn", "Bunch"): _bunch,
    **{("networkx", f"{multi}{directed}Graph"): _graph for multi in ("", "Multi") for directed in ("", "Di")},
    **{
        ("PIL", kind): _image
        for kind in (
            "Image",
            "PngImageFile",
            "JpegImageFile",
            "TiffImageFile",
            "BmpImageFile",
            "GifImageFile",
            "WebPImageFile",
        )
    },
}

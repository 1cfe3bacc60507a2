"""The DAG: names, edges, their validation, and the orders and digests that follow from them.

It does no I/O, reads no clock, starts no process, and never calls a task.

A `DAG` is immutable. Inside, a node is its index, which is its position in insertion order, and the edges are flat
arrays, grouped by child and by parent: 12 bytes an edge, and no object per node but its name.
"""

from __future__ import annotations

import functools
import operator
import reprlib
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import pairwise
from typing import TYPE_CHECKING, Any, final

from blake3 import blake3

from dagron.errors import (
    CycleError,
    DuplicateNodeError,
    GraphError,
    InvalidNameError,
    UnknownNodeError,
)
from dagron.graph.adjacency import Adjacency, cycle_among, drop_repeated, grouped, kahn
from dagron.tasks.binding import inferred_parents

if TYPE_CHECKING:
    from dagron.tasks.options import Task

__all__ = ["DAG", "DAGBuilder"]

# difflib takes 30 µs for a pair of similar names of 11 characters and 300 µs at 50: a misspelt name must not stall a
# caller who catches the error.
_HINT_MAX_NODES = 1_000
_HINT_MAX_CHARS = 50

_FINGERPRINT_SIZE = 16
"""Every commit has one. 128 bits, as the checks of records have."""


@final
class DAGBuilder:
    """Collects nodes and edges; `build` checks them and makes a `DAG`.

    Every method but `build` returns the builder, so calls chain. A call that raises leaves the builder as it was; but
    `add_nodes` and `add_edges` keep the items before the one that they reject.
    """

    __slots__ = ("_declared", "_index", "_names", "_sources", "_targets")

    def __init__(self) -> None:
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._declared = bytearray()  # by index: 1 once add_node named it, 0 while only edges do
        self._sources = array("I")
        self._targets = array("I")

    def add_node(self, name: str) -> DAGBuilder:
        """Add a node, or declare one that so far only edges have named; that one keeps its position.

        Raises:
            InvalidNameError: `name` is no string. Any string will do, also the empty one.
            DuplicateNodeError: `name` was added by `add_node` or `add_nodes` before.
        """
        index = self._index_for(_checked_name(name))
        if self._declared[index]:
            raise DuplicateNodeError(self._names[index])
        self._declared[index] = 1
        return self

    def add_nodes(self, names: Iterable[str]) -> DAGBuilder:
        """Add nodes in the order given, each as `add_node` does and with its errors.

        Raises:
            GraphError: `names` is a single string, which would become a node for each of its characters.
        """
        if isinstance(names, str):
            raise GraphError(f"expected an iterable of names, but {reprlib.repr(names)} is one name; put it in a list")
        for name in names:
            self.add_node(name)
        return self

    def add_edge(self, parent: str, child: str) -> DAGBuilder:
        """Add an edge, and those of its two nodes that are missing. A repeated edge changes nothing.

        Raises:
            InvalidNameError: One of the two is no string.
        """
        # Both are checked before one is added. The lookups stand here because a call for each would be a third of the
        # time that it takes to add three million edges.
        if type(parent) is not str:
            parent = _checked_name(parent)
        if type(child) is not str:
            child = _checked_name(child)
        source = self._index.get(parent)
        if source is None:
            source = self._index_for(parent)
        target = self._index.get(child)
        if target is None:
            target = self._index_for(child)
        self._sources.append(source)
        self._targets.append(target)
        return self

    def add_edges(self, edges: Iterable[tuple[str, str]]) -> DAGBuilder:
        """Add `(parent, child)` pairs in the order given, each as `add_edge` does and with its errors.

        Raises:
            GraphError: An item is no pair.
        """
        for pair in edges:
            parent, child = _checked_pair(pair)
            self.add_edge(parent, child)
        return self

    def build(self) -> DAG:
        """Make the DAG of what was added so far; what is added afterwards does not change it.

        Raises:
            CycleError: The edges form a cycle; an edge from a node to itself is one.
        """
        dag = object.__new__(DAG)
        dag._assemble(tuple(self._names), self._index.copy(), self._sources[:], self._targets[:])
        return dag

    def _index_for(self, name: str) -> int:
        index = self._index.setdefault(name, len(self._names))
        if index == len(self._names):
            self._names.append(name)
            self._declared.append(0)
        return index


@final
class DAG:
    """An immutable directed acyclic graph of named nodes.

    Two DAGs are equal if they have the same nodes in the same order and each node the same parents in the same order.
    A method that takes a name raises `UnknownNodeError` if no node has it.

    Args:
        nodes: The names, in insertion order.
        edges: `(parent, child)` pairs; both names must be in `nodes`. A repeated edge counts once, where it came first.

    Raises:
        InvalidNameError: A name is no string.
        DuplicateNodeError: A name is twice in `nodes`.
        UnknownNodeError: An edge names a node that is not in `nodes`.
        GraphError: An edge is no pair, or `nodes` is a single string.
        CycleError: The edges form a cycle; an edge from a node to itself is one.
    """

    __slots__ = ("_by_child", "_by_parent", "_digest", "_index", "_names", "_order", "_targets")

    _names: tuple[str, ...]
    _index: dict[str, int]
    _by_child: Adjacency  # the parents of each node
    _by_parent: Adjacency  # the children of each node
    _targets: array[int]  # the child of every edge in the order of the edges; `_sources` finds its parent
    _order: array[int]
    _digest: bytes | None

    def __init__(self, nodes: Iterable[str], edges: Iterable[tuple[str, str]] = ()) -> None:
        builder = DAGBuilder().add_nodes(nodes)
        names, index = builder._names, builder._index
        for pair in edges:
            parent, child = map(_checked_name, _checked_pair(pair))
            for name in (parent, child):
                if name not in index:
                    raise _unknown(name, names, f"the edge {parent!r} -> {child!r} names it, but the nodes do not")
            builder.add_edge(parent, child)
        self._assemble(tuple(names), index, builder._sources, builder._targets)

    def _assemble(
        self, names: tuple[str, ...], index: dict[str, int], sources: array[int], targets: array[int]
    ) -> None:
        """Check the edges and fill a new DAG, which owns the arguments afterwards."""
        by_child = grouped(len(names), targets, sources)
        if drop_repeated(by_child, sources, targets):
            by_child = grouped(len(names), targets, sources)
        by_parent = grouped(len(names), sources, targets)
        if all(map(operator.lt, sources, targets)):
            # Every parent stands before its children, so the smallest index left is always ready: this is the order
            # that kahn would find.
            order = array("I", range(len(names)))
        else:
            indegrees = by_child.degrees()
            order = kahn(indegrees, by_parent)
            if len(order) < len(names):
                raise CycleError([names[i] for i in cycle_among(indegrees, by_child)])
        self._names = names
        self._index = index
        self._by_child = by_child
        self._by_parent = by_parent
        self._targets = targets
        self._order = order
        self._digest = None

    @staticmethod
    def builder() -> DAGBuilder:
        """Begin a new graph."""
        return DAGBuilder()

    @classmethod
    def from_tasks(cls, tasks: Mapping[str, Callable[..., Any] | Task[Any]]) -> DAG:
        """Infer the edges from the tasks' parameters: one named like another node makes that node a parent.

        A node's parents stand in the order of its task's parameters. `*args` and `**kwargs` infer nothing, and a
        callable whose signature cannot be inspected has no parents. A parameter named like its own node is an edge
        from the node to itself, unless it has a default, which it then keeps.

        Args:
            tasks: For every node, in insertion order, a callable or a `Task` around one. None is called.

        Raises:
            NotCallableError: A task is not callable.
            InvalidNameError: A name is no string.
            CycleError: The inferred edges form a cycle.
        """
        inferred = ((inferred_parents(name, task, tasks), name) for name, task in tasks.items())
        return cls(tasks, [(parent, name) for parents, name in inferred for parent in parents])

    @classmethod
    def from_arrays(cls, nodes: Sequence[str], offsets: array[int], parents: array[int]) -> DAG:
        """Make a DAG of what `nodes` and `parent_arrays` of another one are.

        Raises:
            CycleError: It is none.
        """
        targets = array("I")
        for child, (start, end) in enumerate(pairwise(offsets)):
            targets.extend([child] * (end - start))
        return _restored(tuple(nodes), parents[:], targets)

    # --- by name -------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names in insertion order: that in which they were first named, by a node or by an edge."""
        return self._names

    @property
    def edges(self) -> list[tuple[str, str]]:
        """The `(parent, child)` pairs in the order in which they were added; every access makes a new list."""
        names = self._names
        return [(names[source], names[target]) for source, target in zip(self._sources(), self._targets, strict=True)]

    @property
    def node_count(self) -> int:
        """The number of nodes."""
        return len(self._names)

    @property
    def edge_count(self) -> int:
        """The number of edges; a repeated edge counts once."""
        return len(self._targets)

    def parents(self, name: str) -> list[str]:
        """Return the parents of a node in the order in which their edges were added."""
        return [self._names[i] for i in self.parent_indices(self.index_of(name))]

    def children(self, name: str) -> list[str]:
        """Return the children of a node in the order in which their edges were added."""
        return [self._names[i] for i in self.child_indices(self.index_of(name))]

    def ancestors(self, name: str) -> set[str]:
        """Return every node from which this one can be reached, without the node itself."""
        return {self._names[i] for i in self._by_child.reached((self.index_of(name),))}

    def descendants(self, name: str) -> set[str]:
        """Return every node that can be reached from this one, without the node itself."""
        return {self._names[i] for i in self._by_parent.reached((self.index_of(name),))}

    def topological_order(self) -> list[str]:
        """Return every node after all its parents; among the nodes that may come next, the first added comes first.

        So nodes that were added parents first stay in insertion order.
        """
        return [self._names[i] for i in self._order]

    def roots(self) -> list[str]:
        """Return the nodes without parents in insertion order."""
        return [name for name, degree in zip(self._names, self._by_child.degrees(), strict=True) if not degree]

    def leaves(self) -> list[str]:
        """Return the nodes without children in insertion order."""
        return [name for name, degree in zip(self._names, self._by_parent.degrees(), strict=True) if not degree]

    def structure_digest(self) -> bytes:
        """Return 32 bytes that change when a name or any node's set of parents does, and with no other change.

        Insertion order does not matter. The digest is BLAKE3 over: the number of nodes; the names in sorted order,
        each as its length in bytes and its UTF-8; then for every node in that order the number of its parents and
        their ranks in that order, ascending. The number of nodes and the lengths take 8 bytes, the rest 4,
        little-endian. So no two structures share an input. Computed on the first call, in n log n.
        """
        if self._digest is None:
            names = self._names
            in_order = sorted(range(len(names)), key=names.__getitem__)
            digest = blake3(len(names).to_bytes(8, "little"))
            ranks = array("I", in_order)
            for rank, i in enumerate(in_order):
                ranks[i] = rank
            for start in range(0, len(names), 4096):
                digest.update(b"".join([_length_prefixed(names[i]) for i in in_order[start : start + 4096]]))
            numbers = array("I")
            for i in in_order:
                parents = self.parent_indices(i)
                numbers.append(len(parents))
                if parents:
                    numbers.extend(sorted([ranks[parent] for parent in parents]))
            if sys.byteorder == "big":
                numbers.byteswap()
            digest.update(numbers.tobytes())
            self._digest = digest.digest()
        return self._digest

    # --- by index: for the modules of this package, which pass valid indices; none is checked --------------------

    def index_of(self, name: str) -> int:
        """Return the index of a node: its position in `nodes`."""
        name = _checked_name(name)
        index = self._index.get(name)
        if index is None:
            raise _unknown(name, self._names, "the graph has no such node")
        return index

    def name_of(self, index: int) -> str:
        """Return the name of the node at `index`."""
        return self._names[index]

    def parent_indices(self, index: int) -> Sequence[int]:
        """Return the parents of the node at `index` in the order in which their edges were added; a copy."""
        return self._by_child.group(index)

    def child_indices(self, index: int) -> Sequence[int]:
        """Return the children of the node at `index` in the order in which their edges were added; a copy."""
        return self._by_parent.group(index)

    @property
    def order(self) -> array[int]:
        """All indices in topological order. It is the DAG's own array, so that access is free: never change it."""
        return self._order

    @property
    def parent_arrays(self) -> tuple[array[int], array[int]]:
        """The parents of all nodes: those of node i are `flat[offsets[i] : offsets[i + 1]]`. Never change them."""
        return self._by_child.offsets, self._by_child.flat

    def indegrees(self) -> array[int]:
        """Return the number of parents of every node, by index, in a new array that the caller may change."""
        return self._by_child.degrees()

    def descendant_indices(self, seeds: Iterable[int]) -> list[int]:
        """Return each node that can be reached from a seed by at least one edge, once, in breadth-first order.

        A seed is among them only if another seed reaches it. The cost is that of what is found, not of the graph.
        """
        return self._by_parent.reached(seeds)

    def parents_fingerprint(self, index: int) -> bytes:
        """Return 16 bytes that change when the set of the parents' names does; insertion order does not matter.

        The first half of the BLAKE3 of the sorted names, each as its length in 8 bytes, little-endian, and its UTF-8.
        """
        parents = self.parent_indices(index)
        if not parents:
            return _NO_PARENTS
        names = sorted([self._names[parent] for parent in parents])
        return blake3(b"".join(map(_length_prefixed, names))).digest(_FINGERPRINT_SIZE)

    # --- protocols -----------------------------------------------------------------------------------------------

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __repr__(self) -> str:
        return f"DAG({self.node_count} nodes, {self.edge_count} edges)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DAG):
            return NotImplemented
        return self._by_child == other._by_child and self._names == other._names

    def __hash__(self) -> int:
        return hash((self._names, *map(bytes, self._by_child)))

    def __reduce__(self) -> tuple[Callable[..., DAG], tuple[Any, ...]]:
        # Only what defines the graph, so the pickle is small and does not know how a DAG looks inside.
        return _restored, (self._names, self._sources(), self._targets)

    def _sources(self) -> array[int]:
        """The parent of every edge in the order of the edges, which the parents of each child keep among themselves."""
        cursors, parents = self._by_child.offsets[:], self._by_child.flat
        sources = array("I")
        for target in self._targets:
            sources.append(parents[cursors[target]])
            cursors[target] += 1
        return sources


def _restored(names: tuple[str, ...], sources: array[int], targets: array[int]) -> DAG:
    dag = object.__new__(DAG)
    dag._assemble(names, {name: index for index, name in enumerate(names)}, sources, targets)
    return dag


# --- what may be passed in -------------------------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    if type(name) is str:
        return name
    if isinstance(name, str):
        # A subclass, such as a member of a StrEnum, would drag its class into every pickle and record.
        return str.__str__(name)
    raise InvalidNameError(reprlib.repr(name), type(name).__name__)


def _checked_pair(pair: Any) -> tuple[Any, Any]:
    if type(pair) is tuple and len(pair) == 2:
        return pair
    # These might unpack too, but into characters, or in no order.
    if not isinstance(pair, (str, bytes, Set, Mapping)):
        try:
            parent, child = pair
        except (TypeError, ValueError):
            pass
        else:
            return parent, child
    raise GraphError(f"an edge must be a pair (parent, child), not {reprlib.repr(pair)}")


def _unknown(name: str, names: Sequence[str], context: str) -> UnknownNodeError:
    if len(names) <= _HINT_MAX_NODES and len(name) <= _HINT_MAX_CHARS:
        import difflib

        for close in difflib.get_close_matches(name, names, n=1, cutoff=0.7):
            context = f"{context}; did you mean {close!r}?"
    return UnknownNodeError(name, context)


@functools.lru_cache(maxsize=4096)  # siblings have the same parents
def _length_prefixed(name: str) -> bytes:
    # surrogatepass, because any string is a name, and os.listdir returns some with lone surrogates.
    encoded = name.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded


_NO_PARENTS = blake3().digest(_FINGERPRINT_SIZE)

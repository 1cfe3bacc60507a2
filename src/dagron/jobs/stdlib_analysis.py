"""Analysis of the running Python's own standard library: many small tasks of very uneven size.

Parses every `.py` file of the library, adds up each package, weighs the identifiers by rarity, compares the files pair
by pair, and writes a report that is the same text in every run on the same Python::

    scan -> file:<path> -> package:<name> -> weights -> block:<row>-<column> -> report
              (734)           (34)                            (78)

(the numbers are those of CPython 3.11.7: 849 nodes and 1,660 edges). `scan` and `weights` are parents of `report` too,
for the version and the totals. Run it with `dagron run dagron.jobs.stdlib_analysis --show report`; `serial_report`
computes the same text in a plain loop.

The graph has to be known before anything runs, so the file names are listed when this module is imported: 3 ms, and
nothing is opened. The library is taken not to change between a run and its resume.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import math
import os
import sys
import sysconfig
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dagron.graph.dag import DAG

__all__ = ["FILES", "LIBRARY_ROOT", "build", "dag", "list_files", "serial_report", "tasks"]

# 12 x 13 / 2 = 78 blocks of about 60 x 60 files and 15 ms. Each is handed all of `weights`, which takes 1.3 ms to
# unpickle, so blocks much smaller than these would pay more for their inputs than for their work.
N_GROUPS = 12

# Files with fewer different words are not compared: shims such as `from _curses_panel import *` are all alike.
MIN_WORDS = 10

SIMILAR = 0.9
"""The cosine from which two files count as similar; chosen, not derived."""

# Rows of a table of the report, which is two screens long.
N_SHOWN_PACKAGES = 10
N_SHOWN = 15

MODULES = "(modules)"

# Tests (more bytes than all the rest), caches, and what was installed later.
_LEFT_OUT = frozenset({"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"})

# Where the common node types that bind or use a name keep it; `global` and `except ... as`, say, mostly repeat one.
_NAME_FIELDS: dict[type[ast.AST], str] = {
    ast.AsyncFunctionDef: "name",
    ast.Attribute: "attr",
    ast.ClassDef: "name",
    ast.FunctionDef: "name",
    ast.Name: "id",
    ast.alias: "name",
    ast.arg: "arg",
    ast.keyword: "arg",
}


# --- what the nodes return -------------------------------------------------------------------------------------------


class Library(NamedTuple):
    """Result of `scan`: which library is analysed, and by which Python."""

    root: str
    python_version: str


class FileFacts(NamedTuple):
    """Result of a file node: how often each AST node type and each identifier occurs in it."""

    path: str
    parsed: bool
    n_lines: int
    node_types: dict[str, int]
    words: dict[str, int]


class WordCounts(NamedTuple):
    """One file's identifiers as ascending indices into a vocabulary, and how often each occurs."""

    path: str
    words: array[int]
    counts: array[int]


class PackageFacts(NamedTuple):
    """Result of a package node: the sums of its files, and the words of each file."""

    name: str
    skipped: tuple[str, ...]
    n_lines: int
    node_types: dict[str, int]
    vocabulary: tuple[str, ...]
    files: tuple[WordCounts, ...]


class PackageRow(NamedTuple):
    """A package's line of the report."""

    name: str
    n_files: int
    n_lines: int
    n_nodes: int


class WordRow(NamedTuple):
    """A word's line of the report."""

    word: str
    n_occurrences: int
    n_files: int
    weight: float


class Totals(NamedTuple):
    """What the report says about the library as a whole."""

    skipped: tuple[str, ...]
    n_words: int
    n_occurrences: int
    node_types: dict[str, int]
    packages: tuple[PackageRow, ...]
    heavy_words: tuple[WordRow, ...]


class Vector(NamedTuple):
    """One file as a direction in the space of words: ascending indices of words, and the components."""

    path: str
    words: array[int]
    components: array[float]


class Weights(NamedTuple):
    """Result of `weights`: the totals, and the vectors of all files that are compared, by path."""

    totals: Totals
    vectors: tuple[Vector, ...]


class Pair(NamedTuple):
    """Two files and the cosine of the angle between their vectors."""

    similarity: float
    first: str
    second: str


class BlockFacts(NamedTuple):
    """Result of a block node: how many of its pairs are similar, and the most similar ones."""

    n_pairs: int
    n_similar: int
    closest: tuple[Pair, ...]
    closest_across: tuple[Pair, ...]


# --- the tasks -------------------------------------------------------------------------------------------------------


def scan_library(*, root: str) -> Library:
    """Return which library is analysed; small, because every file node receives it."""
    return Library(root, sys.version.split()[0])


def analyse_file(scan: Library, *, path: str) -> FileFacts:
    """Parse one file and count its AST node types and identifiers.

    A file that does not parse is a fact about the library, not a failure: it comes back with `parsed` false and no
    counts. A file that cannot be read is a failure.

    Raises:
        OSError: The file cannot be read.
        RuntimeError: This is not the Python that `scan` saw; its AST may count differently.
    """
    running = sys.version.split()[0]
    if running != scan.python_version:
        raise RuntimeError(f"the scan is of Python {scan.python_version}, but {path!r} would be parsed by {running}")
    with open(os.path.join(scan.root, path), "rb") as file:
        source = file.read()
    try:
        with warnings.catch_warnings():
            # Invalid escapes in the library's source are not ours to report, nor to trip over under `-W error`.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # ValueError is a null byte; the last two are how the parser reports nesting beyond its own limits.
        return FileFacts(path, False, 0, {}, {})
    node_types: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for node in ast.walk(tree):
        node_type = type(node)
        node_types[node_type.__name__] += 1
        field = _NAME_FIELDS.get(node_type)
        if field is not None:
            word = getattr(node, field)
            if word is not None:  # the keyword of `**mapping` has no name
                words[word] += 1
    return FileFacts(path, True, len(source.splitlines()), dict(node_types), dict(words))


def merge_package(*files: FileFacts, name: str) -> PackageFacts:
    """Add up the files of one package and encode their words with one vocabulary.

    The encoding is what keeps the vectors cheap on their way up: each word is spelled once per package instead of once
    per file, and arrays are pickled and unpickled as one block of bytes.
    """
    node_types: Counter[str] = Counter()
    for file in files:
        node_types.update(file.node_types)
    vocabulary = tuple(sorted({word for file in files for word in file.words}))
    index_of = {word: index for index, word in enumerate(vocabulary)}
    counted = []
    for file in sorted(files, key=lambda file: file.path):
        if file.parsed:
            items = sorted((index_of[word], count) for word, count in file.words.items())
            counted.append(WordCounts(file.path, array("I", [i for i, _ in items]), array("I", [n for _, n in items])))
    skipped = tuple(sorted(file.path for file in files if not file.parsed))
    n_lines = sum(file.n_lines for file in files)
    return PackageFacts(name, skipped, n_lines, dict(node_types), vocabulary, tuple(counted))


def weigh_words(*packages: PackageFacts) -> Weights:
    """Weigh every word by its rarity and turn every file into a vector of length 1.

    All vectors go to every block: 0.7 MB, which unpickle in 1.3 ms because they are arrays. The alternatives cost
    more: a block that parsed its 120 files again would take 0.8 s instead of 15 ms, and one whose parents were the
    packages of its files would receive 1.1 MB, along 2,000 edges in all.
    """
    packages = tuple(sorted(packages, key=lambda package: package.name))
    n_files = sum(len(package.files) for package in packages)
    n_files_with: Counter[str] = Counter()
    occurrences: Counter[str] = Counter()
    node_types: Counter[str] = Counter()
    for package in packages:
        node_types.update(package.node_types)
        for file in package.files:
            for index, count in zip(file.words, file.counts, strict=True):
                word = package.vocabulary[index]
                n_files_with[word] += 1
                occurrences[word] += count
    vocabulary = sorted(n_files_with)
    rarity = {word: math.log(n_files / n_files_with[word]) for word in vocabulary}
    # A word of a single file adds to that file's length but to no product, so the vectors leave it out: a quarter
    # of their size, and the cosines are the same.
    shared_index_of = {word: index for index, word in enumerate(vocabulary) if n_files_with[word] > 1}

    vectors = []
    for package in packages:
        for file in package.files:
            if len(file.words) < MIN_WORDS:
                continue
            squares = []
            shared = []
            for index, count in zip(file.words, file.counts, strict=True):
                word = package.vocabulary[index]
                component = _weight(count, rarity[word])
                squares.append(component * component)
                if word in shared_index_of:
                    shared.append((shared_index_of[word], component))
            length = math.sqrt(math.fsum(squares))
            if length == 0.0:
                continue  # only words that every file has: it points nowhere
            words = array("I", [index for index, _ in shared])
            vectors.append(Vector(file.path, words, array("d", [component / length for _, component in shared])))

    heavy_words = sorted(
        (
            WordRow(word, occurrences[word], n_files_with[word], _weight(occurrences[word], rarity[word]))
            for word in vocabulary
        ),
        key=lambda row: (-row.weight, row.word),
    )
    totals = Totals(
        skipped=tuple(sorted(path for package in packages for path in package.skipped)),
        n_words=len(vocabulary),
        n_occurrences=occurrences.total(),
        node_types=dict(node_types),
        packages=tuple(
            PackageRow(package.name, len(package.files), package.n_lines, sum(package.node_types.values()))
            for package in packages
        ),
        heavy_words=tuple(heavy_words[:N_SHOWN]),
    )
    return Weights(totals, tuple(sorted(vectors, key=lambda vector: vector.path)))


def _weight(count: int, rarity: float) -> float:
    """Return the sublinear tf-idf weight of a word that occurs `count` times.

    `rarity` is ln(files / files with the word). Manning, Raghavan and Schuetze, Introduction to Information Retrieval,
    6.2.1 and 6.4.1.
    """
    return (1.0 + math.log(count)) * rarity


def compare_block(weights: Weights, *, row: int, column: int) -> BlockFacts:
    """Compare each file of group `row` with each of group `column`, every pair once.

    Group g holds every `N_GROUPS`th vector from the g-th on: neighbours in the list are alike in size and in words, so
    this makes blocks of even size where slices would not.
    """
    rows = weights.vectors[row::N_GROUPS]
    columns = weights.vectors[column::N_GROUPS]
    # By word instead of by pair, because two files have few of their 80 words in common: 15 ms a block, not 63 ms.
    postings: dict[int, list[tuple[int, float]]] = {}
    for j, vector in enumerate(columns):
        for word, component in zip(vector.words, vector.components, strict=True):
            postings.setdefault(word, []).append((j, component))
    n_pairs = 0
    pairs = []
    for i, vector in enumerate(rows):
        products = [0.0] * len(columns)
        # In ascending order of the words, so each sum of floats is always added in the same order.
        for word, component in zip(vector.words, vector.components, strict=True):
            for j, other in postings.get(word, ()):
                products[j] += component * other
        start = i + 1 if row == column else 0
        n_pairs += len(columns) - start
        for j in range(start, len(columns)):
            # Rounded before it is ranked: equal files differ in the last bit, and are to be listed by path.
            similarity = round(products[j], 6)
            first, second = sorted((vector.path, columns[j].path))
            pairs.append(Pair(similarity, first, second))
    across = [pair for pair in pairs if _top(pair.first) != _top(pair.second)]
    n_similar = sum(pair.similarity >= SIMILAR for pair in pairs)
    return BlockFacts(n_pairs, n_similar, _closest(pairs), _closest(across))


def write_report(scan: Library, weights: Weights, *blocks: BlockFacts) -> str:
    """Return the report; its last line is the BLAKE2b digest of the text before it."""
    totals = weights.totals
    n_nodes = sum(totals.node_types.values())
    lines = [
        f"Standard library of Python {scan.python_version}",
        "",
        "Totals",
        f"  {'files':<22}{sum(row.n_files for row in totals.packages):>10,}",
        f"  {'files skipped':<22}{len(totals.skipped):>10,}",
        f"  {'packages':<22}{len(totals.packages):>10,}",
        f"  {'lines':<22}{sum(row.n_lines for row in totals.packages):>10,}",
        f"  {'AST nodes':<22}{n_nodes:>10,}",
        f"  {'identifiers':<22}{totals.n_occurrences:>10,}",
        f"  {'different identifiers':<22}{totals.n_words:>10,}",
        f"  {'pairs compared':<22}{sum(block.n_pairs for block in blocks):>10,}",
        f"  {f'pairs from {SIMILAR} on':<22}{sum(block.n_similar for block in blocks):>10,}",
    ]
    if totals.skipped:
        lines += ["", "Files that do not parse", *(f"  {path}" for path in totals.skipped)]
    lines += ["", "Largest packages", f"  {'':<24}{'files':>8}{'lines':>10}{'AST nodes':>12}"]
    for row in sorted(totals.packages, key=lambda row: (-row.n_nodes, row.name))[:N_SHOWN_PACKAGES]:
        lines.append(f"  {row.name:<24}{row.n_files:>8,}{row.n_lines:>10,}{row.n_nodes:>12,}")
    lines += ["", "Most frequent AST node types"]
    for name, count in sorted(totals.node_types.items(), key=lambda item: (-item[1], item[0]))[:N_SHOWN]:
        lines.append(f"  {name:<24}{count:>10,}{100 * count / n_nodes:>8.2f} %")
    lines += ["", "Heaviest words", f"  {'':<24}{'occurrences':>12}{'files':>8}{'weight':>12}"]
    for word in totals.heavy_words:
        lines.append(f"  {word.word:<24}{word.n_occurrences:>12,}{word.n_files:>8,}{word.weight:>12.2f}")
    lines += ["", "Most similar files"]
    lines += _pair_lines([pair for block in blocks for pair in block.closest])
    lines += ["", "Most similar files of different packages"]
    lines += _pair_lines([pair for block in blocks for pair in block.closest_across])
    body = "\n".join(lines) + "\n"
    digest = hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
    return f"{body}\nblake2b {digest}\n"


def _pair_lines(pairs: Sequence[Pair]) -> list[str]:
    return [f"  {pair.similarity:.4f}  {pair.first}  {pair.second}" for pair in _closest(pairs)]


def _closest(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))[:N_SHOWN])


def _top(path: str) -> str:
    """Return the top-level package or module that a file belongs to."""
    return path.partition("/")[0]


# --- the graph -------------------------------------------------------------------------------------------------------


def list_files(root: str) -> tuple[str, ...]:
    """Return the `.py` files below `root`, relative to it, with slashes, sorted; without tests and installed packages.

    Looks only at names. Links to directories are not followed, links to nothing are left out, and a directory that
    cannot be read counts as empty.
    """
    return tuple(sorted(_walk(root, "")))


def _walk(directory: str, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _LEFT_OUT:
                        yield from _walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.name.endswith(".py") and entry.is_file():
                    yield prefix + entry.name
    except OSError:
        return


def _by_package(files: Sequence[str]) -> dict[str, list[str]]:
    """Group the files by top-level package, both in sorted order; single modules share one package."""
    packages: dict[str, list[str]] = {}
    for path in sorted(files):
        package = _top(path) if "/" in path else MODULES
        packages.setdefault(package, []).append(path)
    return dict(sorted(packages.items()))


def _blocks() -> list[tuple[int, int]]:
    return [(row, column) for row in range(N_GROUPS) for column in range(row, N_GROUPS)]


def build(files: Sequence[str], root: str) -> tuple[DAG, dict[str, Callable[..., Any]]]:
    """Return the DAG and the tasks that analyse `files`, given relative to `root`."""
    builder = DAG.builder()
    node_tasks: dict[str, Callable[..., Any]] = {}

    def add(node: str, task: Callable[..., Any], parents: Sequence[str] = ()) -> None:
        builder.add_node(node)
        for parent in parents:
            builder.add_edge(parent, node)
        node_tasks[node] = task

    add("scan", functools.partial(scan_library, root=root))
    packages = _by_package(files)
    for name, paths in packages.items():
        for path in paths:
            add(f"file:{path}", functools.partial(analyse_file, path=path), ["scan"])
        add(f"package:{name}", functools.partial(merge_package, name=name), [f"file:{path}" for path in paths])
    add("weights", weigh_words, [f"package:{name}" for name in packages])
    for row, column in _blocks():
        add(_block_name(row, column), functools.partial(compare_block, row=row, column=column), ["weights"])
    add("report", write_report, ["scan", "weights", *(_block_name(row, column) for row, column in _blocks())])
    return builder.build(), node_tasks


def _block_name(row: int, column: int) -> str:
    return f"block:{row:02}-{column:02}"


LIBRARY_ROOT = sysconfig.get_path("stdlib")
FILES = list_files(LIBRARY_ROOT)

dag, tasks = build(FILES, LIBRARY_ROOT)


# --- the same without dagron -----------------------------------------------------------------------------------------


def serial_report(files: Sequence[str] = FILES, root: str = LIBRARY_ROOT) -> str:
    """Return the report that the DAG gives for `files`, computed by a plain loop in this process: 7 s for all."""
    scan = scan_library(root=root)
    packages = [
        merge_package(*[analyse_file(scan, path=path) for path in paths], name=name)
        for name, paths in _by_package(files).items()
    ]
    weights = weigh_words(*packages)
    blocks = [compare_block(weights, row=row, column=column) for row, column in _blocks()]
    return write_report(scan, weights, *blocks)

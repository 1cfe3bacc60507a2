"""Values of well-known libraries and what a preview of each has to say, for `tests/preview`.

`python tests/support/library_values.py` writes the pickles of all that are installed into
`tests/preview/golden/VERSIONS.txt`, so that readers are tried where none of the libraries is. A line there is the name
of a value and its pickle, compressed, as base64.
"""

from __future__ import annotations

import base64
import datetime
import importlib
import pickle
import sys
import zlib
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "preview" / "golden"


def frame(pd):
    """A table with a column of each common type."""
    frame = pd.DataFrame({"n": [1, 2, 3], "x": [0.5, 2.0, float("nan")], "s": ["one", "two", None]})
    frame["t"] = pd.to_datetime(["2020-01-01 00:00", "2020-01-02 12:30", None])
    frame["k"] = pd.Categorical(["u", "v", "u"])
    return frame


def extended(pd):
    """A table with the types that only pandas has."""
    frame = pd.DataFrame(
        {"I": pd.array([1, None, 3], dtype="Int64"), "B": pd.array([True, None, False], dtype="boolean")}
    )
    frame["S"] = pd.array(["a", None, "c"], dtype="string")
    frame["d"] = pd.to_timedelta([1, 90, 86400], unit="s")
    frame["p"] = pd.period_range("2020-01", periods=3, freq="M")
    frame["i"] = pd.interval_range(0, 3)
    frame["z"] = pd.to_datetime(["2020-06-01 10:00"] * 3).tz_localize("Europe/Berlin")
    frame["o"] = pd.arrays.SparseArray([0, 0, 1])
    return frame


def polars_frame(pl):
    """A table with a column of each common type."""
    columns = {
        "a": [1, 2, None],
        "x": [0.5, None, 2.0],
        "s": ["short", "a text of more than twelve bytes", None],
        "d": [datetime.date(2020, 1, 1)] * 3,
        "t": [datetime.datetime(2020, 1, 1, 12, 30)] * 3,
        "b": [True, False, None],
        "l": [[1], [2, 3], None],
        "e": [datetime.timedelta(days=1, seconds=1)] * 3,
        "r": [{"q": 1}] * 3,
    }
    return pl.DataFrame(columns).with_columns(pl.Series("c", ["u", "v", "u"], dtype=pl.Categorical))


def png(image):
    """An image that was read from a file."""
    import io

    file = io.BytesIO()
    image.new("L", (5, 4)).save(file, "PNG")
    return image.open(io.BytesIO(file.getvalue()))


def bound_array(np):
    """An array of a class that is numpy's own, but not `ndarray`."""
    return np.array([(1, 2.5), (2, 0.5)], dtype=[("a", "i4"), ("b", "f8")])


NUMPY = {
    "floats": (
        lambda np: np.arange(6.0).reshape(2, 3) / 4,
        ["ndarray of shape (2, 3), float64", "0.75   1.0"],
    ),
    "columns in memory": (lambda np: np.asfortranarray([[1, 2], [3, 4]]), ["[[1  2]\n [3  4]]"]),
    "every other": (lambda np: np.arange(10)[::2], ["shape (5,), int64", "[0, 2, 4, 6, 8]"]),
    "many rows": (lambda np: np.ones((40, 2), "f4"), ["shape (40, 2), float32", "... +34 rows]"]),
    "many axes": (lambda np: np.zeros((2, 1, 2, 1, 2)), ["shape (2, 1, 2, 1, 2), float64"]),
    "nothing": (lambda np: np.zeros((0, 3)), ["shape (0, 3), float64"]),
    "no axis": (lambda np: np.array(3.5), ["shape (), float64", "3.5"]),
    "texts": (lambda np: np.array(["a", "bb"]), ["str of up to 2", "['a', 'bb']"]),
    "objects": (lambda np: np.array([1, "a", None], dtype=object), ["object", "[1, 'a', None]"]),
    "records": (bound_array, ["{a: int32, b: float64}", "(1, 2.5), (2, 0.5)"]),
    "big endian": (lambda np: np.array([1, 2], dtype=">i4"), ["int32", "[1, 2]"]),
    "masked": (lambda np: np.ma.array([1, 2], mask=[0, 1]), ["MaskedArray of shape (2,), int64", "[1, --]"]),
    "old matrix": (lambda np: np.matrix([[1, 2]]), ["matrix of shape (1, 2)"]),
    "days": (lambda np: np.array(["2020-01-01", "NaT"], dtype="M8[D]"), ["datetime64[D]", "2020-01-01, NaT"]),
    "booleans": (lambda np: np.array([True, False]), ["bool", "[True, False]"]),
    "complex": (lambda np: np.array([1 + 2j]), ["complex128", "(1+2j)"]),
    "float64": (lambda np: np.float64(1.5), ["np.float64(1.5)"]),
    "float32": (lambda np: np.float32(0.1), ["np.float32(0.1)"]),
    "int8": (lambda np: np.int8(-3), ["np.int8(-3)"]),
    "bool": (lambda np: np.bool_(True), ["np.bool(True)"]),
    "str": (lambda np: np.str_("a"), ["np.str_('a')"]),
    "datetime64": (lambda np: np.datetime64("2020-01-01T12:30", "s"), ["np.datetime64('2020-01-01 12:30:00')"]),
    "generator": (lambda np: np.random.default_rng(1), ["Generator(PCG64)"]),
    "old generator": (lambda np: np.random.RandomState(1), ["RandomState(MT19937)"]),
    "dtype": (lambda np: np.dtype("f4"), ["dtype('float32')"]),
    "class": (lambda np: np.float64, ["<numpy.float64>"]),
    "in a dict": (
        lambda np: {"a": np.arange(3), "b": [np.eye(2)]},
        ["'a': ndarray of shape (3,), int64\n        [0, 1, 2]\n", "[[1.0  0.0]\n             [0.0  1.0]]"],
    ),
}

PANDAS = {
    "frame": (
        frame,
        ["DataFrame of 3 rows and 5 columns", "category", "0      1      0.5", "2020-01-02 12:30:00", "NaT", "None"],
    ),
    "extended": (
        lambda pd: extended(pd)[["I", "B", "S", "d", "p", "i"]],
        ["3 rows and 6 columns", "Int64  boolean", "<NA>     <NA>", "00:01:30", "1 d", "2020-02", "(0, 1]"],
    ),
    "sparse and zones": (lambda pd: extended(pd)[["o", "z"]], ["Europe/Berlin]", "2020-06-01 08:00:00Z", "Sparse"]),
    "series": (lambda pd: pd.Series([1.0, 2.5], name="q"), ["Series of 2 values, float64, named q", "0  1.0\n1  2.5"]),
    "index of two": (lambda pd: frame(pd).set_index(["n", "s"])[["x"]], ["('n', 's')", "(1, 'one')"]),
    "index of times": (lambda pd: frame(pd).set_index("t")[["x"]], ["2020-01-02 12:30:00      2.0"]),
    "described": (lambda pd: frame(pd)[["n", "x"]].describe(), ["count", "mean", "25%"]),
    "long": (lambda pd: pd.DataFrame({"a": range(100)}), ["DataFrame of 100 rows and 1 column", "9", "... +90 rows"]),
    "empty": (lambda pd: pd.DataFrame(), ["DataFrame of 0 rows and 0 columns"]),
    "timestamp": (lambda pd: pd.Timestamp("2020-01-01 12:00"), ["Timestamp('2020-01-01 12:00:00')"]),
    "timestamp with zone": (lambda pd: pd.Timestamp("2020-01-01", tz="UTC"), ["Timestamp('2020-01-01Z', tz='UTC')"]),
    "timedelta": (lambda pd: pd.Timedelta("90s"), ["Timedelta('00:01:30')"]),
    "period": (lambda pd: pd.Period("2020-01"), ["Period('2020-01')"]),
    "interval": (lambda pd: pd.Interval(0, 1), ["Interval(0, 1, closed='right')"]),
    "no time": (lambda pd: pd.NaT, ["NaT"]),
    "index": (lambda pd: pd.Index(["a", "b"]), ["Index of 2 values", "a\nb"]),
    "in a list": (lambda pd: [frame(pd)] * 7, ["<DataFrame of 3 rows and 5 columns: n, x, s, t, k>"]),
}

POLARS = {
    "frame": (
        lambda pl: polars_frame(pl)[["a", "x", "s", "d"]],
        ["DataFrame of 3 rows and 4 columns", "i64", "a text of more than twelve bytes", "None", "2020-01-01"],
    ),
    "more types": (
        lambda pl: polars_frame(pl)[["t", "b", "l", "e", "r", "c"]],
        ["datetime[us]", "2020-01-01 12:30:00", "[2, 3]", "1 d 00:00:01", "{'q': 1}", "cat", "v"],
    ),
    "series": (lambda pl: pl.Series("z", [1.5, None]), ["Series of 2 values, f64, named z", "1.5\nNone"]),
}

SCIPY = {
    kind: (lambda sparse, kind=kind: getattr(sparse, kind)([[0.0, 1.0], [2.0, 0.0]]), texts)
    for kind, texts in {
        "csr_matrix": ["csr_matrix of shape (2, 2), float64, 2 stored values", "(0, 1)  1.0\n(1, 0)  2.0"],
        "csc_matrix": ["csc_matrix of shape (2, 2), float64, 2 stored values", "(1, 0)  2.0\n(0, 1)  1.0"],
        "coo_matrix": ["coo_matrix of shape (2, 2), float64, 2 stored values", "(0, 1)  1.0"],
        "lil_matrix": ["lil_matrix of shape (2, 2), float64, 2 stored values"],
        "dok_matrix": ["dok_matrix of shape (2, 2), float64, 2 stored values", "(0, 1)  1.0"],
        "dia_matrix": ["dia_matrix of shape (2, 2), float64"],
        "csr_array": ["csr_array of shape (2, 2), float64, 2 stored values"],
    }.items()
}


def fitted(sklearn):
    """A model that has learned."""
    linear = importlib.import_module("sklearn.linear_model")
    return linear.Ridge(alpha=0.25).fit([[0.0], [1.0]], [0.0, 1.0])


def piped(sklearn):
    """Models in one another."""
    return importlib.import_module("sklearn.pipeline").make_pipeline(fitted(sklearn))


def tree(sklearn):
    """A model that has a class of Cython."""
    return importlib.import_module("sklearn.tree").DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1]).tree_


SKLEARN = {
    "model": (fitted, ["Ridge of scikit-learn", ", fitted", "alpha=0.25", "coef_ = <ndarray of shape (1,), float64"]),
    "pipeline": (piped, ["Pipeline(", "'ridge',", "Ridge(", "alpha=0.25"]),
    "tree": (tree, ["<Tree of 3 nodes, depth 1>"]),
}

NETWORKX = {
    "graph": (lambda nx: nx.path_graph(3), ["Graph of 3 nodes and 2 edges", "nodes: 0, 1, 2", "(0, 1), (1, 2)"]),
    "loop": (lambda nx: nx.Graph([("a", "a"), ("a", "b")]), ["Graph of 2 nodes and 2 edges"]),
    "directed": (lambda nx: nx.DiGraph([(1, 2), (2, 1)]), ["DiGraph of 2 nodes and 2 edges", "(1, 2), (2, 1)"]),
    "multi": (lambda nx: nx.MultiGraph([(1, 2), (1, 2)]), ["MultiGraph of 2 nodes and 2 edges"]),
}

PILLOW = {
    "image": (lambda image: image.new("RGB", (4, 3)), ["<Image of 4 x 3 pixels, RGB, 36 bytes>"]),
    "png": (png, ["<Png image of 5 x 4 pixels, L, 20 bytes>"]),
}

LIBRARIES = {
    "numpy": NUMPY,
    "pandas": PANDAS,
    "polars": POLARS,
    "scipy.sparse": SCIPY,
    "sklearn": SKLEARN,
    "networkx": NETWORKX,
    "PIL.Image": PILLOW,
}

VALUES = {(library, name): value for library, values in LIBRARIES.items() for name, value in values.items()}


def golden_pickles():
    """Yield library, name and pickle of each value that was written."""
    for path in sorted(GOLDEN.glob("*.txt")):
        for line in path.read_text(encoding="ascii").splitlines():
            library, name, data = line.split("\t")
            yield path.stem, library, name, zlib.decompress(base64.b64decode(data))


def write():
    """Write the pickles of what is installed."""
    lines, versions = [], []
    for library, values in LIBRARIES.items():
        module = importlib.import_module(library)
        versions.append(f"{library.partition('.')[0]}-{sys.modules[library.partition('.')[0]].__version__}")
        for name, (make, _) in values.items():
            data = base64.b64encode(zlib.compress(pickle.dumps(make(module), 5), 9)).decode("ascii")
            lines.append(f"{library}\t{name}\t{data}\n")
    GOLDEN.mkdir(exist_ok=True)
    path = GOLDEN / f"{'_'.join(versions[:3])}.txt"
    path.write_text("".join(lines), encoding="ascii")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    write()

"""The job `dagron.jobs.stdlib_analysis`: the graph gives what the plain loop gives, and the figures are right."""

import ast
import hashlib
import inspect
import itertools
import math
import os
import pickle
import subprocess
import sys
from collections import Counter

import cloudpickle
import pytest

from dagron.jobs import stdlib_analysis as job

SUBSET = job.FILES[::12]

SMALL = {
    "alone.py": "import os\n\ndef first(a, b):\n    return os.path.join(a, b, key=1, **b)\n",
    "pack/__init__.py": "",
    "pack/left.py": "a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = only_left = 1\n",
    "pack/right.py": "a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = only_right = a1\n",
    "pack/sub/deep.py": "class Deep:\n    async def go(self):\n        '\\d'\n",
    "zeta/other.py": "b1 = b2 = b3 = b4 = b5 = b6 = b7 = b8 = b9 = b10 = a9 = 1\n",
}

DOES_NOT_PARSE = {
    "bad_encoding.py": b"# coding: nonsense\n",
    "bad_nesting.py": b"x = " + b"-" * 100_000 + b"1\n",
    "bad_null.py": b"x = 1\0\n",
    "bad_syntax.py": b"def def\n",
}


def write_library(root, files):
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(root)


def call(task, parents, results):
    """Call a task with the results of its parents: those it names by name, the others in `*args`, in edge order."""
    parameters = inspect.signature(task).parameters
    by_position = [results[name] for name in parameters if name in parents]
    rest = [results[name] for name in parents if name not in parameters]
    assert not rest or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    return task(*by_position, *rest)


def evaluate(dag, tasks):
    """Run everything in this process; tasks and results go through pickle, as they would on the way to workers."""
    results = {}
    for name in dag.topological_order():
        task = cloudpickle.loads(cloudpickle.dumps(tasks[name]))
        results[name] = pickle.loads(pickle.dumps(call(task, dag.parents(name), results), protocol=5))
    return results


def run_in_child(code, **environment):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        check=True,
        timeout=60,
    )
    return completed.stdout.decode()


# --- the graph -------------------------------------------------------------------------------------------------------


def test_the_module_level_graph_covers_the_library():
    n_files = len(job.FILES)
    packages = {path.partition("/")[0] for path in job.FILES if "/" in path} | {job.MODULES}
    assert n_files > 500
    assert 25 <= len(packages) <= 45
    assert job.dag.node_count == 1 + n_files + len(packages) + 1 + 78 + 1
    # scan -> files -> packages -> weights -> blocks -> report, and scan and weights -> report
    assert job.dag.edge_count == n_files + n_files + len(packages) + 78 + 78 + 2
    assert job.dag.roots() == ["scan"]
    assert job.dag.leaves() == ["report"]
    assert set(job.tasks) == set(job.dag.nodes)


def test_parents_are_the_ones_that_the_tasks_take():
    dag, tasks = job.build(SUBSET, job.LIBRARY_ROOT)
    for name in dag:
        parameters = inspect.signature(tasks[name]).parameters.values()
        required = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        takes_the_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        assert required <= set(dag.parents(name)), name
        assert takes_the_rest or required == set(dag.parents(name)), name


def test_build_does_not_depend_on_the_order_of_the_files():
    dag, tasks = job.build(SUBSET, job.LIBRARY_ROOT)
    reversed_dag, reversed_tasks = job.build(SUBSET[::-1], job.LIBRARY_ROOT)
    assert dag == reversed_dag
    assert list(tasks) == list(reversed_tasks)


def test_tasks_travel_by_reference():
    assert max(len(cloudpickle.dumps(task)) for task in job.tasks.values()) < 1_000


def test_list_files_is_sorted_and_leaves_out_tests_caches_and_installed_packages(tmp_path):
    left_out = ["test", "tests", "idlelib/idle_test", "__pycache__", "site-packages", "dist-packages"]
    root = write_library(tmp_path, {**SMALL, **{f"{directory}/x.py": "" for directory in left_out}, "notes.txt": ""})
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert job.list_files(root) == tuple(sorted(SMALL))


def test_list_files_of_no_directory_is_empty(tmp_path):
    assert job.list_files(str(tmp_path / "python311.zip")) == ()


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_graph_gives_the_text_of_the_plain_loop():
    report = evaluate(*job.build(SUBSET, job.LIBRARY_ROOT))["report"]
    assert report == job.serial_report(SUBSET)
    assert f"Standard library of Python {sys.version.split()[0]}\n" in report


def test_the_order_of_results_does_not_matter():
    results = evaluate(*job.build(SUBSET, job.LIBRARY_ROOT))
    packages = [result for name, result in results.items() if name.startswith("package:")]
    blocks = [result for name, result in results.items() if name.startswith("block:")]
    assert job.weigh_words(*packages[::-1]) == results["weights"]
    assert job.write_report(results["scan"], results["weights"], *blocks[::-1]) == results["report"]


def test_the_report_does_not_depend_on_hash_randomisation():
    code = "from dagron.jobs import stdlib_analysis as job; print(job.serial_report(job.FILES[::12]), end='')"
    reports = {run_in_child(code, PYTHONHASHSEED=seed) for seed in ("0", "1", "4242")}
    assert reports == {job.serial_report(SUBSET)}


def test_the_report_names_no_path_of_this_machine(tmp_path):
    first = write_library(tmp_path / "first", SMALL)
    second = write_library(tmp_path / "second", SMALL)
    assert job.serial_report(tuple(SMALL), first) == job.serial_report(tuple(SMALL), second)


def test_the_last_line_is_the_digest_of_the_text_before(tmp_path):
    body, _, last = job.serial_report(tuple(SMALL), write_library(tmp_path, SMALL)).rpartition("\nblake2b ")
    assert last == hashlib.blake2b(body.encode(), digest_size=16).hexdigest() + "\n"


def test_the_report_of_nothing():
    assert evaluate(*job.build((), "/nowhere"))["report"] == job.serial_report((), "/nowhere")


def test_files_that_do_not_parse_are_counted_and_named(tmp_path):
    root = write_library(tmp_path, {**SMALL, **DOES_NOT_PARSE})
    results = evaluate(*job.build(job.list_files(root), root))
    totals = results["weights"].totals
    assert totals.skipped == tuple(sorted(DOES_NOT_PARSE))
    assert sum(row.n_files for row in totals.packages) == len(SMALL)
    for path in DOES_NOT_PARSE:
        assert f"  {path}\n" in results["report"]
    # They change nothing else.
    without = job.serial_report(tuple(SMALL), root).splitlines()
    with_them = results["report"].splitlines()
    assert with_them[with_them.index("Largest packages") : -1] == without[without.index("Largest packages") : -1]


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_file_that_is_too_deep_for_the_parser_is_counted_and_named(tmp_path, monkeypatch, error):
    """How deep that is, and whether a parser says so, is another matter in each version of Python."""

    def parse(source, original=ast.parse):
        if source == b"deep":
            raise error
        return original(source)

    root = write_library(tmp_path, {**SMALL, "deep.py": b"deep"})
    monkeypatch.setattr(ast, "parse", parse)
    assert evaluate(*job.build(job.list_files(root), root))["weights"].totals.skipped == ("deep.py",)


# --- the figures -----------------------------------------------------------------------------------------------------


def analysed(root, path):
    return job.analyse_file(job.scan_library(root=root), path=path)


def test_a_file_is_counted(tmp_path):
    facts = analysed(write_library(tmp_path, SMALL), "alone.py")
    assert facts.n_lines == 4
    assert facts.words == {"os": 2, "first": 1, "a": 2, "b": 3, "path": 1, "join": 1, "key": 1}
    assert facts.node_types == Counter(type(node).__name__ for node in ast.walk(ast.parse(SMALL["alone.py"])))


def test_warnings_of_the_compiler_are_silent(tmp_path):
    assert analysed(write_library(tmp_path, SMALL), "pack/sub/deep.py").parsed


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path):
    with pytest.raises(FileNotFoundError):
        analysed(str(tmp_path), "absent.py")


def test_another_python_than_that_of_the_scan_is_a_failure(tmp_path):
    root = write_library(tmp_path, SMALL)
    with pytest.raises(RuntimeError, match=r"2\.7\.18"):
        job.analyse_file(job.Library(root, "2.7.18"), path="alone.py")


def test_a_package_is_the_sum_of_its_files(tmp_path):
    root = write_library(tmp_path, SMALL)
    files = [analysed(root, path) for path in ("pack/right.py", "pack/__init__.py", "pack/left.py")]
    package = job.merge_package(*files, name="pack")
    assert package.n_lines == 2
    assert package.node_types["Name"] == 10 + 11
    assert [file.path for file in package.files] == ["pack/__init__.py", "pack/left.py", "pack/right.py"]
    words_of_right = {
        package.vocabulary[index]: count
        for index, count in zip(package.files[2].words, package.files[2].counts, strict=True)
    }
    assert words_of_right == files[0].words


def test_similarities_are_the_cosines(tmp_path):
    root = write_library(tmp_path, SMALL)
    results = evaluate(*job.build(tuple(SMALL), root))
    assert [vector.path for vector in results["weights"].vectors] == [
        "pack/left.py",
        "pack/right.py",
        "zeta/other.py",
    ]  # the others have too few words
    # 6 files; a1..a8 are in 2 of them, a9 in 3, b1..b10 and the two `only_` in 1.
    once, twice, thrice = math.log(6), math.log(6 / 2), math.log(6 / 3)
    a1_of_right = (1 + math.log(2)) * twice
    left = math.hypot(*[twice] * 8, thrice, once)
    right = math.hypot(a1_of_right, *[twice] * 7, thrice, once)
    other = math.hypot(*[once] * 10, thrice)
    expected = [
        ((twice * a1_of_right + 7 * twice**2 + thrice**2) / (left * right), "pack/left.py", "pack/right.py"),
        (thrice**2 / (left * other), "pack/left.py", "zeta/other.py"),
        (thrice**2 / (right * other), "pack/right.py", "zeta/other.py"),
    ]
    blocks = [result for name, result in results.items() if name.startswith("block:")]
    found = sorted((pair for block in blocks for pair in block.closest), reverse=True)
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
    assert [pair.similarity for pair in found] == pytest.approx([pair[0] for pair in expected], abs=1e-6)
    across = sorted((pair for block in blocks for pair in block.closest_across), reverse=True)
    assert across == found[1:]


def test_blocks_find_the_closest_of_all_pairs():
    results = evaluate(*job.build(SUBSET, job.LIBRARY_ROOT))
    vectors = {
        vector.path: dict(zip(vector.words, vector.components, strict=True)) for vector in results["weights"].vectors
    }
    cosines = {
        (first, second): sum(component * vectors[second].get(word, 0.0) for word, component in vectors[first].items())
        for first, second in itertools.combinations(vectors, 2)
    }
    blocks = [result for name, result in results.items() if name.startswith("block:")]
    assert sum(block.n_pairs for block in blocks) == len(cosines)
    assert sum(block.n_similar for block in blocks) == sum(cosine >= job.SIMILAR for cosine in cosines.values())
    found = sorted((pair for block in blocks for pair in block.closest), reverse=True)[: job.N_SHOWN]
    closest = sorted(cosines.values(), reverse=True)[: job.N_SHOWN]
    assert [pair.similarity for pair in found] == pytest.approx(closest, abs=1e-6)
    for pair in found:
        assert cosines[pair.first, pair.second] == pytest.approx(pair.similarity, abs=1e-6)

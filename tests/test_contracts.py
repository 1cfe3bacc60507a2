"""What the project says about its own code: errors, exports, layers, who may touch disk and processes, names."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import pickle
import subprocess
import sys
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import pytest
from places import ROOT

import dagron
from dagron import errors
from dagron.engines.local.context import _BOOT

PACKAGE = Path(dagron.__file__).parent

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}
WORKERS = {module for module in SOURCES if module.startswith("engines.local.")}
CHECKPOINT = {module for module in SOURCES if module.startswith("checkpoint.")}
CLI = {module for module in SOURCES if module == "cli" or module.startswith("cli.")}
TESTING = {module for module in SOURCES if module.startswith("testing.")}


def in_fresh_interpreter(code):
    """Run code where nothing was imported before; return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, check=True, text=True).stdout


# --- errors -----------------------------------------------------------------------------------------------------------

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)]


def argument(name, hint):
    """Something that a parameter of this type takes, different for each name."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    wanted = options[0]
    if wanted == Sequence[Exception]:
        return [ValueError(f"{name} 1"), TypeError(f"{name} 2")]
    if typing.get_origin(wanted) is Sequence:
        return [f"{name} 1", f"{name} 2"]
    return {str: f"some {name}", int: -9, float: 2.5, bool: True}[wanted]


def instances(cls):
    """The error with every argument, and with the required ones alone."""
    if "__init__" not in vars(cls):
        return [cls("some text", 3)]
    parameters = list(inspect.signature(cls).parameters.values())
    hints = typing.get_type_hints(cls.__init__)
    given = [argument(p.name, hints[p.name]) for p in parameters]
    n_required = sum(p.default is p.empty for p in parameters)
    return [cls(*given), cls(*given[:n_required])]


ERROR_IDS = {"ids": lambda cls: cls.__name__}


class TestErrors:
    @pytest.mark.parametrize("cls", ERRORS, **ERROR_IDS)
    def test_each_survives_pickling_and_copying_with_type_text_and_fields(self, cls):
        for error in instances(cls):
            error.add_note("a note")
            pickled = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
            for again in (*pickled, copy.copy(error), copy.deepcopy(error)):
                assert type(again) is cls
                assert str(again) == str(error)
                assert vars(again) == vars(error)
                assert repr(again.args) == repr(error.args)

    @pytest.mark.parametrize("cls", [cls for cls in ERRORS if "__init__" in vars(cls)], **ERROR_IDS)
    def test_each_keeps_its_arguments_in_fields_of_the_same_names(self, cls):
        error = instances(cls)[0]
        fields = {*vars(error), *(["exceptions"] if isinstance(error, ExceptionGroup) else [])}
        assert fields == set(inspect.signature(cls).parameters)

    @pytest.mark.parametrize("cls", [cls for cls in ERRORS if "__init__" in vars(cls)], **ERROR_IDS)
    def test_the_text_of_each_says_what_its_fields_are(self, cls):
        error = instances(cls)[0]
        for name, value in vars(error).items():
            # Numbers may be shown in another unit, and the traceback is shown as the cause.
            if isinstance(value, str) and name != "traceback_text":
                assert value in str(error), name
        assert len(repr(error)) > len(cls.__name__)

    def test_all_but_the_remote_traceback_are_dagron_errors(self):
        others = [cls for cls in ERRORS if not issubclass(cls, errors.DagronError)]
        assert others == [errors.RemoteTraceback]

    def test_all_are_exported_and_stand_in_the_tree_at_the_top(self):
        assert {cls.__name__ for cls in ERRORS} == set(errors.__all__)
        tree = errors.__doc__.split("::", 1)[1]
        for cls in ERRORS:
            if cls is not errors.RemoteTraceback:
                (line,) = [line for line in tree.splitlines() if has(line, cls)]
                for base in cls.__bases__:
                    if not issubclass(base, errors.DagronError) and base is not Exception:
                        assert f"({base.__name__})" in line

    def test_a_list_of_names_is_shown_up_to_eight(self):
        names = [f"node {i}" for i in range(1000)]
        text = str(errors.MissingTaskError(names))
        assert "'node 7' and 992 more" in text
        assert "no task for 1000 node(s)" in text

    def test_an_exit_by_signal_names_it(self):
        text = str(errors.WorkerLostError("n", 2, -11, 3 * 2**20))
        assert (
            text == "the worker of node 'n' was killed by signal 11 (SIGSEGV) in attempt 2; its peak memory was 3 MiB"
        )
        assert "exited with code 3" in str(errors.WorkerLostError("n", 1, 3))
        assert "vanished" in str(errors.WorkerLostError("n", 1, None))
        assert "(unknown signal)" in str(errors.WorkerLostError("n", 1, -200))
        assert "out of memory" in str(errors.WorkerLostError("n", 1, -9))

    def test_no_other_module_defines_errors_but_the_command_line(self):
        found = {
            (module, node.name)
            for module, tree in TREES.items()
            if module not in {"errors"} | CLI
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
        }
        assert found == {("loading", "Reached")}  # no error: it ends the loading of a job


def has(line, cls):
    """Whether a line of the tree is that of this class."""
    words = line.replace("│", " ").replace("├──", " ").replace("└──", " ").split()
    return words[:1] == [cls.__name__]


# --- what is exported -----------------------------------------------------------------------------------------------


def public_order(name):
    """Constants first, then classes, then the rest, as ruff sorts them."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


class TestExports:
    def test_all_is_sorted_and_has_nothing_twice(self):
        assert dagron.__all__ == sorted(set(dagron.__all__), key=public_order)

    def test_all_is_complete(self):
        lazily = {
            alias.asname or alias.name
            for node in TREES["__init__"].body
            if isinstance(node, ast.If)
            for statement in node.body
            for alias in statement.names
        }
        assert set(dagron.__all__) == set(errors.__all__) | lazily
        assert set(dagron._HOMES) == lazily

    def test_every_name_can_be_imported(self):
        for name in dagron.__all__:
            value = getattr(dagron, name)
            assert value.__name__ == name
            assert value.__module__.startswith("dagron.")
            assert name in sys.modules[value.__module__].__all__

    def test_import_star_gives_all_of_them_and_nothing_else(self):
        printed = in_fresh_interpreter(
            "before = set(globals()); from dagron import *; print(*sorted(set(globals()) - before - {'before'}))"
        )
        assert printed.split() == sorted(dagron.__all__)

    def test_dir_has_all_of_them_before_they_are_loaded(self):
        printed = in_fresh_interpreter("import dagron; print(*dir(dagron))")
        assert set(dagron.__all__) <= set(printed.split())

    def test_what_there_is_not_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="module 'dagron' has no attribute 'nothing'"):
            _ = dagron.nothing

    def test_the_version_is_that_of_the_distribution(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert dagron.__version__ == project["version"]

    @pytest.mark.parametrize(
        "module", [m for m, path in SOURCES.items() if path.name not in ("__init__.py", "__main__.py")]
    )
    def test_every_module_says_what_it_exports_and_has_that(self, module):
        loaded = importlib.import_module(f"dagron.{module}")
        assert list(loaded.__all__) == sorted(set(loaded.__all__), key=public_order)
        assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


class TestDocstrings:
    def test_every_module_has_one(self):
        assert [module for module in SOURCES if not ast.get_docstring(TREES[module])] == []

    @pytest.mark.parametrize("name", dagron.__all__)
    def test_every_public_object_has_one_of_its_own_and_so_has_each_of_its_methods(self, name):
        value = getattr(dagron, name)
        if isinstance(value, types.FunctionType):
            assert inspect.getdoc(value)
            return
        assert vars(value)["__doc__"].strip()
        # A dataclass without a docstring gets its signature for one.
        assert not vars(value)["__doc__"].startswith(f"{name}(")
        for attribute, member in vars(value).items():
            if attribute.startswith("_") or not isinstance(
                member, (types.FunctionType, property, classmethod, staticmethod)
            ):
                continue
            assert inspect.getdoc(member), attribute


# --- rooms ----------------------------------------------------------------------------------------------------------

INTERNALS = (ROOT / "docs" / "internals.md").read_text(encoding="utf-8")
ROOMS = [line.split()[0] for line in INTERNALS.split("<!-- rooms -->\n```\n")[1].split("```")[0].splitlines()]


def room(module):
    """The room of a module: the longest of their names that the module's begins with."""
    found = [name for name in ROOMS if f"{module}.".startswith(f"{name}.")]
    assert found, f"{module} is in no room of docs/internals.md"
    return max(found, key=len)


def imported(tree, *, lazily=True):
    """Every module that a module imports, by full name; also inside functions and for type checkers."""
    found = set()
    for node in ast.walk(tree) if lazily else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def at_run_time(tree):
    """What a module imports, without what it imports for type checkers."""
    for_checkers = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return imported(tree) - set().union(*(imported(ast.Module(node.body, [])) for node in for_checkers))


def ours(names):
    """Of what a module imports, our own modules, without the name of the package."""
    packages = {module for module in SOURCES if SOURCES[module].name == "__init__.py"}
    return {name.removeprefix("dagron.") for name in names} & SOURCES.keys() - {"__init__"} - (packages - CLI)


class TestRooms:
    INSIDE = [module for module in SOURCES if module not in ("__init__", "__main__")]

    @pytest.mark.parametrize("module", INSIDE)
    def test_a_module_imports_only_from_its_own_room_and_from_those_above_it(self, module):
        above = ROOMS[: ROOMS.index(room(module)) + 1]
        below = {found for found in ours(imported(TREES[module])) if room(found) not in above}
        assert below == set()

    def test_a_room_stands_in_the_list_if_and_only_if_it_exists(self):
        assert {room(module) for module in self.INSIDE} == set(ROOMS)

    def test_no_module_imports_itself_through_others(self):
        # What is imported for type checkers only makes no cycle.
        reached = {module: ours(at_run_time(TREES[module])) - {module} for module in self.INSIDE}
        for _ in reached:
            for below in reached.values():
                below |= {further for module in list(below) for further in reached.get(module, ())}
        in_cycles = {module for module, below in reached.items() if module in below}
        assert in_cycles == set()

    def test_what_runs_nodes_knows_engines_by_their_protocol_alone(self):
        # But for the one that chooses an engine.
        runs = [module for module in self.INSIDE if room(module) == "runs" and module != "runs.engine"]
        used = set().union(*(ours(imported(TREES[module])) for module in runs))
        # This machine's processors are counted, and what an earlier run left here is ended, before there is an engine.
        before = {"engines.local.cores", "engines.local.leftovers", "engines.local.processes"}
        assert {found for found in used if found.startswith("engines.")} == {
            "engines.protocol",
            "engines.outcomes",
        } | before

    def test_nobody_but_the_entry_point_imports_the_command_line(self):
        assert {m for m in SOURCES if m not in CLI and ours(imported(TREES[m])) & CLI} <= {"__main__"}

    def test_no_verb_of_the_command_line_imports_another_one_and_nobody_imports_a_verb(self):
        verbs = {module for module in SOURCES if module.startswith("cli.verbs.")}
        assert len(verbs) > 10
        assert {m for m in SOURCES if (ours(imported(TREES[m])) - {m}) & verbs} == set()

    def test_nobody_imports_what_tests_a_run_from_outside(self):
        assert {m for m in SOURCES if ours(imported(TREES[m])) & (TESTING | {"testing"})} <= TESTING

    def test_only_the_executor_imports_the_progress_bar_and_only_when_it_is_asked_for(self):
        bar = {module for module in SOURCES if module.rpartition(".")[2] == "progress"}
        assert {m for m in SOURCES if m not in CLI and bar & ours(imported(TREES[m]))} == {"executor"}
        assert not bar & ours(imported(TREES["executor"], lazily=False))

    DECIDING = (
        "graph.adjacency",
        "graph.chains",
        "runs.dispatch",
        "runs.durations",
        "runs.events",
        "runs.phases",
        "runs.ready",
        "runs.restore",
        "runs.state",
    )

    @pytest.mark.parametrize("module", DECIDING)
    def test_what_decides_has_no_clock_no_files_and_no_logging(self, module):
        allowed = {
            "__future__",
            "array",
            "collections",
            "dataclasses",
            "enum",
            "graphlib",
            "heapq",
            "itertools",
            "math",
            "operator",
            "random",
            "typing",
            "dagron",
        }
        assert {name.partition(".")[0] for name in imported(TREES[module])} <= allowed

    @pytest.mark.parametrize("module", ["runs.state", "runs.dispatch", "runs.events"])
    def test_what_decides_draws_no_randomness_of_its_own(self, module):
        used = {ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
        assert {name for name in used if name.startswith("random.")} <= {"random.Random"}


def calls(tree):
    """The text of everything that is called, and of every attribute that is passed on."""
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}


ON_DISK = {
    "open",
    "io.open",
    "os.open",
    "os.fdopen",
    "os.write",
    "os.pwrite",
    "os.rename",
    "os.renames",
    "os.replace",
    "os.fsync",
    "os.fdatasync",
    "os.ftruncate",
    "os.truncate",
    "os.unlink",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.makedirs",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.utime",
}
ON_DISK_METHODS = {"write_text", "write_bytes", "unlink", "touch", "mkdir", "rmdir", "symlink_to", "hardlink_to"}
PROCESSES = {
    "ProcessPoolExecutor",
    "Popen",
    "os.fork",
    "os.forkpty",
    "os.system",
    "os.popen",
    "os.posix_spawn",
    "os.posix_spawnp",
    "os.startfile",
}


class TestWhoMayTouchWhat:
    @pytest.mark.parametrize("module", sorted(module for module in CHECKPOINT if room(module) != "checkpoint.files"))
    def test_in_the_checkpoint_only_one_room_touches_the_disk(self, module):
        used = calls(TREES[module])
        assert not used & ON_DISK
        assert not {name for name in used if name.rpartition(".")[2] in ON_DISK_METHODS}
        assert not ({"shutil", "tempfile", "io", "sqlite3"} & imported(TREES[module]))
        assert not {name for name in imported(TREES[module]) if name.startswith("os.")}

    def test_the_check_above_sees_what_that_room_does(self):
        used = set().union(*(calls(TREES[module]) for module in CHECKPOINT if room(module) == "checkpoint.files"))
        assert {"os.open", "os.replace", "os.fsync", "os.fdatasync", "os.unlink"} <= used & ON_DISK

    @pytest.mark.parametrize(
        "module",
        ["executor", "flow", "crossing.results"]
        + [module for module in SOURCES if module.startswith(("tasks.", "graph.", "runs."))],
    )
    def test_what_stands_around_the_checkpoint_leaves_the_disk_to_it(self, module):
        used = calls(TREES[module])
        assert not used & ON_DISK
        assert not {name for name in used if name.rpartition(".")[2] in ON_DISK_METHODS}

    def test_cloudpickle_is_where_things_cross_and_nowhere_else(self):
        found = {
            module for module in SOURCES if "cloudpickle" in {m.partition(".")[0] for m in imported(TREES[module])}
        }
        assert {room(module) for module in found} == {"crossing"}

    # What tests a run from outside starts it, in a process of its own.
    @pytest.mark.parametrize("module", sorted(SOURCES.keys() - WORKERS - TESTING))
    def test_only_workers_start_processes(self, module):
        names = {name.partition(".")[0] for name in imported(TREES[module])}
        assert not names & {"subprocess", "multiprocessing", "concurrent", "pty"}
        used = calls(TREES[module])
        assert not used & PROCESSES
        assert not {name for name in used if name.startswith(("os.spawn", "os.exec"))}

    def test_the_check_above_sees_what_workers_do(self):
        used = set().union(*(calls(TREES[module]) for module in WORKERS))
        assert {"os.fork", "ProcessPoolExecutor"} <= used


class TestLight:
    heavy = ("rich", "click", "cloudpickle", "multiprocessing", "concurrent.futures.process", "psutil")

    def loaded(self, code):
        return in_fresh_interpreter(f"{code}; import sys; print(*sys.modules)").split()

    def test_importing_the_package_loads_nothing_heavy(self):
        assert not set(self.heavy) & set(self.loaded("import dagron"))

    def test_naming_everything_that_is_public_loads_neither_terminal_nor_processes(self):
        assert not set(self.heavy) & set(self.loaded("from dagron import *"))

    def test_reading_a_checkpoint_loads_nothing_heavy(self, tmp_path):
        code = f"import dagron; dagron.CheckpointExecutor(dagron.DAG(['a']), {str(tmp_path)!r}).checkpoint_info()"
        assert not set(self.heavy) & set(self.loaded(code))

    def test_a_resume_that_has_nothing_to_run_loads_no_pool(self, tmp_path):
        code = (
            "import dagron; flow = dagron.Flow(); flow.add('a', int); "
            f"result = flow.run({str(tmp_path / 'ckpt')!r}, resume=True, pool={{!r}}); assert result.ok"
        )
        in_fresh_interpreter(code.format("inline"))
        loaded = set(self.loaded(code.format("process")))
        assert not {"concurrent.futures.process", "dagron.engines.local.pool"} & loaded

    def test_a_run_loads_no_openssl_and_nothing_that_only_errors_and_names_of_items_need(self, tmp_path):
        code = (
            "import dagron; flow = dagron.Flow(); flow.add('a', int); "
            f"flow.run({str(tmp_path / 'ckpt')!r}, pool='inline')"
        )
        assert not {"hashlib", "hmac", "secrets", "difflib", "numbers"} & set(self.loaded(code))

    def test_what_the_server_forks_workers_from_loads_no_more_than_they_need(self):
        imports = "\n".join(line for line in _BOOT.splitlines() if line.startswith("import dagron"))
        assert imports.count("dagron.") == 2
        loaded = set(self.loaded(f"{imports}\nimport dagron.engines.local.server"))
        # The executor of the standard library, which the server needs, loads `pathlib` itself in some versions.
        loaded -= set(self.loaded("import concurrent.futures.process, multiprocessing.forkserver"))
        assert not {"json", "pathlib", "psutil", "rich", "click", "datetime"} & loaded
        ours = {name.removeprefix("dagron.") for name in loaded}
        of_coordinator = {"engines.local.context", "engines.protocol", "tasks.options", "tasks.arguments", "frozen"}
        of_few_runs = {"engines.local.first_call", "crossing.table", "tasks.shown_inputs"}
        assert not (of_coordinator | of_few_runs) & ours


# --- names ----------------------------------------------------------------------------------------------------------

NAMELESS = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "base", "misc"}


def words(name):
    """`RunStateManager` and `run_state_manager` as words."""
    spaced = "".join(f"_{letter}" if letter.isupper() else letter for letter in name)
    return set(spaced.lower().split("_"))


class TestNames:
    def test_no_module_and_no_class_has_a_name_that_says_nothing(self):
        names = [module.rpartition(".")[2] for module in SOURCES]
        names += [node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        assert [name for name in names if words(name) & NAMELESS] == []

"""Which modules are the script's: those of a run are found by that run alone."""

from __future__ import annotations

import importlib.util
import sys

import pytest

import dagron
from dagron.checkpoint.files.directory import Directory
from dagron.checkpoint.reading.opening import read_ledger
from dagron.script import is_script

PLUGIN = """
import dataclasses

class Base:
    pass

@dataclasses.dataclass(frozen=True)
class {name}(Base):
    x: int

ONLY = object()

def make():
    return {name}(3), ONLY
"""


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """`loaded(name, class_name)`: a module loaded from a path, which no worker can import."""

    def load(name, class_name):
        path = tmp_path / f"{name}_elsewhere.py"
        path.write_text(PLUGIN.format(name=class_name))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def run(module, directory, pool):
    flow = dagron.Flow()
    flow.add("made", module.make)
    return flow.run(directory, resume=True, max_workers=1, pool=pool)


def recorded(directory):
    definitions = read_ledger(Directory(directory), None).definitions
    return {name.partition(":")[0] for name, _ in definitions} - {"__main__"}


@pytest.mark.parametrize("pool", ["process", "inline"])
def test_a_run_knows_nothing_of_the_script_of_another_run_in_its_process(loaded, tmp_path, pool):
    first, second = loaded("plugin_1", "First"), loaded("plugin_2", "Second")
    of_first = run(first, tmp_path / "1", pool)
    of_second = run(second, tmp_path / "2", pool)
    assert (recorded(tmp_path / "1"), recorded(tmp_path / "2")) == ({"plugin_1"}, {"plugin_2"})

    # What the first one's results name is still the script's, bases and sentinels among it.
    assert of_first["made"].result == (first.First(3), first.ONLY)
    assert of_second["made"].result == (second.Second(3), second.ONLY)
    assert run(first, tmp_path / "1", pool).restored == 1


def test_a_module_is_the_scripts_as_long_as_a_worker_would_import_another_one(loaded, tmp_path, monkeypatch):
    (tmp_path / "plugin_3.py").write_text(PLUGIN.format(name="Third"))
    monkeypatch.syspath_prepend(tmp_path)
    from_elsewhere = loaded("plugin_3", "Third")
    assert is_script("plugin_3")
    del sys.modules["plugin_3"]
    importlib.import_module("plugin_3")
    assert not is_script("plugin_3")
    sys.modules["plugin_3"] = from_elsewhere
    assert is_script("plugin_3")

"""Attributes that methods set after an instance was made: a rename is seen; what means no harm makes nothing again."""

from __future__ import annotations

import importlib.util
import logging
import sys
import textwrap

import pytest

import dagron
from dagron.script import is_script
from dagron.shapes import forget_shapes, set_in

PLAIN = """
    class Model:
        def __init__(self):
            self.x = 1
        def fit(self):
            self.coef_ = self.x + 1
            return self
        def predict(self):
            return self.coef_
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made(source)`: run a job that fits a model of a module that no worker imports; how many results were kept."""

    def run(source):
        path = tmp_path / "models_elsewhere.py"
        path.write_text(textwrap.dedent(source) + "\n\ndef make():\n    return [Model().fit()]\n")
        spec = importlib.util.spec_from_file_location("models_of_a_job", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "models_of_a_job", module)
        # Not through the loader, whose cache of the bytecode knows seconds only.
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        forget_shapes()
        assert is_script("models_of_a_job")
        flow = dagron.Flow()
        node = flow.add("made", module.make)
        result = flow.run(tmp_path / "ckpt", resume=True, pool="inline")
        assert result.value(node)[0].predict() == 2
        return result.restored

    return run


RENAMED = {
    "in a class": (PLAIN, PLAIN.replace("coef_", "weights_")),
    "in a base": (
        PLAIN.replace("Model:", "Base:") + "\n    class Model(Base): pass\n",
        PLAIN.replace("Model:", "Base:").replace("coef_", "weights_") + "\n    class Model(Base): pass\n",
    ),
    "of a dataclass": (
        """
        from dataclasses import dataclass
        @dataclass
        class Model:
            x: int = 1
            def __post_init__(self): self.twice = 2 * self.x
            def fit(self): return self
            def predict(self): return self.twice
        """,
        """
        from dataclasses import dataclass
        @dataclass
        class Model:
            x: int = 1
            def __post_init__(self): self.double = 2 * self.x
            def fit(self): return self
            def predict(self): return self.double
        """,
    ),
    "of a proxy": (
        PLAIN + "        def __getattr__(self, name): return getattr(self.coef_, name)\n",
        PLAIN.replace("coef_", "weights_")
        + "        def __getattr__(self, name): return getattr(self.weights_, name)\n",
    ),
}


@pytest.mark.parametrize(("old", "new"), RENAMED.values(), ids=RENAMED)
def test_an_instance_with_an_attribute_that_has_another_name_now_is_made_again(made, caplog, old, new):
    assert made(old) == 0
    assert made(old) == 1
    with caplog.at_level(logging.WARNING, "dagron"):
        assert made(new) == 0
    name = "twice" if "twice" in old else "coef_"
    assert (
        f"'Model' of the script is not what it was when this value was stored: its methods set no attribute {name!r}"
        in (caplog.text)
    )
    assert made(new) == 1


HARMLESS = {
    "one more": PLAIN.replace("self.coef_ = ", "self.more = self.coef_ = "),
    "one less, and none instead": PLAIN,
    "set in another way": PLAIN.replace(
        "self.coef_ = self.x + 1", "self.other = 1; setattr(self, 'coef_', self.x + 1)"
    ),
    "a property now": PLAIN.replace("self.coef_ = self.x + 1", "self.other = self.x + 1")
    + "        coef_ = property(lambda self: 2, lambda self, value: None)\n",
}


@pytest.mark.parametrize("new", HARMLESS.values(), ids=HARMLESS)
def test_an_instance_that_its_class_still_understands_is_kept(made, caplog, new):
    old = PLAIN.replace("self.coef_ = ", "self.debug = self.coef_ = ") if new is PLAIN else PLAIN
    assert made(old) == 0
    assert made(new) == 1
    assert caplog.text == ""


def test_the_names_that_code_sets_are_found_also_behind_many_others():
    source = "def f(x):\n" + "".join(f"    x.a{i} = x.b{i}\n" for i in range(300))
    namespace = {}
    exec(source, namespace)
    assert set_in(namespace["f"].__code__) == {f"a{i}" for i in range(300)}
    assert set_in((lambda: None).__code__) == set()

"""The reference in `docs/api.md` is that of the source, and every public name has a docstring as the style wants it."""

import importlib.util

import pytest
from places import ROOT

import dagron

pytest.importorskip("griffe")

SCRIPT = ROOT / "docs" / "api.py"
SPEC = importlib.util.spec_from_file_location("api_page", SCRIPT)
api = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(api)

ITEMS = api.public_names()
MEMBERS = {f"{name}.{member.name}": member for name, item in ITEMS.items() for member in api.public_members(item)}
DOCUMENTED = {**ITEMS, **MEMBERS}


def sections(item):
    return {section.kind.value: section for section in item.docstring.parsed}


def test_the_page_is_up_to_date():
    assert api.PAGE.read_text(encoding="utf-8") == api.reference(), "run python docs/api.py"


def test_the_page_has_every_public_name_and_every_group_is_right():
    assert set(ITEMS) == set(dagron.__all__)
    page = api.PAGE.read_text(encoding="utf-8")
    for name in DOCUMENTED:
        assert f"# {name}\n" in page


def test_a_docstring_begins_with_what_it_does_in_one_line():
    for name, item in DOCUMENTED.items():
        assert item.docstring is not None, name
        summary, *rest = item.docstring.value.splitlines()
        assert summary.endswith((".", ":")), name
        assert not rest or not rest[0], name


def test_a_docstring_explains_all_parameters_or_none_and_all_fields():
    for name, item in DOCUMENTED.items():
        found = sections(item)
        taken = {parameter.name for parameter in getattr(item, "parameters", ())} - {"self", "cls"}
        if "parameters" in found:
            assert {entry.name for entry in found["parameters"].value} == taken, name
        if "dataclass" in item.labels:
            fields = {field for field in taken if not field.startswith("_")}
            assert fields <= {entry.name for entry in found["attributes"].value}, name


def test_an_error_that_a_docstring_names_is_there_and_comes_with_its_condition():
    for name, item in DOCUMENTED.items():
        found = sections(item)
        for entry in found["raises"].value if "raises" in found else ():
            assert str(entry.annotation) in {*ITEMS, "BaseException", "KeyboardInterrupt"}, name
            assert entry.description.endswith("."), name

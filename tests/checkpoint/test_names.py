"""Node names to file names: injective, readable, and harmless on every file system that people use."""

import os
import re

import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dagron.checkpoint.files.opened import TEMP_PREFIX, TEMP_SUFFIX
from dagron.checkpoint.format.names import JOURNAL, LOCK, MAX_STEM, META, SUFFIX, FileNames, _stem, plain_file_name

# The names that Windows keeps for devices, from "Naming Files, Paths, and Namespaces"; a device is also meant if an
# extension follows, and if spaces stand before it (as in CPython's ntpath.isreserved).
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}


def is_device(file_name):
    return file_name.partition(".")[0].rstrip(" ").casefold() in DEVICES


def long(name, escaped=""):
    """What rule 4 makes of a stem that is too long."""
    digest = blake3(name.encode("utf-8", "surrogatepass")).hexdigest(16)
    return (escaped or name)[: MAX_STEM - 34] + "%~" + digest


# Names that come close to the rules: few letters, in both cases; what the rules write themselves; devices.
near = st.text("aAbBcC%~^^5e2. _-/\\0", max_size=8)
devices = st.builds(
    lambda name, upper, rest: (name.upper() if upper else name) + rest,
    st.sampled_from(sorted(DEVICES)),
    st.booleans(),
    st.sampled_from(["", ".", ".txt", " ", " .txt", "..", "x", "/"]),
)
anything = st.text(st.characters(exclude_categories=()), max_size=30)
lengthy = st.builds(
    lambda letter, n, rest: letter * n + rest,
    st.sampled_from(["a", "A", "é", "É", "%", " ", "/", "😀", "con."]),
    st.integers(40, 200),
    near,
)
folding = st.text(
    "Kk\u212asS\u017f\u00df\u1e9e\u03c3\u03c2\u03a3\u0130iI\u0131\u212b\u00e5\u01c5\u01c6", max_size=4
)  # letters whose cases are not one to one
names_strategy = st.one_of(near, devices, anything, lengthy, folding)


sets_of_names = st.sets(names_strategy, max_size=12).map(
    lambda names: sorted(
        names | {n.swapcase() for n in names} | {n.lower() for n in names} | {n.upper() for n in names}
    )
)


@given(names_strategy)
@example("a" * MAX_STEM)
@example("a" * (MAX_STEM + 1))
@example("Conquest")
@example("line\n")
def test_a_name_that_is_ordinary_at_a_glance_has_the_file_that_the_rules_give_it(name):
    assert plain_file_name(name) == _stem(name) + SUFFIX


class TestAnySetOfNames:
    @settings(deadline=None, max_examples=300)
    @given(sets_of_names)
    @example(["A", "a", "a%^1", "A%^1", "a%5e1", "%^1"])
    @example(["Ab", "aB", "AB", "ab"])
    @example(["", "%", "%25", "%~", "%^", "%00", "\0"])
    @example(["A\u03a3", "a\u03a3", "a\u03c2", "a\u03c3", "A\u03c2"])
    @example(["x" * MAX_STEM, "X" * MAX_STEM, "x" * (MAX_STEM + 1), "X" * (MAX_STEM + 1)])
    @example(["é" * 60, "É" * 60, "é" * 61, "É" * 61, "A" + "é" * 60, "a" + "é" * 60])
    @example(["😀", "\ud83d\ude00", "\ud83d", "\ude00"])
    @example(["é", "e\u0301"])
    @example(["con", "CON", "Con", "%63on", "%43ON", "con.", "CON.x", "con.x"])
    def test_no_two_names_share_a_file_also_where_case_does_not_count(self, names):
        files = FileNames(names)
        made = [files.file_name(name) for name in names]
        assert len({file.casefold() for file in made}) == len(set(names))
        assert len({file.upper() for file in made}) == len(set(names))

    @settings(deadline=None, max_examples=300)
    @given(sets_of_names)
    @example([".", "..", "...", "/", "\\", "a/b", "../../etc/passwd", "C:\\x", "~", "\0", "a\nb", " ", "  ", ". "])
    @example(["_meta", "_meta.json", "_journal", "_lock", "_dagron-0.tmp", "_META.JSON"])
    @example(["A" * MAX_STEM, "a" * MAX_STEM, "É" * 60, "é" * 60, "A" * 1000, "a" * 1000])
    def test_every_file_name_is_safe_everywhere(self, names):
        files = FileNames(names)
        for name in names:
            file = files.file_name(name)
            # ASCII without a separator and without what Windows forbids; so never outside of the directory.
            assert re.fullmatch(r"[A-Za-z0-9_%~^. -]+\.pkl", file, re.ASCII), file
            assert os.path.basename(file) == file
            assert len(file.encode()) <= 255
            assert file[0] not in ". ", "neither hidden nor trimmed"
            assert file.casefold() not in {JOURNAL, META, LOCK}
            assert not (file.startswith(TEMP_PREFIX) and file.endswith(TEMP_SUFFIX))

    @settings(deadline=None)
    @given(st.one_of(devices, near))
    @example("aux .b")
    @example("NUL  .tar.gz")
    def test_no_file_name_means_a_device_of_windows(self, name):
        assert not is_device(FileNames([name]).file_name(name))

    @settings(deadline=None)
    @given(sets_of_names, names_strategy)
    def test_a_name_has_one_file_name_as_long_as_no_other_differs_in_case_only(self, names, name):
        others = [other for other in names if other.lower() != name.lower()]
        assert FileNames([*others, name]).file_name(name) == FileNames([name]).file_name(name)

    @settings(deadline=None)
    @given(sets_of_names)
    def test_the_order_and_the_repetition_of_names_do_not_matter(self, names):
        once = FileNames(names)
        twice = FileNames(list(dict.fromkeys([*reversed(names), *names])))
        assert [once.file_name(n) for n in names] == [twice.file_name(n) for n in names]

    @settings(deadline=None)
    @given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=4, max_size=MAX_STEM))
    def test_ordinary_names_stand_for_themselves(self, name):
        if not is_device(name):
            assert FileNames([name]).file_name(name) == name + SUFFIX


TABLE = [
    ("fetch_users", "fetch_users.pkl"),
    ("A", "A.pkl"),
    ("Load-2.parquet", "Load-2.parquet.pkl"),
    ("two words", "two words.pkl"),
    ("a/b", "a%2fb.pkl"),
    ("a_b", "a_b.pkl"),
    ("a\\b", "a%5cb.pkl"),
    ("", "%.pkl"),
    (".", "%2e.pkl"),
    ("..", "%2e..pkl"),
    (".hidden", "%2ehidden.pkl"),
    ("a.", "a..pkl"),
    (" a ", "%20a%20.pkl"),
    ("_meta", "_meta.pkl"),
    ("_meta.json", "_meta.json.pkl"),
    ("_journal", "_journal.pkl"),
    ("a.pkl", "a.pkl.pkl"),
    ("100%", "100%25.pkl"),
    ("%2f", "%252f.pkl"),
    ("a:b*c?", "a%3ab%2ac%3f.pkl"),
    ("line\nbreak\0", "line%0abreak%00.pkl"),
    ("é", "%c3%a9.pkl"),
    ("e\u0301", "e%cc%81.pkl"),
    ("😀", "%f0%9f%98%80.pkl"),
    ("\ud800", "%ed%a0%80.pkl"),
    ("con", "%63on.pkl"),
    ("CON", "%43ON.pkl"),
    ("nul.txt", "%6eul.txt.pkl"),
    ("com1", "%63om1.pkl"),
    ("com", "com.pkl"),
    ("console", "console.pkl"),
    ("x" * MAX_STEM, "x" * MAX_STEM + ".pkl"),
    ("x" * 300, long("x" * 300) + ".pkl"),
    ("é" * 60, long("é" * 60, "%c3%a9" * 60) + ".pkl"),
]


class TestReadable:
    @pytest.mark.parametrize(("name", "file_name"), TABLE)
    def test_the_file_name_is_the_one_that_people_expect(self, name, file_name):
        assert FileNames([name]).file_name(name) == file_name

    def test_300_characters_are_cut_after_146_and_told_apart_by_their_digest(self):
        name = "x" * 300
        file = FileNames([name]).file_name(name)
        assert file == "x" * 146 + "%~296a7bce08325b75b90d23204fd50b75.pkl"
        assert file != FileNames(["x" * 301]).file_name("x" * 301)

    def test_all_of_them_together_keep_their_names_but_for_the_case(self):
        files = FileNames(name for name, _ in TABLE)
        for name, file_name in TABLE:
            assert files.file_name(name) == ("%43ON%^7.pkl" if name == "CON" else file_name)

    @pytest.mark.parametrize(
        ("names", "file_names"),
        [
            (["A", "a"], ["A%^1.pkl", "a.pkl"]),
            (["a", "A"], ["a.pkl", "A%^1.pkl"]),
            (["aB", "Ab", "AB"], ["aB%^2.pkl", "Ab%^1.pkl", "AB%^3.pkl"]),
            (["Load", "load", "Save"], ["Load%^1.pkl", "load.pkl", "Save.pkl"]),
            (["A", "b"], ["A.pkl", "b.pkl"]),
            (["É", "é"], ["%c3%89%^1.pkl", "%c3%a9.pkl"]),
        ],
    )
    def test_names_that_differ_in_case_only_are_told_apart_by_a_mask_of_the_upper_case(self, names, file_names):
        files = FileNames(names)
        assert [files.file_name(name) for name in names] == file_names

    def test_a_name_that_the_set_does_not_have_has_a_file_name_too(self):
        assert FileNames(()).file_name("Any/thing") == "Any%2fthing.pkl"

    def test_a_hundred_thousand_names_have_a_hundred_thousand_files(self):
        names = [f"{kind}/{i}" for i in range(25_000) for kind in ("a", "A", "b_", "B ")]
        files = FileNames(names)
        assert len({files.file_name(name).casefold() for name in names}) == 100_000

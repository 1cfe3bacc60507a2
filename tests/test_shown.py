"""Times, sizes and long texts as text: the one way in which each is written."""

import pytest

from dagron.shown import shown_bytes, shown_seconds, text_of, without_middle


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00035, "0.35 ms"),
        (0.0123, "12.3 ms"),
        (0.9999, "1000 ms"),
        (1, "1 s"),
        (3.456, "3.46 s"),
        (59.96, "60 s"),
        (60, "1 min 00 s"),
        (65.4, "1 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_what_something_took_has_three_digits(seconds, text):
    assert shown_seconds(seconds) == text


@pytest.mark.parametrize(("n", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB")])
def test_a_size_has_one_digit_behind_the_point(n, text):
    assert shown_bytes(n) == text


def test_a_long_text_loses_its_middle_and_says_how_much():
    assert without_middle("x" * 10, 10) == "x" * 10
    assert without_middle("a" * 5 + "b" * 5000 + "c" * 5, 10) == "aaaaa\n... 5,000 characters left out ...\nccccc"


def test_the_text_of_an_exception_is_plain_also_if_its_str_raises():
    class Broken(Exception):
        def __str__(self):
            raise SystemExit

    assert text_of(Broken()) == "<its __str__ raised SystemExit>"
    assert text_of(ValueError("x")) == "x"

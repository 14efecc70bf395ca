"""Quiz answers: what people type, and what a capture says."""

from __future__ import annotations

import pytest

from labkit.quiz import Question, _taken, is_right

PLAIN = Question("e", "t", "f", "f", "first", ("h",), "x", unit="bytes")
TIME = Question("e", "t", "f", "f", "first", ("h",), "x", unit="ms", tolerance=0.1)


@pytest.mark.parametrize("given", ["1448", " 1448 ", "1,448", "1448 bytes", "0x5a8", "1448.0"])
def test_the_same_number_in_other_words(given):
    assert is_right(PLAIN, given, "1448")


@pytest.mark.parametrize("given", ["1447", "", "a lot", "1448 packets", "inf", "nan"])
def test_another_number(given):
    assert not is_right(PLAIN, given, "1448")


def test_a_time_may_be_a_little_off():
    assert is_right(TIME, "100", "105")
    assert not is_right(TIME, "100", "120")


def test_words_are_compared_without_case():
    assert is_right(PLAIN, "cubic", "CUBIC")


@pytest.mark.parametrize(("given", "right"), [("1f:4E:74", "1f4e74"), ("1F4E74", "1f:4e:74"), ("12:34", "1234")])
def test_bytes_may_have_colons(given, right):
    assert is_right(PLAIN, given, right)
    assert not is_right(PLAIN, given, right[:-1] + "5")
    assert not is_right(PLAIN, given + ":00", right)


@pytest.mark.parametrize(
    ("take", "values", "answer"),
    [
        ("first", ["7", "8"], "7"),
        ("last", ["7", "8"], "8"),
        ("distinct", ["7", "7", "8"], "2"),
        ("sum", ["1", "2"], "3"),
        ("min", ["0.25", "0.5"], "0.25"),
        ("max", ["10", "9"], "10"),
    ],
)
def test_take(take, values, answer):
    assert _taken(take, values) == answer

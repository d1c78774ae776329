"""Conditions on signals: the valid forms, and the error for others."""

import numpy as np
import pytest

from anomalyvae.recordings.where import Comparison, parse_where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ()),
        ("speed_mps > 2", (Comparison("speed_mps", ">", 2.0),)),
        ("speed_mps>=-2.5e-1", (Comparison("speed_mps", ">=", -0.25),)),
        ("  a<1 and  b != .5 ", (Comparison("a", "<", 1.0), Comparison("b", "!=", 0.5))),
        ("Engine speed [1] == 800", (Comparison("Engine speed [1]", "==", 800.0),)),
        ("sand <= 3", (Comparison("sand", "<=", 3.0),)),
    ],
)
def test_conditions_are_understood(text, expected):
    assert parse_where(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "speed",
        "speed > ",
        "> 2",
        "2 < speed < 5",
        "speed = 2",
        "speed > nan",
        "speed > inf",
        "a > 1 or b > 2",
        "a > b",
        "a > 1 and",
        "and a > 1",
        "a > 1; b",
        "a > 1 and __import__('os')",
    ],
)
def test_anything_else_is_refused_with_the_form(text):
    with pytest.raises(ValueError, match=r"not a comparison of a signal with a number.*'speed_mps > 2"):
        parse_where(text)


@pytest.mark.parametrize(
    ("sign", "expected"),
    [
        ("<", [1, 0, 0]),
        ("<=", [1, 1, 0]),
        (">", [0, 0, 1]),
        (">=", [0, 1, 1]),
        ("==", [0, 1, 0]),
        ("!=", [1, 0, 1]),
    ],
)
def test_each_sign_means_what_it_says_and_never_holds_for_a_missing_value(sign, expected):
    holds = Comparison("x", sign, 2.0).holds(np.array([1.0, 2.0, 3.0, np.nan]))
    assert holds.tolist() == [*map(bool, expected), False]

"""Damaged files of all formats are read right or refused by name; see the benchmark."""

import pytest
from mutations import BAD, FORMATS, run


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_damaged_file_is_never_read_differently(count):
    outcomes = run(list(FORMATS), count, seed=7)
    assert {name: {what: n for what, n in counts.items() if what in BAD} for name, counts in outcomes.items()} == {
        name: {} for name in FORMATS
    }
    for name, counts in outcomes.items():
        assert counts["refused"]
        assert counts["read and equal" if FORMATS[name].decode else "read, not comparable"]

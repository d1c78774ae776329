import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomalyvae.calibration import auto_threshold, contamination_threshold


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_a_new_row_crosses_the_line_with_the_promised_probability(alpha):
    rng = np.random.default_rng(0)
    m, trials = 200, 4000
    held_out = rng.normal(size=(trials, m))
    crossed = [rng.normal() > auto_threshold(row, np.ones(m), alpha) for row in held_out]
    error = np.sqrt(alpha * (1 - alpha) / trials)
    assert np.mean(crossed) < alpha + 3 * error
    assert np.mean(crossed) > alpha - 1 / m - 3 * error


def test_too_few_rows_for_alpha_give_the_largest_score():
    assert auto_threshold(np.array([3.0, 1.0, 2.0]), np.ones(3), 0.01) == 3.0


@given(arrays(float, st.integers(2, 60), elements=st.floats(-10, 10)), st.integers(1, 30))
def test_contamination_flags_its_share_up_to_ties(scores, percent):
    weight = np.ones(len(scores))
    line = contamination_threshold(scores, weight, percent / 100)
    flagged = (scores > line).sum()
    wanted = int(percent / 100 * len(scores) + 1e-9)
    next_value = np.max(scores[scores <= line])
    assert flagged <= wanted < flagged + (scores == next_value).sum()


@given(arrays(float, 20, elements=st.floats(-10, 10)), arrays(int, 20, elements=st.integers(1, 4)))
def test_a_weight_is_a_number_of_copies(scores, copies):
    repeated = np.repeat(scores, copies)
    ones = np.ones(len(repeated))
    assert auto_threshold(scores, copies.astype(float), 0.1) == auto_threshold(repeated, ones, 0.1)
    assert contamination_threshold(scores, copies.astype(float), 0.2) == contamination_threshold(repeated, ones, 0.2)

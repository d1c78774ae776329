"""Signals come onto one clock, and nothing is invented inside a gap."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.logs import Log, Signal, log_from_frame, resample


def make_log(**signals):
    made = {name: Signal(name, np.asarray(t, float), np.asarray(v, float)) for name, (t, v) in signals.items()}
    return Log("drive", None, made)


def test_signals_of_different_rates_share_the_clock():
    log = make_log(fast=([0, 0.1, 0.2, 0.3, 0.4], [0, 1, 2, 3, 4]), slow=([0.1, 0.4], [10, 40]))
    ticks = resample(log, rate_hz=10, max_gap_s=0.5)
    np.testing.assert_allclose(ticks["time_s"], [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(ticks["fast"], [0, 1, 2, 3, 4])
    np.testing.assert_allclose(ticks["slow"], [np.nan, 10, 20, 30, 40])


def test_samples_that_lie_on_the_clock_come_back_bit_for_bit():
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000)
    log = make_log(x=(np.arange(5000) * 0.2, values))  # stamps that are not exact in binary
    ticks = resample(log, rate_hz=5, max_gap_s=0.3)
    np.testing.assert_array_equal(ticks["x"], values)


def test_a_gap_is_left_empty_and_its_edges_are_kept():
    log = make_log(x=([0, 1, 4, 5], [0, 1, 4, 5]), y=([0, 2, 4, 5], [0, 2, 4, 5]))
    ticks = resample(log, rate_hz=1, max_gap_s=2)
    np.testing.assert_array_equal(ticks["x"], [0, 1, np.nan, np.nan, 4, 5])
    np.testing.assert_array_equal(ticks["y"], [0, 1, 2, 3, 4, 5])


def test_a_long_pause_of_all_signals_costs_nothing():
    week = 7 * 86400.0
    log = make_log(x=([0, 1, 2, week, week + 1], [0, 1, 2, 3, 4]))
    ticks = resample(log, rate_hz=1, max_gap_s=5)
    assert ticks["time_s"].tolist() == [0, 1, 2, week, week + 1]
    assert ticks["x"].tolist() == [0, 1, 2, 3, 4]


def test_samples_that_are_not_finite_count_as_not_taken():
    log = make_log(x=([0, 1, 2, 3], [0, np.nan, np.inf, 3]))
    np.testing.assert_allclose(resample(log, 1, max_gap_s=3)["x"], [0, 1, 2, 3])
    np.testing.assert_array_equal(resample(log, 1, max_gap_s=2)["x"], [0, np.nan, np.nan, 3])
    nothing = make_log(x=([0, 1], [np.nan, np.nan]))
    assert resample(nothing, 1, max_gap_s=2)["x"].isna().all()


def test_only_the_asked_signals_come_in_their_order_and_an_unknown_one_is_refused():
    log = make_log(speed=([0, 1], [0, 1]), rpm=([0, 1], [0, 1]))
    assert list(resample(log, 1, 1, ["rpm"])) == ["time_s", "rpm"]
    with pytest.raises(ValueError, match="Did you mean 'speed'"):
        resample(log, 1, 1, ["sped"])


def test_an_empty_recording_gives_an_empty_table():
    log = log_from_frame(pd.DataFrame({"time_s": [], "x": []}), "drive")
    ticks = resample(log, 5, 1)
    assert (list(ticks), len(ticks)) == (["time_s", "x"], 0)


@pytest.mark.parametrize("rate", [0, -1, np.nan, np.inf])
def test_a_rate_that_is_no_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate_hz=.*expected a positive number"):
        resample(make_log(x=([0], [0])), rate, 1)


def test_a_gap_that_could_hide_between_two_ticks_is_refused():
    with pytest.raises(ValueError, match=r"max_gap_s=0\.5 at rate_hz=1.*at least 1 s"):
        resample(make_log(x=([0], [0])), 1, 0.5)


@given(
    steps=st.lists(st.floats(0.01, 3.0), min_size=1, max_size=40),
    rate=st.sampled_from([1.0, 3.0, 5.0, 10.0]),
    gap=st.floats(1.0, 2.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_values_are_interpolated_within_the_bound_and_missing_elsewhere(steps, rate, gap, seed):
    time_s = np.concatenate(([0.0], np.cumsum(steps)))
    values = np.random.default_rng(seed).normal(size=len(time_s))
    ticks = resample(make_log(x=(time_s, values)), rate, gap)
    expected = np.interp(ticks["time_s"], time_s, values)
    right = np.clip(np.searchsorted(time_s, ticks["time_s"]), 1, len(time_s) - 1)
    distance = np.abs(ticks["time_s"].to_numpy()[:, None] - time_s).min(axis=1)
    inside_gap = (time_s[right] - time_s[right - 1] > gap + 1e-6) & (distance > 1e-6)
    np.testing.assert_allclose(ticks["x"], np.where(inside_gap, np.nan, expected), atol=1e-4)
    assert (np.diff(ticks["time_s"]) > 0).all()
    on_clock = ticks["time_s"] * rate
    np.testing.assert_allclose(on_clock, np.round(on_clock), atol=1e-6)

"""Signals are sampled on one clock, and nothing is interpolated inside a gap."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalyvae.recordings import Log, Signal, log_from_frame, resample
from anomalyvae.recordings.clock import resample_pieces
from anomalyvae.recordings.sampling import Clock


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
    with pytest.raises(ValueError, match=r"rate_hz=.* must be a positive number"):
        resample(make_log(x=([0], [0])), rate, 1)


def test_a_gap_that_could_hide_between_two_ticks_is_refused():
    with pytest.raises(ValueError, match=r"max_gap_s=0\.5 at rate_hz=1 is less than 1 s"):
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


def test_the_clock_is_that_of_the_asked_signals():
    log = make_log(early=([0, 1], [0, 1]), late=([0.5, 1.5], [3, 4]))
    assert resample(log, 1, 1, ["late"]).to_numpy().tolist() == [[0.5, 3.0], [1.5, 4.0]]


def test_a_state_holds_until_its_next_sample_but_not_over_a_pause_of_all():
    beat = np.concatenate((np.arange(11), 100 + np.arange(5)))
    log = make_log(beat=(beat, beat), gear=([2, 9, 102.5], [1, 3, 2]))
    ticks = resample(log, 1, max_gap_s=2, states=["gear"])
    nothing = np.nan
    np.testing.assert_array_equal(
        ticks["gear"], [nothing, nothing, 1, 1, 1, 1, 1, 1, 1, 3, 3, nothing, nothing, nothing, 2, 2]
    )
    np.testing.assert_array_equal(ticks["beat"], beat)


def test_every_sample_is_counted_once():
    rng = np.random.default_rng(0)
    beat = np.concatenate((np.arange(60), 500 + np.arange(60))) / 10
    events = np.sort(rng.choice(beat, 70, replace=False) - rng.choice([0.0, 0.03], 70))
    events = np.unique(np.clip(events, 0, None))
    log = make_log(beat=(beat, beat), fault=(events, np.where(np.arange(len(events)) == 20, np.nan, 7.0)))
    ticks = resample(log, 5, max_gap_s=1, counts=["fault"])
    on_clock = ticks["time_s"].to_numpy()
    expected = [np.sum((events > t - 0.2 + 1e-6) & (events <= t + 1e-6)) for t in on_clock]
    dropped = np.flatnonzero(events == events[20])[0]
    place = np.flatnonzero((events[dropped] > on_clock - 0.2 + 1e-6) & (events[dropped] <= on_clock + 1e-6))
    np.testing.assert_array_equal(ticks["fault"] + np.isin(np.arange(len(ticks)), place), expected)
    assert ticks["fault"].isin([0, 1, 2]).all()


def amplitude_left(own_hz, tone, antialias):
    """Of a tone at this multiple of a clock of 10 Hz, the part that arrives, at whatever frequency."""
    time_s = np.arange(0, 100, 1 / own_hz)
    log = make_log(x=(time_s, np.sin(2 * np.pi * tone * 10 * time_s + 0.3)))
    x = resample(log, 10, 1.0, antialias=antialias)["x"].to_numpy()[20:-20]
    return np.sqrt(2 * np.mean(x**2))


@pytest.mark.parametrize(("own_hz", "most"), [(100, 0.06), (51, 0.06), (20, 0.11)])
def test_what_is_too_fast_for_the_clock_is_damped(own_hz, most):
    assert amplitude_left(own_hz, 0.8, antialias=False) > 0.6
    assert amplitude_left(own_hz, 0.8, antialias=True) < most
    assert amplitude_left(own_hz, 0.25, antialias=True) > 0.8  # and what the clock can show stays


def test_an_average_keeps_a_line_and_stays_within_a_gap():
    time_s = np.concatenate((np.arange(0, 5, 0.01), np.arange(7, 12, 0.01)))
    ticks = resample(make_log(x=(time_s, 3 * time_s + 1), y=(time_s, np.where(time_s < 6, 1.0, 9.0))), 10, 0.5)
    inside = ticks["time_s"].between(0.1, 4.8) | ticks["time_s"].between(7.1, 11.8)
    np.testing.assert_allclose(ticks["x"][inside], 3 * ticks["time_s"][inside] + 1)
    assert set(np.round(ticks["y"], 9)) == {1.0, 9.0}
    assert len(ticks) == 100


def test_a_signal_about_as_fast_as_the_clock_is_not_averaged():
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.uniform(0.15, 0.25, 500))
    log = make_log(x=(time_s, rng.normal(size=500)))
    pd.testing.assert_frame_equal(resample(log, 5, 1), resample(log, 5, 1, antialias=False), check_exact=True)


def test_where_a_fast_signal_is_slow_it_is_interpolated():
    time_s = np.concatenate((np.arange(0, 5, 0.01), np.arange(5, 9, 0.4), np.arange(9, 12, 0.01)))
    log = make_log(x=(time_s, np.random.default_rng(0).normal(size=len(time_s))))
    averaged, line = resample(log, 10, 0.5), resample(log, 10, 0.5, antialias=False)
    sparse = averaged["time_s"].between(5.2, 8.5)
    np.testing.assert_array_equal(averaged["x"][sparse], line["x"][sparse])
    assert averaged["x"][~sparse].std() < 0.5 * line["x"][~sparse].std()


def pieces_of(signals, borders):
    """Cut signals at moments; a piece leaves out the signals that have nothing in it."""
    for begin, end in zip([-np.inf, *borders], [*borders, np.inf], strict=True):
        piece = {}
        clocks = {}
        for name, signal in signals.items():
            some = slice(*np.searchsorted(signal.time_s, [begin, end]))
            stamps = clocks.setdefault(id(signal.time_s), signal.time_s[some])
            if len(stamps):
                piece[name] = Signal(name, stamps, signal.values[some])
        yield piece


PACES = st.tuples(st.sampled_from([0.01, 0.013, 0.1, 0.45]), st.sampled_from([0, 3, 60, 300]), st.floats(0, 0.08))


@given(
    paces=st.lists(PACES, min_size=3, max_size=3),
    late=st.tuples(*[st.sampled_from([0.0, 0.5, 3.3])] * 3),
    kind=st.lists(st.sampled_from(["line", "line", "state", "count"]), min_size=3, max_size=3),
    rate=st.sampled_from([2.0, 10.0, 30.0, 70.0]),
    gap=st.sampled_from([0.5, 1.0]),
    borders=st.lists(st.floats(0, 10), max_size=12),
    most=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_signals_with_stamps_of_their_own_in_pieces_give_the_bits_of_the_whole(
    paces, late, kind, rate, gap, borders, most, seed
):
    rng = np.random.default_rng(seed)
    signals = {}
    for name, (pace, count, pauses), begin in zip("abc", paces, late, strict=True):
        steps = pace * rng.choice([1.0, 1.0, 0.3, 1.7], count)
        steps[rng.random(count) < pauses] = rng.choice([0.2, 0.6, 1.3, 30.0])
        stamps = begin + np.cumsum(np.append(0.0, steps))
        values = np.where(rng.random(len(stamps)) < 0.1, np.nan, rng.normal(size=len(stamps)))
        signals[name] = Signal(name, stamps, values)
    signals["d"] = Signal("d", signals["a"].time_s, rng.normal(size=len(signals["a"].time_s)))
    kinds = dict(zip("abc", kind, strict=True))
    states, counts = (tuple(name for name in "abc" if kinds[name] == word) for word in ("state", "count"))
    clock = Clock(rate, gap, states, counts)
    expected = resample(Log("drive", None, signals), **clock._asdict())
    every = np.concatenate([signal.time_s for signal in signals.values()])
    borders = np.sort(np.concatenate((borders, rng.choice(every, 8))))  # at samples too
    got = list(resample_pieces(pieces_of(signals, borders), list(signals), clock, most))
    assert max((len(piece["time_s"]) for piece in got), default=0) <= most
    for name in expected:
        assert np.concatenate([piece[name] for piece in got]).tobytes() == expected[name].to_numpy().tobytes(), name

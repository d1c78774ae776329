"""Whole recordings: their figures, how unlike others they are, p-values, and alarms of drift over all time."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from anomalyvae.fleet import FALSE_ALARMS, Fleet, Monitor, Tally, reasons


def fleet(figures, signals=()):
    figures = np.asarray(figures, dtype=float)
    names = tuple(f"d{i}" for i in range(len(figures)))
    return Fleet(names, np.full(len(figures), 10), tuple(signals), figures)


def normal_fleet(rng, count, signals=0):
    return fleet(rng.normal(size=(count, 2 + 2 * signals)), [f"s{i}" for i in range(signals)])


def test_figures_are_the_three_highest_and_the_mean_in_any_pieces():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 3))
    scores[[4, 7], 1] = math.nan
    start_s = np.arange(50) * 2.0
    whole, pieces = Tally(2), Tally(2)
    whole.add(scores, scores[:, 0] > 1, start_s)
    for part in np.array_split(np.arange(50), 7):
        pieces.add(scores[part], scores[part, 0] > 1, start_s[part])
    known = [np.sort(column[~np.isnan(column)]) for column in scores.T]
    expected = np.ravel([(column[-3:].mean(), column.mean()) for column in known])
    np.testing.assert_allclose(whole.figures, expected)
    np.testing.assert_allclose(pieces.figures, expected)
    assert (pieces.windows, pieces.flagged) == (50, int((scores[:, 0] > 1).sum()))
    assert pieces.peak_s == 2.0 * scores[:, 0].argmax()


def test_a_tally_of_few_windows_and_of_none():
    few = Tally(1)
    few.add(np.array([[1.0, math.nan], [4.0, math.nan]]), [False, True], [0.0, 1.0])
    np.testing.assert_allclose(few.figures, [2.5, 2.5, math.nan, math.nan])
    assert np.isnan(Tally(1).figures).all()
    assert Fleet.of({"a": few, "b": few, "c": Tally(1)}, ("x",)) is None  # two are too few


def test_a_short_event_a_long_oddness_and_a_signal_are_told_apart():
    rng = np.random.default_rng(1)
    known = rng.normal(size=(40, 8))
    new = np.zeros((3, 8))
    new[0, 0], new[1, 1], new[2, 5] = 30, 30, 30
    assert reasons(new, known).argmax(axis=1).tolist() == [0, 1, 2]
    assert reasons(new, known).max(axis=1).min() > 10
    assert reasons(new[:, :2], known[:, :2]).argmax(axis=1).tolist()[:2] == [0, 1]  # without signals


def test_a_signal_of_which_nothing_is_known_says_nothing():
    known = normal_fleet(np.random.default_rng(3), 8, signals=2)
    known.figures[:, 4:] = math.nan
    assert known.p_value(np.array([0, 0, 0, 0, math.nan, math.nan])) > 0.2
    assert known.p_value(np.array([9, 9, 9, 9, math.nan, math.nan])) == 1 / 9
    assert reasons(np.array([[0, 0, 0, 0, 1e9, 1e9]]), known.figures).max() < 3


def test_p_values_of_few_recordings_are_valid():
    """Of recordings like the training ones, at most a share p has a p-value of p: new ones, and learned ones."""
    rng, found, learned = np.random.default_rng(2), [], []
    for _ in range(400):
        known = fleet(rng.exponential(size=(9, 6)) ** 2, ("x", "y"))
        found.append(known.p_value(rng.exponential(size=6) ** 2))
        learned.append(known.p_value(known.figures[3], 3))
    for p_values, smallest in ((np.array(found), 1 / 10), (np.array(learned), 1 / 9)):
        assert p_values.min() == pytest.approx(smallest)
        for level in (0.12, 0.3, 0.6):
            assert (p_values <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 400)


def tally(rng, windows, event=0.0):
    """The figures of a recording with a signal, of a level of its own; its first window has an event."""
    scores = rng.exponential(size=(windows, 2)) + 0.2 * rng.exponential()
    scores[0] += event
    found = Tally(1)
    found.add(scores, np.zeros(windows), np.arange(windows))
    return found


def tallied_fleet(rng, count=30, windows=30):
    known = Fleet.of({f"d{i}": tally(rng, windows) for i in range(count)}, ("x",))
    assert known is not None
    return known


@pytest.mark.parametrize("longer", [2, 8, 50])
def test_a_recording_is_not_unlike_the_others_because_it_is_longer(longer):
    """The highest of more windows are higher."""
    p_values, alarms = [], 0
    for seed in range(60):
        rng = np.random.default_rng([seed, longer])
        known = tallied_fleet(rng)
        monitor = Monitor(known)
        for _ in range(10):
            new = tally(rng, 30 * longer)
            figures = known.fitting(new.figures, new.windows)
            p_values.append(known.p_value(figures))
            monitor.add(figures)
        alarms += monitor.highest >= monitor.alarm_at
    assert alarms <= 2
    for level in (0.1, 0.3):
        assert np.mean(np.array(p_values) <= level) <= level + 0.05


def test_an_event_in_a_long_recording_is_found():
    rng = np.random.default_rng(0)
    known = tallied_fleet(rng)
    new = tally(rng, 240, event=30.0)
    assert known.p_value(known.fitting(new.figures, new.windows)) == 1 / 31


def test_a_learned_recording_is_known_by_its_name_and_windows():
    figures = np.arange(8.0).reshape(4, 2)
    known = fleet(figures)
    assert known.index_of("d2", 10, figures[0]) == 2  # of an earlier version, which kept no figures of its own
    assert known.index_of("day/d2", 10, figures[2]) == 2
    assert known.index_of("d2", 11, figures[2]) is None
    assert known.index_of("d9", 10, figures[2]) is None


def test_another_recording_with_the_name_and_length_of_a_learned_one_is_new():
    known = replace(fleet(np.arange(8.0).reshape(4, 2)), own=np.arange(10.0, 18.0).reshape(4, 2))
    known = Fleet.from_dict(json.loads(json.dumps(known.to_dict())))
    assert known.index_of("night/d2", 10, np.array([14.0001, 15.0, 3.0])) == 2
    assert known.index_of("night/d2", 10, np.array([14.1, 15.0, 3.0])) is None
    assert known.index_of("night/d2", 10, np.array([14.0, 15.1, 3.0])) is None
    assert known.index_of("night/d2", 10, np.array([math.nan, 15.0, 3.0])) is None


def test_a_fleet_survives_json_and_refuses_what_it_did_not_write():
    known = fleet([[1, 2, 3, math.nan], [2, 3, 4, 5], [3, 4, 5, 6]], ["x"])
    plain = json.loads(json.dumps(known.to_dict(), allow_nan=False))
    np.testing.assert_array_equal(Fleet.from_dict(plain).figures, known.figures)
    damaged = [
        {"recordings": ["d0", "d1"]},
        {"recordings": ["d0", "d1", "d1"]},
        {"recordings": ["d0", "d1", 2]},
        {"windows": [10, 10, 0]},
        {"signals": []},
        {"figures": [[1, 2, 3, 4], [2, 3, 4, 5], [3, None, 5, 6]]},
        {"figures": [[1, 2, 3, 4], [2, 3, 4, 5], [3, math.inf, 5, 6]]},
        {"figures": [[1, 2], [1]]},
        {"figures": "many"},
        {"own": [[1, 2], [2, 3]]},
    ]
    for change in damaged:
        with pytest.raises(ValueError, match="its training recordings"):
            Fleet.from_dict(plain | change)
    with pytest.raises(ValueError, match="its training recordings"):
        Fleet.from_dict(None)


# --- drift ----------------------------------------------------------------------------------------------


def first_alarm(known, new):
    """The number of recordings up to the first alarm; None without one."""
    monitor = Monitor(known)
    return next((i + 1 for i, row in enumerate(new) if monitor.add(row).evidence >= monitor.alarm_at), None)


@pytest.mark.parametrize(
    ("runs", "hours"), [(60, 150), pytest.param(100, 10_000, marks=pytest.mark.slow)], ids=["short", "long"]
)
@pytest.mark.parametrize("count", [5, 30])
def test_clean_recordings_hardly_ever_alarm(runs, hours, count):
    alarms = 0
    for seed in range(runs):
        rng = np.random.default_rng([seed, count])
        alarms += first_alarm(normal_fleet(rng, count, 2), rng.normal(size=(hours, 6))) is not None
    assert alarms <= FALSE_ALARMS * runs + 3 * math.sqrt(FALSE_ALARMS * runs)


def test_bets_pay_by_what_a_finite_reference_allows():
    """Of many training fleets, at least 199 in 200 have limits that clean recordings pass no more often than paid."""
    fair = []
    for seed in range(1000):
        monitor = Monitor(normal_fleet(np.random.default_rng(seed), 20))
        fair.append((norm.sf(monitor._limits) * monitor._odds <= 1).all())
    assert np.mean(fair) >= 1 - FALSE_ALARMS / 2 - 3 * math.sqrt(FALSE_ALARMS / 2 / 1000)


def test_changes_of_mean_spread_and_one_signal_are_noticed():
    def shifted(x):
        return x + 2

    def spread(x):
        return 3 * x

    def one_signal(x):
        return x + 3 * (np.arange(x.shape[1]) == 7)

    for change, latest in ((shifted, 15), (spread, 150), (one_signal, 20)):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            known, new = normal_fleet(rng, 77, 4), rng.normal(size=(300, 10))
            assert (first_alarm(known, change(new)) or 999) <= latest, change
    monitor = Monitor(known)
    said = [monitor.add(row) for row in one_signal(new)][-1]
    assert next(iter(said.by)) == "s2"
    assert said.evidence > 100  # capital does not overflow


def test_a_late_change_is_noticed_as_well():
    rng = np.random.default_rng(3)
    known = normal_fleet(rng, 77)
    new = rng.normal(size=(1100, 2))
    new[1000:] += 2
    assert 1000 < first_alarm(known, new) <= 1030


def test_more_usual_recordings_are_no_drift_and_unknown_figures_win_nothing():
    rng = np.random.default_rng(4)
    known = normal_fleet(rng, 50, 1)
    assert first_alarm(known, np.full((200, 4), -5.0)) is None
    assert first_alarm(known, np.full((200, 4), math.nan)) is None


def test_a_monitor_that_was_written_to_json_goes_on_as_if_nothing_had_happened():
    rng = np.random.default_rng(5)
    known, new = normal_fleet(rng, 20, 1), rng.normal(size=(30, 4)) + 1
    whole, restarted = Monitor(known), Monitor(known)
    for row in new:
        expected, found = whole.add(row), restarted.add(row)
        assert found == expected
        restarted = Monitor.from_dict(known, json.loads(json.dumps(restarted.to_dict(), allow_nan=False)))
    assert restarted.now == expected
    assert restarted.highest == whole.highest > 0
    for change in ({"seen": 0}, {"capital": [1.0]}, {"highest": None}, {"capital": "much"}):
        with pytest.raises(ValueError, match="its capital"):
            Monitor.from_dict(known, whole.to_dict() | change)


def test_the_fewest_windows_are_half_of_the_shortest_recording():
    known = Fleet(("a", "b", "c"), np.array([9, 7, 30]), (), np.zeros((3, 2)))
    assert known.fewest == 4

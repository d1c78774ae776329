"""Signals are graded by what normal windows show: faults are found and named, healthy signals left alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from faults import Fault, inject

from anomalyvae.health import Profile, grade, learn_profile
from anomalyvae.health.grades import GRADES, graded, stretches
from anomalyvae.health.measures import cells_of, signals_of
from anomalyvae.health.profile import within
from anomalyvae.recordings import WindowRecipe, log_from_frame, read_windows

SIGNALS = ("speed", "shake", "gear", "door")
RECIPE = WindowRecipe(SIGNALS, rate_hz=10, length_s=2, stride_s=1, max_gap_s=0.5, missing=0.99)


def drive(seed, seconds=240):
    """A car that goes and stands: its speed, a noisy accelerometer, a gear that changes, a door that never opens."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(0, seconds, 0.1)
    speed = np.maximum(12 * np.sin(time_s / 15 + seed), 0) + np.where(
        np.sin(time_s / 15 + seed) > 0, 0.1, 0
    ) * rng.normal(size=len(time_s))
    frame = {"time_s": time_s, "speed": speed, "shake": rng.normal(size=len(time_s)), "door": 0.0}
    frame["gear"] = np.round(np.maximum(speed, 0) / 4)
    return log_from_frame(pd.DataFrame(frame), f"drive{seed}")


@pytest.fixture(scope="module")
def profile():
    return learn_profile(read_windows([drive(seed) for seed in range(5)], RECIPE), states=["gear"])


@pytest.fixture
def stuck():
    """Windows of a drive in which the accelerometer is stuck for 40 s."""
    return RECIPE.windows(inject(drive(9), [Fault("stuck", 100, 140, ("shake",))]))


def reading(log, signal, as_what, start_s=100, end_s=140):
    """The recording, but for a while one of its signals reads something else."""
    old = log[signal]
    inside = (old.time_s >= start_s) & (old.time_s < end_s)
    new = replace(old, values=np.where(inside, as_what(old.values), old.values))
    return replace(log, signals=log.signals | {signal: new})


def graded_stretches(log, profile):
    """The grades of a recording's windows, and the stretches that are not good."""
    grades = grade(RECIPE.windows(log), profile)
    return grades, stretches(grades)


def found(profile, *faults):
    return graded_stretches(inject(drive(9), faults), profile)


# What is left alone


def test_a_healthy_drive_is_good(profile):
    """The promise is one in a thousand per check; here are 239 windows of four signals and nine checks."""
    grades, _ = found(profile)
    assert (grades["grade"] == "good").mean() > 0.98
    assert not (grades["grade"] == "bad").any()
    assert (grades.loc[grades["grade"] == "good", "reason"] == "").all()


def test_suspects_are_as_rare_as_promised():
    """White noise, so that windows are exchangeable: at a rate of 1 %, about 1 % of new windows exceed a margin."""
    rng = np.random.default_rng(0)

    def noise(name, seconds):
        time_s = np.arange(0, seconds, 0.1)
        return log_from_frame(pd.DataFrame({"time_s": time_s, "x": rng.normal(size=len(time_s))}), name)

    recipe = WindowRecipe(("x",), rate_hz=10, length_s=2, stride_s=2, max_gap_s=0.5)
    learned = read_windows([noise(f"n{i}", 600) for i in range(6)], recipe)
    known = learn_profile(learned, suspect_rate=0.01)
    grades = grade(recipe.windows(noise("new", 12000)), known)
    assert (grades["grade"] != "good").mean() < 0.001  # 1.5 margins and more; one is the promise
    cells = cells_of(recipe.windows(noise("other", 12000)))[:, 0]
    usual, suspect, _ = known.levels["above"][0]
    assert 0.003 < (cells.max(axis=1) > (usual + suspect) / 2).mean() < 0.03


def test_one_peak_is_no_evidence_and_many_are(profile):
    """A value just outside the learned range: once, it is new driving; in a third of the windows, it is suspect."""
    usual, suspect, _ = profile.levels["above"][1]
    peak = usual + 0.7 * (suspect - usual)

    def with_peaks(*times_s):
        shake = drive(9)["shake"]
        values = shake.values.copy()
        for time in times_s:
            values[np.searchsorted(shake.time_s, time)] = peak
        log = drive(9)
        return graded_stretches(replace(log, signals=log.signals | {"shake": replace(shake, values=values)}), profile)

    assert not len(with_peaks(100)[1])
    once = with_peaks(*range(100, 130, 5))[1]
    assert once[["signal", "grade", "reason"]].to_numpy().tolist() == [["shake", "suspect", "out of range"]]
    assert 85 <= once["start_s"][0] < once["end_s"][0] <= 145


def test_a_profile_without_a_check_grades_by_the_others(profile, stuck):
    """As earlier versions wrote them."""
    kept = profile.to_dict()
    for checks in kept["levels"].values():
        checks.pop("often above", None)
    assert grade(stuck, Profile.from_dict(kept))["grade"].tolist() == grade(stuck, profile)["grade"].tolist()


def test_the_value_of_a_grade_is_the_measure_of_its_check(profile, stuck):
    grades = grade(stuck, profile)
    seconds = grades.loc[grades["reason"] == "stuck", "value"]
    assert seconds.max() == pytest.approx(40, abs=2)
    assert (grades["value"].isna() == (grades["grade"] == "good")).all()


@pytest.mark.parametrize("signal", ["gear", "door"])
def test_what_is_constant_or_a_state_is_never_stuck(profile, signal):
    _, stretch = found(profile, Fault("stuck", 60, 180, (signal,)))
    assert not stretch["reason"].isin(["stuck", "flat-lined", "noise gone"]).any()


def test_a_car_that_stands_has_no_dead_speedometer(profile):
    """Its speed rests at zero for half a minute again and again."""
    assert not found(profile)[1]["reason"].isin(["stuck", "flat-lined"]).any()


def pedal(seed, idle=14.0, seconds=240):
    """A pedal that moves, is up for 20 s of each minute, and down for 10 s; it reads steps of 0.4."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(0, seconds, 0.1)
    values = 45 + 15 * np.sin(time_s / 2 + seed) + rng.normal(size=len(time_s))
    values = np.where(time_s % 60 < 20, idle, np.where(time_s % 60 >= 50, 80.0, values))
    return log_from_frame(pd.DataFrame({"time_s": time_s, "pedal": np.round(values / 0.4) * 0.4}), f"pedal{seed}")


def test_a_signal_rests_near_its_usual_place_and_at_the_ends_of_its_range():
    """Up, it reads a step more in another drive, and it may be down for as long as it is up; elsewhere it is stuck."""
    recipe = replace(RECIPE, signals=("pedal",))
    profile = learn_profile(read_windows([pedal(seed) for seed in range(5)], recipe))

    def bad(log):
        return set(grade(recipe.windows(log), profile).query("grade == 'bad'")["reason"])

    def held(value):
        return reading(pedal(9), "pedal", lambda values: value, 80, 110)

    assert bad(pedal(9, idle=14.4)) == set()
    assert bad(held(80.0)) == set()
    assert bad(held(14.4)) == set()
    assert bad(held(50.0)) == {"stuck"}


def test_what_stops_for_a_moment_is_one_stretch():
    table = pd.DataFrame({"start_s": [0.0, 2, 20, 60, 61], "end_s": [2.0, 4, 22, 61, 62], "recording": "a"})
    table = table.assign(signal="x", grade=["suspect", "bad", "suspect", "suspect", "suspect"], severity=1.0)
    merged = stretches(table.assign(reason="stuck"))
    assert merged[["start_s", "end_s", "grade"]].to_numpy().tolist() == [[0, 22, "bad"], [60, 62, "suspect"]]
    missing = stretches(table.assign(reason="dropout"))  # a fact, with its exact times
    assert missing["start_s"].tolist() == [0, 20, 60]


# What is found


@pytest.mark.parametrize(
    ("kind", "size", "worst", "reason"),
    [
        ("stuck", 1, "bad", "stuck"),
        ("dropout", 1, "bad", "dropout"),
        ("noise", 1.0, "bad", "noisy"),
        ("spikes", 3, "suspect", "out of range"),
        ("offset", 3, "suspect", "out of range"),
    ],
)
def test_each_fault_is_found_where_it_is_and_has_its_name(profile, kind, size, worst, reason):
    grades, stretch = found(profile, Fault(kind, 100, 140, ("shake",), size))
    own = stretch[(stretch["grade"] == worst) & (stretch["signal"] == "shake")]
    assert not (stretch.loc[stretch["signal"] != "shake", "grade"] == "bad").any()
    assert reason in set(own["reason"])
    reach = 10 if reason == "out of range" else RECIPE.length_s  # repeated values are counted over 30 s
    assert own["start_s"].min() >= 100 - reach
    assert own["end_s"].max() <= 140 + reach
    inside = (grades["start_s"] >= 100) & (grades["end_s"] <= 140) & (grades["signal"] == "shake")
    assert (grades.loc[inside, "grade"] != "good").mean() > 0.35  # spikes leave windows between them alone


@pytest.mark.parametrize(
    ("signal", "as_what", "reason"),
    [
        ("shake", lambda values: 0.0, "flat-lined"),
        ("shake", lambda values: 0.01 * values, "noise gone"),
        ("speed", lambda values: 8.0, "stuck"),
    ],
)
def test_three_ways_to_stand_still_are_told_apart(profile, signal, as_what, reason):
    _, stretch = graded_stretches(reading(drive(9), signal, as_what), profile)
    assert set(stretch.loc[stretch["grade"] == "bad", "reason"]) == {reason}


def test_a_short_shake_is_no_noise_of_the_sensor(profile):
    _, stretch = found(profile, Fault("noise", 100, 104, ("shake",), 0.3))
    assert not (stretch["reason"] == "noisy").any()


def test_residuals_from_a_model_tell_a_slow_drift_and_not_a_passing_one():
    windows = read_windows([drive(seed) for seed in range(5)], RECIPE)
    rng = np.random.default_rng(0)
    known = learn_profile(windows, residuals=rng.normal(size=(len(windows), 4)))
    new = RECIPE.windows(drive(9))
    residuals = rng.normal(size=(len(new), 4))
    residuals[100:104, 0] += 6  # four windows
    residuals[150:200, 1] -= 3
    grades = grade(new, known, residuals)
    drifted = grades[grades["reason"] == "drifted"]
    bad = drifted[drifted["grade"] == "bad"]
    assert set(bad["signal"]) == {"shake"}
    assert bad["start_s"].between(130, 220).all()
    assert not ((drifted["signal"] == "speed") & drifted["start_s"].between(70, 135)).any()
    assert not (grade(new, known)["reason"] == "drifted").any()


# What is known beforehand


def test_a_stated_range_takes_the_place_of_what_was_learned():
    """A sensor that reads -5400 in every recording looks normal, until somebody says that it cannot."""
    windows = read_windows([inject(drive(seed), []) for seed in range(5)], RECIPE)
    cells = cells_of(windows).copy()
    cells[(windows.spans["start_s"] < 60).to_numpy(), 1] = -5400
    windows = type(windows)(pd.DataFrame(cells.reshape(len(cells), -1), columns=windows.rows.columns), windows.spans)
    broken = reading(drive(9), "shake", lambda values: -5400)
    assert not (graded_stretches(broken, learn_profile(windows))[1]["reason"] == "out of range").any()
    stretch = graded_stretches(broken, learn_profile(windows, ranges={"shake": (-50, 50)}))[1]
    outside = stretch[stretch["reason"] == "out of range"]
    assert set(outside["grade"]) == {"bad"}
    assert outside["start_s"].between(98, 100).all()
    assert np.isnan(cells_of(within(windows, {"shake": (-50, 50)}))[:60, 1]).all()


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"shak": (0, 1)}, r"Got a range of 'shak', expected a signal .*Did you mean 'shake'\?"),
        ({"shake": (1, 0)}, r"Got the range \[1, 0\] of 'shake', expected \[low, high\]"),
        ({"shake": (1,)}, r"Got the range \[1\] of 'shake'"),
    ],
)
def test_a_range_that_is_none_is_refused(profile, ranges, said):
    with pytest.raises(ValueError, match=said):
        profile.with_ranges(ranges)


# What is kept


def test_a_profile_survives_json_and_grades_alike(profile, stuck):
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict(), allow_nan=False)))
    columns = ["signal", "grade", "reason"]
    assert grade(stuck, again)[columns].equals(grade(stuck, profile)[columns])
    assert len(json.dumps(profile.to_dict())) < 4000


def test_a_profile_of_an_earlier_version_rests_at_one_value(profile, stuck):
    kept = profile.to_dict()
    del kept["rests"]
    old = Profile.from_dict(kept)
    assert old.rest.shape == (len(SIGNALS), 1, 2)
    assert old.rest[0, 0] == pytest.approx([kept["rest"]["speed"]] * 2)
    assert grade(stuck, old)["grade"].tolist() == grade(stuck, profile)["grade"].tolist()


def test_nonsense_is_no_profile():
    with pytest.raises(ValueError, match=r"Got a health profile that cannot be read .* Learn it again"):
        Profile.from_dict({"levels": {"x": {"above": 3}}})


def test_windows_of_other_signals_are_refused(profile):
    windows = WindowRecipe(("speed",), rate_hz=10, length_s=2, stride_s=1, max_gap_s=0.5).windows(drive(0))
    with pytest.raises(ValueError, match=r"Got windows of speed, expected the signals of the profile: speed, shake"):
        grade(windows, profile)


def test_one_window_teaches_nothing():
    windows = RECIPE.windows(drive(0, seconds=2.5))
    with pytest.raises(ValueError, match=r"Got 1 windows, expected at least two"):
        learn_profile(windows)


def test_grades_are_laid_out_window_by_window(profile):
    windows = RECIPE.windows(inject(drive(9), [Fault("dropout", 100, 140, ("shake",))]))
    grades = grade(windows, profile)
    bad = graded(grades, signals_of(windows), "bad")
    assert bad.shape == (len(windows), 4)
    assert set(np.flatnonzero(bad.any(axis=0))) == {1}
    assert set(grades["grade"]) <= set(GRADES)
    severity = grades.groupby("grade")["severity"].min()
    assert severity["bad"] >= 2
    assert (grades.loc[grades["grade"] == "good", "severity"] == 0).all()


# Faults that are put in


@pytest.mark.parametrize("kind", ["stuck", "dropout", "offset", "noise", "spikes", "harsh", "swerve", "hurried"])
def test_a_fault_changes_its_own_time_and_signal_alone(kind):
    log = drive(3)
    after = inject(log, [Fault(kind, 50, 60, ("shake",))], seed=1)
    changed = ~np.isclose(after["shake"].values, log["shake"].values, atol=1e-12)
    assert changed.any()
    assert log["shake"].time_s[changed].min() >= 50
    assert log["shake"].time_s[changed].max() < 60
    assert after["speed"] is log["speed"]
    again = inject(log, [Fault(kind, 50, 60, ("shake",))], seed=1)["shake"].values
    assert np.array_equal(again, after["shake"].values, equal_nan=True)


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match=r"Got the fault 'rust', expected one of stuck, dropout"):
        inject(drive(3), [Fault("rust", 0, 1, ("shake",))])

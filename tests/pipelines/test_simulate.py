"""Simulated drives: the same twice, physically consistent, with the events and faults that were asked for."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae import datasets
from anomalyvae.recordings import log_from_frame, read_log, resample

simulate = datasets.load_recipe("simulated")
Event = simulate.Event
G = 9.81


@pytest.fixture(scope="module")
def plain():
    return simulate.simulate_drive(seed=1, duration_s=120)[0]


def drive(*events, seed=1, **options):
    return simulate.simulate_drive(seed=seed, duration_s=120, events=events, **options)[0]


def moving_at(signals):
    """A moment at which the car drives fast and goes on for a while."""
    fast = (signals["speed_mps"] > 8).rolling(60).min().shift(-59)
    return float(signals["time_s"][fast.eq(1)].iloc[10])


def test_the_same_seed_gives_the_same_drive_and_another_another(plain):
    again = simulate.simulate_drive(seed=1, duration_s=120)[0]
    pd.testing.assert_frame_equal(plain, again, check_exact=True)
    other = simulate.simulate_drive(seed=2, duration_s=120)[0]
    assert not np.allclose(plain["acc_z_g"], other["acc_z_g"])


def test_the_global_random_state_is_not_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    simulate.simulate_drive(seed=1, duration_s=30)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_drive_has_every_signal_at_even_stamps_and_nothing_missing(plain):
    assert list(plain) == ["time_s", *simulate.UNITS]
    assert len(plain) == 1200
    np.testing.assert_allclose(np.diff(plain["time_s"]), 0.1)
    assert np.isfinite(plain.to_numpy()).all()


def test_the_car_stands_drives_and_its_sensors_agree():
    signals = simulate.simulate_drive(seed=5, duration_s=600, roughness=0.3)[0]
    speed = signals["speed_mps"].to_numpy()
    assert (speed < 0.5).mean() > 0.03
    assert 10 < speed.max() < 25
    # forward acceleration adds up to the speed: ten-second differences of both agree
    gained = np.cumsum(signals["acc_x_g"] - signals["acc_x_g"][speed < 0.05].mean()) * G * 0.1
    ten = 100
    slope, _ = np.polyfit((gained[ten:].to_numpy() - gained[:-ten].to_numpy()), speed[ten:] - speed[:-ten], 1)
    assert slope == pytest.approx(1 / 1.12, abs=0.08)  # the nose dips: an accelerometer reads 12 % more
    # sideways acceleration is speed times yaw rate
    turning = np.abs(signals["gyro_z_radps"]) > 0.1
    ratio = signals["acc_y_g"][turning] * G / (signals["gyro_z_radps"] * speed)[turning]
    assert ratio.median() == pytest.approx(1.15, abs=0.1)
    assert signals["acc_z_g"].mean() == pytest.approx(1.0, abs=0.03)
    assert signals["engine_rpm"][speed < 0.05].median() == pytest.approx(800, abs=20)
    assert signals["engine_rpm"][speed > 10].median() > 1200
    assert signals["coolant_degc"].is_monotonic_increasing


def test_a_pothole_shakes_the_car_where_it_lies_and_nowhere_else(plain):
    at = moving_at(plain)
    hit = drive(Event("pothole", at, at + 0.4))
    change = np.abs(hit["acc_z_g"] - plain["acc_z_g"])
    inside = plain["time_s"].between(at - 0.11, at + 1.0)
    assert change[inside].max() > 5 * plain["acc_z_g"].std()
    assert change[~inside].max() < 1e-3
    assert np.abs(hit["gyro_x_radps"] - plain["gyro_x_radps"])[inside].max() > 0.1


def test_hard_braking_is_felt_and_seen_in_the_speed(plain):
    at = moving_at(plain)
    braked = drive(Event("hard_brake", at, at + 2.0))
    inside = plain["time_s"].between(at, at + 2.2)
    assert braked["acc_x_g"][inside].min() < -0.3
    after = plain["time_s"].between(at + 3.0, at + 3.5)
    assert braked["speed_mps"][after].mean() < 0.5 * plain["speed_mps"][after].mean()


def test_a_swerve_goes_out_and_back(plain):
    at = moving_at(plain)
    swerved = drive(Event("swerve", at, at + 2.0))
    change = (swerved["acc_y_g"] - plain["acc_y_g"])[plain["time_s"].between(at, at + 2.0)]
    assert change.max() > 0.3
    assert change.min() < -0.3
    heading = (swerved["gyro_z_radps"] - plain["gyro_z_radps"]).sum() * 0.1
    assert abs(heading) < 0.05


@pytest.mark.parametrize("kind", simulate.FAULTS)
def test_a_fault_changes_its_signal_in_its_span_only(plain, kind):
    broken = drive(Event(kind, 50.0, 60.0, "acc_x_g"))
    inside = plain["time_s"].between(50.0, 59.95)
    pd.testing.assert_frame_equal(broken.drop(columns="acc_x_g"), plain.drop(columns="acc_x_g"))
    pd.testing.assert_series_equal(broken["acc_x_g"][~inside], plain["acc_x_g"][~inside])
    values, change = broken["acc_x_g"][inside], (broken["acc_x_g"] - plain["acc_x_g"])[inside]
    if kind == "stuck":
        assert (values == values.iloc[0]).all()
    elif kind == "dropout":
        assert values.isna().all()
    elif kind == "drift":
        assert change.is_monotonic_increasing
        assert change.iloc[-1] == pytest.approx(4 * plain["acc_x_g"].std(), rel=0.01)
    else:
        assert change.std() == pytest.approx(2 * plain["acc_x_g"].std(), rel=0.3)


def test_random_events_do_not_overlap_and_are_reported():
    counts = {"pothole": 6, "hard_brake": 1, "swerve": 2, "stuck": 1}
    events = simulate.simulate_drive(seed=3, duration_s=300, events=counts)[1]
    assert list(events) == ["time_s", "kind", "start_s", "end_s", "signal"]
    assert events["kind"].value_counts().to_dict() == counts
    assert events["time_s"].is_monotonic_increasing
    assert (events["start_s"].to_numpy()[1:] > events["end_s"].to_numpy()[:-1]).all()
    assert events.loc[events["kind"].eq("stuck"), "signal"].isin(list(simulate.UNITS)).all()
    undisturbed = simulate.simulate_drive(seed=3, duration_s=300)[0]
    for event in events[events["kind"].ne("stuck")].itertuples():
        assert undisturbed["speed_mps"][undisturbed["time_s"].between(event.start_s, event.end_s)].min() > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": {"potole": 1}}, r"'potole' is no kind of event. Choose from pothole"),
        ({"events": {"pothole": 500}}, r"500 events of kind 'pothole'.*Ask for fewer"),
        ({"events": [Event("stuck", 1, 2)]}, r"A fault needs a signal, and '' is none. Choose from speed_mps"),
        ({"events": [Event("swerve", 100, 130)]}, r"'swerve' from 100 to 130 s is not within the drive of 120 s"),
        ({"duration_s": 5}, r"duration_s=5.*at least 30 s"),
        ({"rate_hz": 7}, r"rate_hz=7.*a divisor of 100"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate.simulate_drive(**{"duration_s": 120, **arguments})


def test_the_default_set_reads_back_as_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYVAE_CACHE", str(tmp_path))
    folder = datasets.get_dataset("simulated")
    paths = sorted((folder / "recordings").iterdir())
    assert [path.stem for path in paths] == [f"simulated{number}" for number in range(1, 6)]
    signals, made = simulate.simulate_drive(seed=(0, 2), events=simulate.USUAL_EVENTS)
    log = read_log(paths[1])
    assert {name: signal.unit for name, signal in log.signals.items()} == simulate.UNITS
    ticks = resample(log, rate_hz=10, max_gap_s=0.5)
    pd.testing.assert_frame_equal(ticks, resample(log_from_frame(signals, "simulated2"), 10, 0.5))
    np.testing.assert_array_equal(ticks["acc_z_g"], signals["acc_z_g"])
    events = pd.read_parquet(folder / "events.parquet")
    read = events[events["recording"].eq("simulated2")].drop(columns="recording").reset_index(drop=True)
    pd.testing.assert_frame_equal(read, made)


def test_the_script_writes_a_new_folder_and_says_what_is_wrong(tmp_path, capsys):
    out = tmp_path / "drives"
    arguments = ["--out", str(out), "--drives", "2", "--minutes", "1", "--events", "pothole=1,dropout=1"]
    assert simulate.main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert pd.read_parquet(out / "events.parquet")["kind"].value_counts().to_dict() == {"pothole": 2, "dropout": 2}
    assert simulate.main(arguments) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert simulate.main(["--out", str(tmp_path / "other"), "--events", "pothole"]) == 1
    assert "expected KIND=COUNT" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()

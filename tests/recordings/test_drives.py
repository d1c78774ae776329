"""Copies of a recording, and the parts into which a logger cuts a drive, are one drive: they are not held out apart."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe, read_windows
from anomalyvae.recordings.drives import copies_of, drives_of
from anomalyvae.train import TrainingSet

RECIPE = WindowRecipe(("x", "y"), rate_hz=5, length_s=2.0, stride_s=1.0, max_gap_s=1.0)
DETECTOR = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,))


def drive(seed, seconds=40):
    """Two signals with a level of their own in each drive."""
    rng = np.random.default_rng(seed)
    values = 5.0 * rng.normal(size=2) + np.cumsum(rng.normal(size=(5 * seconds, 2)), axis=0) * 0.1
    return pd.DataFrame(values, columns=["x", "y"]).assign(t=np.arange(5 * seconds) / 5)


def written(folder, **tables):
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return sorted(folder.iterdir())


def parts(seed, starts, seconds=40):
    """A drive as files that begin at these moments."""
    whole = drive(seed, seconds * len(starts))
    pieces = np.array_split(np.arange(len(whole)), len(starts))
    for piece, start in zip(pieces, starts, strict=True):
        t_s = (whole["t"].iloc[piece] - whole["t"].iloc[piece[0]]).to_numpy()
        yield whole.iloc[piece].assign(t=pd.Timestamp(start) + pd.to_timedelta(t_s, unit="s"))


def test_a_copy_in_another_form_is_learned_once(tmp_path):
    drives = {f"d{seed}": drive(seed) for seed in range(4)}
    copies = {"e0": drives["d0"].round(4), "e1": drives["d1"].assign(note="again")}
    files = written(tmp_path / "drives", **drives, **copies)
    with pytest.warns(UserWarning, match=r"The recordings e0, e1 are copies of others. Each recording is learned once"):
        data = TrainingSet.of_files(files, RECIPE)
    assert sorted(data.names.values()) == ["d0", "d1", "d2", "d3"]
    assert len(data.rows) == 4 * 39


def test_recordings_that_stand_still_are_no_copies(tmp_path):
    still = drive(0).assign(x=1.0, y=np.repeat([0.0, 1.0], 100))
    files = written(tmp_path / "drives", a=still, b=still, c=drive(0).round(3), d=drive(0) + 0.01)
    assert copies_of(read_windows(files, RECIPE), RECIPE) == {}


def test_parts_of_a_drive_are_held_out_together(tmp_path):
    hours = [f"2024-05-01 {hour:02}:00:00" for hour in range(8, 12)]
    tables = {}
    for number, hour in enumerate(hours):
        first, second = parts(number, [hour, hour.replace("00:00", "00:40")])
        tables |= {f"a{number}": first, f"b{number}": second}
    files = written(tmp_path / "drives", **tables)
    with pytest.warns(UserWarning, match="4 of 8 recordings go on .* such as b0 .* begins with a0"):
        data = TrainingSet.of_files(files, RECIPE)
    assert drives_of(data.named, RECIPE) == {f"b{number}": f"a{number}" for number in range(4)}
    with pytest.warns(UserWarning, match="^4 recordings can show no p-value below 0.2"):
        model = data.fit(DETECTOR)
    assert model.calibration_.evidence == pytest.approx(4)
    again = TrainingSet.of_manifest(data.manifest, RECIPE)
    with pytest.warns(UserWarning, match="4 recordings"):
        assert again.fit(DETECTOR).offset_ == model.offset_


def test_a_fleet_is_measured_by_fits_that_left_out_whole_drives(tmp_path, monkeypatch):
    hours = [f"2024-05-01 {hour:02}:00:00" for hour in range(8, 12)]
    tables = {}
    for number, hour in enumerate(hours):
        for part, table in enumerate(parts(number, [hour, hour.replace("00:00", "00:40")])):
            tables[f"{'ab'[part]}{number}"] = table
    with pytest.warns(UserWarning, match="go on where another ends"):
        data = TrainingSet.of_files(written(tmp_path / "drives", **tables), RECIPE)
    left_out = []
    without = TrainingSet.without
    monkeypatch.setattr(TrainingSet, "without", lambda self, *names: left_out.append(names) or without(self, *names))
    with pytest.warns(UserWarning, match="4 recordings"):
        assert len(data.fleet(data.fit(DETECTOR))) == 8
    assert {tuple(sorted(names)) for names in left_out} == {("a0", "a3", "b0", "b3"), ("a1", "b1"), ("a2", "b2")}


def test_parts_of_vehicles_that_drive_at_once_are_told_apart_by_their_values(tmp_path):
    starts = ["2024-05-01 08:00:00", "2024-05-01 08:00:40", "2024-05-01 08:01:20"]
    tables = {f"v{seed}_{part}": table for seed in range(3) for part, table in enumerate(parts(seed, starts))}
    windows = read_windows(written(tmp_path / "drives", **tables), RECIPE)
    expected = {f"v{seed}_{part}": f"v{seed}_0" for seed in range(3) for part in (1, 2)}
    assert drives_of(windows, RECIPE) == expected


@pytest.mark.parametrize("change", ["pause", "level", "no moment"])
def test_other_recordings_are_drives_of_their_own(tmp_path, change):
    first, second = parts(0, ["2024-05-01 08:00:00", f"2024-05-01 08:00:{45 if change == 'pause' else 40}"])
    if change == "level":
        second["x"] += 100
    if change == "no moment":
        first, second = (table.assign(t=np.arange(len(table)) / 5) for table in (first, second))
    windows = read_windows(written(tmp_path / "drives", a=first, b=second), RECIPE)
    assert drives_of(windows, RECIPE) == {}


@pytest.mark.parametrize("late_s", [0.0, 0.07])
def test_recordings_that_overlap_are_one_drive_if_they_have_the_same_values(tmp_path, late_s):
    """As files of the last minute before each event do; the clock of the second file may tick in between."""
    tables = {}
    for number in range(3):
        whole = drive(number, 60)
        moments = pd.Timestamp("2024-05-01 08:00:00") + pd.to_timedelta(whole["t"], unit="s")
        fine_s = np.arange(20 + late_s, 59, 0.2)
        late = {name: np.interp(fine_s, whole["t"], whole[name]) for name in ("x", "y")}
        tables[f"a{number}"] = whole.assign(t=moments)[:200]
        tables[f"b{number}"] = pd.DataFrame(late).assign(t=moments[0] + pd.to_timedelta(fine_s, unit="s"))
    windows = read_windows(written(tmp_path / "drives", **tables), RECIPE)
    assert drives_of(windows, RECIPE) == {f"b{number}": f"a{number}" for number in range(3)}

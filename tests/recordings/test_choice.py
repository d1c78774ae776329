"""Windows without settings: what is chosen from recordings, what is left out, and which tables are recordings."""

import numpy as np
import pandas as pd
import pytest

from anomalyvae.recordings import choose_recipe, read_windows
from anomalyvae.recordings.choice import are_recordings


def drive(seconds=120.0, hz=20.0, seed=0):
    rng = np.random.default_rng(seed)
    time_s = np.arange(0, seconds, 1 / hz)
    n = len(time_s)
    return pd.DataFrame(
        {
            "time_s": time_s,
            "acc_mps2": rng.normal(size=n),
            "speed_mps": 10 + np.cumsum(rng.normal(size=n)) * 0.1,
            "gear": (np.arange(n) // 100) % 5,
            "odometer_m": np.arange(n) * 0.5,
            "latitude": 49 + rng.normal(size=n) * 1e-3,
            "always_m": 4.0,
        }
    )


def written(folder, *tables):
    paths = [folder / f"drive{i}.csv" for i in range(len(tables))]
    for path, table in zip(paths, tables, strict=True):
        table.to_csv(path, index=False)
    return paths


def test_signals_rate_and_length_come_from_the_files(tmp_path):
    files = written(tmp_path, drive(), drive(seed=1).assign(rain=1.5))
    recipe, left_out = choose_recipe(files)
    assert recipe.signals == ("acc_mps2", "speed_mps", "gear")
    assert recipe.states == ("gear",)
    assert (recipe.rate_hz, recipe.length_s, recipe.stride_s, recipe.max_gap_s) == (20, 2, 1, 1)
    assert left_out == {
        "odometer_m": "it runs one way only",
        "latitude": "a position",
        "always_m": "constant",
        "rain": "not in every recording",
    }
    assert len(read_windows(files, recipe)) == 2 * 119


@pytest.mark.parametrize(
    ("hz", "rate_hz", "length_s", "stride_s", "max_gap_s"),
    [
        (100, 25, 2, 1, 1),
        (5, 5, 4, 2, 1),
        (1, 1, 20, 10, 3),
        (1 / 3, 1 / 3, 60, 30, 9),
        (1 / 60, 1 / 60, 1200, 600, 180),
    ],
)
def test_slow_signals_have_long_windows(tmp_path, hz, rate_hz, length_s, stride_s, max_gap_s):
    recipe, _ = choose_recipe(written(tmp_path, drive(200 / hz, hz)[["time_s", "acc_mps2"]]))
    chosen = (recipe.rate_hz, recipe.length_s, recipe.stride_s, recipe.max_gap_s)
    assert chosen == pytest.approx((rate_hz, length_s, stride_s, max_gap_s))


def test_the_slowest_signal_decides_what_is_a_gap(tmp_path):
    table = drive()[["time_s", "acc_mps2", "speed_mps"]]
    table.loc[np.arange(len(table)) % 40 > 0, "speed_mps"] = np.nan
    recipe, _ = choose_recipe(written(tmp_path, table))
    assert (recipe.rate_hz, recipe.max_gap_s) == (20, 6)
    assert len(read_windows([tmp_path / "drive0.csv"], recipe)) > 100


def test_what_is_given_is_kept(tmp_path):
    files = written(tmp_path, drive())
    recipe, left_out = choose_recipe(files, ["always_m", "acc_mps2"], rate_hz=10, length_s=3)
    assert recipe.signals == ("always_m", "acc_mps2")
    assert (recipe.rate_hz, recipe.length_s, recipe.stride_s, left_out) == (10, 3, 1.5, {})


def test_nothing_to_learn_is_refused_with_reasons(tmp_path):
    files = written(tmp_path, drive()[["time_s", "always_m", "latitude"]])
    with pytest.raises(ValueError, match=r"No signal of .*drive0.csv.*always_m \(constant\), latitude \(a position\)"):
        choose_recipe(files)


def test_what_holds_no_finite_number_is_left_out_and_said(tmp_path):
    tables = [drive(seed=i).assign(endless=np.inf, nothing=np.nan, mode="eco", GPSLongitude=8.0 + i) for i in range(2)]
    recipe, left_out = choose_recipe(written(tmp_path, *tables))
    assert recipe.signals == ("acc_mps2", "speed_mps", "gear")
    said = {name: left_out[name] for name in ("endless", "nothing", "mode", "GPSLongitude")}
    assert said == {
        "endless": "without a value",
        "nothing": "without a value",
        "mode": "text such as 'eco'",
        "GPSLongitude": "a position",
    }


def test_faults_of_all_files_come_together(tmp_path):
    twice = pd.concat([drive(), drive()["acc_mps2"]], axis=1)
    files = written(tmp_path, drive(), twice, drive(seed=1), pd.concat([drive(), drive()]))
    recipe, _ = choose_recipe(files)
    assert recipe.signals == ("acc_mps2", "speed_mps", "gear")
    with pytest.raises(ValueError, match=r"(?s)2 recordings cannot be used.*named 'acc_mps2'.*jumps back"):
        read_windows(files, recipe)
    with pytest.raises(ValueError, match=r"drive1.csv has 2 columns named 'acc_mps2'"):
        choose_recipe(files[1:2])


def irregular(folder, name="sales.csv"):
    table = drive()
    table["time_s"] = np.sort(np.random.default_rng(0).exponential(1, len(table)).cumsum() ** 2)
    table.to_csv(folder / name, index=False)
    return folder / name


@pytest.mark.parametrize("hz", [20, 2000])
def test_tables_with_a_regular_clock_are_recordings(tmp_path, hz):
    short = drive().head(5)
    assert are_recordings(written(tmp_path, drive(100 / hz * 20, hz), drive(100 / hz * 20, hz, seed=1), short))
    assert not are_recordings([irregular(tmp_path), irregular(tmp_path, "more.csv")])
    drive().drop(columns="time_s").to_csv(tmp_path / "rows.csv", index=False)
    assert not are_recordings([tmp_path / "rows.csv", irregular(tmp_path)])


def test_recordings_beside_other_tables_are_refused(tmp_path):
    regular = written(tmp_path, drive(), drive(seed=1))
    with pytest.raises(
        ValueError, match=r"drive0.csv has a time column.*sales.csv has none \(1 of 3 files\).*--as rows"
    ):
        are_recordings([*regular, irregular(tmp_path)])


def test_tables_whose_stamps_cannot_be_understood_are_no_rows_by_themselves(tmp_path):
    ticks = drive().assign(time_s=lambda table: (table["time_s"] * 1000).round()).rename(columns={"time_s": "time"})
    with pytest.raises(ValueError, match=r"'time \[ms\]'.*--as rows"):
        are_recordings(written(tmp_path, ticks, ticks))
    assert are_recordings(written(tmp_path, ticks, ticks), time="time [ms]")
    seconds = drive().assign(time_s=lambda table: table["time_s"] // 1)
    with pytest.raises(ValueError, match=r"usually 20 rows.*--as rows"):
        are_recordings(written(tmp_path, seconds, seconds))

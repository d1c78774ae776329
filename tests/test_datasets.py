"""Data sets are found or fetched, checked, and prepared atomically."""

import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomalyvae import datasets
from anomalyvae.recordings import WindowRecipe, read_log, read_windows

IMU = ("acc_x_g", "acc_y_g", "acc_z_g", "gyro_x_radps", "gyro_y_radps", "gyro_z_radps")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A cache for this test only."""
    monkeypatch.setenv("ANOMALYVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def sources(places, monkeypatch):
    """The only folder with source files; nothing is online."""
    monkeypatch.setattr(datasets, "_source_roots", lambda: iter([Path(os.environ["ANOMALYVAE_DATA"])]))
    monkeypatch.setenv("ANOMALYVAE_DATA", str(places / "sources"))
    (places / "sources" / "toy").mkdir(parents=True)
    return places / "sources"


@pytest.fixture
def toy(places, monkeypatch):
    """A recipe called toy; the test may rewrite it."""
    home = places / "recipes"
    (home / "toy").mkdir(parents=True)
    shutil.copy(datasets._recipes()["simulated"], home / "simulate.py")
    monkeypatch.setattr(datasets, "_recipe_folder", lambda: home)
    recipe = home / "toy" / "prepare.py"
    recipe.write_text(
        "ABOUT = {'what': 'a toy', 'licence': 'MIT', 'source': 'here', 'size_mb': 0.1}\n"
        "def prepare(folder):\n"
        "    (folder / 'made.txt').write_text('once')\n"
    )
    return recipe


def is_prepared(name):
    return next(dataset.prepared for dataset in datasets.list_datasets() if dataset.name == name)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache for all tests of real data sets."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def potholes(cache, monkeypatch):
    monkeypatch.setenv("ANOMALYVAE_CACHE", str(cache))
    for file in datasets.load_recipe("potholes").SHA256:
        if not any((root / "potholes" / file).is_file() for root in datasets._source_roots()):
            pytest.skip("the pothole drives are not on this machine")
    return datasets.get_dataset("potholes")


# --- names and descriptions -----------------------------------------------------------------------------


def test_every_recipe_is_listed_with_its_description(places):
    known = {dataset.name: dataset for dataset in datasets.list_datasets()}
    assert {"potholes", "simulated"} <= set(known)
    assert list(known) == sorted(known)
    assert known["potholes"].licence == "none stated by the authors"
    assert "simulated" in known["simulated"].what
    assert not known["potholes"].prepared
    assert known["potholes"].folder == places / "cache" / "potholes"


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"There is no data set 'pothole'.*Did you mean 'potholes'"):
        datasets.get_dataset("pothole")


# --- preparing ------------------------------------------------------------------------------------------


def test_a_set_is_prepared_once_and_again_when_its_recipe_changes(toy):
    folder = datasets.get_dataset("toy")
    assert json.loads((folder / "about.json").read_text())["licence"] == "MIT"
    assert is_prepared("toy")
    (folder / "made.txt").write_text("kept")
    assert (datasets.get_dataset("toy") / "made.txt").read_text() == "kept"
    toy.write_text(toy.read_text().replace("once", "again"))
    assert not is_prepared("toy")
    assert (datasets.get_dataset("toy") / "made.txt").read_text() == "again"
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_recipe_that_fails_leaves_the_earlier_set_and_no_debris(toy):
    folder = datasets.get_dataset("toy")
    toy.write_text(toy.read_text() + "    raise RuntimeError('half way')\n")
    with pytest.raises(RuntimeError, match="half way"):
        datasets.get_dataset("toy")
    assert (folder / "made.txt").read_text() == "once"
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_a_killed_process_leaves_nothing_that_looks_prepared(places):
    """The child announces that half of the set is written, is killed, and the next call makes it whole."""
    program = (
        "import sys, time; from anomalyvae import datasets\n"
        "make = datasets.write_events\n"
        "def stop(folder, events): print('half', flush=True); time.sleep(60)\n"
        "datasets.write_events = stop\n"
        "datasets.get_dataset('simulated')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not is_prepared("simulated")
    assert not (places / "cache" / "simulated").exists()
    (left,) = (places / "cache").iterdir()
    os.utime(left, (time.time() - 7200,) * 2)  # what a killed process left is swept up after an hour
    folder = datasets.get_dataset("simulated")
    assert len(list((folder / "recordings").iterdir())) == 5
    assert [path.name for path in (places / "cache").iterdir()] == ["simulated"]


def test_several_at_once_all_get_the_whole_set(toy):
    toy.write_text(toy.read_text().replace("    (folder", "    import time; time.sleep(0.05)\n    (folder"))
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(datasets.get_dataset, ["toy"] * 4))
    assert (folders[0] / "made.txt").read_text() == "once"
    assert [path.name for path in folders[0].parent.iterdir()] == ["toy"]


# --- source files ---------------------------------------------------------------------------------------


def test_a_source_file_on_this_machine_is_used_in_place(sources):
    (sources / "toy" / "a.csv").write_bytes(b"right")
    path = datasets.source_file("toy", "a.csv", url="http://127.0.0.1:9/", sha256=sha256(b"right"))
    assert path == sources / "toy" / "a.csv"


def test_a_corrupted_source_file_is_refused_by_name(sources):
    (sources / "toy" / "a.csv").write_bytes(b"wrong")
    with pytest.raises(ValueError, match=r"toy/a\.csv has the sha256 .*damaged or of another version"):
        datasets.source_file("toy", "a.csv", url="http://127.0.0.1:9/", sha256=sha256(b"right"))


@pytest.fixture
def server(places):
    """An HTTP server on this machine; gives its address and the folder that it shows."""
    shown = places / "shown"
    shown.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=shown)) as httpd:
        threading.Thread(target=partial(httpd.serve_forever, 0.02), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", shown
        httpd.shutdown()


def test_a_missing_source_file_is_fetched_once_and_checked(sources, server):
    url, shown = server
    (shown / "a.csv").write_bytes(b"right")
    fetch = partial(datasets.source_file, "toy", "a.csv", url=f"{url}/a.csv")
    path = fetch(sha256=sha256(b"right"))
    assert path.read_bytes() == b"right"
    (shown / "a.csv").unlink()
    assert fetch(sha256=sha256(b"right")) == path
    (shown / "a.csv").write_bytes(b"wrong")
    with pytest.raises(ValueError, match=r"is not the expected file toy/a\.csv"):
        fetch(sha256=sha256(b"another"))


@pytest.mark.parametrize("gone", ["/none.csv", None])
def test_a_file_that_cannot_be_fetched_says_where_to_put_it(sources, server, gone):
    url = "http://127.0.0.1:9/none.csv" if gone is None else server[0] + gone
    with pytest.raises(ConnectionError, match=r"cannot be fetched .*ANOMALYVAE_DATA .*has toy/none\.csv"):
        datasets.source_file("toy", "none.csv", url=url, sha256=sha256(b""))


# --- the pothole drives ---------------------------------------------------------------------------------


def test_potholes_are_five_trips_with_96_marks_and_fifteen_roads(potholes):
    trips = {path.stem: read_log(path) for path in sorted((potholes / "recordings").iterdir())}
    assert list(trips) == ["trip1", "trip2", "trip3", "trip4", "trip5"]
    for log in trips.values():
        assert list(log.signals) == ["speed_mps", *IMU]
        assert [signal.unit for signal in log.signals.values()] == ["m/s", *3 * ["g"], *3 * ["rad/s"]]
        assert log["speed_mps"].time_s[0] == 0.0
        steps = np.diff(log["speed_mps"].time_s)
        assert (np.abs(steps - 0.2) < 1e-9).sum() >= len(steps) - 1  # at most one pause
        assert np.nanmin(log["speed_mps"].values) >= 0
        gravity = np.mean([log[f"acc_{axis}_g"].values for axis in "xyz"], axis=1)
        assert np.linalg.norm(gravity) == pytest.approx(1.0, abs=0.05)
    assert trips["trip1"].start == pd.Timestamp("2017-04-19T21:56:04.55Z")
    assert np.isnan(trips["trip4"]["speed_mps"].values).sum() == 5
    assert len(list((potholes / "roads").iterdir())) == 15

    events = pd.read_parquet(potholes / "events.parquet")
    assert events["kind"].eq("pothole").all()
    assert events.groupby("recording").size().tolist() == [13, 22, 21, 22, 18]  # of trip1 to trip5
    for name, marks in events.groupby("recording"):
        assert marks["time_s"].between(0, trips[name]["speed_mps"].time_s[-1]).all()
    first = pd.Timestamp(1492639065.7, unit="s", tz="UTC") - trips["trip1"].start
    assert events["time_s"].iloc[0] == pytest.approx(first.total_seconds(), abs=1e-3)


def test_potholes_hold_no_position(potholes):
    for path in potholes.rglob("*.parquet"):
        columns = " ".join(pd.read_parquet(path)).casefold()
        assert "lat" not in columns
        assert "lon" not in columns


def test_pothole_windows_of_moving_cars(potholes):
    recipe = WindowRecipe(IMU, rate_hz=5, length_s=2, stride_s=1, max_gap_s=0.5, where="speed_mps > 2")
    windows = read_windows(sorted((potholes / "recordings").iterdir()), recipe)
    assert windows.spans.groupby("recording").size().tolist() == [287, 262, 300, 253, 252]  # of trip1 to trip5
    assert np.isfinite(windows.rows.to_numpy()).all()


def test_a_corrupted_pothole_file_is_refused_by_name(potholes, sources):
    recipe = datasets.load_recipe("potholes")
    (sources / "potholes").mkdir()
    (sources / "potholes" / "trip1_sensors.csv").write_text("timestamp,speed\n0,1\n")
    with pytest.raises(ValueError, match=r"trip1_sensors\.csv has the sha256"):
        recipe.prepare(sources)


def test_stamps_are_put_back_on_an_even_clock():
    even_stamps = datasets.load_recipe("potholes").even_stamps
    # just between two tenths, where a few milliseconds decide how a stamp is rounded
    true = 1_492_638_964.55 + np.concatenate((0.2 * np.arange(500), 107.0 + 0.2 * np.arange(300)))
    late = np.random.default_rng(0).uniform(-0.003, 0.003, len(true))
    written = np.round(true + late, 1)
    assert set(np.diff(written[:500]).round(1)) == {0.1, 0.2, 0.3}
    np.testing.assert_allclose(even_stamps(written), true, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="off a 5 Hz clock"):
        even_stamps(0.21 * np.arange(100))


# --- the other sets -------------------------------------------------------------------------------------


@pytest.fixture
def prepared(cache, monkeypatch):
    """A function that prepares a set, or skips if its source is not on this machine."""

    def prepare(name):
        monkeypatch.setenv("ANOMALYVAE_CACHE", str(cache))
        if not any((root / name).is_dir() for root in datasets._source_roots()):
            pytest.skip(f"the sources of {name} are not on this machine")
        return datasets.get_dataset(name)

    return prepare


@pytest.mark.parametrize(
    ("name", "recordings", "events"),
    [
        ("skab", 35, {"anomaly": 34}),
        ("smap", 108, {"anomaly": 68}),
        ("smd", 8, None),
        ("asd", 12, None),
        ("jair_jr", 3, None),
        ("css_drive", 11, {}),
        ("comma2k19", 1, {}),
        pytest.param("carobd", 128, {}, marks=pytest.mark.slow),
        pytest.param(
            "kit_obd",
            77,
            dict.fromkeys(("emergency_braking", "black_ice", "measurement_error", "hard_acceleration"), 1),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_set_is_tidy(prepared, name, recordings, events):
    folder = prepared(name)
    paths = sorted((folder / "recordings").iterdir())
    assert len(paths) == recordings
    ends, columns = {}, set()
    for path in paths:
        table = pd.read_parquet(path)
        columns.add(tuple(table))
        assert table.columns[0] == "time_s"
        assert (np.diff(table["time_s"]) > 0).all()
        assert not {"lat", "lon", "latitude", "longitude"} & {column.casefold() for column in table}
        ends[path.stem] = table["time_s"].iloc[-1]
    assert len(columns) == 1
    if events == {}:
        assert not (folder / "events.parquet").exists()
        return
    known = pd.read_parquet(folder / "events.parquet")
    assert (known["start_s"] <= known["end_s"]).all()
    assert (known["end_s"] <= known["recording"].map(ends)).all()
    if events is not None:
        assert known["kind"].value_counts().to_dict() == events


def test_skab_says_which_rows_train_and_where_changes_are(prepared):
    folder = prepared("skab")
    training = pd.read_parquet(folder / "training.parquet")
    events = pd.read_parquet(folder / "events.parquet")
    assert len(training) == 34
    labelled = 0
    for name, end_s in training.itertuples(index=False):
        time_s = pd.read_parquet(folder / "recordings" / f"{name}.parquet")["time_s"]
        assert (time_s <= end_s).sum() == 400
        for start_s, stop_s in events.loc[events["recording"] == name, ["start_s", "end_s"]].to_numpy():
            labelled += time_s.between(start_s, stop_s).sum()
    assert labelled == 13067
    assert len(pd.read_parquet(folder / "changepoints.parquet")) == 129
    assert read_log(folder / "recordings" / "valve1-0.parquet")["Pressure"].unit == "bar"


def test_jair_jr_has_53_manoeuvres_of_which_42_are_aggressive(prepared):
    kinds = pd.read_parquet(prepared("jair_jr") / "events.parquet")["kind"]
    assert len(kinds) == 53
    assert kinds.str.startswith("aggressive_").sum() == 42
    assert kinds.nunique() == 7


def test_smap_labels_lie_in_the_test_parts(prepared):
    events = pd.read_parquet(prepared("smap") / "events.parquet")
    assert events["recording"].str.endswith(".test").all()
    spans = events.loc[events["recording"] == "T-3.test", ["start_s", "end_s"]]
    assert spans.to_numpy().tolist() == [[2098, 2180], [5200, 5300]]  # as the authors list them


@pytest.mark.parametrize(
    ("name", "signals", "labelled"),
    [
        ("smd", 38, {"1-6": 3708, "2-1": 1170, "2-7": 417, "3-3": 632}),
        ("asd", 19, {"1": 441, "2": 55, "3": 146, "4": 151, "5": 74, "6": 198}),
    ],
)
def test_servers_have_a_normal_part_and_a_part_with_labels(prepared, name, signals, labelled):
    folder = prepared(name)
    events = pd.read_parquet(folder / "events.parquet")
    rows = (events["end_s"] - events["start_s"] + 1).groupby(events["recording"]).sum()
    assert rows.to_dict() == {f"{series}.test": count for series, count in labelled.items()}
    for path in (folder / "recordings").iterdir():
        table = pd.read_parquet(path)
        assert list(table) == ["time_s", *(f"metric_{number}" for number in range(signals))]
        assert table["time_s"].tolist() == list(range(len(table)))
        assert table.notna().all(axis=None)


def test_a_table_of_series_becomes_recordings_and_events(places):
    table = pd.DataFrame(
        {"series": ["b"] * 3 + ["a"] * 4, "split": ["train"] * 3 + ["test"] * 4, "time": [0.0, 1, 2, 0, 1, 2, 3]}
    ).assign(f0=np.arange(7.0), f1=1.0, label=[0, 0, 0, 0, 1, 1, 0])
    datasets.write_parts(places / "set", table, {"f0": "speed"})
    recordings = {path.stem: pd.read_parquet(path) for path in (places / "set" / "recordings").iterdir()}
    assert {name: rows.to_dict("list") for name, rows in recordings.items()} == {
        "a.test": {"time_s": [0, 1, 2, 3], "speed": [3, 4, 5, 6]},
        "b.train": {"time_s": [0, 1, 2], "speed": [0, 1, 2]},
    }
    events = pd.read_parquet(places / "set" / "events.parquet")
    assert events.to_dict("list") == {"recording": ["a.test"], "start_s": [1], "end_s": [2], "kind": ["anomaly"]}


def test_css_drive_keeps_the_raw_logs_and_their_clock(prepared):
    folder = prepared("css_drive")
    assert len(list((folder / "raw").rglob("*.MF4"))) == 5
    assert (folder / "raw" / "canmod-gps.dbc").is_file()
    later = read_log(folder / "recordings" / "00000164_00000005-60FEB5A8.parquet")
    assert later.start == pd.Timestamp("2021-07-26T04:40:54Z")
    assert later["obd_rpm"].time_s[0] == pytest.approx(2345.7, abs=0.1)


@pytest.mark.slow
def test_carobd_follows_the_run_time_of_the_engine(prepared):
    hours = 0.0
    for path in (prepared("carobd") / "recordings").iterdir():
        table = pd.read_parquet(path, columns=["time_s", "engine_run_time"])
        run_time = table["engine_run_time"]
        running = run_time.diff().cumsum().fillna(0) > 0
        late = (table["time_s"] - run_time)[running]
        assert late.max() - late.min() < 16  # the clock of the ECU moves in steps, and logging stalls now and then
        hours += table["time_s"].iloc[-1] / 3600
    assert hours == pytest.approx(41.4, abs=0.1)


@pytest.mark.parametrize(("name", "tables"), [("adbench", 21), ("oddbench", 60)])
def test_tabular_sets_are_rows_with_labels(prepared, name, tables):
    paths = list(prepared(name).glob("*.npz"))
    assert len(paths) == tables
    for path in paths:
        with np.load(path) as arrays:
            assert len(arrays["X"]) == len(arrays["y"])
            assert set(np.unique(arrays["y"])) == {0, 1}


def test_classes_of_scikit_learn_need_no_source():
    folder, unknown = datasets.get_dataset("classes"), {}
    for path in folder.glob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert ("one_unit" in arrays) == path.stem.startswith("digits")
            unknown[path.stem] = int(arrays["y"].sum())
    assert len(unknown) == 18
    assert unknown["digits-3"] == 183
    assert unknown["breast_cancer-0"] == 212


def test_the_plant_has_normal_rows_to_learn_and_faults_from_row_160(prepared):
    rows = pd.read_parquet(prepared("tep") / "tep.parquet")
    learned = rows[rows["split"] == "train"]
    assert set(learned["series"]) == {"d00"}
    assert len(learned) == 500
    faults = rows[rows["series"] != "d00"].groupby("series")["label"]
    assert faults.ngroups == 10
    assert all(label.tolist() == [0] * 160 + [1] * 800 for _, label in faults)


# --- source files without a checksum ---------------------------------------------------


def authors_csv(rows, path):
    """Write a SKAB experiment as its authors do."""
    stamps = pd.Timestamp("2020-03-09 10:14:33") + pd.to_timedelta(rows["time"], unit="s")
    names = {"Volume_Flow_RateRMS": "Volume Flow RateRMS", "label": "anomaly"}
    kept = rows.drop(columns=["series", "time", "first400", "split"]).rename(columns=names)
    kept.insert(0, "datetime", stamps)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept.to_csv(path, sep=";", index=False)


@pytest.mark.parametrize("damage", [False, True])
def test_files_without_a_checksum_are_checked_by_what_is_made_of_them(places, monkeypatch, damage):
    converted = next((root / "skab" / "skab.parquet" for root in datasets._source_roots()), None)
    if converted is None or not converted.is_file():
        pytest.skip("the SKAB series are not on this machine")
    for name, rows in pd.read_parquet(converted).groupby("series"):
        authors_csv(rows, places / "authors" / "skab" / f"{name}.csv")
    monkeypatch.setattr(datasets, "_source_roots", lambda: iter([places / "authors"]))
    if damage:
        changed = places / "authors" / "skab" / "valve2" / "3.csv"
        changed.write_text(changed.read_text().replace(";32.0;", ";33.0;", 1))
        with pytest.raises(ValueError, match=r"data set skab has another content.*Remove .*skab and try again"):
            datasets.get_dataset("skab")
        assert not is_prepared("skab")
    else:
        assert len(list((datasets.get_dataset("skab") / "recordings").iterdir())) == 35


def test_original_obd_files_are_read_as_their_authors_write_them(sources):
    (sources / "kit_obd").mkdir()
    kit, car = datasets.load_recipe("kit_obd"), datasets.load_recipe("carobd")
    header = ",".join(["Time", *kit.SIGNALS])
    (sources / "kit_obd" / "a.csv").write_text(f"{header}\n17:58:02.288,89,,,,,,,,,\n17:58:02.379,89,98.0,,,,,,,,\n")
    rows = kit._read("a")
    assert rows["time_s"].tolist() == [0.0, 0.091]
    assert rows["map_kpa"].iloc[1] == 98.0
    assert np.isnan(rows["rpm"]).all()
    (sources / "carobd").mkdir()
    header = ",".join(f"{name.upper()} ()" for name in car.UNITS)
    (sources / "carobd" / "b.csv").write_text(f"{header}\n" + ", ".join(f"{n}.5" for n in range(27)) + ",\n")
    assert car._read("b").iloc[0].tolist() == [n + 0.5 for n in range(27)]


def test_a_missing_conversion_says_where_to_put_it(sources):
    with pytest.raises(
        ConnectionError, match=r"smap/smap\.parquet is not on this machine.*unpublished.*ANOMALYVAE_DATA"
    ):
        datasets.get_dataset("smap")


def test_labelled_rows_become_intervals():
    time_s = np.array([0.0, 1.0, 3.0, 4.0, 5.0])
    runs = datasets.labelled_intervals(time_s, np.array([1, 0, 1, 1, 0]))
    assert runs.to_numpy().tolist() == [[0.0, 0.0], [3.0, 4.0]]
    assert datasets.labelled_intervals(time_s, np.ones(5)).to_numpy().tolist() == [[0.0, 5.0]]
    assert datasets.labelled_intervals(time_s, np.zeros(5)).empty

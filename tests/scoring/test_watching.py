"""What a watcher says of a recording while it is written is what `score_folder` says of it afterwards."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalyvae import VAEOutlierDetector, WindowRecipe, save, score_folder
from anomalyvae.recordings import following, read_windows
from anomalyvae.scoring import Watcher

RECIPE = WindowRecipe(("a", "b"), rate_hz=10, length_s=1, stride_s=0.2, max_gap_s=0.5, where="speed > 1")


def drive(rows, seed):
    """Rows at 30 Hz, with a gap, a stop, and something strange in one signal."""
    rng = np.random.default_rng(seed)
    time_s = np.round(np.arange(rows) / 30 + 5.0 * (np.arange(rows) > rows // 3), 4)
    frame = pd.DataFrame({"time_s": time_s, "a": np.sin(time_s) + 0.05 * rng.normal(size=rows)})
    frame["b"] = np.cos(time_s) + 0.05 * rng.normal(size=rows)
    frame["speed"] = np.where(np.abs(np.arange(rows) - rows // 2) < 20, 0.0, 5.0)
    frame.loc[rows - 90 : rows - 60, "b"] += 5
    return frame


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watch")
    paths = []
    for seed in range(3):
        paths.append(folder / f"{seed}.csv")
        drive(1500, seed)[:1400].to_csv(paths[-1], index=False)
    windows = read_windows(paths, RECIPE)
    detector = VAEOutlierDetector(random_state=0, max_epochs=10, hidden=(16,)).fit(windows.rows)
    return save(detector, folder / "model", recipe=RECIPE.to_dict(), precision="double")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A recording, and its scores when it was whole."""
    folder = tmp_path_factory.mktemp("finished")
    drive(900, 9).to_csv(folder / "drive.csv", index=False)
    score_folder(model, folder / "drive.csv", folder / "out", alarms={"per_hour": 360}, tail="pareto")
    return folder / "drive.csv", pd.read_parquet(folder / "out" / "drive.csv.parquet")


def table(scores):
    return pd.DataFrame(scores).sort_values("start_s", ignore_index=True)


def assert_same(found, scored):
    assert found["recording"].unique().tolist() == ["drive"]
    np.testing.assert_array_equal(found[["start_s", "end_s"]], scored[["start_s", "end_s"]])
    np.testing.assert_allclose(found["anomaly_score"], scored["anomaly_score"], rtol=1e-12)
    np.testing.assert_allclose(found["p_value"], scored["p_value"], rtol=1e-9)
    np.testing.assert_array_equal(found["is_outlier"], scored["is_outlier"])


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(500, 9000), min_size=1, max_size=12))
def test_through_a_pipe_in_pieces_of_any_size(model, finished, sizes):
    path, scored = finished
    data = path.read_bytes()
    watcher = Watcher(model, alarms={"per_hour": 360}, tail="pareto")
    read, write = os.pipe()

    class Slow(following.Feed):
        """Writes the next piece when the last was read."""

        begin = turn = 0

        def read(self):
            nonlocal write
            if write and self.begin >= len(data):
                write = os.close(write)
            if write:
                self.turn += 1
                self.begin += os.write(write, data[self.begin : self.begin + sizes[self.turn % len(sizes)]])
            return super().read()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomalyvae.scoring.watch.Feed", Slow)
        found = table(watcher.pipe(read, "drive"))
    os.close(read)
    assert_same(found, scored)
    assert (watcher.windows, watcher.flagged, watcher.left_out) == (len(scored), scored["is_outlier"].sum(), 0)
    assert watcher.flagged > 0


@pytest.mark.parametrize("chunk", [400, 65536])
def test_a_file_that_is_there_already(model, finished, monkeypatch, chunk):
    monkeypatch.setattr(following, "CHUNK", chunk)
    path, scored = finished
    watcher = Watcher(model, alarms={"per_hour": 360}, tail="pareto", timeout_s=0.05, newest_first=True)
    scores = list(watcher.file(path))
    assert scores[0].start_s > scored["start_s"].iloc[-3]  # the newest first; the last waits for the end
    assert_same(table(scores), scored)
    assert watcher.timed_out
    assert watcher.waiting == 0


def test_the_signal_that_is_to_blame(model, finished):
    scores = table(Watcher(model, timeout_s=0.05).file(finished[0]))
    strangest = scores.loc[scores["anomaly_score"].idxmax(), "signals"]
    assert next(iter(strangest)) == "b"
    assert strangest["b"] > 0.7
    assert all(sum(shares.values()) == pytest.approx(1) for shares in scores["signals"] if shares)
    assert all(list(shares.values()) == sorted(shares.values(), reverse=True) for shares in scores["signals"])


def test_a_file_that_is_replaced_or_cut_is_begun_anew(model, finished, monkeypatch):
    path, scored = finished
    growing = path.with_name("growing.csv")
    growing.write_bytes(path.read_bytes())

    def replaced():
        growing.rename(path.with_name("old"))
        growing.write_bytes(path.read_bytes())

    def cut():
        growing.write_text("time_s,a,b,speed\n")

    steps = [replaced, cut]
    wait = following.GrowingFile.wait
    monkeypatch.setattr(following.GrowingFile, "wait", lambda self: steps.pop(0)() if steps else wait(self))
    messages = []
    watcher = Watcher(model, timeout_s=1.0, notify=messages.append)
    found = pd.DataFrame(watcher.file(growing))
    assert messages == [f"{growing} was {how}: it is read from its beginning" for how in ("replaced", "cut")]
    counts = found["recording"].value_counts()
    # How a file ended that was cut is not known: its last window may have waited for more.
    assert counts["growing"] == len(scored)
    assert counts["growing#2"] in (len(scored), len(scored) - 1)
    assert set(counts.index) == {"growing", "growing#2"}


def test_what_cannot_be_watched_is_refused(model, detector, tmp_path):
    plain = save(detector, tmp_path / "plain")
    with pytest.raises(ValueError, match=r"is a model of plain rows, expected one of windows\. Score tables with it"):
        Watcher(plain)
    with pytest.raises(ValueError, match="expected alpha or per_hour: fdr needs all rows at once"):
        Watcher(model, alarms={"fdr": 0.1})
    watcher = Watcher(model)
    with pytest.raises(ValueError, match=r"a Parquet file, which cannot grow; expected CSV\. Use anomalyvae score"):
        next(watcher.file(tmp_path / "drive.parquet"))
    with pytest.raises(FileNotFoundError):
        next(watcher.file(tmp_path / "nowhere.csv"))
    (tmp_path / "drive.csv").write_text("time_s,a,speed\n1,2,3\n")
    with pytest.raises(ValueError, match=r"drive\.csv has no column for signal 'b'"):
        next(watcher.file(tmp_path / "drive.csv"))


def test_a_signal_in_another_unit_is_refused(tmp_path):
    paths = [tmp_path / f"{seed}.csv" for seed in range(3)]
    for seed, path in enumerate(paths):
        drive(900, seed).rename(columns={"a": "a [m/s]"}).to_csv(path, index=False)
    windows = read_windows(paths, RECIPE)
    detector = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,)).fit(windows.rows)
    bundle = save(detector, tmp_path / "model", recipe=RECIPE.to_dict(), units=windows.units)
    assert json.loads((bundle / "card.json").read_text())["units"] == {"a": "m/s"}
    (tmp_path / "drive.csv").write_text("time_s,a [km/h],b,speed\n")
    with pytest.raises(ValueError, match=r"Signal 'a' is in km/h, expected m/s, as in training\. Convert it\."):
        next(Watcher(bundle).file(tmp_path / "drive.csv"))


def test_a_restart_goes_on_after_the_windows_that_were_printed(model, finished, tmp_path):
    path, scored = finished
    data, growing, keeps = path.read_bytes(), tmp_path / "drive.csv", tmp_path / "printed.json"
    growing.write_bytes(data[: len(data) // 2])
    promise = {"alarms": {"per_hour": 360}, "tail": "pareto", "timeout_s": 0.05}

    def watched(stop=None):
        watcher = Watcher(model, resume=keeps, **promise)
        rows = []
        for score in watcher.file(growing):
            if len(rows) == stop:
                break  # as a kill before this one is printed
            rows.append(score)
        return rows, watcher

    first, watcher = watched(stop=7)
    assert not watcher.goes_on or keeps.exists()
    second, _ = watched()
    growing.write_bytes(data)
    third, _ = watched()
    assert len(first) == 7
    assert second
    assert third
    assert_same(pd.DataFrame(first + second + third), scored)  # in order, each once
    none, watcher = watched()
    assert none == []
    assert (watcher.windows, watcher.without) == (0, "")


def test_a_restart_knows_another_file_of_that_name(model, finished, tmp_path):
    path, _ = finished
    growing, keeps, said = tmp_path / "drive.csv", tmp_path / "printed.json", []
    options = {"resume": keeps, "timeout_s": 0.05}
    growing.write_bytes(path.read_bytes())
    list(Watcher(model, **options).file(growing))
    other = path.read_text().splitlines(keepends=True)
    for name, lines in (("drive#2", [other[0], *other[50:]]), ("drive#3", other[:-400])):  # rotated; cut
        growing.write_text("".join(lines))
        found = pd.DataFrame(Watcher(model, notify=said.append, **options).file(growing))
        assert set(found["recording"]) == {name}
        assert len(found) > 10
        assert said.pop().startswith(f"{growing}: its earlier windows are of another file")
        assert list(Watcher(model, notify=said.append, **options).file(growing)) == []
        assert f"{growing}: it goes on after the window of {name} that starts at " in said.pop()


def test_what_cannot_go_on_is_refused(model, detector, finished, tmp_path):
    path, _ = finished
    keeps = tmp_path / "printed.json"
    with pytest.raises(ValueError, match=r"which needs the order of time\. Leave one of them out"):
        Watcher(model, resume=keeps, newest_first=True)
    options = {"resume": keeps, "timeout_s": 0.05}
    with pytest.raises(ValueError, match="a pipe, which cannot be read again"):
        next(Watcher(model, **options).pipe(0))
    with pytest.raises(FileNotFoundError, match=r"none does not exist, expected a folder for printed\.json"):
        Watcher(model, **options | {"resume": tmp_path / "none" / "printed.json"})
    list(Watcher(model, **options).file(path))
    (tmp_path / "other.csv").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="has the windows of drive, expected those of other"):
        next(Watcher(model, **options).file(tmp_path / "other.csv"))
    whole = json.loads(keeps.read_text())
    for damage in ({"place": "1"}, {"start_s": None}, {"more": 1}, {"number": True}):
        keeps.write_text(json.dumps(whole | damage))
        with pytest.raises(ValueError, match="does not say which windows were printed, or is damaged"):
            Watcher(model, **options)
    keeps.write_text(json.dumps(whole)[:40])
    with pytest.raises(ValueError, match="damaged"):
        Watcher(model, **options)
    keeps.write_text(json.dumps(whole | {"model_id": "another"}))
    with pytest.raises(ValueError, match="has the windows of model another, expected those of"):
        Watcher(model, **options)

"""Scores per tick of a folder of recordings, folded from the scores of windows: the same in batches of any size."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe, save, score_folder
from anomalyvae.cli import main
from anomalyvae.recordings import read_windows, windows
from anomalyvae.recordings.folding import MODES, fold_windows
from anomalyvae.review.picking import flagged_events

RECIPE = WindowRecipe(("a", "b"), rate_hz=10, length_s=2, stride_s=0.2, max_gap_s=0.5)
EVENT = (60.0, 62.0)


def drive(rows, seed, event=False):
    rng = np.random.default_rng(seed)
    time_s = np.round(np.arange(rows) / 10 + 20.0 * (np.arange(rows) > rows // 3), 4)
    frame = pd.DataFrame({"time_s": time_s, "a": rng.normal(size=rows), "b": rng.normal(size=rows)})
    if event:
        frame.loc[frame["time_s"].between(EVENT[0], EVENT[1], inclusive="left"), "a"] += 12
    return frame


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ticks")
    for seed in range(3):
        drive(900, seed).to_parquet(folder / f"{seed}.parquet")
    windows = read_windows(sorted(folder.glob("*.parquet")), RECIPE)
    detector = VAEOutlierDetector(random_state=0, max_epochs=5, hidden=(16,)).fit(windows.rows)
    return save(detector, folder / "model", recipe=RECIPE.to_dict(), precision="double")


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drives")
    drive(900, 7, event=True).to_parquet(folder / "event.parquet")
    drive(400, 8).to_csv(folder / "calm.csv", index=False)
    drive(10, 9).to_parquet(folder / "short.parquet")
    return folder


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alarms", [None, {"per_hour": 360}])
def test_ticks_are_folded_windows(model, drives, tmp_path, mode, alarms):
    score_folder(model, drives, tmp_path / "windows", alarms=alarms)
    by_tick = score_folder(model, drives, tmp_path / "ticks", alarms=alarms, per_tick=mode)
    assert (by_tick["scored"], by_tick["failed"]) == (2, 1)
    for name in ("event.parquet", "calm.csv.parquet"):
        wide, ticks = pd.read_parquet(tmp_path / "windows" / name), pd.read_parquet(tmp_path / "ticks" / name)
        assert list(ticks) == list(wide)
        expected = fold_windows(wide[["recording", "start_s"]], wide["anomaly_score"], RECIPE, mode=mode)
        np.testing.assert_array_equal(ticks[["start_s", "end_s"]], expected[["start_s", "end_s"]])
        np.testing.assert_allclose(ticks["anomaly_score"], expected["anomaly_score"], rtol=1e-12)
        p = fold_windows(wide[["recording", "start_s"]], wide["p_value"], RECIPE, mode=mode)["anomaly_score"]
        np.testing.assert_allclose(ticks["p_value"], (2 * p).clip(upper=1) if mode == "offline" else p, rtol=1e-12)
        if mode == "causal":
            flags = fold_windows(wide[["recording", "start_s"]], wide["is_outlier"] * 1.0, RECIPE, mode=mode)
            np.testing.assert_array_equal(ticks["is_outlier"], flags["anomaly_score"] == 1)
        elif alarms:
            np.testing.assert_array_equal(ticks["is_outlier"], ticks["p_value"] <= 360 / 18000 * (1 + 1e-9))
        assert ticks["is_outlier"].any() or not name.startswith("event")


@pytest.mark.parametrize("mode", MODES)
def test_batches_leave_no_trace(model, drives, tmp_path, monkeypatch, mode):
    score_folder(model, drives, tmp_path / "whole", per_tick=mode, feature_scores=True)
    monkeypatch.setattr(windows, "_BATCH_CELLS", 7 * len(RECIPE.columns))
    score_folder(model, drives, tmp_path / "batches", per_tick=mode, feature_scores=True)
    for name in ("event.parquet", "calm.csv.parquet"):
        whole, batches = (pq.read_table(tmp_path / folder / name).to_pandas() for folder in ("whole", "batches"))
        pd.testing.assert_frame_equal(whole, batches, rtol=1e-12)
    assert "feature_score.a" in whole


def test_an_event_is_found_where_it_is(model, drives, tmp_path):
    score_folder(model, drives / "event.parquet", tmp_path / "windows", alarms={"per_hour": 60}, tail="pareto")
    score_folder(
        model, drives / "event.parquet", tmp_path / "ticks", alarms={"per_hour": 60}, tail="pareto", per_tick="offline"
    )
    by_window, by_tick = (
        flagged_events(pd.read_parquet(tmp_path / folder / "event.parquet")).iloc[0] for folder in ("windows", "ticks")
    )
    error = [abs(event["start_s"] - EVENT[0]) + abs(event["end_s"] - EVENT[1]) for event in (by_window, by_tick)]
    assert error[1] < error[0]
    assert EVENT[0] <= by_tick["peak_start_s"] < EVENT[1]


def test_scores_per_tick_and_per_window_are_not_mixed(model, drives, tmp_path):
    score_folder(model, drives, tmp_path / "out", per_tick="causal")
    assert score_folder(model, drives, tmp_path / "out", per_tick="causal")["kept"] == 2
    with pytest.raises(FileExistsError, match="has scores of other settings"):
        score_folder(model, drives, tmp_path / "out")


def test_errors_say_what_to_do(model, detector, drives, tmp_path):
    with pytest.raises(ValueError, match=r"Got per_tick='mean', expected 'offline' or 'causal'\. Pass one of them\."):
        score_folder(model, drives, tmp_path / "out", per_tick="mean")
    plain = save(detector, tmp_path / "plain")
    with pytest.raises(ValueError, match=r"Got per_tick='causal' with a model of plain rows, expected one of windows"):
        score_folder(plain, drives, tmp_path / "out", per_tick="causal")


def test_from_the_command_line(model, drives, tmp_path, capsys):
    arguments = [str(drives / "event.parquet"), str(drives / "calm.csv"), "--model", str(model), "--quiet"]
    source, options = arguments[:2], arguments[2:]
    assert main(["score", *source, str(tmp_path / "out"), *options, "--per-tick", "causal"]) == 0
    promise = ["--alarms", "per_hour=360", "--tail", "pareto"]
    assert main(["score", *source, str(tmp_path / "one.parquet"), *options, *promise, "--per-tick", "offline"]) == 0
    one = pd.read_parquet(tmp_path / "one.parquet")
    assert one["recording"].unique().tolist() == ["calm", "event"]
    np.testing.assert_array_equal(one["is_outlier"], one["p_value"] <= 360 / 18000 * (1 + 1e-9))
    separate = pd.read_parquet(tmp_path / "out" / "event.parquet")
    np.testing.assert_array_equal(one.loc[one["recording"] == "event", "start_s"], separate["start_s"])
    assert main(["score", *source, str(tmp_path / "two.csv"), *options, "--per-tick", "offline"]) == 0
    with pytest.raises(SystemExit):
        main(["score", *source, str(tmp_path / "out"), *options, "--per-tick", "mean"])
    assert (
        main(["score", *source, str(tmp_path / "x.csv"), *options, "--per-tick", "causal", "--alarms", "fdr=0.1"]) == 1
    )
    assert "Got the alarm target fdr=0.1 where rows are scored piece by piece" in capsys.readouterr().err

"""Whole recordings from a folder of scores: the ranking, p-values, reasons, the picture, and drift."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone

from anomalyvae import VAEOutlierDetector, WindowRecipe, save, score_folder
from anomalyvae.bundle import read_card
from anomalyvae.calibration import caution_of
from anomalyvae.cli import main
from anomalyvae.cli.console import writer
from anomalyvae.fleet import Fleet
from anomalyvae.models import load
from anomalyvae.review import Queue, flag_folder
from anomalyvae.review.flagging import in_words
from anomalyvae.scoring import Scorer, ranking
from anomalyvae.scoring.drift import drift, drift_in_words
from anomalyvae.scoring.ranking import rank, read_scores
from anomalyvae.train import train

RECIPE = WindowRecipe(("x", "y"), rate_hz=5, length_s=2.0, stride_s=2.0, max_gap_s=1.0)
DETECTOR = VAEOutlierDetector(random_state=0, max_epochs=4, hidden=(8,))


def drive(folder, name, seed, change=lambda table: table, seconds=120, start="2026-01-05T08:00:00"):
    rng = np.random.default_rng(seed)
    time = pd.date_range(start, periods=5 * seconds, freq="200ms", tz="UTC")
    phase = np.arange(5 * seconds) / 10 + rng.uniform(0, 6)
    x = np.sin(phase) + 0.1 * rng.normal(size=len(phase))
    y = np.cos(phase) + 0.1 * rng.normal(size=len(phase))
    folder.mkdir(exist_ok=True, parents=True)
    change(pd.DataFrame({"time": time, "x": x, "y": y})).to_parquet(folder / f"{name}.parquet", index=False)


def burst(table):
    table.loc[200:214, ["x", "y"]] += np.where(np.arange(15) % 2, 0.4, -0.4)[:, None]
    return table


def mild(table):
    table["y"] = table["y"] * 1.3 + 0.3
    return table


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Twelve training drives and their model; two odd drives, a usual one and two learned ones, scored."""
    home = tmp_path_factory.mktemp("fleet")
    for number in range(12):
        drive(home / "learned", f"d{number:02d}", number, start=f"2026-01-{number + 5:02d}T08:00:00")
    train(sorted((home / "learned").glob("*.parquet")), RECIPE, DETECTOR, home / "model")
    drive(home / "new", "burst", 101, burst, start="2026-02-01")
    drive(home / "new", "mild", 102, mild, start="2026-02-02")
    drive(home / "new", "usual", 103, start="2026-02-03")
    for number in (0, 1):
        shutil.copy(home / "learned" / f"d{number:02d}.parquet", home / "new")
    score_folder(home / "model", home / "new", home / "scores")
    return home


def test_odd_drives_come_first_with_their_p_values_and_reasons(home):
    table = rank(read_scores(home / "scores"))
    assert set(table["recording"][:2]) == {"burst", "mild"}
    assert table["place"].tolist() == [1, 2, 3, 4, 5]
    found = table.set_index("recording")
    assert found.loc[["burst", "mild"], "p_value"].tolist() == pytest.approx([1 / 13] * 2)
    assert found.loc["usual", "unlike"] < 0.5 * found.loc[["burst", "mild"], "unlike"].min()
    assert found.loc["burst", "reason"] == "a short event"
    assert 36 <= found.loc["burst", "peak_s"] <= 42.9
    assert found.loc["mild", "reason"] != "a short event"
    assert found.loc["mild", "signals"].startswith("y ")
    assert found.loc["burst", "start"] == pd.Timestamp("2026-02-01", tz="UTC")
    scores = pd.read_parquet(home / "scores" / "mild.parquet")
    assert found.loc["mild", "share_flagged"] == pytest.approx(scores["is_outlier"].mean())


def test_learned_drives_are_ranked_by_the_fit_that_left_them_out(home):
    found = rank(read_scores(home / "scores")).set_index("recording")
    assert found["learned"].to_dict() == {"burst": False, "mild": False, "usual": False, "d00": True, "d01": True}
    known = Fleet.from_dict(read_card(home / "model")["fleet"])
    assert len(known) == 12
    assert caution_of(read_card(home / "model")).startswith("12 recordings can show no p-value below")
    assert found.loc["d00", "p_value"] == known.p_value(known.figures[0], 0)


@pytest.mark.parametrize("target", ["scores", "scores.parquet", "scores.csv"])
def test_a_new_drive_with_the_name_and_length_of_a_learned_one_is_new(home, tmp_path, target):
    drive(tmp_path / "new", "d00", 201, burst)
    shutil.copy(home / "learned" / "d01.parquet", tmp_path / "new")
    paths = (tmp_path / "new", tmp_path / target, "--model", home / "model", "--quiet")
    assert main(["score", *map(str, paths)]) == 0
    found = rank(read_scores(tmp_path / target, home / "model")).set_index("recording")
    assert found["learned"].to_dict() == {"d00": False, "d01": True}
    assert found.loc["d00", "p_value"] == pytest.approx(1 / 13)


def test_figures_of_a_file_of_scores_are_those_of_its_table(home):
    note = json.loads(pq.read_metadata(home / "scores" / "mild.parquet").metadata[b"anomalyvae"])["recording"]
    scores = pd.read_parquet(home / "scores" / "mild.parquet")["anomaly_score"].to_numpy()
    assert note["figures"][:2] == pytest.approx([np.sort(scores)[-3:].mean(), scores.mean()])
    assert len(note["figures"]) == 6
    assert note["windows"] == len(scores)
    assert "feature_score.x" not in pq.read_schema(home / "scores" / "mild.parquet").names


@pytest.mark.parametrize("per_tick", ["offline", "causal"])
def test_scores_per_tick_give_the_same_ranking(home, tmp_path, per_tick):
    score_folder(home / "model", home / "new", tmp_path / "ticks", per_tick=per_tick)
    ours, theirs = rank(read_scores(tmp_path / "ticks")), rank(read_scores(home / "scores"))
    pd.testing.assert_frame_equal(ours.drop(columns="share_flagged"), theirs.drop(columns="share_flagged"))


def test_a_table_of_scores_is_ranked_with_its_model(home, tmp_path, capsys):
    table = pd.concat([pd.read_parquet(file) for file in sorted((home / "scores").glob("*.parquet"))])
    table.to_parquet(tmp_path / "scores.parquet", index=False)
    assert main(["rank", str(tmp_path / "scores.parquet"), "--model", str(home / "model")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines[1:3]} == {"burst", "mild"}
    assert main(["rank", str(tmp_path / "scores.parquet")]) == 0
    said = capsys.readouterr()
    assert "Pass the model (--model)" in said.err
    assert "without p-values" in said.err
    assert "burst" in said.out
    assert main(["drift", str(tmp_path / "scores.parquet")]) == 1
    assert "Pass the model (--model)" in capsys.readouterr().err


def test_names_in_a_csv_of_scores_are_those_of_the_recordings(home, tmp_path):
    names = ["007", "1e5", "=1+1", "true", "-3", "drive"]
    parts = [pd.read_parquet(next((home / "scores").glob("*.parquet"))).assign(recording=name) for name in names]
    writer(str(tmp_path / "scores.csv"))(pd.concat(parts, ignore_index=True))
    assert sorted(rank(read_scores(tmp_path / "scores.csv", home / "model"))["recording"]) == sorted(names)
    writer(str(tmp_path / "scores.csv"))(parts[0].assign(recording="NA"))
    with pytest.raises(ValueError, match="without a name in the column recording"):
        read_scores(tmp_path / "scores.csv")


def test_a_bundle_of_before_still_scores_and_says_that_it_has_no_p_values(home, tmp_path, capsys):
    save(load(home / "model"), tmp_path / "old", recipe=RECIPE.to_dict())
    score_folder(tmp_path / "old", home / "new", tmp_path / "scores")
    assert main(["rank", str(tmp_path / "scores"), "--out", str(tmp_path / "ranking.csv")]) == 0
    assert "without p-values" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "ranking.csv")
    assert table["p_value"].isna().all()
    assert set(table["recording"][:2]) == {"burst", "mild"}
    assert main(["drift", str(tmp_path / "scores")]) == 1
    assert "Fit it again" in capsys.readouterr().err


def test_a_damaged_fleet_is_refused(home, tmp_path):
    shutil.copytree(home / "scores", tmp_path / "scores")
    summary = json.loads((tmp_path / "scores" / "_summary.json").read_text())
    summary["fleet"]["windows"] = [1]
    (tmp_path / "scores" / "_summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="is damaged: its training recordings do not fit together"):
        read_scores(tmp_path / "scores")
    assert Scorer(home / "model").metadata["fleet"]["signals"] == ["x", "y"]


def test_what_is_printed_says_when_an_event_was(home, tmp_path, capsys):
    assert main(["rank", str(home / "scores")]) == 0
    burst = next(line for line in capsys.readouterr().out.splitlines() if " burst " in line)
    assert "a short event at " in burst
    assert ", 2026-02-01 00:00:" in burst
    with Queue(tmp_path / "queue.db") as queue:
        picked = flag_folder(home / "scores", home / "model", queue, drives=1, alarms={"alpha": 0.2})
    times = picked.picked.set_index("recording")["time"]
    expected = pd.Timestamp("2026-02-01" if times.index[0] == "burst" else "2026-02-02", tz="UTC")
    assert ((times - expected).dt.total_seconds() == picked.picked["start_s"].to_numpy()).all()
    assert f"({times.iloc[0]:%Y-%m-%d %H:%M:%S} UTC)" in in_words(picked)


def test_the_picture_and_the_table(home, tmp_path, capsys):
    picture, out = tmp_path / "fleet.png", tmp_path / "ranking.csv"
    assert main(["rank", str(home / "scores"), "--chart", str(picture), "--out", str(out), "--quiet"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(out)["place"].tolist() == [1, 2, 3, 4, 5]
    assert main(["rank", str(home / "scores"), "--chart", str(tmp_path / "fleet.jpg")]) == 1
    assert "expected a name that ends in .png" in capsys.readouterr().err


def test_drift_is_said_in_the_order_of_time_and_only_for_new_drives(home, tmp_path, capsys):
    found = drift(read_scores(home / "scores"))
    assert found["recording"].tolist() == ["burst", "mild", "usual"]
    assert not found["alarm"].any()
    for number in range(25):  # named against the order of time
        drive(tmp_path / "new", f"z{99 - number}", 200 + number, mild, seconds=60, start=f"2026-03-{number + 1:02d}")
    score_folder(home / "model", tmp_path / "new", tmp_path / "scores")
    found = drift(read_scores(tmp_path / "scores"))
    assert found["recording"].tolist() == [f"z{99 - number}" for number in range(25)]
    assert found["start"].is_monotonic_increasing
    table = pd.concat([pd.read_parquet(file) for file in sorted((tmp_path / "scores").glob("*.parquet"))])
    for name in ("table.parquet", "table.csv"):
        writer(str(tmp_path / name))(table)
        same = drift(read_scores(tmp_path / name, home / "model"))
        pd.testing.assert_frame_equal(same[["recording", "start"]], found[["recording", "start"]], check_dtype=False)
    at = int(found["alarm"].argmax())
    assert 2 <= at <= 20
    assert found["alarm"][at:].all()
    assert f"Retrain: with recording z{99 - at} (2026-03-{at + 1:02d}" in drift_in_words(found)
    assert main(["drift", str(tmp_path / "scores"), "--out", str(tmp_path / "drift.csv")]) == 6
    assert "Retrain" in capsys.readouterr().out
    summary = json.loads((tmp_path / "scores" / "_summary.json").read_text())["drift"]
    assert (summary["recordings"], summary["alarm"], summary["said"]) == (25, True, drift_in_words(found))
    assert main(["score", str(tmp_path / "new"), str(tmp_path / "scores"), "--model", str(home / "model")]) == 0
    assert "Retrain: with recording" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "drift.csv")["evidence"].max() > 2.3


def test_scores_of_plain_rows_and_of_another_model_are_refused(home, tmp_path):
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])
    save(VAEOutlierDetector(random_state=0, max_epochs=2).fit(rows), tmp_path / "plain")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    score_folder(tmp_path / "plain", tmp_path / "rows.csv", tmp_path / "scores")
    with pytest.raises(ValueError, match="scores of plain rows, expected those of recordings"):
        read_scores(tmp_path / "scores")
    with pytest.raises(ValueError, match="expected the same model"):
        read_scores(home / "scores", tmp_path / "plain")
    with pytest.raises(ValueError, match="has no column recording, start_s"):
        read_scores(tmp_path / "rows.csv")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_scores(tmp_path / "nothing")


def test_scores_of_two_models_are_not_ranked_together(home, tmp_path, monkeypatch):
    """Another run replaces the scores while they are read."""
    score_folder(home / "model", home / "new", tmp_path / "scores")
    other = clone(DETECTOR).set_params(random_state=1, max_epochs=1)
    train(sorted((home / "learned").glob("*.parquet"))[:2], RECIPE, other, tmp_path / "other")
    figures = ranking.of_folder

    def replaced(folder, *given):
        score_folder(tmp_path / "other", home / "new", tmp_path / "scores", overwrite=True)
        return figures(folder, *given)

    monkeypatch.setattr(ranking, "of_folder", replaced)
    with pytest.raises(ValueError, match=r"was scored by another model meanwhile\. Try again when that run has ended"):
        read_scores(tmp_path / "scores")


def test_recordings_without_scores_are_named(home, tmp_path, capsys):
    shutil.copytree(home / "new", tmp_path / "new")
    (tmp_path / "new" / "cut.csv").write_text("time,x,y\n1,2,3\n")
    score_folder(home / "model", tmp_path / "new", tmp_path / "scores")
    for verb in ("rank", "drift"):
        assert main([verb, str(tmp_path / "scores"), "--quiet"]) == 3
        assert "failed: cut.csv has no scores: It has no window" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(anomaly_score="high"), "has text or infinite cells in the column anomaly_score"),
        (lambda t: t.assign(anomaly_score=np.inf), "has text or infinite cells in the column anomaly_score"),
        (
            lambda t: t.assign(model_id=["other", *t["model_id"][1:]]),
            r"scores of 2 models \(other, \w+\), expected",
        ),
        (
            lambda t: pd.concat([t, t[5:7]]),
            r"has 2 windows twice, such as that of recording 'mild' at 10 s\. Leave",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_scores_that_is_not_what_score_wrote_is_refused(home, tmp_path, change, message, suffix):
    table = pd.read_parquet(home / "scores" / "mild.parquet")
    writer(str(tmp_path / f"scores{suffix}"))(change(table))
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / f"scores{suffix}", home / "model")


def test_a_recording_whose_scores_are_all_missing_is_named(home, tmp_path, capsys):
    """Ticks before the first window have none."""
    table = pd.read_parquet(home / "scores" / "mild.parquet")
    some = table.assign(recording="some", anomaly_score=table["anomaly_score"].mask(table.index < 9))
    none = table.assign(recording="none", anomaly_score=np.nan)
    writer(str(tmp_path / "scores.csv"))(pd.concat([some, none], ignore_index=True))
    assert main(["rank", str(tmp_path / "scores.csv"), "--model", str(home / "model")]) == 3
    out, err = capsys.readouterr()
    assert "failed: none has no scores: each of its scores is missing." in err
    assert "some" in out


def test_two_recordings_are_too_few(home, tmp_path):
    train(sorted((home / "learned").glob("d0[01].parquet")), RECIPE, DETECTOR, tmp_path / "model")
    assert read_card(tmp_path / "model")["fleet"] is None


def test_flags_are_picked_from_the_most_unlike_drives_with_events(home, tmp_path):
    with Queue(tmp_path / "all.db") as queue:
        everything = flag_folder(home / "scores", home / "model", queue)
    with Queue(tmp_path / "one.db") as queue:
        one = flag_folder(home / "scores", home / "model", queue, drives=1)
        again = flag_folder(home / "scores", home / "model", queue, drives=1)
        with pytest.raises(ValueError, match="expected at least 1"):
            flag_folder(home / "scores", home / "model", queue, drives=0)
    assert {"burst", "mild"} <= set(everything.picked["recording"])
    most = rank(read_scores(home / "scores"))["recording"][0]
    assert set(one.picked["recording"]) == {most}
    assert again.picked["event_id"].tolist() == one.picked["event_id"].tolist()


def test_a_bad_sensor_explains_an_event_also_in_a_folder_below(home, tmp_path):
    def stuck(table):
        table.loc[200:299, "x"] = 9.0
        return table

    drive(tmp_path / "new", "a", 104, stuck)
    drive(tmp_path / "new" / "below", "a", 105, stuck)
    score_folder(home / "model", tmp_path / "new", tmp_path / "scores")
    with Queue(tmp_path / "queue.db") as queue:
        picked = flag_folder(tmp_path / "scores", home / "model", queue, near=0.0).picked
    found = picked[picked["sensors"].map(lambda names: names == ["x"])]
    assert set(found["recording"]) == {"a", "below/a"}
    assert set(found["cause"]) == {"sensor"}


def test_watch_says_when_recordings_have_left_the_model(home, tmp_path, capsys):
    """Each drive is watched by itself; the file carries what is known from one to the next."""
    said = []
    for number in range(20):
        drive(tmp_path, f"z{number}", 300 + number, mild, start=f"2026-03-{number + 1:02d}", seconds=60)
        pd.read_parquet(tmp_path / f"z{number}.parquet").to_csv(tmp_path / f"z{number}.csv", index=False)
        arguments = ["watch", str(tmp_path / f"z{number}.csv"), "--model", str(home / "model"), "--timeout", "0.05"]
        assert main([*arguments, "--drift", str(tmp_path / "drift.json")]) == 5
        out, err = capsys.readouterr()
        said.append("Retrain: with recording z" in err)
        assert said[-1] or f"{number + 1} new recording" in err
    assert out.splitlines()[1].split(",")[:4] == ["z19", "0.0", "2.0", "2026-03-20 00:00:00+00:00"]
    assert said == sorted(said)
    assert (said[0], said[-1]) == (False, True)
    score_folder(home / "model", str(tmp_path / "*.csv"), tmp_path / "scores")
    found = drift(read_scores(tmp_path / "scores"))
    assert said == found.set_index("recording")["alarm"][[f"z{number}" for number in range(20)]].tolist()
    assert main([*arguments, "--drift", str(tmp_path / "drift.json"), "--newest-first"]) == 1
    assert "which needs the order of time" in capsys.readouterr().err


@pytest.mark.parametrize("per_tick", [None, "offline", "causal"])
def test_scores_carry_the_moment_of_each_window_where_the_recording_has_one(home, tmp_path, per_tick):
    drive(tmp_path / "new", "dated", 1, seconds=20, start="2026-02-01T08:00:00.123456")
    table = pd.read_parquet(tmp_path / "new" / "dated.parquet")
    table.assign(time=np.arange(100) / 5).rename(columns={"time": "time_s"}).to_csv(tmp_path / "new" / "bare.csv")
    score_folder(home / "model", tmp_path / "new", tmp_path / "scores", per_tick=per_tick)
    dated, bare = (pd.read_parquet(tmp_path / "scores" / name) for name in ("dated.parquet", "bare.csv.parquet"))
    expected = pd.Timestamp("2026-02-01T08:00:00.123456", tz="UTC") + pd.to_timedelta(dated["start_s"], unit="s")
    pd.testing.assert_series_equal(dated["time"], expected, check_names=False, check_dtype=False)
    assert bare["time"].isna().all()
    assert pq.read_schema(tmp_path / "scores" / "bare.csv.parquet") == pq.read_schema(
        tmp_path / "scores" / "dated.parquet"
    )

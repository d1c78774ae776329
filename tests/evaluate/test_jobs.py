"""Job files are read strictly, and a run keeps its promises: nothing leaks, nothing is half written."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow.csv import write_csv
from pyarrow.parquet import write_table

from anomalyvae import Scorer, load, metrics
from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.bundle.manifest import windows_by_role
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.evaluate import leave_out as runs
from anomalyvae.evaluate import read_job, report, run_job
from anomalyvae.evaluate.baselines import BASELINES, ONE_LINERS
from anomalyvae.evaluate.job import Data, find_recordings
from anomalyvae.events import touches
from anomalyvae.recordings import WindowRecipe, read_windows
from anomalyvae.review import retrain

PIPELINES = Path(__file__).parents[2] / "pipelines"

JOB = """
[data]
recordings = "{folder}/drive*.csv"
events = "{folder}/events.csv"

[windows]
signals = ["bump", "sway"]
rate_hz = 5
length_s = 2
stride_s = 1
max_gap_s = 1
where = "speed > 2"

[detector]
max_epochs = 3
hidden = [8]
contamination = 0.1
random_state = 0

[evaluation]
alarms_per_hour = 60

[output]
folder = "{folder}/out"
"""


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Three short drives at 5 Hz, each with two marked bumps, and a stop in the middle."""
    folder = tmp_path_factory.mktemp("drives")
    marks = []
    for number in range(3):
        rng = np.random.default_rng(number)
        time_s = np.arange(0, 80, 0.2)
        table = pd.DataFrame({"time_s": time_s, "bump": rng.normal(size=400), "sway": rng.normal(size=400)})
        table["speed"] = np.where((time_s > 40) & (time_s < 50), 0.0, 8.0)
        for mark in (20.0 + number, 65.0):
            table.loc[np.abs(time_s - mark) < 0.7, "bump"] += 12.0
            marks.append((f"drive{number}", mark, "bump"))
        table.to_csv(folder / f"drive{number}.csv", index=False)
    pd.DataFrame(marks, columns=["recording", "time_s", "kind"]).to_csv(folder / "events.csv", index=False)
    return folder


@pytest.fixture
def job_file(drives, tmp_path, write):
    return write(JOB.format(folder=drives).replace(f"{drives}/out", f"{tmp_path}/out"), "bumps.toml")


@pytest.fixture(scope="module")
def done(drives, tmp_path_factory):
    """A job that has run: its result, and the folder that it left."""
    folder = tmp_path_factory.mktemp("done")
    path = folder / "bumps.toml"
    path.write_text(JOB.format(folder=drives).replace(f"{drives}/out", f"{folder}/out"))
    steps = []
    result = run_job(read_job(path), lambda *step: steps.append(step))
    return result, folder / "out", steps


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


# Reading


def test_a_job_becomes_plain_values(job_file):
    job = read_job(job_file)
    assert job.name == "bumps"
    assert job.windows.signals == ("bump", "sway")
    assert job.windows.length_s == 2.0
    assert job.detector == {"max_epochs": 3, "hidden": (8,), "contamination": 0.1, "random_state": 0}
    assert (job.data.tolerance_s, job.evaluation.leave_out) == (0.5, "*")  # defaults


def test_the_output_folder_has_a_default(job_file, tmp_path):
    edited(job_file, f'[output]\nfolder = "{tmp_path}/out"', "")
    assert read_job(job_file).output.folder == "runs/bumps"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[evaluation]", "[evaluatoin]", r"Section \[evaluatoin\] of .*bumps.toml is unknown.*mean 'evaluation'\?"),
        ("events =", "event =", r"Key 'event' in \[data\] of .* is unknown.*Did you mean 'events'\?"),
        ("stride_s", "stride", r"Key 'stride' in \[windows\] of .*Did you mean 'stride_s'\?"),
        ("max_epochs", "maxepochs", r"Key 'maxepochs' in \[detector\] of .*Did you mean 'max_epochs'\?"),
        ("hour = 60", 'hour = "60"', r"\[evaluation\] of .*bumps.toml has alarms_per_hour = '60'. .* valid number"),
        (
            "hour = 60",
            "hour = -3",
            r"In \[evaluation\] of .*: Got alarms_per_hour=-3.0, expected a finite number from 0",
        ),
        ("events =", "tolerance_s = nan\nevents =", r"In \[data\] of .*: Got tolerance_s=nan, expected a finite"),
        ("rate_hz = 5", "rate_hz = true", r"\[windows\] of .* has rate_hz = True. .* valid number. Correct it."),
        ('["bump", "sway"]', '["bump", 3]', r"\[windows\] of .* has signals = \['bump', 3\]. .* valid string"),
        ("[output]", "[health]\nrange.bump = [1]\n[output]", r"\[health\] of .* has range = {'bump': \[1\]}"),
        ("rate_hz = 5\n", "", r"\[windows\] of .*bumps.toml has no rate_hz"),
        ("length_s = 2", "length_s = 2.05", r"In \[windows\] of .*length_s=2.05"),
        ("max_epochs = 3", 'max_epochs = "many"', r"In \[detector\] of .*max_epochs"),
        ("[output]", "[output", r"bumps.toml is not a valid TOML file: "),
    ],
)
def test_a_mistake_in_a_job_file_is_named_with_its_remedy(job_file, old, new, said):
    with pytest.raises(ValueError, match=said):
        read_job(edited(job_file, old, new))


def test_the_project_s_own_job_is_in_order():
    assert read_job(PIPELINES / "potholes.toml").output.folder == "runs/potholes"


def test_a_job_needs_windows(write):
    path = write('[data]\nname = "potholes"\n', "job.toml")
    with pytest.raises(ValueError, match=r"\[windows\] of .*job.toml has no signals, rate_hz"):
        read_job(path)
    path.write_text('data = "potholes"\n')
    with pytest.raises(ValueError, match=r"has data = 'potholes', but data is a section. Write \[data\]"):
        read_job(path)


def test_a_missing_job_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no job file .*nowhere.toml"):
        read_job(tmp_path / "nowhere.toml")


def test_recordings_are_found_by_pattern(drives):
    paths, events = find_recordings(Data(recordings=(f"{drives}/drive[01].csv", f"{drives}/drive1.csv")))
    assert [path.name for path in paths] == ["drive0.csv", "drive1.csv"]
    assert events.empty


def test_what_cannot_be_found_is_named(drives, write):
    with pytest.raises(ValueError, match=r"No file matches recordings = .*lorry"):
        find_recordings(Data(recordings=f"{drives}/lorry*.csv"))
    with pytest.raises(ValueError, match=r"\[data\] has neither name nor recordings"):
        find_recordings(Data())
    bare = write("drive,when\na,1\n", "events.csv")
    with pytest.raises(ValueError, match=r"events.csv has the columns drive, when; .* needs recording and time_s"):
        find_recordings(Data(recordings=f"{drives}/drive0.csv", events=str(bare)))


@pytest.mark.parametrize("name", ["events.csv", "events.parquet"])
def test_events_with_two_columns_of_one_name_are_refused(drives, tmp_path, name):
    path, table = tmp_path / name, pa.table([["drive0"], [1.0], [2.0]], ["recording", "time_s", "time_s"])
    (write_csv if path.suffix == ".csv" else write_table)(table, path)
    with pytest.raises(ValueError, match=rf"{name} has 2 columns named 'time_s'; names must be distinct"):
        find_recordings(Data(recordings=f"{drives}/drive0.csv", events=str(path)))


# Running


def test_a_run_leaves_what_it_says(done):
    result, folder, _ = done
    assert {entry.name for entry in folder.iterdir()} == {
        "scores.parquet", "flags.parquet", "ranking.parquet", "metrics.json", "report.html", "model", "folds",
    }  # fmt: skip
    assert json.loads((folder / "metrics.json").read_text()) == result
    assert list(folder.parent.glob(".out*")) == []


def test_every_recording_is_scored_by_a_model_that_never_saw_it(done, drives):
    result, folder, _ = done
    scores = pd.read_parquet(folder / "scores.parquet")
    assert list(scores) == [
        "recording", "start_s", "end_s", "time", "anomaly_score", "p_value", "is_outlier", "model_id",
    ]  # fmt: skip
    assert scores["time"].isna().all()  # these recordings do not say when they began
    assert scores.groupby("recording")["model_id"].nunique().eq(1).all()
    assert scores["model_id"].nunique() == 3
    assert result["model_id"] not in set(scores["model_id"])
    recipe = read_job(folder.parent / "bumps.toml").windows
    for name, own in scores.groupby("recording"):
        again = load(folder / "folds" / name)
        rows = read_windows(drives / f"{name}.csv", recipe).rows
        np.testing.assert_allclose(again.anomaly_score(rows), own["anomaly_score"], rtol=1e-4, atol=1e-5)
        through_file = Scorer(folder / "folds" / name).score(rows)
        np.testing.assert_array_equal(through_file["anomaly_score"], own["anomaly_score"])
        np.testing.assert_array_equal(through_file["p_value"], own["p_value"])
        np.testing.assert_array_equal(again.predict(rows) == -1, own["is_outlier"])


def test_recordings_are_ranked_in_a_table_and_in_the_report(done):
    result, folder, _ = done
    ranking, scores = pd.read_parquet(folder / "ranking.parquet"), pd.read_parquet(folder / "scores.parquet")
    assert sorted(ranking["recording"]) == ["drive0", "drive1", "drive2"]
    assert ranking["p_value"].min() == pytest.approx(1 / 3)
    of_windows = scores.groupby("recording")
    assert ranking.set_index("recording")["windows"].to_dict() == of_windows.size().to_dict()
    flagged = of_windows["is_outlier"].mean().to_dict()
    assert ranking.set_index("recording")["share_flagged"].to_dict() == pytest.approx(flagged)
    page = (folder / "report.html").read_text()
    assert "<h2>Whole recordings</h2>" in page
    assert result["drift"] is None  # of fewer than six recordings


def test_only_normal_windows_of_the_other_recordings_are_learned(job_file, monkeypatch):
    seen = []
    original = VAEOutlierDetector.fit

    def spy(self, X, **others):
        seen.append((X.copy(), len(set(others["groups"]))))
        return original(self, X, **others)

    monkeypatch.setattr(VAEOutlierDetector, "fit", spy)
    run_job(read_job(job_file))
    assert [groups for _, groups in seen][:4] == [9, 9, 9, 3]  # stretches of two recordings; refits for ranks follow
    assert all(rows.to_numpy().max() < 7 for rows, _ in seen)  # bumps reach 12


def test_figures_are_those_of_the_scores(done, drives):
    result, folder, _ = done
    scores, events = pd.read_parquet(folder / "scores.parquet"), pd.read_csv(drives / "events.csv")
    own = scores[scores["recording"] == "drive1"]
    anomalous = touches(own, events, 0.5)
    fold = result["folds"]["drive1"]
    assert fold["auroc"] == metrics.auroc(anomalous, own["anomaly_score"])
    assert fold["average_precision"] == metrics.average_precision(anomalous, own["anomaly_score"])
    assert fold["event_recall"] == metrics.event_recall(own["anomaly_score"], own, events, 60, 0.5)
    assert (fold["windows"], fold["anomalous"], fold["events"]) == (len(own), anomalous.sum(), 2)
    assert result["mean"]["auroc"] == pytest.approx(np.mean([f["auroc"] for f in result["folds"].values()]))
    assert set(result["baselines"]) == {*BASELINES, *ONE_LINERS}
    for baseline in result["baselines"].values():
        assert set(baseline["folds"]) == set(result["folds"])
        assert set(baseline["mean"]) == {"auroc", "average_precision", "event_recall", "alarms_per_hour"}
    assert result["seed"] == 0
    assert result["mean"]["auroc"] > 0.9  # twelve standard deviations: even three epochs must see that


def test_one_liners_see_samples_whatever_describes_a_window(done, job_file):
    text = job_file.read_text().replace("max_gap_s = 1\n", "max_gap_s = 1\ncoefficients = 1\n")
    job_file.write_text(text.replace("[output]", 'leave_out = "drive1"\n\n[output]'))
    levels = run_job(read_job(job_file))["baselines"]  # a level alone has no variance
    for name in ONE_LINERS:
        assert levels[name]["folds"]["drive1"] == done[0]["baselines"][name]["folds"]["drive1"]
        assert levels[name]["mean"]["auroc"] > 0.8


def test_each_model_says_what_it_learned_and_can_begin_the_loop(done, tmp_path):
    _, folder, _ = done
    for model, recordings in (("model", ["drive0", "drive1", "drive2"]), ("folds/drive1", ["drive0", "drive2"])):
        card, manifest = read_card(folder / model), read_manifest(folder / model)
        assert sorted(manifest["recording"].unique()) == recordings
        windows, role = windows_by_role(manifest, WindowRecipe.from_dict(card["windowing"]))
        assert set(role) == {"normal", "excluded"}  # the bumps are neither learned nor pushed away
        assert (role == "normal").sum() == card["training"]["rows"]
        assert windows.rows[role == "normal"].to_numpy().max() < 7  # bumps reach 12
    noise = manifest.iloc[:1].assign(event_id="e", start_s=0.0, end_s=0.1, verdict="noise")
    made = retrain(noise, folder / "model", tmp_path / "challenger")
    assert 0 < made.normal < read_card(folder / "model")["training"]["rows"]


def test_flags_are_events_with_reasons_highest_score_first(done):
    _, folder, _ = done
    flags, scores = pd.read_parquet(folder / "flags.parquet"), pd.read_parquet(folder / "scores.parquet")
    assert flags["peak_score"].is_monotonic_decreasing
    assert flags["windows"].sum() == scores["is_outlier"].sum()
    assert flags["peak_score"].iloc[0] == scores["anomaly_score"].max()
    top = flags[flags["near_event"]].iloc[0]
    assert top["signals"][0] == "bump"
    assert sum(top["shares"]) == pytest.approx(1)


def test_no_window_is_scored_where_the_condition_fails(done):
    scores = pd.read_parquet(done[1] / "scores.parquet")
    assert not ((scores["end_s"] > 41) & (scores["start_s"] < 50)).any()


def test_progress_counts_to_the_end(done):
    _, _, steps = done
    assert [done for done, _, _ in steps] == list(range(1, 7))
    assert {total for _, total, _ in steps} == {6}


def test_a_second_run_gives_the_same_and_replaces_the_first(done, job_file, tmp_path):
    first, folder, _ = done
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out" / "scores.parquet").write_bytes(b"old")
    again = run_job(read_job(job_file))
    for key in ("mean", "baselines", "model_id"):
        assert again[key] == first[key]
    ours = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    pd.testing.assert_frame_equal(ours, pd.read_parquet(folder / "scores.parquet"))


def test_only_named_recordings_are_left_out(job_file):
    edited(job_file, "[evaluation]", '[evaluation]\nleave_out = ["*0", "drive2"]')
    assert list(run_job(read_job(job_file))["folds"]) == ["drive0", "drive2"]


def test_without_events_nothing_is_measured_and_everything_else_works(job_file, drives, tmp_path):
    edited(job_file, f'events = "{drives}/events.csv"\n', "")
    with pytest.warns(UserWarning, match="can show no p-value below") as warned:
        result = run_job(read_job(job_file))
    assert len([one for one in warned if "can show no p-value" in str(one.message)]) == 1  # not once per fold
    assert result["mean"]["auroc"] is None
    assert result["mean"]["event_recall"] is None
    assert "NaN" not in (tmp_path / "out" / "metrics.json").read_text()
    assert "Nothing can be measured" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[evaluation]", '[evaluation]\nleave_out = "lorry*"', r"leave_out = 'lorry\*' matches none of the 3"),
        ("drive*.csv", "drive0.csv", "Only one recording has windows"),
        ('"speed > 2"', '"speed > 99"', "There is no window to learn from.*where = 'speed > 99' holds for none"),
        ("events.csv\"", 'events.csv"\ntolerance_s = 99', "No normal window is left to learn from"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_run_says_why(job_file, old, new, said):
    with pytest.raises(ValueError, match=said):
        run_job(read_job(edited(job_file, old, new)))


def test_a_folder_with_other_files_is_never_replaced(job_file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"out holds thesis.docx, which no earlier run wrote"):
        run_job(read_job(job_file))
    assert (tmp_path / "out" / "thesis.docx").read_text() == "years of work"


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError])
def test_a_run_that_fails_leaves_the_earlier_result(done, job_file, tmp_path, monkeypatch, fault):
    def render(*_, **__):
        raise fault

    shutil.copytree(done[1], tmp_path / "out")
    before = (tmp_path / "out" / "metrics.json").read_text()
    monkeypatch.setattr(report, "render_report", render)
    with pytest.raises(fault):
        run_job(read_job(job_file))
    assert (tmp_path / "out" / "metrics.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bumps.toml", "out"]


def test_an_interrupt_during_training_ends_the_run(job_file, tmp_path, monkeypatch):
    original = VAEOutlierDetector.fit

    def fit(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.stop_reason_ = "interrupted"
        return self

    monkeypatch.setattr(VAEOutlierDetector, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        run_job(read_job(job_file))
    assert not (tmp_path / "out").exists()


def test_the_report_extra_is_asked_for_before_the_work(job_file, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    monkeypatch.setattr(runs, "find_recordings", lambda data: pytest.fail("work began"))
    with pytest.raises(ImportError, match=r"pip install 'anomalyvae\[report\]'"):
        run_job(read_job(job_file))


@pytest.mark.slow
def test_a_kill_while_writing_leaves_the_earlier_result(done, job_file, tmp_path):
    shutil.copytree(done[1], tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    script = f"""
        import time
        from anomalyvae.evaluate import read_job
        from anomalyvae.evaluate import report
        from anomalyvae.evaluate import run_job

        def hang(*_, **__):
            open({str(tmp_path / "writing")!r}, "w").close()
            time.sleep(60)

        report.render_report = hang
        run_job(read_job({str(job_file)!r}))
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        while not (tmp_path / "writing").exists():
            assert child.poll() is None
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == before
    run_job(read_job(job_file))  # and what the kill left behind does not matter

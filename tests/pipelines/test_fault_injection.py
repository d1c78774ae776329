"""Sensor health at work: in the bundle, on the command line, beside novelty, and in injected faults."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fault_injection import Faults, inject_faults
from faults import Fault, inject

from anomalyvae.bundle import read_card
from anomalyvae.cli import main
from anomalyvae.evaluate import read_job
from anomalyvae.evaluate.job import find_recordings, options_of
from anomalyvae.health import Profile, Sensors, grade, learn_profile
from anomalyvae.health.grades import stretches
from anomalyvae.health.sensors import event_causes
from anomalyvae.recordings import WindowRecipe, log_from_frame, read_log

PIPELINES = Path(__file__).parents[2] / "pipelines"
CSS = Path(__file__).parents[3] / "shared" / "data" / "css_drive"
needs_css = pytest.mark.skipif(not CSS.is_dir(), reason="the raw logs of css_drive are not at hand")

SIGNALS = ("speed", "wheel", "rpm", "pull")
JOB = """
[data]
recordings = "{folder}/*.csv"

[windows]
signals = ["speed", "wheel", "rpm", "pull"]
rate_hz = 5
length_s = 2
stride_s = 1
max_gap_s = 1

[detector]
max_epochs = 40
hidden = [32]
random_state = 0

[health]
range.rpm = [0, 9000]

[output]
folder = "{folder}/out"
"""
FAULTS = """
[faults]
holdout = "drive4"
moving = "pull"
rounds = 1
"""


def drive(number, seconds=300):
    """Two speeds that agree, a motor that follows them, and an acceleration that is their change."""
    rng = np.random.default_rng(number)
    time_s = np.arange(0, seconds, 0.2)
    speed = 15 + 6 * np.sin(time_s / 9 + number) + 3 * np.sin(time_s / 23)
    table = {"time_s": time_s, "speed": speed + 0.05 * rng.normal(size=len(time_s))}
    table["wheel"] = 3.6 * speed + 0.2 * rng.normal(size=len(time_s))
    table["rpm"] = 110 * speed + 15 * rng.normal(size=len(time_s))
    table["pull"] = np.gradient(speed, time_s) + 0.05 * rng.normal(size=len(time_s))
    return pd.DataFrame(table)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("health")
    for number in range(5):
        drive(number).to_csv(folder / f"drive{number}.csv", index=False)
    (folder / "job.toml").write_text(JOB.format(folder=folder))
    (folder / "faults.toml").write_text(JOB.format(folder=folder) + FAULTS)
    return folder


@pytest.fixture(scope="module")
def model(home):
    """A bundle that `fit` made of four drives."""
    files = [str(home / f"drive{number}.csv") for number in range(4)]
    assert main(["fit", *files, "--recipe", str(home / "job.toml"), "--model", str(home / "model"), "--quiet"]) == 0
    return home / "model"


@pytest.fixture(scope="module")
def sensors(model):
    return Sensors.of(model)


@pytest.fixture(scope="module")
def threshold(model):
    return -read_card(model)["offset"]


def seen(sensors, *faults):
    """A fifth drive with faults: its windows, their grades and causes."""
    log = inject(log_from_frame(drive(4), "drive4"), faults)
    windows = sensors.windows(log)
    grades = sensors.grade(windows)
    return windows, grades, sensors.causes(windows, grades)


def flagged(windows, causes, start_s, end_s):
    inside = (windows.spans["end_s"] > start_s) & (windows.spans["start_s"] < end_s)
    return set(causes["cause"][inside]) - {""}


# In the bundle


def test_a_fitted_bundle_knows_what_healthy_signals_look_like(model):
    profile = Profile.from_dict(read_card(model)["health"])
    assert profile.signals == SIGNALS
    assert np.isfinite(profile.levels["high"]).all()  # the job asked for drift
    assert profile.levels["above"][2].tolist()[1:] == [9000, 9000]  # and stated a range


def test_a_bundle_without_a_profile_says_so(model, tmp_path, capsys):
    old = tmp_path / "old"
    old.mkdir()
    for part in model.iterdir():
        (old / part.name).write_bytes(part.read_bytes())
    card = read_card(model)
    card.pop("digest")
    card["health"] = None
    (old / "card.json").write_text(json.dumps(card))
    assert main(["health", str(model.parent / "drive4.csv"), "--model", str(old)]) == 1
    assert "has no health profile" in capsys.readouterr().err


# Beside novelty


def test_a_dead_sensor_is_a_sensor_and_a_swerve_is_novel_dead_sensor_or_not(sensors):
    dead = Fault("dropout", 100, 160, ("rpm",))
    swerve = Fault("swerve", 126, 132, ("pull",), 0.7)
    assert "novel" not in flagged(*take(seen(sensors, dead)), 100, 160)
    assert "novel" in flagged(*take(seen(sensors, swerve)), 126, 132)
    assert "novel" in flagged(*take(seen(sensors, swerve, dead)), 126, 132)


def test_what_leaves_the_learned_ranges_is_unclear_and_never_hidden(sensors):
    """No window has shown it: a sensor or a manoeuvre, which the model cannot know. The flag stays."""
    wild = Fault("swerve", 126, 132, ("pull", "speed"), 2.0)
    assert flagged(*take(seen(sensors, wild)), 126, 132) & {"novel", "unclear"}


def test_a_stuck_sensor_makes_windows_strange_but_not_novel(sensors, threshold):
    windows, grades, causes = seen(sensors, Fault("stuck", 100, 160, ("wheel",)))
    inside = (windows.spans["start_s"] >= 104) & (windows.spans["end_s"] <= 156)
    assert (causes["anomaly_score"][inside] > threshold).any()
    assert not causes["cause"][inside].isin(["novel", "unclear"]).any()
    assert {tuple(names) for names in causes["sensors"][inside]} == {("wheel",)}
    [bad] = stretches(grades)[lambda table: table["grade"] == "bad"].to_dict("records")
    assert (bad["signal"], bad["reason"]) == ("wheel", "stuck")


def test_a_drift_is_put_down_to_the_signal_that_drifts(sensors):
    """All three follow one cause: the one that leaves is named, and not those that it leaves."""
    _, grades, _ = seen(sensors, Fault("offset", 100, 220, ("wheel",), 0.5))
    drifted = grades[(grades["reason"] == "drifted") & (grades["grade"] == "bad")]
    assert set(drifted["signal"]) == {"wheel"}
    assert drifted["start_s"].between(90, 220).all()


def test_scores_without_a_signal_keep_their_scale(sensors, threshold):
    """Hidden cells add nothing to a score; on the same scale, normal windows go over the threshold as often."""
    windows, _, causes = seen(sensors)
    share = (causes["anomaly_score"] > threshold).mean()
    for signal in range(4):
        hidden = np.zeros((len(windows), 4), dtype=bool)
        hidden[:, signal] = True
        score = sensors.score_without(windows, hidden)
        assert abs((score > threshold).mean() - share) < 0.08
        spread = np.diff(causes["anomaly_score"].quantile([0.25, 0.75]))[0]
        assert abs(np.median(score) - causes["anomaly_score"].median()) < spread
    everything = np.ones((len(windows), 4), dtype=bool)
    assert np.isnan(sensors.score_without(windows, everything)).all()


def test_an_event_is_novel_if_one_of_its_windows_is():
    spans = pd.DataFrame({"recording": "a", "start_s": [0.0, 1.0, 2.0, 9.0], "end_s": [2.0, 3.0, 4.0, 11.0]})
    causes = pd.DataFrame({"cause": ["sensor", "novel", "sensor", "sensor"], "sensors": [["x"], ["x"], [], ["y"]]})
    events = pd.DataFrame({"recording": ["a", "a", "b"], "start_s": [0.0, 9.0, 0.0], "end_s": [4.0, 11.0, 4.0]})
    told = event_causes(events, spans, causes)
    assert told["cause"].tolist() == ["novel", "sensor", "novel"]  # of what was never graded, nothing else is known
    assert told["sensors"].tolist() == [["x"], ["y"], []]


def take(result):
    windows, _, causes = result
    return windows, causes


# On the command line


def test_the_verb_names_the_signal_the_time_and_the_reason(model, tmp_path, capsys):
    table = drive(4)
    table.loc[table["time_s"].between(100, 160), "wheel"] = 40.0
    table.to_csv(tmp_path / "broken.csv", index=False)
    drive(3).to_csv(tmp_path / "fine.csv", index=False)
    out = tmp_path / "elsewhere" / "health.csv"
    out.parent.mkdir()
    files = [str(tmp_path / name) for name in ("broken.csv", "fine.csv")]
    assert main(["health", *files, "--model", str(model), "--bad", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 recordings: 1 bad and 0 suspect")
    assert "wheel: stuck" in said
    written = pd.read_csv(out)
    assert written[["recording", "signal", "grade", "reason"]].to_numpy().tolist() == [
        ["broken", "wheel", "bad", "stuck"]
    ]
    assert abs(written["start_s"][0] - 100) <= 2
    assert abs(written["end_s"][0] - 160) <= 2


def test_a_range_on_the_command_line_and_a_file_that_fails(model, tmp_path, capsys):
    drive(4).to_csv(tmp_path / "fine.csv", index=False)
    drive(4)[["time_s", "speed"]].to_csv(tmp_path / "less.csv", index=False)
    arguments = [str(tmp_path), "--model", str(model), "--range", "speed=[0,10]"]
    assert main(["health", *arguments]) == 3
    heard = capsys.readouterr()
    assert "failed: less.csv" in heard.err
    assert "speed: out of range" in heard.out
    assert main(["health", str(tmp_path), "--model", str(model), "--range", "speed=10"]) == 1
    assert "--range speed=10 has no two limits" in capsys.readouterr().err


def test_flags_say_whether_a_sensor_is_bad(model, tmp_path, capsys):
    table = drive(4)
    table.loc[table["time_s"].between(100, 160), "wheel"] = 40.0
    table.loc[table["time_s"].between(220, 226), "pull"] += 4.0
    (tmp_path / "drives").mkdir()
    table.to_csv(tmp_path / "drives" / "broken.csv", index=False)
    scores, queue = str(tmp_path / "scores"), str(tmp_path / "queue.db")
    assert main(["score", str(tmp_path / "drives"), scores, "--model", str(model), "--quiet"]) == 0
    assert main(["flag", scores, "--model", str(model), "--queue", queue, "--per-recording", "20"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"  (98|99|100)\.\d to 16\d\.\d s  sensor, bad: wheel", said)
    assert re.search(r"  2[12]\d\.\d to 22\d\.\d s  (novel|unclear)", said)


# In a job


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "range.rpm = [0, 9000]",
            "range.rpm = 9000",
            r"\[health\] of .* has range = {'rpm': 9000}\. .* valid array",
        ),
        ("range.rpm", "ranges.rpm", r"Key 'ranges' in \[health\] .*Did you mean 'range'\?"),
        ('holdout = "drive4"\n', "", r"\[faults\] of .* has no holdout"),
    ],
)
def test_a_mistake_in_the_sections_is_named(home, tmp_path, old, new, said):
    text = (home / "faults.toml").read_text()
    assert old in text
    (tmp_path / "job.toml").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=said):
        read_job(tmp_path / "job.toml", {"faults": Faults})


def test_a_simulation_finds_what_it_put_in_and_leaves_the_figures(home):
    injection = inject_faults(read_job(home / "faults.toml", {"faults": Faults}))
    faults = injection.faults.set_index("kind")
    assert set(faults.index) == {"stuck", "dropout", "offset", "noise", "spikes"}
    assert faults.loc["dropout", "right"] == 1
    assert faults.loc["stuck", "found"] > 0.7
    assert (faults["found"] >= faults["right"]).all()
    out = home / "out"
    injected = pd.read_csv(out / "injected.csv")
    assert len(injected) == injection.faults["faults"].sum() + injection.manoeuvres["manoeuvres"].sum()
    assert read_card(out / "model")["health"] is not None


def test_a_simulation_needs_recordings_on_both_sides(home):
    job = read_job(home / "faults.toml", {"faults": Faults})
    with pytest.raises(ValueError, match=r"Got holdout = '\*' and moving = 'pull' in \[faults\], expected patterns"):
        inject_faults(replace(job, extra={"faults": replace(job.extra["faults"], holdout="*")}))


# On real logs


@needs_css
@pytest.mark.filterwarnings("ignore:.*are in no database")
def test_an_altitude_without_a_fix_is_normal_until_somebody_says_what_altitudes_there_are():
    """The receiver reads -5400 m until it has a fix: in each log that begins with a cold start, so it looks usual."""
    recipe = WindowRecipe(("Altitude", "Speed"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=2.5)
    logs = [
        read_log(CSS / "LOG" / name, signals=recipe.needed, databases=[CSS / "canmod-gps.dbc"])
        for name in ("00000164/00000001-60FE3F04.MF4", "00000165/00000001-60FEB68B.MF4")
    ]
    learned, new = recipe.windows(logs[0]), recipe.windows(logs[1])
    outside = {}
    for ranges in (None, {"Altitude": (-100, 4000)}):
        grades = grade(new, learn_profile(learned, ranges=ranges))
        found = grades[(grades["signal"] == "Altitude") & (grades["reason"] == "out of range")]
        outside[ranges is None] = set(found["grade"])
        if ranges is not None:
            fix = logs[1]["Altitude"]
            assert abs(found["end_s"].max() - fix.time_s[np.argmax(fix.values > -100)]) < 3
    assert outside == {True: set(), False: {"bad"}}


@needs_css
@pytest.mark.filterwarnings("ignore:.*are in no database")
def test_the_job_on_real_logs_is_in_order():
    job = read_job(PIPELINES / "css_drive.toml", {"faults": Faults})
    paths, _ = find_recordings(job.data)
    assert len(paths) == 5
    assert all(path.suffix == ".MF4" for path in paths)
    assert set(job.windows.signals) <= set(read_log(paths[0], **options_of(job.data)).signals)
    assert job.health.range == {"Altitude": (-100, 4000)}
    assert job.extra["faults"].holdout == ("00000001-60FEB68B", "00000003-60FEBB3B")

"""The command line: what it prints, what it writes, and how it fails."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomalyvae import Scorer, WindowRecipe, __version__, cli, load
from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.cli import main
from anomalyvae.cli.console import WRITERS
from anomalyvae.evaluate import leave_out as runs
from anomalyvae.pyod_adapter import PYOD_DETECTORS
from anomalyvae.recordings import read_windows

TINY = ["--set", "max_epochs=3", "--set", "hidden=[8]", "--set", "random_state=0"]
WINDOWS = ["--signals", "a,b", "--rate-hz", "5", "--length-s", "2", "--stride-s", "1", "--max-gap-s", "1"]


ROWS = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=["a", "b"])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    ROWS.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of such a table."""
    folder = tmp_path_factory.mktemp("rows")
    ROWS.to_csv(folder / "rows.csv", index=False)
    assert main(["fit", str(folder / "rows.csv"), "--model", str(folder / "model"), *TINY]) == 0
    return folder / "model"


@pytest.fixture
def drives(tmp_path):
    paths = []
    for number in range(3):
        values = np.random.default_rng(number).normal(size=(100, 2))
        frame = pd.DataFrame(values, columns=["a", "b"])
        frame.insert(0, "time_s", np.arange(100) * 0.2)
        paths.append(tmp_path / f"drive{number}.parquet")
        frame.to_parquet(paths[-1])
    return [str(path) for path in paths]


@pytest.fixture
def job(drives, tmp_path):
    path = tmp_path / "bumps.toml"
    path.write_text(
        f'[data]\nrecordings = "{tmp_path}/drive*.parquet"\n'
        '[windows]\nsignals = ["a", "b"]\nrate_hz = 5\nlength_s = 2\nstride_s = 1\nmax_gap_s = 1\n'
        "[detector]\nmax_epochs = 3\nhidden = [8]\nrandom_state = 0\n"
        f'[output]\nfolder = "{tmp_path}/out"\n'
    )
    return path


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


# Help and usage


@pytest.mark.parametrize("command", [[], *([verb] for verb in cli.VERBS), ["data", "list"], ["data", "get"]])
def test_help_at_every_level_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: anomalyvae")
    example = out.split("example:")[1]
    assert "anomalyvae " + " ".join(command) in example
    assert max(map(len, out.splitlines())) < 110


def test_every_verb_is_in_the_table(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    verbs = "fit score rank drift health watch export compare audit run track flag review retrain promote data"
    assert list(cli.VERBS) == verbs.split()
    assert all(verb.what in out for verb in cli.VERBS.values())


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"anomalyvae {__version__}\n"


@pytest.mark.parametrize(
    "wrong", [[], ["foresee"], ["run"], ["fit", "x.csv"], ["fit", "x.csv", "--model", "m", "--set", "beta"]]
)
def test_wrong_usage_is_exit_code_2(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(wrong)
    assert exit_.value.code == 2
    err = capsys.readouterr().err
    assert "usage:" in err
    assert wrong or "pick the flagged events" in err  # without a verb, all are listed


# Tables


def test_a_table_is_fitted_and_scored_row_by_row(model, table, tmp_path, capsys):
    out = tmp_path / "scores.parquet"
    code, said, _ = run(capsys, "score", table, out, "--model", model)
    assert code == 0
    scores, detector = pd.read_parquet(out), load(model)
    assert list(scores) == ["row", "anomaly_score", "p_value", "is_outlier", "new_gaps", "model_id"]
    assert scores["row"].tolist() == list(range(60))
    np.testing.assert_allclose(scores["anomaly_score"], detector.anomaly_score(pd.read_csv(table)), rtol=1e-4)
    np.testing.assert_array_equal(scores["is_outlier"], detector.predict(pd.read_csv(table)) == -1)
    assert set(scores["model_id"]) == {read_card(model)["model_id"]}
    assert said == f"Scored 60 rows, {scores['is_outlier'].sum()} flagged: {out}\n"
    fine = detector.p_values(pd.read_csv(table))
    assert np.mean(np.abs(scores["p_value"] - fine) < 1e-12) > 0.9  # training rows may tie with the calibration's
    assert np.abs(scores["p_value"] - fine).max() < 2 / 60


@pytest.mark.parametrize("target", ["alpha=0.2", "fdr=0.5"])
def test_rows_are_flagged_by_a_false_alarm_target(model, table, tmp_path, capsys, target):
    out = tmp_path / "scores.parquet"
    assert run(capsys, "score", table, out, "--model", model, "--alarms", target, "--tail", "pareto")[0] == 0
    name, rate = target.split("=")
    expected = load(model).alarms(pd.read_csv(table), tail="pareto", **{name: float(rate)})
    np.testing.assert_array_equal(pd.read_parquet(out)["is_outlier"], expected)


def test_alarms_per_hour_need_windows(table, drives, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "scores.parquet"
    run(capsys, "fit", table, "--model", model, *TINY)
    code, _, err = run(capsys, "score", table, out, "--model", model, "--alarms", "per_hour=6")
    assert code == 1
    assert "the alarm target per_hour=6 for plain rows, which have no time" in err
    code, _, err = run(capsys, "score", table, out, "--model", model, "--alarms", "often=6")
    assert "Got often=6 as alarm target, expected exactly one of alpha, fdr and per_hour, with a number." in err
    run(capsys, "fit", *drives, "--model", model, *WINDOWS, *TINY)
    assert run(capsys, "score", drives[0], out, "--model", model, "--alarms", "per_hour=1800")[0] == 0
    scores = pd.read_parquet(out)
    np.testing.assert_array_equal(scores["is_outlier"], scores["p_value"] <= 0.5)


def test_several_tables_keep_their_names(table, tmp_path, capsys):
    other = tmp_path / "more.parquet"
    pd.read_csv(table)[["b", "a"]].assign(note=1.0).to_parquet(other)  # another order, and one column more
    model, out = tmp_path / "model", tmp_path / "scores.CSV"
    assert run(capsys, "fit", table, other, "--model", model, *TINY)[0] == 0
    assert run(capsys, "score", table, other, out, "--model", model)[0] == 0
    scores = pd.read_csv(out)
    assert list(scores)[:2] == ["file", "row"]
    assert scores["file"].tolist() == ["more.parquet"] * 60 + ["rows.csv"] * 60
    np.testing.assert_array_equal(scores["anomaly_score"][:60], scores["anomaly_score"][60:])


def test_columns_can_be_chosen(table, tmp_path, capsys):
    pd.read_csv(table).assign(name="x").to_csv(table, index=False)
    assert run(capsys, "fit", table, "--model", tmp_path / "model", "--columns", "a, b", *TINY)[0] == 0
    assert read_card(tmp_path / "model")["columns"] == ["a", "b"]


def test_settings_reach_the_detector(table, tmp_path, capsys):
    settings = [*TINY, "--set", "beta=0.5", "--set", "objective=elbo", "--set", "latent_dim=1"]
    assert run(capsys, "fit", table, "--model", tmp_path / "model", *settings)[0] == 0
    detector = load(tmp_path / "model")
    assert (detector.beta, detector.objective, detector.latent_dim) == (0.5, "elbo", 1)


# Recordings


def test_recordings_are_cut_into_windows_as_in_training(drives, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "scores.parquet"
    code, said, _ = run(capsys, "fit", *drives, "--model", model, *WINDOWS, *TINY)
    assert code == 0
    assert said.startswith("Learned 57 windows: model ")
    learned = read_manifest(model)
    assert learned["recording"].tolist() == ["drive0", "drive1", "drive2"]
    assert set(learned["role"]) == {"normal"}
    assert run(capsys, "score", drives[0], out, "--model", model)[0] == 0
    recipe = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)
    windows, scores = read_windows(drives[0], recipe), pd.read_parquet(out)
    spans, found = ["recording", "start_s", "end_s"], ["anomaly_score", "p_value", "is_outlier", "model_id"]
    assert list(scores) == [*spans, "time", *found]
    pd.testing.assert_frame_equal(scores[spans], windows.spans)
    np.testing.assert_allclose(scores["anomaly_score"], load(model).anomaly_score(windows.rows), rtol=1e-5, atol=1e-6)


def test_recordings_need_no_settings(drives, tmp_path, capsys):
    code, out, err = run(capsys, "fit", *drives, "--model", tmp_path / "m", *TINY)
    assert (code, out.split(":")[0]) == (0, "Learned 27 windows")
    assert "each file is a recording (--as rows learns each row by itself): 2 signal(s) at 5 Hz, windows of 4 s" in err
    model = load(tmp_path / "m")
    assert model.input_shape == (2, 20)
    assert list(model.feature_names_in_[[0, 20]]) == ["a@0", "b@0"]
    code, out, _ = run(capsys, "fit", *drives, "--model", tmp_path / "rows", "--as", "rows", *TINY)
    assert (code, out.split(":")[0]) == (0, "Learned 300 rows")
    code, out, _ = run(capsys, "fit", drives[0], "--model", tmp_path / "one", *TINY)
    assert (code, out.split(":")[0]) == (0, "Learned 100 rows")
    code, out, _ = run(capsys, "fit", drives[0], "--model", tmp_path / "one", "--as", "recordings", *TINY)
    assert (code, out.split(":")[0]) == (0, "Learned 9 windows")


def test_states_that_are_not_judged_are_named(drives, tmp_path, capsys):
    for number, path in enumerate(drives):
        pd.read_parquet(path).assign(gear=(np.arange(100) // 30 + number) % 3).to_parquet(path)
    code, _, err = run(capsys, "fit", *drives, "--model", tmp_path / "m", *TINY)
    assert code == 0
    assert "states and constants, of which values never seen are found: gear\n" in err


def test_what_is_not_given_of_windows_is_chosen(drives, tmp_path, capsys):
    code, _, err = run(capsys, "fit", *drives, "--model", tmp_path / "m", "--signals", "b", "--length-s", "2", *TINY)
    assert code == 0
    assert "each file is a recording: 1 signal(s) at 5 Hz, windows of 2 s, one every 1 s, no gap over 1 s" in err
    code, _, err = run(capsys, "fit", *drives, "--model", tmp_path / "n", "--length-s", "2", "--as", "rows")
    assert code == 1
    assert "Got --as rows with options for recordings" in err


def test_a_recording_without_a_window_is_no_success(drives, tmp_path, capsys):
    model, out, short = tmp_path / "model", tmp_path / "scores.parquet", tmp_path / "short.parquet"
    pd.read_parquet(drives[0]).head(5).to_parquet(short)
    assert run(capsys, "fit", *drives, "--model", model, *WINDOWS, *TINY)[0] == 0
    code, _, err = run(capsys, "score", short, out, "--model", model)
    assert (code, out.exists()) == (1, False)
    assert "short.parquet: It has no window: its values reach over" in err
    code, said, err = run(capsys, "score", short, drives[0], out, "--model", model)
    assert (code, "failed: short.parquet: It has no window" in err) == (3, True)
    assert f"Scored {len(pd.read_parquet(out))} windows" in said
    code, _, err = run(capsys, "health", short, drives[0], "--model", model)
    assert (code, "failed: short.parquet: It has no window" in err) == (3, True)
    code, said, err = run(capsys, "fit", short, *drives, "--model", tmp_path / "other", *WINDOWS, *TINY)
    assert (code, "failed: short: It has no window" in err) == (3, True)
    code, said, err = run(capsys, "fit", short, "--model", tmp_path / "none", *WINDOWS, *TINY)
    assert (code, "There is no window to learn from. short: It has no window" in err) == (1, True)


def test_fit_uses_the_windows_and_the_detector_of_a_job(drives, job, tmp_path, capsys):
    fit = ["fit", *drives, "--model", tmp_path / "model", "--recipe", job, "--stride-s", "0.4", "--set", "beta=2"]
    assert run(capsys, *fit)[0] == 0
    card = read_card(tmp_path / "model")
    assert card["windowing"]["stride_s"] == 0.4
    assert card["windowing"]["length_s"] == 2.0
    assert (card["parameters"]["max_epochs"], card["parameters"]["beta"]) == (3, 2)


def test_the_jobs_of_simulations_are_recipes_as_well(drives, tmp_path, capsys):
    job = tmp_path / "job.toml"
    windows = "signals = ['a']\nrate_hz = 5\nlength_s = 2\nstride_s = 1\nmax_gap_s = 5"
    job.write_text(f"[windows]\n{windows}\n[detector]\nmax_epochs = 1\n[simulation]\nlearn = ['a']\n")
    code, said, _ = run(capsys, "fit", *drives, "--recipe", job, "--model", tmp_path / "model")
    assert (code, "windows" in said) == (0, True)


def test_a_folder_of_recordings_gives_a_folder_of_scores(drives, tmp_path, capsys):
    model, source, target = tmp_path / "model", tmp_path / "in", tmp_path / "scores"
    assert run(capsys, "fit", *drives, "--model", model, *WINDOWS, *TINY)[0] == 0
    for i, drive in enumerate(drives):
        (source / f"car {i}").mkdir(parents=True)
        pd.read_parquet(drive).to_parquet(source / f"car {i}" / "drive.parquet")
    code, said, _ = run(capsys, "score", source, target, "--model", model, "--alarms", "per_hour=1800")
    assert code == 0
    assert re.match(rf"{len(drives)} files scored, at [\d,]+ rows/s\n57 rows, \d+ flagged by model \w+: ", said)
    scores = pd.read_parquet(target / "car 1" / "drive.parquet")
    assert set(scores["recording"]) == {"car 1/drive"}
    np.testing.assert_array_equal(scores["is_outlier"], scores["p_value"] <= 0.5)
    (source / "broken.csv").write_text("time_s,a\n0,1\n")
    code, said, err = run(capsys, "score", source, target, "--model", model, "--alarms", "per_hour=1800")
    assert code == 3
    assert f"0 files scored, {len(drives)} kept from before, 1 failed" in said
    assert "anomalyvae: failed: broken.csv: " in err


def test_recordings_in_another_unit_are_refused(drives, tmp_path, capsys):
    model, other = tmp_path / "model", tmp_path / "other.csv"
    frames = [pd.read_parquet(drive).rename(columns={"a": "a [m/s]"}) for drive in drives]
    for drive, frame in zip(drives, frames, strict=True):
        frame.to_parquet(drive)
    assert run(capsys, "fit", *drives, "--model", model, *WINDOWS, *TINY)[0] == 0
    assert read_card(model)["units"] == {"a": "m/s"}
    frames[0].rename(columns={"a [m/s]": "a [km/h]"}).to_csv(other, index=False)
    code, _, err = run(capsys, "score", other, tmp_path / "s.csv", "--model", model)
    assert code == 1
    assert "Signal 'a' is in km/h, expected m/s, as in training. Convert it." in err
    frames[0].rename(columns={"a [m/s]": "a"}).to_csv(other, index=False)  # without a unit, it is accepted
    assert run(capsys, "score", other, tmp_path / "s.csv", "--model", model)[0] == 0


# Export


def test_a_bundle_gives_an_onnx_file_of_the_same_model(model, table, tmp_path, capsys):
    file = tmp_path / "new" / "m.onnx"
    code, said, _ = run(capsys, "export", model, file, "--precision", "double", "--feature-scores")
    assert code == 0
    identity = read_card(model)["model_id"]
    assert said.startswith(f"Model {identity} in double precision: {file}\nScores within ")
    scorer = Scorer(file)
    assert scorer.metadata["model_id"] == identity
    assert "feature_scores" in scorer.outputs
    np.testing.assert_allclose(
        scorer.anomaly_score(pd.read_csv(table)), load(model).anomaly_score(pd.read_csv(table)), rtol=1e-9
    )


# Comparison


@pytest.fixture
def labelled(table):
    rows = pd.read_csv(table)
    rows.loc[50:, ["a", "b"]] += 6
    rows.assign(state=np.repeat(["ok", "broken"], [50, 10])).to_csv(table, index=False)
    return table


def test_a_comparison_is_a_table_with_the_best_first_and_says_what_was_done(labelled, tmp_path, capsys):
    pytest.importorskip("pyod")
    options = ["--label", "state", "--positive", "broken", "--against", "knn,ecod", "--seeds", "2"]
    code, out, err = run(capsys, "compare", labelled, *options, *TINY, "--out", tmp_path / "figures.csv")
    assert code == 0
    figures = pd.read_csv(tmp_path / "figures.csv", index_col="detector")
    assert sorted(figures.index) == ["anomalyvae", "ecod", "knn"]
    head, *lines = out.split("\n\n")[0].splitlines()
    assert head.split() == ["AUROC", "AP", "fit", "s", "score", "s"]
    assert [line.split()[:2] for line in lines] == [[name, f"{best:.3f}"] for name, best in figures["auroc"].items()]
    assert figures["auroc"].is_monotonic_decreasing
    assert "\nMean of seeds 0 to 1: 25 of 50 normal rows are learned; 25 others and 10 outliers are scored.\n" in out
    assert err.startswith("anomalyvae: 1/6 anomalyvae, seed 0\n")
    assert run(capsys, "compare", labelled, *options, *TINY, "--quiet") == (0, "", "")


def test_a_comparison_without_a_label_measures_agreement_and_speed(labelled, capsys):
    pytest.importorskip("pyod")
    options = ["--columns", "a,b", "--against", "knn", "--seeds", "1"]
    code, out, _ = run(capsys, "compare", labelled, *options, *TINY)
    assert code == 0
    assert out.splitlines()[0].split("  ")[-4:] == ["rank correlation", "top 5 % shared", " fit s", "score s"]
    assert "AUROC" not in out
    assert "all 60 rows are learned and scored." in out


def test_a_detector_without_figures_says_why_in_its_line(labelled, tmp_path, capsys):
    pytest.importorskip("pyod")
    few = tmp_path / "few.csv"
    pd.read_csv(labelled).tail(16).to_csv(few, index=False)  # three training rows; knn needs five neighbours
    options = ["--label", "state", "--positive", "broken", "--against", "knn,pca", "--seeds", "1"]
    code, out, _ = run(capsys, "compare", few, *options, *TINY)
    assert code == 0
    assert out.split("\n\n")[0].splitlines()[-1].startswith("knn             ValueError: Expected n_neighbors")


def test_help_names_every_detector_to_compare_with(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert f"some of {', '.join(PYOD_DETECTORS)} (" in " ".join(capsys.readouterr().out.split())


# Jobs and data


def test_a_run_ends_with_a_table_and_says_where_the_report_lies(job, tmp_path, capsys):
    code, out, err = run(capsys, "run", job)
    assert code == 0
    methods = ("anomalyvae", "mahalanobis", "squared_difference")
    for shown in ("AUROC", "AP", "event recall", *methods, f"{tmp_path}/out/report.html"):
        assert shown in out
    assert out.splitlines()[-1].startswith("Wall time")
    assert "1/6 57 windows of 3 recordings" in err
    assert "\x1b" not in out + err  # no terminal, no colours


def test_quiet_is_quiet_and_out_moves_the_result(job, tmp_path, capsys):
    assert run(capsys, "run", job, "--quiet", "--out", tmp_path / "elsewhere") == (0, "", "")
    assert (tmp_path / "elsewhere" / "metrics.json").is_file()
    assert not (tmp_path / "out").exists()


def test_data_sets_are_listed_and_prepared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANOMALYVAE_CACHE", str(tmp_path))
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    assert "potholes\n" in out
    assert "licence: none stated" in out
    code, out, _ = run(capsys, "data", "get", "simulated")
    assert code == 0
    assert any(tmp_path.rglob("recordings/*.parquet"))
    assert str(tmp_path) in out
    assert f"prepared in {tmp_path}" in run(capsys, "data", "list")[1]


# Failing


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "nowhere.csv", "--model", "out.csv"],
        ["audit", "nowhere.csv", "--out", "out.html"],
        ["compare", "nowhere.csv", "--label", "a", "--out", "out.csv"],
    ],
    ids=lambda command: command[0],
)
def test_a_read_only_place_is_refused_before_anything_is_read(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(command) == 1
    said = f"{command[-1]} cannot be written: {tmp_path} is read-only. Change its permissions, or choose another place."
    assert said in capsys.readouterr().err


def test_a_folder_of_tables_may_lie_in_a_read_only_place(tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == tmp_path / "out")
    assert main(["audit", str(tmp_path / "nowhere.csv"), "--out", str(tmp_path / "out")]) == 1
    assert "nowhere.csv: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run", "nowhere.toml"], "There is no job file nowhere.toml."),
        (["data", "get", "pothole"], "Did you mean 'potholes'?"),
        (["fit", "nowhere.csv", "--model", "m"], "nowhere.csv: No such file or directory. Check the path."),
        (["fit", __file__, "--model", "m"], "test_cli.py is not a .parquet, .csv or .csv.gz file. Unpack or convert"),
        (["fit", "{table}", "--model", "m", "--set", "betta=1"], "Did you mean 'beta'?"),
        (["fit", "{table}", "--model", "m", "--columns", "a,bb"], "rows.csv has no column bb. "),
        (["fit", "{table}", "--model", "m", "--signals", "a"], "rows.csv has no column with the name of a time "),
        (["compare", "{table}", "--label", "c"], "label='c' is not one of the columns a, b."),
        (["compare", "{table}", "--label", "c", "--columns", "a"], "rows.csv has no column c. Use one of 'a', 'b'."),
        (
            ["compare", "{table}", "--against", "knnn"],
            "'knnn' is not one of PyOD's detectors here. Choose from knn, lof, ",
        ),
        (["compare", "{table}", "--out", "figures.txt"], "figures.txt is not a .parquet or .csv file. Rename it."),
        (["score", "{table}", "out.xlsx", "--model", "m"], "out.xlsx is not a .parquet or .csv file. Rename it."),
        (["compare", "{table}", "--set", "betta=1"], "Did you mean 'beta'?"),
        (["score", "{table}", "s.parquet", "--model", "nowhere"], "nowhere does not exist. Pass the folder of "),
        (["score", "{table}", "scores", "--model", "nowhere"], "nowhere does not exist. Pass the folder of "),
        (["export", "nowhere", "m.onnx"], "nowhere is not a bundle"),
        (["fit", "nowhere/", "--model", "m"], "nowhere does not exist. Check the path."),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_code_1(command, said, table, capsys):
    code, out, err = run(capsys, *[part.format(table=table) for part in command])
    assert (code, out) == (1, "")
    assert err.startswith("anomalyvae: error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_table_without_the_model_s_columns_is_refused(model, table, tmp_path, capsys):
    pd.read_csv(table).rename(columns={"b": "bee"}).to_csv(table, index=False)
    code, _, err = run(capsys, "score", table, tmp_path / "s.csv", "--model", model)
    assert code == 1
    assert "rows.csv: It lacks the columns 'b' of the model. Rename or add them. b: Use one of 'a', 'bee'." in err
    assert not list(tmp_path.glob("*s.csv*.*[0-9]"))


def test_debug_shows_the_traceback(capsys):
    code, _, err = run(capsys, "run", "nowhere.toml", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "FileNotFoundError" in err


def test_a_bug_reads_differently_from_a_mistake(job, monkeypatch, capsys):
    def broken(job, progress):
        raise KeyError("left_out")

    monkeypatch.setattr(runs, "run_job", broken)
    code, _, err = run(capsys, "run", job)
    assert code == 1
    assert "error: KeyError: 'left_out'. This is a bug; --debug shows the traceback." in err


def test_an_interrupt_is_exit_code_130(job, monkeypatch, capsys):
    def interrupted(job, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_job", interrupted)
    code, out, err = run(capsys, "run", job)
    assert (code, out) == (130, "")
    assert err.endswith("anomalyvae: interrupted\n")


def test_a_warning_is_one_line(job, monkeypatch, capsys):
    def warned(job, progress):
        warnings.warn("two\nlines", stacklevel=1)
        raise ValueError("end")

    monkeypatch.setattr(runs, "run_job", warned)
    assert "anomalyvae: warning: two lines\n" in run(capsys, "run", job)[2]


def test_a_failed_write_leaves_the_old_scores_and_nothing_else(model, table, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.csv"
    out.write_text("old")

    def full(_, path):
        path.write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setitem(WRITERS, ".csv", full)
    code, _, err = run(capsys, "score", table, out, "--model", model)
    assert code == 1
    assert "No space left on device" in err
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "scores.csv"]


def test_a_reader_that_stops_is_no_error():
    command = f"{sys.executable} -m anomalyvae data list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n"
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed):
    command = f"{sys.executable} -m anomalyvae data list {closed}; echo $?"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_watch_and_flag_tell_what_they_could_not_read(drives, tmp_path, capsys):
    model, short = tmp_path / "model", tmp_path / "source" / "short.csv"
    short.parent.mkdir()
    pd.read_parquet(drives[0]).head(5).to_csv(short, index=False)
    assert run(capsys, "fit", *drives, "--model", model, *WINDOWS, *TINY)[0] == 0
    code, _, err = run(capsys, "watch", short, "--model", model, "--timeout", "0.2")
    assert (code, "0 windows scored" in err) == (5, True)
    pd.read_parquet(drives[0]).to_csv(short.with_name("long.csv"), index=False)
    assert run(capsys, "score", short.parent, tmp_path / "scores", "--model", model)[0] == 3
    code, _, err = run(capsys, "flag", tmp_path / "scores", "--model", model, "--queue", tmp_path / "queue.db")
    assert (code, "failed: short.csv has no scores: It has no window" in err) == (3, True)

"""Tables of any dialect on the command line: each verb reads the same, or says by line and cell why not."""

import gzip
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from anomalyvae import Scorer, load, score_folder
from anomalyvae.bundle import read_card
from anomalyvae.cli import main

TINY = ["--set", "max_epochs=2", "--set", "hidden=[8]", "--set", "random_state=0"]
WINDOWS = ["--signals", "speed,rpm", "--rate-hz", "10", "--length-s", "1", "--stride-s", "0.5", "--max-gap-s", "0.5"]


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60) * 100, "machine": list("xy") * 30})


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drives")
    for number in range(3):
        rng = np.random.default_rng(number)
        drive = pd.DataFrame({"time": np.arange(80) / 10, "speed": rng.normal(size=80), "rpm": rng.normal(size=80)})
        text = drive.round(4).to_csv(index=False, sep=";", decimal=",").split("\n")
        if number == 1:
            text[41] = text[41].split(";")[0] + ";-;0,25"
        (folder / f"d{number}.csv").write_text("\n".join(text))
    (folder / "readme.txt").write_text("no recording")
    return folder


@pytest.fixture(scope="module")
def road(drives, tmp_path_factory):
    model = tmp_path_factory.mktemp("road") / "model"
    assert main(["fit", str(drives), "--model", str(model), *WINDOWS, *TINY, "--quiet"]) == 0
    return model


def test_a_german_table_is_learned_and_scored_as_an_english_one(rows, tmp_path, capsys):
    scores = []
    for name, options in [("english", {}), ("german", {"sep": ";", "decimal": ",", "encoding": "utf-16"})]:
        path, out = tmp_path / f"{name}.csv", tmp_path / f"{name}-scores.csv"
        rows.to_csv(path, index=False, **options)
        model = tmp_path / name
        assert run(capsys, "fit", path, "--model", model, *TINY)[0] == 0
        assert read_card(model)["columns"] == ["a", "b", "machine"]
        assert load(model).categories_ == {"machine": ["x", "y"]}
        assert run(capsys, "score", path, out, "--model", model)[0] == 0
        scores.append(pd.read_csv(out)["anomaly_score"])
    np.testing.assert_array_equal(*scores)


def test_a_table_with_a_clock_may_be_meant_as_a_recording(rows, drives, tmp_path, capsys):
    rows.to_csv(tmp_path / "rows.csv", index=False)
    for table, is_said in ((drives / "d0.csv", True), (tmp_path / "rows.csv", False)):
        code, _, err = run(capsys, "fit", table, "--model", tmp_path / "model", *TINY)
        assert code == 0
        assert ("each row is learned by itself (--as recordings learns windows)" in err) == is_said


def test_a_column_names_the_groups_of_rows_and_is_not_learned(rows, tmp_path, capsys):
    table, model = tmp_path / "table.csv", tmp_path / "model"
    rows.assign(day=np.arange(60) // 3).to_csv(table, index=False)
    assert run(capsys, "fit", table, "--groups", "day", "--model", model, *TINY)[0] == 0
    assert read_card(model)["columns"] == ["a", "b", "machine"]
    assert read_card(model)["training"]["groups"] == 20
    for wrong, said in {
        ("--groups", "week"): "Got --groups week, expected one of the columns a, b, machine, day.",
        ("--groups", "day", "--length-s", "1"): "Got --groups with options for recordings",
    }.items():
        code, _, err = run(capsys, "fit", table, *wrong, "--model", tmp_path / "other")
        assert code == 1
        assert said in err


def test_one_other_cell_is_refused_by_line_in_fit_score_audit_and_compare(rows, tmp_path, capsys):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    rows.to_csv(good, index=False)
    assert run(capsys, "fit", good, "--model", tmp_path / "model", *TINY)[0] == 0
    rows.astype({"a": object}).replace({"a": {rows["a"][9]: "12 km/h"}}).to_csv(bad, index=False)
    said = "59 of 60 cells are numbers; line 11 holds '12 km/h'. Repair the cell, or pass na= (--na) '12 km/h'"
    for command in (
        ["fit", bad, "--model", tmp_path / "other", *TINY],
        ["score", bad, tmp_path / "s.csv", "--model", tmp_path / "model"],
        ["audit", bad, *TINY],
        ["compare", bad],
    ):
        code, _, err = run(capsys, *command)
        assert code == 1
        assert said in err
    na = ["--na", "12 km/h"]
    assert run(capsys, "fit", bad, "--model", tmp_path / "other", *TINY, *na)[0] == 0
    assert run(capsys, "score", bad, tmp_path / "s.csv", "--model", tmp_path / "other", *na)[0] == 0
    assert np.isfinite(pd.read_csv(tmp_path / "s.csv")["anomaly_score"]).all()


def test_columns_that_teach_nothing_are_left_out_with_a_warning(rows, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    rows.assign(id=range(60), at=[f"2024-05-01 10:00:{i:02d}" for i in range(60)], unit="bar").to_csv(path)
    code, out, err = run(capsys, "fit", path, "--model", tmp_path / "model", *TINY)
    assert code == 0
    assert "with the categories machine" in out
    assert "warning: Left out, as nothing can be learned from them: 'id' (an identifier), 'at' (a time stamp)" in err
    assert read_card(tmp_path / "model")["columns"] == ["a", "b", "machine"]
    assert run(capsys, "score", path, tmp_path / "s.csv", "--model", tmp_path / "model")[0] == 0
    assert run(capsys, "fit", path, "--model", tmp_path / "model", "--columns", "a,unit", *TINY)[0] == 0
    assert read_card(tmp_path / "model")["columns"] == ["a", "unit"]


def test_a_folder_of_tables_is_learned_as_its_files(rows, tmp_path, capsys):
    folder = tmp_path / "tables"
    folder.mkdir()
    rows[:30].to_csv(folder / "1.csv", index=False)
    rows[30:].to_parquet(folder / "2.parquet")
    for source in (folder, folder / "*.*"):
        code, out, _ = run(capsys, "fit", source, "--model", tmp_path / "model", *TINY)
        assert code == 0
        assert out.startswith("Learned 60 rows")


def test_drives_with_a_dash_agree_in_fit_score_health_and_watch(drives, road, tmp_path, capsys):
    code, out, err = run(capsys, "score", drives, tmp_path / "out", "--model", road)
    assert code == 0
    assert out.startswith("3 files scored")
    assert len(err.splitlines()) == 1  # nothing was passed over
    assert "3 recordings can show no p-value below 0.25" in err
    scored = pd.read_parquet(tmp_path / "out" / "d1.csv.parquet")
    assert run(capsys, "health", drives, "--model", road)[0] == 0
    code, out, err = run(capsys, "watch", drives / "d1.csv", "--model", road, "--timeout", "0.05")
    assert code == 5
    assert "ignored" not in err
    (tmp_path / "watched.csv").write_text(out)
    watched = pd.read_csv(tmp_path / "watched.csv").sort_values("start_s", ignore_index=True)
    np.testing.assert_allclose(watched["anomaly_score"], scored["anomaly_score"], rtol=1e-9)


def test_health_is_printed_by_file_and_time(drives, road, tmp_path, capsys):
    for number, gaps in enumerate([[(20, 30), (50, 75)], [(10, 70)]]):
        drive = pd.read_csv(drives / "d0.csv", sep=";", decimal=",")
        for first, last in gaps:
            drive.loc[first:last, "rpm"] = np.nan
        drive.to_csv(tmp_path / f"f{number}.csv", index=False)
    code, out, _ = run(capsys, "health", tmp_path / "f0.csv", tmp_path / "f1.csv", "--model", road, "--bad")
    assert code == 0
    places = [line.split()[1:3] for line in out.splitlines()[1:]]
    assert places == sorted(places, key=lambda place: (place[0], float(place[1])))
    assert {name for name, _ in places} == {"f0", "f1"}
    assert "UTC" not in out


def test_health_says_when_a_recording_with_a_date_was_bad(drives, road, tmp_path, capsys):
    drive = pd.read_csv(drives / "d0.csv", sep=";", decimal=",")
    drive.loc[20:60, "rpm"] = np.nan
    drive["time"] = pd.Timestamp("2024-05-01T10:00:00Z") + pd.to_timedelta(drive["time"], unit="s")
    drive.to_csv(tmp_path / "drive.csv", index=False)
    command = ("health", tmp_path / "drive.csv", "--model", road, "--out", tmp_path / "out.csv", "--bad")
    code, out, _ = run(capsys, *command)
    assert code == 0
    (row,) = pd.read_csv(tmp_path / "out.csv").to_dict("records")
    moment = pd.Timestamp("2024-05-01T10:00:00Z") + pd.Timedelta(seconds=row["start_s"])
    assert pd.Timestamp(row["time"]) == moment
    assert f"{row['start_s']:.1f} to {row['end_s']:.1f} s ({moment:%Y-%m-%d %H:%M:%S} UTC) rpm: dropout" in out


def test_health_tells_recordings_of_one_name_apart_and_refuses_other_units(drives, road, tmp_path, capsys):
    drive = pd.read_csv(drives / "d0.csv", sep=";", decimal=",")
    seconds = drive["time"]
    for day, bad in ((1, 20), (2, 40)):
        (tmp_path / f"day{day}").mkdir()
        drive["time"] = pd.Timestamp(f"2024-05-0{day}T10:00:00Z") + pd.to_timedelta(seconds, unit="s")
        drive.assign(rpm=drive["rpm"].mask((seconds > bad / 10) & (seconds < bad / 10 + 2))).to_csv(
            tmp_path / f"day{day}" / "0001.csv", index=False
        )
    command = ("health", tmp_path / "day1", tmp_path / "day2", "--model", road, "--bad")
    assert run(capsys, *command, "--out", tmp_path / "out.parquet")[0] == 0
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert dict(zip(found["recording"], found["time"].dt.day, strict=True)) == {"day1/0001": 1, "day2/0001": 2}

    model = tmp_path / "model"
    drive.rename(columns={"speed": "speed [m/s]"}).to_csv(tmp_path / "ms.csv", index=False)
    assert run(capsys, "fit", tmp_path / "ms.csv", "--model", model, *WINDOWS, *TINY)[0] == 0
    drive.rename(columns={"speed": "speed [km/h]"}).to_csv(tmp_path / "kmh.csv", index=False)
    code, _, err = run(capsys, "health", tmp_path / "kmh.csv", "--model", model)
    assert code == 1
    assert "kmh.csv: Signal 'speed' is in km/h, expected m/s, as in training" in err


def test_all_recordings_that_cannot_be_learned_are_named_at_once(drives, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("time,speed\n0,1\n1,2\n")
    (tmp_path / "b.csv").write_text("time,speed,rpm\n" + "".join(f"{i * 100},1,2\n" for i in range(9)))
    (tmp_path / "c.csv").write_text("time,speed,rpm\n0,1,2\n0.1,4x,2\n0.2,2,2\n")
    code, _, err = run(capsys, "fit", tmp_path, "--model", tmp_path / "model", *WINDOWS)
    assert code == 1
    for said in (
        "3 recordings cannot be used: (1)", "a.csv has no column for signal 'rpm'", "b.csv gives no unit of time",
        "2 of 3 cells are numbers; line 3 holds '4x'",
    ):  # fmt: skip
        assert said in err


def test_the_option_of_the_time_column_decides_in_every_verb(road, tmp_path, capsys):
    rng = np.random.default_rng(5)
    drive = pd.DataFrame(rng.normal(size=(80, 2)).round(4), columns=["speed", "rpm"])
    drive.insert(0, "ticks", 5000 + 100 * np.arange(80))
    drive.to_csv(tmp_path / "drive.csv", index=False)
    time = ["--time", "ticks [ms]"]
    code, _, err = run(capsys, "score", tmp_path / "drive.csv", tmp_path / "out", "--model", road)
    assert code == 3
    assert "name it by time= (--time)" in err
    assert run(capsys, "score", tmp_path / "drive.csv", tmp_path / "out", "--model", road, *time, "--overwrite")[0] == 0
    code, out, _ = run(capsys, "watch", tmp_path / "drive.csv", "--model", road, "--timeout", "0.05", *time)
    assert (code, len(out.splitlines())) == (5, 16)
    assert run(capsys, "health", tmp_path / "drive.csv", "--model", road, *time)[0] == 0
    assert run(capsys, "fit", tmp_path / "drive.csv", "--model", tmp_path / "m", *time, *WINDOWS, *TINY)[0] == 0


WORKER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from anomalyvae.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_worker_without_torch_and_pandas_scores_into_one_table(rows, tmp_path, capsys, suffix):
    """With numpy, onnxruntime and pyarrow alone, as the README says."""
    table, model = tmp_path / "rows.csv", tmp_path / "model"
    rows.to_csv(table, index=False)
    assert run(capsys, "fit", table, "--model", model, *TINY)[0] == 0
    absent = {"torch", "sklearn", "pandas", "scipy", "safetensors", "skops", "onnx", "pydantic", "rich", "joblib"}
    out = tmp_path / f"scores{suffix}"
    command = ["score", table, out, "--model", model, "--alarms", "alpha=0.2"]
    script = [sys.executable, "-c", WORKER.replace("{absent}", repr(absent)), *map(str, command)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Scored 60 rows, ")
    scores = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
    detector = load(model)
    np.testing.assert_allclose(scores["anomaly_score"], detector.anomaly_score(rows), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(scores["is_outlier"], detector.alarms(rows, alpha=0.2))


@pytest.mark.parametrize(
    ("absent", "verb", "install"),
    [
        ("pandas", ["drift", "scores"], "pip install pandas. "),
        ("sklearn", ["fit", "rows.csv", "--model", "model"], "pip install scikit-learn. "),
    ],
)
def test_a_verb_that_needs_more_than_a_worker_has_says_what_to_install(rows, tmp_path, absent, verb, install):
    rows.to_csv(tmp_path / "rows.csv", index=False)
    script = [sys.executable, "-c", WORKER.replace("{absent}", repr({absent})), *verb]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert f"error: {absent} is not installed, and this needs it. " in done.stderr
    assert install in done.stderr


def test_lines_that_end_with_cr_alone_are_lines(drives, road, tmp_path, capsys):
    folder = tmp_path / "cr"
    folder.mkdir()
    for file in drives.glob("*.csv"):
        (folder / file.name).write_bytes(file.read_bytes().replace(b"\n", b"\r"))
    code, out, _ = run(capsys, "score", folder, tmp_path / "out", "--model", road)
    assert code == 0
    assert out.startswith("3 files scored")
    assert run(capsys, "score", drives, tmp_path / "lf", "--model", road)[0] == 0
    for name in ("d0", "d1", "d2"):
        found, expected = (pd.read_parquet(tmp_path / where / f"{name}.csv.parquet") for where in ("out", "lf"))
        pd.testing.assert_frame_equal(found, expected)
    said = [run(capsys, "watch", at / "d1.csv", "--model", road, "--timeout", "0.05")[1] for at in (folder, drives)]
    assert said[0] == said[1]
    assert said[0].count("\n") > 5


def test_packed_recordings_are_learned_scored_and_graded(drives, road, tmp_path, capsys):
    for file in drives.glob("*.csv"):
        (tmp_path / "packed").mkdir(exist_ok=True)
        (tmp_path / "packed" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    for verb in (
        ("fit", tmp_path / "packed", "--model", tmp_path / "model", *WINDOWS, *TINY),
        ("score", tmp_path / "packed", tmp_path / "out", "--model", road),
        ("score", drives, tmp_path / "plain", "--model", road),
        ("health", tmp_path / "packed", "--model", road),
    ):
        assert run(capsys, *verb)[0] == 0
    found, expected = (pd.read_parquet(tmp_path / where) for where in ("out/d1.csv.gz.parquet", "plain/d1.csv.parquet"))
    assert set(found["recording"]) == {"d1.csv"}
    pd.testing.assert_frame_equal(found.drop(columns="recording"), expected.drop(columns="recording"))
    damaged = tmp_path / "packed" / "d0.csv.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    code, _, err = run(capsys, "score", tmp_path / "packed", tmp_path / "again", "--model", road)
    assert (code, "failed: d0.csv.gz: " in err) == (3, True)
    assert not (tmp_path / "again" / "d0.csv.gz.parquet").exists()


def test_files_of_other_kinds_are_counted_by_suffix(drives, road, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(drives, folder)
    for name in ("a.tsv.gz", "b.TSV.gz", "sheet.xlsx", "more/notes.txt", "more/noext"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"1")
    for name in ("README.md", "license.txt", "car.dbc", "settings.json", "_run.json", ".DS_Store"):  # no data
        (folder / name).write_bytes(b"1")
    model = tmp_path / "model"
    for verb in (
        ("fit", folder, "--model", model, *WINDOWS, *TINY),
        ("score", folder, tmp_path / "out", "--model", road),
        ("health", folder, "--model", road),
    ):
        code, _, err = run(capsys, *verb)
        assert code == 0
        assert "are not read: 2 .tsv.gz, 1 without a suffix, 1 .txt, 1 .xlsx. Unpack or convert them" in err
    (tmp_path / "sheets").mkdir()
    shutil.copy(folder / "sheet.xlsx", tmp_path / "sheets")
    with pytest.raises(
        FileNotFoundError, match=r"has 1 files \(1 \.xlsx\), but none to read .*\. Unpack or convert them"
    ):
        score_folder(road, tmp_path / "sheets", tmp_path / "none")


# A column that is kept


@pytest.fixture(scope="module")
def numbered(rows, tmp_path_factory):
    """A table with an identifier that looks like a number, and a model that has not learned it."""
    folder = tmp_path_factory.mktemp("numbered")
    table = rows.assign(part=[f"00{number}" for number in range(len(rows))], lot=range(len(rows)))
    table.loc[3, "part"] = "NA"  # a code, not a missing value
    table.to_csv(folder / "rows.csv", index=False)
    table.to_parquet(folder / "rows.parquet")
    arguments = ["fit", folder / "rows.csv", "--exclude", "part", "--exclude", "lot", "--model", folder / "model"]
    assert main([*map(str, arguments), *TINY, "--quiet"]) == 0
    assert read_card(folder / "model")["columns"] == ["a", "b", "machine"]
    return folder, table


@pytest.mark.parametrize(("source", "target"), [("csv", "csv"), ("parquet", "parquet"), ("csv", "parquet")])
def test_an_identifier_is_carried_into_the_scores(numbered, tmp_path, capsys, source, target):
    folder, table = numbered
    out = tmp_path / f"scores.{target}"
    keep = ["--model", folder / "model", "--keep", "part,lot", "--exclude", "lot"]
    assert run(capsys, "score", folder / f"rows.{source}", out, *keep)[0] == 0
    if target == "csv":
        found = pd.read_csv(out, dtype={"part": str, "lot": str}, keep_default_na=False)
    else:
        found = pd.read_parquet(out)
    assert list(found.columns[:4]) == ["row", "part", "lot", "anomaly_score"]
    assert found["part"].tolist() == table["part"].tolist()
    lots = table["lot"] if (source, target) == ("parquet", "parquet") else table["lot"].astype(str)
    assert found["lot"].tolist() == lots.tolist()
    plain = tmp_path / "plain.parquet"
    assert run(capsys, "score", folder / f"rows.{source}", plain, "--model", folder / "model")[0] == 0
    scores = pd.read_parquet(plain)["anomaly_score"]
    assert np.allclose(found["anomaly_score"], scores, rtol=1e-12, atol=1e-12)


def test_a_whole_number_is_carried_digit_by_digit_also_beside_a_missing_one(numbered, tmp_path, capsys):
    folder, table = numbered
    lots = pd.array([2**53 + 1, None, *range(2, len(table))], dtype="Int64")
    table.assign(lot=lots).to_parquet(tmp_path / "rows.parquet")
    options = ["--model", folder / "model", "--exclude", "part", "--keep", "lot"]
    assert run(capsys, "score", tmp_path / "rows.parquet", tmp_path / "scores.csv", *options)[0] == 0
    found = pd.read_csv(tmp_path / "scores.csv", dtype=str, keep_default_na=False)
    assert found["lot"].tolist()[:3] == ["9007199254740993", "", "2"]


def test_a_duration_is_carried_with_its_unit(numbered, tmp_path, capsys):
    folder, table = numbered
    lots = pd.to_timedelta(np.arange(len(table)) * 1.5, unit="s")
    table.assign(lot=lots).to_parquet(tmp_path / "rows.parquet")
    options = ["--model", folder / "model", "--exclude", "part", "--keep", "lot"]
    for out in ("scores.parquet", "scores.csv"):
        assert run(capsys, "score", tmp_path / "rows.parquet", tmp_path / out, *options)[0] == 0
    found = pd.read_parquet(tmp_path / "scores.parquet"), pd.read_csv(tmp_path / "scores.csv")
    for each in found:
        assert pd.to_timedelta(each["lot"]).tolist() == lots.tolist()
    assert found[0]["lot"].dtype.kind == "m"


def test_a_folder_of_scores_keeps_it_and_a_run_without_it_is_another(numbered, tmp_path, capsys):
    folder, table = numbered
    source, scores = tmp_path / "rows", tmp_path / "scores"
    (source / "site=north").mkdir(parents=True)
    (source / "site=north" / "a.parquet").write_bytes((folder / "rows.parquet").read_bytes())
    arguments = ["score", source, scores, "--model", folder / "model"]
    assert run(capsys, *arguments, "--keep", "lot,site")[0] == 0
    found = pd.read_parquet(scores / "site=north" / "a.parquet", partitioning=None)
    assert found["lot"].tolist() == table["lot"].tolist()
    assert set(found["site"]) == {"north"}
    code, _, said = run(capsys, *arguments)
    assert (code, "other settings" in said) == (1, True)


def test_a_column_that_cannot_be_kept_is_named(numbered, road, drives, tmp_path, capsys):
    folder, _ = numbered
    out = tmp_path / "scores.csv"
    for keep, model, source, reason in [
        ("pat", folder / "model", folder / "rows.csv", "It has no column 'pat' to keep. Did you mean 'part'?"),
        ("row", folder / "model", folder / "rows.csv", "Got the column 'row' to keep, but the scores have a column"),
        ("speed", road, drives / "d0.csv", "Got columns to keep, 'speed', with a model of windows"),
    ]:
        code, _, said = run(capsys, "score", source, out, "--model", model, "--keep", keep)
        assert code == 1
        assert reason in said
        assert not out.exists()


def test_a_scorer_returns_a_kept_column_beside_the_scores(numbered):
    folder, table = numbered
    scorer = Scorer(folder / "model")
    found = scorer.score(table.drop(columns="lot"), keep=["part", "a"])
    assert list(found)[:3] == ["part", "a", "anomaly_score"]
    assert found["part"].tolist() == table["part"].tolist()
    plain = scorer.score(table[["a", "b", "machine"]])
    assert np.array_equal(found["anomaly_score"], plain["anomaly_score"])
    with pytest.raises(ValueError, match=r"has no column 'pat' to keep, but .*'part'"):
        scorer.score(table, keep=["pat"])
    with pytest.raises(ValueError, match=r"Got columns to keep of a ndarray, expected a table"):
        scorer.score(np.zeros((1, 3)), keep=["part"])

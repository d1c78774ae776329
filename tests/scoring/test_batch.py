"""A folder of files becomes a folder of scores: each row once, whatever happens on the way."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.dataset import dataset
from score_tables import scores_in, summary_of, thirds
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from anomalyvae import VAEOutlierDetector, WindowRecipe, save, score_folder
from anomalyvae.cli import main
from anomalyvae.recordings import READERS, Log, log_from_frame, read_windows
from anomalyvae.recordings.guard import guarded
from anomalyvae.scoring import engines
from anomalyvae.scoring import inputs as sources
from anomalyvae.scoring.one_file import Outcome, output_of
from anomalyvae.tables import rows as table_rows

COLUMNS = ["row", "anomaly_score", "p_value", "is_outlier", "new_gaps", "model_id"]


# What it gives


def test_each_row_gets_the_detector_s_score(bundle, drives, detector, fresh, tmp_path):
    summary = score_folder(bundle, drives, tmp_path / "out")
    tables = scores_in(tmp_path / "out")
    assert list(tables) == ["b.parquet", "day=1/a b.csv.parquet", "day=1/ü.parquet"]
    for table, rows in zip(tables.values(), thirds(fresh), strict=True):
        got = table.to_pandas()
        assert list(got) == COLUMNS
        np.testing.assert_array_equal(got["row"], np.arange(len(rows)))
        np.testing.assert_allclose(got["anomaly_score"], detector.anomaly_score(rows), rtol=1e-9)
        np.testing.assert_allclose(got["p_value"], detector.p_values(rows), rtol=1e-9)
        np.testing.assert_array_equal(got["is_outlier"], detector.predict(rows) == -1)
        assert got["model_id"].unique().tolist() == [summary["model_id"]]
        assert table.schema.field("model_id").type == pa.string()
    assert summary["rows"] == len(fresh)
    assert summary["flagged"] == np.sum(detector.predict(fresh) == -1)
    assert (summary["scored"], summary["kept"], summary["failed"], summary["passed_over"]) == (3, 0, 0, 1)
    assert summary == summary_of(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_run.json", "_summary.json", "b.parquet", "day=1",
    ]  # fmt: skip


def test_a_folder_of_scores_is_a_data_set(bundle, drives, fresh, tmp_path):
    summary = score_folder(bundle, drives, tmp_path / "out")
    assert len(pd.read_parquet(tmp_path / "out")) == len(fresh) == summary["rows"]
    found = dataset(tmp_path / "out", partitioning="hive").to_table()
    assert found.num_rows == len(fresh)
    assert found.group_by("day").aggregate([([], "count_all")]).to_pylist() == [
        {"day": None, "count_all": len(thirds(fresh)[0])},
        {"day": 1, "count_all": len(fresh) - len(thirds(fresh)[0])},
    ]


def test_polars_reads_the_folder_as_one_table(bundle, drives, fresh, tmp_path):
    score_folder(bundle, drives, tmp_path / "out")
    assert polars.read_parquet(tmp_path / "out/**/*.parquet", hive_partitioning=False).height == len(fresh)


def test_duckdb_reads_the_folder_as_one_table(bundle, drives, fresh, tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb: pip install duckdb")
    score_folder(bundle, drives, tmp_path / "out")
    found = duckdb.sql(f"select count(*) from '{tmp_path}/out/**/*.parquet'").fetchall()  # noqa: S608
    assert found == [(len(fresh),)]


def test_a_folder_of_an_earlier_version_goes_on_under_the_new_names(bundle, drives, autoencoder, tmp_path):
    target = tmp_path / "out"
    score_folder(bundle, drives, target)
    for name in ("run.json", "summary.json"):
        (target / f"_{name}").rename(target / name)
    assert score_folder(bundle, drives, target)["kept"] == 3
    assert {path.name for path in target.iterdir()} == {"_run.json", "_summary.json", "b.parquet", "day=1"}
    for name in ("run.json", "summary.json"):
        (target / f"_{name}").rename(target / name)
    other = save(autoencoder, tmp_path / "other")
    with pytest.raises(FileExistsError, match="has scores of model"):
        score_folder(other, drives, target)
    assert score_folder(other, drives, target, overwrite=True)["scored"] == 3
    assert {path.name for path in target.iterdir()} == {"_run.json", "_summary.json", "b.parquet", "day=1"}


@pytest.mark.parametrize("cells", [6 * 7, 6 * 1024])
def test_batches_leave_no_trace(bundle, drives, detector, fresh, tmp_path, monkeypatch, cells):
    monkeypatch.setattr(sources, "_CELLS", cells)
    monkeypatch.setattr(sources, "_LEAST", 7)
    monkeypatch.setattr(table_rows, "_BLOCK", 1000)
    score_folder(bundle, drives, tmp_path / "out")
    got = pd.concat([table.to_pandas() for table in scores_in(tmp_path / "out").values()])
    np.testing.assert_allclose(got["anomaly_score"], detector.anomaly_score(fresh), rtol=1e-9)
    np.testing.assert_array_equal(got["row"], np.concatenate([np.arange(len(r)) for r in thirds(fresh)]))


@pytest.mark.parametrize(
    "source",
    ["drives/b.parquet", "drives/*.parquet", "drives/b*", ["drives/b.parquet"], "drives/[ab].parquet"],
    ids=str,
)
def test_a_file_or_a_pattern(bundle, drives, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    summary = score_folder(bundle, source, "out")
    assert [file["file"] for file in summary["files"]] == ["b.parquet"]
    assert (tmp_path / "out" / "b.parquet").exists()


def test_several_sources_are_named_from_the_folder_that_holds_them(bundle, drives, tmp_path):
    summary = score_folder(bundle, [drives / "b.parquet", drives / "day=1" / "*.csv"], tmp_path / "out")
    assert [file["file"] for file in summary["files"]] == ["b.parquet", "day=1/a b.csv"]


def test_an_onnx_file_is_as_good_as_its_bundle(bundle, drives, tmp_path):
    score_folder(bundle, drives, tmp_path / "out")
    score_folder(bundle / "model.onnx", drives, tmp_path / "same")
    assert scores_in(tmp_path / "out") == scores_in(tmp_path / "same")


def test_missing_cells_text_and_partitions(normal, tmp_path):
    def rows(x):
        return x.assign(road=np.where(x["signal 0"] > 0, "NA-road", "2"), wet=x["signal 1"] > 4.99, day=1.0)

    detector = VAEOutlierDetector(random_state=0, max_epochs=3).fit(rows(normal))
    model = save(detector, tmp_path / "bundle", precision="double")
    table = rows(normal[:50])
    table.loc[3:9, ["road", "signal 2"]] = None
    folder = tmp_path / "in" / "day=1"
    folder.mkdir(parents=True)
    table.drop(columns="day").to_parquet(folder / "a.parquet")
    table.drop(columns="day").to_csv(folder / "b.csv", index=False)
    score_folder(model, tmp_path / "in", tmp_path / "out")
    for scores in scores_in(tmp_path / "out").values():
        np.testing.assert_allclose(scores["anomaly_score"], detector.anomaly_score(table), rtol=1e-9)

    missing = table.assign(road=None, day=np.nan)
    missing.to_parquet(tmp_path / "missing", partition_cols=["day", "road"])
    score_folder(model, tmp_path / "missing", tmp_path / "out of missing")
    (scores,) = scores_in(tmp_path / "out of missing").values()
    np.testing.assert_allclose(scores["anomaly_score"], detector.anomaly_score(missing), rtol=1e-9)


def test_a_model_without_names_takes_columns_in_their_order(normal, fresh, tmp_path):
    detector = VAEOutlierDetector(random_state=0, max_epochs=3).fit(normal.to_numpy())
    model = save(detector, tmp_path / "bundle", precision="double")
    fresh.to_csv(tmp_path / "rows.csv", index=False)
    score_folder(model, tmp_path / "rows.csv", tmp_path / "out")
    scores = pq.read_table(tmp_path / "out" / "rows.csv.parquet")
    np.testing.assert_allclose(scores["anomaly_score"], detector.anomaly_score(fresh.to_numpy()), rtol=1e-9)


def test_a_column_of_a_csv_may_change_its_looks_late(bundle, fresh, detector, tmp_path, monkeypatch):
    """A reader that guesses types from the first block would stumble over the first fraction."""
    monkeypatch.setattr(table_rows, "_BLOCK", 256)
    rows = fresh.assign(**{"signal 5": np.where(np.arange(len(fresh)) < 200, 7, fresh["signal 5"])})
    text = rows.to_csv(index=False).replace(",7.0\n", ",7\n")
    (tmp_path / "a.csv").write_text(text)
    assert score_folder(bundle, tmp_path / "a.csv", tmp_path / "out")["failed"] == 0
    scores = pq.read_table(tmp_path / "out" / "a.csv.parquet")
    np.testing.assert_allclose(scores["anomaly_score"], detector.anomaly_score(rows), rtol=1e-9)


def test_flags_under_a_promise(bundle, drives, detector, fresh, tmp_path):
    with pytest.warns(UserWarning, match="this model's calibration gives none below"):
        score_folder(bundle, drives, tmp_path / "none", alarms={"alpha": 1e-6})
    assert summary_of(tmp_path / "none")["flagged"] == 0
    expected = detector.alarms(fresh, alpha=0.02)
    assert score_folder(bundle, drives, tmp_path / "some", alarms={"alpha": 0.02})["flagged"] == expected.sum() > 0
    score_folder(bundle, drives, tmp_path / "tail", alarms={"alpha": 1e-6}, tail="pareto")
    got = pd.concat([table.to_pandas() for table in scores_in(tmp_path / "tail").values()])
    np.testing.assert_allclose(got["p_value"], detector.p_values(fresh, tail="pareto"), rtol=1e-6)
    for wrong, message in (
        ({"per_hour": 6}, "for plain rows, which have no time"),
        ({"fdr": 0.1}, "where rows are scored piece by piece, expected alpha or per_hour"),
        ({"alpha": 0.1, "per_hour": 6}, "expected exactly one of alpha, fdr and per_hour"),
        ({}, "Got nothing as alarm target"),
        ({"alpha": 2}, "Got alpha=2 as alarm target, expected a number above 0 and below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            score_folder(bundle, drives, tmp_path / "wrong", alarms=wrong)


def test_flagged_rows_say_why(bundle, drives, detector, fresh, tmp_path):
    score_folder(bundle, drives, tmp_path / "out", feature_scores=True)
    got = pd.concat([table.to_pandas() for table in scores_in(tmp_path / "out").values()], ignore_index=True)
    parts = got[[f"feature_score.{name}" for name in fresh]]
    flagged = got["is_outlier"].to_numpy()
    assert parts[~flagged].isna().all(axis=None)
    np.testing.assert_allclose(parts[flagged], detector.feature_scores(fresh)[flagged], rtol=1e-9, atol=1e-9)


def test_features_of_a_pipeline_that_does_not_name_them(normal, fresh, tmp_path):
    """Six columns go in, twelve come out of a function: a name for each, not six for pairs of them."""
    twice = make_union(FunctionTransformer(np.square), FunctionTransformer(np.tanh))
    model = make_pipeline(twice, VAEOutlierDetector(random_state=0, max_epochs=3)).fit(normal)
    fresh.to_parquet(tmp_path / "rows.parquet")
    score_folder(
        save(model, tmp_path / "m", precision="double"),
        tmp_path / "rows.parquet",
        tmp_path / "out",
        feature_scores=True,
    )
    got = pd.read_parquet(tmp_path / "out" / "rows.parquet")
    parts = got[[f"feature_score.{i}" for i in range(12)]][got["is_outlier"]]
    expected = model[-1].feature_scores(model[:-1].transform(fresh[got["is_outlier"].to_numpy()]))
    np.testing.assert_allclose(parts, expected, rtol=1e-6, atol=1e-6)


def test_progress_ends_where_it_should(bundle, drives, tmp_path):
    seen = []
    score_folder(bundle, drives, tmp_path / "out", progress=seen.append)
    assert seen[0][:4] == (3, 0, 0, 0)
    assert [p.files_done for p in seen] == sorted(p.files_done for p in seen)
    assert [p.rows_scored for p in seen] == sorted(p.rows_scored for p in seen)
    assert seen[-1][:4] == (3, 3, 0, 400)
    score_folder(bundle, drives, tmp_path / "out", progress=seen.append)
    assert seen[-1][:4] == (3, 3, 3, 0)


@pytest.fixture
def recordings(tmp_path):
    """Drives in two formats, of which the last is too short for a window."""
    source = tmp_path / "recordings"
    for number, (name, ticks) in enumerate([("car a/1.parquet", 900), ("car a/2.csv", 700), ("short.parquet", 5)]):
        rng = np.random.default_rng(number)
        frame = pd.DataFrame(rng.normal(size=(ticks, 2)), columns=["a", "b"])
        frame.insert(0, "time_s", 3.0 + np.arange(ticks) * 0.1 + 20.0 * (np.arange(ticks) >= 400))
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(source / name, index=False) if name.endswith("csv") else frame.to_parquet(source / name)
    return source


def test_recordings_are_cut_as_in_training(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_CELLS", 4000)
    monkeypatch.setattr(sources, "_LEAST", 7)
    recipe = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=0.5, max_gap_s=1)
    windows = read_windows(recordings / "car a" / "1.parquet", recipe)
    detector = VAEOutlierDetector(random_state=0, max_epochs=3).fit(windows.rows)
    model = save(detector, tmp_path / "model", recipe=recipe.to_dict(), precision="double")
    summary = score_folder(model, recordings, tmp_path / "out", alarms={"per_hour": 72}, feature_scores=True)
    assert [file["error"] for file in summary["files"][:2]] == [None, None]
    why = "It has no window: its values reach over 0.4 s (column 'time_s' in seconds), and a window takes 2 s."
    assert (summary["files"][2]["error"], summary["failed"]) == (why, 1)
    tables = scores_in(tmp_path / "out")
    assert list(tables) == ["car a/1.parquet", "car a/2.csv.parquet"]
    for name, path in [("car a/1.parquet", "car a/1.parquet"), ("car a/2.csv.parquet", "car a/2.csv")]:
        got, windows = tables[name].to_pandas(), read_windows(recordings / path, recipe)
        assert list(got)[:3] == ["recording", "start_s", "end_s"]
        assert set(got["recording"]) == {path.rpartition(".")[0]}
        np.testing.assert_array_equal(got[["start_s", "end_s"]], windows.spans[["start_s", "end_s"]])
        np.testing.assert_allclose(got["anomaly_score"], detector.anomaly_score(windows.rows), rtol=1e-9)
        np.testing.assert_array_equal(got["is_outlier"], got["p_value"] <= 0.01 * (1 + 1e-9))  # 72 of 7,200 an hour
        parts = detector.feature_scores(windows.rows).to_numpy().reshape(-1, 2, 10).sum(axis=2)
        flagged = got["is_outlier"].to_numpy()
        np.testing.assert_allclose(got.loc[flagged, ["feature_score.a", "feature_score.b"]], parts[flagged], rtol=1e-6)


def test_a_recording_that_cannot_be_read_is_reported(recordings, tmp_path):
    recipe = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=0.5, max_gap_s=1)
    detector = VAEOutlierDetector(random_state=0, max_epochs=3).fit(
        read_windows(recordings / "car a/2.csv", recipe).rows
    )
    model = save(detector, tmp_path / "model", recipe=recipe.to_dict())
    frame = pd.read_csv(recordings / "car a" / "2.csv")
    pd.concat([frame, frame]).to_parquet(recordings / "again.parquet")
    frame.drop(columns="b").to_csv(recordings / "lacks.csv", index=False)
    frame[:0].to_parquet(recordings / "none.parquet")
    (recordings / "header.csv").write_text("time_s,a,b\n")
    (recordings / "bytes.parquet").write_bytes(b"PAR1" + bytes(100))
    summary = score_folder(model, recordings, tmp_path / "out")
    said = {file["file"]: file["error"] for file in summary["files"] if file["error"]}
    assert said.keys() == {
        "again.parquet", "bytes.parquet", "header.csv", "lacks.csv", "none.parquet", "short.parquet",
    }  # fmt: skip
    assert "jumps back" in said["again.parquet"]
    assert "lacks.csv has no column for signal 'b'" in said["lacks.csv"]
    assert said["none.parquet"] == said["header.csv"] == "It has no rows. Leave it out."
    assert summary["scored"] == 2


def test_two_files_with_one_name_of_a_recording_are_not_two_recordings(recordings, tmp_path):
    recipe = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=0.5, max_gap_s=1)
    path = recordings / "car a" / "2.csv"
    detector = VAEOutlierDetector(random_state=0, max_epochs=3).fit(read_windows(path, recipe).rows)
    model = save(detector, tmp_path / "model", recipe=recipe.to_dict())
    pd.read_csv(path).to_parquet(path.with_suffix(".parquet"))
    shutil.copy(path, os.fsencode(recordings) + b"/\xff.csv")
    summary = score_folder(model, recordings, tmp_path / "out")
    said = {file["file"]: file["error"] for file in summary["files"] if file["error"]}
    assert said["car a/2.parquet"] == "It is recording 'car a/2', as is car a/2.csv. Rename it, or leave it out."
    assert said["\udcff.csv"] == "Its name is not UTF-8. Rename it."
    assert summary["scored"] == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"time_s": lambda t: 60 * t}, "samples of 'a' are usually 6 s apart .column 'time_s' in seconds., more than"),
        ({"b": lambda b: np.nan * b}, "it has no value of 'b'"),
        ({"b": lambda b: b.where(np.arange(len(b)) % 20 > 3)}, "each has a gap of a signal. Gaps are longer than"),
    ],
)
def test_a_recording_without_a_window_says_why(recordings, tmp_path, change, why):
    recipe = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=0.5, max_gap_s=0.3)
    frame = pd.read_csv(recordings / "car a" / "2.csv").head(300)
    detector = VAEOutlierDetector(random_state=0, max_epochs=2)
    detector.fit(read_windows(log_from_frame(frame, "drive"), recipe).rows)
    model = save(detector, tmp_path / "m", recipe=recipe.to_dict())
    odd = tmp_path / "odd" / "drive.parquet"
    odd.parent.mkdir()
    frame.assign(**{name: change[name](frame[name]) for name in change}).to_parquet(odd)
    [outcome] = score_folder(model, odd.parent, tmp_path / "out")["files"]
    assert outcome["status"] == "failed"
    assert re.match(f"It has no window: .*{why}", outcome["error"])
    assert re.match(f"It has no window: .*{why}", read_windows(odd, recipe).without["drive"])


def test_what_cannot_be_entered_is_named(bundle, drives, tmp_path):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    shutil.copytree(drives, source)
    elsewhere.mkdir()
    (source / "link").symlink_to(elsewhere)
    (source / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    os.mkfifo(source / "pipe.parquet")
    summary = score_folder(bundle, source, tmp_path / "out")
    said = {file["file"]: file["error"] for file in summary["files"] if file["error"]}
    assert summary["failed"] == len(said)
    assert {name: why[:12] for name, why in said.items()} == {
        "gone.csv": "It is a link",
        "link": "It is a link",
        "pipe.parquet": "It is a pipe",
    }


# What goes wrong


def test_a_bad_file_is_reported_and_the_others_go_on(bundle, drives, troubled, tmp_path):
    summary = score_folder(bundle, drives, tmp_path / "out")
    failed = {file["file"]: file["error"] for file in summary["files"] if file["error"] is not None}
    assert failed.keys() == troubled.keys()
    for name, said in troubled.items():
        assert said in failed[name]
        assert failed[name].strip()
    assert (summary["scored"], summary["failed"]) == (3, len(troubled))
    assert len(scores_in(tmp_path / "out")) == 3
    assert not (tmp_path / "out" / ".staging").exists()
    again = score_folder(bundle, drives, tmp_path / "out")
    assert (again["kept"], again["failed"]) == (3, len(troubled))


def test_strict_stops(bundle, drives, troubled, tmp_path):
    with pytest.raises(ValueError, match=r"^(binary|corrupt|cut|empty|gone|header)\.\w+: "):
        score_folder(bundle, drives, tmp_path / "out", strict=True, workers=1)
    assert not (tmp_path / "out" / "_summary.json").exists()
    assert not (tmp_path / "out" / ".staging").exists()


def test_a_file_that_grows_while_it_is_read(bundle, drives, tmp_path, monkeypatch):
    honest = sources.batches_of

    def batches(root, name, *given):
        yield from honest(root, name, *given)
        if name == "b.parquet":
            with (root / name).open("ab") as file:
                file.write(b"more")

    monkeypatch.setattr("anomalyvae.scoring.one_file.batches_of", batches)
    summary = score_folder(bundle, drives, tmp_path / "out")
    assert [f["error"][:32] for f in summary["files"] if f["error"]] == ["It changed while it was read. Sc"]


def test_a_full_disk(bundle, drives, fresh, tmp_path):
    """No file may grow beyond 20 kB: a real failure to write, without a disk to fill."""
    pd.concat([fresh] * 20).to_parquet(drives / "large.parquet")
    script = (
        "import resource, signal, sys; from anomalyvae import score_folder\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "summary = score_folder(*sys.argv[1:])\n"
        "print([(f['file'], f['error']) for f in summary['files'] if f['error']])"
    )
    target = tmp_path / "out"
    said = subprocess.run(
        [sys.executable, "-c", script, str(bundle), str(drives), str(target)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "large.parquet" in said
    assert f"{target / 'large.parquet'}: File too large. Choose another disk, or raise the limit" in said
    assert list(scores_in(target)) == ["b.parquet", "day=1/a b.csv.parquet", "day=1/ü.parquet"]
    assert score_folder(bundle, drives, target)["scored"] == 1  # once there is room


@pytest.mark.parametrize("inside", ["", "out", "day=1/out"])
def test_a_target_inside_of_the_source_is_refused(bundle, drives, inside):
    with pytest.raises(ValueError, match="inside the source"):
        score_folder(bundle, drives, drives / inside)


def test_a_target_with_other_things_is_refused(bundle, drives, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="has other files than scores"):
        score_folder(bundle, drives, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_nothing_to_score(bundle, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"has 1 files \(1 .txt\), but none to read that ends in \.csv, \.csv\.gz, \.parquet"
    ):
        score_folder(bundle, tmp_path, tmp_path.parent / "out")
    for source, message in (("nowhere", "nowhere does not exist"), ("nowhere/*.csv", "has 0 files, but none")):
        with pytest.raises(FileNotFoundError, match=message):
            score_folder(bundle, source, tmp_path / "out")
    with pytest.raises(ValueError, match="Got engine='spark', expected one of 'local', 'dask'"):
        score_folder(bundle, tmp_path, tmp_path / "out", engine="spark")


def test_two_runs_at_once_are_refused(bundle, drives, tmp_path):
    def meddle(progress):
        with pytest.raises(BlockingIOError, match="Another run is writing"):
            score_folder(bundle, drives, tmp_path / "out")

    score_folder(bundle, drives, tmp_path / "out", progress=meddle)


def test_a_worker_needs_neither_torch_nor_pandas(bundle, drives, tmp_path):
    script = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('torch', 'sklearn', 'scipy', 'pandas', 'mlflow', 'onnx', 'safetensors', "
        "'rich', 'dask', 'distributed', 'joblib', 'skops'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from anomalyvae.cli import main\n"
        "sys.exit(main(['score', *sys.argv[1:3], '--model', sys.argv[3]]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(drives), str(tmp_path / "out"), str(bundle)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "400 rows" in result.stdout


def test_logs_of_a_vehicle_bus_are_scored_with_their_database(tmp_path):
    drives = Path(__file__).parents[3] / "shared" / "data" / "css_drive"
    if not drives.is_dir():
        pytest.skip("needs ../shared/data/css_drive")
    log, database = drives / "LOG" / "00000165" / "00000003-60FEBB3B.MF4", drives / "canmod-gps.dbc"
    model, scores = tmp_path / "model", tmp_path / "scores"
    windows = ["--signals=AccelerationX,Speed", "--rate-hz=10", "--length-s=2", "--stride-s=1", "--max-gap-s=2"]
    fit = ["fit", str(log), "--model", str(model), "--dbc", str(database), *windows, "--set", "max_epochs=1", "--quiet"]
    score = ["score", str(log), str(scores), "--model", str(model), "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some frames are in no database
        assert main(fit) == 0
        assert main(score) == 3  # without the database there is no such signal
        shutil.rmtree(scores)
        assert main([*score, "--dbc", str(database)]) == 0
    [found] = [pd.read_parquet(path) for path in scores.rglob("*.parquet")]
    assert len(found) > 500
    assert found["anomaly_score"].notna().all()
    other = tmp_path / "other.dbc"
    other.write_bytes(database.read_bytes() + b"\n")
    with pytest.raises(FileExistsError, match="other settings"):  # whose scores these would be is no guess
        score_folder(model, log, scores, databases=other)


def test_no_two_inputs_share_a_file_of_scores():
    names = [f"{stem}{suffix}" for stem in ("a", "a.csv", "a.parquet", "a.2026") for suffix in READERS]
    names += [f"{name}.parquet" for name in names]
    long = ["d/" + "ü" * 120 + end for end in (".parquet", "x.csv", "y.csv", "x.parquet", "\udcff.csv", "xxxxx.csv")]
    outputs = [output_of(name) for name in dict.fromkeys([*names, *long])]
    assert len(set(outputs)) == len(outputs)
    assert all(len(os.fsencode(Path(output).name)) <= 255 for output in outputs)
    assert output_of("drive.2026.parquet") == "drive.2026.parquet"
    assert output_of("a/b.csv") == "a/b.csv.parquet"


def never_ends(path, wanted):
    yield Log(path.stem, None, {})
    while True:
        pass


def test_a_stopped_run_does_not_wait_for_its_readers(tmp_path, monkeypatch):
    path = tmp_path / "drive.blf"
    path.touch()
    ended = []

    def score_file(work, name, pool):
        try:
            for _ in guarded(never_ends, path):
                yield Outcome(name, "reading")
        finally:
            ended.append(name)

    monkeypatch.setattr(engines, "score_file", score_file)
    outcomes = engines.local(None, ["a", "b", "c"], 2)
    next(outcomes)
    outcomes.close()
    assert set(ended) <= {"a", "b"}


def test_verbose_prints_progress_to_stderr(bundle, drives, tmp_path, capfd):
    score_folder(bundle, drives, tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    summary = score_folder(bundle, drives, tmp_path / "shown", verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    files = summary["scored"]
    assert err.splitlines()[-1].startswith(f"{files}/{files} files, ")

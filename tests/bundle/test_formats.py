"""A bundle of any format from 3 on opens, and scores as it did when it was written.

Each folder ``format-N`` holds tiny bundles written by the version that wrote that format, rows, and their scores.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomalyvae import Scorer, load, score_folder
from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.bundle.card import FORMAT
from anomalyvae.cli import main

FOLDERS = sorted(Path(__file__).parent.glob("format-*"))


def rows_of(folder, name):
    table = pd.read_json(folder / f"{name}_rows.json", orient="records", dtype=False)
    known = ["anomaly_score", "p_value", "is_outlier"]
    return table.drop(columns=known, errors="ignore"), table[[name for name in known if name in table]]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("name", ["detector", "pipeline"])
def test_a_bundle_of_each_format_scores_as_it_did(folder, name):
    rows, expected = rows_of(folder, name)
    model, scorer = load(folder / name), Scorer(folder / name)
    np.testing.assert_allclose(-model.score_samples(rows), expected["anomaly_score"], rtol=1e-12)
    np.testing.assert_array_equal(model.predict(rows) < 0, expected["is_outlier"])
    found = scorer.score(rows)
    assert list(found) == ["anomaly_score", "p_value", "is_outlier", "feature_scores"]
    for column in expected:
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-4)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_of_recordings_of_each_format_scores_a_folder_as_it_did(folder, tmp_path):
    score_folder(folder / "windows", folder / "d0.csv", tmp_path / "scores")
    (file,) = (tmp_path / "scores").glob("d0*")
    expected = pd.read_json(folder / "windows_scores.json", orient="records")
    got = pd.read_parquet(file).drop(columns="model_id")
    assert got.pop("time").isna().all()  # the recording does not say when it began
    pd.testing.assert_frame_equal(got, expected, check_dtype=False, rtol=1e-6)
    assert read_manifest(folder / "windows")["role"].eq("normal").all()
    assert read_card(folder / "windows")["health"] is not None


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recordings_are_ranked_without_p_values_and_drift_is_refused_by_name(folder, tmp_path, capsys):
    """These bundles have no figures of their training recordings: what needs them says so."""
    if read_card(folder / "windows").get("fleet") is not None:
        pytest.skip("this format has figures of its training recordings")
    summary = score_folder(folder / "windows", folder / "d0.csv", tmp_path / "scores")
    assert (summary["fleet"], summary["drift"]) == (None, None)
    assert main(["rank", str(tmp_path / "scores"), "--out", str(tmp_path / "ranking.parquet")]) == 0
    assert (
        "to fewer than 3 recordings (those that go on where another ends count as one), or with"
        in capsys.readouterr().err
    )
    ranking = pd.read_parquet(tmp_path / "ranking.parquet")
    scores = pd.read_json(folder / "windows_scores.json", orient="records")["anomaly_score"]
    assert (ranking["recording"].tolist(), ranking["windows"].tolist()) == (["d0"], [len(scores)])
    assert ranking["p_value"].isna().all()
    assert ranking["unlike"].tolist() == pytest.approx([np.log(2)])  # of one recording, its own median
    assert main(["drift", str(tmp_path / "scores")]) == 1
    assert "Fit it again, with more recordings. Without them, nothing can be said" in capsys.readouterr().err
    watch = ["watch", str(folder / "d0.csv"), "--model", str(folder / "windows"), "--timeout", "0.05"]
    assert main(watch) == 5
    assert "rift" not in capsys.readouterr().err
    assert main([*watch, "--drift", str(tmp_path / "drift.json")]) == 1
    assert "Fit it again" in capsys.readouterr().err


def test_the_present_format_is_among_them():
    assert f"format-{FORMAT}" in [folder.name for folder in FOLDERS]

"""A kill at any change of a file leaves something that opens, and the next call completes."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from killing import kills

from anomalyvae import load, save, score_folder
from anomalyvae.bundle import read_card
from anomalyvae.cli.console import writer
from anomalyvae.review import Queue

OLD = Path(__file__).parent / "format-4"
QUEUE = Path(__file__).parents[1] / "review" / "queue-1.csv"


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_scoring_a_folder(tmp_path, every):
    source, target = tmp_path / "drives", tmp_path / "out" / "scores"
    source.mkdir()
    for name in ("a.csv", "b.csv"):
        shutil.copy(OLD / "d0.csv", source / name)

    def score():
        return score_folder(OLD / "windows", source, target, workers=1)

    for _ in kills(score, target.parent, every):
        summary = score()
        assert summary["scored"] + summary["kept"] == 2
        assert sorted(path.name for path in target.iterdir() if not path.name.startswith(".")) == [
            "_run.json", "_summary.json", "a.csv.parquet", "b.csv.parquet"
        ]  # fmt: skip
        expected = pd.read_parquet(target / "a.csv.parquet")["anomaly_score"]
        assert expected.equals(pd.read_parquet(target / "b.csv.parquet")["anomaly_score"])
        shutil.rmtree(target.parent)
    assert score()["kept"] == 2


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_saving_a_model_over_another(tmp_path, every):
    folder = tmp_path / "models" / "m"
    old, new = load(OLD / "windows"), load(OLD / "detector")
    shutil.copytree(OLD / "windows", folder)
    known = {read_card(OLD / name)["model_id"]: name for name in ("windows", "detector")}
    rows = pd.DataFrame(np.zeros((1, 8)), columns=old.feature_names_in_)
    for _ in kills(lambda: save(new, folder), folder.parent, every):
        assert read_card(folder)["model_id"] in known
        model = load(folder)
        assert model.n_features_in_ == 4 or model.score_samples(rows) == old.score_samples(rows)
        shutil.rmtree(folder)
        shutil.copytree(OLD / "windows", folder)
    assert load(folder).n_features_in_ == 4


def test_tables_and_exports(tmp_path):
    table = pd.DataFrame({"a": [1.0, 2.0]})
    for name in ("health.csv", "scores.parquet"):
        file = tmp_path / name
        for _ in kills(lambda file=file: writer(str(file))(table), tmp_path):
            writer(str(file))(table)
        assert file.is_file()
    with Queue(tmp_path / "queue.db") as queue:
        queue.load(QUEUE)
        queue.export(tmp_path / "first.csv")
    first = (tmp_path / "first.csv").read_bytes()

    def export():
        with Queue(tmp_path / "queue.db") as queue:
            queue.export(tmp_path / "first.csv")

    for _ in kills(export, tmp_path):
        assert (tmp_path / "first.csv").read_bytes() == first
    export()


def test_a_verdict_that_was_given_is_there_after_a_kill(tmp_path):
    with Queue(tmp_path / "queue.db") as queue:
        queue.load(QUEUE)
        name = queue.events()["event_id"][0]
        before = len(queue.history(name))

    def give():
        with Queue(tmp_path / "queue.db") as queue:
            queue.give(name, "fault", "ada")
            (tmp_path / "given").touch()
            (tmp_path / "last").touch()

    for _ in kills(give, tmp_path):
        with Queue(tmp_path / "queue.db", create=False) as queue:
            now = len(queue.history(name))
        assert now > before or not (tmp_path / "given").exists()
        (tmp_path / "given").unlink(missing_ok=True)
        before = now

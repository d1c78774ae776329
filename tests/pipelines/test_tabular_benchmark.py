"""The tabular benchmark splits without leaking, pairs fairly, keeps what it has, and goes on where it stopped."""

import json

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pyod")
import tabular
import tabular_report


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(size=(80, 3)), 5 + rng.normal(size=(8, 3))])
    (tmp_path / "toys").mkdir()
    np.savez(tmp_path / "toys" / "toy.npz", X=x, y=np.repeat([0, 1], [80, 8]))
    return tmp_path


@pytest.fixture
def plant(tmp_path):
    """Two faults of a small plant: rows of the second half of each test are far away."""
    rng = np.random.default_rng(0)
    parts = []
    for series, split, n in (("d00", "train", 50), *((f"d{i:02}", "test", 20) for i in range(11))):
        fault = (np.arange(n) >= 10) & (split == "test") & (series != "d00")
        rows = rng.normal(3, 2, size=(n, 2)) + 50 * fault[:, None]
        part = {"series": series, "split": split, "time": np.arange(n), "label": fault.astype(int)}
        parts.append(pd.DataFrame(part | {"f0": rows[:, 0], "f1": rows[:, 1]}))
    (tmp_path / "tep").mkdir()
    pd.concat(parts).to_parquet(tmp_path / "tep" / "tep.parquet")
    return tmp_path


def results(aurocs, collection="oddbench", protocol="normal"):
    """Results of methods on tables: ``{(method, table, seed): auroc}``."""
    return pd.DataFrame(
        {
            "collection": collection, "protocol": protocol, "method": method, "table": table, "seed": seed,
            "half": "chosen" if table.startswith("c") else "unseen", "failure": "",
            "auroc": value, "average_precision": value / 2, "fit_s": 0.1, "score_s": 0.1,
        }
        for (method, table, seed), value in aurocs.items()
    )  # fmt: skip


def test_normal_protocol_learns_half_of_the_normal_rows_and_scores_the_others(folder):
    path = folder / "toys" / "toy.npz"
    task = tabular.task(path, "normal", 0)
    assert len(task.learned) == 40
    assert (~task.outlier).sum() == 40
    assert task.outlier.sum() == 8
    assert not set(map(tuple, task.learned)) & set(map(tuple, task.scored))
    np.testing.assert_allclose(task.learned.mean(axis=0), 0, atol=1e-12)
    assert not np.array_equal(task.learned, tabular.task(path, "normal", 1).learned)


def test_contaminated_protocol_scores_everything(folder):
    task = tabular.task(folder / "toys" / "toy.npz", "contaminated", 0)
    assert len(task.learned) == len(task.scored) == 88


def test_columns_are_standardised_unless_they_share_a_unit(tmp_path):
    x, y = np.random.default_rng(0).normal(5, [1, 3], size=(40, 2)), np.arange(40) < 4
    for name, unit in {"own": {}, "shared": {"one_unit": True}}.items():
        np.savez(tmp_path / f"{name}.npz", X=x, y=y, **unit)
    paths = (tmp_path / "own.npz", tmp_path / "shared.npz")
    own, shared = (tabular.task(path, "normal", 0).learned.std(axis=0) for path in paths)
    np.testing.assert_allclose(own, 1)
    assert shared[1] > 2 * shared[0]


def test_the_plant_learns_its_normal_rows_once_and_scores_each_fault(plant):
    source = tabular.sources(plant, ["tep"])[0]
    given = tabular.tasks(source, "normal", 0)
    assert list(given) == [f"d{fault:02}" for fault in range(1, 11)]
    assert all(len(task.learned) == 50 and task.outlier.sum() == 10 for task in given.values())
    np.testing.assert_allclose(given["d01"].learned.mean(axis=0), 0, atol=1e-12)
    job = tabular.Job(source, "normal", 0, "mahalanobis")
    assert {r["table"]: r["auroc"] for r in tabular.results_of(job)} == dict.fromkeys(given, 1.0)
    assert not list(tabular.jobs([source], ["contaminated"], [0], ["knn"]))


def test_a_name_alone_decides_the_half_and_neither_half_leaks(plant):
    names = [f"d{fault:02}" for fault in range(1, 11)]
    halves = {half: tabular.sources(plant, ["tep"], half)[0].tables for half in ("chosen", "unseen", "whole")}
    assert halves["whole"] == tuple(names)
    assert sorted(halves["chosen"] + halves["unseen"]) == names
    assert halves["chosen"] == tuple(n for n in names if tabular.half_of("tep", n) == "chosen")
    assert tabular.half_of("adbench", "18_Ionosphere") == "chosen"  # fixed for good: SHA-256 begins with 14
    assert tabular.half_of("oddbench", "007_WineFraud") == "unseen"  # 97


def test_a_run_goes_on_where_it_stopped(folder, capsys):
    found, store = tabular.sources(folder, ["toys"]), folder / "out" / "results.jsonl"
    first = tabular.run(list(tabular.jobs(found, ["normal"], [0], ["knn"])), store)
    assert first["auroc"].tolist() == [1.0]
    with store.open("a") as file:
        file.write('{"protocol": "normal", "se')  # a kill while writing
    capsys.readouterr()
    wanted = list(tabular.jobs(found, ["normal"], [0, 1], ["knn", "aderh", "pca"]))
    wanted = [job for job in wanted if job.method != "aderh"]
    assert [job.seed for job in wanted] == [0, 0]  # those that draw nothing have the first seed alone
    second = tabular.run(wanted, store)
    assert capsys.readouterr().out.split("\n")[0] == "1/1 toys toy, normal, seed 0, pca"
    assert sorted(second["method"]) == ["knn", "pca"]
    assert len(tabular.run(wanted, folder / "other" / "results.jsonl", [store])) == 2  # nothing left to compute
    assert "| toys | normal | knn | 1.000 |" in _report(second, store.parent)


def _report(found, folder):
    tabular.write_report(found, folder, [])
    return (folder / "report.md").read_text()


def test_a_method_that_fails_counts_as_one_that_scores_all_rows_alike(folder, monkeypatch):
    def fails(name, seed):
        raise_it = {}
        return lambda learned: raise_it["no such covariance"]

    monkeypatch.setattr(tabular, "peer", fails)
    job = tabular.Job(tabular.sources(folder, ["toys"])[0], "normal", 0, "mcd")
    result = tabular.results_of(job)[0]
    assert result["failure"] == "KeyError: 'no such covariance'"
    assert result["auroc"] == 0.5
    assert result["average_precision"] == pytest.approx(8 / 48)
    assert json.dumps(result)


def test_a_score_that_is_no_number_counts_as_the_highest(folder, monkeypatch):
    def overflows(name, seed):
        return lambda learned: lambda rows: {name: np.where(rows[:, 0] > 2, np.nan, rows[:, 0])}

    monkeypatch.setattr(tabular, "peer", overflows)
    job = tabular.Job(tabular.sources(folder, ["toys"])[0], "normal", 0, "mcd")
    assert tabular.results_of(job)[0]["auroc"] > 0.99


def test_differences_pair_the_same_splits_and_mark_a_lead_on_one_half():
    ours = {("anomalyvae", t, s): v for t, v in (("c1", 0.9), ("c2", 0.8), ("u1", 0.5)) for s in (0, 1)}
    ours["anomalyvae", "u1", 1] = 0.1  # the peer does not have this split
    found = tabular_report.differences(
        results(ours | {("knn", "c1", 0): 0.7, ("knn", "c2", 0): 0.7, ("knn", "u1", 0): 0.6})
    )
    row = found[found["figure"] == "auroc"].iloc[0]
    assert row["tables"] == 3
    assert [row["chosen"], row["unseen"], row["whole"]] == pytest.approx([0.15, -0.1, 0.2 / 3])
    assert row["low"] == pytest.approx(-0.1)
    assert row["high"] == pytest.approx(0.2)
    assert row["warning"] == "leads on the chosen half alone"


def test_an_interval_covers_the_mean_at_the_stated_rate():
    rng = np.random.default_rng(1)
    intervals = [tabular_report.interval(rng.normal(0.3, 1, 40), 500) for _ in range(300)]
    covered = [low <= 0.3 <= high for low, high in intervals]
    assert 0.90 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize(("lead", "met"), [(0.016, ["met", "not met"]), (0.04, ["met", "met"]), (0.0, ["not met"] * 2)])
def test_a_bar_says_whether_it_is_met_against_the_best_peer(lead, met):
    aurocs = {("anomalyvae", t, 0): 0.8 + lead for t in ("c1", "u1")}
    aurocs |= {(peer, t, 0): level for t in ("c1", "u1") for peer, level in (("knn", 0.8), ("pca", 0.6))}
    table = tabular_report.bars(results(aurocs))
    assert table["what"].tolist() == ["minus knn"] * 2
    assert table["whole"].tolist() == pytest.approx([lead, lead / 2])
    assert table["met"].tolist() == met


@pytest.mark.slow
def test_ours_gives_each_of_its_scores(folder):
    job = tabular.Job(tabular.sources(folder, ["toys"])[0], "normal", 0, "anomalyvae")
    methods = {result["method"] for result in tabular.results_of(job)}
    assert {"anomalyvae", "anomalyvae: elbo", "anomalyvae: reconstruction"} <= methods

"""The tabular benchmark splits without leaking, keeps what it has, and goes on where it stopped."""

import numpy as np
import pytest

pytest.importorskip("pyod")
import tabular


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    x = np.vstack([rng.normal(size=(80, 3)), 5 + rng.normal(size=(8, 3))])
    np.savez(tmp_path / "toy.npz", X=x, y=np.repeat([0, 1], [80, 8]))
    return tmp_path


def test_normal_protocol_learns_half_of_the_normal_rows_and_scores_the_others(folder):
    task = tabular.task(folder / "toy.npz", "normal", 0)
    assert len(task.learned) == 40
    assert (~task.outlier).sum() == 40
    assert task.outlier.sum() == 8
    assert not set(map(tuple, task.learned)) & set(map(tuple, task.scored))
    np.testing.assert_allclose(task.learned.mean(axis=0), 0, atol=1e-12)
    assert not np.array_equal(task.learned, tabular.task(folder / "toy.npz", "normal", 1).learned)


def test_contaminated_protocol_scores_everything(folder):
    task = tabular.task(folder / "toy.npz", "contaminated", 0)
    assert len(task.learned) == len(task.scored) == 88


def test_a_run_goes_on_where_it_stopped(folder, capsys):
    files, store = [folder / "toy.npz"], folder / "out" / "results.jsonl"
    first = tabular.run(files, "normal", [0], ["knn"], store)
    assert first["auroc"].tolist() == [1.0]
    with store.open("a") as file:
        file.write('{"protocol": "normal", "se')  # a kill while writing
    capsys.readouterr()
    second = tabular.run(files, "normal", [0], ["knn", "pca"], store)
    assert capsys.readouterr().out.split("\n")[0] == "1/1 toy, seed 0, pca"
    assert sorted(second["method"]) == ["knn", "pca"]
    tabular.write_report(second, store.parent, "normal")
    assert "| knn | 1.000 |" in (store.parent / "normal.md").read_text()
    assert (store.parent / "normal.png").stat().st_size > 1000


@pytest.mark.slow
def test_ours_gives_each_of_its_scores(folder):
    methods = {result["method"] for result in tabular.results_of(folder / "toy.npz", "normal", 0, "anomalyvae")}
    assert methods == {
        "anomalyvae",
        *(f"anomalyvae: {name}" for name in ("elbo", "reconstruction", "kl", "log_likelihood")),
    }

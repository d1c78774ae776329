"""Every body with every objective goes into a file that gives what the detector gives."""

import re
import runpy
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx, load, save, score_folder
from anomalyvae.nets.objectives import OBJECTIVES

SETTINGS = {
    "mlp": {"hidden": (8,)},
    "conv2d": {"input_shape": (2, 3, 5), "hidden": (6, 4)},
}
FAMILY = [
    ("conv2d", "elbo", "log_likelihood"),
    ("conv2d", "reconstruction", "memory"),
    *((body, "adversarial", "energy") for body in ("mlp", "conv2d")),
    *(("mlp", "adversarial", score) for score in OBJECTIVES["adversarial"].scores if score != "energy"),
]  # test_export.py has the other objectives and scores of the mlp
SHAPES = [
    ("conv2d", (3, 11, 2), (4, 3, 5, 2)),
    *(("conv2d", shape, (5, 4)) for shape in ((1, 1, 1), (3, 1, 5), (1, 7, 6))),
    ("conv2d", (2, 2, 3), ()),
]


def rows(shape, count, seed):
    """Rows that three causes explain, folded as a body sees them."""
    rng, cells = np.random.default_rng(seed), int(np.prod(shape))
    mixing = np.random.default_rng(0).normal(size=(3, cells))
    return 5.0 + 3.0 * (rng.normal(size=(count, 3)) @ mixing + 0.3 * rng.normal(size=(count, cells)))


def spoiled(shape, count=240):
    """Rows that are new, half of them with missing cells, and some that are far out."""
    x = rows(shape, count, 1)
    holes = np.random.default_rng(2).random(x.shape) < 0.3
    holes[:, 0] = False  # rows without a value are of no interest
    x[holes & (np.arange(count) % 2 == 0)[:, None]] = np.nan
    return np.concatenate([x, 1e3 * x[:20], -x[:20]])


def fit(body, score="elbo", **settings):
    settings = (
        SETTINGS[body] | {"body": body, "max_epochs": 2, "validation_fraction": 0.3, "random_state": 0} | settings
    )
    return VAEOutlierDetector(criterion=score, **settings).fit(rows(settings.get("input_shape", (8,)), 300, 0))


@pytest.mark.parametrize(("body", "objective", "score"), FAMILY)
def test_the_graph_gives_what_the_detector_gives(body, objective, score, tmp_path):
    detector = fit(body, score, objective=objective)
    x = spoiled(SETTINGS[body].get("input_shape", (8,)))
    expected, features, label = detector.anomaly_score(x), detector.feature_scores(x), detector.predict(x)
    typical = np.median(np.abs(expected))
    for precision, tolerance in (("double", 1e-9), ("single", 1e-4)):
        scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx", feature_scores=True, precision=precision))
        got = scorer.score(x)
        np.testing.assert_allclose(got["anomaly_score"], expected, rtol=tolerance, atol=max(tolerance * typical, 1e-6))
        away = np.abs(detector.decision_function(x)) > 2 * tolerance * (np.abs(expected) + typical)
        np.testing.assert_array_equal(got["is_outlier"][away], label[away] < 0)
        np.testing.assert_allclose(got["feature_scores"], features, rtol=tolerance, atol=tolerance)
        if precision == "double":
            np.testing.assert_allclose(got["p_value"], detector.p_values(x), rtol=1e-12)
    assert 0 < np.mean(label == -1) < 1  # both kinds were there to tell apart


@pytest.mark.parametrize("score", ["elbo", "memory"])
@pytest.mark.parametrize("kind", ["isotropic", "binary", "intensities"])
def test_likelihoods_of_pixels(kind, score, tmp_path):
    """Cells in [0, 1], by the density that fits them, and some that lie beyond."""
    x = 1 / (1 + np.exp(-0.5 * (rows((1, 3, 5), 500, 0) - 5.0)))
    x = np.round(x) if kind == "binary" else x
    likelihood = "isotropic" if kind == "isotropic" else "bernoulli"
    settings = SETTINGS["conv2d"] | {"input_shape": (1, 3, 5), "max_epochs": 10, "validation_fraction": 0.3}
    detector = VAEOutlierDetector(body="conv2d", likelihood=likelihood, criterion=score, random_state=0, **settings)
    detector.fit(x[:300])
    new = np.concatenate([x[300:], 1 - x[300:], x[300:] + 0.5, 0.5 + 0 * x[:1]])
    new[::2, ::4] = np.nan
    expected, features = detector.anomaly_score(new), detector.feature_scores(new)
    for precision, tolerance in (("double", 1e-9), ("single", 1e-4)):
        scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx", feature_scores=True, precision=precision))
        np.testing.assert_allclose(scorer.anomaly_score(new), expected, rtol=tolerance, atol=max(tolerance, 1e-6))
        np.testing.assert_allclose(scorer.feature_scores(new), features, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("body", "shape", "hidden"), SHAPES)
def test_any_length_and_any_number_of_layers(body, shape, hidden, tmp_path):
    detector = fit(body, input_shape=shape, hidden=hidden)
    x = spoiled(shape)
    scorer = Scorer(export_onnx(detector, tmp_path / "m.onnx", precision="double"))
    np.testing.assert_allclose(scorer.anomaly_score(x), detector.anomaly_score(x), rtol=1e-9, atol=1e-6)


def test_a_row_scores_the_same_in_any_company(tmp_path):
    scorer = Scorer(export_onnx(fit("conv2d"), tmp_path / "m.onnx", precision="double"))
    x = rows(SETTINGS["conv2d"]["input_shape"], 3000, 1)
    x[::5, ::3] = np.nan
    whole = scorer.anomaly_score(x)
    one_by_one = [scorer.anomaly_score(row[None])[0] for row in x[:20]]
    np.testing.assert_allclose(one_by_one, whole[:20], rtol=1e-12)
    np.testing.assert_allclose(scorer.anomaly_score(x[1234:2345]), whole[1234:2345], rtol=1e-12)
    assert scorer.anomaly_score(x[:0]).shape == (0,)


def test_single_precision_is_taken_where_it_agrees(tmp_path):
    """Every number of the network is then single: one that was left double would be cast back and forth."""
    file = export_onnx(fit("conv2d"), tmp_path / "m.onnx")
    assert Scorer(file).metadata["precision"] == "single"
    matrices = [t for t in onnx.load(file).graph.initializer if len(t.dims) == 2]
    assert {t.data_type for t in matrices} == {onnx.TensorProto.FLOAT}


def test_a_bundle_scores_files_without_torch(tmp_path):
    shape = SETTINGS["conv2d"]["input_shape"]
    names = [f"cell {i}" for i in range(np.prod(shape))]
    table = pd.DataFrame(rows(shape, 300, 0), columns=names)
    detector = VAEOutlierDetector(body="conv2d", max_epochs=2, random_state=0, **SETTINGS["conv2d"]).fit(table)
    save(detector, tmp_path / "bundle")
    new = pd.DataFrame(spoiled(shape), columns=names)
    expected = detector.anomaly_score(new)
    np.testing.assert_array_equal(load(tmp_path / "bundle").anomaly_score(new), expected)
    np.testing.assert_allclose(Scorer(tmp_path / "bundle").anomaly_score(new), expected, rtol=1e-4, atol=1e-5)
    new.to_parquet(tmp_path / "new.parquet")
    summary = score_folder(tmp_path / "bundle", tmp_path / "new.parquet", tmp_path / "scores")
    (file,) = (tmp_path / "scores").rglob("new*.parquet")
    assert summary["rows"] == len(new)
    np.testing.assert_allclose(pq.read_table(file)["anomaly_score"], expected, rtol=1e-4, atol=1e-5)


def test_the_page_on_bodies_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "bodies.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("page.py").write_text(code, encoding="utf-8")
    runpy.run_path("page.py")
    shares, proof = capsys.readouterr().out.splitlines()
    false_alarms, found = map(float, shares.split())
    assert false_alarms < 0.15 < 0.9 < found
    assert proof == "single True"

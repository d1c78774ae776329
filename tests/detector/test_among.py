"""`outliers_among`: which rows of a table are outliers, where none is known to be normal."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from anomalyvae import VAEOutlierDetector

QUICK = {"max_epochs": 30, "validation_fraction": 0, "random_state": 0}


def spoiled(seed=0, n=600, outliers=40):
    """Normal rows of four columns, with a clump of outliers at the end."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(n - outliers, 2)) @ rng.normal(size=(2, 4)) + 0.3 * rng.normal(size=(n - outliers, 4))
    return np.vstack([normal, rng.normal(5, 0.3, size=(outliers, 4))]), np.arange(n) >= n - outliers


@pytest.fixture(scope="module")
def detector():
    return VAEOutlierDetector(**QUICK).fit(spoiled()[0])


def test_a_clump_that_was_learned_is_found(detector):
    x, outlier = spoiled()
    found = detector.outliers_among(x)
    assert roc_auc_score(outlier, found["anomaly_score"]) > 0.99
    assert found["outlier"][outlier].mean() > 0.9 > (detector.predict(x[outlier]) == -1).mean()
    assert found["outlier"][~outlier].sum() <= 0.05 * found["outlier"].sum()


@pytest.mark.parametrize("n", [20, 100, 1500])
def test_tables_without_outliers_have_none(n):
    called, low = 0, []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(n, 4))
        found = VAEOutlierDetector(**QUICK).fit(x).outliers_among(x)
        called += found["outlier"].any()
        low.append((found["p_value"] <= 0.05).mean())
    assert called <= 2  # in 95 % of the tables none; three or more of eight have a chance of .006
    assert 0.01 < np.mean(low) < 0.08


def test_neither_order_nor_copies_change_what_is_said(detector):
    x, _ = spoiled()
    x = np.vstack([x, x[:5], x[-5:]])
    found = detector.outliers_among(x)
    order = np.random.default_rng(1).permutation(len(x))
    shuffled = detector.outliers_among(x[order])
    pd.testing.assert_frame_equal(shuffled, found.iloc[order].reset_index(drop=True))
    np.testing.assert_array_equal(found["anomaly_score"][-10:], found["anomaly_score"][[*range(5), *range(595, 600)]])


def test_few_distinct_rows_are_no_outliers():
    x = np.repeat([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [160, 30, 10], axis=0)
    found = VAEOutlierDetector(**QUICK).fit(x).outliers_among(x)
    assert np.isfinite(found["anomaly_score"]).all()
    assert not found["outlier"].any()


def test_missing_cells_and_categories_are_compared():
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"speed": rng.normal(size=300), "gear": rng.choice(["low", "high"], size=300)})
    x["load"] = np.where(x["gear"] == "high", 3.0, -3.0) + 0.2 * rng.normal(size=300)
    x.loc[::7, "speed"] = np.nan
    x.loc[:4, "load"] *= -1  # breaks the relation
    found = VAEOutlierDetector(random_state=0).fit(x).outliers_among(x)
    assert roc_auc_score(x.index < 5, found["anomaly_score"]) > 0.99


def test_rows_of_a_rare_level_are_no_outliers():
    """Those that are farthest from the others are never stored; without them, another level has every other row."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = pd.DataFrame({"kind": np.where(np.arange(300) < 20, "rare", rng.choice(["a", "b"], 300))})
        x["site"], x["load"] = rng.choice(["north", "south"], 300), rng.normal(size=300)
        found = VAEOutlierDetector(**QUICK).fit(x).outliers_among(x)
        assert found["outlier"].mean() < 0.02


def test_it_does_not_depend_on_the_criterion(detector):
    x, _ = spoiled()
    by_elbo = VAEOutlierDetector(**QUICK, criterion="elbo").fit(x)
    by_elbo.network_.load_state_dict(detector.network_.state_dict(), strict=False)
    pd.testing.assert_frame_equal(by_elbo.outliers_among(x), detector.outliers_among(x))


def test_what_cannot_be_compared_is_refused(detector):
    x, _ = spoiled()
    with pytest.raises(ValueError, match="Got 19 rows, expected at least 20"):
        detector.outliers_among(x[:19])
    with pytest.raises(ValueError, match=r"Got rate=1\.5, expected"):
        detector.outliers_among(x, fdr=1.5)
    windows = VAEOutlierDetector(input_shape=(2, 10), **QUICK).fit(np.random.default_rng(0).normal(size=(40, 20)))
    with pytest.raises(ValueError, match=r"Got a detector of windows .* `anomalyvae rank`"):
        windows.outliers_among(np.zeros((40, 20)))

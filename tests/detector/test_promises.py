"""What a threshold and an alarm guarantee, measured over many fits."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from anomalyvae import VAEOutlierDetector

SETTINGS = {"max_epochs": 16, "hidden": (16,)}


def two_causes(rng, n):
    causes = rng.normal(size=(n, 2))
    return causes @ np.array([[1.0, 2.0, -1.0, 0.5], [0.3, -1.0, 1.0, 2.0]]) + 0.3 * rng.standard_t(5, size=(n, 4))


@pytest.fixture(scope="module", params=["cross-fitted", "split"])
def p_values(request):
    """P-values of 40 new normal rows for each of 40 fits to 240 others."""
    how = {} if request.param == "cross-fitted" else {"validation_fraction": 0.4}
    return np.stack(
        [
            VAEOutlierDetector(random_state=seed, **SETTINGS, **how)
            .fit(two_causes(np.random.default_rng(seed), 240))
            .p_values(two_causes(np.random.default_rng(1000 + seed), 40))
            for seed in range(40)
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_false_alarms_meet_their_target(p_values, alpha):
    # Calibration sets vary too, so rows of one fit are not independent: the interval is that of 1,600 rows, widened.
    low, high = binom.interval(0.999, p_values.size, alpha)
    width = np.sqrt(1 + p_values.shape[1] / 48)  # 48 calibration rows after the split, 240 cross-fitted
    middle = alpha * p_values.size
    assert middle - width * (middle - low) - p_values.size / 49 <= (p_values <= alpha).sum()
    assert (p_values <= alpha).sum() <= middle + width * (high - middle)


@pytest.mark.slow
def test_false_discoveries_meet_their_target():
    shares, found = [], []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        detector = VAEOutlierDetector(random_state=seed, **SETTINGS).fit(two_causes(rng, 600))
        outlier = np.repeat([False, True], [180, 20])
        x = two_causes(rng, 200) + 8 * outlier[:, None] * rng.normal(size=(200, 4))
        flagged = detector.alarms(x, fdr=0.1)
        shares.append((flagged & ~outlier).sum() / max(flagged.sum(), 1))
        found.append((flagged & outlier).sum() / outlier.sum())
    assert np.mean(shares) <= 0.1 + np.std(shares) / np.sqrt(len(shares))
    assert np.mean(found) > 0.5


@pytest.mark.slow
def test_p_values_hold_by_recording_where_they_fail_by_row():
    """Each recording has its own mean, so its rows say little about those of another."""
    by_group, by_row = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        place = 2 * rng.normal(size=(30, 4))
        groups = np.repeat(np.arange(14), 30)
        x = rng.normal(size=(420, 4)) + place[groups]
        new = np.concatenate([rng.normal(size=(30, 4)) + one for one in place[14:]])
        detector = VAEOutlierDetector(random_state=seed, validation_fraction=0.7, **SETTINGS)
        by_group.append((detector.fit(x, groups=groups).p_values(new) <= 0.2).mean())
        by_row.append((detector.fit(x).p_values(new) <= 0.2).mean())
    assert np.mean(by_group) <= 0.2 + np.std(by_group) / np.sqrt(len(by_group))
    assert np.mean(by_row) > 0.2 + 2 * np.std(by_row) / np.sqrt(len(by_row))


def test_alarms_and_p_values_agree(detector, fresh):
    np.testing.assert_array_equal(detector.alarms(fresh, alpha=0.05), detector.p_values(fresh) <= 0.05)
    np.testing.assert_array_equal(detector.alarms(fresh, alpha=0.05), detector.predict(fresh) == -1)
    an_hour = detector.alarms(fresh, per_hour=90, rows_per_hour=9000)
    np.testing.assert_array_equal(an_hour, detector.p_values(fresh) <= 0.01)


# Training rows that are not clean


def dirty(n=900, seed=0):
    """Correlated rows, a tenth of which are outliers that lie together."""
    rng = np.random.default_rng(seed)
    outlier = np.arange(n) % 10 == 0
    x = two_causes(rng, n)
    x[outlier] = 0.5 * rng.normal(size=(outlier.sum(), 4)) + np.array([3.0, 3.0, 3.0, -3.0])
    return pd.DataFrame(x, index=[f"row {i}" for i in range(n)]), outlier


def fit_dirty(**settings):
    settings = {"random_state": 0, "validation_fraction": 0, "max_epochs": 60} | settings
    return VAEOutlierDetector(**settings).fit(dirty()[0])


@pytest.fixture(scope="module")
def informed():
    return fit_dirty(contamination=0.1)


def test_a_known_contamination_is_learned_around(informed):
    x, outlier = dirty()
    detected = roc_auc_score(outlier, informed.anomaly_score(x))
    assert detected > 0.97
    assert detected > roc_auc_score(outlier, fit_dirty().anomaly_score(x)) + 0.1


@pytest.mark.slow
def test_more_epochs_do_not_learn_the_outliers(informed):
    x, outlier = dirty()
    longer = fit_dirty(contamination=0.1, max_epochs=120)
    detected = [roc_auc_score(outlier, detector.anomaly_score(x)) for detector in (informed, longer)]
    assert detected[1] > detected[0] - 0.02


def test_suspects_are_named_with_their_scores(informed):
    x, outlier = dirty()
    suspects = informed.suspects_
    assert len(suspects) == 90
    assert outlier[x.index.get_indexer(suspects.index)].mean() > 0.8
    assert suspects["anomaly_score"].is_monotonic_decreasing
    np.testing.assert_array_equal(suspects["anomaly_score"], informed.anomaly_score(x.loc[suspects.index]))
    assert set(suspects.index) == set(x.index[informed.predict(x) == -1])
    assert not hasattr(fit_dirty(max_epochs=1), "suspects_")

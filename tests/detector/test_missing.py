"""Missing cells: learned with, scored with, and filled in."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx


def riddled(x, share, seed=0):
    """The rows with a share of their cells missing, never all of a row."""
    hidden = np.random.default_rng(seed).random(x.shape) < share
    hidden[:, 0] &= ~hidden.all(axis=1)
    return x.mask(hidden)


@pytest.mark.parametrize("score", ["novelty", "elbo", "log_likelihood"])
def test_a_row_scores_the_same_beside_rows_with_missing_cells(normal, fresh, score):
    detector = VAEOutlierDetector(criterion=score, random_state=0, max_epochs=2, validation_fraction=0)
    detector.fit(riddled(normal, 0.1))
    alone, holed = detector.anomaly_score(fresh), riddled(fresh, 0.3)
    np.testing.assert_array_equal(detector.anomaly_score(pd.concat([fresh, holed]))[: len(fresh)], alone)
    together = detector.anomaly_score(pd.concat([fresh[:7], holed, fresh]))[7 : 7 + len(holed)]
    np.testing.assert_array_equal(together, detector.anomaly_score(holed))
    one_by_one = [detector.anomaly_score(holed.iloc[[i]])[0] for i in range(5)]
    np.testing.assert_array_equal(together[:5], one_by_one)


@pytest.mark.parametrize("scaling", ["asinh", "standard", "robust", "quantile", None])
def test_missing_cells_are_learned_with(normal, fresh, strange, scaling):
    detector = VAEOutlierDetector(scaling=scaling, random_state=0, max_epochs=40, validation_fraction=0.2)
    if scaling is None:
        normal, fresh, strange = ((x - normal.mean()) / normal.std() for x in (normal, fresh, strange))
    detector.fit(riddled(normal, 0.2))
    x = pd.concat([riddled(fresh, 0.2, 1), riddled(strange, 0.2, 2)])
    scores = detector.anomaly_score(x)
    assert np.isfinite(scores).all()
    assert roc_auc_score(np.repeat([0, 1], len(fresh)), scores) > 0.8


@pytest.mark.parametrize("score", ["novelty", "elbo"])
def test_scores_stay_comparable_as_cells_go_missing(normal, fresh, strange, score):
    settings = {"max_epochs": 60, "validation_fraction": 0.2}
    detector = VAEOutlierDetector(criterion=score, random_state=0, **settings).fit(normal)
    labels = np.repeat([0, 1], len(fresh))

    def auroc(*tables):
        return roc_auc_score(labels, np.concatenate([detector.anomaly_score(x) for x in tables]))

    assert auroc(riddled(fresh, 0.2, 1), riddled(strange, 0.2, 2)) > auroc(fresh, strange) - 0.1
    missing = detector.predict(riddled(fresh, 0.2, 1)) == -1
    assert missing.mean() < 0.15  # 0.05 of complete rows


def bills(n, seed):
    """Skewed items and their total, as in an account."""
    items = np.random.default_rng(seed).lognormal(sigma=0.8, size=(n, 4))
    return pd.DataFrame(np.column_stack([items, items.sum(axis=1)]), columns=["rent", "food", "fuel", "rest", "total"])


@pytest.mark.parametrize(("learned", "scored"), [(0.0, 0.0), (0.0, 0.2), (0.2, 0.2)])
def test_a_total_that_does_not_add_up_is_found(learned, scored, tmp_path):
    """Where all five are there; where one is missing, nothing is wrong. The exported file agrees."""
    detector = VAEOutlierDetector(random_state=0).fit(riddled(bills(600, 0), learned))
    kept, broken = bills(300, 1), bills(300, 1)
    broken["total"] *= 0.97
    x = riddled(pd.concat([kept, broken], ignore_index=True), scored, 1)
    found, whole = detector.anomaly_score(x), x.notna().all(axis=1)
    wrong = x.index >= len(kept)
    assert roc_auc_score(wrong[whole], found[whole]) > 0.99
    view = detector.reasons(x)["view"]
    assert (view[wrong & whole] == "breaks a linear relation").mean() > 0.9
    assert ((view == "breaks a linear relation") & (detector.predict(x) == -1))[~wrong].mean() < 0.03
    scorer = Scorer(export_onnx(detector, tmp_path / "model.onnx"))
    np.testing.assert_allclose(scorer.anomaly_score(x), found, rtol=1e-4, atol=1e-4)


def test_what_is_missing_does_not_depend_on_what_stood_there(detector, fresh):
    holed = riddled(fresh, 0.2)
    once = detector.feature_scores(holed)
    assert (once.to_numpy()[holed.isna().to_numpy()] == 0).all()
    np.testing.assert_allclose(once.sum(axis=1), detector.score_terms(holed)["reconstruction"])


def test_missing_cells_are_filled_in_by_what_the_others_say(normal, fresh):
    detector = VAEOutlierDetector(random_state=0, validation_fraction=0, max_epochs=60).fit(normal)
    holed = fresh.copy()
    holed[fresh.columns[2]] = np.nan
    filled = detector.reconstruct(holed)[fresh.columns[2]]
    assert np.corrcoef(filled, fresh[fresh.columns[2]])[0, 1] > 0.8


def test_a_row_with_nothing_in_it_gets_a_score_and_a_warning(detector, fresh):
    x = fresh[:5].copy()
    x.iloc[3] = np.nan
    with pytest.warns(UserWarning, match=r"Got 1 rows in which every cell is missing.*Leave them out"):
        scores = detector.anomaly_score(x)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(np.delete(scores, 3), detector.anomaly_score(x.drop(x.index[3])))


def test_a_row_with_nothing_in_it_is_not_learned(normal, fresh):
    empty = pd.concat([normal, pd.DataFrame(np.nan, index=range(3), columns=normal.columns)])
    first, second = (VAEOutlierDetector(random_state=0, max_epochs=2).fit(x) for x in (normal, empty))
    np.testing.assert_array_equal(first.anomaly_score(fresh), second.anomaly_score(fresh))


def test_rows_that_miss_the_same_cells_are_the_same_row(normal, fresh):
    holed = riddled(normal, 0.1)
    twice, heavy = pd.concat([holed, holed]), np.full(len(holed), 2)
    first = VAEOutlierDetector(random_state=0, max_epochs=2).fit(twice)
    second = VAEOutlierDetector(random_state=0, max_epochs=2).fit(holed, sample_weight=heavy)
    np.testing.assert_array_equal(first.anomaly_score(fresh), second.anomaly_score(fresh))


def test_a_sensor_that_was_added_late_is_named(normal, fresh):
    """Of few learned rows with a value, a new one has few neighbours that have it, too."""
    late = normal.assign(added=normal["signal 5"]).drop(columns="signal 5")
    late.loc[: len(late) * 9 // 10, "added"] = np.nan
    new = fresh.rename(columns={"signal 5": "added"})
    with pytest.warns(UserWarning, match=r"Few rows have a value in added \(9.8% of the rows\).*leave out the rows"):
        detector = VAEOutlierDetector(random_state=0, max_epochs=40).fit(late)
    assert (detector.predict(new) == -1).mean() > 0.1  # where 5 % is promised
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without = VAEOutlierDetector(random_state=0, max_epochs=40).fit(late.dropna())
        VAEOutlierDetector(random_state=0, max_epochs=1).fit(riddled(normal, 0.7))
    assert (without.predict(new) == -1).mean() < 0.08

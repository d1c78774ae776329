"""A detector in the tools of others: metadata routing of scikit-learn, and files of skops."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anomalyvae import VAEOutlierDetector

TYPES = ["anomalyvae.detector.estimator.VAEOutlierDetector"]


def quick(**settings):
    return VAEOutlierDetector(**{"random_state": 0, "max_epochs": 2, "hidden": (8,)} | settings)


# Metadata routing


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_score_is_the_weighted_mean(detector, fresh):
    weight = np.random.default_rng(0).integers(0, 3, len(fresh))
    expected = detector.score(fresh.loc[fresh.index.repeat(weight)])
    assert detector.score(fresh, sample_weight=weight) == pytest.approx(expected, rel=1e-12)
    assert detector.score(fresh, None, np.ones(len(fresh))) == pytest.approx(detector.score(fresh), rel=1e-12)
    with pytest.raises(ValueError, match=r"Got sample_weight of shape \(3,\), expected \(400,\)"):
        detector.score(fresh, sample_weight=[1, 2, 3])


def test_a_pipeline_is_cross_validated_with_groups_and_weights(routing, normal):
    group = np.repeat(np.arange(20), 30)
    weight = np.tile([1.0, 3.0, 2.0], 200)
    model = quick().set_fit_request(groups=True, sample_weight=True).set_score_request(sample_weight=True)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    result = cross_validate(
        make_pipeline(scaler, model), normal, cv=GroupKFold(2), return_estimator=True, return_indices=True,
        params={"groups": group, "sample_weight": weight}, error_score="raise",
    )  # fmt: skip
    for fitted, score, test in zip(result["estimator"], result["test_score"], result["indices"]["test"], strict=True):
        assert fitted[-1].training_["groups"] == 10
        assert score == fitted.score(normal.iloc[test], sample_weight=weight[test])
        assert score != fitted.score(normal.iloc[test])


def test_a_search_takes_weights(routing, normal):
    model = quick().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(model, {"beta": [0.5, 1.0]}, cv=2, error_score="raise")
    weight = np.linspace(1, 2, len(normal))
    assert np.isfinite(search.fit(normal, sample_weight=weight).cv_results_["mean_test_score"]).all()


# skops


@pytest.mark.parametrize("index", ["numbers", "texts", "times", "pairs"])
def test_skops_stores_a_detector(normal, index):
    rows = normal.assign(road=np.where(normal["signal 0"] > 5, "dry", "wet"))
    rows.index = {
        "numbers": rows.index,
        "texts": "row " + rows.index.astype(str),
        "times": pd.date_range("2026-01-01", periods=len(rows), freq="s", name="time", tz="Europe/Berlin"),
        "pairs": pd.MultiIndex.from_product([["a", "b"], range(300)], names=["drive", "window"]),
    }[index]
    detector = quick(contamination=0.1).fit(rows)
    content = skops.io.dumps(detector)
    assert set(skops.io.get_untrusted_types(data=content)) == set(TYPES)
    again = skops.io.loads(content, trusted=TYPES)
    np.testing.assert_array_equal(again.anomaly_score(rows), detector.anomaly_score(rows))
    np.testing.assert_array_equal(again.p_values(rows), detector.p_values(rows))
    pd.testing.assert_frame_equal(again.history_, detector.history_)
    pd.testing.assert_frame_equal(again.suspects_, detector.suspects_)


def test_skops_stores_a_pipeline_and_an_unfitted_detector(normal):
    pipeline = make_pipeline(StandardScaler(), quick(random_state=np.random.RandomState(3))).fit(normal)
    again = skops.io.loads(skops.io.dumps(pipeline), trusted=TYPES)
    np.testing.assert_array_equal(again.score_samples(normal), pipeline.score_samples(normal))
    assert skops.io.loads(skops.io.dumps(quick()), trusted=TYPES).get_params() == quick().get_params()

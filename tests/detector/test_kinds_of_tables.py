"""Tables of Arrow and polars give the scores of a DataFrame, and tables of their own kind come back."""

import importlib.util

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from anomalyvae import VAEOutlierDetector, save
from anomalyvae.scoring import Scorer


def from_polars(frame):
    import polars

    return polars.DataFrame(pa.Table.from_pandas(frame, preserve_index=False))


def to_pandas(table):
    return table.to_pandas()


KINDS = [
    pytest.param(lambda frame: pa.Table.from_pandas(frame, preserve_index=False), id="pyarrow"),
    pytest.param(lambda frame: pa.RecordBatch.from_pandas(frame, preserve_index=False), id="record batch"),
    pytest.param(
        from_polars, id="polars",
        marks=pytest.mark.skipif(importlib.util.find_spec("polars") is None, reason="needs polars"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"a": rng.normal(size=90), "n": rng.integers(0, 9, 90), "t": list("xyz") * 30, "b": rng.random(90) < 0.5}
    )


@pytest.fixture(scope="module")
def detector(frame):
    return VAEOutlierDetector(max_epochs=3, hidden=[8], random_state=0, objective="elbo").fit(frame)


@pytest.mark.parametrize("made_of", KINDS)
def test_a_table_of_any_kind_is_learned_and_scored_alike(made_of, frame, detector):
    table = made_of(frame)
    again = VAEOutlierDetector(max_epochs=3, hidden=[8], random_state=0, objective="elbo").fit(table)
    expected = detector.anomaly_score(frame)
    np.testing.assert_array_equal(again.anomaly_score(table), expected)
    np.testing.assert_array_equal(detector.anomaly_score(table), expected)
    np.testing.assert_array_equal(again.anomaly_score(frame), expected)
    assert again.categories_ == detector.categories_ == {"t": ["x", "y", "z"], "b": [False, True]}


@pytest.mark.parametrize("made_of", KINDS)
def test_what_comes_back_is_of_the_kind_that_came(made_of, frame, detector):
    holed = frame.assign(a=frame["a"].where(np.arange(90) % 7 > 0), t=frame["t"].where(np.arange(90) % 5 > 0))
    table = made_of(holed)
    for method in ("feature_scores", "impute", "reconstruct"):
        expected, found = getattr(detector, method)(holed), getattr(detector, method)(table)
        assert type(found) is type(table)
        pd.testing.assert_frame_equal(found.to_pandas(), expected, check_dtype=False)
    with pytest.warns(UserWarning, match=r"such as a, t\. Their p-values"):
        detector.anomaly_score(table)
    assert detector.new_gaps(table) == detector.new_gaps(holed)


@pytest.mark.parametrize("made_of", KINDS)
def test_the_scorer_takes_them_too(made_of, frame, detector, tmp_path):
    scorer = Scorer(save(detector, tmp_path / "model"))
    expected = scorer.anomaly_score(frame)
    np.testing.assert_array_equal(scorer.anomaly_score(made_of(frame)), expected)
    categorical = made_of(frame.astype({"t": "category"}))
    np.testing.assert_array_equal(scorer.anomaly_score(categorical), expected)
    np.testing.assert_array_equal(detector.anomaly_score(categorical), detector.anomaly_score(frame))

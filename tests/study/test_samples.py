"""Measures of samples, on rows for which the right value is known."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from anomalyvae.study import sample_quality
from anomalyvae.study.samples import column_distances


def rows(n, seed):
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=n)
    return pd.DataFrame(
        {
            "a": 1000 * cause,
            "b": 1e-3 * (cause + 0.5 * rng.normal(size=n)),
            "kind": np.where(cause + 0.3 * rng.normal(size=n) > 0, "up", "down"),
            "on": rng.random(n) < 0.3,
        }
    )


TRAIN, TEST = rows(400, 1), rows(400, 2)


def values(samples, **options):
    return sample_quality(samples, TEST, TRAIN, **options)["value"]


def test_real_rows_reach_the_ideal_values():
    table = sample_quality(rows(400, 3), TEST, TRAIN)
    ideal = {"auroc": 0.5, "accuracy": 0.5, "copying": 0.5, "precision": 1, "recall": 1, "density": 1, "coverage": 1}
    for figure, value in ideal.items():
        assert table.loc[figure, "value"] == pytest.approx(value, abs=0.08), figure
    for figure in ("auroc", "accuracy", "copying"):
        assert table.loc[figure, "low"] < 0.5 < table.loc[figure, "high"]
    assert table.loc[["ks", "wasserstein", "correlation"], "value"].max() < 0.12


def test_copies_of_training_rows_are_called_copies():
    found = values(TRAIN.sample(400, replace=True, random_state=0))
    assert found["copying"] > 0.95
    assert found["auroc"] == pytest.approx(0.5, abs=0.1)  # copies of a row are always in the same fold
    assert found["coverage"] > 0.85


def test_independent_columns_show_in_their_pairs_alone():
    rng = np.random.default_rng(0)
    independent = pd.DataFrame({name: rng.permutation(rows(400, 3)[name]) for name in TRAIN})
    found, real = values(independent), values(rows(400, 3))
    assert found["auroc"] > 0.8
    assert found["ks"] == real["ks"]  # each column alone is right
    assert found["correlation"] > real["correlation"] + 0.2
    assert found["precision"] < real["precision"] - 0.2


def test_a_sample_of_one_half_is_precise_and_misses_the_other():
    half = rows(800, 3).query("a > 0")
    found = values(half)
    assert found["precision"] > 0.9
    assert found["coverage"] < 0.65
    assert found["recall"] < 0.75


def test_a_sample_that_is_too_wide_is_not_precise():
    wide = rows(400, 3).assign(a=lambda x: 3 * x["a"], b=lambda x: 3 * x["b"])
    found = values(wide)
    assert found["precision"] < 0.6
    assert found["copying"] < 0.35
    assert found["wasserstein"] == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.2)  # of N(0, 3) from N(0, 1)


def test_a_column_is_measured_in_its_own_unit():
    moved = rows(400, 3).assign(a=lambda x: x["a"] + 2000)
    table = column_distances(moved, TEST, TRAIN)
    shift = (moved["a"].mean() - TEST["a"].mean()) / TRAIN["a"].std(ddof=0)
    assert table.loc["a", "wasserstein"] == pytest.approx(shift, rel=0.01)  # as one lies beyond the other
    assert table.loc["a", "ks"] > 0.6
    assert table.loc["b", "wasserstein"] < 0.2
    assert np.isnan(table.loc["kind", "wasserstein"])
    swapped = rows(400, 3).assign(on=~rows(400, 3)["on"])
    assert column_distances(swapped, TEST, TRAIN).loc["on", "ks"] == pytest.approx(0.4, abs=0.08)  # .7 less .3


def test_units_and_order_do_not_matter_and_seeds_repeat():
    samples = rows(400, 3)
    found = sample_quality(samples, TEST, TRAIN, random_state=4)
    pd.testing.assert_frame_equal(sample_quality(samples, TEST, TRAIN, random_state=4), found)
    scaled = [table.assign(a=table["a"] / 2**10) for table in (samples, TEST, TRAIN)]
    pd.testing.assert_frame_equal(sample_quality(*scaled, random_state=4), found)


def test_arrays_another_classifier_and_fewer_rows():
    x = np.random.default_rng(0).normal(size=(900, 3))
    table = sample_quality(x[:300] + np.eye(3)[0], x[300:600], x[600:], classifier=LogisticRegression(), max_rows=200)
    assert table.loc["auroc", "value"] == pytest.approx(0.76, abs=0.08)  # Phi(1 / sqrt 2)
    assert table.loc["auroc", "low"] < 0.76 < table.loc["auroc", "high"]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (rows(50, 3)[["b", "a", "kind", "on"]], r"The columns of samples are \['b', 'a'.*those of train.*order"),
        (rows(50, 3).mask(rows(50, 3)["a"] < 0), r"\d+ rows of samples have missing cells.*impute"),
        (rows(9, 3), r"Got 9 rows of samples, expected at least 20"),
    ],
)
def test_tables_that_cannot_be_compared(samples, message):
    with pytest.raises(ValueError, match=message):
        sample_quality(samples, TEST, TRAIN)

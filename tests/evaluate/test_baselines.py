"""What every baseline promises."""

import numpy as np
import pytest

from anomalyvae.evaluate.baselines import BASELINES, ONE_LINERS, knn, moving_variance, squared_difference


@pytest.fixture(scope="module")
def rows():
    """Correlated normal rows, in very different units, and a test set whose last row breaks the correlation."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 6))
    train = rng.normal(size=(400, 2)) @ mixing + 0.1 * rng.normal(size=(400, 6))
    test = rng.normal(size=(50, 2)) @ mixing + 0.1 * rng.normal(size=(50, 6))
    test[-1] = 6 * rng.normal(size=6)
    units = np.array([1e-3, 1, 1e4, 1, 10, 1e2])
    return train * units + 5 * units, test * units + 5 * units


@pytest.fixture(params=BASELINES)
def baseline(request):
    return BASELINES[request.param]


def test_the_names():
    assert list(BASELINES) == ["row_norm", "pca", "knn", "mahalanobis"]
    assert list(ONE_LINERS) == ["moving_variance", "squared_difference"]


def test_the_anomalous_row_scores_highest(baseline, rows):
    scores = baseline(*rows)
    assert scores.shape == (50,)
    assert np.argmax(scores) == 49
    assert (scores >= 0).all()


def test_scores_do_not_depend_on_units(baseline, rows):
    train, test = rows
    units = np.array([7.0, 1e-4, 3.0, 1e5, 1.0, 0.2])
    np.testing.assert_allclose(baseline(train * units - 3, test * units - 3), baseline(train, test), rtol=1e-6)


def test_a_row_scores_the_same_alone_and_twice(baseline, rows):
    train, test = rows
    together = baseline(train, test)
    np.testing.assert_allclose(baseline(train, test[7:8]), together[7:8], rtol=1e-9)
    np.testing.assert_array_equal(baseline(train, test), together)


def test_a_constant_column_neither_fails_nor_dominates(baseline, rows):
    train, test = (np.column_stack([table, np.full(len(table), 3.0)]) for table in rows)
    scores = baseline(train, test)
    assert np.isfinite(scores).all()
    assert np.argmax(scores) == 49


def test_knn_uses_the_rows_there_are():
    np.testing.assert_allclose(knn([[0.0], [2.0]], [[1.0]], k=5), [1.0])  # standardised: both lie one away


# --- one-liners, which see windows (n, signals, samples) -------------------------------------------------

LEARNED = np.array([[[0.0, 2, 0, 2], [0, 20, 0, 20]], [[2, 0, 2, 0], [20, 0, 20, 0]]])  # spreads 1 and 10


def test_one_liners_by_hand():
    windows = np.array([[[0.0, 1, 3, 0], [5, 5, 5, 5]], [[2, 2, 2, 2], [0, 0, 10, 10]]])
    np.testing.assert_allclose(moving_variance(LEARNED, windows), [(1 + 0 + 4 + 1) / 4, 25 / 100])
    np.testing.assert_allclose(squared_difference(LEARNED, windows), [(1 + 4 + 9) / 3, 100 / 3 / 100])


def test_one_liners_skip_missing_cells():
    gap = [np.nan] * 4
    windows = np.array([[[np.nan, 1, np.nan, 3], gap], [[1, np.nan, 3, 4], [5, 5, 5, 5]], [gap, gap]])
    np.testing.assert_allclose(moving_variance(LEARNED, windows), [1, 14 / 9, 0])
    np.testing.assert_allclose(squared_difference(LEARNED, windows), [0, 1, 0])


@pytest.mark.parametrize("score", ONE_LINERS.values(), ids=ONE_LINERS)
def test_one_liners_do_not_depend_on_units_or_other_windows(score):
    rng = np.random.default_rng(0)
    learned, windows = rng.normal(size=(2, 50, 3, 20))
    units = np.array([1e-4, 7, 1e5])[:, None]
    found = score(learned, windows)
    np.testing.assert_allclose(score(learned * units + 3, windows * units + 3), found, rtol=1e-6)
    np.testing.assert_array_equal(score(learned, windows[7:8]), found[7:8])


@pytest.mark.parametrize("score", ONE_LINERS.values(), ids=ONE_LINERS)
def test_one_liners_see_nothing_in_one_sample_or_a_constant_signal(score):
    assert score(LEARNED[:, :, :1], LEARNED[:, :, :1]).tolist() == [0, 0]
    assert score(np.full((3, 1, 5), 7.0), np.full((2, 1, 5), 9.0)).tolist() == [0, 0]

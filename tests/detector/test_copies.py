"""A table that holds its rows again with other digits is learned as if each row were there once."""

import numpy as np
import pytest

from anomalyvae import VAEOutlierDetector
from anomalyvae.detector.rows import distinct_rows


def normal(n, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def distinct(x, **kwargs):
    return distinct_rows(x, np.ones(len(x)), up_to_rounding=True, **kwargs)


COPIES = {
    "four digits": lambda x: x.round(4),
    "single precision": lambda x: x.astype(np.float32).astype(float),
    "noise": lambda x: x + 1e-6 * normal(len(x), x.shape[1], seed=9),
    "three tables": lambda x: np.r_[x.round(4), x.round(3)],
    "half of the rows": lambda x: x[: len(x) // 2].round(4),
}


@pytest.mark.parametrize("kind", COPIES)
def test_new_rows_are_flagged_as_promised_beside_copies_up_to_rounding(kind):
    shares = []
    for seed in range(2):
        x = normal(200, seed=seed)
        detector = VAEOutlierDetector(random_state=0, max_epochs=10).fit(np.r_[x, COPIES[kind](x)])
        shares.append((detector.predict(normal(2000, seed=seed + 10)) == -1).mean())
    assert np.mean(shares) < 0.08


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("columns", [4, 6, 30])
def test_copies_up_to_rounding_are_one_row(columns, kind):
    x = normal(300, columns)
    x[::7, 0] = np.nan
    rows = distinct(np.r_[x, COPIES[kind](x)])
    assert len(rows) == 300
    assert not rows.is_recurring.any()
    assert set(rows.weight) == ({1, 2} if kind == "half of the rows" else {1})


def test_rows_that_are_copies_do_not_depend_on_the_order_of_the_table():
    x = np.r_[normal(100), normal(100).round(4)]
    np.testing.assert_array_equal(distinct(x).x, distinct(x[::-1]).x)


rng = np.random.default_rng(0)
OTHERS = {
    "on a line": rng.normal(size=(4000, 1)),
    "in the plane": rng.normal(size=(4000, 2)),
    "long tails": np.exp(3 * rng.normal(size=(1000, 2))),
    "whole numbers": rng.integers(0, 3, (1000, 4)) * [1.0, 1, 1, 1000],
    "numbered in pairs": np.column_stack([np.arange(400.0), np.repeat(normal(200), 2, axis=0)]),
    "levels and a number": np.column_stack([rng.integers(0, 9, (1000, 2)), rng.normal(size=1000)]),
    "a walk": np.cumsum(rng.normal(size=(1000, 3)), axis=0),
    "few distances": np.repeat(rng.normal(size=(40, 2)), 20, axis=0) + 1e-6 * rng.normal(size=(800, 2)),
    "some copies": np.r_[normal(300), normal(300)[:30].round(4)],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_rows_without_copies_stay_as_they_are(kind):
    x = OTHERS[kind]
    rows, exact = distinct(x), distinct_rows(x, np.ones(len(x)))
    np.testing.assert_array_equal(rows.x, exact.x)
    np.testing.assert_array_equal(rows.weight, exact.weight)


def test_rows_of_groups_and_selected_ones_are_not_copies_of_others():
    x = np.r_[normal(100), normal(100).round(4)]
    assert len(distinct(x, groups=np.arange(200) % 5)) == 200
    assert len(distinct(x, selected=np.arange(200) < 100)) == 200


def test_huge_and_constant_cells_have_copies_too():
    x = normal(300)
    x[:, 0] = 7.5
    x[:5, 1] = 1e308
    assert len(distinct(np.r_[x, x * (1 + 1e-9)])) == 300

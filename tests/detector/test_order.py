"""The order of rows says where rows that are held out resemble learned ones, so that the promise does not hold."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler
from test_overlap import SAMPLES, SIGNALS, slow_noise, windows

from anomalyvae import VAEOutlierDetector
from anomalyvae.detector.order import alike_apart, counting, slides


@pytest.mark.parametrize("by_sample", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("stride", [1, 5, 10])
def test_rows_that_slide_over_signals_are_named(by_sample, scaled, stride):
    x = windows(slow_noise(400, 0), stride)
    if by_sample:
        x = x.reshape(-1, SIGNALS, SAMPLES).transpose(0, 2, 1).reshape(len(x), -1)
    x = StandardScaler().fit_transform(x) if scaled else x
    with pytest.warns(UserWarning, match="look like windows that overlap.*Pass groups="):
        VAEOutlierDetector(random_state=0, max_epochs=1).fit(x)


@pytest.mark.parametrize(
    "samples",
    [
        np.round(slow_noise(2000, 0) / 2),
        np.where((np.arange(2000) // 100 % 3 == 0)[:, None], slow_noise(2000, 0), 0),
        np.where(np.random.default_rng(0).random((2000, SIGNALS)) < 0.1, np.nan, slow_noise(2000, 0)),
    ],
    ids=["few levels", "still at times", "missing cells"],
)
def test_rows_that_slide_over_hard_signals_are_found(samples):
    assert slides(windows(samples, 5))


DAYS, ROWS = np.arange(500) // 24, np.arange(500.0)
FEW = np.random.default_rng(0).random((600, 6)) < 0.3


@pytest.mark.parametrize(
    "x",
    [
        np.column_stack([ROWS, np.arange(500) % 24, DAYS % 7, np.random.default_rng(0).normal(size=500)]),
        np.column_stack([ROWS, 1000 * ROWS + 17]),
        np.outer(ROWS, [1.0, 2, 3, 4]),
        np.exp(np.outer(ROWS, np.ones(4)) / 100),
        np.eye(7)[np.arange(500) % 7],
        np.random.default_rng(0).choice([-1.7e308, 0, 1, 1.7e308], (500, 6)),
        windows(slow_noise(2000, 0), SAMPLES),
        np.random.default_rng(0).integers(0, 3, (500, 10)).astype(float),
        np.cumsum(np.random.default_rng(0).normal(size=(500, 6)), axis=0),
        np.repeat(np.arange(500.0)[:, None], 3, axis=1) * [1, 0, 0] + np.random.default_rng(0).normal(size=(500, 3)),
        slow_noise(500, 0)[:, [0, 1, 0, 1, 0]],
        np.where(FEW, np.random.default_rng(1).normal(size=(600, 6)), np.nan),
    ],
    ids=[
        "calendar",
        "clocks",
        "trends",
        "growth",
        "one-hot",
        "huge",
        "beside each other",
        "levels",
        "walks",
        "a trend",
        "copied columns",
        "mostly missing cells",
    ],
)
def test_other_rows_do_not_slide(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not slides(x)


def of_people(number: int, seed: int, days: int = 4) -> np.ndarray:
    """Ten measurements of each person on some days, ``(number * days, 10)``."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.normal(size=(number, 10)), days, axis=0) + 0.4 * rng.normal(size=(number * days, 10))


IN_TURN = np.arange(600).reshape(150, 4).T.ravel()  # each person on the first day, then on the second


@pytest.mark.parametrize(
    ("order", "groups", "said"),
    [
        (np.arange(600), np.arange(600) // 4, "Rows beside each other are alike.*Pass groups="),
        (IN_TURN, np.arange(600) % 150, r"Rows 150 places apart are alike.*Pass groups=np.arange\(len\(X\)\) % 150,"),
    ],
    ids=["one by one", "in turn"],
)
def test_rows_of_one_person_are_named_and_kept_together(order, groups, said):
    x, new = of_people(150, 0)[order], of_people(500, 1)
    with pytest.warns(UserWarning, match=said):
        alone = VAEOutlierDetector(random_state=0).fit(x)
    assert (alone.predict(new) == -1).mean() > 0.1  # where 5 % is promised
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = VAEOutlierDetector(random_state=0).fit(x, groups=groups)
    assert (together.predict(new) == -1).mean() < 0.07


def test_rows_in_order_of_time_keep_the_promise_in_stretches():
    x, new = slow_noise(1500, 0), slow_noise(4000, 1)
    x, new = (np.column_stack([part, np.roll(part, 40, axis=0), np.roll(part, 90, axis=0)]) for part in (x, new))
    with pytest.warns(UserWarning, match="Rows beside each other are alike"):
        alone = VAEOutlierDetector(random_state=0).fit(x)
    stretches = VAEOutlierDetector(random_state=0).fit(x, groups=np.arange(len(x)) * 20 // len(x))
    flagged = [(detector.predict(new) == -1).mean() for detector in (alone, stretches)]
    assert flagged[0] > 0.15
    assert flagged[1] < 0.08


@pytest.mark.parametrize("rows", [70, 300, 6000])
def test_rows_in_an_order_that_says_nothing_of_others_are_not_alike(rows):
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, 4))
    kinds = np.arange(rows) * 3 // rows
    orders = {
        "random": x,
        "sorted by a column": x[x[:, 0].argsort()],
        "sorted by kind": x + 5 * kinds[:, None],
        "numbered": np.column_stack([np.arange(rows), x]),
        "few values": rng.integers(0, 3, (rows, 4)).astype(float),
        "missing cells": np.where(rng.random((rows, 4)) < 0.3, np.nan, x),
        "one kind": np.ones((rows, 2)),
    }
    assert not [name for name, each in orders.items() if alike_apart(each)]


@pytest.mark.parametrize("copies", [2, 4, 20])
def test_augmented_images_are_named(copies):
    """They come after all others, in the same order, as `np.concatenate` gives them."""
    images = load_digits().data[:300]
    noise = np.random.default_rng(0).normal(size=(copies, *images.shape))
    assert alike_apart(images) == 0
    assert alike_apart((images + noise).reshape(-1, 64)) == 300


@pytest.mark.parametrize("counter", [np.arange(200.0), -np.cumsum(np.random.default_rng(0).random(200) * 9)])
def test_a_column_that_counts_rows_is_named(counter):
    """New rows go on counting, and are flagged for it."""
    table = pd.DataFrame({"count": counter, "a": np.random.default_rng(1).normal(size=200)})
    with pytest.warns(UserWarning, match="only rise or only fall: count. If .*leave them out"):
        detector = VAEOutlierDetector(random_state=0).fit(table[:100])
    assert (detector.predict(table[100:]) == -1).mean() > 0.5
    assert not len(counting(table.sample(frac=1, random_state=0).to_numpy()))
    assert not len(counting(table[["a"]].to_numpy()))

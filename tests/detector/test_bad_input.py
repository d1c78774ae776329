"""What was got, what was expected, what to do: the message for every way in which input can be wrong."""

import datetime
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError

from anomalyvae import VAEOutlierDetector

X = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["speed", "accel", "yaw"])


def fit(x, sample_weight=None, groups=None, **settings):
    detector = VAEOutlierDetector(**{"random_state": 0, "max_epochs": 2, "validation_fraction": 0} | settings)
    return detector.fit(x, sample_weight=sample_weight, groups=groups)


def spoiled(column, value, rows=1):
    x = X.copy()
    x.loc[x.index[:rows], column] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (spoiled("accel", np.nan, 40), r"Got no value at all in accel, expected at least one.*Leave out such columns"),
        (spoiled("yaw", -np.inf), r"Got 1 cells that are infinity in X: yaw \(1\)\..*Replace"),
        (spoiled("yaw", np.inf).to_numpy(), r"infinity in X: column 2 \(1\)"),
        (X.assign(when=pd.Timestamp(0)), r"neither numeric nor categories: 'when' \(datetime64.*Convert them"),
        (X.assign(when=datetime.date(2026, 1, 1)), r"neither numeric nor categories: 'when' \(object, date\)"),
        (X.assign(both=["a", 1] * 20), r"neither numeric nor categories: 'both' \(object, mixed-integer\)"),
        (np.array([["a", "b"]] * 5), r"Got an array with text, such as .*'a'.*, expected numbers. Pass a DataFrame"),
        ([[1.0, "b"]] * 5, r"Got an array with text, such as .*, expected numbers. Pass a DataFrame"),
        ([[1.0, 2.0], [3.0]], r"Got rows of different lengths, expected a cell per column in each"),
        (pd.DataFrame(index=range(9)), r"Got a table of 9 rows without columns, expected at least one"),
        (X[:0], r"0 sample\(s\).*minimum of 2 is required"),
        (X[:1], r"1 sample\(s\).*minimum of 2 is required"),
        (X["speed"].to_numpy(), r"Expected 2D array, got 1D array instead"),
        (X.to_numpy() + 1j, r"Complex data not supported"),
        ((X.to_numpy() + 1j).astype(object), r"Complex data not supported: got rows of dtype complex128, exp"),
        (np.array([[1.0, np.complex64(2j)]] * 5, dtype=object), r"Complex data not supported: got .* complex64"),
        (X.assign(both=1 + 2j), r"neither numeric nor categories: 'both' \(complex128\)"),
        (X.assign(both=[1 + 2j] * 40).astype(object), r"neither numeric nor categories: 'both' \(object, complex\)"),
    ],
)
def test_unusable_rows_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        fit(x)


def test_sparse_is_refused():
    with pytest.raises(TypeError, match=r"Sparse data was passed.*dense data is required.*toarray"):
        fit(scipy.sparse.csr_array(X.to_numpy()))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[["speed", "accel"]], r"(?s)feature names should match.*missing.*- yaw"),
        (X.rename(columns={"yaw": "roll"}), r"(?s)unseen at fit time:\n- roll.*missing:\n- yaw"),
        (X[["yaw", "speed", "accel"]], r"must be in the same order"),
        (X.to_numpy()[:, :2], r"X has 2 features, but VAEOutlierDetector is expecting 3 features"),
        (spoiled("speed", np.inf), r"infinity in X: speed \(1\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_rows_that_do_not_fit_the_training_rows_are_refused(x, message):
    detector = fit(X)
    for method in ("score_samples", "predict", "feature_scores", "embed", "reconstruct", "score_terms"):
        with pytest.raises(ValueError, match=message):
            getattr(detector, method)(x)


METHODS = ("score_samples", "predict", "embed", "reconstruct", "score_terms", "feature_scores")


@pytest.mark.parametrize("method", METHODS)
def test_unfitted(method):
    with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit'"):
        getattr(VAEOutlierDetector(), method)(X)
    with pytest.raises(NotFittedError):
        VAEOutlierDetector().sample(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contamination": 0.6}, r"Got contamination=0.6, expected 'auto' or a number above 0.*Change contamination"),
        ({"objective": "gan"}, r"Got objective='gan', expected one of 'elbo'"),
        (
            {"criterion": "kl", "objective": "reconstruction"},
            r"Got criterion='kl'.*expected.*Use objective='elbo'",
        ),
        ({"input_shape": (2, 2)}, r"Got input_shape=\(2, 2\) \(4 cells\), expected 3 cells.*Give a shape"),
        ({"device": "cuda:99"}, r"Got device='cuda:99'"),
        ({"hidden": (0,)}, r"Got hidden=\(0,\), expected"),
        ({"latent_dim": 0}, r"Got latent_dim=0, expected 'auto' or an integer of at least 1"),
        ({"latent_dim": 2.5}, r"Got latent_dim=2.5"),
        ({"body": "transformer"}, r"Got body='transformer', expected one of 'mlp'.*or a callable"),
        ({"masking": 1.0}, r"Got masking=1.0"),
        ({"beta": np.nan}, r"Got beta=nan"),
        ({"scaling": "minmax"}, r"Got scaling='minmax'.*or None"),
        ({"random_state": "today"}, r"Got random_state='today'"),
        ({"max_epochs": 0}, r"Got max_epochs=0"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(X, **settings)


def test_negative_and_misshapen_weights_are_refused():
    with pytest.raises(ValueError, match=r"Got 40 sample_weight such as -1.0 in row 0, expected finite numbers"):
        fit(X, sample_weight=-np.ones(len(X)))
    with pytest.raises(ValueError, match=r"Got sample_weight of shape \(3,\), expected \(40,\)"):
        fit(X, sample_weight=np.ones(3))


@pytest.mark.parametrize(
    ("groups", "shape"), [(np.zeros(3), r"\(3,\)"), (np.arange(40)[:, None], r"\(40, 1\)"), ("machine", r"\(\)")]
)
def test_groups_of_another_shape_are_refused(groups, shape):
    with pytest.raises(
        ValueError, match=rf"Got groups of shape {shape}, expected \(40,\), a group for each row\. Pass"
    ):
        fit(X, groups=groups)


GAPS = [
    [None, *range(1, 40)],
    ["x", np.nan, *"y" * 38],
    np.ma.array(np.arange(40), mask=np.arange(40) == 3),
    pd.Series([pd.NA, *"y" * 39], dtype="string"),
    pd.Categorical([*"x" * 39, None]),
    pd.to_datetime([*["2026-01-01"] * 39, None]),
]


@pytest.mark.parametrize("values", GAPS)
def test_a_row_without_a_group_is_refused(values):
    first = int(np.flatnonzero(pd.isna(pd.Series(values)))[0])
    with pytest.raises(ValueError, match=rf"Got groups in which 1 of 40 values are missing, the first in row {first},"):
        fit(X, groups=values)


@pytest.mark.parametrize(
    ("selected", "message"),
    [
        ([None, *[False] * 39], r"Got selected in which 1 of 40 values are missing, the first in row 0"),
        (np.ma.array(np.zeros(40, bool), mask=np.arange(40) == 3), r"1 of 40 values are missing, the first in row 3"),
        (np.arange(40), r"Got selected with .*2.* for row 2, expected True or False.*not their numbers"),
        (["False"] * 40, r"Got selected with 'False' for row 0"),
        ([3, 5], r"Got selected of shape \(2,\), expected \(40,\), True or False for each row"),
    ],
)
def test_a_selection_without_an_answer_is_refused(selected, message):
    with pytest.raises(ValueError, match=message):
        VAEOutlierDetector().fit(X, selected=selected)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ma.array(np.ones(40), mask=np.arange(40) == 3), r"Got 1 sample_weight such as nan in row 3"),
        (pd.Series([1] * 39 + [None], dtype="Int64"), r"Got 1 sample_weight such as nan in row 39"),
        (np.ones(40, "m8[s]"), r"Got sample_weight of dtype timedelta64\[s\], expected numbers"),
        (np.ones(40) * 1j, r"Got sample_weight of dtype complex128, expected numbers"),
        (["a"] * 40, r"Got sample_weight of dtype <U1, expected numbers"),
        (np.array(["a", 1.0] * 20, dtype=object), r"Got sample_weight of dtype object, expected numbers"),
        ([10**400] * 40, r"Got 40 sample_weight such as inf in row 0, expected finite numbers"),
        (np.array([np.complex128(1j)] * 40, dtype=object), r"Got sample_weight of dtype complex128, expected numbers"),
        (np.array([np.timedelta64(1, "s")] * 40, dtype=object), r"Got sample_weight of dtype timedelta64\[s\]"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        fit(X, sample_weight=weight)
    with pytest.raises(ValueError, match=message):
        fit(X).score(X, sample_weight=weight)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("factor", [2.0**1000, 1e308, 2.0**-1000, 1e-310])
def test_only_the_proportions_of_weights_count(factor):
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 40)
    plain, other = fit(X, sample_weight=weight), fit(X, sample_weight=weight * factor)
    np.testing.assert_allclose(other.anomaly_score(X), plain.anomaly_score(X), rtol=1e-3)
    np.testing.assert_allclose(plain.score(X, sample_weight=weight * factor), plain.score(X, sample_weight=weight))


@pytest.mark.parametrize(("one", "lost"), [(1e16, 39), (1e300, 39), (1e-16, 1), (1e-320, 1)])
def test_weights_that_vanish_beside_the_largest_are_named(one, lost):
    weight = np.where(np.arange(40) == 3, one, 1.0)
    with pytest.warns(UserWarning, match=rf"^{lost} of 40 rows have a sample_weight below 1e-15 of the larg"):
        detector = fit(X, sample_weight=weight)
    assert np.isfinite(detector.anomaly_score(X)).all()


def test_columns_that_no_scaling_brings_into_reach_are_refused():
    stamps = X.assign(time=1.7e9)
    with pytest.raises(
        ValueError, match=r"scaling=None and cells beyond 1e\+06 in time \(1\.7e\+09\).*Pass scaling='auto'"
    ):
        fit(stamps, scaling=None)


def test_only_whole_numbers_lose_digits():
    rows = [[float(i), 1e17 + 1e15 * i] for i in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(rows)
    with pytest.warns(UserWarning, match=r"^column 1 has integers beyond 2\^53, which lose their last digits"):
        fit([[i, 10**17 + 10**15 * i] for i in range(20)])


@pytest.mark.parametrize("filling", [9.97e36, -1.79e308])
@pytest.mark.parametrize("rows", [1, 15])
def test_fillings_beside_which_a_column_is_blind_are_named(filling, rows):
    with pytest.warns(UserWarning, match=r"count as equal, in accel \([\d.e+]+\), state .*Replace them by NaN"):
        fit(spoiled("accel", filling, rows).assign(state=[filling, *[0, 1, 1] * 13]), max_epochs=1)


def test_columns_that_see_their_values_are_not_named():
    rng = np.random.default_rng(0)
    tails = {"cauchy": rng.standard_cauchy(2000), "lognormal": np.exp(3 * rng.normal(size=2000))}
    mostly_zero = np.where(rng.random(2000) < 0.96, 0.0, 1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(pd.DataFrame(tails | {"mostly_zero": mostly_zero, "constant": 1e-300}), max_epochs=1)
        fit(spoiled("accel", 9.97e36, 2), max_epochs=1, scaling="robust")


def test_divergence_is_reported_and_never_scored(monkeypatch):
    monkeypatch.setattr("anomalyvae.detector.fitting._LEARNING_RATE", 1e30)
    detector = VAEOutlierDetector(random_state=0, max_epochs=50, scaling=None)
    with pytest.raises(FloatingPointError, match=r"Got a loss or weight of .* diverged. Use scaling='robust'"):
        detector.fit(1e5 * X)
    with pytest.raises(NotFittedError):
        detector.score_samples(X)


@pytest.mark.parametrize(
    ("other", "interrupted"),
    [
        (spoiled("yaw", np.inf).rename(columns={"yaw": "roll"}), None),
        (X.drop(columns="yaw"), "Trainer"),
        (X.rename(columns={"yaw": "roll"}), "rounded_up"),
    ],
)
def test_a_fit_that_fails_or_is_interrupted_leaves_the_old_model(other, interrupted, monkeypatch):
    detector = fit(X)
    before = detector.predict(X), detector.anomaly_score(X)

    def ctrl_c(*args):
        raise KeyboardInterrupt

    if interrupted:
        monkeypatch.setattr(f"anomalyvae.detector.estimator.{interrupted}", ctrl_c)
    with pytest.raises((ValueError, KeyboardInterrupt)):
        detector.fit(other)
    np.testing.assert_array_equal((detector.predict(X), detector.anomaly_score(X)), before)


def test_outliers_without_a_value_are_refused():
    with pytest.raises(ValueError, match=r"Got outliers in which every cell is missing, expected values"):
        VAEOutlierDetector().fit(X, outliers=X[:3] * np.nan)


@pytest.mark.parametrize("n", [-1, 2.5, "many"])
def test_samples_are_a_whole_number_of_rows(n):
    with pytest.raises(ValueError, match=r"Got n=.*, expected a number of rows. Pass an integer of at least 0"):
        fit(X).sample(n)


def test_alarms_per_hour_need_rows_in_an_hour():
    with pytest.raises(ValueError, match=r"Got rows_per_hour=0, expected a number above 0"):
        fit(X).alarms(X, per_hour=6, rows_per_hour=0)


def test_latent_codes_of_the_wrong_width_are_refused():
    with pytest.raises(ValueError, match=r"Got latent codes of shape \(1, 9\), expected \(n, 2\)"):
        fit(X).decode(np.zeros((1, 9)))
    with pytest.raises(ValueError, match=r"Got latent codes of dtype complex128, expected numbers"):
        fit(X).decode(np.zeros((1, 2)) * 1j)
    with pytest.raises(ValueError, match=r"Got latent codes that are missing or infinite, expected numbers"):
        fit(X).decode([[0.0, np.nan]])

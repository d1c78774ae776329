"""Quality of generated rows of any model, compared with real rows."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp, norm, rankdata, wasserstein_distance
from sklearn.base import ClassifierMixin, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

from anomalyvae.audit.duplicates import is_number
from anomalyvae.audit.groups import wilson
from anomalyvae.metrics import auroc

_FOLDS = 5
_NEIGHBOURS = 5  # as in Naeem et al.
_LEVEL = 0.95  # of the confidence intervals
_FEWEST = 20  # rows

Floats = NDArray[np.float64]


def sample_quality(
    samples: ArrayLike | pd.DataFrame,
    test: ArrayLike | pd.DataFrame,
    train: ArrayLike | pd.DataFrame,
    *,
    classifier: ClassifierMixin | None = None,
    max_rows: int = 2000,
    random_state: int | np.random.RandomState | None = 0,
) -> pd.DataFrame:
    """Compare samples with real rows that their model has not seen.

    Parameters
    ----------
    samples : array-like or DataFrame of shape (n_samples, d)
    test : array-like or DataFrame of shape (n_test, d)
        Held-out real rows.
    train : array-like or DataFrame of shape (n_train, d)
        The training rows. They set the units (one standard deviation of each column), and reveal copies.
    classifier : scikit-learn classifier, optional
        For the two-sample test; by default gradient boosted trees.
    max_rows : int, default=2000
        Largest number of samples, and of test rows, that are compared; equally many of both are used.
    random_state : int, RandomState instance or None, default=0
        Chooses these rows and the folds, and seeds the default classifier.

    Returns
    -------
    DataFrame of shape (10, 3)
        Columns ``value``, and ``low`` and ``high`` of a 95 % confidence interval (NaN if there is none). Rows, with the
        value that perfect samples reach:

        - ``auroc``, .5: of a classifier that separates samples from test rows, cross-validated with copies of a row in
          the same fold (classifier two-sample test [1]_). Interval by DeLong [2]_.
        - ``accuracy``, .5: of the same classifier. Interval by Wilson.
        - ``ks``, 0: mean over columns of the Kolmogorov-Smirnov statistic; for a category the total variation distance.
        - ``wasserstein``, 0: mean over numeric columns of the Wasserstein-1 distance, in standard deviations.
        - ``correlation``, 0: mean over pairs of columns of the difference between their correlations; a category is a
          column per level.
        - ``precision``, about 1: share of the samples inside the neighbourhood of a test row, whose radius is the
          distance to its fifth nearest neighbour; ``recall`` is the reverse [3]_.
        - ``density``, about 1: mean number of neighbourhoods that a sample lies in, over the expected number;
          ``coverage``, about 1: share of the neighbourhoods that contain a sample [4]_.
        - ``copying``, .5: probability that a sample is closer to its nearest training row than a test row is (the
          Mann-Whitney statistic of [5]_, over all of space at once); 1 for copies.

    Raises
    ------
    ValueError
        For tables with different columns, missing cells, or fewer than 20 rows.

    Notes
    -----
    With few rows no figure reaches its ideal. For a baseline, pass other real rows as ``samples``.

    References
    ----------
    .. [1] D. Lopez-Paz, M. Oquab (2017), Revisiting Classifier Two-Sample Tests, arXiv:1610.06545.
    .. [2] E. DeLong, D. DeLong, D. Clarke-Pearson (1988), Comparing the Areas under Two or More Correlated ROC
       Curves, Biometrics 44.
    .. [3] T. Kynkäänniemi et al. (2019), Improved Precision and Recall Metric for Assessing Generative Models,
       arXiv:1904.06991.
    .. [4] M. Naeem et al. (2020), Reliable Fidelity and Diversity Metrics for Generative Models, arXiv:2002.09797.
    .. [5] C. Meehan, K. Chaudhuri, S. Dasgupta (2020), A Three Sample Hypothesis Test for Evaluating Generative
       Models, arXiv:2004.05675.
    """
    rng = check_random_state(random_state)
    tables = _check(samples, test, train)
    fake, real, learned = _standardised(tables)
    count = min(len(fake), len(real), max_rows)
    chosen = [rng.permutation(len(part))[:count] for part in (fake, real)]
    columns = _column_distances(tables[0].iloc[chosen[0]], tables[1].iloc[chosen[1]], tables[2])
    fake, real = fake[chosen[0]], real[chosen[1]]
    figures = _two_sample_test(fake, real, classifier, rng)
    figures |= {name: (float(columns[name].mean()), *_NO_INTERVAL) for name in ("ks", "wasserstein")}
    figures["correlation"] = (_correlation_distance(fake, real), *_NO_INTERVAL)
    figures |= _neighbourhoods(fake, real)
    figures["copying"] = _auroc(-_to_nearest(learned, fake), -_to_nearest(learned, real))
    return pd.DataFrame.from_dict(figures, orient="index", columns=["value", "low", "high"]).rename_axis("figure")


def column_distances(
    samples: ArrayLike | pd.DataFrame, test: ArrayLike | pd.DataFrame, train: ArrayLike | pd.DataFrame
) -> pd.DataFrame:
    """Distance between the distributions of samples and real rows, per column.

    Parameters
    ----------
    samples, test, train
        See `sample_quality`.

    Returns
    -------
    DataFrame of shape (d, 2)
        A row per column, with ``ks`` and ``wasserstein`` as in `sample_quality`; ``wasserstein`` is NaN for a category.

    Raises
    ------
    ValueError
        For tables with different columns, missing cells, or fewer than 20 rows.
    """
    return _column_distances(*_check(samples, test, train))


_Figure = tuple[float, float, float]  # value, low, high
_NO_INTERVAL = (np.nan, np.nan)


def _check(*given: Any) -> list[pd.DataFrame]:
    """Samples, test and training rows as tables with the same columns and no missing cell."""
    tables = [pd.DataFrame(table) for table in given]
    for name, table in zip(("samples", "test", "train"), tables, strict=True):
        if list(table.columns) != list(tables[2].columns):
            raise ValueError(
                f"The columns of {name} are {list(table.columns)[:9]}, those of train {list(tables[2].columns)[:9]}. "
                "Pass the same columns in the same order."
            )
        if table.isna().any(axis=None):
            raise ValueError(
                f"{int(table.isna().any(axis=1).sum())} rows of {name} have missing cells, which have no distance. "
                "Drop these rows, or fill the cells, for example by VAEOutlierDetector.impute."
            )
        if len(table) < _FEWEST:
            raise ValueError(f"Got {len(table)} rows of {name}, expected at least {_FEWEST}. Pass more.")
    return tables


def _standardised(tables: list[pd.DataFrame]) -> list[Floats]:
    """Numbers in standard deviations of the training rows, then a 0-or-1 cell per level of a category.

    Two rows that differ in a category are as far apart as two standardised numbers are on average.
    """
    train = tables[2]
    numbers: list[Any] = [name for name in train if is_number(train[name])]
    center, scale = train[numbers].mean(), train[numbers].std(ddof=0).replace(0, 1)
    joined = pd.concat(tables, ignore_index=True)
    joined[numbers] = (joined[numbers] - center) / scale
    categories: list[Any] = [name for name in train if name not in numbers]
    cells = pd.get_dummies(joined.astype(dict.fromkeys(categories, str)), columns=categories).to_numpy(dtype=float)
    ends = np.cumsum([len(table) for table in tables])
    return [cells[: ends[0]], cells[ends[0] : ends[1]], cells[ends[1] :]]


def _column_distances(samples: pd.DataFrame, test: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    distances: dict[Any, tuple[float, float]] = {}
    for name in train:
        a, b = samples[name], test[name]
        if is_number(train[name]):
            unit = float(train[name].std(ddof=0)) or 1.0
            distances[name] = (float(ks_2samp(a, b).statistic), float(wasserstein_distance(a, b)) / unit)
        else:
            shares = [part.astype(str).value_counts(normalize=True) for part in (a, b)]
            distances[name] = (0.5 * float(shares[0].sub(shares[1], fill_value=0).abs().sum()), np.nan)
    return pd.DataFrame.from_dict(distances, orient="index", columns=["ks", "wasserstein"])


def _correlation_distance(fake: Floats, real: Floats) -> float:
    """Mean difference between the correlations of all pairs of cells; those of a constant cell count as 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.nan_to_num(np.atleast_2d(np.corrcoef(part, rowvar=False))) for part in (fake, real))
    pairs = np.triu_indices(len(a), k=1)
    return float(np.abs(a - b)[pairs].mean()) if len(pairs[0]) else 0.0


def _two_sample_test(
    fake: Floats, real: Floats, classifier: ClassifierMixin | None, rng: np.random.RandomState
) -> dict[str, _Figure]:
    """AUROC and accuracy of a classifier, cross-validated; copies of a row are all in the same fold."""
    x, label = np.vstack([fake, real]), np.repeat([1, 0], [len(fake), len(real)])
    _, row = np.unique(x, axis=0, return_inverse=True)
    fold = rng.permutation(np.arange(row.max() + 1) % _FOLDS)[row.ravel()]
    if classifier is None:
        classifier = HistGradientBoostingClassifier(max_iter=50, random_state=rng.randint(2**31 - 1))
    probability = np.full(len(x), 0.5)
    for number in range(_FOLDS):
        train, test = fold != number, fold == number
        if test.any() and len(np.unique(label[train])) == 2:
            probability[test] = clone(classifier).fit(x[train], label[train]).predict_proba(x[test])[:, 1]
    right = np.where(probability == 0.5, 0.5, (probability > 0.5) == label).sum()
    return {
        "auroc": _auroc(probability[label == 1], probability[label == 0]),
        "accuracy": (float(right / len(x)), *wilson(right / len(x), len(x))),
    }


def _auroc(a: Floats, b: Floats) -> _Figure:
    """Probability that a value of ``a`` is larger than one of ``b``, ties counted as half, with DeLong's interval."""
    rank = rankdata(np.concatenate([a, b]))
    larger = (rank[: len(a)] - rankdata(a)) / len(b)  # share of b below each of a
    smaller = 1 - (rank[len(a) :] - rankdata(b)) / len(a)
    value = auroc(np.repeat([True, False], [len(a), len(b)]), np.concatenate([a, b]))
    error = np.sqrt(larger.var(ddof=1) / len(a) + smaller.var(ddof=1) / len(b))
    margin = float(norm.ppf(0.5 + _LEVEL / 2) * error)
    return value, max(0.0, value - margin), min(1.0, value + margin)


def _neighbourhoods(fake: Floats, real: Floats) -> dict[str, _Figure]:
    """Precision, recall, density and coverage."""
    distance = cdist(real, fake)  # exactly zero between copies
    around_real = _to_neighbour(real)[:, None] >= distance
    around_fake = _to_neighbour(fake)[None] >= distance
    shares = {
        "precision": around_real.any(axis=0),
        "recall": around_fake.any(axis=1),
        "coverage": around_real.any(axis=1),
    }
    figures = {name: (float(hit.mean()), *wilson(hit.mean(), len(hit))) for name, hit in shares.items()}
    return {
        "precision": figures["precision"],
        "recall": figures["recall"],
        "density": (float(around_real.sum() / (_NEIGHBOURS * len(fake))), *_NO_INTERVAL),
        "coverage": figures["coverage"],
    }


def _to_neighbour(x: Floats) -> Floats:
    """Distance of each row to its fifth nearest neighbour."""
    return np.partition(cdist(x, x), _NEIGHBOURS, axis=1)[:, _NEIGHBOURS]  # the row itself comes first


def _to_nearest(learned: Floats, x: Floats) -> Floats:
    return NearestNeighbors(n_neighbors=1).fit(learned).kneighbors(x)[0][:, 0]

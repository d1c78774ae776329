"""How good drawn rows are: told apart from real ones or not, column by column, pair by pair, and as a cloud of points.

Any rows will do, of any model: the figures know nothing of how they were drawn.
"""

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

from anomalyvae.audit.groups import wilson
from anomalyvae.metrics import auroc

_FOLDS = 5
_NEIGHBOURS = 5  # of Naeem et al.
_LEVEL = 0.95  # of the intervals
_FEWEST = 20  # rows of which anything can be said

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
    """Measure drawn rows against real ones that their model has not seen.

    Parameters
    ----------
    samples : array-like or DataFrame of shape (n_samples, d)
        Drawn rows.
    test : array-like or DataFrame of shape (n_test, d)
        Real rows that were not learned.
    train : array-like or DataFrame of shape (n_train, d)
        The rows that were learned: they set the units (one standard deviation of each column), and show copies.
    classifier : scikit-learn classifier, optional
        Of the two-sample test; by default gradient boosted trees.
    max_rows : int, default=2000
        At most so many samples and test rows are compared, as many of the one as of the other.
    random_state : int, RandomState instance or None, default=0
        Draws them, the folds, and seeds the default classifier.

    Returns
    -------
    DataFrame of shape (10, 3)
        Columns ``value``, and ``low`` and ``high`` of a 95 % interval where there is one. Rows, with what samples
        reach that are as good as real rows:

        - ``auroc``, .5: of a classifier that tells samples from test rows, each row judged by one that has learned
          without it and its copies (classifier two-sample test [1]_). Interval after DeLong [2]_.
        - ``accuracy``, .5: of the same classifier. Interval after Wilson.
        - ``ks``, 0: mean over columns of the largest difference between the distribution functions (Kolmogorov and
          Smirnov); for a category the total variation.
        - ``wasserstein``, 0: mean over numeric columns of the Wasserstein-1 distance, in standard deviations.
        - ``correlation``, 0: mean over pairs of columns of the difference between their correlations; a category is a
          column per level.
        - ``precision``, about 1: share of the samples that lie among test rows, within the distance to the fifth
          nearest other of one of them; ``recall`` is the reverse [3]_.
        - ``density``, about 1: in how many such neighbourhoods a sample lies on average, as a share of those
          expected; ``coverage``, about 1: share of the neighbourhoods that hold a sample [4]_.
        - ``copying``, .5: how often a sample lies nearer to its nearest training row than a test row does (the
          Mann-Whitney statistic of [5]_, over all of space at once); 1 for copies.

    Raises
    ------
    ValueError
        For tables whose columns differ, with missing cells, or with fewer than 20 rows.

    Notes
    -----
    With few rows no figure reaches its ideal. What real rows reach is the measure: pass more of them as ``samples``.

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
    tables = _alike(samples, test, train)
    drawn, real, learned = _cells(tables)
    count = min(len(drawn), len(real), max_rows)
    chosen = [rng.permutation(len(part))[:count] for part in (drawn, real)]
    columns = _column_distances(tables[0].iloc[chosen[0]], tables[1].iloc[chosen[1]], tables[2])
    drawn, real = drawn[chosen[0]], real[chosen[1]]
    figures = _told_apart(drawn, real, classifier, rng)
    figures |= {name: (float(columns[name].mean()), *_NO_INTERVAL) for name in ("ks", "wasserstein")}
    figures["correlation"] = (_correlation_distance(drawn, real), *_NO_INTERVAL)
    figures |= _neighbourhoods(drawn, real)
    figures["copying"] = _more_often(-_to_nearest(learned, drawn), -_to_nearest(learned, real))
    return pd.DataFrame.from_dict(figures, orient="index", columns=["value", "low", "high"]).rename_axis("figure")


def column_distances(
    samples: ArrayLike | pd.DataFrame, test: ArrayLike | pd.DataFrame, train: ArrayLike | pd.DataFrame
) -> pd.DataFrame:
    """How far the distribution of each column of drawn rows is from that of real ones.

    Parameters
    ----------
    samples, test, train
        As `sample_quality` takes them.

    Returns
    -------
    DataFrame of shape (d, 2)
        A row per column, with ``ks`` and ``wasserstein`` as `sample_quality` describes them; a category has no
        ``wasserstein``.

    Raises
    ------
    ValueError
        For tables whose columns differ, with missing cells, or with fewer than 20 rows.
    """
    return _column_distances(*_alike(samples, test, train))


_Figure = tuple[float, float, float]  # value, low, high
_NO_INTERVAL = (np.nan, np.nan)


def _alike(*given: Any) -> list[pd.DataFrame]:
    """Samples, test and training rows as tables with the same columns and no missing cell."""
    tables = [pd.DataFrame(table) for table in given]
    for name, table in zip(("samples", "test", "train"), tables, strict=True):
        if list(table.columns) != list(tables[2].columns):
            raise ValueError(
                f"Got {name} with columns {list(table.columns)[:9]}, expected those of train, "
                f"{list(tables[2].columns)[:9]}. Pass the same columns in the same order."
            )
        if table.isna().any(axis=None):
            raise ValueError(
                f"Got {name} with {int(table.isna().any(axis=1).sum())} rows in which a cell is missing, expected "
                "whole rows. Leave them out, or fill them in, for example by VAEOutlierDetector.impute."
            )
        if len(table) < _FEWEST:
            raise ValueError(f"Got {len(table)} rows as {name}, expected at least {_FEWEST}. Draw or hold out more.")
    return tables


def _is_number(column: "pd.Series[Any]") -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _cells(tables: list[pd.DataFrame]) -> list[Floats]:
    """Numbers in standard deviations of the training rows, then a cell per level, so that all have a distance.

    Two rows that differ in a category are as far apart as two standardised numbers are on average.
    """
    train = tables[2]
    numbers: list[Any] = [name for name in train if _is_number(train[name])]
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
        if _is_number(train[name]):
            unit = float(train[name].std(ddof=0)) or 1.0
            distances[name] = (float(ks_2samp(a, b).statistic), float(wasserstein_distance(a, b)) / unit)
        else:
            shares = [part.astype(str).value_counts(normalize=True) for part in (a, b)]
            distances[name] = (0.5 * float(shares[0].sub(shares[1], fill_value=0).abs().sum()), np.nan)
    return pd.DataFrame.from_dict(distances, orient="index", columns=["ks", "wasserstein"])


def _correlation_distance(drawn: Floats, real: Floats) -> float:
    """Mean difference between the correlations of all pairs of cells; a constant cell has none, 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.nan_to_num(np.atleast_2d(np.corrcoef(part, rowvar=False))) for part in (drawn, real))
    pairs = np.triu_indices(len(a), k=1)
    return float(np.abs(a - b)[pairs].mean()) if len(pairs[0]) else 0.0


def _told_apart(
    drawn: Floats, real: Floats, classifier: ClassifierMixin | None, rng: np.random.RandomState
) -> dict[str, _Figure]:
    """AUROC and accuracy of a classifier, cross-fitted; copies of a row are all in the same fold."""
    x, label = np.vstack([drawn, real]), np.repeat([1, 0], [len(drawn), len(real)])
    _, row = np.unique(x, axis=0, return_inverse=True)
    fold = rng.permutation(np.arange(row.max() + 1) % _FOLDS)[row.ravel()]
    if classifier is None:
        classifier = HistGradientBoostingClassifier(max_iter=50, random_state=rng.randint(2**31 - 1))
    probability = np.full(len(x), 0.5)
    for part in range(_FOLDS):
        learned, judged = fold != part, fold == part
        if judged.any() and len(np.unique(label[learned])) == 2:
            probability[judged] = clone(classifier).fit(x[learned], label[learned]).predict_proba(x[judged])[:, 1]
    right = np.where(probability == 0.5, 0.5, (probability > 0.5) == label).sum()
    return {
        "auroc": _more_often(probability[label == 1], probability[label == 0]),
        "accuracy": (float(right / len(x)), *wilson(right / len(x), len(x))),
    }


def _more_often(a: Floats, b: Floats) -> _Figure:
    """How often a value of ``a`` is larger than one of ``b``, ties by half: AUROC, with DeLong's interval."""
    rank = rankdata(np.concatenate([a, b]))
    larger = (rank[: len(a)] - rankdata(a)) / len(b)  # share of b below each of a
    smaller = 1 - (rank[len(a) :] - rankdata(b)) / len(a)
    value = auroc(np.repeat([True, False], [len(a), len(b)]), np.concatenate([a, b]))
    error = np.sqrt(larger.var(ddof=1) / len(a) + smaller.var(ddof=1) / len(b))
    margin = float(norm.ppf(0.5 + _LEVEL / 2) * error)
    return value, max(0.0, value - margin), min(1.0, value + margin)


def _neighbourhoods(drawn: Floats, real: Floats) -> dict[str, _Figure]:
    """Precision, recall, density and coverage: who lies in whose surroundings."""
    apart = cdist(real, drawn)  # written out, not by products: the distance of copies is zero
    around_real = _to_neighbour(real)[:, None] >= apart
    around_drawn = _to_neighbour(drawn)[None] >= apart
    shares = {
        "precision": around_real.any(axis=0),
        "recall": around_drawn.any(axis=1),
        "coverage": around_real.any(axis=1),
    }
    figures = {name: (float(hit.mean()), *wilson(hit.mean(), len(hit))) for name, hit in shares.items()}
    return {
        "precision": figures["precision"],
        "recall": figures["recall"],
        "density": (float(around_real.sum() / (_NEIGHBOURS * len(drawn))), *_NO_INTERVAL),
        "coverage": figures["coverage"],
    }


def _to_neighbour(x: Floats) -> Floats:
    """Distance of each row to its fifth nearest other."""
    return np.partition(cdist(x, x), _NEIGHBOURS, axis=1)[:, _NEIGHBOURS]  # the row itself comes first


def _to_nearest(learned: Floats, x: Floats) -> Floats:
    return NearestNeighbors(n_neighbors=1).fit(learned).kneighbors(x)[0][:, 0]

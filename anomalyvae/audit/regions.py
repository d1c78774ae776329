"""Density of rows in a latent space, sample weights that compensate for it, and sparse and dense regions."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

_REFERENCE_ROWS = 10_000  # a sample among which neighbours are found, and from which regions are learned
_WITHIN = 0.99  # share of rows whose weights the bound does not clip
_CLOSEST = 1e-3  # of the median spacing: smaller distances do not make a row denser
_ROWS_PER_REGION, _MOST = 30, 16  # with 16 regions, a group of one row in thirty can have its own
_FEWEST = 10  # rows of a region; smaller ones are outliers, or part of another
_SPARSE, _DENSE = 2.0, 0.5  # mean weight of a region
_COLUMNS = 3  # listed per region

Floats = NDArray[np.float64]


def neighbour_density(
    points: ArrayLike, *, neighbours: int = 10, random_state: int | np.random.RandomState | None = 0
) -> Floats:
    """Density of rows around each row, relative to the median row.

    Parameters
    ----------
    points : array-like of shape (n, k)
        Finite numbers in one unit, such as latent codes.
    neighbours : int, default=10
        Equal rows count as one point of that mass. Fewer neighbours resolve smaller groups, with more noise.
    random_state : int, RandomState instance or None, default=0
        Chooses 10,000 points among which neighbours are found, if there are more distinct ones.

    Returns
    -------
    ndarray of shape (n,)
        Above zero; 1 for the median row.

    Notes
    -----
    The density at a row is ``mass / r^m`` (Loftsgaarden & Quesenberry 1965), with r the distance to the k-th neighbour,
    mass the number of rows up to there, and m the intrinsic dimension of the points, estimated by ``1 / mean(log(r_k /
    r_j))`` over rows and j < k (Levina & Bickel 2004, averaged as in MacKay & Ghahramani 2005). The nearest point is
    skipped, as in the detector's memory: it may be the row itself.

    Each row then gets the median of its neighbours' densities instead of its own. The neighbours of a row in a sparse
    group are in that group; the neighbours of an outlier are not, so an outlier does not count as a sparse group.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> many, few = rng.normal(size=(900, 2)), rng.normal(size=(30, 2)) + 20
    >>> density = neighbour_density(np.concatenate([many, few]))
    >>> bool(np.median(density[900:]) < 0.1)
    True
    """
    x = np.asarray(points, dtype=np.float64)
    distinct, inverse, count = np.unique(x, axis=0, return_inverse=True, return_counts=True)
    if len(distinct) < 3:
        return np.ones(len(x))
    chosen = check_random_state(random_state).permutation(len(distinct))[:_REFERENCE_ROWS]
    near = min(neighbours, len(chosen) - 1)
    search = NearestNeighbors(n_neighbors=near + 1).fit(distinct[chosen])
    distance, index = (found[:, 1:] for found in search.kneighbors(distinct))
    distance = np.maximum(distance, _CLOSEST * np.median(distance[:, -1]))
    spread = np.log(distance[:, -1:] / distance[:, :-1])
    dimension = 1 / max(float(spread.mean()), 1 / x.shape[1]) if spread.size else 1.0
    logs = np.log(count[chosen][index].sum(axis=1)) - dimension * np.log(distance[:, -1])
    smooth = np.median(logs[chosen][index], axis=1)[inverse.ravel()]
    return np.exp(np.clip(smooth - np.median(smooth), -700, 700))


def inverse_density_weights(density: ArrayLike, *, bound: float = 20.0) -> Floats:
    """Sample weights under which sparse and dense regions count alike.

    Parameters
    ----------
    density : array-like of shape (n,)
        Above zero, relative to the median row.
    bound : float, default=20.0
        Weights lie between 1 / bound and bound times that of the median row. 1 gives all rows the same weight.

    Returns
    -------
    ndarray of shape (n,)
        The inverse of the density, to the power of 1 or the largest that keeps 99 % of the rows within the bound; of
        mean 1.

    Raises
    ------
    ValueError
        For a bound below 1.

    Notes
    -----
    In many dimensions, densities differ by many powers of ten. With a power of 1, half of the rows would be clipped to
    the largest weight; a smaller power keeps their order.

    Examples
    --------
    >>> inverse_density_weights([1.0, 1.0, 0.5, 0.25], bound=4.0)
    array([0.5, 0.5, 1. , 2. ])
    """
    if not bound >= 1:
        raise ValueError(f"bound={bound} is below 1. Pass for example 20, to count a row up to 20 times.")
    sparsity = -np.log(np.asarray(density, dtype=np.float64))
    most = float(np.quantile(sparsity, _WITHIN))
    power = min(1.0, np.log(bound) / most) if most > 0 else 1.0
    weight = np.clip(np.exp(power * sparsity), 1 / bound, bound)
    return weight / weight.mean()


def effective_rows(weight: Any) -> float:
    """Effective sample size of weighted rows, ``(sum w)^2 / sum w^2`` (Kish 1965, Survey Sampling)."""
    w = np.asarray(weight, dtype=np.float64)
    return float(w.sum() ** 2 / np.square(w).sum())


def find_regions(points: Floats, number: int | None = None, seed: int = 0) -> NDArray[np.int64]:
    """Cluster rows into regions by k-means; a region of fewer than ten rows is merged into its nearest.

    Parameters
    ----------
    points : ndarray of shape (n, k)
    number : int, optional
        Of regions before merging; by default one per 30 rows, at least 2, at most 16.
    seed : int

    Returns
    -------
    ndarray of shape (n,)
        The region of each row, from 0.
    """
    if number is None:
        number = int(np.clip(len(points) // _ROWS_PER_REGION, 2, _MOST))
    learned = points[check_random_state(seed).permutation(len(points))[:_REFERENCE_ROWS]]
    number = min(number, len(np.unique(learned, axis=0)))
    region = KMeans(number, n_init=5, random_state=seed).fit(learned).predict(points).astype(np.int64)
    while True:
        names, count = np.unique(region, return_counts=True)
        if len(names) == 1 or count.min() >= _FEWEST:
            return region
        centre = np.array([points[region == name].mean(axis=0) for name in names])
        small = count.argmin()
        distance = np.square(centre - centre[small]).sum(axis=1)
        distance[small] = np.inf
        region[region == names[small]] = names[distance.argmin()]


def describe_regions(
    region: NDArray[np.int64], points: Floats, density: Floats, weight: Floats, group: pd.Series | None = None
) -> pd.DataFrame:
    """Size, density and a typical row of each region.

    Parameters
    ----------
    region : ndarray of shape (n,)
    points : ndarray of shape (n, k)
    density, weight : ndarray of shape (n,)
    group : Series of shape (n,), optional
        The group of each row.

    Returns
    -------
    DataFrame
        By region, sparsest first: ``rows``, ``share``, the median ``density``, the mean ``weight``, ``kind`` (sparse
        from a weight of 2, dense up to 1/2, otherwise empty; the 95 % interval of the mean for all regions at once
        decides) and ``medoid``, the position of the most central row. With ``group`` also its most over-represented
        group, and ``group_share``, that group's share of the region.
    """
    rows, parts = [], len(np.unique(region))
    for number in np.unique(region):
        inside = np.flatnonzero(region == number)
        centre = points[inside].mean(axis=0)
        mean = float(weight[inside].mean())
        half = (
            float(stats.t.ppf(1 - 0.025 / parts, len(inside) - 1) * stats.sem(weight[inside])) if parts > 1 else np.inf
        )
        row = {
            "region": number,
            "rows": len(inside),
            "share": len(inside) / len(region),
            "density": float(np.median(density[inside])),
            "weight": mean,
            "kind": "sparse" if mean - half >= _SPARSE else "dense" if mean + half <= _DENSE else "",
            "medoid": inside[np.square(points[inside] - centre).sum(axis=1).argmin()],
        }
        if group is not None:
            here = group.iloc[inside].value_counts(normalize=True)
            row["group"] = (here / group.value_counts(normalize=True)).idxmax()
            row["group_share"] = here[row["group"]]
        rows.append(row)
    return pd.DataFrame(rows).set_index("region").sort_values("density", kind="stable")


def distinguishing_columns(region: NDArray[np.int64], cells: pd.DataFrame) -> pd.DataFrame:
    """The three columns in which the rows of each region differ most from all other rows.

    Parameters
    ----------
    region : ndarray of shape (n,)
    cells : DataFrame of shape (n, k)
        Rows in standard deviations; see `anomalyvae.audit.duplicates.standardised`.

    Returns
    -------
    DataFrame
        ``region``, ``column``, ``direction`` (higher, lower) and ``difference`` of the means in standard deviations of
        the column (Cohen 1988); largest first.
    """
    found = []
    for number in np.unique(region):
        inside = region == number
        if inside.all():
            continue
        difference = cells[inside].mean() - cells[~inside].mean()
        largest = difference.iloc[np.argsort(-difference.abs().to_numpy(), kind="stable")[:_COLUMNS]]
        direction = np.where(largest > 0, "higher", "lower")
        table = {"region": number, "column": largest.index, "direction": direction, "difference": largest.to_numpy()}
        found.append(pd.DataFrame(table))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["region", "column"])

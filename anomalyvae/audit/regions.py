"""The regions of a latent space: how many rows live there, how densely, and what sets them apart."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.utils import check_random_state

_ROWS_PER_REGION, _MOST = 30, 16  # with 16 regions, a group of one row in thirty has room for one of its own
_FEWEST = 10  # rows of a region: fewer are no group, but some outliers or part of one
_THIN, _CROWDED = 2.0, 0.5  # mean weight of a region
_NAMED = 3  # columns that are said to set a region apart
_LEARNED = 10_000  # rows, drawn where there are more, from which the regions are found

Floats = NDArray[np.float64]


def find_regions(points: Floats, number: int | None = None, seed: int = 0) -> NDArray[np.int64]:
    """Divide rows into regions by k-means; one of fewer than ten rows joins its nearest.

    Parameters
    ----------
    points : ndarray of shape (n, k)
    number : int, optional
        To begin with; by default as many as leave 30 rows to each on average, at least 2, at most 16.
    seed : int

    Returns
    -------
    ndarray of shape (n,)
        The region of each row, from 0.
    """
    if number is None:
        number = int(np.clip(len(points) // _ROWS_PER_REGION, 2, _MOST))
    learned = points[check_random_state(seed).permutation(len(points))[:_LEARNED]]
    number = min(number, len(np.unique(learned, axis=0)))
    region = KMeans(number, n_init=5, random_state=seed).fit(learned).predict(points).astype(np.int64)
    while True:
        names, count = np.unique(region, return_counts=True)
        if len(names) == 1 or count.min() >= _FEWEST:
            return region
        centre = np.array([points[region == name].mean(axis=0) for name in names])
        small = count.argmin()
        apart = np.square(centre - centre[small]).sum(axis=1)
        apart[small] = np.inf
        region[region == names[small]] = names[apart.argmin()]


def describe_regions(
    region: NDArray[np.int64], points: Floats, density: Floats, weight: Floats, group: pd.Series | None = None
) -> pd.DataFrame:
    """Say of each region how large and how thin it is, and which row stands for it.

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
        Thinnest first, by region: ``rows``, ``share``, the median ``density``, the mean ``weight``, ``kind``
        (thin from a weight of 2, crowded up to 1/2) and ``medoid``, the position of the row nearest to the region's
        centre. With ``group`` its most over-represented one, and
        ``group_share``, that group's share of the region.
    """
    rows = []
    for number in np.unique(region):
        inside = np.flatnonzero(region == number)
        centre = points[inside].mean(axis=0)
        mean = float(weight[inside].mean())
        kind = "thin" if mean >= _THIN else "crowded" if mean <= _CROWDED else ""
        row = {
            "region": number,
            "rows": len(inside),
            "share": len(inside) / len(region),
            "density": float(np.median(density[inside])),
            "weight": mean,
            "kind": kind,
            "medoid": inside[np.square(points[inside] - centre).sum(axis=1).argmin()],
        }
        if group is not None:
            here = group.iloc[inside].value_counts(normalize=True)
            row["group"] = (here / group.value_counts(normalize=True)).idxmax()
            row["group_share"] = here[row["group"]]
        rows.append(row)
    return pd.DataFrame(rows).set_index("region").sort_values("density", kind="stable")


def distinguishing_columns(region: NDArray[np.int64], cells: pd.DataFrame) -> pd.DataFrame:
    """The columns by which the rows of each region differ most from all other rows.

    Parameters
    ----------
    region : ndarray of shape (n,)
    cells : DataFrame of shape (n, k)
        Rows in standard deviations, as `anomalyvae.audit.duplicates.standardised` gives them.

    Returns
    -------
    DataFrame
        ``region``, ``column``, ``direction`` (higher, lower) and ``difference``, that of the means in standard
        deviations of the column (Cohen 1988); three columns per region, largest first.
    """
    found = []
    for number in np.unique(region):
        inside = region == number
        if inside.all():
            continue
        difference = cells[inside].mean() - cells[~inside].mean()
        largest = difference[difference.abs().sort_values(ascending=False, kind="stable").index[:_NAMED]]
        found.append(
            pd.DataFrame(
                {
                    "region": number,
                    "column": largest.index,
                    "direction": np.where(largest > 0, "higher", "lower"),
                    "difference": largest.to_numpy(),
                }
            )
        )
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["region", "column"])

"""Exact and near duplicates among rows, and duplicates across a split."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

MAX_ROWS = 20_000  # searched for near duplicates; the cost grows with their square
NEAR = 0.01  # largest root-mean-square difference between the cells of near duplicates, in standard deviations
_UNLIKELY = 0.1  # of the median distance between neighbours: in three or more columns, chance is rarely nearer
_LEVELS = 20  # levels of a category that get their own cell

Floats = NDArray[np.float64]


def is_number(column: "pd.Series[Any]") -> bool:
    """Whether a column is one of numbers; truth values count as a category."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def standardised(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in standard deviations of each column, with a 0-or-1 cell per level of a category.

    Parameters
    ----------
    table : DataFrame of shape (n, d)
        Numbers, text, categories and booleans. Missing numbers become the column's mean, with a cell that marks them.

    Returns
    -------
    DataFrame of shape (n, k)
        Columns are named as in ``table``, ``column = level`` and ``column missing``; each has mean 0 and standard
        deviation 1, or is all zeros.
    """
    parts: list[pd.Series] = []
    for name in table:
        column = table[name]
        if is_number(column):
            parts.append(column.astype(np.float64).rename(str(name)))
            if column.isna().any():
                parts.append(column.isna().astype(np.float64).rename(f"{name} missing"))
        else:
            text = column.astype("str").where(column.notna(), "(missing)")
            for level in text.value_counts().index[:_LEVELS]:
                parts.append((text == level).astype(np.float64).rename(f"{name} = {level}"))
    cells = pd.concat(parts, axis=1)
    largest = cells.abs().max()
    cells /= largest.where(largest > 0, 1.0)  # squares of huge numbers would overflow
    spread = cells.std(ddof=0)
    constant = ~(spread > 1e-9)  # no more than rounding errors
    return ((cells - cells.mean()) / spread.mask(constant, 1.0)).mask(cells.isna(), 0.0).mul(~constant, axis=1)


@dataclass(frozen=True)
class Duplicates:
    """Finds duplicates among the rows of a table.

    Parameters
    ----------
    key : ndarray of shape (n,)
        A hash, equal for equal rows.
    points : ndarray of shape (n, k)
        Rows in standard deviations.
    searched : ndarray of shape (m,)
        Positions of the rows searched for near duplicates: all, or a sample.
    radius : float
        Largest distance between near duplicates.
    """

    key: NDArray[np.uint64]
    points: Floats
    searched: NDArray[np.int64]
    radius: float

    @classmethod
    def of(cls, table: pd.DataFrame, cells: pd.DataFrame, seed: int = 0) -> "Duplicates":
        """Prepare a table, whose `standardised` rows are ``cells``."""
        plain = table.apply(lambda column: column + 0.0 if column.dtype.kind == "f" else column)  # -0.0 becomes 0.0
        key = np.asarray(pd.util.hash_pandas_object(plain, index=False), dtype=np.uint64)
        points = cells.to_numpy(np.float64)
        searched = np.sort(check_random_state(seed).permutation(len(points))[:MAX_ROWS])
        first = searched[~pd.Series(key[searched]).duplicated().to_numpy()]
        spacing = _nearest(points, first)[0]
        median = np.median(spacing[np.isfinite(spacing)]) if np.isfinite(spacing).any() else 0.0
        return cls(key, points, searched, min(NEAR * np.sqrt(points.shape[1]), _UNLIKELY * float(median)))

    def within(self) -> pd.DataFrame:
        """Rows that equal an earlier row, or nearly equal another, by position.

        Returns
        -------
        DataFrame
            ``row``, ``duplicate_of``, ``kind`` (exact, near) and ``distance``, the root mean square over the cells in
            standard deviations. Of a pair of near duplicates the later row is listed.
        """
        position = pd.Series(np.arange(len(self.key)))
        first = position.groupby(self.key).transform("first").to_numpy()
        again = np.flatnonzero(first != position)
        rows = self.searched[first[self.searched] == self.searched]
        distance, other = _nearest(self.points, rows)
        mutual = pd.Series(other, index=rows).reindex(other).to_numpy() == rows
        near = (distance <= self.radius) & ((rows > other) | ~mutual)
        return pd.concat(
            [self._pairs(again, first[again], "exact"), self._pairs(rows[near], other[near], "near")], ignore_index=True
        )

    def across(self, split: pd.Series) -> pd.DataFrame:
        """Rows with a duplicate in another part of a split, by position.

        Parameters
        ----------
        split : Series of shape (n,)
            The part of each row: train, test, ...

        Returns
        -------
        DataFrame
            As of `within`, with ``split`` and ``duplicate_split``. Both rows of a pair are listed.
        """
        part = split.to_numpy()
        found = []
        for name in pd.unique(part):
            here, there = np.flatnonzero(part == name), np.flatnonzero(part != name)
            first = pd.Series(there, index=self.key[there])
            equal = pd.Series(self.key[here]).map(first[~first.index.duplicated()]).to_numpy(np.float64)
            exact = ~np.isnan(equal)
            found.append(self._pairs(here[exact], equal[exact].astype(np.int64), "exact"))
            rest, others = (np.intersect1d(rows, self.searched) for rows in (here[~exact], there))
            distance, other = _nearest(self.points, rest, others)
            near = distance <= self.radius
            found.append(self._pairs(rest[near], other[near], "near"))
        table = pd.concat(found, ignore_index=True)
        return table.assign(split=part[table["row"]], duplicate_split=part[table["duplicate_of"]])

    def _pairs(self, row: NDArray[np.int64], other: NDArray[np.int64], kind: str) -> pd.DataFrame:
        distance = np.sqrt(np.square(self.points[row] - self.points[other]).mean(axis=1)) if len(row) else []
        return pd.DataFrame({"row": row, "duplicate_of": other, "kind": kind, "distance": distance}).astype(
            {"row": np.int64, "duplicate_of": np.int64, "kind": "str", "distance": np.float64}
        )


def _nearest(
    points: Floats, rows: NDArray[np.int64], among: NDArray[np.int64] | None = None
) -> tuple[Floats, NDArray[np.int64]]:
    """Distance and position of each row's nearest neighbour, by default among the same rows; infinite without any."""
    others = rows if among is None else among
    if not len(rows) or len(others) < (2 if among is None else 1):
        return np.full(len(rows), np.inf), np.full(len(rows), -1)
    search = NearestNeighbors(n_neighbors=1).fit(points[others])
    distance, index = search.kneighbors(None if among is None else points[rows])  # None excludes the row itself
    return distance[:, 0], others[index[:, 0]]

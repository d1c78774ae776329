"""Rows that are there twice, or nearly, and those that stand on both sides of a split."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

MAX_ROWS = 20_000  # among which near-duplicates are sought, at a cost that grows with the square
NEAR = 0.01  # standard deviations that the cells of near-duplicates differ by, in the root of the mean square
_UNLIKELY = 0.1  # of the median distance between neighbours: in three or more columns, chance alone is rarely nearer
_LEVELS = 20  # of a category that have a cell of their own

Floats = NDArray[np.float64]


def standardised(table: pd.DataFrame) -> pd.DataFrame:
    """Rows as numbers in one unit: standard deviations of each column, and a 0-or-1 cell per level of a category.

    Parameters
    ----------
    table : DataFrame of shape (n, d)
        Numbers, text, categories and booleans. Missing numbers become the column's mean, with a cell that says so.

    Returns
    -------
    DataFrame of shape (n, k)
        Columns are named as in ``table``, ``column = level`` and ``column missing``; each has mean 0 and standard
        deviation 1, or is 0 throughout.
    """
    parts: dict[str, pd.Series] = {}
    for name in table:
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            parts[str(name)] = column.astype(np.float64)
            if column.isna().any():
                parts[f"{name} missing"] = column.isna().astype(np.float64)
        else:
            text = column.astype("str").where(column.notna(), "(missing)")
            for level in text.value_counts().index[:_LEVELS]:
                parts[f"{name} = {level}"] = (text == level).astype(np.float64)
    cells = pd.DataFrame(parts, index=table.index)
    spread = cells.std(ddof=0)
    constant = ~(spread > 1e-9 * cells.abs().max())  # a spread of rounding errors is none
    return ((cells - cells.mean()) / spread.mask(constant, 1.0)).mask(cells.isna(), 0.0).mul(~constant, axis=1)


@dataclass(frozen=True)
class Twins:
    """The rows of a table, ready to be asked which are alike.

    Parameters
    ----------
    key : ndarray of shape (n,)
        Equal for equal rows.
    points : ndarray of shape (n, k)
        Rows in standard deviations.
    sought : ndarray of shape (m,)
        Positions of the rows, all of them or a draw, among which near-duplicates are sought.
    reach : float
        Distance up to which two rows are near-duplicates.
    """

    key: NDArray[np.uint64]
    points: Floats
    sought: NDArray[np.int64]
    reach: float

    @classmethod
    def of(cls, table: pd.DataFrame, cells: pd.DataFrame, seed: int = 0) -> "Twins":
        """Prepare a table, whose `standardised` rows are ``cells``."""
        plain = table.apply(lambda column: column + 0.0 if column.dtype.kind == "f" else column)  # -0.0 is 0.0
        key = np.asarray(pd.util.hash_pandas_object(plain, index=False), dtype=np.uint64)
        points = cells.to_numpy(np.float64)
        chosen = np.sort(check_random_state(seed).permutation(len(points))[:MAX_ROWS])
        first = chosen[~pd.Series(key[chosen]).duplicated().to_numpy()]
        spacing = _nearest(points, first)[0]
        apart = np.median(spacing[np.isfinite(spacing)]) if np.isfinite(spacing).any() else 0.0
        return cls(key, points, chosen, min(NEAR * np.sqrt(points.shape[1]), _UNLIKELY * float(apart)))

    def duplicates(self) -> pd.DataFrame:
        """Each row that is equal to an earlier one, or nearly equal to another, by position.

        Returns
        -------
        DataFrame
            ``row``, ``twin``, ``kind`` (exact, near) and ``distance``, the root mean square over the cells in standard
            deviations. Of a pair of near-duplicates the later row is listed.
        """
        position = pd.Series(np.arange(len(self.key)))
        first = position.groupby(self.key).transform("first").to_numpy()
        again = np.flatnonzero(first != position)
        own = self.sought[first[self.sought] == self.sought]
        distance, twin = _nearest(self.points, own)
        near = (distance <= self.reach) & ((own > twin) | (_partner(own, twin) != own))
        return pd.concat(
            [self._pairs(again, first[again], "exact"), self._pairs(own[near], twin[near], "near")], ignore_index=True
        )

    def leaks(self, split: pd.Series) -> pd.DataFrame:
        """Each row whose twin is on another side of a split, by position.

        Parameters
        ----------
        split : Series of shape (n,)
            The side of each row: train, test, ...

        Returns
        -------
        DataFrame
            As of `duplicates`, with ``split`` and ``twin_split``. Both rows of a pair are listed.
        """
        side = split.to_numpy()
        found = []
        for name in pd.unique(side):
            here, there = np.flatnonzero(side == name), np.flatnonzero(side != name)
            first = pd.Series(there, index=self.key[there])
            equal = pd.Series(self.key[here]).map(first[~first.index.duplicated()]).to_numpy(np.float64)
            exact = ~np.isnan(equal)
            found.append(self._pairs(here[exact], equal[exact].astype(np.int64), "exact"))
            rest, others = (np.intersect1d(rows, self.sought) for rows in (here[~exact], there))
            distance, twin = _nearest(self.points, rest, others)
            near = distance <= self.reach
            found.append(self._pairs(rest[near], twin[near], "near"))
        table = pd.concat(found, ignore_index=True)
        return table.assign(split=side[table["row"]], twin_split=side[table["twin"]])

    def _pairs(self, row: NDArray[np.int64], twin: NDArray[np.int64], kind: str) -> pd.DataFrame:
        distance = np.sqrt(np.square(self.points[row] - self.points[twin]).mean(axis=1)) if len(row) else []
        return pd.DataFrame({"row": row, "twin": twin, "kind": kind, "distance": distance}).astype(
            {"row": np.int64, "twin": np.int64, "kind": "str", "distance": np.float64}
        )


def _nearest(
    points: Floats, rows: NDArray[np.int64], among: NDArray[np.int64] | None = None
) -> tuple[Floats, NDArray[np.int64]]:
    """Distance to the nearest of some rows, by default to the nearest other one, and its position; if any, else inf."""
    others = rows if among is None else among
    if not len(rows) or len(others) < (2 if among is None else 1):
        return np.full(len(rows), np.inf), np.full(len(rows), -1)
    search = NearestNeighbors(n_neighbors=1).fit(points[others])
    distance, index = search.kneighbors(None if among is None else points[rows])  # None: no row is its own neighbour
    return distance[:, 0], others[index[:, 0]]


def _partner(rows: NDArray[np.int64], twin: NDArray[np.int64]) -> NDArray[np.int64]:
    """The twin of each row's twin."""
    return pd.Series(twin, index=rows).reindex(twin).to_numpy()

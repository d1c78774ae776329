"""Training rows: equal rows merged, and rows held out.

Numpy and pandas only.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_FOLDS = 3
_FEW_ROWS, _FEW_GROUPS = 5000, 10  # below these, the threshold is cross-fitted
_MIN_HELD_OUT = 5  # fewer rows are not enough to stop training or to set a threshold


@dataclass(frozen=True)
class Rows:
    """Distinct rows, ordered by content, so that nothing depends on their order in ``X``.

    Parameters
    ----------
    x : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        How often each row counts; the sum is the number (or the weight) of all rows.
    group : ndarray of shape (n,) or None
        A number per group.
    selected : ndarray of bool, shape (n,), or None
        Rows that are in ``X`` because they scored high: always learned, never held out.
    """

    x: NDArray[np.float64]
    weight: NDArray[np.float64]
    group: NDArray[np.int64] | None = None
    selected: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: NDArray[Any]) -> Self:
        """The rows of a mask or of indices."""
        group, selected = (None if part is None else part[chosen] for part in (self.group, self.selected))
        return type(self)(self.x[chosen], self.weight[chosen], group, selected)

    @property
    def is_reference(self) -> NDArray[np.bool_]:
        """Rows that are a sample of normal rows, shape ``(n,)``: those that were not selected."""
        return np.ones(len(self), dtype=bool) if self.selected is None else ~self.selected

    def sha256(self) -> str:
        """A checksum of rows, weights, groups and selection."""
        digest = hashlib.sha256(repr(self.x.shape).encode())
        for part in (self.x, self.weight, self.group, self.selected):
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def distinct_rows(
    x: NDArray[np.float64], weight: NDArray[np.float64], groups: Any = None, selected: Any = None
) -> Rows:
    """Merge equal rows into one with their total weight, and order rows by content.

    So a row given twice equals a row of weight two, both sides of a split never share a row, and a fit does not depend
    on the order of the rows.

    Parameters
    ----------
    x : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Rows of weight zero are left out, as are rows in which every cell is missing.
    groups : array-like of shape (n,), optional
    selected : array-like of bool, shape (n,), optional

    Returns
    -------
    Rows
    """
    kept = (weight > 0) & ~np.isnan(x).all(axis=1)
    x, weight = x[kept], weight[kept]
    group = None if groups is None else pd.factorize(np.asarray(groups)[kept], sort=True)[0].astype(np.int64)
    content = np.where(np.isnan(x), np.nan, x + 0.0)  # one bit pattern for NaN, and -0.0 becomes 0.0
    chosen = None if selected is None or not np.any(selected) else np.asarray(selected, dtype=bool)[kept]
    key = [content, *(part for part in (group, chosen) if part is not None)]
    keyed = np.ascontiguousarray(np.column_stack(key)).view(np.uint64)
    fingerprint = _fingerprint(keyed)
    order = np.argsort(fingerprint, kind="stable")
    keyed, fingerprint = keyed[order], fingerprint[order]
    new = np.empty(len(order), dtype=bool)
    new[:1] = True
    new[1:] = (fingerprint[1:] != fingerprint[:-1]) | (keyed[1:] != keyed[:-1]).any(axis=1)
    first = order[new]
    merged = np.bincount(np.cumsum(new) - 1, weights=weight[order]).astype(np.float64)
    return replace(Rows(content, weight, group, chosen).take(first), weight=merged)


def _fingerprint(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash of the bits of each row (multiply, mix, add; overflow wraps)."""
    odd = np.random.default_rng(0).integers(0, 2**63, bits.shape[1:], dtype=np.uint64) | np.uint64(1)
    result = np.zeros(len(bits), dtype=np.uint64)
    for column in range(bits.shape[1]):
        cell = bits[:, column]
        mixed = (cell ^ (cell >> np.uint64(32))) * odd[column]
        result += mixed ^ (mixed >> np.uint64(29))
    return result


def hold_out(rows: Rows, fraction: float, rng: np.random.RandomState) -> tuple[Rows, Rows | None, Rows | None]:
    """Split rows into those that are learned, those that stop training, and those that set the threshold.

    Parameters
    ----------
    rows : Rows
        With ``group`` set, whole groups are held out: neighbouring windows of a recording overlap. Selected rows are
        learned.
    fraction : float
        Share of rows held out; half of them stops training, half sets the threshold.
    rng : RandomState

    Returns
    -------
    learned, stopping, calibration : Rows
        The last two are None where there are too few rows (or groups) to hold any out.
    """
    group, reference = np.arange(len(rows)) if rows.group is None else rows.group, rows.is_reference
    names = rng.permutation(np.unique(group[reference]))
    per_part = round(fraction / 2 * len(names))
    if rows.group is not None and fraction > 0:
        per_part = max(per_part, 1)
    if per_part == 0 or len(names) < 2 * per_part + 1:
        return rows, None, None
    stopping = reference & np.isin(group, names[:per_part])
    calibration = reference & np.isin(group, names[per_part : 2 * per_part])
    if min(stopping.sum(), calibration.sum()) < _MIN_HELD_OUT:
        return rows, None, None
    return rows.take(~(stopping | calibration)), rows.take(stopping), rows.take(calibration)


def cross_folds(rows: Rows, rng: np.random.RandomState) -> NDArray[np.int64] | None:
    """Fold of each row, 0, 1 or 2, for fewer than 5,000 rows or 10 groups; -1 for a selected row, which is in none.

    Returns
    -------
    ndarray of shape (n,) or None
        None where one split is enough, or where there are too few rows for folds.
    """
    reference = rows.is_reference
    group = np.arange(len(rows)) if rows.group is None else rows.group
    names, place = np.unique(group[reference], return_inverse=True)
    few = len(names) < _FEW_GROUPS if rows.group is not None else len(place) < _FEW_ROWS
    if not few or len(names) < 2 or len(place) < _FOLDS * _MIN_HELD_OUT:
        return None
    fold = np.full(len(rows), -1, dtype=np.int64)
    fold[reference] = rng.permutation(np.arange(len(names)) % min(_FOLDS, len(names)))[place]
    return fold

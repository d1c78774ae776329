"""Rows at the door: what is refused, what counts as the same row, and which rows are held out.

Numpy and pandas only.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_FOLDS = 3
_FEW_ROWS, _FEW_GROUPS = 5000, 10  # below these, thresholds are cross-fitted
_MIN_HELD_OUT = 5  # fewer rows than this say nothing about when to stop or where the line lies


@dataclass(frozen=True)
class Rows:
    """Distinct rows in an order of their own, so that nothing depends on the order they came in.

    Parameters
    ----------
    x : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        How often each row counts; the sum is the number of rows that came (or of their weights).
    group : ndarray of shape (n,) or None
        A number per group.
    selected : ndarray of bool, shape (n,), or None
        Rows that came because they are unusual: they are always learned, and stand for no other rows.
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

    def drawn(self) -> NDArray[np.bool_]:
        """Which rows are a sample of what is normal: those that were not selected."""
        return np.ones(len(self), dtype=bool) if self.selected is None else ~self.selected

    def sha256(self) -> str:
        """A checksum of the rows, by which two sets can be told apart."""
        digest = hashlib.sha256(repr(self.x.shape).encode())
        for part in (self.x, self.weight, self.group, self.selected):
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def distinct_rows(
    x: NDArray[np.float64], weight: NDArray[np.float64], groups: Any = None, selected: Any = None
) -> Rows:
    """Merge equal rows into one that carries their weight, and order rows by content.

    A row given twice is then the same as a row of weight two, a duplicate never sits on both sides of a split, and
    a fit does not depend on the order of the rows.

    Parameters
    ----------
    x : ndarray of shape (n, d)
    weight : ndarray of shape (n,)
        Rows of weight zero are left out, and so are rows in which every cell is missing.
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
    told_apart = [content, *(part for part in (group, chosen) if part is not None)]
    keyed = np.ascontiguousarray(np.column_stack(told_apart)).view(np.uint64)
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
    """A 64-bit number per row that depends on its bits alone (multiply, mix, add; overflow wraps)."""
    odd = np.random.default_rng(0).integers(0, 2**63, bits.shape[1:], dtype=np.uint64) | np.uint64(1)
    result = np.zeros(len(bits), dtype=np.uint64)
    for column in range(bits.shape[1]):
        cell = bits[:, column]
        mixed = (cell ^ (cell >> np.uint64(32))) * odd[column]
        result += mixed ^ (mixed >> np.uint64(29))
    return result


def hold_out(rows: Rows, fraction: float, rng: np.random.RandomState) -> tuple[Rows, Rows | None, Rows | None]:
    """Split rows into those that are learned, those that say when to stop, and those that set the threshold.

    Parameters
    ----------
    rows : Rows
        With ``group`` set, whole groups change sides: neighbouring windows of one recording overlap. Rows that were
        selected are learned.
    fraction : float
        Share of rows held out; half of them stops training, half sets the threshold.
    rng : RandomState

    Returns
    -------
    learned, stopping, calibration : Rows
        The last two are None where there are too few rows (or groups) to hold any out.
    """
    group, drawn = np.arange(len(rows)) if rows.group is None else rows.group, rows.drawn()
    names = rng.permutation(np.unique(group[drawn]))
    per_part = round(fraction / 2 * len(names))
    if rows.group is not None and fraction > 0:
        per_part = max(per_part, 1)
    if per_part == 0 or len(names) < 2 * per_part + 1:
        return rows, None, None
    stopping = drawn & np.isin(group, names[:per_part])
    calibration = drawn & np.isin(group, names[per_part : 2 * per_part])
    if min(stopping.sum(), calibration.sum()) < _MIN_HELD_OUT:
        return rows, None, None
    return rows.take(~(stopping | calibration)), rows.take(stopping), rows.take(calibration)


def cross_folds(rows: Rows, rng: np.random.RandomState) -> NDArray[np.int64] | None:
    """Fold of each row, 0, 1 or 2, where there are too few rows or groups to keep some from training for good.

    A row that was selected is in no fold, -1.

    Returns
    -------
    ndarray of shape (n,) or None
        None where one split serves, and where there are too few rows for any.
    """
    drawn = rows.drawn()
    group = np.arange(len(rows)) if rows.group is None else rows.group
    names, place = np.unique(group[drawn], return_inverse=True)
    few = len(names) < _FEW_GROUPS if rows.group is not None else len(place) < _FEW_ROWS
    if not few or len(names) < 2 or len(place) < _FOLDS * _MIN_HELD_OUT:
        return None
    fold = np.full(len(rows), -1, dtype=np.int64)
    fold[drawn] = rng.permutation(np.arange(len(names)) % min(_FOLDS, len(names)))[place]
    return fold


def refuse_infinite(x: NDArray[np.float64], columns: Any, estimator: str) -> None:
    """Refuse a table with infinite cells, naming the columns; a missing cell, NaN, is welcome.

    Parameters
    ----------
    x : ndarray of shape (n, d)
    columns : sequence or None
        Their names.
    estimator : str
        Who refuses.

    Raises
    ------
    ValueError
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):
            return  # the common case costs one pass and no memory
    counts = np.isinf(x).sum(axis=0)
    if counts.any():
        worst = sorted(np.flatnonzero(counts), key=lambda i: -counts[i])
        listed = ", ".join(f"{_name(columns, i)} ({counts[i]})" for i in worst[:5])
        more = f" and {len(worst) - 5} more columns" if len(worst) > 5 else ""
        raise ValueError(
            f"Got {counts.sum()} cells that are infinity in X: {listed}{more}. {estimator} expected finite numbers, or "
            "NaN where a value is missing. Replace them: an infinite value is a fault of the source, no measurement."
        )


def refuse_empty(x: NDArray[np.float64], columns: Any) -> None:
    """Refuse training rows of which a column has no value at all."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isnan(x.sum()):
            return
    empty = np.flatnonzero(np.isnan(x).all(axis=0))
    if len(empty):
        listed = ", ".join(_name(columns, i) for i in empty[:5])
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"Got no value at all in {listed}{more}, expected at least one to learn from. Leave such columns out."
        )


def _name(columns: Any, i: Any) -> str:
    return f"column {i}" if columns is None else str(columns[i])

"""Rows as they come from the user: validated, categories as numbers, equal rows merged, and rows held out.

All rows that enter a detector pass through `read_training` or `read_rows`.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from anomalyvae.calibration import AUTO_FALSE_ALARMS, few_calibrate
from anomalyvae.detector.categories import (
    Categories,
    as_pandas,
    common_levels,
    encode_categories,
    find_categories,
    one_hot_cells,
)
from anomalyvae.nets.scaling import jittering

Floats = NDArray[np.float64]

_FOLDS = 3
_MORE_FOLDS, _VERY_FEW_ROWS = 8, 150  # below, a network without a third of the rows says little of one with all
_FEW_ROWS, _FEW_GROUPS = 5000, 10  # below these, the threshold is cross-fitted
_SHARE = 0.2  # held out by validation_fraction="auto", where it splits
_SHOWING = round(1 / AUTO_FALSE_ALARMS) - 1  # groups that show a p-value as small as the threshold's share
_EXACT_INTEGERS = 2**53
_MIN_HELD_OUT = 5  # fewer rows are not enough to stop training or to set a threshold
_FEWEST = _FOLDS * _MIN_HELD_OUT  # distinct rows; fewer are not enough for folds
_RECURRING_ROWS, _RECURRING_GROUPS = 8, 3  # content in so many rows (or groups) is expected in new rows
_DOMINATING = 0.6  # a group with a larger share of the rows is divided: the others are too few to learn from


@dataclass(frozen=True)
class Rows:
    """Distinct rows, ordered by content, so that nothing depends on their order in ``X``."""

    x: Floats  # (n, d)
    weight: Floats  # (n,), how often each row counts; the sum is the number of rows as given
    group: NDArray[np.int64] | None = None  # (n,), a number per group
    selected: NDArray[np.bool_] | None = None  # (n,), in X because they scored high: learned, never held out
    recurring: NDArray[np.bool_] | None = None  # (n,), given so often that new rows will equal them: never held out

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: NDArray[Any]) -> Self:
        """The rows of a mask or of indices."""
        parts = (None if part is None else part[chosen] for part in (self.group, self.selected, self.recurring))
        return type(self)(self.x[chosen], self.weight[chosen], *parts)

    @property
    def is_reference(self) -> NDArray[np.bool_]:
        """Rows that are a sample of normal rows, shape ``(n,)``: those that were not selected."""
        return np.ones(len(self), dtype=bool) if self.selected is None else ~self.selected

    @property
    def is_recurring(self) -> NDArray[np.bool_]:
        """Rows that new rows will equal, shape ``(n,)``."""
        return np.zeros(len(self), dtype=bool) if self.recurring is None else self.recurring

    @property
    def may_be_held_out(self) -> NDArray[np.bool_]:
        """Rows that a network can do without, shape ``(n,)``: neither selected nor recurring."""
        return self.is_reference & ~self.is_recurring

    def balanced(self) -> Self:
        """The rows, with recurring ones weighing no more than all others together, which they would drown out."""
        often = self.is_recurring
        most, others = self.weight[often].sum(), self.weight[~often].sum()
        if not 0 < others < most:
            return self
        return replace(self, weight=np.where(often, self.weight * (others / most), self.weight))

    def by_content(self) -> Self:
        """Distinct rows whatever their group; one is selected if any of those equal to it is."""
        first, place = _equal_rows(np.ascontiguousarray(self.x).view(np.uint64))
        weight = np.bincount(place, self.weight).astype(np.float64)
        selected = np.bincount(place, ~self.is_reference) > 0
        return type(self)(self.x[first], weight, selected=selected, recurring=self.is_recurring[first])

    def sha256(self) -> str:
        """A checksum of rows, weights, groups and selection."""
        digest = hashlib.sha256(repr(self.x.shape).encode())
        for part in (self.x, self.weight, self.group, self.selected):
            if part is not None:
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def distinct_rows(x: Floats, weight: Floats, groups: Any = None, selected: Any = None) -> Rows:
    """Merge equal rows into one with their total weight, and order rows by content.

    So a row given twice equals a row of weight two, both sides of a split never share a row, and a fit does not depend
    on the order of the rows. Rows of weight zero, and rows in which every cell is missing, are left out.

    A row is recurring if it is given eight times or more, counted in rows of median weight; with groups, if three
    groups or more have it. Whole-number weights are counts of rows; a factor common to 15 rows or more is left out, as
    a table given twice says no more than once. Other weights are scaled so that they add up to the number of equally
    weighted rows that are worth as much, ``sum(w)^2 / sum(w^2)`` (Kish 1965, Survey Sampling).
    """
    kept = (weight > 0) & ~np.isnan(x).all(axis=1)
    x, weight = x[kept], weight[kept]
    group = None if groups is None else pd.factorize(np.asarray(groups)[kept], sort=True)[0].astype(np.int64)
    content = np.where(np.isnan(x), np.nan, x + 0.0)  # one bit pattern for NaN, and -0.0 becomes 0.0
    chosen = None if selected is None or not np.any(selected) else np.asarray(selected, dtype=bool)[kept]
    key = [content, *(part for part in (group, chosen) if part is not None)]
    counts = weight / weight.min(initial=np.inf)
    whole = bool((np.abs(counts - np.round(counts)) <= 1e-9 * counts).all() and (counts < 2**31).all())
    counts = np.round(counts) if whole else weight * (weight.sum() / np.square(weight).sum())
    first, place = _equal_rows(np.ascontiguousarray(np.column_stack(key)).view(np.uint64))
    merged = np.bincount(place, weights=counts).astype(np.float64)
    factor = float(np.gcd.reduce(merged.astype(np.int64))) if whole and len(merged) >= _FEWEST else 1.0
    usual = max(float(np.median(counts)) if len(counts) else 1.0, factor)
    rows = replace(Rows(content, weight, group, chosen).take(first), weight=merged / factor)
    of_content, content_of = _equal_rows(np.ascontiguousarray(rows.x).view(np.uint64))
    if rows.group is None:
        often = np.bincount(content_of, weights=merged) >= _RECURRING_ROWS * usual * (1 - 1e-9)
    else:
        pairs = np.unique(np.column_stack([content_of, rows.group]), axis=0)
        often = np.bincount(pairs[:, 0], minlength=len(of_content)) >= _RECURRING_GROUPS
    return replace(rows, recurring=often[content_of]) if often.any() else rows


def _equal_rows(keyed: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The index of the first of each set of equal rows, ordered by content, and the place of each row among them."""
    fingerprint = _fingerprint(keyed)
    order = np.argsort(fingerprint, kind="stable")
    keyed, fingerprint = keyed[order], fingerprint[order]
    new = np.empty(len(order), dtype=bool)
    new[:1] = True
    new[1:] = (fingerprint[1:] != fingerprint[:-1]) | (keyed[1:] != keyed[:-1]).any(axis=1)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(new) - 1
    return order[new], place


def _fingerprint(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash of the bits of each row (multiply, mix, add; overflow wraps)."""
    odd = np.random.default_rng(0).integers(0, 2**63, bits.shape[1:], dtype=np.uint64) | np.uint64(1)
    result = np.zeros(len(bits), dtype=np.uint64)
    for column in range(bits.shape[1]):
        cell = bits[:, column]
        mixed = (cell ^ (cell >> np.uint64(32))) * odd[column]
        result += mixed ^ (mixed >> np.uint64(29))
    return result


def hold_out(rows: Rows, fraction: float | str, rng: np.random.RandomState) -> tuple[Rows, Rows | None, Rows | None]:
    """Split rows into those that are learned, those that stop training, and those that set the threshold.

    The last two are half of the share ``fraction`` each, or None where there are too few rows (or groups). With
    ``"auto"`` they are a tenth each; of few groups up to a third set the threshold, until they show a p-value of 5 %.
    Whole groups are held out: neighbouring windows of a recording overlap. Selected rows are learned. Recurring rows
    are learned, and set the threshold too, with the share of their weight (or the groups) that is held out of the
    others.
    """
    block, may = _blocks(rows), rows.may_be_held_out
    names = rng.permutation(np.unique(block[may]))
    share = _SHARE if isinstance(fraction, str) else fraction
    per_part = round(share / 2 * len(names))
    if rows.group is not None and share > 0:
        per_part = max(per_part, 1)
    calibrating = per_part
    if rows.group is not None and isinstance(fraction, str):
        calibrating = max(per_part, min(_SHOWING, len(names) // 3))
    if per_part == 0 or len(names) < per_part + calibrating + 1:
        return rows, None, None
    stopping = may & np.isin(block, names[:per_part])
    calibration = may & np.isin(block, names[per_part : per_part + calibrating])
    if min(stopping.sum(), calibration.sum()) < _MIN_HELD_OUT:
        return rows, None, None
    again = rows.is_reference & rows.is_recurring
    weight = rows.weight
    if rows.group is None:
        weight = np.where(again, weight * per_part / len(names), weight)
    else:
        again &= np.isin(rows.group, rows.group[calibration])
    return (
        rows.take(~(stopping | calibration)),
        rows.take(stopping),
        replace(rows, weight=weight).take(calibration | again),
    )


def cross_folds(rows: Rows, rng: np.random.RandomState) -> NDArray[np.int64] | None:
    """Fold of each row, one of 3, for fewer than 5,000 rows or 10 groups; -1 for a row that is in none.

    Fewer than 150 rows have 8 folds.

    Selected and recurring rows are in none: all networks learn them. The folds have similar numbers of rows. None where
    one split is enough, or where there are too few rows for folds.
    """
    may = rows.may_be_held_out
    names, place = np.unique(_blocks(rows)[may], return_inverse=True)
    few = len(place) < _FEW_ROWS or (rows.group is not None and len(np.unique(rows.group[may])) < _FEW_GROUPS)
    enough = len(place) >= _FEWEST or rows.is_recurring.any()
    if not few or len(names) < 2 or not enough:
        return None
    folds = min(_FOLDS if len(place) >= _VERY_FEW_ROWS else _MORE_FOLDS, len(names))
    dealt = rng.permutation(np.arange(len(names)) % folds)
    size = np.bincount(place)
    if (size != size[0]).any():  # the largest first, each to the smallest fold
        filled = np.zeros(folds, dtype=np.int64)
        for name in np.lexsort((dealt, -size)):
            dealt[name] = filled.argmin()
            filled[dealt[name]] += size[name]
    fold = np.full(len(rows), -1, dtype=np.int64)
    fold[may] = dealt[place]
    return fold


def _blocks(rows: Rows) -> NDArray[np.int64]:
    """Rows with one number are held out together, shape ``(n,)``: a group, or a row without one.

    A group with most of the rows is divided into its rows, with a warning: without it, there is nothing to learn from.
    """
    own = np.arange(len(rows))
    if rows.group is None:
        return own
    size = np.bincount(rows.group[rows.may_be_held_out], minlength=rows.group.max() + 1)
    largest = int(size.argmax())
    if size[largest] <= _DOMINATING * size.sum() or (size > 0).sum() < 2:
        return rows.group
    warnings.warn(
        f"One of {len(size)} groups has {size[largest]:,} of the {size.sum():,} distinct rows, too many to train "
        "without it. Its rows are divided at random, so the threshold says little about rows of a new group. Record "
        "more groups, or shorten this one.",
        stacklevel=6,
    )
    return np.where(rows.group == largest, len(size) + own, rows.group)


@dataclass(frozen=True)
class TrainingData:
    """What `fit` receives, ready for training."""

    x: Floats  # (n, d), all rows in the order of X, categories as numbers, NaN where a cell is missing
    weight: Floats  # (n,)
    rows: Rows  # the distinct rows, which are learned
    outliers: Floats | None  # (k, d), known ones
    cells: list[int]  # one-hot cells of each column, 0 for a number; empty without categories
    categories: dict[str, list[str | bool]]  # known levels of each categorical column
    dtypes: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Numbers of rows and their checksums, as in ``training_``."""
        described: dict[str, Any] = {"rows": len(self.x), "sha256": self.rows.sha256()}
        reference = self.rows.take(self.rows.is_reference)
        described["groups"] = 0 if reference.group is None else len(np.unique(reference.group))
        described["complete"] = np.flatnonzero(~np.isnan(self.x).any(axis=0)).tolist()  # columns without missing cells
        if self.outliers is not None:
            known = distinct_rows(self.outliers, np.ones(len(self.outliers)))
            described |= {"outliers": len(self.outliers), "outliers_sha256": known.sha256()}
        return described


def read_training(
    detector: Any, X: Any, sample_weight: Any = None, groups: Any = None, outliers: Any = None, selected: Any = None
) -> TrainingData:
    """Validate what `fit` receives, encode categories, and merge equal rows.

    It sets ``n_features_in_`` and ``feature_names_in_`` of the detector.
    """
    X, outliers = as_pandas(X), as_pandas(outliers)
    columns = getattr(X, "columns", None)
    categories, dtypes = find_categories(X)
    x = _validated(detector, X, categories, reset=True)
    weight = weights_of(sample_weight, len(x))
    _refuse_empty(x, columns)
    x, categories = common_levels(x, weight, columns, categories)
    check_consistent_length(x, groups, selected)
    _warn_of_lost_digits(X, x, columns, categories)
    rows = distinct_rows(x, weight, groups, selected)
    if not rows.is_reference.any():
        raise ValueError(
            f"Got {len(x)} rows that are all selected, expected others that set the threshold. Leave out selected."
        )
    known = None
    if outliers is not None:
        known = _validated(detector, outliers, categories)
        known = np.array(known[~np.isnan(known).all(axis=1)])
    return TrainingData(x, weight, rows, known, one_hot_cells(columns, categories), categories, dtypes)


def valid_rows(detector: Any, X: Any) -> Floats:
    """Rows ``(n, d)``: float64, categories as numbers, NaN where a cell is missing."""
    check_is_fitted(detector, "network_")
    return _validated(detector, as_pandas(X), detector.categories_)


def read_rows(detector: Any, X: Any) -> Floats:
    """`valid_rows` to score; missing cells of which training says nothing are named in a warning."""
    X = as_pandas(X)
    x = valid_rows(detector, X)
    empty = np.isnan(x).all(axis=1) if np.isnan(x.sum()) else np.zeros(1, dtype=bool)
    if empty.any():
        warnings.warn(
            f"Got {empty.sum()} rows in which every cell is missing, expected at least one value. They get the score "
            "of the row that the model expects. Leave them out.",
            stacklevel=5,
        )
    if np.isnan(x.sum()):
        warn_of_new_gaps(x, detector.training_.get("complete", ()), getattr(X, "columns", None), stacklevel=5)
    return x


def new_gaps(x: Floats, complete: Sequence[int], columns: Any) -> list[list[str]]:
    """For each row, the columns with a missing cell that had none in training."""
    names = [_name(columns, i) for i in complete]
    return [[names[i] for i in np.flatnonzero(row)] for row in np.isnan(x[:, list(complete)])]


def warn_of_new_gaps(x: Floats, complete: Sequence[int], columns: Any, stacklevel: int) -> None:
    """Name the columns with missing cells that had none in training: nothing is known of the scores of such rows."""
    gaps = np.isnan(x[:, list(complete)])
    if gaps.any():
        names = ", ".join(_name(columns, complete[i]) for i in np.flatnonzero(gaps.any(axis=0))[:5])
        warnings.warn(
            f"{gaps.any(axis=1).sum()} of {len(x)} rows have missing cells in columns that had none in training, such "
            f"as {names}. Their p-values and flags are not calibrated. Fit with such rows, or leave them out.",
            stacklevel=stacklevel + 1,
        )


def _validated(detector: Any, X: Any, categories: Categories, reset: bool = False) -> Floats:
    x = validate_data(
        detector,
        encode_categories(X, categories),
        dtype=np.float64,
        order="C",
        reset=reset,
        force_writeable=True,  # torch needs it, though nothing writes
        ensure_all_finite=False,
        ensure_min_samples=2 if reset else 1,
    )
    _refuse_infinite(x, getattr(X, "columns", None), type(detector).__name__)
    return x


def weights_of(sample_weight: Any, n: int) -> Floats:
    """The weight of each row, shape ``(n,)``; a single number is the weight of all."""
    if sample_weight is None:
        return np.ones(n)
    weight = np.asarray(sample_weight, dtype=np.float64)
    weight = np.full(n, weight) if weight.ndim == 0 else weight
    if weight.shape != (n,):
        raise ValueError(f"Got sample_weight of shape {weight.shape}, expected ({n},). Pass one weight per row of X.")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(
            f"Got sample_weight from {weight.min()} to {weight.max()}, expected finite numbers of at least 0. Replace "
            "the others; a weight of 0 leaves a row out."
        )
    if not weight.any():
        raise ValueError(
            f"Got a sample_weight of zero for all {n} rows, expected some above zero. Leave out sample_weight to count "
            "all rows."
        )
    return weight


def _refuse_infinite(x: Floats, columns: Any, estimator: str) -> None:
    """Refuse infinite cells, naming their columns; NaN is a missing cell."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):
            return  # the common case takes one pass and no memory
    counts = np.isinf(x).sum(axis=0)
    if counts.any():
        worst = sorted(np.flatnonzero(counts), key=lambda i: -counts[i])
        listed = ", ".join(f"{_name(columns, i)} ({counts[i]})" for i in worst[:5])
        more = f" and {len(worst) - 5} more columns" if len(worst) > 5 else ""
        raise ValueError(
            f"Got {counts.sum()} cells that are infinity in X: {listed}{more}. {estimator} expected finite numbers, or "
            "NaN where a value is missing. Replace them: an infinite value is a fault of the source, not a measurement."
        )


def _refuse_empty(x: Floats, columns: Any) -> None:
    """Refuse training rows with a column that has no value."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isnan(x.sum()):
            return
    empty = np.flatnonzero(np.isnan(x).all(axis=0))
    if len(empty):
        listed = ", ".join(_name(columns, i) for i in empty[:5])
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"Got no value at all in {listed}{more}, expected at least one to learn from. Leave out such columns."
        )


def warn_of_few_groups(rows: Rows, groups: float) -> None:
    """Say what can be guaranteed for new groups, if it is less than the threshold's share of false alarms."""
    caution = None if rows.group is None else few_calibrate(groups, "groups")
    if caution is not None:
        warnings.warn(caution, stacklevel=4)


def _warn_of_lost_digits(X: Any, x: Floats, columns: Any, categories: Categories) -> None:
    """Name the columns that cannot be compared: those that vary by rounding errors alone, and integers beyond 2^53."""
    numeric = [i for i in range(x.shape[1]) if columns is None or str(columns[i]) not in categories]
    jitter = [i for i in numeric if jittering(torch.from_numpy(x[:, [i]]))]
    if jitter:
        warnings.warn(
            f"{', '.join(_name(columns, i) for i in jitter[:5])} {'vary' if len(jitter) > 1 else 'varies'} only by "
            "rounding errors, so its values count as constant. Subtract a reference value before rounding, or leave it "
            "out.",
            stacklevel=4,
        )
    kinds = [X.dtypes.iloc[i] for i in numeric] if hasattr(X, "iloc") else [getattr(X, "dtype", None)] * len(numeric)
    huge = [
        i
        for i, kind in zip(numeric, kinds, strict=True)
        if getattr(kind, "kind", "") in "iu" and np.nanmax(np.abs(x[:, i])) > _EXACT_INTEGERS
    ]
    if huge:
        warnings.warn(
            f"{', '.join(_name(columns, i) for i in huge[:5])} has integers beyond 2^53, which lose their last digits "
            "as float64. Subtract a reference value first; leave out identifiers.",
            stacklevel=4,
        )


def _name(columns: Any, i: Any) -> str:
    return f"column {i}" if columns is None else str(columns[i])

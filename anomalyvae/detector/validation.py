"""Rows as they come from the user: checked, as numbers, with warnings about what they lack.

All rows that enter a detector pass through `read_training` or `read_rows`.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted, validate_data

from anomalyvae.calibration import STRETCHES, calibrated_by, few_calibrate
from anomalyvae.detector.categories import (
    Categories,
    as_pandas,
    common_levels,
    encode_categories,
    find_categories,
    one_hot_cells,
)
from anomalyvae.detector.order import alike_apart, counting, slides
from anomalyvae.detector.overlap import starts_of, stretches_of
from anomalyvae.detector.rows import Rows, are_counts, distinct_rows
from anomalyvae.nets.scaling import LIMIT, jittering
from anomalyvae.nets.views import LEAST
from anomalyvae.tables.arrays import floats, names_to_keep, refuse_other_names, unmasked, unreal
from anomalyvae.untrusted import listed

_EXACT_INTEGERS = 2**53
_LOST = 1e-15  # of the largest weight: a smaller one does not change a sum in float64
_HUGE = 1e100  # as a weight
_SHARED, _MANY_TIMES = 10, 3  # rows with the largest whole weight, so many times the least: weights of classes
_RARE = 0.2  # of the rows with a value in a column: if all new rows have one, .1 of them are flagged, not .05
_LOOKED_AT = 1000  # rows, for cells that are far from the others

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingData:
    """What `fit` receives, ready for training."""

    x: Floats  # (n, d), all rows in the order of X, categories as numbers, NaN where a cell is missing
    weight: Floats  # (n,)
    rows: Rows  # the distinct rows, which are learned
    stretches: bool  # whether its groups are stretches of time, found by windows that overlap
    outliers: Floats | None  # (k, d), known ones
    cells: list[int]  # one-hot cells of each column, 0 for a number; empty without categories
    categories: dict[str, list[str | bool]]  # known levels of each categorical column
    dtypes: dict[str, str]
    names: list[str] | None  # of the columns, if scikit-learn does not compare them
    columns: Any  # the columns of X, if it is a table

    def describe(self) -> dict[str, Any]:
        """Numbers of rows and their checksums, as in ``training_``."""
        described: dict[str, Any] = {"rows": len(self.x), "sha256": self.rows.sha256()}
        reference = self.rows.take(self.rows.is_reference)
        described["groups"] = 0 if reference.group is None else len(np.unique(reference.group))
        if self.names is not None:
            described["names"] = self.names
        if self.stretches:
            described[STRETCHES] = True
        described["complete"] = np.flatnonzero(~np.isnan(self.x).any(axis=0)).tolist()  # columns without missing cells
        if self.outliers is not None:
            known = distinct_rows(self.outliers, np.ones(len(self.outliers)))
            described |= {"outliers": len(self.outliers), "outliers_sha256": known.sha256()}
        return described


def read_training(detector: Any, X: Any, sample_weight: Any, groups: Any, outliers: Any, selected: Any) -> TrainingData:
    """Validate what `fit` receives, encode categories, and merge equal rows.

    It sets ``n_features_in_`` and ``feature_names_in_`` of the detector.
    """
    X, outliers = as_pandas(X), as_pandas(outliers)
    columns = getattr(X, "columns", None)
    categories, dtypes = find_categories(X)
    x = _validated(detector, X, categories, reset=True)
    names = names_to_keep(columns)
    weight = weights_of(sample_weight, len(x))
    _warn_of_importances(weight)
    _refuse_empty(x, columns)
    _warn_of_rare_values(x, columns)
    groups = None if groups is None else _one_per_row(groups, len(x), "groups", "a group")
    selected = _selected_of(selected, len(x))
    x, categories = common_levels(x, weight, columns, categories, groups)
    _warn_of_lost_digits(X, x, columns, categories)
    shape = tuple(detector.input_shape or ())
    given = distinct_rows(x, weight, groups, selected, up_to_rounding=len(shape) != 2)  # each window may overlap others
    rows = _in_time(given, shape)
    _warn_of_order(x, columns, rows.group is not None)
    if not rows.is_reference.any():
        raise ValueError(
            f"Got {len(x)} rows that are all selected, expected others that set the threshold. Leave out selected."
        )
    known = None
    if outliers is not None:
        known = _validated(detector, outliers, categories, names)
        known = np.array(known[~np.isnan(known).all(axis=1)])
        if not len(known):
            raise ValueError("Got outliers in which every cell is missing, expected values. Leave out such outliers.")
    stretches = rows.group is not given.group
    cells = one_hot_cells(columns, categories)
    return TrainingData(x, weight, rows, stretches, known, cells, categories, dtypes, names, columns)


def _warn_of_order(x: Floats, columns: Any, grouped: bool) -> None:
    """Warn where new rows will differ more from learned ones than held-out rows do."""
    if len(counts := counting(x)):
        warnings.warn(
            f"From row to row, these columns only rise or only fall: {listed(_name(columns, i) for i in counts)}. If "
            "they count rows or time, new rows lie beyond and will be flagged: leave them out. If the rows are sorted "
            "by them, shuffle the rows.",
            stacklevel=4,
        )
    if grouped:
        return
    if slides(x):
        warnings.warn(
            "Successive rows look like windows that overlap, so more new normal rows will be flagged than promised. "
            "Pass groups=, the recording (or a stretch of it) of each row, or windows that no step before has changed, "
            "with input_shape=(signals, samples).",
            stacklevel=4,
        )
    elif (lag := alike_apart(x)) == 1:
        warnings.warn(
            "Rows beside each other are alike, so rows held out from training resemble learned ones, and more new "
            "normal rows will be flagged than promised. Pass groups= (--groups on the command line), the recording, "
            "person or day of each row; for rows in order of time, groups=np.arange(len(X)) * 20 // len(X). Shuffle "
            "the rows if their order means nothing.",
            stacklevel=4,
        )
    elif lag:
        warnings.warn(
            f"Rows {lag:,} places apart are alike, for example augmented copies of images, or rows that {lag:,} "
            "machines write in turn. So rows held out from training resemble learned ones, and more rows of new images "
            f"or machines will be flagged than promised. Pass groups=np.arange(len(X)) % {lag}, the image or machine "
            "of each row. No groups are needed if new rows come from the same machines, or hours of a day.",
            stacklevel=4,
        )


def _in_time(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Add when each window begins; windows without groups that overlap get stretches of time as groups."""
    if len(shape) != 2 or np.prod(shape) != rows.x.shape[1]:
        return rows
    start = starts_of(rows.x, shape)
    group = stretches_of(start, shape[1]) if rows.group is None else rows.group
    return replace(rows, start=start, group=group)


def _valid_rows(detector: Any, X: Any) -> Floats:
    """Rows ``(n, d)``: float64, categories as numbers, NaN where a cell is missing."""
    check_is_fitted(detector, "network_")
    return _validated(detector, as_pandas(X), detector.categories_, detector.training_.get("names"))


def read_rows(detector: Any, X: Any) -> Floats:
    """`_valid_rows` to score; missing cells of which training says nothing are named in a warning."""
    X = as_pandas(X)
    x = _valid_rows(detector, X)
    empty = np.isnan(x).all(axis=1) if np.isnan(x.sum()) else np.zeros(1, dtype=bool)
    if empty.any():
        warnings.warn(
            f"Got {empty.sum()} rows in which every cell is missing, expected at least one value. They get the score "
            "of the row that the model expects. Leave them out.",
            stacklevel=5,
        )
    if np.isnan(x.sum()):
        gaps, names = _gaps(detector, X, x)
        if gaps.any():
            some = ", ".join(names[i] for i in np.flatnonzero(gaps.any(axis=0))[:5])
            warnings.warn(
                f"{gaps.any(axis=1).sum()} of {len(x)} rows have missing cells in columns that had none in training, "
                f"such as {some}. Their p-values and flags are not calibrated. Fit with such rows, or leave them out.",
                stacklevel=5,
            )
    return x


def new_gaps(detector: Any, X: Any) -> list[list[str]]:
    """For each row, the columns with a missing cell that had none in training."""
    X = as_pandas(X)
    gaps, names = _gaps(detector, X, _valid_rows(detector, X))
    return [[names[i] for i in np.flatnonzero(row)] for row in gaps]


def _gaps(detector: Any, X: Any, x: Floats) -> tuple[NDArray[np.bool_], list[str]]:
    """The missing cells of the columns that had none in training, and their names."""
    complete = list(detector.training_.get("complete", ()))
    return np.isnan(x[:, complete]), [_name(getattr(X, "columns", None), i) for i in complete]


def _validated(
    detector: Any, X: Any, categories: Categories, names: Sequence[str] | None = None, reset: bool = False
) -> Floats:
    rows = encode_categories(X, categories)
    if isinstance(rows, pd.DataFrame) and not len(rows.columns):
        raise ValueError(f"Got a table of {len(rows)} rows without columns, expected at least one. Pass its columns.")
    if isinstance(rows, np.ndarray) and rows.dtype.kind in ("O", "S", "U"):
        text = next((cell for cell in rows.flat if isinstance(cell, str | bytes)), rows.dtype)
        raise ValueError(
            f"Got an array with text, such as {text!r}, expected numbers. Pass a DataFrame: its columns of text are "
            "categories."
        )
    x = validate_data(
        detector,
        rows,
        dtype=np.float64,
        order="C",
        reset=reset,
        force_writeable=True,  # torch needs it, though nothing writes
        ensure_all_finite=False,
        ensure_min_samples=2 if reset else 1,
    )
    if not reset:
        refuse_other_names(getattr(X, "columns", None), names)
    _refuse_infinite(x, getattr(X, "columns", None), type(detector).__name__)
    return x


def weights_of(sample_weight: Any, n: int) -> Floats:
    """The weight of each row, shape ``(n,)``; a single number is the weight of all."""
    if sample_weight is None:
        return np.ones(n)
    given = np.asarray(unmasked(sample_weight))
    kind = unreal(given)
    try:
        weight = floats(given) if not kind else given
    except (TypeError, ValueError):  # text, for example
        kind = str(given.dtype)
    if kind:
        raise ValueError(f"Got sample_weight of dtype {kind}, expected numbers. Convert it by .astype(float).")
    weight = np.full(n, weight) if weight.ndim == 0 else weight
    if weight.shape != (n,):
        raise ValueError(f"Got sample_weight of shape {weight.shape}, expected ({n},). Pass one weight per row of X.")
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
    if len(wrong):
        raise ValueError(
            f"Got {len(wrong)} sample_weight such as {weight[wrong[0]]} in row {wrong[0]}, expected finite numbers of "
            "at least 0. Replace them; a weight of 0 leaves a row out."
        )
    if not weight.any():
        raise ValueError(
            f"Got a sample_weight of zero for all {n} rows, expected some above zero. Leave out sample_weight to count "
            "all rows."
        )
    largest = weight.max()
    lost = int(((weight > 0) & (weight < _LOST * largest)).sum())
    if lost:
        warnings.warn(
            f"{lost} of {n} rows have a sample_weight below {_LOST:g} of the largest ({largest:g} in row "
            f"{weight.argmax()}), and count as nothing beside it. Check the largest ones; 0 leaves a row out.",
            stacklevel=4,
        )
    if not 1 / _HUGE < largest < _HUGE:  # only proportions count, and squares and sums of such weights would overflow
        weight = np.ldexp(weight, -np.frexp(largest)[1])
    return weight


def _warn_of_importances(weight: Floats) -> None:
    """Warn if whole weights look like those of classes: in a table of counts, few rows have the largest one."""
    positive = weight[weight > 0]
    largest, shared = positive.max(), int((positive == positive.max()).sum())
    if are_counts(weight) and _SHARED <= shared < len(positive) and largest >= _MANY_TIMES * positive.min():
        warnings.warn(
            f"{shared} rows have a sample_weight of {largest:g}, and whole weights say how often a row came, so new "
            "rows will equal these. If the weights say how much a row counts, divide them by their mean.",
            stacklevel=4,
        )


def _selected_of(selected: Any, n: int) -> Any:
    """Which rows were selected, as booleans."""
    if selected is None:
        return None
    cells = _one_per_row(selected, n, "selected", "True or False")
    wrong = np.flatnonzero(~np.isin(cells, (0, 1)))
    if len(wrong):
        raise ValueError(
            f"Got selected with {cells[wrong[0]]!r} for row {wrong[0]}, expected True or False for each row. Pass a "
            "mask of the rows of X, not their numbers."
        )
    return cells.astype(bool)


def _one_per_row(values: Any, n: int, name: str, expected: str) -> NDArray[Any]:
    """Values as an array of shape ``(n,)``, none of them missing: a row without a group may belong to any."""
    values = unmasked(values)
    cells = pd.Series(values).to_numpy() if isinstance(values, list | tuple) else np.asarray(values)
    if cells.shape != (n,):
        raise ValueError(
            f"Got {name} of shape {cells.shape}, expected ({n},), {expected} for each row. Pass one value per row of X."
        )
    missing = np.flatnonzero(pd.isna(cells))
    if len(missing):
        raise ValueError(
            f"Got {name} in which {len(missing)} of {len(cells)} values are missing, the first in row {missing[0]}, "
            f"expected {expected} for each row. Fill them in, or leave these rows out."
        )
    return cells


def _refuse_infinite(x: Floats, columns: Any, estimator: str) -> None:
    """Refuse infinite cells, naming their columns; NaN is a missing cell."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):
            return  # the common case takes one pass and no memory
    counts = np.isinf(x).sum(axis=0)
    if counts.any():
        worst = sorted(np.flatnonzero(counts), key=lambda i: -counts[i])
        where = listed(f"{_name(columns, i)} ({counts[i]})" for i in worst)
        raise ValueError(
            f"Got {counts.sum()} cells that are infinity in X: {where}. {estimator} expected finite numbers, or NaN "
            "where a value is missing. Replace them: an infinite value is a fault of the source, not a measurement."
        )


def refuse_unscaled(data: TrainingData) -> None:
    """Refuse training cells beyond `LIMIT`, which count as equal where no scaling brings them nearer."""
    largest = np.nanmax(np.abs(data.x), axis=0)
    far = np.flatnonzero(largest > LIMIT)
    if len(far):
        where = listed(f"{_name(data.columns, i)} ({largest[i]:.3g})" for i in far)
        raise ValueError(
            f"Got scaling=None and cells beyond {LIMIT:g} in {where}, expected standardised columns: larger numbers "
            "count as equal. Pass scaling='auto', or standardise the columns first."
        )


def warn_of_giants(data: TrainingData) -> None:
    """Name the columns with cells so large that the others count as equal beside them, such as 1e38 for no value."""
    x, giants = data.rows.x, {}
    for i in np.flatnonzero(np.array(data.cells or [0] * x.shape[1]) == 0):
        values = np.unique(x[:: -(-len(x) // _LOOKED_AT), i])
        values = values[~np.isnan(values)]
        if len(values) < 2:
            continue
        middle = values[(len(values) - 1) // 2]
        with np.errstate(over="ignore"):
            farthest = np.nanmax(np.abs(x[:, i] - middle))  # at most sqrt(n) standard deviations
            alike = np.abs(values - middle) < LEAST / np.sqrt(len(x)) * farthest
        if 1 < alike.sum() >= len(values) / 2:
            giants[i] = farthest
    if giants:
        where = listed(f"{_name(data.columns, i)} ({farthest:.3g})" for i, farthest in giants.items())
        warnings.warn(
            f"Got cells so far from the others that these count as equal, in {where}. Replace them by NaN if they mean "
            "that a value is missing. Otherwise take a logarithm, or pass scaling='robust'.",
            stacklevel=3,
        )


def _refuse_empty(x: Floats, columns: Any) -> None:
    """Refuse training rows with a column that has no value."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isnan(x.sum()):
            return
    empty = np.flatnonzero(np.isnan(x).all(axis=0))
    if len(empty):
        where = listed(_name(columns, i) for i in empty)
        raise ValueError(
            f"Got no value at all in {where}, expected at least one to learn from. Leave out such columns."
        )


def _warn_of_rare_values(x: Floats, columns: Any) -> None:
    """Name columns in which few training rows have a value: a row with one is compared with few others that have it."""
    share = 1 - np.isnan(x).mean(axis=0)
    rare = np.flatnonzero(share < _RARE)
    if len(rare):
        where = listed(f"{_name(columns, i)} ({share[i]:.1%} of the rows)" for i in rare)
        warnings.warn(
            f"Few rows have a value in {where}. Rows with one are flagged more often than promised. If most new rows "
            "will have one, as after a sensor was added, leave out the rows without it, or the column.",
            stacklevel=4,
        )


def warn_of_few(training: Mapping[str, Any], evidence: float) -> None:
    """Warn if too few rows, or groups, guarantee the share of false alarms that the threshold allows."""
    caution = few_calibrate(evidence, calibrated_by(training))
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
        if getattr(kind, "kind", "") in ("i", "u") and np.nanmax(np.abs(x[:, i])) > _EXACT_INTEGERS
    ]
    if huge:
        warnings.warn(
            f"{', '.join(_name(columns, i) for i in huge[:5])} has integers beyond 2^53, which lose their last digits "
            "as float64. Subtract a reference value first; leave out identifiers.",
            stacklevel=4,
        )


def _name(columns: Any, i: Any) -> str:
    return f"column {i}" if columns is None else str(columns[i])

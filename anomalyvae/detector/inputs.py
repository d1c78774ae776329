"""Rows as they come from the user: validated, with categories as numbers, and merged for training.

All rows that enter a detector pass through `read_training` or `read_rows`.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from anomalyvae.detector.categories import (
    Categories,
    common_levels,
    encode_categories,
    find_categories,
    one_hot_cells,
)
from anomalyvae.detector.rows import Rows, distinct_rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingData:
    """What `fit` receives, ready for training.

    Parameters
    ----------
    x : ndarray of shape (n, d)
        All rows, in the order of ``X``, categories as numbers, NaN where a cell is missing.
    weight : ndarray of shape (n,)
    rows : Rows
        The distinct rows, which are learned.
    outliers : ndarray of shape (k, d) or None
        Known outliers.
    cells : list of int
        One-hot cells of each column, 0 for a number; empty without categories.
    categories, dtypes : dict
        Known levels and dtype of each categorical column.
    """

    x: Floats
    weight: Floats
    rows: Rows
    outliers: Floats | None
    cells: list[int]
    categories: dict[str, list[str | bool]]
    dtypes: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """Numbers of rows and their checksums, as in ``training_``."""
        described: dict[str, Any] = {"rows": len(self.x), "sha256": self.rows.sha256()}
        if self.outliers is not None:
            known = distinct_rows(self.outliers, np.ones(len(self.outliers)))
            described |= {"outliers": len(self.outliers), "outliers_sha256": known.sha256()}
        return described


def read_training(
    detector: Any, X: Any, sample_weight: Any = None, groups: Any = None, outliers: Any = None, selected: Any = None
) -> TrainingData:
    """Validate what `fit` receives, encode categories, and merge equal rows.

    Parameters
    ----------
    detector : VAEOutlierDetector
        Its ``n_features_in_`` and ``feature_names_in_`` are set.
    X, sample_weight, groups, outliers, selected
        As for `VAEOutlierDetector.fit`.

    Raises
    ------
    ValueError
        For rows that cannot be used.
    """
    columns = getattr(X, "columns", None)
    categories, dtypes = find_categories(X)
    x = _validated(detector, X, categories, reset=True)
    weight = _weights(sample_weight, len(x))
    _refuse_empty(x, columns)
    x, categories = common_levels(x, weight, columns, categories)
    check_consistent_length(x, groups, selected)
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


def read_rows(detector: Any, X: Any) -> Floats:
    """Rows to score ``(n, d)``: float64, categories as numbers, NaN where a cell is missing."""
    check_is_fitted(detector, "network_")
    x = _validated(detector, X, detector.categories_)
    empty = np.isnan(x).all(axis=1) if np.isnan(x.sum()) else np.zeros(1, dtype=bool)
    if empty.any():
        warnings.warn(
            f"Got {empty.sum()} rows in which every cell is missing, expected at least one value. They get the score "
            "of the row that the model expects. Leave them out.",
            stacklevel=5,
        )
    return x


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


def _weights(sample_weight: Any, n: int) -> Floats:
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


def _name(columns: Any, i: Any) -> str:
    return f"column {i}" if columns is None else str(columns[i])

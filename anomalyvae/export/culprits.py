"""Which step of a Pipeline, or which column, makes a graph and its model differ."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, OrdinalEncoder
from sklearn.utils import _safe_indexing

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_APART = 1e-5  # of a column's spread
_JUMPING = (KBinsDiscretizer, OneHotEncoder, OrdinalEncoder)  # they take exact cells, and magnify nothing
_CONSTANT = 1e-2  # of its level, where a column has no spread
_NOTHING = 1e-14  # a computed column of smaller numbers holds rounding errors alone
_FAR = 1e3  # from 0, of rows whose distances are compared
_LIKE_TRAINING = slice(-128, -32)  # of the rows of the check

Floats = NDArray[np.float64]


def culprit(before: Pipeline | None, detector: "VAEOutlierDetector", rows: Any) -> str:
    """A sentence that names what magnifies rounding errors, and a remedy; empty if nothing is found.

    Rows of the check that are like those of training are moved to the next floating-point numbers.
    """
    rows = getattr(rows, "iloc", rows)[_LIKE_TRAINING]
    moved = _moved(rows)
    if before is not None:
        names = getattr(rows, "columns", range(np.shape(rows)[1]))
        for name, (a, b) in zip(names, _columns(rows, moved), strict=True):
            if _distance(a, b) > _APART:
                return f"Column {name!r} varies by little more than rounding errors: leave it out. "
        found = first_apart(before, rows, moved, rounded=True)
        if found is not None:
            return f"{found} magnifies rounding errors: leave it out, or scale the columns that it gets. "
    stored = detector.network_.memorised
    if detector.scaling is None and stored is not None and stored.rows.abs().max() > _FAR:
        return "With scaling=None, distances between rows far from 0 are inexact: fit with another scaling. "
    return ""


def learned_rounding(known: Any) -> str:
    """A sentence if the detector's own rows have a column that is 0 but for rounding errors; empty if none has."""
    for a, _ in _columns(known[_LIKE_TRAINING], known[_LIKE_TRAINING]):
        if 0 < np.abs(a[np.isfinite(a)]).max(initial=0.0) < _NOTHING:
            return "A step makes nothing but rounding errors of a column: leave that column out. "
    return ""


def first_apart(before: Pipeline, rows: Any, others: Any, rounded: bool = False) -> str | None:
    """The first transformer that makes different numbers of two tables, such as ``"PCA (the step 'pca')"``.

    With ``rounded``, also one that makes numbers that differ by little more than rounding errors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about rows that are odd on purpose
        try:
            for path, step, one, other in _steps(before, rows, others, ""):
                if rounded and isinstance(step, _JUMPING):
                    continue
                if any(_distance(a, b, rounded) > _APART for a, b in _columns(one, other)):
                    return f"{type(step).__name__} (the step {path!r})"
        except (ArithmeticError, TypeError, ValueError):  # it refuses a row
            return None
    return None


def _steps(step: Any, rows: Any, others: Any, path: str) -> Iterator[tuple[str, Any, Any, Any]]:
    """Each transformer, in order, with its path and what it makes of both tables."""
    if type(step) is Pipeline:
        for name, part in step.steps:
            if part not in (None, "passthrough"):
                yield from _steps(part, rows, others, f"{path}__{name}" if path else name)
                rows, others = part.transform(rows), part.transform(others)
        return
    if type(step) is ColumnTransformer:
        indices = step._transformer_to_input_indices
        branches = [(name, part, indices[name]) for name, part, _ in step.transformers_]
    elif type(step) is FeatureUnion:
        branches = [(name, part, slice(None)) for name, part in step.transformer_list]
    else:
        yield path, step, step.transform(rows), step.transform(others)
        return
    for name, part, chosen in branches:
        if not isinstance(part, str):
            some, same = (_safe_indexing(table, chosen, axis=1) for table in (rows, others))
            yield from _steps(part, some, same, f"{path}__{name}" if path else name)


def _moved(rows: Any) -> Any:
    """The rows with each number moved to the next; whole numbers, which may be levels, stay."""
    if not isinstance(rows, pd.DataFrame):
        return np.where(rows == np.rint(rows), rows, np.nextafter(rows, np.inf))
    return rows.apply(lambda cells: _moved(cells.to_numpy()) if cells.dtype.kind == "f" else cells)


def _columns(rows: Any, others: Any) -> Iterator[tuple[Floats, Floats]]:
    """The columns of two tables as pairs; cells that are no numbers are missing."""
    tables = []
    for table in (rows, others):
        dense = pd.DataFrame(table.toarray() if hasattr(table, "toarray") else np.asarray(table, dtype=object))
        tables.append(dense.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64).T)
    yield from zip(*tables, strict=True)


def _distance(a: Floats, b: Floats, rounded: bool = False) -> float:
    """How far two columns differ, as a share of their spread."""
    seen, apart = a[np.isfinite(a)], np.abs(a - b)
    if not len(seen):
        return 0.0
    spread, level = float(np.ptp(seen)), float(np.median(np.abs(seen)))
    most = float(apart[np.isfinite(apart)].max(initial=0.0))
    if rounded and spread:
        most = max(most, float(np.spacing(level)))
    return most / (spread or _CONSTANT * level or 1.0)

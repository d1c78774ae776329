"""Rows as users pass them, with NumPy alone: masked cells become missing, dates and complex numbers are no numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from datetime import date, time, timedelta
from typing import Any

import numpy as np

_UNREAL = (complex, np.complexfloating, np.datetime64, np.timedelta64, date, time, timedelta)
_SHOWN = 5  # names of columns in a message
_READS = ("collect", "read_all", "to_table")  # what gives the rows of a LazyFrame, a reader or a data set


def unmasked(values: Any) -> Any:
    """Return an array, or a list of arrays, with NaN (None, if it is not of numbers) where a cell is masked."""
    several = isinstance(values, list | tuple) and any(map(np.ma.isMaskedArray, values))
    if not several and not np.ma.isMaskedArray(values):
        return values
    array = np.ma.asarray(values)
    mask, cells = np.ma.getmaskarray(array), np.array(array.data)
    if mask.any():
        cells = cells.astype(np.float64 if cells.dtype.kind in "fiu" else object)
        cells[mask] = np.nan if cells.dtype.kind == "f" else None
    return cells


def one_per_row(values: Any, rows: int, what: str) -> np.ndarray[Any, Any]:
    """Return an array of a value per row; ``what`` they are names them in the error for another shape."""
    cells = np.asarray(unmasked(values))
    if cells.shape != (rows,):
        raise ValueError(
            f"Got {what} of shape {cells.shape} for {rows} rows, expected a value per row, or the name of a column, "
            "which is text. Pass one of them."
        )
    return cells


def is_records(rows: Any) -> bool:
    """Return whether rows name their cells: a structured array, or a list of dicts."""
    if isinstance(rows, np.ndarray):
        return rows.dtype.names is not None
    return isinstance(rows, list | tuple) and bool(rows) and all(isinstance(row, Mapping) for row in rows)


def unreal(cells: Any) -> str:
    """Return the type of dates, durations or complex numbers in an array, of which NumPy would make other numbers."""
    dtype = getattr(cells, "dtype", None)
    if isinstance(cells, np.ndarray) and cells.dtype == object:
        found = next((cell for cell in cells.flat if isinstance(cell, _UNREAL)), None)
        if found is None:
            return ""
        kind = np.asarray(found).dtype
        return type(found).__name__ if kind.kind == "O" else str(kind)
    return str(dtype) if getattr(dtype, "kind", "") in ("c", "m", "M") else ""


def floats(cells: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return numbers as float64, infinite where they are beyond its range, also whole ones, which NumPy refuses."""
    with np.errstate(over="ignore"):
        try:
            return cells.astype(np.float64, copy=False)
        except OverflowError:
            return np.array([as_float(cell) for cell in cells.flat]).reshape(cells.shape)


def as_float(cell: Any) -> float:
    """Return a number as a float, infinite for a whole number of more than 300 digits."""
    try:
        return float(cell)
    except OverflowError:
        return np.inf if cell > 0 else -np.inf


def refuse_cells(columns: Mapping[Any, Any], nested: bool) -> None:
    """Refuse a dict that has a cell, or with ``nested`` a dict of cells, where a column is expected."""
    single = (str, bytes, Mapping) if nested else (str, bytes)
    for name, cells in columns.items():
        if isinstance(cells, single) or not hasattr(cells, "__len__"):
            raise ValueError(
                f"Got a dict with a {type(cells).__name__} for {name!r}, expected a column for each name. Pass columns "
                "of cells; or rows, as a list of dicts."
            )


def names_to_keep(columns: Iterable[Any] | None) -> list[str] | None:
    """Return the names of columns as text; None for an array, and for names of text, which scikit-learn compares.

    Of columns named 0, 1, 2 and so on, as a table of an array has them, there is none to keep.
    """
    names = [] if columns is None else list(columns)
    if not names or any(isinstance(name, str) for name in names):
        return None
    texts = [str(name) for name in names]
    return [] if texts == _numbers_of(texts) else texts


def refuse_other_names(columns: Iterable[Any] | None, kept: Sequence[str] | None) -> None:
    """Refuse columns with other names than in training, or in another order; ``kept`` is of `names_to_keep`."""
    given = names_to_keep(columns)
    if given is None or kept is None or given == kept:
        return
    names, learned = given or _numbers_of(kept), kept or _numbers_of(given)
    if sorted(names) == sorted(learned):
        problem, remedy = "in another order than in training", "Select them in that order"
    elif given and kept:
        problem, remedy = "of other names than in training", "Select or rename them"
    else:  # one of them has the names of an array
        return
    wrong = [pair for pair in zip(names, learned, strict=True) if pair[0] != pair[1]]
    got, expected = (", ".join(which[:_SHOWN]) for which in zip(*wrong, strict=True))
    raise ValueError(f"Got columns {problem}: {got}, expected {expected} in their places. {remedy}.")


def _numbers_of(names: Sized) -> list[str]:
    return [str(index) for index in range(len(names))]


def refuse_unread(rows: Any) -> None:
    """Refuse a table whose rows are not in memory, such as a LazyFrame of polars or a reader of Arrow."""
    read = next((name for name in _READS if hasattr(type(rows), name)), None)
    if read is not None:
        raise ValueError(
            f"Got a {type(rows).__name__}, expected rows that are in memory. Call its .{read}() and pass the result."
        )

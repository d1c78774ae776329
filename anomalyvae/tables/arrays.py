"""Rows as users pass them, with NumPy alone: masked cells become missing, dates and complex numbers are no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_UNREAL = (complex, np.complexfloating, np.datetime64, np.timedelta64)
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
        return "" if found is None else str(np.asarray(found).dtype)
    return str(dtype) if getattr(dtype, "kind", "") in ("c", "m", "M") else ""


def refuse_unread(rows: Any) -> None:
    """Refuse a table whose rows are not in memory, such as a LazyFrame of polars or a reader of Arrow."""
    read = next((name for name in _READS if hasattr(type(rows), name)), None)
    if read is not None:
        raise ValueError(
            f"Got a {type(rows).__name__}, expected rows that are in memory. Call its .{read}() and pass the result."
        )

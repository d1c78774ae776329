"""Tables of pandas, polars, pyarrow or plain dicts as arrays, column by column, without importing these libraries."""

from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from anomalyvae.tables.arrays import floats, is_records, refuse_cells, refuse_unread, unmasked, unreal
from anomalyvae.tables.names import refuse_repeated
from anomalyvae.untrusted import listed

MISSING = "<missing>"  # a missing cell of text; ONNX has none
EMPTY = "<empty>"  # an empty text, where the file would take it as missing and scikit-learn does not

Floats = NDArray[np.float64]
_NO_REALS = (bool, complex, np.complexfloating, np.timedelta64)
Cut = Callable[[int, int], Callable[[Any], Any]]


def table_of(rows: Any) -> tuple[list[Any], int, Cut] | None:
    """The columns' distinct names, the number of rows, and a function that slices rows; None if it is no table."""
    table = _table_of(rows)
    if table is not None:
        refuse_repeated(table[0], "The table")
    return table


def _table_of(rows: Any) -> tuple[list[Any], int, Cut] | None:
    refuse_unread(rows)
    if is_records(rows):
        rows = _columns_of(rows)
    if isinstance(rows, dict):
        refuse_cells(rows, nested=True)
        lengths = {name: len(column) for name, column in rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"The columns have different lengths: {lengths}. Pass columns of equal length.")
        return list(rows), max(lengths.values(), default=0), lambda a, b: lambda name: rows[name][a:b]
    if hasattr(rows, "column_names") and hasattr(rows, "slice"):  # pyarrow
        return list(rows.column_names), rows.num_rows, lambda a, b: rows.slice(a, b - a).column
    if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):  # pandas, polars
        by_place = getattr(rows, "iloc", rows)
        return list(rows.columns), len(rows), lambda a, b: by_place[a:b].__getitem__
    return None


def _columns_of(records: Any) -> dict[Any, Any]:
    """The columns of a structured array or of a list of dicts, None where a dict lacks a cell."""
    if isinstance(records, np.ndarray):
        return {name: records[name] for name in records.dtype.names or ()}
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def taken_from(
    rows: Any, keep: Sequence[str], learned: Sequence[str] | None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Columns of a table as arrays, and the table as columns without those of them that a model does not know."""
    table = table_of(rows)
    if table is None:
        raise ValueError(f"Got columns to keep of a {type(rows).__name__}, expected a table. Pass one that has them.")
    names, count, cut = table
    missing = [name for name in keep if name not in names]
    if missing:
        raise ValueError(f"The table has no column {quoted(missing)} to keep, but {quoted(names)}. Correct keep=.")
    column = cut(0, count)
    others = {name: column(name) for name in names if name not in keep or name in (learned or ())}
    return {name: _kept(column(name)) for name in keep}, others


def _kept(column: Any) -> NDArray[Any]:
    """A column as an array; whole numbers stay whole beside a missing one, as identifiers may not fit in a float."""
    cells = np.asarray(unmasked(column))
    kind = str(getattr(column, "dtype", getattr(column, "type", ""))).casefold()
    if cells.dtype.kind == "f" and "int" in kind:
        listers = ("to_pylist", "to_list", "tolist")  # of Arrow, of others, of NumPy
        lister = next(name for name in listers if hasattr(column, name))
        return _objects(getattr(column, lister)())
    return cells


def matrix(names: Sequence[Any], column: Callable[[Any], Any], count: int) -> Floats:
    """Columns of numbers side by side, shape ``(count, len(names))``."""
    x = np.empty((count, len(names)))
    for i, name in enumerate(names):
        x[:, i] = number(name, column(name))
    return x


def _values(column: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The cells of a column and which are missing; None for plain numbers, where NaN says it."""
    column = unmasked(column)
    if isinstance(column, list | tuple):  # numpy would turn None beside text into text
        column = _objects(column)
    values = np.asarray(column)
    if values.dtype.kind in "fiu":
        return values, None
    for ask in ("isna", "is_null"):  # pandas; pyarrow and polars
        if hasattr(column, ask):
            return _objects(values), np.asarray(getattr(column, ask)(), dtype=bool)
    cells = _objects(values)
    return cells, np.array([cell is None or (isinstance(cell, float) and cell != cell) for cell in cells], dtype=bool)


def _objects(cells: Any) -> NDArray[np.object_]:
    return np.array([*cells, None], dtype=object)[:-1]  # the None keeps numpy from converting the others


def from_objects(cells: NDArray[Any]) -> NDArray[Any]:
    """Convert objects to numbers as the detector does, NaN where one is missing; return them as they are otherwise."""
    if unreal(cells):
        return cells
    missing = ("NAType", "NaTType")  # of pandas
    plain = np.array([np.nan if type(cell).__name__ in missing else cell for cell in cells.flat], dtype=object)
    try:
        return floats(plain).reshape(cells.shape)
    except (TypeError, ValueError):
        return cells


def number(name: Any, column: Any) -> Floats:
    """A column of numbers, NaN where a cell is missing."""
    values, missing = _values(column)
    if missing is None:
        return floats(values)
    if not all(isinstance(cell, Number) and not isinstance(cell, _NO_REALS) for cell in values[~missing]):
        _refuse_kind(name, column, "numbers")
    try:
        return floats(np.where(missing, np.nan, values))
    except (TypeError, ValueError):
        _refuse_kind(name, column, "numbers")


def text(name: Any, column: Any) -> NDArray[np.object_]:
    """A column of text, `MISSING` where a cell is missing."""
    if hasattr(column, "cat") and hasattr(column.cat, "codes"):  # categories of pandas, as text
        return np.array([*map(str, column.cat.categories), MISSING], dtype=object)[np.asarray(column.cat.codes)]
    if hasattr(getattr(column, "type", None), "index_type"):  # those of Arrow
        cells = column.cast(column.type.value_type).to_pylist()
        return np.array([MISSING if cell is None else str(cell) for cell in cells], dtype=object)
    values, missing = _of_kind(str, "text", name, column)
    return np.where(missing, MISSING, values).astype(object)


def boolean(name: Any, column: Any) -> Floats:
    """A column of booleans as 1 and 0, NaN where a cell is missing."""
    values, missing = _of_kind(bool | np.bool_, "booleans", name, column)
    return np.where(missing, np.nan, values).astype(np.float64)


READ = {"number": number, "text": text, "bool": boolean}
"""The reader of each kind of column."""


def _of_kind(kind: Any, expected: str, name: Any, column: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The cells of a column and which are missing; an error if others are of another kind."""
    values, missing = _values(column)
    if missing is None:
        missing, values = np.isnan(values), values.astype(object)  # an empty column is of any kind
    if not all(isinstance(cell, kind) for cell in values[~missing]):
        _refuse_kind(name, column, expected)
    return values, missing


def _refuse_kind(name: Any, column: Any, expected: str) -> NoReturn:
    kind = getattr(column, "dtype", getattr(column, "type", type(column).__name__))
    remedy = "Convert it to its type in training."
    if expected == "numbers" and "bool" in str(kind).casefold():
        remedy += " A Pipeline that learned booleans takes them if it is exported with sample=, some rows as they are."
    raise ValueError(f"Column {name!r} is of type {kind}, expected {expected}. {remedy}")


def refuse_infinite(columns: list[Any]) -> NoReturn:
    """Raise an error that names the columns with infinite cells."""
    raise ValueError(
        f"There are infinite cells in {quoted(columns)}. Replace them by finite numbers, or by NaN where a value is "
        "missing: an infinite value is an error of the source, not a measurement."
    )


def missing_in(cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cells of a column are missing."""
    return np.asarray(cells == MISSING if cells.dtype == object else np.isnan(cells), dtype=bool)


def gaps(names: list[str], columns: list[NDArray[Any]]) -> NDArray[np.object_] | None:
    """For each row, the names of the columns in which its cell is missing; None if no cell is."""
    missing = zip(names, map(missing_in, columns), strict=True)
    holes = [(name, mask) for name, mask in missing if mask.any()]
    if not holes:
        return None
    found = np.full(len(columns[0]), None, dtype=object)
    for row in np.flatnonzero(np.any([mask for _, mask in holes], axis=0)):
        found[row] = ", ".join(name for name, mask in holes if mask[row])
    return found


def refuse_missing(columns: list[Any]) -> None:
    """Raise an error that names the columns, if any, that lack required cells."""
    if columns:
        raise ValueError(
            f"There are missing cells in {quoted(columns)}, where a transformer of the pipeline needs values. Leave "
            "such rows out, or fit the pipeline with a SimpleImputer first."
        )


def quoted(names: Sequence[Any]) -> str:
    """Some names in quotes, for an error message."""
    return listed(map(repr, names))

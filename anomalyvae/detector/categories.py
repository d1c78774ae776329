"""Categories: text and booleans of DataFrames. A level is encoded as its index among the known levels, else -1.

Numpy and pandas only.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.detector.rows import Rows, counts_of
from anomalyvae.tables.arrays import floats, is_records, refuse_cells, refuse_unread, unmasked, unreal
from anomalyvae.tables.names import refuse_repeated

_KNOWN_ROWS, _KNOWN_SHARE = 2, 1e-3  # a level of text is known in so many rows (or groups), such a share of the rows
Categories = Mapping[str, Sequence[str | bool]]  # the known levels of each categorical column
_BOOLEANS = [False, True]
_FOREIGN = (pd.SparseDtype, pd.ArrowDtype)
_NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal"}  # pandas' names for numeric objects


def as_pandas(X: Any) -> Any:
    """A table as a DataFrame of pandas with dense columns; an array without a mask. NaN is a missing cell in both.

    Tables are those of pandas, polars and Arrow, dicts of columns, structured arrays and lists of dicts.
    """
    refuse_unread(X)
    if _is_arrow(X):
        import pyarrow as pa

        table = pa.table(X)
        index = (table.schema.pandas_metadata or {}).get("index_columns", ())
        # The metadata also have the types of the DataFrame that it once was; its columns may have changed since.
        X = table.drop_columns([name for name in index if isinstance(name, str)]).to_pandas(ignore_metadata=True)
    if isinstance(X, dict) and not hasattr(X, "toarray"):  # some sparse matrices are dicts
        refuse_cells(X, nested=False)
        X = pd.DataFrame(X)
    elif is_records(X):
        X = pd.DataFrame(X)
    if not isinstance(X, pd.DataFrame):
        return _numbers(unmasked(X))
    refuse_repeated(X.columns, "The table")
    odd = [i for i, dtype in enumerate(X.dtypes) if isinstance(dtype, _FOREIGN) or dtype in (object, np.longdouble)]
    plain = {i: cells for i in odd if (cells := _plain(X.iloc[:, i])) is not None}
    table = X.copy(deep=False) if plain else X
    for i, cells in plain.items():
        table.isetitem(i, cells)
    return table


def _plain(column: "pd.Series[Any]") -> Any:
    """The cells of a column in a type that pandas computes with; None if they are in one, or no numbers or levels."""
    dtype = column.dtype
    if isinstance(dtype, pd.SparseDtype):
        return np.asarray(column)
    if isinstance(dtype, pd.ArrowDtype) and str(dtype).startswith("dictionary"):
        return pd.Categorical(column.astype(object))
    if pd.api.types.is_object_dtype(dtype) or str(dtype).startswith("decimal"):
        kind = pd.api.types.infer_dtype(column, skipna=True)
        return floats(column.astype(object).where(column.notna(), np.nan).to_numpy()) if kind in _NUMBERS else None
    return floats(column.to_numpy()) if dtype == np.longdouble and dtype != np.float64 else None


def _numbers(X: Any) -> Any:
    """An array, or a list of rows, in which pandas.NA is missing, without dates and complex numbers."""
    try:
        array = np.asarray(X) if isinstance(X, list | tuple) else X
    except ValueError as error:
        raise ValueError(f"Got rows of different lengths, expected a cell per column in each. ({error})") from error
    kind = unreal(array)
    if kind.startswith("complex"):  # in scikit-learn's words
        raise ValueError(
            f"Complex data not supported: got rows of dtype {kind}, expected real numbers. Pass the real and the "
            "imaginary parts as columns."
        )
    if kind:
        raise ValueError(f"Got rows of dtype {kind}, expected numbers. Convert them, into seconds for example.")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "OSU":
        return array
    cells = np.where(pd.isna(array), np.nan, array) if array.dtype == object else array
    try:
        return floats(cells)
    except ValueError:
        return cells  # text, which `_validated` refuses


def in_kind_of(X: Any, table: pd.DataFrame) -> Any:
    """A DataFrame as a table of the kind of ``X``: polars, Arrow or pandas."""
    if not _is_arrow(X):
        return table
    import pyarrow as pa

    arrow = (pa.RecordBatch if isinstance(X, pa.RecordBatch) else pa.Table).from_pandas(table, preserve_index=False)
    return type(X)(arrow) if type(X).__module__.startswith("polars") else arrow


def _is_arrow(X: Any) -> bool:
    """Whether rows are a table that gives itself as Arrow's, and no DataFrame of pandas."""
    gives = hasattr(X, "__arrow_c_stream__") or hasattr(X, "__arrow_c_array__")
    return gives and hasattr(X, "columns") and not isinstance(X, pd.DataFrame)


def find_categories(X: Any) -> tuple[dict[str, list[str | bool]], dict[str, str]]:
    """The sorted levels and the dtype of each column of dtype category, string or bool, or of such objects.

    Levels are text (``str`` of each level), or False and True. Only a DataFrame has categories. Columns that are
    neither numbers nor categories, and categories without unique text names, raise ValueError.
    """
    if not isinstance(X, pd.DataFrame):
        return {}, {}
    kinds = {i: _kind(X.iloc[:, i]) for i in _unusual(X)}
    columns = {i: kind for i, kind in kinds.items() if kind in ("text", "bool")}
    refused = [i for i, kind in kinds.items() if kind is None]
    if refused:
        listed = ", ".join(f"{X.columns[i]!r} ({_named(X.iloc[:, i])})" for i in refused)
        raise ValueError(
            f"Got columns that are neither numeric nor categories: {listed}. Expected numbers, text, category or bool. "
            "Convert them (a time into seconds, for example) or leave them out."
        )
    if columns and not all(isinstance(name, str) for name in X.columns):
        raise ValueError(
            f"Got categories in a table with the column names {list(X.columns)[:9]}, expected text. "
            "Rename the columns, for example by X.columns = X.columns.astype(str)."
        )
    levels: dict[str, list[str | bool]] = {}
    for i, kind in columns.items():
        uniques = pd.factorize(X.iloc[:, i])[1]
        levels[X.columns[i]] = [*_BOOLEANS] if kind == "bool" else sorted({str(level) for level in uniques})
    return levels, {X.columns[i]: str(X.dtypes.iloc[i]) for i in columns}


def encode_categories(X: Any, categories: Categories) -> Any:
    """Replace the levels in a table by their numbers: NaN for a missing level, -1 for an unknown one.

    An empty text is a missing cell, unless it is a known level.

    ``X`` itself is returned if it has no categories. A column that is categorical now and was not in training, or the
    reverse, raises ValueError.
    """
    if not isinstance(X, pd.DataFrame):
        if categories:
            raise ValueError(
                f"Got {type(X).__name__} rows, expected a DataFrame: the columns {', '.join(map(repr, categories))} "
                "are categories. Pass a DataFrame with the columns of the training rows."
            )
        return X
    columns = set(_unusual(X)) | {i for i, name in enumerate(X.columns) if name in categories}
    if not columns:
        return X
    wrong, encoded = [], X.copy(deep=False)
    for i in sorted(columns):
        name, column = X.columns[i], X.iloc[:, i]
        expected = "number" if name not in categories else "bool" if list(categories[name]) == _BOOLEANS else "text"
        if _kind(column) != expected and not column.isna().all():
            wrong.append(f"{name!r} as {_named(column)}, expected {_EXPECTED[expected]}")
        elif name in categories:
            place = read_as({level: code for code, level in enumerate(categories[name])})
            found, levels = pd.factorize(column)
            read = bool if expected == "bool" else str
            kept = [place.get(read(level), _other_level(level)) for level in levels]
            encoded.isetitem(i, np.array([*kept, np.nan])[found])  # factorize gives -1, the last, for a missing level
        else:  # a column of numeric objects may hold pandas.NA
            encoded.isetitem(i, cast(Any, column.where(column.notna(), np.nan)))
    if wrong:
        raise ValueError(
            f"Got columns of another type than in training: {'; '.join(wrong)}. Convert them (text by .astype(str), "
            "numbers by pandas.to_numeric), or fit again."
        )
    return encoded


def read_as(known: Mapping[Any, Any]) -> dict[Any, Any]:
    """What belongs to each level, also to ``1.0`` where ``1`` is known, and the reverse.

    A missing cell makes pandas' whole numbers decimals, and with them the levels of a category.
    """
    others: dict[Any, Any] = {}
    for level, value in known.items():
        try:
            number = float(level)
        except ValueError:
            continue
        spelled = {str(int(number)), str(number)} if number.is_integer() else set()
        if level in spelled:
            others |= dict.fromkeys(spelled, value)
    return others | dict(known)


def _other_level(level: Any) -> float:
    """The number of a level that is not known: an empty text is a missing cell."""
    return np.nan if isinstance(level, str) and not level else -1.0


_EXPECTED = {"number": "numbers", "bool": "booleans", "text": "text or a category"}


def common_levels(
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
    columns: Any,
    categories: Categories,
    groups: NDArray[Any] | None = None,
) -> tuple[NDArray[np.float64], dict[str, list[str | bool]]]:
    """Pool rare levels of text: those of a single row or group, or of less than a thousandth of the rows.

    Levels that were not in training get the same pooled level. So the model learns how often to expect a new level, a
    column that differs in every row carries no information, and no column has more than a thousand known levels.
    Takes rows ``(n, d)`` from `encode_categories` and all levels; returns the rows and the known levels.
    """
    if not categories:
        return x, {}
    x, known, empty = x.copy(), {}, []
    counts, share = counts_of(weight), weight / weight.sum() * (1 + 1e-9)  # sums are rounded
    group = None if groups is None else pd.factorize(groups)[0]
    for i, name in enumerate(columns):
        if name not in categories:
            continue
        levels = list(categories[name])
        if levels != _BOOLEANS:
            given = ~np.isnan(x[:, i])
            code = x[given, i].astype(np.int64)
            kept = _common(code, len(levels), counts[given], share[given], None if group is None else group[given])
            x[given, i] = np.where(kept, np.cumsum(kept) - 1, [_other_level(level) for level in levels])[code]
            levels = [level for level, keep in zip(levels, kept, strict=True) if keep]
            empty += [] if levels else [name]
        known[name] = levels
    if empty:
        warnings.warn(
            f"Got categories in which almost every value is unique{' or of one group' if groups is not None else ''}: "
            f"{', '.join(map(repr, empty))}. Nothing can be learned from them. Leave them out.",
            stacklevel=4,
        )
    return x, known


def pool_again(learned: Rows, held_out: NDArray[np.float64], cells: Sequence[int]) -> tuple[Rows, NDArray[np.float64]]:
    """Pool the levels that are rare among the rows that a network learns, in these rows and in those held out from it.

    So a level that it hardly learned is no more anomalous in a held-out row than a new level is for the network of all
    rows. ``cells`` are the one-hot cells of each column, 0 for a number.
    """
    x, held_out = learned.x.copy(), held_out.copy()
    counts = learned.weight if learned.copies is None else learned.copies
    share = learned.weight / learned.weight.sum() * (1 + 1e-9)
    for i, size in enumerate(cells):
        known = x[:, i] >= 0
        if size < 2:
            continue
        group = None if learned.group is None else learned.group[known]
        kept = _common(x[known, i].astype(np.int64), size - 1, counts[known], share[known], group)
        for rows in (x, held_out):
            level = rows[:, i]
            rows[level >= 0, i] = np.where(kept, np.arange(size - 1.0), -1.0)[level[level >= 0].astype(np.int64)]
    return replace(learned, x=x).merged(), held_out


def _common(
    code: NDArray[np.int64],
    size: int,
    counts: NDArray[np.float64],
    share: NDArray[np.float64],
    group: NDArray[np.int64] | None,
) -> NDArray[np.bool_]:
    """Which of ``size`` levels are not rare, given those of rows, how many rows and which share each is, and groups."""
    if group is None:
        times = np.bincount(code, weights=counts, minlength=size)
    else:
        pairs = np.unique(np.column_stack([code, group])[counts > 0], axis=0)
        times = np.bincount(pairs[:, 0], minlength=size)
    return (times >= _KNOWN_ROWS) & (np.bincount(code, weights=share, minlength=size) >= _KNOWN_SHARE)


def decode_categories(table: pd.DataFrame, categories: Categories, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Replace numbers by their levels, the inverse of `encode_categories`, in the dtype of each column."""
    columns: dict[str, Any] = {}
    for name, levels in categories.items():
        code = table[name].to_numpy().astype(np.int64)
        values: Any = pd.Series(pd.Categorical.from_codes(code, categories=cast(Any, list(levels))), index=table.index)
        columns[name] = values.astype(dtypes[name])
    return table.assign(**columns)


def fill_cells(X: pd.DataFrame, values: pd.DataFrame, categories: Categories) -> pd.DataFrame:
    """Replace the missing cells of a table by ``values``, of the same columns, from `decode_categories`.

    Columns without a missing cell are those of ``X``. In the others, numbers are float64; categories have the dtype of
    ``X`` or, if that is object or of another kind without a value, of ``values``.
    """
    table = X.copy()
    for i, name in enumerate(X.columns):
        column, new = X.iloc[:, i], values.iloc[:, i].set_axis(X.index)
        missing = column.isna()
        if not missing.any():
            continue
        if name not in categories:
            numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
            table.isetitem(i, np.where(missing, new, numbers))
            continue
        kind = "bool" if list(categories[name]) == _BOOLEANS else "text"
        dtype = column.dtype if column.dtype != object and _kind(column) == kind else new.dtype
        if isinstance(column.dtype, pd.CategoricalDtype):
            level = read_as({str(known): known for known in column.cat.categories})
            new = new.astype(object).map(lambda value, level=level: level.get(value, value))
        whole = column.astype(object).where(~missing, new.astype(object))
        table.isetitem(i, whole.astype("category" if isinstance(dtype, pd.CategoricalDtype) else dtype).array)
    return table


def one_hot_cells(columns: Any, categories: Categories) -> list[int]:
    """One-hot cells of each column: its known levels and one for any other; 0 for a number."""
    return [len(categories[name]) + 1 if name in categories else 0 for name in columns] if categories else []


def _unusual(X: pd.DataFrame) -> list[int]:
    """Indices of the columns whose dtype is not of real numbers."""
    numeric = pd.api.types.is_numeric_dtype
    return [i for i, dtype in enumerate(X.dtypes) if dtype.kind in "bc" or not numeric(dtype)]


def _named(column: "pd.Series[Any]") -> str:
    """The type of a column, for a message: ``object, date`` where pandas says ``object``."""
    inferred = f", {pd.api.types.infer_dtype(column, skipna=True)}" if column.dtype == object else ""
    return f"{column.dtype}{inferred}"


def _kind(column: "pd.Series[Any]") -> str | None:
    """The type of a column: text, bool or number; None for anything else."""
    types, dtype = pd.api.types, column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "text"
    if types.is_object_dtype(dtype):
        inferred = types.infer_dtype(column, skipna=True)
        return {"string": "text", "boolean": "bool", "empty": "number"}.get(
            inferred, "number" if inferred in _NUMBERS else None
        )
    if types.is_bool_dtype(dtype):
        return "bool"
    if types.is_numeric_dtype(dtype):
        return None if types.is_complex_dtype(dtype) else "number"
    return "text" if types.is_string_dtype(dtype) else None

"""Files whose rows are learned or scored as they are: columns of numbers, truth values and text.

- A column holds **numbers** if all its cells are numbers or missing, **truth values** if they are true, false or
  missing, and otherwise **text**, whose values are categories.
- A column of which half of the cells or more are numbers is not taken for text: it is refused, by line and cell.
  Numbers with thousands separators, another decimal mark or a unit count as well.
- A column without a name is left out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from anomalyvae.tables.cells import (
    is_missing,
    is_number,
    is_text,
    like_number,
    numbers_in_text,
    truths_in_text,
    without_missing_text,
)
from anomalyvae.tables.files import CsvFile, NotNumbersError, repair
from anomalyvae.tables.names import OR_EXCLUDE, nearest, refuse_repeated
from anomalyvae.tables.packed import suffix_of
from anomalyvae.tables.parquet import parquet_file

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".parquet", ".csv", ".csv.gz")
_BLOCK = 1 << 23  # bytes at a time
_MOST_LEVELS = 20  # a text column with more distinct values, all numbers, is probably a measurement
AS_WRITTEN = "as written"
_KINDS = {"number": "numbers", "bool": "true or false", "text": "text"}


def column_names(file: CsvFile, exclude: Iterable[str] = ()) -> list[str]:
    """Return the names of the columns of a file, without those to leave out; ValueError if two have the same."""
    left_out = {"", *exclude}
    names = [name for name in file.dialect.names if name not in left_out]
    refuse_repeated(names, file.path, OR_EXCLUDE)
    return names


def typed_tables(file: CsvFile, columns: Sequence[str], kinds: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yield the rows of a CSV file piece by piece, each column of the kind that a model has learned.

    ``kinds`` are ``"text"``, ``"bool"`` and `AS_WRITTEN`; columns that are not in it are numbers. A cell of another
    kind is an error that names its line.
    """
    indices = [file.dialect.names.index(name) for name in columns]
    as_written, done = AS_WRITTEN in kinds.values(), 0

    def typed(table: pa.Table) -> pa.Table:
        named = enumerate(zip(columns, indices, strict=True))
        return pa.table(
            [_typed(file, name, index, table[i], kinds.get(name, "number")) for i, (name, index) in named],
            list(columns),
        )

    if file.dialect.decimal != "," and not file.missing:
        plain = {index for name, index in zip(columns, indices, strict=True) if kinds.get(name, "number") == "number"}
        try:
            for table in file.tables(indices, plain=plain, block=_BLOCK, as_written=as_written):
                yield typed(table)
                done += len(table)
            return
        except NotNumbersError:  # a cell that Arrow does not take for a number
            pass
    for table in file.tables(indices, block=_BLOCK, as_written=as_written):
        if len(table) > done:
            yield typed(table[done:])
        done = max(done - len(table), 0)


def _typed(file: CsvFile, name: str, index: int, cells: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    if not is_text(cells.type) or kind == AS_WRITTEN:
        return cells
    cells = without_missing_text(cells, file.missing if kind == "text" else ())
    if kind == "text":
        return cells
    if kind == "bool":
        read = truths_in_text(cells, missing=file.missing)
        count = file.count(index, _is_truth) if is_text(read.type) else None
    else:
        read = numbers_in_text(cells, decimal=file.dialect.decimal, missing=file.missing)
        count = file.count(index) if is_text(read.type) else None
        read = read if is_text(read.type) else read.cast(pa.float64(), safe=False)
    if count is None:
        return read
    raise ValueError(
        f"Column {name!r} of {file.path} holds text, expected {_KINDS[kind]} as in training: {count}. "
        f"{repair(count.cell, file.dialect.decimal)}, or exclude= (--exclude) to leave the column out."
    )


def _is_truth(cell: str) -> bool:
    return cell.strip().casefold() in ("true", "false", "1", "0")


def read_rows(
    files: Sequence[Path],
    columns: Sequence[str] | None = None,
    *,
    exclude: Iterable[str] = (),
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    na: Iterable[str] = (),
    text: Collection[str] = (),
    allow_empty: bool = False,
) -> pd.DataFrame:
    """Read tables, CSV or Parquet, one below the other.

    By default, the columns are those of the first file, which all must have. Columns in ``text`` are text in CSV files,
    whatever they hold. For ``sep``, ``decimal``, ``encoding`` and ``na`` see :class:`anomalyvae.tables.files.CsvFile`.
    With ``allow_empty``, a file may have no rows.

    Raises ValueError with what is wrong with any of the files, OSError if the only file cannot be opened.
    """
    import pandas as pd

    tables: list[pd.DataFrame] = []
    faults: list[str] = []
    kinds: dict[str, tuple[str, Path]] = {}
    for path in files:
        try:
            if suffix_of(path) in (".csv", ".csv.gz"):
                file = CsvFile(path, sep=sep, decimal=decimal, encoding=encoding, na=na)
                table = _csv_frame(file, column_names(file, exclude), columns, text, faults)
                _warn_of_nameless(file)
            else:
                table = _other_frame(path, columns, exclude, text)
                _warn_of_numbers_in_text(table.drop(columns=[*text], errors="ignore"), path)
        except (ValueError, OSError) as error:
            if len(files) == 1:
                raise
            faults.append(str(error) if str(path) in str(error) else f"{path}: {error}")
            continue
        if not len(table) and not allow_empty:
            faults.append(f"{path} has no rows. Leave it out.")
            continue
        columns = list(table.columns) if columns is None else columns
        faults += _differences(table, path, kinds)
        tables.append(table)
    if faults:
        listed = faults[0] if len(faults) == 1 else " ".join(f"({i + 1}) {fault}" for i, fault in enumerate(faults))
        raise ValueError(listed if len(faults) == 1 else f"{len(faults)} faults in the tables: {listed}")
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _warn_of_nameless(file: CsvFile) -> None:
    indices = [index for index, name in enumerate(file.dialect.names) if not name]
    first = next(file.tables(indices), None) if indices else None
    filled = [str(index + 1) for index in indices if first is not None and first[str(index)].null_count < len(first)]
    if filled:
        warnings.warn(
            f"Column {', '.join(filled)} of {file.path} has no name and is left out. Name it in the header to use it.",
            stacklevel=3,
        )


def _warn_of_numbers_in_text(table: pd.DataFrame, path: Path) -> None:
    """Warn of text with the values of a measurement, as in a table that was exported as text."""
    for name in table.columns:
        values = list(table[name].dropna().unique()) if table[name].dtype == "str" else []
        if len(values) > _MOST_LEVELS and all(map(is_number, values)):
            warnings.warn(
                f"Column {name!r} of {path} holds numbers as text, such as {values[0]!r}; its {len(values):,} values "
                "are taken for categories. Convert it to numbers, if they are measurements.",
                stacklevel=3,
            )


def _other_frame(
    path: Path, columns: Sequence[str] | None, exclude: Iterable[str], text: Collection[str]
) -> pd.DataFrame:
    import pandas as pd

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Check the path.")
    if suffix_of(path) not in TABLES:
        raise ValueError(f"{path} is not a {', '.join(TABLES[:-1])} or {TABLES[-1]} file. Unpack or convert it.")
    with _named_in_errors(path), parquet_file(path) as file:
        present, kinds = file.schema_arrow.names, file.schema_arrow.types
    kept = [name for name in present if name not in {*exclude}]
    refuse_repeated(kept, path, OR_EXCLUDE)
    with _named_in_errors(path):
        some = None if kept == present else kept
        table = pd.read_parquet(path, columns=some, page_checksum_verification=True)
        for name, kind in zip(present, kinds, strict=True):
            if name not in table:
                continue
            if name in text and not is_text(kind):
                with parquet_file(path) as file:  # pandas makes decimals of whole numbers beside a missing one
                    table[name] = _as_names(file.read([name])[name])
            elif pa.types.is_decimal(kind):
                table[name] = table[name].astype(float)
    return table if columns is None else table[_known(columns, list(map(str, table.columns)), path)]


def _as_names(cells: pa.ChunkedArray) -> list[str | None]:
    """Return cells as text, whole numbers without decimals."""
    whole = (int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells.to_pylist())
    return [None if cell is None or cell != cell else str(cell) for cell in whole]


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Name the file in errors of Arrow and pandas."""
    try:
        yield
    except (ValueError, OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:  # such as a file that is not there
            raise
        raise ValueError(f"{path} cannot be read as a table ({error}). Repair the file, or export it again.") from error


def _known(columns: Sequence[str], names: Sequence[str], path: Path) -> list[str]:
    """Return the columns; an error that suggests the nearest name for each that a file lacks."""
    missing = [name for name in columns if name not in names]
    if missing:
        hints = " ".join(
            hint if len(missing) == 1 else f"{name}: {hint}" for name in missing[:5] if (hint := nearest(name, names))
        )
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{path} has no column {', '.join(missing[:5])}{more}. {hints}")
    return list(columns)


def _differences(table: pd.DataFrame, path: Path, kinds: dict[str, tuple[str, Path]]) -> list[str]:
    """Return where a table has columns of another kind than the tables before it; a column without cells has none."""
    faults = []
    for name in table.columns:
        code = table[name].dtype.kind
        kind = "number" if code in "iuf" else "bool" if code == "b" else "text"
        if table[name].isna().all():
            continue
        known, first = kinds.setdefault(name, (kind, path))
        if kind != known:
            faults.append(
                f"Column {name!r} holds {_KINDS[kind]} in {path}, but {_KINDS[known]} in {first}. Convert it, or leave "
                f"it out by exclude= (--exclude)."
            )
    return faults


# --- kinds ----------------------------------------------------------------------------------------------


def _csv_frame(
    file: CsvFile, names: list[str], columns: Sequence[str] | None, text: Collection[str], faults: list[str]
) -> pd.DataFrame:
    """Return a CSV file as a table; columns that are neither numbers nor text are added to ``faults``."""
    names = names if columns is None else _known(columns, names, file.path)
    indices = [file.dialect.names.index(name) for name in names]
    parts: dict[int, list[pa.Array]] = {
        index: [] for name, index in zip(names, indices, strict=True) if name not in text
    }
    for table in file.tables(indices, block=_BLOCK):  # first as numbers, which take less memory than text
        for i, index in enumerate(indices):
            if index not in parts:
                continue
            cells = numbers_in_text(table[i], decimal=file.dialect.decimal, missing=file.missing)
            if is_text(cells.type):
                del parts[index]
            else:
                parts[index] += cells.cast(pa.float64(), safe=False).chunks
    others = [index for index in indices if index not in parts]
    cells_of = pa.concat_tables(list(file.tables(others, block=_BLOCK))) if others else None
    found: dict[str, Any] = {}
    for name, index in zip(names, indices, strict=True):
        if index in parts:
            found[name] = pa.chunked_array(parts[index], pa.float64())
        elif cells_of is not None and name in text:
            found[name] = without_missing_text(cells_of[str(index)], file.missing)
        elif cells_of is not None:
            found[name] = _category(file, name, index, cells_of[str(index)], faults)
    return pa.table(found).to_pandas()


def _category(file: CsvFile, name: str, index: int, cells: pa.ChunkedArray, faults: list[str]) -> pa.ChunkedArray:
    """Return text, or truth values; a fault if half of the cells are numbers."""
    truths = truths_in_text(cells, missing=file.missing)
    if not is_text(truths.type):
        return truths
    cells = without_missing_text(cells, file.missing)
    counts = Counter(dict(zip(*(part.to_pylist() for part in cells.value_counts().flatten()), strict=True)))
    filled = sum(count for cell, count in counts.items() if not is_missing(cell))
    numbers = sum(count for cell, count in counts.items() if not is_missing(cell) and like_number(cell))
    if numbers * 2 >= filled and numbers:
        count = file.count(index)
        faults.append(
            f"Column {name!r} of {file.path} is neither of numbers nor of text: {count}. "
            f"{repair(count.cell, file.dialect.decimal)}, or exclude= (--exclude) to leave the column out."
        )
        return pa.chunked_array([pa.nulls(len(cells), pa.float64())])
    return cells

"""CSV and Parquet files: a time column and one column per signal.

The rules are the same for both formats:

- **Time column.** The first of ``time_s, time, timestamp, t, datetime, date_time, unix_time, epoch`` (in any case,
  with or without a unit, as in ``timestamp_ms`` or ``time [us]``), otherwise the only column of date-times. It holds
  numbers, ISO 8601 text, date-times, times of day or durations.
- **Numbers** have the unit that the column's name gives, otherwise seconds. Numbers that are too large for that are
  unix times in seconds, milliseconds, microseconds or nanoseconds; the magnitude of the first 1000 stamps decides, and
  a later change is an error. Unix times and date-times (UTC if they have no zone) count from the first sample, which is
  the recording's start. Other numbers already count from the recording's start and stay as they are.
- **Order.** A row may be older than the newest row before it by up to a second or three usual steps (the median step of
  the first 1000 stamps); it is sorted in. If the clock jumps back further, the file is refused: sorting would mix two
  recordings.
- **Duplicates.** Rows with the same stamp become one sample: each signal's mean.
- **Rows without a stamp** are left out.
- **Units** come from Parquet field metadata (``unit``) or from a header such as ``speed [m/s]``.
- **Columns without numbers** are left out; ``Log.left_out`` says what they hold. True and false are 1 and 0.

No rule needs the whole file: files are read piece by piece.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from anomalyvae.recordings.log import Log, Signal, joined, nearest, not_numbers
from anomalyvae.recordings.stamps import (
    FIRST_ROWS,
    Column,
    find_time_column,
    first_stamps,
    first_text,
    is_text,
    numbers_in_text,
    split_unit,
)
from anomalyvae.recordings.timeline import Timeline

START_KEY = b"start_unix_s"  # Parquet metadata of a file: the moment at which time_s is zero
UNIT_KEY = b"unit"  # Parquet metadata of a column
ROWS = 65536  # of a piece, at most


class Columns(NamedTuple):
    """The columns to read from a table."""

    source: str  # how errors name the table
    stamp: Column
    signals: list[Column]

    @property
    def raw(self) -> list[str]:
        """Their names in the table."""
        return [self.stamp.raw, *(column.raw for column in self.signals)]

    @property
    def time(self) -> str:
        """How errors name the time column."""
        return f"column {self.stamp.raw!r} of {self.source}"


# --- readers --------------------------------------------------------------------------------------------


def csv_pieces(
    path: Path, signals: list[str] | None = None, *, time: str | None = None, rows: int = ROWS
) -> Iterator[Log]:
    """Read a CSV file with a header line piece by piece; comma, semicolon or tab between the cells.

    Arrow infers types from the first megabyte, but whole numbers may be followed by decimals. So cells are read as text
    and become numbers piece by piece.
    """
    from pyarrow import csv as arrow_csv

    with path.open("rb") as file:
        names, delimiter, encoding = read_header(file.readline(1 << 20), str(path))
    options: dict[str, Any] = {
        "read_options": arrow_csv.ReadOptions(column_names=names, skip_rows=1, encoding=encoding),
        "parse_options": arrow_csv.ParseOptions(delimiter=delimiter),
    }
    try:
        with arrow_csv.open_csv(path, **options) as reader:
            schema = reader.schema
    except pa.ArrowInvalid as error:
        schema = _without_rows(path, names, error).schema
    columns = choose(schema, str(path), time, signals)
    kinds = dict.fromkeys(columns.raw, pa.binary())  # bytes: text that is not UTF-8 is no reason to refuse a file
    if pa.types.is_boolean(columns.stamp.type) or pa.types.is_date(columns.stamp.type):
        del kinds[columns.stamp.raw]  # these are not stamps, and are refused by their type
    convert = arrow_csv.ConvertOptions(include_columns=columns.raw, column_types=kinds, strings_can_be_null=True)

    def tables() -> Iterator[pa.Table]:
        try:
            with arrow_csv.open_csv(path, **options, convert_options=convert) as reader:
                for batch in reader:
                    for begin in range(0, len(batch), rows):
                        yield with_numbers(pa.Table.from_batches([batch[begin : begin + rows]]), columns)
        except pa.ArrowInvalid as error:
            yield _without_rows(path, columns.raw, error)

    return _logs(tables(), columns, path.stem, signals)


def parquet_pieces(
    path: Path, signals: list[str] | None = None, *, time: str | None = None, rows: int = ROWS
) -> Iterator[Log]:
    """Read a Parquet file piece by piece, and of it only the columns that are needed."""
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error
    columns = choose(schema, str(path), time, signals)
    start_s = (schema.metadata or {}).get(START_KEY)
    start = None if start_s is None else pd.Timestamp(float(start_s), unit="s", tz="UTC").round("us")

    def tables() -> Iterator[pa.Table]:
        try:
            # With a buffer for the whole, or with reading ahead, Arrow holds a row group, which may be the whole file.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(rows, columns=columns.raw):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise _broken_parquet(path, error) from error

    return _logs(tables(), columns, path.stem, signals, start)


def log_from_frame(
    frame: pd.DataFrame, recording: str, *, time: str | None = None, units: dict[str, str] | None = None
) -> Log:
    """Turn a table in memory into a log, by the rules for files.

    Parameters
    ----------
    frame : pandas.DataFrame, shape (n, columns)
        One time column and one column per signal. The index is ignored.
    recording : str
        Name of the recording.
    time : str, optional
        The time column; by default the rules find it.
    units : dict of str to str, optional
        Units by column name.

    Returns
    -------
    Log

    Examples
    --------
    >>> frame = pd.DataFrame({"time_s": [0.0, 0.2], "speed_mps": [3.0, 3.1]})
    >>> log = log_from_frame(frame, "drive", units={"speed_mps": "m/s"})
    >>> log["speed_mps"].values, log["speed_mps"].unit
    (array([3. , 3.1]), 'm/s')
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    schema = pa.schema([field.with_metadata({UNIT_KEY: (units or {}).get(field.name, "")}) for field in table.schema])
    columns = choose(schema, f"the table {recording!r}", time, None)
    return joined(_logs(iter([table]), columns, recording, None), recording)


# --- columns --------------------------------------------------------------------------------------------


def read_header(line: bytes, source: str) -> tuple[list[str], str, str]:
    """Return the column names, the delimiter and the encoding that a header line shows."""
    header = line.split(b"\r")[0]
    if not header.strip():
        raise ValueError(f"{source} has no header line; the first line of a CSV file names its columns. Add it.")
    try:
        text, encoding = header.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:  # loggers that write °C in the code page of their Windows
        text, encoding = header.decode("latin-1"), "latin-1"
    delimiter = max(",;\t", key=text.count)
    return next(csv.reader([text.rstrip("\n")], delimiter=delimiter)), delimiter, encoding


def choose(schema: pa.Schema, source: str, time: str | None, wanted: list[str] | None) -> Columns:
    """Return the time column and the columns of the wanted signals, by default of all."""
    columns = []
    for field in schema:
        name, unit = split_unit(field.name)
        unit = (field.metadata or {}).get(UNIT_KEY, b"").decode("utf-8", "replace") or unit
        columns.append(Column(field.name, name, unit, field.type))
    known = [column.name for column in columns if column.name]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{source} has {known.count(twice)} columns named {twice!r}; names must be distinct. Rename them."
        )
    stamp = find_time_column(columns, time, source)
    names = known if wanted is None else wanted
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"{source} has no column for signal {name!r}. {nearest(name, known)}")
        if name == stamp.name:
            raise ValueError(f"{name!r} is the time column of {source}, not a signal. Leave it out of the signals.")
    return Columns(source, stamp, [c for c in columns if c.name in names and c.raw != stamp.raw])


def with_numbers(table: pa.Table, columns: Columns) -> pa.Table:
    """Turn text into numbers, column by column, if all cells of the column are numbers or truth values."""
    for place, name in enumerate(table.column_names):
        cells = _decoded(table[name])
        if name != columns.stamp.raw and is_text(cells.type):
            cells = numbers_in_text(cells, words=True)
        table = table.set_column(place, name, cells)
    return table


def read_numbers(table: pa.Table, columns: list[Column], left_out: dict[str, str]) -> list[np.ndarray]:
    """Return the numbers of columns as float64, NaN for an empty cell.

    A column without numbers is all NaN; its name and what it holds are added to ``left_out``.
    """
    found = []
    for column in columns:
        cells = table[column.raw]
        if left_out.get(column.name, "text") == "text":  # "text" alone: no cell was filled so far
            reason = _why_not_numbers(cells)
            if reason:
                left_out[column.name] = reason
        found.append(np.full(len(cells), np.nan) if column.name in left_out else _numbers(cells))
    return found


# --- pieces ---------------------------------------------------------------------------------------------


def _logs(
    tables: Iterator[pa.Table],
    columns: Columns,
    recording: str,
    wanted: list[str] | None,
    start: pd.Timestamp | None = None,
) -> Iterator[Log]:
    """Turn the rows of a recording, which come piece by piece, into logs in order of time."""
    left_out: dict[str, str] = {}
    head, first = _head(tables, columns)
    timeline, end = Timeline(first, columns.stamp, columns.time), head[0][:0]
    for table in chain(head, tables, [end]):
        values = read_numbers(table, columns.signals, left_out)
        for name in wanted or ():
            if name in left_out:
                raise not_numbers(name, recording, left_out[name])
        time_s, samples = timeline.add(table[columns.stamp.raw], values, last=table is end)
        signals = {
            column.name: Signal(column.name, time_s, values, column.unit)
            for column, values in zip(columns.signals, samples, strict=True)
            if column.name not in left_out
        }
        yield Log(recording, timeline.start or start, signals, dict(left_out))


def _head(tables: Iterator[pa.Table], columns: Columns) -> tuple[list[pa.Table], pa.ChunkedArray]:
    """Return the first tables, at least one, and the first stamps in them."""
    head: list[pa.Table] = []
    chunks: list[pa.Array] = []
    count = 0
    while count < FIRST_ROWS and (table := next(tables, None)) is not None:
        stamps = first_stamps(table[columns.stamp.raw])
        if len(stamps) or not head:  # rows without a stamp may fill a file
            head.append(table)
        chunks += stamps.chunks
        count += len(stamps)
    if not head:
        kinds = [(column.raw, column.type) for column in (columns.stamp, *columns.signals)]
        head = [pa.schema(kinds).empty_table()]
    return head, pa.chunked_array(chunks, type=head[0][columns.stamp.raw].type)[:FIRST_ROWS]


# --- cells ----------------------------------------------------------------------------------------------


def _without_rows(path: Path, names: list[str], error: pa.ArrowInvalid) -> pa.Table:
    """Return the table of a file with a header and no rows; refuse a file that is broken."""
    if "Empty CSV file" not in str(error):
        raise ValueError(f"{path} cannot be read as CSV ({error}). Repair the file.") from error
    return pa.Table.from_arrays([pa.nulls(0)] * len(names), names=names)


def _broken_parquet(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as Parquet ({error}). Repair the file, or export it again.")


def _decoded(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return bytes as text; what is not UTF-8 is replaced by question marks."""
    if not pa.types.is_binary(cells.type):
        return cells
    try:
        return cells.cast(pa.string())
    except pa.ArrowInvalid:
        text = [None if cell is None else cell.decode("utf-8", "replace") for cell in cells.to_pylist()]
        return pa.chunked_array([pa.array(text, pa.string())])


def _why_not_numbers(cells: pa.ChunkedArray) -> str:
    """Return what a column holds in place of numbers; empty if it holds numbers."""
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if is_text(kind):
        sample = first_text(cells.cast(kind))
        return f"text such as {sample[:40]!r}" if sample else "text"
    numeric = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_null,
    )
    return "" if any(is_kind(kind) for is_kind in numeric) else f"values of type {kind}"


def _numbers(cells: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    return cells.cast(pa.float64(), safe=False).to_numpy()

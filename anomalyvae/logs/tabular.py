"""CSV and Parquet: wide tables with one time column and one column per signal.

Rules, the same for both formats:

- **Time column.** The first of ``time_s, time, timestamp, t, datetime, date_time, unix_time, epoch`` (any
  case, with or without a unit, as in ``timestamp_ms`` or ``time [us]``), else the only column that holds
  date-times. It may hold numbers, ISO 8601 text, date-times, times of day or durations.
- **Numbers.** In the unit that the name gives, otherwise in seconds; numbers too large for that are unix
  times in seconds, milliseconds, microseconds or nanoseconds, told apart by their magnitude. Unix times and
  date-times (UTC where no zone is given) are counted from the first sample, which is the recording's start.
  Other numbers already count from the recording's start and stay as they are.
- **Order.** Rows that come a little late (up to a second, or three usual steps) are sorted in. A clock that
  jumps back further is an error: sorting would weave two stretches into one.
- **Duplicates.** Rows with the same stamp become one sample: the mean of what each signal has there.
- **Rows without a stamp** are left out.
- **Units** come from Parquet field metadata (``unit``) or from a header such as ``speed [m/s]``.
- **Columns that are not numbers** are left out and kept with the reason in ``Log.left_out``; truth values
  count as 0 and 1. Who asks for a left-out column is told why it is not there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.logs.log import Log, Signal, nearest
from anomalyvae.logs.stamps import Column, find_time_column, read_clock, split_unit

START_KEY = b"start_unix_s"  # Parquet metadata of a file: the moment at which time_s is zero
UNIT_KEY = b"unit"  # Parquet metadata of a column


def read_csv(path: Path, *, recording: str, time: str | None = None, signals: Iterable[str] | None = None) -> Log:
    """Read a CSV file with a header line; comma, semicolon or tab between the cells."""
    from pyarrow import csv as arrow_csv

    with path.open("rb") as file:
        header = file.readline(1 << 20).split(b"\r")[0]
    if not header.strip():
        raise ValueError(f"Got {path}, which begins with no header line, expected the columns' names. Add them.")
    try:
        text, encoding = header.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:  # loggers that write °C in the code page of their Windows
        text, encoding = header.decode("latin-1"), "latin-1"
    delimiter = max(",;\t", key=text.count)
    names = next(csv.reader([text.rstrip("\n")], delimiter=delimiter))
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=names, skip_rows=1, encoding=encoding),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error):
            raise ValueError(f"Got {path}, which cannot be read as CSV ({error}). Mend the file.") from error
        table = pa.Table.from_arrays([pa.nulls(0)] * len(names), names=names)  # a header and no rows
    return _log(table, str(path), recording, time, signals)


def read_parquet(path: Path, *, recording: str, time: str | None = None, signals: Iterable[str] | None = None) -> Log:
    """Read a Parquet file; only the columns that are needed are read from disk."""
    import pyarrow.parquet as pq

    wanted = None if signals is None else list(signals)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = _columns(schema, str(path))
            stamp = find_time_column(columns, time, str(path))
            _refuse_unknown(wanted, columns, str(path))
            needed = [c.raw for c in columns if wanted is None or c.name in wanted or c.raw == stamp.raw]
            table = file.read(columns=needed)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"Got {path}, which cannot be read as Parquet ({error}). Mend the file.") from error
    log = _log(table, str(path), recording, time, wanted)
    start = (schema.metadata or {}).get(START_KEY)
    if log.start is None and start is not None:
        log = replace(log, start=pd.Timestamp(float(start), unit="s", tz="UTC").round("us"))
    return log


def log_from_frame(
    frame: pd.DataFrame, recording: str, *, time: str | None = None, units: dict[str, str] | None = None
) -> Log:
    """Turn a table that is already in memory into a log, by the rules for files.

    Parameters
    ----------
    frame : pandas.DataFrame, shape (n, columns)
        One time column and one column per signal. The index is ignored.
    recording : str
        Name of the recording.
    time : str, optional
        The time column, where its name does not tell.
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
    fields = [f.with_metadata({UNIT_KEY: (units or {}).get(f.name, "")}) for f in table.schema]
    return _log(table.cast(pa.schema(fields)), f"the table {recording!r}", recording, time, None)


def _columns(schema: pa.Schema, source: str) -> list[Column]:
    columns = []
    for field in schema:
        name, unit = split_unit(field.name)
        unit = (field.metadata or {}).get(UNIT_KEY, b"").decode("utf-8", "replace") or unit
        columns.append(Column(field.name, name, unit, field.type))
    names = [column.name for column in columns if column.name]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"Got {names.count(twice)} columns named {twice!r} in {source}, expected distinct names. Rename them."
        )
    return columns


def _refuse_unknown(wanted: Iterable[str] | None, columns: list[Column], source: str) -> None:
    known = [column.name for column in columns]
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"Got signal {name!r}, expected a column of {source}. {nearest(name, known)}")


def _log(table: pa.Table, source: str, recording: str, time: str | None, signals: Iterable[str] | None) -> Log:
    wanted = None if signals is None else list(signals)
    columns = _columns(table.schema, source)
    stamp = find_time_column(columns, time, source)
    _refuse_unknown(wanted, columns, source)
    table = _stamped_rows(table, stamp, source)
    clock = read_clock(table[stamp.raw], stamp, f"column {stamp.raw!r} of {source}")
    found: dict[str, Signal] = {}
    left_out: dict[str, str] = {}
    for column in columns:
        if column.raw == stamp.raw or (wanted is not None and column.name not in wanted):
            continue
        reason = _why_not_numbers(table[column.raw]) if column.name else "a column without a name"
        if reason:
            left_out[column.name] = reason
        else:
            values = clock.samples(_numbers(table[column.raw]))
            found[column.name] = Signal(column.name, clock.time_s, values, column.unit)
    log = Log(recording, clock.start, found, left_out)
    for name in wanted or ():
        log[name]  # one that was left out is refused here, with the reason
    return log


def _stamped_rows(table: pa.Table, stamp: Column, source: str) -> pa.Table:
    cells = table[stamp.raw]
    stamped = pc.is_valid(cells)
    if pa.types.is_floating(cells.type):
        stamped = pc.fill_null(pc.is_finite(cells), False)
    count = pc.sum(stamped).as_py() or 0
    if count == len(table):
        return table
    if count == 0:
        raise ValueError(
            f"Got no time stamp in column {stamp.raw!r} of {source}, expected one per row. Mend the file, or "
            f"name another column: read_log(path, time=...)."
        )
    return table.filter(stamped)


def _why_not_numbers(cells: pa.ChunkedArray) -> str:
    kind = cells.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        sample = next((cell for cell in cells.drop_null()[:1].to_pylist()), "")
        return f"text such as {str(sample)[:40]!r}"
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

"""CSV and Parquet: wide tables with one time column and one column per signal.

Rules, the same for both formats:

- **Time column.** The first of ``time_s, time, timestamp, t, datetime, date_time, unix_time, epoch`` (any
  case, with or without a unit, as in ``timestamp_ms`` or ``time [us]``), else the only column that holds
  date-times. It may hold numbers, ISO 8601 text, date-times, times of day or durations.
- **Numbers.** In the unit that the name gives, otherwise in seconds; numbers too large for that are unix
  times in seconds, milliseconds, microseconds or nanoseconds, told apart by the magnitude of the first 1000
  stamps; if that changes later, it is an error. Unix times and date-times (UTC where no zone is given) are
  counted from the first sample, which is the recording's start. Other numbers already count from the
  recording's start and stay as they are.
- **Order.** Rows that come a little late (older than the newest row so far by up to a second, or three usual
  steps: those of the first 1000 stamps) are sorted in. A clock that jumps back further is an error: sorting
  would weave two stretches into one.
- **Duplicates.** Rows with the same stamp become one sample: the mean of what each signal has there.
- **Rows without a stamp** are left out.
- **Units** come from Parquet field metadata (``unit``) or from a header such as ``speed [m/s]``.
- **Columns that are not numbers** are left out and kept with the reason in ``Log.left_out``; truth values
  count as 0 and 1. Who asks for a left-out column is told why it is not there.

No rule needs the whole file, so :mod:`anomalyvae.recordings.stream` follows them piece by piece.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from anomalyvae.recordings.log import Log, Signal, nearest
from anomalyvae.recordings.stamps import (
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


class Tables(NamedTuple):
    """The rows of a file in pieces: Arrow tables of the time column and the columns that are asked for."""

    stamp: Column
    columns: list[Column]
    pieces: Iterator[pa.Table]


def read_csv(path: Path, *, recording: str, time: str | None = None, signals: Iterable[str] | None = None) -> Log:
    """Read a CSV file with a header line; comma, semicolon or tab between the cells."""
    from pyarrow import csv as arrow_csv

    names, options = _csv_options(path)
    try:
        table = arrow_csv.read_csv(path, **options, convert_options=arrow_csv.ConvertOptions(strings_can_be_null=True))
    except pa.ArrowInvalid as error:
        table = _without_rows(path, names, error)
    wanted = None if signals is None else list(signals)
    stamp, columns = _choose(table.schema, str(path), time, wanted)
    table = with_numbers(table, stamp, columns)
    return _log(table, str(path), recording, stamp, columns, wanted)


def csv_tables(path: Path, signals: list[str], rows: int) -> Tables:
    """Open a CSV file to read it in pieces.

    Arrow tells types by the first megabyte, but a column of whole numbers may go on with decimals. So cells
    are read as text where a later one could change the type, and become numbers piece by piece.
    """
    from pyarrow import csv as arrow_csv

    names, options = _csv_options(path)
    try:
        with arrow_csv.open_csv(path, **options) as reader:
            schema = reader.schema
    except pa.ArrowInvalid as error:
        schema = _without_rows(path, names, error).schema
    stamp, columns = _choose(schema, str(path), None, signals)
    open_ended = [c.raw for c in columns if (_may_be_time if c.raw == stamp.raw else _may_be_numbers)(c.type)]
    convert = arrow_csv.ConvertOptions(
        include_columns=[c.raw for c in columns],
        column_types=dict.fromkeys(open_ended, pa.string()),
        strings_can_be_null=True,
    )

    def pieces() -> Iterator[pa.Table]:
        try:
            with arrow_csv.open_csv(path, **options, convert_options=convert) as reader:
                for batch in reader:
                    table = pa.Table.from_batches([batch])
                    for begin in range(0, len(table), rows):
                        yield with_numbers(table[begin : begin + rows], stamp, columns)
        except pa.ArrowInvalid as error:
            yield _without_rows(path, [c.raw for c in columns], error)

    return Tables(stamp, columns, pieces())


def with_numbers(table: pa.Table, stamp: Column, columns: list[Column]) -> pa.Table:
    """Make numbers of text where it is numbers or truth values, of which Arrow makes text if it meets both."""
    for column in columns:
        if column.name and column.raw != stamp.raw and is_text(table[column.raw].type):
            numbers = numbers_in_text(table[column.raw], words=True)
            table = table.set_column(table.schema.get_field_index(column.raw), column.raw, numbers)
    return table


def _csv_options(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the columns, and how Arrow has to read the file."""
    from pyarrow import csv as arrow_csv

    with path.open("rb") as file:
        names, delimiter, encoding = _csv_format(file.readline(1 << 20), str(path))
    return names, {
        "read_options": arrow_csv.ReadOptions(column_names=names, skip_rows=1, encoding=encoding),
        "parse_options": arrow_csv.ParseOptions(delimiter=delimiter),
    }


def _csv_format(line: bytes, source: str) -> tuple[list[str], str, str]:
    """Return what a header line tells: the names of the columns, what stands between them, and the encoding."""
    header = line.split(b"\r")[0]
    if not header.strip():
        raise ValueError(f"Got {source}, which begins with no header line, expected the columns' names. Add them.")
    try:
        text, encoding = header.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:  # loggers that write °C in the code page of their Windows
        text, encoding = header.decode("latin-1"), "latin-1"
    delimiter = max(",;\t", key=text.count)
    return next(csv.reader([text.rstrip("\n")], delimiter=delimiter)), delimiter, encoding


class CsvLines:
    """A CSV file of which the lines come one by one.

    Parameters
    ----------
    header : bytes
        Its first line.
    source : str
        How errors name the file.
    signals : list of str
        Read these columns.

    Attributes
    ----------
    stamp : Column
    columns : list of Column
        As of `Tables`.
    left_out : int
        Lines that had more or fewer cells than the header.
    """

    def __init__(self, header: bytes, source: str, signals: list[str]) -> None:
        from pyarrow import csv as arrow_csv

        names, self._delimiter, self._encoding = _csv_format(header, source)
        self.stamp, self.columns = _choose(pa.schema([(name, pa.string()) for name in names]), source, None, signals)
        self._width, self._places = len(names), [names.index(column.raw) for column in self.columns]
        self._missing = set(arrow_csv.ConvertOptions().null_values)
        self.left_out = 0

    def table(self, lines: bytes) -> pa.Table:
        """Return whole lines as an Arrow table of text.

        Arrow's own reader hands each piece to a thread, which takes longer than reading a line.
        """
        text = (line.rstrip("\r") for line in lines.decode(self._encoding, "replace").split("\n"))
        rows = [self._cells(line) for line in text if line]
        whole = [row for row in rows if len(row) == self._width]
        self.left_out += len(rows) - len(whole)
        columns = [[None if row[at] in self._missing else row[at] for row in whole] for at in self._places]
        return pa.table([pa.array(cells, pa.string()) for cells in columns], [column.raw for column in self.columns])

    def _cells(self, line: str) -> list[str]:
        if '"' not in line:
            return line.split(self._delimiter)
        return next(csv.reader([line], delimiter=self._delimiter))  # by itself: a quote left open ends with its line


def _without_rows(path: Path, names: list[str], error: pa.ArrowInvalid) -> pa.Table:
    """Return the table of a file that is a header and no rows; refuse a file that is broken."""
    if "Empty CSV file" not in str(error):
        raise ValueError(f"Got {path}, which cannot be read as CSV ({error}). Mend the file.") from error
    return pa.Table.from_arrays([pa.nulls(0)] * len(names), names=names)


def read_parquet(path: Path, *, recording: str, time: str | None = None, signals: Iterable[str] | None = None) -> Log:
    """Read a Parquet file; only the columns that are needed are read from disk."""
    import pyarrow.parquet as pq

    wanted = None if signals is None else list(signals)
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            stamp, columns = _choose(schema, str(path), time, wanted)
            table = file.read(columns=[c.raw for c in columns])
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error
    log = _log(table, str(path), recording, stamp, columns, wanted)
    start = (schema.metadata or {}).get(START_KEY)
    if log.start is None and start is not None:
        log = replace(log, start=pd.Timestamp(float(start), unit="s", tz="UTC").round("us"))
    return log


def parquet_tables(path: Path, signals: list[str], rows: int) -> Tables:
    """Open a Parquet file to read it in pieces."""
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(path, error) from error
    stamp, columns = _choose(schema, str(path), None, signals)

    def pieces() -> Iterator[pa.Table]:
        try:
            # Without a buffer, or with reading ahead, Arrow holds a row group, which may be the whole file.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(rows, columns=[c.raw for c in columns]):
                    yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise _broken_parquet(path, error) from error

    return Tables(stamp, columns, pieces())


def _broken_parquet(path: Path, error: Exception) -> ValueError:
    return ValueError(f"Got {path}, which cannot be read as Parquet ({error}). Mend the file.")


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
    source = f"the table {recording!r}"
    stamp, columns = _choose(pa.schema(fields), source, time, None)
    return _log(table, source, recording, stamp, columns, None)


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


def _choose(schema: pa.Schema, source: str, time: str | None, wanted: list[str] | None) -> tuple[Column, list[Column]]:
    """Return the time column, and the columns to read, that one among them."""
    columns = _columns(schema, source)
    stamp = find_time_column(columns, time, source)
    known = [column.name for column in columns]
    for name in wanted or ():
        if name not in known:
            raise ValueError(f"Got signal {name!r}, expected a column of {source}. {nearest(name, known)}")
    return stamp, [c for c in columns if wanted is None or c.name in wanted or c.raw == stamp.raw]


def _log(
    table: pa.Table, source: str, recording: str, stamp: Column, columns: list[Column], wanted: list[str] | None
) -> Log:
    cells = table[stamp.raw]
    rows = unsorted_log(table, recording, stamp, columns)
    timeline = Timeline(first_stamps(cells), stamp, time_column(stamp, source))
    time_s, samples = timeline.add(cells, [signal.values for signal in rows.signals.values()], last=True)
    found = {
        signal.name: replace(signal, time_s=time_s, values=values)
        for signal, values in zip(rows.signals.values(), samples, strict=True)
    }
    log = Log(recording, timeline.start, found, rows.left_out)
    for name in wanted or ():
        log[name]  # one that was left out is refused here, with the reason
    return log


def time_column(stamp: Column, source: str) -> str:
    """Return how errors name the time column."""
    return f"column {stamp.raw!r} of {source}"


def unsorted_log(table: pa.Table, recording: str, stamp: Column, columns: list[Column]) -> Log:
    """Return rows as they stand, as signals without a clock."""
    found: dict[str, Signal] = {}
    left_out: dict[str, str] = {}
    for column in columns:
        if column.raw == stamp.raw:
            continue
        reason = _why_not_numbers(table[column.raw]) if column.name else "a column without a name"
        if reason:
            left_out[column.name] = reason
        else:
            found[column.name] = Signal(column.name, np.empty(0), _numbers(table[column.raw]), column.unit)
    return Log(recording, None, found, left_out)


def _may_be_time(kind: pa.DataType) -> bool:
    return not (pa.types.is_boolean(kind) or pa.types.is_date(kind))


def _may_be_numbers(kind: pa.DataType) -> bool:
    return is_text(kind) or _is_numeric(kind)


def _is_numeric(kind: pa.DataType) -> bool:
    numeric = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_null,
    )
    return any(is_kind(kind) for is_kind in numeric)


def _why_not_numbers(cells: pa.ChunkedArray) -> str:
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if is_text(kind):
        sample = first_text(cells.cast(kind))
        return f"text such as {sample[:40]!r}" if sample else "text"
    return "" if _is_numeric(kind) else f"values of type {kind}"


def _numbers(cells: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.uint8())
    return cells.cast(pa.float64(), safe=False).to_numpy()

"""CSV and Parquet files: a time column and one column per signal.

The rules are the same for both formats; how a CSV file is written is found by :mod:`anomalyvae.tables.dialect`:

- **Time column.** The first of ``time_s, time, timestamp, t, datetime, date_time, unix_time, epoch`` or of the names
  that common loggers use (in any case, with or without a unit, as in ``timestamp_ms``, ``time [us]`` or ``Time (s)``),
  otherwise the only column of date-times. It holds numbers, date-times, times of day or durations; text in any form of
  :mod:`anomalyvae.recordings.date_times`. ``time="ticks [ms]"`` (``--time``) names the column, and its unit.
- **Numbers** have the unit that the column's name gives, otherwise seconds. Numbers that are too large for that are
  unix times in seconds, milliseconds, microseconds or nanoseconds; the magnitude of the first 1000 stamps decides, and
  a later change is an error. Unix times and date-times (UTC if they have no zone) count from the first sample, which is
  the recording's start. Other numbers already count from the recording's start and stay as they are. Days of a
  spreadsheet (45413.5) are recognised. Numbers without a unit are refused if their usual step is unlikely: more than
  10 s, or 60 s between unix times. Whole minutes that divide a day, and whole days, are likely.
- **Order.** A row may be older than the newest row before it by up to a second or three usual steps (the median step of
  the first 1000 stamps); it is sorted in. If the clock jumps back further, the file is refused: sorting would mix two
  recordings.
- **A clock that is set.** If a stamp is more than a year after the one before, as when a logger that began in 1970
  receives the time, a warning says so: the times of the recording count from its first row.
- **Midnight.** Times of day that fall by nearly a day go on with the next day, minutes and seconds that fall by nearly
  an hour with the next hour; a warning counts how often.
- **Duplicates.** Rows with the same stamp become one sample: each signal's mean; a warning counts the stamps at which
  values differ. If the first stamps are usually shared by three samples of a signal or more, as are whole seconds at
  10 Hz, the file is refused.
- **Rows without a stamp** are left out; a warning counts those with values.
- **Units** come from Parquet field metadata (``unit``), from a header such as ``speed [m/s]`` or ``speed (m/s)``, or
  from the line of units below the header.
- **Columns without numbers** are left out; ``Log.left_out`` says what they hold. True and false are 1 and 0, in
  the words of several languages. A signal that is asked for must hold numbers and cells that say that a value is
  missing (:mod:`anomalyvae.tables.cells`).
- **Long form.** If a table has one value per row, with columns such as ``time, name, value`` or ``SECONDS, PID, VALUE,
  UNITS``, each name is a signal.

No rule needs the whole file: files are read piece by piece.
"""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from anomalyvae.recordings.columns import Columns, choose_columns, read_numbers, refuse_coarse, with_numbers
from anomalyvae.recordings.date_times import reader_of
from anomalyvae.recordings.log import UNIT_KEY, Log, Signal, joined, moment, not_numbers
from anomalyvae.recordings.long_form import Explain, one_column_per_signal
from anomalyvae.recordings.stamps import FIRST_ROWS, Column, first_stamps, first_text
from anomalyvae.recordings.timeline import Timeline
from anomalyvae.tables.cells import is_text, like_number, numbers_in_text
from anomalyvae.tables.files import CsvFile, repair
from anomalyvae.tables.names import index_of_time, split_unit
from anomalyvae.tables.parquet import parquet_file

START_KEY = b"start_unix_s"  # Parquet metadata of a file: the moment at which time_s is zero
ROWS = 65536  # of a piece, at most
_UNREAD = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EIO, errno.ESTALE, errno.EMFILE)  # no fault of the content


# --- readers --------------------------------------------------------------------------------------------


def csv_pieces(
    path: Path,
    signals: list[str] | None = None,
    *,
    time: str | None = None,
    exclude: Iterable[str] = (),
    rows: int = ROWS,
    **dialect: Any,
) -> Iterator[Log]:
    """Read a CSV file with a header line piece by piece; ``dialect`` is as `CsvFile` takes it."""
    file = CsvFile(path, **dialect)
    names = file.dialect.names

    def cells(wanted: list[str]) -> Iterator[pa.Table]:
        for table in file.tables([names.index(raw) for raw in wanted]):
            yield table.rename_columns(wanted)

    table = one_column_per_signal(str(path), _schema(file, time), cells, time, exclude)
    columns = choose_columns(table.schema, str(path), table.time, signals, exclude, file.dialect.decimal, file.missing)

    def explain(raw: str) -> str:
        return str(file.count(names.index(table.value or raw)))

    def pieces() -> Iterator[pa.Table]:
        for piece in table.tables(columns.raw):
            for begin in range(0, max(len(piece), 1), rows):
                yield with_numbers(piece[begin : begin + rows], columns)

    return _logs(pieces(), columns, path.stem, signals, explain=explain)


def _schema(file: CsvFile, time: str | None) -> pa.Schema:
    """Return the columns of a CSV file; if none has the name of a time column, those of date-times have their type."""
    names, units = file.dialect.names, file.dialect.units
    kinds: list[pa.DataType] = [pa.string()] * len(names)
    if time is None and index_of_time([split_unit(name)[0] for name in names]) is None:
        first = next(file.tables(range(len(names))), None)
        for index, cells in enumerate(first.columns if first is not None else ()):
            some = cells.drop_null()[:20]
            if is_text(some.type) and len(some) and is_text(numbers_in_text(some).type):
                with suppress(ValueError):  # times of day that may be two things
                    found = reader_of(some.to_pandas(), "dmy", "")
                    kinds[index] = pa.timestamp("ns") if found and not found[1] else kinds[index]
    fields = zip(names, kinds, units, strict=True)
    return pa.schema([pa.field(name, kind, metadata={UNIT_KEY: unit} if unit else None) for name, kind, unit in fields])


def parquet_pieces(
    path: Path,
    signals: list[str] | None = None,
    *,
    time: str | None = None,
    exclude: Iterable[str] = (),
    rows: int = ROWS,
    **_: object,
) -> Iterator[Log]:
    """Read a Parquet file piece by piece, and of it only the columns that are needed.

    Options of CSV files are passed over.
    """
    try:
        with parquet_file(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken_parquet(path, error) from error
    start_s = (schema.metadata or {}).get(START_KEY)
    try:
        start = None if start_s is None else moment(float(start_s))
    except ValueError:
        raise ValueError(
            f"{path} has the start {start_s!r} in its metadata {START_KEY.decode()}, expected a number of seconds of "
            f"unix time. Correct it."
        ) from None

    def cells(wanted: list[str]) -> Iterator[pa.Table]:
        try:
            # With a buffer for the whole, or with reading ahead, Arrow holds a row group, which may be the whole file.
            with parquet_file(path, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(rows, columns=wanted):
                    for column in batch.columns:
                        if pa.types.is_dictionary(column.type):  # a damaged one may point beyond its values
                            column.validate(full=True)
                    yield pa.Table.from_batches([batch]).select(wanted)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _broken_parquet(path, error) from error

    table = one_column_per_signal(str(path), schema, cells, time, exclude)
    columns = choose_columns(table.schema, str(path), table.time, signals, exclude)
    return _logs(table.tables(columns.raw), columns, path.stem, signals, start)


def _broken_parquet(path: Path, error: Exception) -> ValueError | OSError:
    if isinstance(error, OSError) and error.errno in _UNREAD:
        return OSError(error.errno, os.strerror(error.errno), str(path))
    return ValueError(f"{path} cannot be read as Parquet ({error}). Repair the file, or export it again.")


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
    whole, source = pa.Table.from_pandas(frame, preserve_index=False), f"the table {recording!r}"
    table = one_column_per_signal(source, whole.schema, lambda wanted: iter([whole.select(wanted)]), time)
    units = units or {}
    fields = [
        field.with_metadata({UNIT_KEY: units[field.name]}) if field.name in units else field for field in table.schema
    ]
    columns = choose_columns(pa.schema(fields), source, table.time, None)
    return joined(_logs(table.tables(columns.raw), columns, recording, None), recording)


# --- pieces ---------------------------------------------------------------------------------------------


def _logs(
    tables: Iterator[pa.Table],
    columns: Columns,
    recording: str,
    wanted: list[str] | None,
    start: pd.Timestamp | None = None,
    explain: Explain | None = None,
) -> Iterator[Log]:
    """Turn the rows of a recording, which come piece by piece, into logs in order of time."""
    left_out: dict[str, str] = {}
    head, first = _head(tables, columns)
    timeline, end = Timeline(first, columns.stamp, columns.time), head[0][:0]
    refuse_coarse(head, columns)
    clock = timeline.clock if len(first) else ""
    for table in chain(head, tables, [end]):
        before = set(left_out)
        values = read_numbers(table, columns.signals, left_out)
        for column in columns.signals:
            if column.name in left_out.keys() - before and explain is not None:
                by = recording if column.name in (wanted or ()) else None
                _report(column, table[column.raw], columns.source, by, explain)
        for name in wanted or ():
            if name in left_out:
                raise not_numbers(name, recording, left_out[name])
        time_s, samples = timeline.add(table[columns.stamp.raw], values, last=table is end)
        signals = {
            column.name: Signal(column.name, time_s, values, column.unit)
            for column, values in zip(columns.signals, samples, strict=True)
            if column.name not in left_out
        }
        yield Log(recording, timeline.start or start, signals, dict(left_out), clock)
    for text in timeline.remarks():
        warnings.warn(text, stacklevel=4)


def _report(column: Column, cells: pa.ChunkedArray, source: str, wanted_by: str | None, explain: Explain) -> None:
    """Refuse a wanted signal with text in it, by line and cell; warn of another if some of its cells are numbers."""
    text = first_text(cells, column.decimal)
    if not text or (wanted_by is None and not any(map(like_number, cells.drop_null()[:50].to_pylist()))):
        return
    said, remedy = explain(column.raw), repair(text, column.decimal)
    if wanted_by is not None:
        raise ValueError(
            f"Signal {column.name!r} of recording {wanted_by!r} holds text such as {text[:40]!r}, and a signal needs "
            f"numbers: in {source}, {said}. {remedy}."
        )
    warnings.warn(f"Column {column.raw!r} of {source} is left out: {said}. {remedy}.", stacklevel=4)


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

"""The time column of a table: which one it is, and what its cells mean.

The rules are in :mod:`anomalyvae.recordings.tabular`.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.recordings.log import nearest

_TIME_NAMES = ("time_s", "time", "timestamp", "t", "datetime", "date_time", "unix_time", "epoch")
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "µs": 1_000_000, "ns": 1_000_000_000}
UNIX_FROM_S = 1e8  # March 1973: no recording is that long or that old
_NUMBER = r"^\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|(?i:true|false))?\s*$"
_EXACT_UP_TO = 2**53  # float64 cannot hold every larger whole number
_CLOCK = r":|^\s*\d{4}-\d\d-\d\d"
LATE_S, _LATE_STEPS = 1.0, 3.0  # how late a row may be: the longer of a second and a few usual steps
FIRST_ROWS = 1000  # stamps that decide what stamps mean and what the usual step is; the file may not fit in memory


class Column(NamedTuple):
    """A column of a table: its name there, its name as a signal, its unit, its Arrow type."""

    raw: str
    name: str
    unit: str
    type: pa.DataType


def split_unit(header: str) -> tuple[str, str]:
    """Split ``name [unit]``; an index, as in ``wheel [0]``, belongs to the name.

    Examples
    --------
    >>> split_unit("speed [m/s]"), split_unit("wheel [0]")
    (('speed', 'm/s'), ('wheel [0]', ''))
    """
    match = re.fullmatch(r"(.*\S)\s+\[([^\[\]]*[^\[\]\d\s][^\[\]]*)\]\s*", header)
    return (match[1].strip(), match[2].strip()) if match else (header.strip(), "")


def find_time_column(columns: list[Column], time: str | None, source: str) -> Column:
    """Return the time column: the given one, or the one with the name or the type of a time column."""
    if time is not None:
        wanted, unit = split_unit(time)
        for column in columns:
            if time in (column.raw, column.name):
                return column
            if wanted == column.name:
                return column._replace(unit=unit)
        raise ValueError(f"{source} has no column {time!r} for the time. {nearest(time, [c.raw for c in columns])}")
    for name in _TIME_NAMES:
        for column in columns:
            if name in (column.name.casefold(), re.sub(r"_(s|ms|us|ns)$", "", column.name.casefold())):
                return column
    stamps = [column for column in columns if pa.types.is_timestamp(column.type)]
    if len(stamps) == 1:
        return stamps[0]
    raise ValueError(
        f"{source} has no column with the name of a time column, such as {', '.join(_TIME_NAMES[:4])}; it has "
        f"{', '.join(repr(c.raw) for c in columns[:12])}. Rename the column, or name it in Python: "
        f"read_log(path, time=...)."
    )


def stamped(cells: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return which cells of a time column hold a stamp; None if all do."""
    if pa.types.is_floating(cells.type):
        mask = pc.fill_null(pc.is_finite(cells), False)
        return None if pc.all(mask).as_py() in (True, None) else mask
    return cells.is_valid() if cells.null_count else None


def first_stamps(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the first ``FIRST_ROWS`` cells that hold a stamp."""
    mask = stamped(cells)
    return (cells if mask is None else cells.filter(mask))[:FIRST_ROWS]


def numbers_in_text(cells: pa.ChunkedArray, words: bool = False) -> pa.ChunkedArray:
    """Return text as numbers if every cell is one (or, with ``words``, true or false), else as it is."""
    numbers = _numbers_in_text(cells[:100], words)  # a failing cast is slow: most text fails here
    return cells if is_text(numbers.type) else _numbers_in_text(cells, words)


def _numbers_in_text(cells: pa.ChunkedArray, words: bool) -> pa.ChunkedArray:
    try:
        numbers = cells.cast(pa.float64())
        largest = pc.max(numbers).as_py()
        if largest is not None and largest < _EXACT_UP_TO:
            return numbers
    except pa.ArrowInvalid:
        numbers = cells
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:
        if not is_text(numbers.type):
            return numbers
    text = pc.utf8_lower(pc.utf8_trim_whitespace(cells))
    if words:
        text = pc.if_else(pc.equal(text, "true"), "1", pc.if_else(pc.equal(text, "false"), "0", text))
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:
        return cells


def first_text(cells: pa.ChunkedArray) -> str:
    """Return the first cell that is not a number, else the first cell; empty if all cells are empty."""
    for chunk in cells.chunks:
        place = pc.index(pc.match_substring_regex(chunk, _NUMBER), False).as_py()
        if place >= 0:
            return str(chunk[place])
    return next((str(cell) for cell in cells.drop_null()[:1]), "")


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class Scale:
    """What the cells of a time column mean, judged by its first stamps; ``source`` names the column in errors.

    Stamps are ``ticks``, with ``per_second`` in a second. They are points in time if ``absolute``; otherwise they count
    from the recording's start. A row may be late by ``late_s``.
    """

    def __init__(self, first: pa.ChunkedArray, column: Column, source: str) -> None:
        self._column, self._source = column, source
        self.per_second, self.absolute = _PER_SECOND["ns"], True
        self._guess: int | None = None  # by magnitude, if no unit is given
        self._date_times: bool | None = None  # text holds date-times; False: times of day; None: it is not text
        first = first_stamps(numbers_in_text(first)) if is_text(first.type) else first
        kind = first.type
        if is_text(kind):
            read_as = (kind for kind in (True, False) if _parsed(first.to_pandas(), kind).notna().any())
            self._date_times = next(read_as, None)
            if self._date_times is None:
                self._refuse_text(first_text(first))
        elif pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
            self.per_second, self.absolute = _PER_SECOND[kind.unit], not pa.types.is_duration(kind)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
            self._measure(float(np.median(first.to_numpy())) if len(first) else 0.0)
        else:
            raise ValueError(f"{source} holds {kind}; a time column needs seconds or date-times. Convert it.")
        step = np.abs(np.diff(self.ticks(first))) / self.per_second
        self.late_s = max(LATE_S, _LATE_STEPS * float(np.median(step)) if len(step) else 0.0)

    def _measure(self, typical: float) -> None:
        suffix = re.search(r"_(s|ms|us|ns)$", self._column.name.casefold())
        unit = self._column.unit or (suffix[1] if suffix else "")
        if unit and unit not in _PER_SECOND:
            raise ValueError(
                f"{self._source} has the unit {unit!r}; units of time are {', '.join(_PER_SECOND)}. Rename the column, "
                f"as in '{self._column.name} [ms]', or give its unit in Python: read_log(path, "
                f"time='{self._column.name} [ms]')."
            )
        self._guess, self._typical = (None if unit else _magnitude(typical)), typical
        self.per_second = _PER_SECOND[unit] if unit else self._guess or 1
        self.absolute = typical / self.per_second >= UNIX_FROM_S

    def numbers(self, cells: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return text as numbers if the first stamps were numbers; other cells as they are."""
        if self._date_times is not None or not is_text(cells.type):
            return cells
        numbers = numbers_in_text(cells)
        if is_text(numbers.type):
            self._refuse_text(first_text(cells))
        return numbers

    def ticks(self, cells: pa.ChunkedArray) -> np.ndarray:
        """Return stamps, none of them missing, as ticks: int64, or float64 for decimals."""
        kind = cells.type
        if self._date_times is not None:
            return self._ticks_of_text(cells.to_pandas())
        if pa.types.is_floating(kind):
            ticks = cells.cast(pa.float64()).to_numpy()
        else:
            ticks = (cells.cast(pa.int32()) if pa.types.is_time32(kind) else cells).cast(pa.int64()).to_numpy()
        if self._guess is not None and len(ticks) and _magnitude(float(ticks.max())) > self._guess:
            raise ValueError(
                f"{self._source} begins with stamps around {self._typical:g} and goes on up to {ticks.max():g}, not in "
                f"one unit. Rename the column, as in '{self._column.name} [ms]', or give its unit in Python: "
                f"read_log(path, time='{self._column.name} [ms]')."
            )
        return ticks

    def _ticks_of_text(self, cells: pd.Series) -> np.ndarray:
        """Return date-times, or times of day, in nanoseconds."""
        stamps = _parsed(cells, bool(self._date_times))
        unread = stamps.isna()
        if unread.any():
            self._refuse_text(cells[unread].iloc[0])
        return stamps.dt.as_unit("ns").astype(np.int64).to_numpy()

    def _refuse_text(self, text: str) -> NoReturn:
        raise ValueError(
            f"{self._source} holds the text {text!r}; a time column needs seconds or ISO 8601, as in "
            f"2026-05-01T10:00:00.2. Convert it, or name another column in Python: read_log(path, time=...)."
        )


def _parsed(cells: pd.Series, date_times: bool) -> pd.Series:
    clocks = cells.where(cells.str.contains(_CLOCK))  # "20170419" would be parsed as nanoseconds
    if date_times:
        return pd.to_datetime(clocks, format="ISO8601", utc=True, errors="coerce")
    return pd.to_timedelta(clocks, errors="coerce")


def _magnitude(typical: float) -> int:
    """Return the ticks per second of a unix time of this size; 0 if it is too small for a unix time."""
    return next((n for n in (10**9, 10**6, 10**3, 1) if typical / n >= UNIX_FROM_S), 0)

"""The time column of a table: which one it is, what its numbers mean, and in which order rows stand.

The rules are stated in :mod:`anomalyvae.logs.tabular`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from anomalyvae.logs.log import nearest

_TIME_NAMES = ("time_s", "time", "timestamp", "t", "datetime", "date_time", "unix_time", "epoch")
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "µs": 1_000_000, "ns": 1_000_000_000}
_UNIX_FROM_S = 1e8  # March 1973: no recording lasts that long, and none is older
_LATE_S, _LATE_STEPS = 1.0, 3.0  # how late a row may come: the longer of a second and a few usual steps


class Column(NamedTuple):
    """A column of a table: its name there, its name as a signal, its unit, its Arrow type."""

    raw: str
    name: str
    unit: str
    type: pa.DataType


class Clock(NamedTuple):
    """The time of each sample, and how rows of the table become samples.

    ``order`` sorts the rows (None: they are sorted); ``first`` marks, in sorted rows, where each new stamp
    begins (None: no stamp occurs twice).
    """

    time_s: np.ndarray
    start: pd.Timestamp | None
    order: np.ndarray | None
    first: np.ndarray | None

    def samples(self, values: np.ndarray) -> np.ndarray:
        """Bring a column's values (one per row) into samples (one per stamp)."""
        values = values if self.order is None else values[self.order]
        if self.first is None:
            return values
        present = ~np.isnan(values)
        count = np.add.reduceat(present, self.first, dtype=np.int64)
        total = np.add.reduceat(np.where(present, values, 0.0), self.first)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


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
    """Return the time column: the one that is asked for, or the one whose name or type tells."""
    if time is not None:
        wanted, unit = split_unit(time)
        for column in columns:
            if time in (column.raw, column.name):
                return column
            if wanted == column.name:
                return column._replace(unit=unit)
        raise ValueError(
            f"Got time column {time!r}, expected a column of {source}. {nearest(time, [c.raw for c in columns])}"
        )
    for name in _TIME_NAMES:
        for column in columns:
            if name in (column.name.casefold(), re.sub(r"_(s|ms|us|ns)$", "", column.name.casefold())):
                return column
    stamps = [column for column in columns if pa.types.is_timestamp(column.type)]
    if len(stamps) == 1:
        return stamps[0]
    raise ValueError(
        f"Got no time column in {source} (it has {', '.join(repr(c.raw) for c in columns[:12])}), expected "
        f"one named {', '.join(_TIME_NAMES[:4])} or the like. Say which it is: read_log(path, time=...)."
    )


def read_clock(cells: pa.ChunkedArray, column: Column, where: str) -> Clock:
    """Turn the cells of the time column, none of them missing, into the recording's clock.

    Parameters
    ----------
    cells : pyarrow.ChunkedArray, length n
        The time column.
    column : Column
        Its name and unit.
    where : str
        How errors name it.
    """
    ticks, per_second, absolute = _ticks(cells, column, where)
    step = np.diff(ticks)
    order = None
    if len(step) and step.min() < 0:
        _refuse_jump_back(ticks, step, per_second, where)
        order = np.argsort(ticks, kind="stable")
        ticks = ticks[order]
        step = np.diff(ticks)
    first = np.flatnonzero(np.concatenate(([True], step > 0))) if len(step) and step.min() == 0 else None
    ticks = ticks if first is None else ticks[first]
    if not absolute or not len(ticks):
        return Clock(ticks / per_second, None, order, first)
    # Integers are subtracted as integers; a float64 unix time is good to a quarter of a microsecond.
    time_s = (ticks - ticks[0]) / per_second
    if ticks.dtype == np.float64:
        time_s = np.round(time_s, 6)
    start = None
    if ticks[0] / per_second >= _UNIX_FROM_S:  # else a time of day, or a clock that was never set
        start = pd.Timestamp(ticks[0] / per_second, unit="s", tz="UTC").round("us")
    return Clock(time_s, start, order, first)


def _ticks(cells: pa.ChunkedArray, column: Column, where: str) -> tuple[np.ndarray, int, bool]:
    """Return the stamps as numbers, how many make a second, and whether they are points in time."""
    kind = cells.type
    if pa.types.is_null(kind):
        return np.empty(0), 1, False
    if pa.types.is_timestamp(kind) or pa.types.is_time64(kind) or pa.types.is_duration(kind):
        return cells.cast(pa.int64()).to_numpy(), _PER_SECOND[kind.unit], not pa.types.is_duration(kind)
    if pa.types.is_time32(kind):
        return cells.cast(pa.int32()).to_numpy().astype(np.int64), _PER_SECOND[kind.unit], True
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text_ticks(cells.to_pandas(), where), _PER_SECOND["ns"], True
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"Got {kind} in {where}, expected seconds or date-times. Convert the column.")
    ticks = cells.cast(pa.int64() if pa.types.is_integer(kind) else pa.float64()).to_numpy()
    per_second = _ticks_per_second(ticks, column, where)
    return ticks, per_second, bool(np.median(ticks) / per_second >= _UNIX_FROM_S) if len(ticks) else False


def _text_ticks(cells: pd.Series, where: str) -> np.ndarray:
    """Return date-times, or times of day, in nanoseconds."""
    clocks = cells.where(cells.str.contains(":", regex=False))  # "20170419" would parse, as what it is not
    stamps: pd.Series = pd.to_datetime(clocks, format="ISO8601", utc=True, errors="coerce")
    if stamps.isna().all():
        stamps = pd.to_timedelta(clocks, errors="coerce")
    unread = stamps.isna()
    if unread.any():
        raise ValueError(
            f"Got the text {cells[unread].iloc[0]!r} in {where}, expected seconds or ISO 8601, as in "
            f"2026-05-01T10:00:00.2. Convert it, or name another column: read_log(path, time=...)."
        )
    return stamps.dt.as_unit("ns").astype(np.int64).to_numpy()


def _ticks_per_second(ticks: np.ndarray, column: Column, where: str) -> int:
    suffix = re.search(r"_(s|ms|us|ns)$", column.name.casefold())
    unit = column.unit or (suffix[1] if suffix else "")
    if unit:
        if unit not in _PER_SECOND:
            raise ValueError(
                f"Got unit {unit!r} in {where}, expected one of {', '.join(_PER_SECOND)}. Rename the column, "
                f"or say it: read_log(path, time='{column.name} [ms]')."
            )
        return _PER_SECOND[unit]
    typical = float(np.median(ticks)) if len(ticks) else 0.0
    return next((n for n in (10**9, 10**6, 10**3) if typical / n >= _UNIX_FROM_S), 1)


def _refuse_jump_back(ticks: np.ndarray, step: np.ndarray, per_second: int, where: str) -> None:
    usual = float(np.median(np.abs(step))) / per_second
    worst = int(np.argmin(step))
    back_s = -float(step[worst]) / per_second
    if back_s > max(_LATE_S, _LATE_STEPS * usual):
        raise ValueError(
            f"Got a clock that jumps back by {back_s:g} s after {worst + 1} rows in {where}, expected one "
            f"recording in order of time. Split the file there, or sort its rows if they were shuffled."
        )

"""The time column of a table: which one it is, and what its cells mean.

The rules are in :mod:`anomalyvae.recordings.tabular`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from anomalyvae.recordings.date_times import DAY_S, Read, reader_of
from anomalyvae.tables.cells import is_number, is_text, numbers_in_text
from anomalyvae.tables.names import PER_SECOND, TIME_NAMES, index_of_time, nearest, split_unit, time_unit

UNIX_FROM_S = 1e8  # March 1973: no recording is that long or that old
_RECENT_S, FUTURE_S = 9.46e8, 4.1e9  # 2000 and 2100: unix times of recordings
_DAYS = {
    25_569: "days of a spreadsheet",
    40_587: "modified Julian days",
    719_529: "days of MATLAB",
    2_440_587.5: "Julian days",
}  # by 1970
_RECENT_D = (7305, 25_568)  # 1990 and 2040, in days since 1970
_WINDOWS = {116_444_736 * 10**9: "FILETIME", 621_355_968 * 10**9: "ticks of .NET"}  # 1970, in ticks of 100 ns
_LABVIEW_S = 2_082_844_800  # 1970, in seconds since 1904
_LABVIEW_FROM_S = 2.9e9  # 1995; as unix time, this would be 2061
_OF_DAY = "hhmmss"  # a time of day as one number
_QUICK_D = 2e-5  # days: 1.7 s. As seconds, these would be 50,000 rows a second
_UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds", 1 / 60: "minutes",
          1 / 3600: "hours", 1 / DAY_S: "days"}  # fmt: skip
LATE_S, _LATE_STEPS = 1.0, 3.0  # how late a row may be: the longer of a second and a few usual steps
_FRACTION = (  # of a second, and what stands before it
    r"^(\s*[+-]?\d+[.,]|.*:\d\d[.,_]|.*:\d\d:\d\d:)(\d+)(?:\D*|\s*[+-]\d\d:?\d\d)$"
)
_SHOWN = 60  # characters of a cell in a message
_DIGITS = 18  # of a whole number that 64 bits hold
_NEARLY = 23 / 24  # of a period: a clock that falls by more has begun again; late rows and new recordings fall by less
FIRST_ROWS = 1000  # stamps that decide what stamps mean and what the usual step is; the file may not fit in memory


class Column(NamedTuple):
    """A column of a table: its name there, its name as a signal, its unit, its Arrow type.

    For a column of text, also the decimal mark of its numbers, and the cells that say that a value is missing.
    """

    raw: str
    name: str
    unit: str
    type: pa.DataType
    decimal: str = ""
    missing: tuple[str, ...] = ()


class Turns(NamedTuple):
    """How many times a clock without dates has begun again so far, as at midnight, and its last stamp."""

    number: int
    last: float | None


_NO_TURNS = Turns(0, None)


class NoTimeColumnError(ValueError):
    """No column has the name or the type of a time column."""


class UnitError(ValueError):
    """The unit of a clock cannot be told from its stamps."""


def find_time_column(columns: list[Column], time: str | None, source: str) -> Column:
    """Return the time column: the given one, or the one with the name or the type of a time column."""
    if time is not None:
        wanted, unit = split_unit(time)
        for column in columns:
            if time.strip() in (column.raw, column.name):
                return column
        for column in columns:
            if wanted in (column.raw, column.name):
                return column._replace(unit=unit)
        raise ValueError(
            f"{source} has no column {time!r} for the time (--time). {nearest(time, [c.raw for c in columns])}"
        )
    index = index_of_time([column.name for column in columns])
    if index is not None:
        return columns[index]
    stamps = [column for column in columns if pa.types.is_timestamp(column.type)]
    if len(stamps) == 1:
        return stamps[0]
    raise NoTimeColumnError(
        f"{source} has no column with the name of a time column, such as {', '.join(TIME_NAMES[:4])}; it has "
        f"{', '.join(repr(c.raw[:_SHOWN]) for c in columns[:12])}. Rename the column, or name it by time= (--time)."
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


def first_text(cells: pa.ChunkedArray, decimal: str) -> str:
    """Return the first cell that is not a number, else the first cell; empty if all cells are empty."""
    filled = cells.drop_null()
    some = (str(cell) for cell in filled if not is_number(str(cell), decimal))
    return next(some, next((str(cell) for cell in filled[:1]), ""))


class Reading(NamedTuple):
    """What the stamps of a clock mean."""

    meaning: str  # in words
    per_second: float  # how many of their units are a second
    absolute: bool = True  # whether they are points in time; otherwise they count from the recording's start
    period_s: float = 0.0  # after which a clock without dates begins again; 0 for others
    convert: Callable[[np.ndarray], np.ndarray] = lambda stamps: stamps  # from another epoch or form


class Scale:
    """What the cells of a time column mean, judged by its first stamps; ``source`` names the column in errors.

    See `Reading` for ``meaning``, ``per_second``, ``absolute`` and ``period_s``. A row may be late by ``late_s``.
    """

    def __init__(self, first: pa.ChunkedArray, column: Column, source: str) -> None:
        self._column, self._source = column, source
        self._guess: int | None = None  # ``per_second`` by magnitude, if no unit is given
        self._read: Read | None = None  # of text that holds date-times or times of day
        if is_text(first.type):
            _refuse_unpadded(first.to_pandas(), source)
        first = first_stamps(self._as_numbers(first)) if is_text(first.type) else first
        found = self._of_cells(first)
        self.meaning, self.per_second, self.absolute, self.period_s, self._convert = found
        step = np.abs(np.diff(self.continued(self.stamps(first))[0])) / self.per_second
        self.late_s = max(LATE_S, _LATE_STEPS * float(np.median(step)) if len(step) else 0.0)

    def _of_cells(self, first: pa.ChunkedArray) -> Reading:
        kind = first.type
        if is_text(kind):
            found = reader_of(first.to_pandas(), self._column.unit, self._source)
            if found is None:
                self._refuse_text(first_text(first, self._column.decimal))
            self._read, period_s = found
            return Reading("times of day" if period_s else "date-times", PER_SECOND["ns"], not period_s, period_s)
        if pa.types.is_timestamp(kind):
            return Reading(str(kind), PER_SECOND[kind.unit])
        if pa.types.is_time(kind):
            return Reading(str(kind), PER_SECOND[kind.unit], period_s=DAY_S)
        if pa.types.is_duration(kind):
            return Reading(str(kind), PER_SECOND[kind.unit], absolute=False)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
            return self._of_numbers(first.to_numpy().astype(np.float64))
        raise ValueError(f"{self._source} holds {kind}; a time column needs seconds or date-times. Convert it.")

    def _of_numbers(self, first: np.ndarray) -> Reading:
        suffix = re.search(r"_(s|ms|us|ns)$", self._column.name.casefold())
        unit = time_unit(self._column.unit) or (suffix[1] if suffix else "")
        if unit not in ("", "d", _OF_DAY, *PER_SECOND):
            raise ValueError(
                f"{self._source} has the unit {unit!r}; units of time are {', '.join(PER_SECOND)}, d and {_OF_DAY}. "
                f"Give its unit by time= (--time) {self._named('ms')}."
            )
        if unit == _OF_DAY:
            return Reading("times of day (hhmmss)", 1, False, DAY_S, _of_day)
        self._typical = typical = float(np.median(first)) if len(first) else 0.0
        days, step = _epoch_of_days(typical), _usual_step(first)
        if not unit and days is not None and 0 < step < _QUICK_D:
            unit = "d"
        if unit == "d" and days is not None:
            return Reading(_DAYS[days], 1, convert=lambda stamps: np.round((stamps - days) * DAY_S, 6))
        if not unit and _LABVIEW_FROM_S <= typical < FUTURE_S and 0 < step < 10:
            return Reading("seconds since 1904", 1, convert=_since(_LABVIEW_S))
        for zero, ticks in _WINDOWS.items():
            if not unit and 0 <= typical - zero < FUTURE_S * 1e7:
                return Reading(ticks, 10**7, convert=_since(zero))
        if unit:
            per_second = 1 / DAY_S if unit == "d" else PER_SECOND[unit]
        else:
            self._guess = _magnitude(typical)
            per_second = self._guess or 1
            self._refuse_unlikely(first, step, per_second)
        counted = next((word for n, word in _UNITS.items() if np.isclose(n, per_second, rtol=1e-9)), "")
        absolute = typical / per_second >= UNIX_FROM_S
        return Reading(f"unix time in {counted}" if absolute else counted, per_second, absolute)

    def _refuse_unlikely(self, first: np.ndarray, step: float, per_second: float) -> None:
        """Refuse stamps without a unit if their size and their usual step tell of another unit."""
        self._refuse_of_day(first)
        typical_s, step_s = self._typical / per_second, step / per_second
        unix = typical_s >= UNIX_FROM_S
        longest = 10.0 if not unix else 60.0 if typical_s >= _RECENT_S else 2.0
        regular = step_s % 60 == 0 and (DAY_S % step_s == 0 if 0 < step_s < DAY_S else step_s % DAY_S == 0)
        days = not unix and _epoch_of_days(self._typical) is not None and 0 < step < 1e-3
        early = self._guess not in (None, 0, 1) and typical_s < _RECENT_S
        if typical_s < FUTURE_S and (step_s < longest or regular) and not days and not early:
            return
        likely = next((unit for unit in ("s", "ms", "us", "ns") if 0 < step / PER_SECOND[unit] < 10), "us")
        likely = "d" if days else likely
        word = _UNITS[per_second]
        raise UnitError(
            f"{self._source} gives no unit of time. Its stamps are around {self._typical:.12g} with usual steps of "
            f"{step:g}, which as {'unix time in ' if unix else ''}{word} would be {step_s:g} s. Pass time= (--time) "
            f"{self._named(likely)} if they are {'days' if days else _UNITS[int(PER_SECOND[likely])]}, "
            f"{self._named(_short(per_second))} if they are {word}."
        )

    def _refuse_of_day(self, first: np.ndarray) -> None:
        """Refuse stamps that jump by 40 at each full minute: they may be times of day, 100059 and then 100100."""
        if not len(first) or not (first.min() >= 100 and first.max() < 240_000):
            return
        whole = (first % 100 < 60) & (first // 100 % 100 < 60)
        if whole.all() and np.abs(np.diff(first)).max(initial=0) >= 40 > 4 * np.abs(np.diff(_of_day(first))).max():
            raise UnitError(
                f"{self._source} gives no unit of time. Its stamps are around {self._typical:.12g} and jump by 40 at "
                f"full minutes, as times of day such as 100059 and 100100 do. Pass time= (--time) "
                f"{self._named(_OF_DAY)} if they are, {self._named('s')} if they are seconds."
            )

    def _named(self, unit: str) -> str:
        return f"'{self._column.name} [{unit}]'"

    def _as_numbers(self, cells: pa.ChunkedArray) -> pa.ChunkedArray:
        return numbers_in_text(cells, decimal=self._column.decimal, missing=self._column.missing)

    def numbers(self, cells: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return text as numbers if the first stamps were numbers; other cells as they are."""
        if self._read is not None or not is_text(cells.type):
            return cells
        numbers = self._as_numbers(cells)
        if is_text(numbers.type):
            self._refuse_text(first_text(cells, self._column.decimal))
        return numbers

    def stamps(self, cells: pa.ChunkedArray) -> np.ndarray:
        """Return cells, none of them missing, as numbers: int64, or float64 for decimals."""
        kind = cells.type
        if self._read is not None:
            return self._stamps_of_text(cells.to_pandas())
        if pa.types.is_floating(kind):
            stamps = cells.cast(pa.float64()).to_numpy()
        else:
            stamps = (cells.cast(pa.int32()) if pa.types.is_time32(kind) else cells).cast(pa.int64()).to_numpy()
        if self._guess is not None and len(stamps) and _magnitude(float(stamps.max())) > self._guess:
            raise ValueError(
                f"{self._source} begins with stamps around {self._typical:g} and goes on up to {stamps.max():g}, not "
                f"in one unit. Give its unit by time= (--time) {self._named('ms')}."
            )
        return self._convert(stamps)

    def continued(self, stamps: np.ndarray, turns: Turns = _NO_TURNS) -> tuple[np.ndarray, Turns]:
        """Return stamps of a clock that begins again, as at midnight, as those of one that goes on.

        ``turns`` are those of the stamps before. A late row may go back over a turn.
        """
        period = self.period_s * self.per_second
        if not period or not len(stamps):
            return stamps, turns
        steps = np.diff(stamps, prepend=stamps[0] if turns.last is None else turns.last)
        turn, number = np.zeros(len(stamps), dtype=np.int64), turns.number
        for at in np.flatnonzero(np.abs(steps) > _NEARLY * period):
            if steps[at] < 0 <= stamps[at] and stamps[at] - steps[at] < period:
                turn[at] = 1
            elif steps[at] > 0 and number:
                turn[at] = -1
            number += int(turn[at])
        return stamps + (turns.number + np.cumsum(turn)) * stamps.dtype.type(period), Turns(number, stamps[-1])

    def _stamps_of_text(self, cells: pd.Series) -> np.ndarray:
        """Return date-times, or times of day, in nanoseconds."""
        if self._read is None or not len(cells):
            return np.empty(0, dtype=np.int64)
        stamps = self._read(cells)
        unread = stamps.isna()
        if unread.any():
            self._refuse_text(cells[unread].iloc[0])
        try:
            return stamps.dt.as_unit("ns").astype(np.int64).to_numpy()
        except pd.errors.OutOfBoundsDatetime:  # before 1678 or after 2262
            self._refuse_text(cells[(stamps.dt.year < 1700) | (stamps.dt.year > 2200)].iloc[0])

    def _refuse_text(self, text: str) -> NoReturn:
        missing = f"pass na= (--na) {text!r} if it says that the stamp is missing, " if len(text) <= _SHOWN else ""
        raise ValueError(
            f"{self._source} holds the text {text[:_SHOWN]!r}; a time column needs seconds or date-times in one form, "
            f"such as 2026-05-01T10:00:00.2. Repair the cell, {missing}or name another column by time= (--time)."
        )


def _refuse_unpadded(cells: pd.Series, source: str) -> None:
    """Refuse fractions of a second that are counts without leading zeros: after ``:50.50`` comes ``:50.100``.

    A late row looks alike, but decimal fractions of several lengths begin with zeros, and do not end with them.
    """
    parts = cells.str.extract(_FRACTION).dropna()
    parts = parts[parts[1].str.len() < _DIGITS]
    same = (parts[0] == parts[0].shift())[1:].to_numpy()
    counts, fractions = parts[1].astype(np.int64).to_numpy(), ("0." + parts[1]).astype(float).to_numpy()
    back = same & (np.diff(fractions) < 0)
    decimals = parts[1].str.match("0.").any() or not parts[1].str.match(".+0$").any()
    if back.any() and not decimals and (np.diff(counts)[same] >= 0).all():
        first, then = cells[parts.index[back.argmax() : back.argmax() + 2]]
        raise ValueError(
            f"{source} holds the stamp {first!r}, and then {then!r}. Their last digits may be a count without leading "
            "zeros, expected a decimal fraction, such as .050 for 50 milliseconds. Write all of its digits."
        )


def _of_day(stamps: np.ndarray) -> np.ndarray:
    """Return times of day, written as hhmmss.ss, in seconds."""
    stamps = stamps.astype(np.float64)
    return np.round(stamps // 10_000 * 3600 + stamps // 100 % 100 * 60 + stamps % 100, 6)


def _since(zero: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the conversion of stamps of another epoch, in which 1970 is ``zero``."""
    return lambda stamps: stamps - zero


def _epoch_of_days(typical: float) -> float | None:
    """Return 1970 in the days that such a stamp counts, if it may be one of recent years."""
    return next((zero for zero in _DAYS if _RECENT_D[0] <= typical - zero < _RECENT_D[1]), None)


def _usual_step(stamps: np.ndarray) -> float:
    """Return the median step between stamps that differ; 0 if none do."""
    steps = np.abs(np.diff(stamps))
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 0.0


def _short(per_second: float) -> str:
    return next(unit for unit, n in PER_SECOND.items() if n == per_second)


def _magnitude(typical: float) -> int:
    """Return ``per_second`` of a unix time of this size; 0 if it is too small for a unix time."""
    return next((n for n in (10**9, 10**6, 10**3, 1) if typical / n >= UNIX_FROM_S), 0)

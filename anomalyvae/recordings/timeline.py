"""Rows in the order of a file become samples in order of time.

The rules are in :mod:`anomalyvae.recordings.tabular`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from anomalyvae.recordings.date_times import DAY_S
from anomalyvae.recordings.log import moment
from anomalyvae.recordings.sampling import SAME_S
from anomalyvae.recordings.stamps import FUTURE_S, UNIX_FROM_S, Column, Scale, Turns, stamped

_YEAR_S = 365 * DAY_S  # no recording pauses for so long
_ROUNDING = 1e-12  # relative: the mean of equal values may differ by that much from them


class JumpBackError(ValueError):
    """The clock jumps back at ``row`` of the rows to be added; none of them has been added."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


class Timeline:
    """Rows in the order of the file become samples in order of time, piece by piece.

    The samples have the same bits in however many pieces the rows come. A sample is returned once no row as old may
    follow; until then it waits, so ``late_s`` of samples wait at most. With ``prompt``, every sample is returned at
    once, and rows that are not newer than all before them are left out and counted in ``left_out``.

    ``first`` are the first stamps of the recording; ``source`` names their column in errors.
    """

    def __init__(self, first: pa.ChunkedArray, column: Column, source: str, *, prompt: bool = False) -> None:
        self._scale, self._source, self._prompt = Scale(first, column, source), source, prompt
        self._rows = self._stamped = self.left_out = 0
        self.unstamped = 0  # rows with values, but without a stamp; they are left out
        self.averaged = self._samples = 0  # samples of rows with different values, and all samples
        self._turns = Turns(0, None)
        self._leap: tuple[int, float] | None = None  # after how many rows the clock was set, and by how many seconds
        self._origin: float | None = None  # the first stamp
        self._newest: np.ndarray = np.empty(0, dtype=np.int64)  # of all stamps so far
        self._waiting: _Samples | None = None

    @property
    def clock(self) -> str:
        """How stamps were read, in words: "column 'time' in milliseconds"."""
        return f"{self._source.split(' of ')[0]} in {self._scale.meaning}"

    @property
    def start(self) -> pd.Timestamp | None:
        """The moment (UTC) of the first sample; None if the stamps do not give it."""
        per_second = self._scale.per_second
        if not self._scale.absolute or self._origin is None:
            return None
        if not UNIX_FROM_S <= self._origin / per_second < FUTURE_S:
            return None  # a time of day, a clock that was never set, or days of an unknown epoch
        return moment(self._origin / per_second)

    def add(self, cells: pa.ChunkedArray, columns: list[np.ndarray], *, last: bool) -> tuple[np.ndarray, np.ndarray]:
        """Take the next rows, and return the samples that are complete.

        ``cells`` are the n stamps of the rows, ``columns`` arrays of n values, NaN for an empty cell. What is returned
        has m samples: strictly increasing times in seconds, later than all before, and the columns, (columns, m).
        Raises JumpBackError if the clock jumps back, ValueError if a stamp cannot be read or no row had one.
        """
        count = len(cells)
        cells = self._scale.numbers(cells)
        mask = stamped(cells)
        rows = np.arange(count) if mask is None else np.flatnonzero(mask.to_numpy())
        unstamped = 0
        if mask is not None:
            filled = [~np.isnan(values) for values in columns]
            unstamped = int(np.any(filled, axis=0, where=~mask.to_numpy()).sum()) if filled else 0
            cells, columns = cells.filter(mask), [values[rows] for values in columns]
        stamps, turns = self._scale.continued(self._scale.stamps(cells), self._turns)
        newer = self._newer(stamps, rows)
        self._turns = turns
        self._rows += count
        self.unstamped += unstamped
        self._stamped += len(stamps)
        if self._prompt and not newer.all():
            self.left_out += int(np.sum(~newer))
            stamps, columns = stamps[newer], [values[newer] for values in columns]
        if last and self._rows and not self._stamped:
            raise ValueError(
                f"{self._source} is empty; each row needs a time stamp. Repair the file, or name another column by "
                f"time= (--time)."
            )
        samples = _Samples.of_rows(stamps, columns)
        samples = (samples if self._waiting is None else self._waiting.followed_by(samples)).in_order()
        complete = len(samples.stamps)
        if complete and not (last or self._prompt):
            complete = int(np.sum((self._newest - samples.stamps) / self._scale.per_second > self._scale.late_s))
        self._waiting = samples.part(slice(complete, None))
        self.averaged += int(samples.differ[:complete].sum())
        self._samples += complete
        return self._seconds(samples.stamps[:complete]), samples.part(slice(complete)).means()

    def remarks(self) -> Iterator[str]:
        """Yield the text of each warning: rows left out, rows averaged, a clock that is set or begins again."""
        if self.unstamped:
            yield (
                f"{self.unstamped:,} rows have values but no stamp in {self._source}, and are left out. Fill in their "
                "stamps, or name another column by time= (--time)."
            )
        if self.averaged:
            yield (
                f"{self.averaged:,} of {self._samples:,} stamps in {self._source} are shared by rows with different "
                "values of a signal, and their mean is used. Export stamps with more digits, or name another column by "
                "time= (--time)."
            )
        if self._leap is not None:
            row, leap_s = self._leap
            yield (
                f"The clock in {self._source} leaps ahead by {leap_s / DAY_S:,.0f} days after {row:,} rows, as if it "
                "was set then, and times count from the first row. Leave out the rows with the wrong time."
            )
        turns = self._turns.number
        if turns:
            times, whole = "time" if turns == 1 else "times", "day" if self._scale.period_s == DAY_S else "hour"
            yield (
                f"The clock in {self._source} begins again {turns:,} {times}; the rows after it count as of the next "
                f"{whole}. If they are not, split the file there; otherwise write stamps with a date."
            )

    def _newer(self, stamps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return which stamps are newer than all before them; raise an error if the clock jumps back."""
        if not len(stamps):
            return np.ones(0, dtype=bool)
        so_far = np.concatenate((self._newest, stamps))
        step_s = np.diff(so_far) / self._scale.per_second
        if self._leap is None and step_s.max(initial=0.0) > _YEAR_S:
            later = int(np.argmax(step_s > _YEAR_S))
            self._leap = self._stamped + later + 1 - len(self._newest), float(step_s[later])
        if (step_s > 2 * SAME_S).all():
            self._newest = so_far[-1:]
            return np.ones(len(stamps), dtype=bool)
        newest = np.maximum.accumulate(so_far)
        back_s = (newest - so_far)[len(self._newest) :] / self._scale.per_second
        if back_s.max() > self._scale.late_s:
            row = int(np.argmax(back_s > self._scale.late_s))
            no_date = self._scale.period_s == DAY_S < 3 * back_s[row]
            wrapped = 2**31 < back_s[row] * self._scale.per_second <= 2**32
            raise JumpBackError(
                f"The clock in {self._source} jumps back by {back_s[row]:g} s after {self._stamped + row} rows; a "
                f"recording is in order of time. Split the file there, or sort its rows if they were shuffled."
                + (" It may be a counter of 32 bits that began again at zero." if wrapped else "")
                + (" If it passes noon or midnight, write its stamps with a date." if no_date else ""),
                int(rows[row]),
            )
        newer = (so_far[1:] - newest[:-1]) / self._scale.per_second > 2 * SAME_S
        newer = newer if len(self._newest) else np.concatenate(([True], newer))
        self._newest = newest[-1:]
        return newer

    def _seconds(self, stamps: np.ndarray) -> np.ndarray:
        if self._origin is None and len(stamps):
            self._origin = stamps[0]
        if not self._scale.absolute or not len(stamps):
            return stamps / self._scale.per_second
        # Integers are subtracted as integers; a float64 unix time is good to a quarter of a microsecond.
        time_s = (stamps - self._origin) / self._scale.per_second
        return np.round(time_s, 6) if stamps.dtype == np.float64 else time_s


class _Samples(NamedTuple):
    """Rows by stamp: of each column, the sum of the cells at a stamp, and how many they are.

    ``differ`` are the stamps at which rows have different values in a column.
    """

    stamps: np.ndarray  # (n,)
    differ: np.ndarray  # (n,)
    sums: np.ndarray  # (columns, n)
    counts: np.ndarray  # (columns, n)

    @classmethod
    def of_rows(cls, stamps: np.ndarray, columns: list[np.ndarray]) -> _Samples:
        cells = np.array(columns, dtype=np.float64).reshape(len(columns), len(stamps))
        return cls(stamps, np.zeros(len(stamps), dtype=bool), cells, (~np.isnan(cells)).astype(np.float64))

    def part(self, rows: slice | np.ndarray) -> _Samples:
        return _Samples(*(field[..., rows] for field in self))

    def followed_by(self, more: _Samples) -> _Samples:
        return _Samples(*(np.concatenate(pair, axis=-1) for pair in zip(self, more, strict=True)))

    def in_order(self) -> _Samples:
        """Sort by stamp, and add up rows with the same stamp."""
        stamps = self.stamps
        if (stamps[1:] > stamps[:-1]).all():
            return self
        if (stamps[1:] < stamps[:-1]).any():
            return self.part(np.argsort(stamps, kind="stable")).in_order()
        begins = np.concatenate(([True], stamps[1:] > stamps[:-1]))
        group, first = np.cumsum(begins) - 1, np.flatnonzero(begins)
        means, counts = self.means(), np.add.reduceat(self.counts, first, axis=1)
        sums = np.full(counts.shape, -0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            # One by one, from the neutral -0.0, so that sums do not depend on where pieces end.
            np.add.at(sums.T, group, np.where(self.counts > 0, self.sums, -0.0).T)
            low, high = np.fmin.reduceat(means, first, axis=1), np.fmax.reduceat(means, first, axis=1)
            unlike = high - low > _ROUNDING * np.maximum(np.abs(low), np.abs(high))
        differ = np.logical_or.reduceat(self.differ, first) | unlike.any(axis=0)
        return _Samples(stamps[begins], differ, sums, counts)

    def means(self) -> np.ndarray:
        """The mean of each column at each stamp, (columns, n); NaN without a cell."""
        return np.divide(self.sums, self.counts, out=np.full(self.sums.shape, np.nan), where=self.counts > 0)

"""Windows of a CSV recording while it is being written, each as soon as it is known."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from typing import Unpack

import pandas as pd
import pyarrow as pa

from anomalyvae.options import TABLE_OPTIONS, ReadOptions, given
from anomalyvae.recordings.clock import Resampler
from anomalyvae.recordings.columns import choose_columns, read_numbers, refuse_coarse, with_numbers
from anomalyvae.recordings.coverage import Coverage
from anomalyvae.recordings.log import UNIT_KEY, Signal, not_numbers
from anomalyvae.recordings.long_form import long_columns
from anomalyvae.recordings.stamps import UnitError, first_stamps
from anomalyvae.recordings.tabular import ROWS
from anomalyvae.recordings.timeline import JumpBackError, Timeline
from anomalyvae.recordings.windows import Cutter, WindowRecipe, Windows
from anomalyvae.tables.cells import MISSING_TEXT, text_of
from anomalyvae.tables.dialect import find_dialect, is_no_row, with_decimal
from anomalyvae.tables.layout import NoTableError

_FIRST_STAMPS = 2  # the fewest that show the usual step
_MORE_STAMPS = 8  # that show it well enough to refuse a clock
_FIRST_ROWS = 100  # that show whether stamps are too coarse


def numbered(name: str, number: int) -> str:
    """The name of a recording by its number among those of a growing file, as ``drive`` and then ``drive#2``."""
    return name if number == 1 else f"{name}#{number}"


class LiveWindows:
    """Turns the lines of a CSV file into windows while they are written.

    The windows have the same bits in however many pieces the lines come. They are those of `stream_windows` on the
    finished file if no row comes late or repeats a stamp.

    The delay is constant. If the signals are interpolated, a window is known with the line that completes it; if they
    are averaged, with the first line a tick later. When a recording begins, averaging also waits for the 16 ticks over
    which rates are measured. A signal with a missing cell is waited for, for ``max_gap_s`` at most.

    If the clock jumps back, as after a restart of the logger, another recording begins: ``drive#2``.

    Parameters
    ----------
    header : bytes
        The first line, the columns' names, or more lines: those that :mod:`anomalyvae.tables.dialect` reads.
    recipe : WindowRecipe
        How the recording becomes rows.
    recording, source : str
        Its name, and how errors name the origin of the lines.
    before : int, default=0
        How many recordings of that name came before.
    late : bool, default=False
        Wait for late rows, as far as :mod:`anomalyvae.recordings.tabular` allows them: a second or three usual steps.
        Windows are then those of the finished file in any order of its rows, and later by that time.
    **options
        How lines are read: see `anomalyvae.options.ReadOptions`.

    Attributes
    ----------
    units : dict of str to str
        Units of the signals, as far as the header gives them.
    recording, recordings : str, int
        Name of the current recording, and how many have begun, those before included.
    complaint : str
        Why the last of the rows left out was left out.
    coverage : Coverage
        What the current recording holds of the signals.
    """

    def __init__(
        self,
        header: bytes,
        recipe: WindowRecipe,
        *,
        recording: str,
        source: str,
        before: int = 0,
        late: bool = False,
        **options: Unpack[ReadOptions],
    ) -> None:
        self._recipe, self._name, self._source, self._late = recipe, recording, source, late
        self._options = given(options, TABLE_OPTIONS)
        self._lines = header if header.endswith(b"\n") else header + b"\n"  # the head, and rows to come after it
        self.recordings = before
        self.complaint = "it came late, repeated or lacked a stamp, or had more or fewer cells than the header."
        self._left_out = 0  # rows that cannot be read, and late rows of earlier recordings
        self._timeline: Timeline | None = None
        self._open()
        self._begin()

    def _open(self) -> None:
        """Find how the lines are written; keep those that come after the head."""
        options = dict(self._options)
        time, exclude, na = (options.pop(name, None) for name in ("time", "exclude", "na"))
        self._dialect = dialect = find_dialect(self._lines, self._source, **options)
        fields = zip(dialect.names, dialect.units, strict=True)
        schema = pa.schema([pa.field(name, pa.string(), metadata={UNIT_KEY: unit}) for name, unit in fields])
        if long_columns(schema, time, exclude or ()) and not set(self._recipe.needed) <= set(dialect.names):
            raise ValueError(
                f"{self._source} has one value per row ({', '.join(dialect.names)}), which cannot be followed line by "
                "line. Write a column for each signal, or score the whole file (anomalyvae score)."
            )
        self._columns = choose_columns(
            schema, self._source, time, self._recipe.needed, exclude or (), dialect.decimal, tuple(na or ())
        )
        self._indices = [dialect.names.index(name) for name in self._columns.raw]
        self.units: dict[str, str] = {column.name: column.unit for column in self._columns.signals if column.unit}
        if dialect.complete:
            self._lines = self._lines[dialect.begin :]

    @property
    def start(self) -> pd.Timestamp | None:
        """The moment (UTC) from which the times of the current recording count; None if it does not say."""
        return None if self._timeline is None else self._timeline.start

    @property
    def left_out(self) -> int:
        """How many rows were left out: late ones, those without a stamp, and rows that cannot be read."""
        timeline = self._timeline
        return self._left_out + (0 if timeline is None else timeline.left_out + timeline.unstamped)

    @property
    def averaged(self) -> int:
        """How many samples of the current recording are the mean of rows with one stamp and different values."""
        return 0 if self._timeline is None else self._timeline.averaged

    def add(self, lines: bytes) -> Iterator[Windows]:
        """Take the next lines, complete ones, and yield the windows that they complete."""
        self._lines += lines
        if not self._dialect.complete:
            try:
                self._open()
            except NoTableError:  # a torn row
                return
            self._cutter = Cutter(self._recipe, self.recording, self.units, ROWS)
        if self._dialect.complete:
            lines, self._lines = self._lines, b""
            yield from self._take([self._table(lines)])

    def end(self) -> Iterator[Windows]:
        """Yield the windows that waited for more lines."""
        if self._timeline is None:
            yield from self._take(self._started(self._table(b""), enough=1))
        if self._timeline is not None:
            yield from self._cut(self._samples(self._timeline, self._table(b""), last=True), last=True)

    def _take(self, tables: list[pa.Table]) -> Iterator[Windows]:
        """Take rows, the next last; those that cannot be read are left out."""
        while tables:
            table = tables.pop()
            if not len(table):
                continue
            if self._timeline is None:
                tables += self._started(table)
                continue
            try:
                piece = self._samples(self._timeline, table)
            except JumpBackError as jump:
                if jump.row:
                    tables += [table[jump.row :], table[: jump.row]]
                else:
                    yield from self.end()
                    self._begin()
                    tables.append(table)
            except ValueError as error:  # find the row that cannot be read by halving
                half = len(table) // 2
                tables += [table[half:], table[:half]] if half else []
                if not half:
                    self._left_out, self.complaint = self._left_out + 1, str(error)
            else:
                self._refuse_coarse(table)
                yield from self._cut(piece)

    def _begin(self) -> None:
        """Begin a recording."""
        self.recordings += 1
        self.recording = numbered(self._name, self.recordings)
        self._left_out = self.left_out
        self._timeline = None
        self._first: list[pa.Table] = []  # rows, until there are enough stamps
        self._seen: list[pa.Table] = []  # the first rows
        self._resampler = Resampler(self._recipe.needed, self._recipe.clock, ROWS, prompt=not self._late)
        self._cutter = Cutter(self._recipe, self.recording, self.units, ROWS)
        self.coverage = Coverage(self._recipe)

    def _table(self, lines: bytes) -> pa.Table:
        """Return complete lines as an Arrow table of text.

        Arrow's own reader passes each piece to a thread, which takes longer than reading a line.
        """
        text = (line.rstrip("\r") for line in text_of(lines).split("\n"))
        names = list(self._dialect.names)
        rows = [cells for line in text if not is_no_row(cells := self._cells(line), names)]
        complete = [row for row in rows if len(row) == len(names)]
        self._left_out += len(rows) - len(complete)
        if not self._dialect.decimal:
            self._find_decimal(complete)
        columns = [[None if row[at] in MISSING_TEXT else row[at] for row in complete] for at in self._indices]
        return pa.table([pa.array(cells, pa.string()) for cells in columns], self._columns.raw)

    def _find_decimal(self, rows: list[list[str]]) -> None:
        try:
            self._dialect = with_decimal(self._dialect, rows, self._source)
        except ValueError:  # such cells are no numbers
            return
        stamp, *signals = (
            c._replace(decimal=self._dialect.decimal) for c in (self._columns.stamp, *self._columns.signals)
        )
        self._columns = self._columns._replace(stamp=stamp, signals=signals)

    def _cells(self, line: str) -> list[str]:
        if '"' not in line:
            return line.split(self._dialect.separator)
        try:
            return next(csv.reader([line], delimiter=self._dialect.separator))  # an open quote ends with its line
        except csv.Error:  # a carriage return within a cell, or a cell of 128 KB
            return [line]

    def _started(self, table: pa.Table, enough: int = _FIRST_STAMPS) -> list[pa.Table]:
        """Start the timeline if there are enough stamps; return the rows so far, the next last."""
        stamp = self._columns.stamp
        if len(first_stamps(table[stamp.raw])):
            self._first.append(table)
        stamps = [first_stamps(part[stamp.raw]) for part in self._first]
        count = sum(map(len, stamps))
        if count < enough:
            return []
        first = pa.chunked_array([chunk for part in stamps for chunk in part.chunks], pa.string())
        try:
            self._timeline = Timeline(first[:_FIRST_STAMPS], stamp, self._columns.time, prompt=not self._late)
        except UnitError:
            if count < _MORE_STAMPS and enough > 1:
                return []
            self._timeline = Timeline(first[:_MORE_STAMPS], stamp, self._columns.time, prompt=not self._late)
        held, self._first = self._first[::-1], []
        return held

    def _samples(self, timeline: Timeline, table: pa.Table, *, last: bool = False) -> dict[str, Signal]:
        left_out: dict[str, str] = {}
        signals = self._columns.signals
        values = read_numbers(with_numbers(table, self._columns), signals, left_out)
        for name, reason in left_out.items():
            raise not_numbers(name, self.recording, reason)
        time_s, samples = timeline.add(table[self._columns.stamp.raw], values, last=last)
        found = {column.name: Signal(column.name, time_s, x) for column, x in zip(signals, samples, strict=True)}
        self.coverage.count(found, timeline.clock)
        return found

    def _refuse_coarse(self, table: pa.Table) -> None:
        """Refuse stamps that several of the first rows share."""
        count = sum(map(len, self._seen))
        if count < _FIRST_ROWS:
            self._seen.append(table)
            if count + len(table) >= _FIRST_ROWS:
                refuse_coarse(self._seen, self._columns)

    def _cut(self, piece: dict[str, Signal], *, last: bool = False) -> Iterator[Windows]:
        for ticks in self._resampler.add(piece, last=last):
            for windows in self._cutter.add(ticks):
                yield replace(windows, starts={} if self.start is None else {self.recording: self.start})

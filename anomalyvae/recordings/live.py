"""Windows of a CSV recording while it is being written, each as soon as it is known."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import pyarrow as pa

from anomalyvae.recordings.clock import Resampler
from anomalyvae.recordings.log import Signal, not_numbers
from anomalyvae.recordings.stamps import first_stamps
from anomalyvae.recordings.tabular import ROWS, choose, read_header, read_numbers, with_numbers
from anomalyvae.recordings.timeline import JumpBackError, Timeline
from anomalyvae.recordings.windows import Cutter, WindowRecipe, Windows

_FIRST_STAMPS = 2  # the fewest that show the usual step


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
        The first line: the columns' names.
    recipe : WindowRecipe
        How the recording becomes rows.
    recording, source : str
        Its name, and how errors name the origin of the lines.
    before : int, default=0
        How many recordings of that name came before.
    late : bool, default=False
        Wait for late rows, as far as :mod:`anomalyvae.recordings.tabular` allows them: a second or three usual steps.
        Windows are then those of the finished file in any order of its rows, and later by that time.

    Attributes
    ----------
    units : dict of str to str
        Units of the signals, as far as the header gives them.
    recording, recordings : str, int
        Name of the current recording, and how many have begun, those before included.
    complaint : str
        Why the last of the rows left out was left out.
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
    ) -> None:
        from pyarrow import csv as arrow_csv

        self._missing = set(arrow_csv.ConvertOptions().null_values)
        names, self._delimiter, self._encoding = read_header(header, source)
        schema = pa.schema([(name, pa.string()) for name in names])
        self._columns = choose(schema, source, None, recipe.needed)
        self._width, self._places = len(names), [names.index(name) for name in self._columns.raw]
        self._recipe, self._name, self._late = recipe, recording, late
        self.units = {column.name: column.unit for column in self._columns.signals if column.unit}
        self.recordings = before
        self.complaint = "it came late, repeated a stamp, or had more or fewer cells than the header."
        self._left_out = 0  # rows that cannot be read, and late rows of earlier recordings
        self._timeline: Timeline | None = None
        self._begin()

    @property
    def left_out(self) -> int:
        """How many rows were left out: late ones, and rows that cannot be read."""
        return self._left_out + (0 if self._timeline is None else self._timeline.left_out)

    def add(self, lines: bytes) -> Iterator[Windows]:
        """Take the next lines, complete ones, and yield the windows that they complete."""
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
                yield from self._cut(piece)

    def _begin(self) -> None:
        """Begin a recording."""
        self.recordings += 1
        self.recording = self._name if self.recordings == 1 else f"{self._name}#{self.recordings}"
        self._left_out = self.left_out
        self._timeline = None
        self._first: list[pa.Table] = []  # rows, until there are enough stamps
        self._resampler = Resampler(self._recipe.needed, self._recipe.clock, ROWS, prompt=not self._late)
        self._cutter = Cutter(self._recipe, self.recording, self.units, ROWS)

    def _table(self, lines: bytes) -> pa.Table:
        """Return complete lines as an Arrow table of text.

        Arrow's own reader passes each piece to a thread, which takes longer than reading a line.
        """
        missing = self._missing
        text = (line.rstrip("\r") for line in lines.decode(self._encoding, "replace").split("\n"))
        rows = [self._cells(line) for line in text if line]
        complete = [row for row in rows if len(row) == self._width]
        self._left_out += len(rows) - len(complete)
        columns = [[None if row[at] in missing else row[at] for row in complete] for at in self._places]
        return pa.table([pa.array(cells, pa.string()) for cells in columns], self._columns.raw)

    def _cells(self, line: str) -> list[str]:
        if '"' not in line:
            return line.split(self._delimiter)
        return next(csv.reader([line], delimiter=self._delimiter))  # a quote that is left open ends with its line

    def _started(self, table: pa.Table, enough: int = _FIRST_STAMPS) -> list[pa.Table]:
        """Start the timeline if there are enough stamps; return the rows so far, the next last."""
        stamp = self._columns.stamp
        if len(first_stamps(table[stamp.raw])):
            self._first.append(table)
        stamps = [first_stamps(part[stamp.raw]) for part in self._first]
        if sum(map(len, stamps)) < enough:
            return []
        first = pa.chunked_array([chunk for part in stamps for chunk in part.chunks], pa.string())[:_FIRST_STAMPS]
        self._timeline = Timeline(first, stamp, self._columns.time, prompt=not self._late)
        held, self._first = self._first[::-1], []
        return held

    def _samples(self, timeline: Timeline, table: pa.Table, *, last: bool = False) -> dict[str, Signal]:
        left_out: dict[str, str] = {}
        signals = self._columns.signals
        values = read_numbers(with_numbers(table, self._columns), signals, left_out)
        for name, reason in left_out.items():
            raise not_numbers(name, self.recording, reason)
        time_s, samples = timeline.add(table[self._columns.stamp.raw], values, last=last)
        return {column.name: Signal(column.name, time_s, x) for column, x in zip(signals, samples, strict=True)}

    def _cut(self, piece: dict[str, Signal], *, last: bool = False) -> Iterator[Windows]:
        for ticks in self._resampler.add(piece, last=last):
            yield from self._cutter.add(ticks)

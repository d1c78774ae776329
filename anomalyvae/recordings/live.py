"""Windows of a recording while it is being written, each as soon as it can be known."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from anomalyvae.recordings.clock import Resampler
from anomalyvae.recordings.cutting import Cutter
from anomalyvae.recordings.log import Signal
from anomalyvae.recordings.stamps import first_stamps
from anomalyvae.recordings.tabular import CsvLines, time_column, unsorted_log, with_numbers
from anomalyvae.recordings.timeline import JumpBackError, Timeline
from anomalyvae.recordings.windows import WindowRecipe, Windows

_TICKS = 65536  # put on the clock at once
_FIRST_STAMPS = 2  # the usual step is not known before


class LiveWindows:
    """Takes the lines of a CSV file as they are written, and gives its windows.

    In however many pieces the lines come, the windows are the same to the last bit; and they are those of
    `stream_windows` on the finished file, if no row comes late or with the stamp of another.

    The delay is constant. A window whose signals are interpolated is there with the line that completes it; where
    signals are averaged, with the first line a tick later. When a recording begins, averaging also waits for the 16
    ticks that tell whether there is something to average, and where a cell is missing its signal is waited for, for
    ``max_gap_s`` at most.

    Parameters
    ----------
    header : bytes
        The first line: the columns' names.
    recipe : WindowRecipe
        How the recording becomes rows.
    recording : str
        Its name. Where the clock jumps back, as after a restart of the logger, another recording begins: ``drive#2``.
    before : int, default=0
        How many recordings of that name there were before.
    source : str
        How errors name where the lines come from.
    late : bool, default=False
        Wait for rows that come late, as far as :mod:`anomalyvae.recordings.tabular` allows them to: a second or three
        usual steps. Windows are then those of the finished file whatever order its rows are in, and so much later.

    Attributes
    ----------
    units : dict of str to str
        Units of the signals, as far as the header tells them.
    recording : str
        The name of the one that goes on.
    recordings : int
        How many began so far, those before among them.
    complaint : str
        Why a row was left out, the last one.

    Raises
    ------
    ValueError
        There is no time column or a signal is missing.
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
        self._lines = CsvLines(header, source, recipe.needed)
        self._recipe, self._name, self._source, self._late = recipe, recording, source, late
        self.units = {column.name: column.unit for column in self._lines.columns if column.unit}
        self.units.pop(self._lines.stamp.name, None)
        self._nothing = self._lines.table(b"")
        self.recordings = before
        self.complaint = "it came late, or with the stamp of another, or with more or fewer cells than the header has."
        self._left_out = 0  # rows of recordings that are over, and such as cannot be read
        self._timeline: Timeline | None = None
        self._begin()

    @property
    def left_out(self) -> int:
        """How many rows were left out: late ones, and such as cannot be read."""
        late = 0 if self._timeline is None else self._timeline.left_out
        return self._left_out + self._lines.left_out + late

    def add(self, lines: bytes) -> Iterator[Windows]:
        """Take the next lines, whole ones, and yield the windows that are complete."""
        yield from self._take([self._lines.table(lines)])

    def end(self) -> Iterator[Windows]:
        """Yield what waited for more: there is none."""
        if self._timeline is None:
            yield from self._take(self._begun_by(self._nothing, enough=1))
        if self._timeline is not None:
            yield from self._cut(self._samples(self._timeline, self._nothing, last=True), last=True)

    def _take(self, tables: list[pa.Table]) -> Iterator[Windows]:
        """Take rows, of which the last table has the next; those that cannot be read are left out."""
        while tables:
            table = tables.pop()
            if not len(table):
                continue
            if self._timeline is None:
                tables += self._begun_by(table)
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
            except ValueError as error:
                half = len(table) // 2
                tables += [table[half:], table[:half]] if half else []
                if not half:
                    self._left_out, self.complaint = self._left_out + 1, str(error)
            else:
                yield from self._cut(piece)

    def _begin(self) -> None:
        self.recordings += 1
        self.recording = self._name if self.recordings == 1 else f"{self._name}#{self.recordings}"
        self._left_out = self.left_out - self._lines.left_out
        self._timeline = None
        self._first: list[pa.Table] = []  # until there are stamps enough
        self._resampler = Resampler(self._recipe.needed, self._recipe.clock, _TICKS, prompt=not self._late)
        self._cutter = Cutter(self._recipe)

    def _begun_by(self, table: pa.Table, enough: int = _FIRST_STAMPS) -> list[pa.Table]:
        """Return the rows that came so far, the next last, once their stamps tell what stamps mean."""
        stamp = self._lines.stamp
        if len(first_stamps(table[stamp.raw])):
            self._first.append(table)
        stamps = [first_stamps(part[stamp.raw]) for part in self._first]
        if sum(map(len, stamps)) < enough:
            return []
        first = pa.chunked_array([chunk for part in stamps for chunk in part.chunks], pa.string())[:_FIRST_STAMPS]
        self._timeline = Timeline(first, stamp, time_column(stamp, self._source), prompt=not self._late)
        held, self._first = self._first[::-1], []
        return held

    def _samples(self, timeline: Timeline, table: pa.Table, *, last: bool = False) -> dict[str, Signal]:
        stamp, names = self._lines.stamp, self._recipe.needed
        columns = self._lines.columns
        log = unsorted_log(with_numbers(table, stamp, columns), self.recording, stamp, columns)
        time_s, samples = timeline.add(table[stamp.raw], [log[name].values for name in names], last=last)
        return {name: Signal(name, time_s, values) for name, values in zip(names, samples, strict=True)}

    def _cut(self, piece: dict[str, Signal], *, last: bool = False) -> Iterator[Windows]:
        ticks = list(self._resampler.add(piece, last=last))
        if not ticks:
            return
        for slab in self._recipe.slabs(ticks, self.recording, self.units, _TICKS, self._cutter):
            if len(slab):
                yield slab

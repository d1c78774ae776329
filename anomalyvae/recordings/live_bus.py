"""Windows of a text log of a vehicle bus while it is being written, each as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from anomalyvae.recordings.bus.decode import Decoder
from anomalyvae.recordings.bus.frames import FRAME
from anomalyvae.recordings.bus.lines import PARSERS, Frame, as_array
from anomalyvae.recordings.clock import Resampler
from anomalyvae.recordings.coverage import Coverage
from anomalyvae.recordings.live import LiveWindows, numbered
from anomalyvae.recordings.log import Signal, moment
from anomalyvae.recordings.stamps import LATE_S, UNIX_FROM_S
from anomalyvae.recordings.windows import Cutter, WindowRecipe, Windows

GROWING = tuple(PARSERS)  # text logs; a pipe has the first
_ROWS = 1 << 15  # windows at once


class LiveBus:
    """Turns the lines of a text log into windows while they are written, as `LiveWindows` does with CSV.

    ``kind``, a suffix in `GROWING`, says how lines are written. The signals of the recipe need no database. Frames that
    come late are left out. If the clock jumps back by more than a second, another recording begins.
    """

    averaged = 0  # only rows of tables are counted

    def __init__(
        self, head: bytes, recipe: WindowRecipe, *, kind: str, recording: str, source: str, before: int = 0
    ) -> None:
        self._recipe, self._name, self._source = recipe, recording, source
        self._parser, self._head = PARSERS[kind](), head
        self.recordings, self.left_out = before, 0
        self.complaint = "it came late."
        self._waiting: list[Frame] = []  # with the newest stamp: more may come with it
        self._begin()

    def _begin(self) -> None:
        """Begin a recording."""
        self.recordings += 1
        self.recording = numbered(self._name, self.recordings)
        self._zero_s: float | None = None
        self._decoder = Decoder(None, self._recipe.needed, self._source)
        self._decoder.check([])
        self.units = {name: unit for name in self._recipe.needed if (unit := self._decoder.unit_of(name))}
        self._resampler = Resampler(self._recipe.needed, self._recipe.clock, _ROWS, prompt=True)
        self._cutter = Cutter(self._recipe, self.recording, self.units, _ROWS)
        self.coverage = Coverage(self._recipe)

    def add(self, lines: bytes) -> Iterator[Windows]:
        """Take the next lines, complete ones, and yield the windows that they complete."""
        lines, self._head = self._head + lines, b""
        ready: list[Frame] = []
        for line in lines.decode("utf-8", "replace").splitlines():
            try:
                frame = self._parser.frame(line)
            except ValueError as error:
                self.left_out, self.complaint = self.left_out + 1, str(error)
                continue
            if not isinstance(frame, tuple):
                continue
            newest_s = self._waiting[-1][0] if self._waiting else frame[0]
            if newest_s - frame[0] > LATE_S:
                yield from self._windows([*ready, *self._waiting])
                ready, self._waiting = [], []
                yield from self._cut({}, last=True)
                self._begin()
            elif frame[0] < newest_s:
                self.left_out, self.complaint = self.left_out + 1, "it came late."
                continue
            elif frame[0] > newest_s:
                ready, self._waiting = ready + self._waiting, []
            self._waiting.append(frame)
        yield from self._windows(ready)

    def end(self) -> Iterator[Windows]:
        """Yield the windows that waited for more lines."""
        frames, self._waiting = self._waiting, []
        yield from self._windows(frames)
        yield from self._cut({}, last=True)

    def _windows(self, ready: list[Frame]) -> Iterator[Windows]:
        frames = as_array(ready) if ready else np.zeros(0, dtype=FRAME)
        if not len(frames):
            return
        if self._zero_s is None:
            unix = not self._parser.start_s and frames["time_s"][0] >= UNIX_FROM_S
            self._zero_s = float(frames["time_s"][0]) if unix else 0.0
        if self._zero_s or self._parser.start_s:
            frames["time_s"] = np.round(frames["time_s"] - self._zero_s, 6)
        self._decoder.bus_names = self._parser.buses
        found = self._decoder.decode(frames)
        self.coverage.count(found)
        yield from self._cut(found)

    def _cut(self, signals: dict[str, Signal], *, last: bool = False) -> Iterator[Windows]:
        for ticks in self._resampler.add(signals, last=last):
            for windows in self._cutter.add(ticks):
                start_s = self._parser.start_s or self._zero_s
                start = moment(start_s) if start_s else None
                yield replace(windows, starts={} if start is None else {self.recording: start})


Live = LiveWindows | LiveBus  # a source of windows

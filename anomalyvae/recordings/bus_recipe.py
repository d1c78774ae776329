"""The windows of a vehicle bus without a database: which signals of its identifiers say something."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Unpack

import numpy as np

from anomalyvae.options import LIMITS, ReadOptions, given
from anomalyvae.recordings.bus.identifier_names import UNKNOWN
from anomalyvae.recordings.bus.identifiers import PER_S
from anomalyvae.recordings.guard import guarded
from anomalyvae.recordings.reading import bus_reader
from anomalyvae.recordings.windows import WindowRecipe

_RECIPE = WindowRecipe(
    (UNKNOWN,), float(PER_S), length_s=1.0, stride_s=0.5, max_gap_s=1.0, missing=0.99, coefficients=1
)
_REGULAR = 3.0  # times the shortest time between frames: an identifier with longer ones comes when something happens
_MARGIN = 0.15  # of the limits of that time
_FRAMES = 10  # of an identifier about which something can be learned
_FAST_S = 0.05  # between frames of an identifier whose jitter is seen in each sample
_ROOM = 0.25  # of the range of a byte, and of its largest change, beyond them
_HALF = 128  # no byte changes by more
_WIDE = 16  # range of a byte whose mean says more than whether it is inside
_SAMPLES = 20  # of a recording that are not missing, so that a window has them
_LOW, _HIGH = 32, 224  # a byte that goes from below to above these, and is in between for a time, has no level
_BETWEEN = 0.1  # of its samples
_STRETCHES = 48  # in which ranges are kept, an even number
_NEAR = 0.1  # of the range: a value so near the lowest or highest counts as one
_OWNER = re.compile(r"((?:.+\.)?0x[0-9A-F]+)\.(.+)")


def bus_recipe(files: Iterable[str | PathLike[str]], **options: Unpack[ReadOptions]) -> WindowRecipe:
    """Learn which signals of a vehicle bus without a database to watch, in windows of a second.

    A window has the mean of each signal in it. The signals are those of :mod:`anomalyvae.recordings.bus.identifiers`:

    - ``unknown.identifiers``;
    - of an identifier that comes irregularly, its ``frames`` a second and ``unlike`` for its length;
    - of an identifier that comes regularly, ``gap_outside`` (the times between its frames in these recordings, and 15 %
      more), ``jitter`` if it is fast, and ``unlike`` for its length and the bytes that are always the same;
    - of each of its other bytes ``change_above`` (the largest change, and a quarter more); and, if it has the same
      range in each third of the recordings, ``byte3_outside`` (its range, and a quarter more) and, if that is wide, its
      mean. A counter, a checksum or the low byte of a number, which runs through all values, has no range.

    Parameters
    ----------
    files : iterable of path-like
        Recordings of normal operation: CAN logs, or MF4 files with frames.
    **options
        How files are read: see `ReadOptions`; databases have no part in it.

    Returns
    -------
    WindowRecipe

    Raises
    ------
    ValueError
        A file is not a recording of a bus, or has no second of frames.
    """
    seen: dict[str, dict[str, _Seen]] = {}
    for file in files:
        empty = True
        path = Path(file)
        for log in guarded(bus_reader(path), path, identifiers=True, **given(options, LIMITS)):
            for name, signal in log.signals.items():
                if len(signal.time_s) and (found := _OWNER.fullmatch(name)):
                    empty = False
                    seen.setdefault(found[1], {}).setdefault(found[2], _Seen()).add(signal.values)
        if empty:
            raise ValueError(f"{file} has no second of frames of a vehicle bus. Check the file, or leave it out.")
    signals = [f"{owner}.{what}" for owner in sorted(seen) for what in _of_identifier(seen[owner])]
    return replace(_RECIPE, signals=(UNKNOWN, *signals))


class _Seen:
    """What the samples of a signal are: their range over stretches of time, and bits."""

    def __init__(self) -> None:
        self.count = self.most = self.between = 0  # samples that are not missing: in all, in a piece, in between
        self.total = 0.0
        self.every, self.any = 255, 0  # bits
        self._ranges: list[tuple[float, float]] = []
        self._stretch, self._left = 8, 0  # samples of a stretch, and how many the last one lacks

    def add(self, values: np.ndarray) -> None:
        """Take the next samples."""
        values = values[~np.isnan(values)]
        if not len(values):
            return
        self.count, self.most = self.count + len(values), max(self.most, len(values))
        self.total += float(values.sum())
        self.between += int(((values >= _LOW) & (values < _HIGH)).sum())
        whole = values.astype(np.int64)
        self.every &= int(np.bitwise_and.reduce(whole))
        self.any |= int(np.bitwise_or.reduce(whole))
        while len(values):
            if not self._left:
                if len(self._ranges) == _STRETCHES:
                    pairs = zip(self._ranges[::2], self._ranges[1::2], strict=True)
                    self._ranges = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in pairs]
                    self._stretch *= 2
                self._ranges.append((np.inf, -np.inf))
                self._left = self._stretch
            part, values = values[: self._left], values[self._left :]
            low, high = self._ranges[-1]
            self._ranges[-1] = (min(low, float(part.min())), max(high, float(part.max())))
            self._left -= len(part)

    @property
    def low(self) -> float:
        """The lowest sample; NaN without one."""
        return min((low for low, _ in self._ranges), default=np.nan)

    @property
    def high(self) -> float:
        """The highest sample; NaN without one."""
        return max((high for _, high in self._ranges), default=np.nan)

    @property
    def recurs(self) -> bool:
        """Whether each third of the time reaches the lowest values and the highest."""
        near = _NEAR * (self.high - self.low)
        thirds = [part for part in np.array_split(np.array(self._ranges), 3) if len(part)]
        return all(part[:, 0].min() <= self.low + near and part[:, 1].max() >= self.high - near for part in thirds)

    @property
    def runs_through(self) -> bool:
        """Whether the samples of a byte are below, above and in between."""
        return self.low < _LOW and self.high >= _HIGH and self.between > _BETWEEN * self.count


def _of_identifier(seen: Mapping[str, _Seen]) -> Iterator[str]:
    """Yield the signals of an identifier that say something."""
    frames = seen["frames"].total / PER_S
    shortest_s, longest_s = seen["shortest"].low, seen["longest"].high
    if frames < _FRAMES or longest_s > _REGULAR * shortest_s:
        yield "frames"
        if frames >= _FRAMES:
            yield f"unlike({_pattern(seen, constant=False)})"
        return
    yield f"gap_outside({shortest_s * (1 - _MARGIN):.3g}-{longest_s * (1 + _MARGIN):.3g})"
    if longest_s <= _FAST_S:
        yield "jitter"
    yield f"unlike({_pattern(seen, constant=True)})"
    byte = 0
    while f"byte{byte}" in seen:
        level, change = seen[f"byte{byte}"], seen[f"byte{byte}.change"]
        low, high = seen[f"least{byte}"].low, seen[f"largest{byte}"].high
        if low < high and level.most >= _SAMPLES and change.most:
            largest = change.high * (1 + _ROOM) + 1
            if largest < _HALF:
                yield f"byte{byte}.change_above({largest:.3g})"
            if level.recurs and not level.runs_through:
                room = _ROOM * (high - low) + 1
                yield f"byte{byte}_outside({max(low - room, 0):.3g}-{high + room:.3g})"
                if high - low >= _WIDE:
                    yield f"byte{byte}"
        byte += 1


def _pattern(seen: Mapping[str, _Seen], *, constant: bool) -> str:
    """The bytes that are the same in all frames, if they are asked for; others are ``??``."""
    shortest, longest = int(seen["length"].low), int(seen["longest_length"].high)
    each = [(seen[f"all{byte}"].every, seen[f"any{byte}"].any) for byte in range(shortest)]
    shown = [f"{every:02X}" if constant and every == some else "??" for every, some in each]
    return "".join(shown) + "+" * (longest > shortest)

"""Signals on one clock become rows, and each row keeps its way back to (recording, start, end).

A window is ``length_s`` of some signals on one clock, laid out as one row, signal by signal:
``acc_x_g@0 … acc_x_g@9, acc_y_g@0 …``. So each column belongs to a signal and a time. A recipe with ``coefficients``
describes each signal by its shape instead, ``acc_x_g~0 acc_x_g~1 acc_x_g~2 acc_y_g~0 …``: a few cosine coefficients
(:mod:`anomalyvae.recordings.dct`) for signals that move slowly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.recordings.clock import check_rate, resample
from anomalyvae.recordings.dct import coefficients_at, cosines
from anomalyvae.recordings.log import Log
from anomalyvae.recordings.sampling import Clock, Sampled
from anomalyvae.recordings.where import parse_where
from anomalyvae.tables.names import nearest

_BATCH_CELLS = 1 << 20  # 8 MB


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one or more recordings.

    Attributes
    ----------
    rows : pandas.DataFrame of float64, shape (n, signals * samples) or (n, signals * coefficients)
        One window per row; the columns are the recipe's.
    spans : pandas.DataFrame, shape (n, 3)
        Where each row comes from: ``recording``, ``start_s`` (its first sample) and ``end_s`` (``start_s`` plus the
        window's length), in seconds from the recording's start. Same index as ``rows``.
    units : dict of str to str
        Units of the signals that the recipe needs, as far as the recordings give them.
    without : dict of str to str
        Recordings without a window, and why they have none.
    starts : dict of str to pandas.Timestamp
        The moment (UTC) from which the times of a recording count, for recordings that give it.
    unknown : list of str, optional
        The unknown identifiers of a vehicle bus in each window, if the recipe has ``unknown.identifiers`` and the
        windows come from `stream_windows`.
    sparse : dict of str to str
        Recordings whose windows cover few of their seconds, and why; of a stream, the last batch says so.
    """

    rows: pd.DataFrame
    spans: pd.DataFrame
    units: dict[str, str] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    starts: dict[str, pd.Timestamp] = field(default_factory=dict)
    unknown: list[str] | None = None
    sparse: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: np.ndarray | slice) -> Windows:
        """Return some of the windows, in their order, by a mask or a slice."""
        rows, spans = (table[chosen].reset_index(drop=True) for table in (self.rows, self.spans))
        unknown = self.unknown and np.array(self.unknown, dtype=object)[chosen].tolist()
        return replace(self, rows=rows, spans=spans, unknown=unknown)


@dataclass(frozen=True)
class WindowRecipe:
    """How recordings become rows.

    In each stretch in which every signal is present, the first window begins at the first sample and the others follow
    every ``stride_s`` (rounded down to a tick of the clock). No window crosses a gap, and none joins two recordings. If
    cells may be ``missing``, a stretch needs only one signal that is present: a window may cross a gap of one signal,
    but never a pause of all.

    Parameters
    ----------
    signals : tuple of str
        The signals of a window, in the order of the columns.
    rate_hz : float
        Samples per second on the common clock.
    length_s : float
        Length of a window: a whole number of samples.
    stride_s : float
        From the start of one window to the start of the next; at least one sample.
    max_gap_s : float
        Two samples of a signal further apart than this are a gap; nothing is interpolated in it.
    where : str, optional
        Keep only the windows in which this holds at every sample: comparisons of a signal with a number, joined by
        ``and``, as in ``"speed_mps > 2"``. The signal need not be one of ``signals``; where it is missing, the
        condition does not hold.
    states, counts : tuple of str
        Signals, of the window or of ``where``, that are states or are counted; the others are continuous. See
        :mod:`anomalyvae.recordings.clock`.
    antialias : bool
        Whether continuous signals that are clearly faster than the clock are averaged; see there.
    missing : float
        The share of a window's cells, in [0, 1), that may be missing; they are NaN in its row. By default none.
    coefficients : int, optional
        Describe each signal of a window by its lowest cosine coefficients, this many of them (from 1 to the number of
        samples), instead of its samples. The first three are level, slope and bend; faster movements are left out. A
        signal with a missing cell in the window has NaN coefficients.

    Examples
    --------
    >>> from anomalyvae.recordings import log_from_frame
    >>> frame = pd.DataFrame({"time_s": np.arange(5.0), "x": [0.0, 1, 2, 3, 4], "y": [9.0, 8, 7, 6, 5]})
    >>> recipe = WindowRecipe(("x", "y"), rate_hz=1, length_s=2, stride_s=2, max_gap_s=1, where="x < 3")
    >>> windows = recipe.windows(log_from_frame(frame, "drive"))
    >>> windows.rows
       x@0  x@1  y@0  y@1
    0  0.0  1.0  9.0  8.0
    >>> windows.spans
      recording  start_s  end_s
    0     drive      0.0    2.0
    """

    signals: tuple[str, ...]
    rate_hz: float
    length_s: float
    stride_s: float
    max_gap_s: float
    where: str | None = None
    states: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    antialias: bool = True
    missing: float = 0.0
    coefficients: int | None = None

    def __post_init__(self) -> None:
        for option in ("signals", "states", "counts"):
            names = getattr(self, option)
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"{option}={names!r} is not a list of names. Write ['acc_x_g', …].")
            object.__setattr__(self, option, tuple(names))
        if not self.signals or len(set(self.signals)) < len(self.signals):
            raise ValueError(f"signals={self.signals!r} needs one or more distinct names. Correct the list.")
        for option in ("rate_hz", "length_s", "stride_s", "max_gap_s"):
            self._set_number(option, "a positive number", lambda number: bool(0 < number < np.inf))
        self._set_number("missing", "a share from 0 to below 1", lambda share: 0 <= share < 1)
        self._check_times()
        if self.where is not None and not isinstance(self.where, str):
            raise ValueError(f"where={self.where!r} is not text. Write a condition such as 'speed_mps > 2'.")
        parse_where(self.where)
        if not isinstance(self.antialias, bool):
            raise ValueError(f"antialias={self.antialias!r} must be true or false. Correct it.")
        self._check_kinds()
        if self.coefficients is not None:
            expected = f"a whole number from 1 to {self.samples}, the samples of a window, or nothing"
            self._set_number("coefficients", expected, self._are_coefficients, int)

    def _are_coefficients(self, count: Any) -> bool:
        return isinstance(count, (int, np.integer)) and bool(1 <= count <= self.samples)

    def _set_number(
        self, option: str, expected: str, fits: Callable[[Any], bool], kind: Callable[[Any], Any] = float
    ) -> None:
        value = getattr(self, option)
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not fits(value):
            raise ValueError(f"{option}={value!r} must be {expected}. Correct it.")
        object.__setattr__(self, option, kind(value))

    def _check_times(self) -> None:
        check_rate(self.rate_hz, self.max_gap_s)
        ticks = self.length_s * self.rate_hz
        if round(ticks) < 1 or abs(ticks - round(ticks)) > 1e-6:
            raise ValueError(
                f"length_s={self.length_s:g} is {ticks:g} samples at rate_hz={self.rate_hz:g}; a window has a whole "
                f"number of samples. Use length_s={max(round(ticks), 1) / self.rate_hz:g}."
            )
        if self.stride_s * self.rate_hz < 1 - 1e-6:
            raise ValueError(
                f"stride_s={self.stride_s:g} is less than one sample at rate_hz={self.rate_hz:g}. "
                f"Use stride_s={1 / self.rate_hz:g} or more."
            )

    def _check_kinds(self) -> None:
        for option in ("states", "counts"):
            for name in getattr(self, option):
                if name not in self.needed:
                    raise ValueError(
                        f"{option}={getattr(self, option)!r} has {name!r}, which is a signal neither of the window nor "
                        f"of where. {nearest(name, self.needed)}"
                    )
        both = [name for name in self.states if name in self.counts]
        if both:
            raise ValueError(f"{both[0]!r} is in states and in counts; a signal is one of the two. Choose.")

    @property
    def clock(self) -> Clock:
        """The clock, and how signals are sampled on it."""
        return Clock(self.rate_hz, self.max_gap_s, self.states, self.counts, self.antialias)

    @property
    def samples(self) -> int:
        """Samples per signal in a window."""
        return round(self.length_s * self.rate_hz)

    @property
    def input_shape(self) -> tuple[int, int]:
        """The shape (signals, samples) or (signals, coefficients) of a row: ``rows.reshape(n, *input_shape)``.

        Neighbouring samples are near in time; coefficients are no sequence, so they are for ``body="mlp"``.
        """
        return len(self.signals), self.samples if self.coefficients is None else self.coefficients

    @property
    def columns(self) -> list[str]:
        """Names of a row's columns, signal by signal: ``signal@sample``, or ``signal~coefficient``."""
        mark, (_, width) = "@" if self.coefficients is None else "~", self.input_shape
        return [f"{signal}{mark}{index}" for signal in self.signals for index in range(width)]

    @property
    def needed(self) -> list[str]:
        """Every signal that a recording must have: those of the window and those of ``where``."""
        return list(dict.fromkeys([*self.signals, *(comparison.signal for comparison in parse_where(self.where))]))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, ready for JSON or TOML."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowRecipe:
        """Build a recipe from plain values; the error for an unknown key suggests the nearest one.

        Without the key ``antialias`` nothing is averaged: recipes that were saved before that key existed keep their
        meaning.
        """
        known = {option.name: option.default for option in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise ValueError(f"A window recipe has no key {key!r}. {nearest(key, known)}")
        lacking = [key for key, default in known.items() if default is dataclasses.MISSING and key not in values]
        if lacking:
            raise ValueError(f"The window recipe lacks {', '.join(lacking)}. Add them.")
        return cls(**{"antialias": False, **values})

    def over_time(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as signals over time, in the signals' own units.

        Parameters
        ----------
        rows : ndarray of shape (n, d)
            With the recipe's columns: windows, or a model's reconstructions of them.

        Returns
        -------
        ndarray of shape (n, signals, samples)
            For coefficients, the smooth curve that has them.
        """
        folded = rows.reshape(len(rows), *self.input_shape)
        return folded if self.coefficients is None else folded @ cosines(self.samples, self.coefficients)

    def coefficients_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the cosine coefficients of windows of samples, with the same bits as those cut from a recording.

        Parameters
        ----------
        samples : ndarray of shape (n, signals, samples)

        Returns
        -------
        ndarray of shape (n, signals, coefficients)
        """
        values = samples.transpose(0, 2, 1).reshape(-1, samples.shape[1])
        starts = np.arange(len(samples)) * self.samples
        return coefficients_at(values, starts, cosines(self.samples, self.coefficients or self.samples))

    def ticks(self, log: Log) -> pd.DataFrame:
        """Put the needed signals of a recording on the clock, by :func:`~anomalyvae.recordings.resample`."""
        return resample(log, signals=self.needed, **self.clock._asdict())

    def windows(self, log: Log) -> Windows:
        """Cut a recording into windows; there are none if it is too short or the condition never holds.

        Raises ValueError if the recording lacks a signal; the message suggests the nearest name.
        """
        units = {name: log[name].unit for name in self.needed if log[name].unit}
        return next(Cutter(self, log.recording, units).add(self.ticks(log)), self.no_windows(units))

    def batches(
        self, pieces: Iterable[Sampled | pd.DataFrame], recording: str, units: dict[str, str], most: int
    ) -> Iterator[Windows]:
        """Cut the ticks of a recording, which come piece by piece, into batches of windows.

        Parameters
        ----------
        pieces : iterable of DataFrame or dict of str to numpy.ndarray
            Consecutive rows of what :meth:`ticks` returns.
        recording : str
            Name of the recording.
        units : dict of str to str
            Units of its signals.
        most : int
            The most windows in a batch; fewer if they are wide, so that a batch takes 8 MB at most.

        Yields
        ------
        Windows
            In order, together those of the whole recording. If it has none, one batch without rows.
        """
        cutter, empty = Cutter(self, recording, units, most), True
        for piece in pieces:
            for batch in cutter.add(piece):
                empty = False
                yield batch
        if empty:
            yield self.no_windows(units)

    def no_windows(self, units: dict[str, str] | None = None) -> Windows:
        """Return windows of this recipe without a row."""
        return Cutter(self, "", units or {}).batch({}, np.empty(0, dtype=np.int64))


class Cutter:
    """Cuts the ticks of a recording, which come piece by piece, into windows; see `WindowRecipe.batches`.

    Of a stretch that may go on in the next piece, it keeps as many ticks as a window has. Overlapping windows hold a
    recording many times, so only ``most`` of them are in memory at once, or those of 8 MB.
    """

    def __init__(self, recipe: WindowRecipe, recording: str, units: dict[str, str], most: int | None = None) -> None:
        self._recipe, self._conditions = recipe, parse_where(recipe.where)
        self._recording, self._units = recording, units
        self._most = None if most is None else max(min(most, _BATCH_CELLS // len(recipe.columns)), 1)
        self._kept: Sampled = {name: np.empty(0) for name in ("time_s", *recipe.needed)}
        self._gone = self._made = 0  # of the stretch that may go on: ticks before those kept, and windows

    def add(self, piece: Sampled | pd.DataFrame) -> Iterator[Windows]:
        """Yield the windows that end in a piece, a batch at a time."""
        ticks = {name: np.concatenate((old, np.asarray(piece[name]))) for name, old in self._kept.items()}
        if not len(ticks["time_s"]):
            return
        starts = self._starts(ticks)
        most = self._most or max(len(starts), 1)
        for begin in range(0, len(starts), most):
            yield self.batch(ticks, starts[begin : begin + most])

    def _starts(self, ticks: Sampled) -> np.ndarray:
        """Return the index of the tick at which each new window begins, and keep the ticks that may go on."""
        time_s, recipe = ticks["time_s"], self._recipe
        lacking = np.zeros(len(time_s), dtype=np.int64)  # missing signals at each tick
        for name in recipe.signals:
            lacking += ~np.isfinite(ticks[name])
        present = lacking < len(recipe.signals) if recipe.missing else lacking == 0
        even = np.diff(time_s) * recipe.rate_hz < 1.5  # the next row is the next tick
        begins = present & np.concatenate(([True], ~(present[:-1] & even)))
        ends = present & np.concatenate((~(present[1:] & even), [True]))
        first, last = np.flatnonzero(begins), np.flatnonzero(ends)  # of each stretch
        gone, made = np.zeros_like(first), np.zeros_like(first)
        if len(self._kept["time_s"]):
            gone[0], made[0] = self._gone, self._made

        length = gone + last - first + 1
        room = length - recipe.samples  # from the first to the last possible start of a window in the stretch
        stride = recipe.stride_s * recipe.rate_hz
        count = np.where(room >= 0, np.ceil((room + 1 - 1e-6) / stride), 0).astype(np.int64)
        new = count - made
        number = np.arange(new.sum()) + np.repeat(made - (np.cumsum(new) - new), new)
        starts = np.repeat(first - gone, new) + np.floor(number * stride + 1e-6).astype(np.int64)

        kept = min(int(last[-1] - first[-1]) + 1, recipe.samples) if present[-1] else 0
        self._kept = {name: values[len(values) - kept :].copy() for name, values in ticks.items()}
        self._gone, self._made = (int(length[-1]) - kept, int(count[-1])) if kept else (0, 0)

        fails = np.zeros(len(time_s), dtype=bool)
        for comparison in self._conditions:
            fails |= ~comparison.holds(ticks[comparison.signal])
        cells = len(recipe.signals) * recipe.samples
        enough = self._total(lacking, starts) <= recipe.missing * cells + 1e-6
        return starts[enough & (self._total(fails, starts) == 0)]

    def _total(self, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the sum of whole numbers over the windows with these starts."""
        before = np.concatenate(([0], np.cumsum(values)))
        return before[starts + self._recipe.samples] - before[starts]

    def batch(self, ticks: Sampled, starts: np.ndarray) -> Windows:
        """Return the windows that begin at these ticks, in order."""
        recipe, samples = self._recipe, self._recipe.samples
        start_s, rows = np.empty(0), np.empty((len(starts), *recipe.input_shape))
        if len(starts):
            start_s, first, last = ticks["time_s"][starts], starts[0], starts[-1] + samples
            if recipe.coefficients is None:
                for channel, name in enumerate(recipe.signals):
                    rows[:, channel] = np.lib.stride_tricks.sliding_window_view(ticks[name], samples)[starts]
            else:
                values = np.column_stack([ticks[name][first:last] for name in recipe.signals])
                rows = coefficients_at(values, starts - first, cosines(samples, recipe.coefficients))
        spans = pd.DataFrame({"start_s": start_s, "end_s": start_s + recipe.length_s})
        spans.insert(0, "recording", pd.Series(self._recording, index=spans.index, dtype="str"))
        table = pd.DataFrame(rows.reshape(len(starts), len(recipe.columns)), columns=recipe.columns, copy=False)
        return Windows(table, spans, self._units)
